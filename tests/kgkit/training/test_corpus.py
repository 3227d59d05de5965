"""What is held out stays out: names by their normalised string, concepts whole, facts with all that gives them away."""

from __future__ import annotations

import gzip
import itertools
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rrf import Rrf
from tiny_thorax import CUI, CURIE, concept_rows, make_graph, tiny_thorax

from kgkit.encoder.config import HeldOutConfig
from kgkit.encoder.names import normalise
from kgkit.errors import InputError
from kgkit.graph.store import KnowledgeGraph, ingest
from kgkit.sources.base import IngestLog
from kgkit.sources.umls import UmlsOptions, read_umls
from kgkit.training.corpus import Corpus, build_corpus
from kgkit.training.source import read_source
from kgkit.views.read import write_view_digests

ROW = {name: row for row, (name, *_) in enumerate(concept_rows())}  # CUIs rise in the order of the table


def corpus_of(
    path: Path,
    names: float = 0.3,
    definitions: float = 0.2,
    triples: float = 0.15,
    concepts: float = 0.1,
    seed: int = 0,
) -> Corpus:
    return build_corpus(read_source(path), HeldOutConfig(names, definitions, triples, concepts), seed)


def names_of(corpus: Corpus, row: int) -> list[str]:
    return corpus.names[int(corpus.name_starts[row]) : int(corpus.name_starts[row + 1])].to_list()


def strings_of(corpus: Corpus) -> list[set[str]]:
    return [{normalise(name) for name in names_of(corpus, row)} for row in range(corpus.view.num_concepts)]


def queries_of(corpus: Corpus, *parts: str) -> dict[str, list[int]]:
    table = corpus.query_names.filter(pl.col("part").is_in(parts or ("valid", "test", "inductive")))
    return {normalise(name): rows for name, rows, _ in table.iter_rows()}


@pytest.mark.parametrize("seed", range(6))
def test_held_out_names_are_nowhere_in_training(tiny_kg: Path, seed: int) -> None:
    corpus = corpus_of(tiny_kg, seed=seed)
    held = queries_of(corpus)
    assert len(held) == len(corpus.query_names) >= 20
    assert not held.keys() & set().union(*strings_of(corpus))
    assert not held.keys() & {normalise(name) for name in corpus.preferred}
    for row, text in zip(corpus.definition_rows.tolist(), corpus.definitions, strict=True):
        own = [string for string, owners in held.items() if row in owners]
        assert not any(f" {string} " in f" {normalise(text)} " for string in own)


@pytest.mark.parametrize("seed", range(6))
def test_nothing_else_is_lost(tiny_kg: Path, seed: int) -> None:
    corpus = corpus_of(tiny_kg, seed=seed)
    held = [(string, row) for string, rows in queries_of(corpus).items() for row in rows]
    kept = [(string, row) for row, strings in enumerate(strings_of(corpus)) for string in strings]
    views = KnowledgeGraph(tiny_kg).views
    names = pl.read_parquet(views / "names.parquet").select("concept", "name").iter_rows()
    rows = {concept: row for row, concept in enumerate(corpus.view.concepts)}
    assert sorted({(normalise(name), rows[concept]) for concept, name in names}) == sorted(held + kept)
    trained = dict(zip(corpus.definition_rows.tolist(), corpus.definitions, strict=True))
    asked = {row: text for row, text, _ in corpus.query_definitions.iter_rows()}
    for name, _, _, definition in concept_rows():
        spelt = any(f" {string} " in f" {normalise(definition)} " for string, row in held if row == ROW[name])
        assert trained.get(ROW[name], definition) == definition
        assert (ROW[name] in trained) + (ROW[name] in asked) == bool(definition) - (
            bool(definition) and spelt and ROW[name] not in asked
        )


@pytest.mark.parametrize("seed", range(6))
def test_an_unseen_concept_is_in_no_name_definition_or_fact_of_training(tiny_kg: Path, seed: int) -> None:
    corpus = corpus_of(tiny_kg, seed=seed)
    unseen = set(np.flatnonzero(corpus.unseen).tolist())
    assert len(unseen) >= 3
    inductive = queries_of(corpus, "inductive")
    for row in unseen:
        assert names_of(corpus, row) == [corpus.preferred[row]]
    assert all(unseen & set(rows) for rows in inductive.values())
    assert not any(unseen & set(rows) for rows in queries_of(corpus, "valid", "test").values())
    assert not unseen & set(corpus.definition_rows.tolist())
    parts = (corpus.split.train, corpus.split.valid, corpus.split.test)
    assert not any(unseen & set(part[:, [0, 2]].ravel().tolist()) for part in parts)
    asked, support = ([(head, tail) for head, _, tail in part.tolist()] for part in (corpus.inductive, corpus.support))
    assert all(unseen & set(pair) for pair in (*asked, *support))
    assert asked
    assert support
    assert not set(map(frozenset, asked)) & set(map(frozenset, support)), "a fact tells what another one asks"
    every = np.concatenate([*parts, corpus.inductive, corpus.support])
    assert sorted(map(tuple, every.tolist())) == list(map(tuple, corpus.view.triples.tolist()))
    assert set(corpus.split.train[:, 1].tolist()) == set(range(corpus.view.num_relations))


