"""How fast is an ingest, against what it cannot beat and against rdflib? Ratios of one run, one machine.

    python benchmarks/ingest.py FOLDER [--repeats 3] [--without-rdflib]

FOLDER is a META folder (plain or gzipped). Prints the seconds of the ingest (reading, quads, digest, views, store), of
its floor (reading and filtering the same tables with polars; bulk-loading the same N-Quads into Oxigraph, measured
apart) and of rdflib parsing the same N-Quads into its memory store, then the ratios. rdflib reads a tenth of more than
two million statements, and its time is scaled up.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
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

TABLES = {
    "MRCONSO": ["CUI", "LAT", "TS", "STT", "ISPREF", "AUI", "SAB", "TTY", "CODE", "STR", "SRL", "SUPPRESS"],
    "MRREL": ["CUI1", "CUI2", "REL", "RELA", "SAB", "DIR", "SUPPRESS"],
    "MRSTY": ["CUI", "TUI"],
    "MRDEF": ["CUI", "SAB", "DEF", "SUPPRESS"],
}
"""The columns that an ingest needs."""
RDFLIB_LIMIT = 2_000_000


def seconds(work: Callable[[], object], repeats: int) -> float:
    """The least of some runs: the machine may be busy with other work."""
    best = float("inf")
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - begin)
    return best


def read_and_filter(folder: Path) -> None:
    """The floor of reading: the needed columns of the tables, with a filter on each."""
    for table, wanted in TABLES.items():
        path = next(folder.glob(f"{table}.RRF*"), None)
        if path is None:
            continue
        names = [*COLUMNS[table].split(), "end"]
        rows = pl.scan_csv(path, separator="|", quote_char=None, has_header=False,
                           schema=dict.fromkeys(names, pl.String), empty_string_is_null=False)  # fmt: skip
        rows.select(wanted).filter(pl.col(wanted[-1]) != "O").collect()


def main(folder: Path, repeats: int, with_rdflib: bool) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "kg"

        def fresh() -> None:
            shutil.rmtree(out, ignore_errors=True)
            log = IngestLog()
            ingest(out, read_umls(folder, log), log)

        ours = seconds(fresh, repeats)
        quads = next((out / "quads").glob("*.nq.zst"))
        stores = itertools.count()

        def bulk_load() -> None:
            path = Path(scratch) / f"store{next(stores)}"
            with read_quads(quads) as stream:
                store = ox.Store(str(path))
                store.bulk_load(stream, format=ox.RdfFormat.N_QUADS)
                store.flush()
                del store
            shutil.rmtree(path)

        floor_read = seconds(lambda: read_and_filter(folder), repeats)
        floor_load = seconds(bulk_load, repeats)
        with read_quads(quads) as stream:
            statements = sum(1 for _ in stream)
        print(f"ingest {ours:.2f} s, {statements:,} statements, {statements / ours:,.0f} a second")
        print(f"polars read and filter {floor_read:.2f} s, Oxigraph bulk load {floor_load:.2f} s")
        goal = 4 * floor_read + 1.3 * floor_load
        print(f"ingest / (4 x read + 1.3 x load) = {ours / goal:.2f}, 1 or less is the goal")
        if with_rdflib:
            part = 1 if statements <= RDFLIB_LIMIT else 10
            with read_quads(quads) as stream:
                text = b"".join(itertools.islice(stream, 0, None, part)).decode()
            in_rdflib = part * seconds(lambda: rdflib.Dataset().parse(data=text, format="nquads"), 1)
            print(f"rdflib parse {in_rdflib:.1f} s{'' if part == 1 else ' (scaled from a tenth)'}")
            print(f"rdflib / ingest = {in_rdflib / ours:.1f}, 6 or more is the goal")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--without-rdflib", action="store_true")
    options = parser.parse_args()
    main(options.folder, options.repeats, not options.without_rdflib)
