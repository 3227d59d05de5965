from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from tiny_vlp import EFFUSION

from kgkit.interface import load_encoder, load_findings
from vlp.config import TowerConfig, TrainConfig, VlpRecipe
from vlp.data.dataset import choose_questions
from vlp.data.film_cache import cache_films
from vlp.data.film_reader import FilmReader
from vlp.data.prepared import PreparedData
from vlp.data.report_text import Sentence, entity_text, report_sentences
from vlp.features import cache_features
from vlp.knowledge import Knowledge
from vlp.towers import load_tower
from vlp.views import fixed_views


def test_sentences_hold_their_mentions_and_no_heading(data: PreparedData) -> None:
    first, second = report_sentences(data, ["101", "102"])
    assert [sentence.text for sentence in first] == [
        "The heart is normal in size.",
        "No pleural effusion.",
        "Normal chest.",
    ]
    assert [sentence.is_affirmed for sentence in first[:2]] == [False, False]
    assert [sentence.text for sentence in second] == ["There is cardiomegaly.", "No pleural effusion."]
    assert [[m["text"] for m in sentence.mentions] for sentence in second] == [["cardiomegaly"], ["pleural effusion"]]
    assert [sentence.is_affirmed for sentence in second] == [True, False]


def test_the_indication_is_no_sentence(data: PreparedData) -> None:
    assert not any("rule out" in s.text for report in report_sentences(data, data.study_ids("train")) for s in report)


def test_entity_text_is_what_kad_reads() -> None:
    seen = {"text": "pleural effusion", "kind": "observation", "certainty": "absent"}
    side = {"text": "left lung", "kind": "anatomy", "certainty": "present"}
    report = [Sentence("No effusion in the left lung.", (seen, side)), Sentence("It may be scar.", ())]
    assert entity_text(report) == (
        "[ENT] pleural effusion Observation Definitely Absent [ENT] left lung Anatomy Definitely Present [SEP]  [SEP]"
    )
    assert entity_text([Sentence("Clear.", ()), Sentence("Fine.", ())]) == "Clear. [SEP] Fine."


def test_one_sentence_is_drawn_of_each_study_and_owned_by_all_that_hold_it(
    data: PreparedData, tiny_encoder_dir: Path, tiny_recipe: VlpRecipe
) -> None:
    recipe = replace(tiny_recipe, loss=replace(tiny_recipe.loss, sentence_weight=1.0))
    config = TrainConfig(data.folder, tiny_encoder_dir, Path("OUT"), recipe)
    texts = choose_questions(data, config).texts["train"]
    rows = torch.arange(len(texts.starts) - 1)
    drawn, own = texts.draw(rows, torch.Generator().manual_seed(0))
    assert len(drawn) == len(drawn.unique())
    for row in rows.tolist():
        members = set(texts.members[texts.starts[row] : texts.starts[row + 1]].tolist())
        assert {int(sentence) for sentence, held in zip(drawn, own[row], strict=True) if held} == members & set(
            drawn.tolist()
        )
        assert bool(members & set(drawn.tolist())) == bool(members)
    again, _ = texts.draw(rows, torch.Generator().manual_seed(0))
    assert torch.equal(drawn, again)
    norms = texts.reports.norm(dim=1)
    assert torch.allclose(norms, torch.ones_like(norms), atol=1e-5)


def test_controls_give_every_query_a_wrong_vector_that_stays(tiny_encoder_dir: Path) -> None:
    encoder, findings = load_encoder(tiny_encoder_dir), load_findings()
    right, shuffled, random = (Knowledge(encoder, findings, kind) for kind in ("concept", "shuffled", "random"))
    asked = [right.ask(right.concept_of_finding(finding)) for finding in findings.values()]
    distinct = list({query.concept: query for query in asked}.values())
    true, wrong, noise = (source.vectors(distinct) for source in (right, shuffled, random))
    assert not (np.abs(true - wrong).max(axis=1) < 1e-6).any() or len(np.unique(true, axis=0)) < len(true)
    assert np.allclose(np.sort(true.round(4), axis=0), np.sort(wrong.round(4), axis=0))  # the same vectors, dealt anew
    assert np.array_equal(shuffled.vectors(distinct[3:5]), wrong[3:5])
    assert np.array_equal(random.vectors(distinct[3:5]), noise[3:5])
    assert np.allclose(np.linalg.norm(noise, axis=1), 1, atol=1e-5)


def test_text_queries_are_the_words_of_the_table(tiny_encoder_dir: Path) -> None:
    knowledge = Knowledge(load_encoder(tiny_encoder_dir), load_findings(), "text")
    asked = knowledge.ask(EFFUSION)
    assert asked.is_text_encoded
    assert np.allclose(knowledge.vectors([asked])[0], knowledge.encoder.embed_text([asked.text])[0])


def test_features_are_computed_once_and_found_again(
    data: PreparedData, tiny_recipe: VlpRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    films = data.films(data.study_ids("val"), frontal_only=True)
    tower, device = load_tower(tiny_recipe.tower.name), torch.device("cpu")
    first = cache_films(tower, data, films, tiny_recipe.tower, device)
    expected = cache_features(tower, data, films, tiny_recipe.tower, views=fixed_views(2), device=device)
    assert torch.equal(first.kept, expected)
    monkeypatch.setattr("vlp.data.film_cache.cache_features", None)  # a second look would fail
    again = cache_films(tower, data, films, tiny_recipe.tower, device)
    assert torch.equal(again.kept, expected)
    rows = again.rows_of(films[[2, 0]])
    assert torch.equal(again.look(torch.tensor([1, 0]), rows), torch.stack([expected[1, 2], expected[0, 0]]))


def test_a_trained_tower_gets_the_films_themselves_in_the_same_views(
    data: PreparedData, tiny_recipe: VlpRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    films = data.films(data.study_ids("val"), frontal_only=True)
    tower, device = load_tower(tiny_recipe.tower.name), torch.device("cpu")
    config: TowerConfig = replace(tiny_recipe.tower, trained_blocks=1)
    cache = cache_films(tower, data, films, config, device)
    assert not cache.holds_features
    squares = (FilmReader(data).squares(films, config.input_size) * 255).round()
    assert np.array_equal(cache.kept[0].numpy(), squares)
    monkeypatch.setattr("vlp.data.film_cache.FilmLoader", None)  # kept in DATA: nothing is read again
    assert torch.equal(cache_films(tower, data, films, config, device).kept, cache.kept)
    features = cache_features(tower, data, films, tiny_recipe.tower, views=fixed_views(2), device=device)
    views, rows = torch.tensor([0, 1, 1]), torch.tensor([0, 1, 2])
    with torch.no_grad():
        seen = tower(cache.look(views, rows))
    assert torch.allclose(seen, features[views, rows].float(), atol=2e-2)


def test_a_film_table_is_in_the_order_asked(data: PreparedData) -> None:
    ids = data.study_ids("train")[::-1]
    assert [len(report) > 0 for report in report_sentences(data, ids)] == [True] * len(ids)
    assert report_sentences(data, ["no such study"]) == [[]]
    assert isinstance(data.mentions, pl.DataFrame)
