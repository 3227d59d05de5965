"""How fast is an ingest, against what it cannot beat and against rdflib? Ratios of one run, one machine.

    python benchmarks/ingest.py ontologies/thorax

Prints the seconds of the ingest, of its floor (reading and filtering the same tables with polars, and bulk-loading the
same N-Quads into Oxigraph, measured apart) and of rdflib parsing the same quads, then the ratios.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pyoxigraph as ox
import rdflib

from kgkit.graph.quads import read_quads
from kgkit.graph.store import ingest
from kgkit.sources.base import IngestLog
from kgkit.sources.rrf import COLUMNS
from kgkit.sources.umls import read_umls

TABLES = {"MRCONSO": ["CUI", "LAT", "SAB", "STR", "SUPPRESS"], "MRREL": ["CUI1", "CUI2", "REL", "RELA", "SAB"]}


def seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """The least of some runs: the machine may be busy with other work."""
    best = float("inf")
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - begin)
    return best


def read_and_filter(folder: Path) -> None:
    """The floor of reading: the needed columns of the two large tables, with a filter on each."""
    for table, wanted in TABLES.items():
        path = next(folder.glob(f"{table}.RRF*"))
        names = [*COLUMNS[table].split(), "end"]
        rows = pl.read_csv(path, separator="|", quote_char=None, has_header=False, new_columns=names,
                           schema_overrides=dict.fromkeys(names, pl.String))  # fmt: skip
        rows.select(wanted).filter(pl.col("SAB") != "SRC")


def main(folder: Path) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "kg"

        def fresh() -> None:
            shutil.rmtree(out, ignore_errors=True)
            log = IngestLog()
            ingest(out, read_umls(folder, log), log)

        ours = seconds(fresh)
        quads = next((out / "quads").glob("*.nq.zst"))
        text = read_quads(quads).read()
        stores = iter(range(100))

        def bulk_load() -> None:
            store = ox.Store(str(Path(scratch) / f"store{next(stores)}"))
            store.bulk_load(text, format=ox.RdfFormat.N_QUADS)

        floor_read = seconds(lambda: read_and_filter(folder))
        floor_load = seconds(bulk_load)
        in_rdflib = seconds(lambda: rdflib.Dataset().parse(data=text, format="nquads"), repeats=1)
    statements = text.count(b"\n")
    print(f"ingest {ours:.2f} s, {statements:,} statements")
    print(f"polars read and filter {floor_read:.2f} s, Oxigraph bulk load {floor_load:.2f} s")
    print(f"rdflib parse {in_rdflib:.2f} s")
    print(f"ingest / (4 x read + 1.3 x load) = {ours / (4 * floor_read + 1.3 * floor_load):.2f}, 1 or less is the goal")
    print(f"rdflib / ingest = {in_rdflib / ours:.1f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
