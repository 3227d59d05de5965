"""Small RRF folders for tests, built row by row from named columns."""

from __future__ import annotations

import gzip
import io
import random
import zipfile
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from kgkit.sources.rrf import COLUMNS


class Rrf:
    """Rows of RRF tables; every method adds one row, `write` makes the folder."""

    def __init__(self) -> None:
        self.tables: dict[str, list[list[str]]] = {}
        self._atoms = 0

    def row(self, table: str, values: Mapping[str, str]) -> Rrf:
        columns = COLUMNS[table].split()
        assert set(values) <= set(columns), set(values) - set(columns)
        self.tables.setdefault(table, []).append([values.get(column, "") for column in columns])
        return self

    def atom(
        self, cui: str, name: str, sab: str = "TST", tty: str = "PT", code: str = "", values: Mapping[str, str] = {}
    ) -> Rrf:
        """A name; `values` replaces any other column (LAT, SUPPRESS, TS, ...)."""
        self._atoms += 1
        usual = {"LAT": "ENG", "TS": "P", "STT": "PF", "ISPREF": "Y", "SRL": "0", "SUPPRESS": "N"}
        own = {"CUI": cui, "STR": name, "SAB": sab, "TTY": tty, "CODE": code or f"T{self._atoms}"}
        return self.row("MRCONSO", usual | {"AUI": f"A{self._atoms:07}"} | own | dict(values))

    def relation(self, cui1: str, rel: str, cui2: str, rela: str = "", values: Mapping[str, str] = {}) -> Rrf:
        """A row of MRREL in file order; it reads cui2 rela cui1."""
        own = {"CUI1": cui1, "REL": rel, "CUI2": cui2, "RELA": rela}
        return self.row("MRREL", {"SAB": "TST", "SUPPRESS": "N"} | own | dict(values))

    def definition(self, cui: str, text: str, values: Mapping[str, str] = {}) -> Rrf:
        return self.row("MRDEF", {"CUI": cui, "DEF": text, "SAB": "TST", "SUPPRESS": "N"} | dict(values))

    def semantic_type(self, cui: str, tui: str) -> Rrf:
        return self.row("MRSTY", {"CUI": cui, "TUI": tui})

    def inverse(self, relation: str, inverse: str) -> Rrf:
        """The two rows by which MRDOC documents a pair of inverse relations."""
        for name, other in ((relation, inverse), (inverse, relation)):
            self.row("MRDOC", {"DOCKEY": "RELA", "VALUE": name, "TYPE": "rela_inverse", "EXPL": other})
        return self

    def describe(self) -> Rrf:
        """Add MRFILES, as it describes the other tables with LF line ends."""
        self.tables.pop("MRFILES", None)
        for name, data in self.files().items():
            if name.startswith("SR"):
                continue  # the Semantic Network has a list of its own
            columns = COLUMNS[name.removesuffix(".RRF")].split()
            values = {"FIL": name, "FMT": ",".join(columns), "CLS": str(len(columns))}
            self.row("MRFILES", values | {"RWS": str(data.count(b"\n")), "BTS": str(len(data))})
        return self

    def files(self, line_end: str = "\n", shuffle: int | None = None) -> dict[str, bytes]:
        """File name -> content; `shuffle` seeds another order of the rows."""
        files = {}
        for table, rows in self.tables.items():
            ordered = rows if shuffle is None else random.Random(shuffle).sample(rows, len(rows))
            text = "".join("".join(f"{field}|" for field in row) + line_end for row in ordered)
            files[table if table.startswith("SR") else f"{table}.RRF"] = text.encode()
        return files

    def write(self, folder: Path, line_end: str = "\n", gzipped: bool = False, shuffle: int | None = None) -> Path:
        """Write the tables; `shuffle` seeds another order of their rows."""
        files = self.files(line_end, shuffle)
        return write_files(folder, gzipped_files(files) if gzipped else files)


