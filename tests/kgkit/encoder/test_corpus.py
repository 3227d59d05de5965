"""What is held out stays out: names by their normalised string, facts with all that gives them away."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rrf import Rrf
from tiny_thorax import CUI, CURIE, concept_rows, make_graph, tiny_thorax

from kgkit.encoder.batches import BatchMaker
from kgkit.encoder.config import EncoderRecipe
from kgkit.encoder.corpus import Corpus, build_corpus, normalise
from kgkit.encoder.model import GraphBatch
from kgkit.encoder.text_tower import TextTower
from kgkit.errors import InputError
from kgkit.graph.store import KnowledgeGraph, ingest
from kgkit.sources.base import IngestLog
from kgkit.sources.umls import UmlsOptions, read_umls

Recipe = Callable[..., EncoderRecipe]
ROW = {name: row for row, (name, *_) in enumerate(concept_rows())}  # CUIs rise in the order of the table


def corpus_of(kg: Path, names: float = 0.3, triples: float = 0.15, seed: int = 0) -> Corpus:
    return build_corpus(KnowledgeGraph(kg).views, names, triples, seed)


def strings_of(corpus: Corpus) -> list[set[str]]:
    return [{normalise(name) for name in names} for names in corpus.names]


@pytest.mark.parametrize("seed", range(6))
def test_held_out_names_are_nowhere_in_training(tiny_kg: Path, seed: int) -> None:
    corpus = corpus_of(tiny_kg, seed=seed)
    held = {normalise(name.text): name.concepts for name in corpus.held_out}
    trained = set().union(*strings_of(corpus))
    assert len(held) == len(corpus.held_out) >= 20
    assert not held.keys() & trained
    assert not held.keys() & {normalise(name) for name in corpus.preferred}
    for row, text in corpus.definitions:
        own = [string for string, owners in held.items() if row in owners]
        assert not any(f" {string} " in f" {normalise(text)} " for string in own)


@pytest.mark.parametrize("seed", range(6))
def test_nothing_else_is_lost(tiny_kg: Path, seed: int) -> None:
    corpus = corpus_of(tiny_kg, seed=seed)
    held = [(normalise(name.text), row) for name in corpus.held_out for row in name.concepts]
    kept = [(string, row) for row, strings in enumerate(strings_of(corpus)) for string in strings]
    views = KnowledgeGraph(tiny_kg).views
    names = pl.read_parquet(views / "names.parquet").select("concept", "name").iter_rows()
    rows = {concept: row for row, concept in enumerate(corpus.view.concepts)}
    assert sorted({(normalise(name), rows[concept]) for concept, name in names}) == sorted(held + kept)
    for name, _, _, definition in concept_rows():
        spelt = any(f" {string} " in f" {normalise(definition)} " for string, row in held if row == ROW[name])
        assert ((ROW[name], definition) in corpus.definitions) == (bool(definition) and not spelt)


def test_a_definition_that_spells_out_a_held_out_name_goes_and_comes_with_it(tiny_kg: Path) -> None:
    seen = set()
    for seed in range(12):
        corpus = corpus_of(tiny_kg, names=0.45, seed=seed)
        wet = any(normalise(name.text) == "wet lung" for name in corpus.held_out)  # written Wet-Lung among the names
        seen.add(wet)
        assert (ROW["pulmonary edema"] in {row for row, _ in corpus.definitions}) != wet
    assert seen == {True, False}


def test_an_ambiguous_name_is_held_out_of_all_its_concepts(tiny_kg: Path) -> None:
    both = {ROW["pleural effusion"], ROW["pericardial effusion"]}
    outcomes = set()
    for seed in range(12):
        corpus = corpus_of(tiny_kg, names=0.45, seed=seed)
        found = [set(name.concepts) for name in corpus.held_out if name.text == "effusion"]
        keepers = {row for row, strings in enumerate(strings_of(corpus)) if "effusion" in strings}
        assert (found, keepers) in (([both], set()), ([], both))
        outcomes.add(bool(found))
    assert outcomes == {True, False}


def test_spellings_of_one_name_are_one_training_name(tiny_kg: Path) -> None:
    corpus = corpus_of(tiny_kg, names=0.0)
    for row, names in enumerate(corpus.names):
        assert names[0] == corpus.preferred[row]
        assert len({normalise(name) for name in names}) == len(names)
    assert corpus.names[ROW["pneumonia"]][0] == "pneumonia"
    assert "PNEUMONIA" not in corpus.names[ROW["pneumonia"]]
    assert corpus.held_out == ()


def test_the_seed_decides_the_corpus(tiny_kg: Path) -> None:
    one, same, other = (corpus_of(tiny_kg, seed=seed) for seed in (4, 4, 5))
    assert one.names == same.names
    assert one.held_out == same.held_out
    assert one.definitions == same.definitions
    np.testing.assert_array_equal(one.split.test, same.split.test)
    assert one.held_out != other.held_out
    assert one.split.test.tolist() != other.split.test.tolist()


@pytest.mark.parametrize("seed", range(4))
def test_facts_are_split_without_leaks(tiny_kg: Path, seed: int) -> None:
    corpus = corpus_of(tiny_kg, triples=0.2, seed=seed)
    parts = [corpus.split.train, corpus.split.valid, corpus.split.test]
    assert sorted(map(tuple, np.concatenate(parts).tolist())) == list(map(tuple, corpus.view.triples.tolist()))
    pairs = [{frozenset((h, t)) for h, _, t in part.tolist()} for part in parts]
    assert all(one.isdisjoint(other) for one, other in itertools.combinations(pairs, 2))
    for held in parts[1:]:
        assert len(held)
        assert set(held[:, [0, 2]].ravel().tolist()) <= set(parts[0][:, [0, 2]].ravel().tolist())
        assert set(held[:, 1].tolist()) <= set(parts[0][:, 1].tolist())


@given(st.text())
def test_normalising_twice_changes_nothing(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)
    assert normalise(f" {text}--") == normalise(text)


def test_a_graph_without_relations_is_refused(tmp_path: Path) -> None:
    kg = make_graph(tmp_path, tiny_thorax(relations=False))
    with pytest.raises(InputError, match=r"kg: the graph has no relations between concepts, nothing to train on"):
        corpus_of(kg)


def test_a_concept_named_in_another_language_alone_keeps_that_name(tmp_path: Path) -> None:
    rrf = Rrf().row("MRSAB", {"RSAB": "TST", "SVER": "1", "CURVER": "Y"})
    rrf.atom("C9000001", "tórax", values={"LAT": "SPA"})
    rrf.atom("C9000002", "lung").atom("C9000002", "lungs", tty="SY", values={"TS": "S"})
    rrf.atom("C9000002", "pulmón", values={"LAT": "SPA"}).relation("C9000001", "RO", "C9000002", "part_of")
    log = IngestLog()
    ingest(
        tmp_path / "kg",
        read_umls(rrf.write(tmp_path / "META"), log, "tiny", UmlsOptions(languages=("ENG", "SPA"))),
        log,
    )
    corpus = corpus_of(tmp_path / "kg", names=0.0, triples=0.0)
    assert corpus.names == (("tórax",), ("lung", "lungs"))
    assert corpus.view.triples.tolist() == [[1, 0, 0]]


# Batches


@pytest.fixture(scope="module")
def batches(tiny_corpus: Corpus, tiny_recipe: Recipe) -> BatchMaker:
    recipe = tiny_recipe()
    tower = TextTower(recipe.text)
    return BatchMaker(tiny_corpus, tiny_corpus.split.train, tower, recipe.train, recipe.graph.fanouts)


def triples_of(batch: GraphBatch) -> list[tuple[int, int, int]]:
    heads, tails = batch.graph.nodes[batch.heads].tolist(), batch.graph.nodes[batch.tails].tolist()
    return list(zip(heads, batch.relations.tolist(), tails, strict=True))


def test_a_step_predicts_training_facts_whose_ends_pass_no_message(batches: BatchMaker, tiny_corpus: Corpus) -> None:
    train = set(map(tuple, tiny_corpus.split.train.tolist()))
    held = np.concatenate([tiny_corpus.split.valid, tiny_corpus.split.test])
    held_pairs = {frozenset((h, t)) for h, _, t in held.tolist()}
    for step in range(1, 30):
        _, batch = batches.draw(0, step)
        facts = triples_of(batch)
        assert set(facts) <= train
        messages = {frozenset(pair) for pair in batch.graph.nodes[batch.graph.edge_index].T.tolist()}
        assert messages, "the neighbourhood is not empty"
        assert not messages & {frozenset((h, t)) for h, _, t in facts}
        assert not messages & held_pairs
        assert int(max(batch.heads.max(), batch.tails.max())) < batch.graph.num_seeds


def test_a_step_reads_names_and_definitions_of_the_right_concepts(
    batches: BatchMaker, tiny_corpus: Corpus, tiny_recipe: Recipe
) -> None:
    recipe = tiny_recipe()
    tower = TextTower(recipe.text)
    tokens = [set(map(tuple, tower.tokenize(names, recipe.text.max_name_tokens))) for names in tiny_corpus.names]
    for step in range(1, 10):
        text, graph = batches.draw(3, step)
        num_pairs, num_defined = len(text.pair_concepts), len(text.definition_concepts)
        names = [tuple(name) for name in text.names]
        left, right = names[:num_pairs], names[num_pairs : 2 * num_pairs]
        defined, live = names[2 * num_pairs : 2 * num_pairs + num_defined], names[2 * num_pairs + num_defined :]
        for one, other, row in zip(left, right, text.pair_concepts.tolist(), strict=True):
            assert one in tokens[row]
            assert other in tokens[row]
            assert one != other
        assert all(name in tokens[row] for name, row in zip(defined, text.definition_concepts.tolist(), strict=True))
        preferred = tower.tokenize(
            [tiny_corpus.preferred[row] for row in text.live_concepts.tolist()], recipe.text.max_name_tokens
        )
        assert live == [tuple(name) for name in preferred]
        definitions = dict(tiny_corpus.definitions)
        wanted = tower.tokenize(
            [definitions[row] for row in text.definition_concepts.tolist()], recipe.text.max_definition_tokens
        )
        assert [list(row) for row in text.definitions] == wanted
        seeds = set(graph.graph.nodes[: graph.graph.num_seeds].tolist())
        assert set(text.pair_concepts.tolist()) <= seeds


def test_a_draw_depends_on_seed_and_step_alone(batches: BatchMaker) -> None:
    batches.draw(0, 1)
    first, again = batches.draw(0, 5), batches.draw(0, 5)
    assert first[0].names == again[0].names
    assert triples_of(first[1]) == triples_of(again[1])
    assert torch.equal(first[1].graph.edge_index, again[1].graph.edge_index)
    for other in (batches.draw(0, 6), batches.draw(1, 5)):
        assert triples_of(first[1]) != triples_of(other[1])


def test_curies_follow_the_table() -> None:
    assert CURIE["lung"] == f"umls:{CUI['lung']}"
    assert sorted(CURIE.values()) == list(CURIE.values())
