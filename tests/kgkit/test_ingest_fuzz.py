"""Damaged tables: an error that names the place, or a counted skip and a graph that is right; never anything else."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import numpy as np
import polars as pl
from hypothesis import example, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from rrf import Rrf, tiny_rrf

from kgkit.errors import InputError
from kgkit.graph.derive import tables_from_quads
from kgkit.graph.quads import source_lines, write_quads
from kgkit.sources.base import IngestLog, SourceTables, decode_table
from kgkit.sources.umls import read_umls
from kgkit.views.build import build_views
from kgkit.views.triples import open_triples

VIEWS = ("concepts", "names", "relations", "triples", "retired")


def assert_right(tables: SourceTables) -> None:
    """What holds of every graph: views as the RDF gives them, no dangling row, facts in one direction."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build_views([tables], folder / "direct")
        write_quads(source_lines(tables), folder / "quads")
        entry = {"name": tables.name, "release": tables.release, "graphs": [vars(graph) for graph in tables.graphs]}
        build_views([tables_from_quads(folder / "quads", entry)], folder / "derived")
        for view in VIEWS:
            frames = [pl.read_parquet(folder / way / f"{view}.parquet") for way in ("direct", "derived")]
            assert_frame_equal(*frames)
        facts = open_triples(folder / "direct")
    assert len(np.unique(facts.triples, axis=0)) == len(facts.triples)
    assert not (facts.triples[:, 0] == facts.triples[:, 2]).any()
    concepts = set(decode_table(tables, "concepts")["concept"])
    edges = decode_table(tables, "edges")
    assert {*edges["head"], *edges["tail"], *decode_table(tables, "names")["concept"]} <= concepts
    assert not [name for name in tables.relations if name.startswith("inverse_")]


def outcome(folder: Path) -> tuple[SourceTables, IngestLog] | str:
    log = IngestLog()
    try:
        tables = read_umls(folder, log)
    except InputError as error:
        return str(error)
    assert_right(tables)
    return tables, log


TABLES = sorted(tiny_rrf().tables)
CUTS = st.tuples(st.sampled_from(TABLES), st.floats(0, 1))
KINDS = [("CHD", "isa"), ("PAR", "inverse_isa"), ("SIB", ""), ("RO", "part_of"), ("RO", "has_part"), ("RB", ""),
         ("SY", ""), ("RO", "adjacent_to"), ("", ""), ("RO", "a_excludes_b")]  # fmt: skip
HOSTILE = st.sampled_from(
    [b"|", b"\n", b'"', b"\r\n", b"\xff", b"\xe2\x80\xa8", b"\x00", b"C0000000|", b"'", b"||||", b"\\"]
)


@settings(max_examples=60)
@given(CUTS, HOSTILE, st.integers(0, 3))
@example(("MRREL", 0.999), b"", 4)
def test_a_damaged_table_is_an_error_or_counted(where: tuple[str, float], damage: bytes, remove: int) -> None:
    table, at = where
    with tempfile.TemporaryDirectory() as name:
        folder = tiny_rrf().write(Path(name))
        path = folder / f"{table}.RRF"
        data = path.read_bytes()
        place = int(at * len(data))
        path.write_bytes(data[:place] + damage + data[place + remove :])
        found = outcome(folder)
    if isinstance(found, str):
        assert table in found
        assert "\n" not in found


@settings(max_examples=40)
@given(CUTS)
def test_a_truncated_table_is_never_taken_for_whole(where: tuple[str, float]) -> None:
    table, at = where
    with tempfile.TemporaryDirectory() as name:
        folder = tiny_rrf().write(Path(name))
        path = folder / f"{table}.RRF"
        data = path.read_bytes()
        cut = data[: int(at * len(data))]
        path.write_bytes(cut)
        found = outcome(folder)
    if cut and not cut.endswith((b"\n", b"|")):
        assert isinstance(found, str)
        assert "truncated" in found or "not a " in found


@settings(max_examples=40)
@given(st.sets(st.sampled_from(TABLES)))
def test_missing_tables_leave_their_part_out(missing: set[str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = tiny_rrf().write(Path(name))
        for table in missing:
            (folder / f"{table}.RRF").unlink()
        found = outcome(folder)
    assert isinstance(found, str) == ("MRCONSO" in missing)
    if not isinstance(found, str):
        tables, _ = found
        empty = {"MRREL": tables.edges, "MRSTY": tables.types, "MRDEF": tables.definitions}
        for table, frame in empty.items():
            assert frame.is_empty() == (table in missing)


@settings(max_examples=25)
@given(st.integers(0, 2**32))
def test_any_mixture_of_duplicate_cyclic_and_dangling_relations_gives_a_right_graph(seed: int) -> None:
    draw = random.Random(seed)
    rrf = Rrf()
    cuis = [f"C000000{n}" for n in range(1, 8)]
    for cui in cuis[:5]:
        rrf.atom(cui, f"name {cui}", draw.choice(["TST", "ABC", "SRC"]), values={"SUPPRESS": draw.choice("NNNO")})
    rrf.atom(cuis[0], "kept")
    for _ in range(draw.randrange(60)):
        rel, rela = draw.choice(KINDS)
        rrf.relation(draw.choice(cuis), rel, draw.choice(cuis), rela, {"SAB": draw.choice(["TST", "ABC", "XYZ"])})
    with tempfile.TemporaryDirectory() as name:
        found = outcome(rrf.write(Path(name)))
    assert not isinstance(found, str)
    tables, log = found
    skipped = sum(count for reason, count in log.skipped.items() if reason.startswith("MRREL"))
    assert log.rows_read["MRREL"] == len(tables.edges) + skipped