def write_files(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Write files below a folder; names may hold folders."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def gzipped_files(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Every file gzipped on its own."""
    return {f"{name}.gz": gzip.compress(data, mtime=0) for name, data in files.items()}


def pieces(name: str, data: bytes, cuts: Sequence[int], suffix: str = ".gz") -> dict[str, bytes]:
    """A file cut at positions (in any order) into `<name>.aa.gz`, `<name>.ab.gz`, ..."""
    bounds = [0, *sorted(cuts), len(data)]
    return {f"{name}.a{chr(ord('a') + i)}{suffix}": data[start:end] for i, (start, end) in enumerate(pairwise(bounds))}


def zipped(files: Mapping[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    """The files in a zip, by their paths."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return stream.getvalue()


def below(folder: str, files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The files below a folder."""
    return {f"{folder}/{name}": data for name, data in files.items()}


def nlm_files(rrf: Rrf, release: str = "2026AA") -> dict[str, bytes]:
    """The tables as `<release>-full` has them: two `.nlm` archives with pieces, one with the Semantic Network."""
    files = rrf.files()
    network: dict[str, bytes] = {name: files.pop(name) for name in ("SRDEF", "SRSTR") if name in files}
    relations = {name: files.pop(name) for name in ("MRREL.RRF",) if name in files}
    first = gzipped_files({name: data for name, data in files.items() if name != "MRCONSO.RRF"})
    names = gzip.compress(files["MRCONSO.RRF"], mtime=0)
    first |= pieces("MRCONSO.RRF", names, [len(names) // 3, len(names) // 2])
    second: dict[str, bytes] = {}
    for name, data in relations.items():
        halves = [data[: len(data) // 2], data[len(data) // 2 :]]
        second |= {
            f"{name}.a{letter}.gz": gzip.compress(half, mtime=0) for letter, half in zip("ab", halves, strict=True)
        }
    inner = {"1-meta": below(f"{release}/META", first), "2-meta": below(f"{release}/META", second)}
    inner["otherks"] = below(f"{release}/NET", network)
    return {f"{release.lower()}-{name}.nlm": zipped(content) for name, content in inner.items()}


def tiny_rrf() -> Rrf:
    """A dozen concepts of the chest with every kind of row that a reader must tell apart."""
    rrf = Rrf()
    rrf.row("MRSAB", {"RSAB": "TST", "SVER": "2026-01", "VSAB": "TST2026", "SON": "Test vocabulary", "CURVER": "Y"})
    rrf.row("MRSAB", {"RSAB": "HPO", "SVER": "2025-01-16", "SON": "Human Phenotype Ontology", "CURVER": "Y"})
    rrf.row("MRSAB", {"RSAB": "HPO", "SVER": "1999", "SON": "An old version", "CURVER": "N"})
    rrf.atom("C0032227", "Pleural Effusion", "HPO", code="HP:0002202")
    rrf.atom("C0032227", "Effusion, Pleural", "TST", values={"ISPREF": "N"})
    rrf.atom("C0032227", "PLEFF", "HPO", "AB", code="HP:0002202")
    rrf.atom("C0032227", "derrame pleural", values={"LAT": "SPA"})
    rrf.atom("C0013687", "Effusion").atom("C0032225", "Pleura", code="x y%20z")
    rrf.atom("C0024109", "Lung", code='a"b\\c[d]?e#f').atom("C0032285", "Pneumonia").atom("C0521530", "Consolidation")
    rrf.atom("C1261075", "Upper lobe").atom("C0018802", "Congestive heart failure").atom("C0018802", "CHF", tty="AB")
    rrf.atom("C0000921", "Accidental Falls").atom("C0417093", "Fall from viaduct")
    rrf.atom("C9000001", 'A "minted" one \\ with a back slash', code="NOCODE").atom("C0040132", "Thyroïde ✓ 🫁")
    rrf.semantic_type("C0032227", "T047").semantic_type("C0032227", "T046").semantic_type("C0032225", "T023")
    rrf.semantic_type("C0024109", "T023").semantic_type("C0032285", "T047").semantic_type("C0018802", "T047")
    rrf.definition("C0032227", 'Fluid in the "pleural" space\\cavity.').definition("C0032285", "Infection of the lung.")
    rrf.definition("C0032285", "Eine Lungenentzündung \u2028 über zwei Zeilen.", {"SAB": "HPO"})
    for one, rel, two, name, back, other in (
        ("C0013687", "CHD", "C0032227", "isa", "PAR", "inverse_isa"),
        ("C0000921", "CHD", "C0417093", "isa", "PAR", "inverse_isa"),
        ("C0032225", "RO", "C0032227", "has_finding_site", "RO", "finding_site_of"),
        ("C0024109", "RO", "C0032285", "has_finding_site", "RO", "finding_site_of"),
        ("C0024109", "RO", "C1261075", "part_of", "RO", "has_part"),
        ("C0032225", "RO", "C0024109", "adjacent_to", "RO", "adjacent_to"),
        ("C0032227", "RO", "C0018802", "cause_of", "RO", "due_to"),
        ("C0521530", "RO", "C0032285", "disease_may_have_finding", "RO", "may_be_finding_of_disease"),
        ("C0032227", "RO", "C0521530", "disease_excludes_finding", "RO", "is_not_finding_of_disease"),
    ):
        rrf.relation(one, rel, two, name).relation(two, back, one, other)
    rrf.inverse("disease_may_have_finding", "may_be_finding_of_disease")
    rrf.inverse("disease_excludes_finding", "is_not_finding_of_disease")
    rrf.relation("C0032285", "RO", "C0521530", "associated_with", {"SAB": "HPO"})
    return rrf