@pytest.mark.parametrize("seed", range(6))
def test_a_definition_that_two_concepts_share_is_not_held_out_of_one_alone(tiny_kg: Path, seed: int) -> None:
    source = read_source(tiny_kg)
    shared = pl.when(pl.int_range(pl.len()) % 2 == 0).then(pl.lit("Fluid, in the AIR spaces")).otherwise("definition")
    source = replace(source, concepts=source.concepts.with_columns(definition=shared))
    corpus = build_corpus(source, HeldOutConfig(0, 0.5, 0, 0.1), seed)
    asked = {normalise(text) for text in corpus.query_definitions["definition"]}
    assert "fluid in the air spaces" in asked
    assert not asked & {normalise(text) for text in corpus.definitions}


def test_a_definition_that_spells_out_a_held_out_name_goes_and_comes_with_it(tiny_kg: Path) -> None:
    seen = set()
    for seed in range(16):
        corpus = corpus_of(tiny_kg, names=0.4, definitions=0.0, concepts=0.0, seed=seed)
        wet = "wet lung" in queries_of(corpus)  # written Wet-Lung among the names
        seen.add(wet)
        assert (ROW["pulmonary edema"] in corpus.definition_rows) != wet
    assert seen == {True, False}


def test_an_ambiguous_name_is_held_out_of_all_its_concepts(tiny_kg: Path) -> None:
    both = sorted([ROW["pleural effusion"], ROW["pericardial effusion"]])
    outcomes = set()
    for seed in range(16):
        corpus = corpus_of(tiny_kg, names=0.45, concepts=0.0, seed=seed)
        found = queries_of(corpus).get("effusion")
        keepers = [row for row, strings in enumerate(strings_of(corpus)) if "effusion" in strings]
        assert (sorted(found or []), keepers) in ((both, []), ([], both))
        outcomes.add(found is not None)
    assert outcomes == {True, False}


def test_spellings_of_one_name_are_one_training_name(tiny_kg: Path) -> None:
    corpus = corpus_of(tiny_kg, 0.0, 0.0, 0.0, 0.0)
    for row in range(corpus.view.num_concepts):
        names = names_of(corpus, row)
        assert names[0] == corpus.preferred[row]
        assert len({normalise(name) for name in names}) == len(names)
    assert names_of(corpus, ROW["pneumonia"])[0] == "pneumonia"
    assert "PNEUMONIA" not in names_of(corpus, ROW["pneumonia"])
    assert len(corpus.query_names) == len(corpus.query_definitions) == 0


def test_the_seed_decides_the_corpus(tiny_kg: Path) -> None:
    one, same, other = (corpus_of(tiny_kg, seed=seed) for seed in (4, 4, 5))
    assert one.names.equals(same.names)
    assert one.query_names.equals(same.query_names)
    assert one.query_definitions.equals(same.query_definitions)
    np.testing.assert_array_equal(one.split.test, same.split.test)
    assert not one.query_names.equals(other.query_names)
    assert one.split.test.tolist() != other.split.test.tolist()


@pytest.mark.parametrize("seed", range(4))
def test_facts_are_split_without_leaks(tiny_kg: Path, seed: int) -> None:
    corpus = corpus_of(tiny_kg, triples=0.2, seed=seed)
    parts = [corpus.split.train, corpus.split.valid, corpus.split.test]
    pairs = [{frozenset((h, t)) for h, _, t in part.tolist()} for part in parts]
    assert all(one.isdisjoint(other) for one, other in itertools.combinations(pairs, 2))
    for held in parts[1:]:
        assert len(held)
        assert set(held[:, [0, 2]].ravel().tolist()) <= set(parts[0][:, [0, 2]].ravel().tolist())


@given(st.text())
def test_normalising_twice_changes_nothing(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)
    assert normalise(f" {text}--") == normalise(text)


def test_a_graph_without_relations_has_texts_to_learn(tmp_path: Path) -> None:
    corpus = corpus_of(make_graph(tmp_path, tiny_thorax(relations=False)))
    assert [len(part) for part in (corpus.split.train, corpus.split.test, corpus.inductive, corpus.support)] == [0] * 4
    assert len(corpus.query_names)
    assert len(corpus.definitions)


@pytest.mark.parametrize(("tag", "is_used"), [("en-US", True), ("EN", True), ("enm", False), ("es", False)])
def test_names_in_english_of_any_region_teach(tmp_path: Path, tag: str, is_used: bool) -> None:
    kg = make_graph(tmp_path, tiny_thorax())
    path = KnowledgeGraph(kg).views / "names.parquet"
    pl.read_parquet(path).with_columns(language=pl.lit(tag)).write_parquet(path)
    write_view_digests(path.parent)
    assert (len(corpus_of(kg, names=0.0).names) > len(concept_rows())) is is_used


