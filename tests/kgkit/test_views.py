"""Columnar views: what the graph says, in sorted ids, without what denies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from graphs import ingest_umls
from rrf import Rrf

from kgkit.encoder.artifact import CONCEPT_COLUMNS
from kgkit.errors import InputError
from kgkit.graph.store import KnowledgeGraph
from kgkit.views.triples import open_triples

FACTS = {
    ("C0032227", "isa", "C0013687"),
    ("C0417093", "isa", "C0000921"),
    ("C0032227", "has_finding_site", "C0032225"),
    ("C0032285", "has_finding_site", "C0024109"),
    ("C1261075", "part_of", "C0024109"),
    ("C0024109", "adjacent_to", "C0032225"),
    ("C0032227", "due_to", "C0018802"),
    ("C0032285", "disease_may_have_finding", "C0521530"),
    ("C0032285", "associated_with", "C0521530"),  # symmetric, so the smaller id is the head
}


def view(folder: Path, name: str) -> pl.DataFrame:
    return pl.read_parquet(KnowledgeGraph(folder).views / f"{name}.parquet")


def concept(folder: Path, cui: str) -> dict[str, object]:
    (row,) = view(folder, "concepts").filter(pl.col("concept") == f"umls:{cui}").to_dicts()
    return row


def test_triples_are_the_facts_once_each_and_without_those_that_deny(tiny_kg_dir: Path) -> None:
    triples = open_triples(KnowledgeGraph(tiny_kg_dir).views)
    found = [(triples.concepts[h][5:], triples.relations[r], triples.concepts[t][5:]) for h, r, t in triples.triples]
    assert sorted(found) == sorted(FACTS)
    assert KnowledgeGraph(tiny_kg_dir).query("ASK { umls:C0521530 rela:disease_excludes_finding umls:C0032227 }")


def test_ids_are_positions_in_sorted_vocabularies(tiny_kg_dir: Path) -> None:
    triples = open_triples(KnowledgeGraph(tiny_kg_dir).views)
    assert list(triples.concepts) == sorted(set(triples.concepts))
    assert list(triples.relations) == sorted(set(triples.relations))
    assert triples.triples.dtype == np.int64
    assert triples.triples.shape == (len(FACTS), 3)
    assert np.array_equal(np.unique(triples.triples, axis=0), triples.triples)
    assert (triples.num_concepts, triples.num_relations) == (len(triples.concepts), len(triples.relations))
    sizes = [len(triples.concepts), len(triples.relations), len(triples.concepts)]
    assert (triples.triples < sizes).all()


def test_a_row_of_concepts_gathers_what_all_vocabularies_say(tiny_kg_dir: Path) -> None:
    assert concept(tiny_kg_dir, "C0032227") == {
        "concept": "umls:C0032227",
        "name": "Pleural Effusion",
        "semantic_types": ["T046", "T047"],
        "definition": 'Fluid in the "pleural" space\\cavity.',
        "codes": ["HP:0002202", "bioportal:TST/T2"],
        "parents": ["umls:C0013687"],
        "is_placeholder": False,
        "members": ["umls:C0032227"],
    }
    minted = concept(tiny_kg_dir, "C9000001")
    assert minted["is_placeholder"] is True
    assert (minted["codes"], minted["parents"], minted["semantic_types"], minted["definition"]) == ([], [], [], None)


def test_concepts_have_the_columns_that_an_encoder_reads(tiny_kg_dir: Path) -> None:
    frame = view(tiny_kg_dir, "concepts")
    assert set(CONCEPT_COLUMNS) <= set(frame.columns)
    assert frame["concept"].to_list() == sorted(set(frame["concept"]))
    assert frame["name"].null_count() == 0


def test_every_name_stands_once_per_source_and_one_is_preferred(tiny_kg_dir: Path) -> None:
    names = view(tiny_kg_dir, "names")
    assert not names.select("concept", "name", "language", "source").is_duplicated().any()
    preferred = names.filter("is_preferred").select("concept", "name").unique()
    assert preferred["concept"].is_unique().all()
    assert dict(preferred.rows()) == dict(view(tiny_kg_dir, "concepts").select("concept", "name").rows())
    rows = names.filter(pl.col("concept") == "umls:C0018802").select(
        "name", "source", "is_abbreviation", "is_preferred"
    )
    assert rows.rows() == [("CHF", "TST", True, False), ("Congestive heart failure", "TST", False, True)]


def test_a_concept_without_a_name_in_english_is_called_in_another_language(tmp_path: Path) -> None:
    rrf = (
        Rrf()
        .atom("C0000001", "pulmón", values={"LAT": "SPA"})
        .atom("C0000002", "zzz")
        .atom("C0000002", "aaa", values={"LAT": "SPA"})
    )
    ingest_umls(rrf.write(tmp_path / "META"), tmp_path / "kg", languages=("ENG", "SPA"))
    assert dict(view(tmp_path / "kg", "concepts").select("concept", "name").rows()) == {
        "umls:C0000001": "pulmón",
        "umls:C0000002": "zzz",
    }


def test_a_graph_without_relations_has_an_empty_view_of_triples(tmp_path: Path) -> None:
    ingest_umls(Rrf().atom("C0000001", "a").write(tmp_path / "META"), tmp_path / "kg")
    triples = open_triples(KnowledgeGraph(tmp_path / "kg").views)
    assert triples.triples.shape == (0, 3)
    assert (triples.concepts, triples.relations) == (("umls:C0000001",), ())


def test_missing_views_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"views: the views are missing; ingest any source again to rebuild the views"):
        open_triples(tmp_path / "views")


@pytest.mark.parametrize("view", ["concepts", "names", "relations", "triples", "retired"])
def test_damaged_views_are_said_by_every_command_and_made_again_by_an_ingest(
    tmp_path: Path, command: Callable[..., tuple[int, str, str]], view: str
) -> None:
    rrf = Rrf().atom("C0000001", "a").atom("C0000002", "b").relation("C0000001", "C0000002", "CHD", "isa")
    source = rrf.write(tmp_path / "META")
    ingest_umls(source, tmp_path / "kg")
    path = KnowledgeGraph(tmp_path / "kg").views / f"{view}.parquet"
    whole = path.read_bytes()
    lines = [
        ("info", tmp_path / "kg"),
        ("diff", tmp_path / "kg", tmp_path / "kg"),
        ("show", tmp_path / "kg", "umls:C0000001"),
    ]
    lines += [("export", tmp_path / "kg", "--format", kind, "--out", tmp_path / kind) for kind in ("neo4j", "pykeen")]
    for content in (whole[: len(whole) // 2], None):
        path.unlink() if content is None else path.write_bytes(content)
        ends = [command("kgkit", *line) for line in lines]
        for code, _, problem in ends:
            assert code in (0, 1)  # not every command reads every view
            assert problem.count("\n") == code
            assert "ingest any source again to rebuild the views" in problem or not code
        assert any(code for code, _, _ in ends)
    ingest_umls(source, tmp_path / "kg")
    assert path.read_bytes() == whole


def test_sources_that_chose_two_sides_of_a_relation_agree_in_the_view(tmp_path: Path) -> None:
    one, other = Rrf(), Rrf()
    for rrf in (one, other):
        rrf.atom("C0000001", "a").atom("C0000002", "b")
    one.relation("C0000001", "RO", "C0000002", "has_part", {"DIR": "Y"})  # reads: 2 has_part 1
    other.relation("C0000002", "RO", "C0000001", "part_of")  # reads: 1 part_of 2
    ingest_umls(one.write(tmp_path / "one"), tmp_path / "kg", release="1")
    assert view(tmp_path / "kg", "relations")["relation"].to_list() == ["has_part"]
    ingest_umls(other.write(tmp_path / "other"), tmp_path / "kg", release="2")
    triples = open_triples(KnowledgeGraph(tmp_path / "kg").views)
    facts = [(triples.concepts[h][5:], triples.relations[r], triples.concepts[t][5:]) for h, r, t in triples.triples]
    assert facts == [("C0000001", "part_of", "C0000002")]