def test_a_concept_without_a_name_is_said(tmp_path: Path) -> None:
    kg = make_graph(tmp_path, tiny_thorax())
    path = KnowledgeGraph(kg).views / "concepts.parquet"
    table = pl.read_parquet(path)
    nameless = pl.when(pl.col("concept") == CURIE["lung"]).then(None).otherwise(pl.col("name"))
    table.with_columns(name=nameless).write_parquet(path)
    write_view_digests(path.parent)
    with pytest.raises(InputError, match=f"1 concepts have no name, the first is {CURIE['lung']}"):
        read_source(kg)


def test_a_concept_named_in_another_language_alone_keeps_that_name(tmp_path: Path) -> None:
    rrf = Rrf().row("MRSAB", {"RSAB": "TST", "SVER": "1", "CURVER": "Y"})
    rrf.atom("C9000001", "tórax", values={"LAT": "SPA"})
    rrf.atom("C9000002", "lung").atom("C9000002", "lungs", tty="SY", values={"TS": "S"})
    rrf.atom("C9000002", "pulmón", values={"LAT": "SPA"}).relation("C9000001", "RO", "C9000002", "part_of")
    log = IngestLog()
    options = UmlsOptions(languages=("ENG", "SPA"))
    ingest(tmp_path / "kg", read_umls(rrf.write(tmp_path / "META"), log, "tiny", options), log)
    corpus = corpus_of(tmp_path / "kg", 0.0, 0.0, 0.0, 0.0)
    assert [names_of(corpus, row) for row in (0, 1)] == [["tórax"], ["lung", "lungs"]]
    assert corpus.view.triples.tolist() == [[1, 0, 0]]


# Benchmarks


def write_benchmark(folder: Path, texts: str = "a\tthe first\nb\tthe second\n") -> Path:
    folder.mkdir()
    (folder / "train.txt").write_text("a\tr\tb\nb\tr\tc\n", encoding="utf-8")
    (folder / "valid.txt").write_text("a\tr\tc\n", encoding="utf-8")
    (folder / "test.txt.gz").write_bytes(gzip.compress(b"c\tr\ta\n"))
    (folder / "entity2text.txt").write_text(texts, encoding="utf-8")
    return folder


def test_a_benchmark_keeps_its_split_and_takes_its_texts(tmp_path: Path) -> None:
    source = read_source(write_benchmark(tmp_path / "set"))
    corpus = corpus_of(source.path, concepts=0.3)
    assert corpus.preferred.to_list() == ["the first", "the second", "c"], "an entity without a text is its own name"
    assert [part.tolist() for part in (corpus.split.train, corpus.split.valid, corpus.split.test)] == [
        [[0, 0, 1], [1, 0, 2]], [[0, 0, 2]], [[2, 0, 0]]]  # fmt: skip
    assert not corpus.unseen.any()
    assert len(corpus.inductive) == len(corpus.query_names) == 0


def test_a_benchmark_digest_follows_its_files(tmp_path: Path) -> None:
    one, same, other = (
        read_source(write_benchmark(tmp_path / name, text)).digest
        for name, text in (("1", "a\tx\n"), ("2", "a\tx\n"), ("3", "a\ty\n"))
    )
    assert one == same != other


def test_a_damaged_text_file_is_named_with_its_row(tmp_path: Path) -> None:
    folder = write_benchmark(tmp_path / "set", "a\tfine\nb without a tab\n")
    with pytest.raises(InputError, match=r"entity2text\.txt: row 2: 'b without a tab', expected an entity, a tab"):
        read_source(folder)


def test_curies_follow_the_table() -> None:
    assert CURIE["lung"] == f"umls:{CUI['lung']}"
    assert sorted(CURIE.values()) == list(CURIE.values())


@pytest.mark.parametrize("view", ["concepts", "names", "relations", "triples"])
def test_a_view_cut_short_is_said(tmp_path: Path, tiny_kg: Path, view: str) -> None:
    folder = Path(shutil.copytree(tiny_kg, tmp_path / "KG"))
    file = KnowledgeGraph(folder).views / f"{view}.parquet"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    again = "ingest any source again to rebuild the views"
    with pytest.raises(InputError, match=rf"{view}\.parquet: digests disagree: .*; {again}"):
        read_source(folder)
    write_view_digests(file.parent)
    with pytest.raises(InputError, match=rf"damaged .*; {again}"):
        read_source(folder)


def test_triples_of_another_graph_are_said(tmp_path: Path, tiny_kg: Path) -> None:
    folder = Path(shutil.copytree(tiny_kg, tmp_path / "KG"))
    file = KnowledgeGraph(folder).views / "triples.parquet"
    table = pl.read_parquet(file)
    table.with_columns(pl.col("tail") + 1000).write_parquet(file)
    write_view_digests(file.parent)
    with pytest.raises(InputError, match=r"triples\.parquet is of another graph"):
        read_source(folder)
