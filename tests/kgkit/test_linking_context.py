"""Certainty, temporality and experiencer, on sentences after the NegEx and ConText papers."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from kgkit.errors import InputError
from kgkit.evaluation.assertion import assertion, choice_figures, negation_figures
from kgkit.evaluation.outcomes import figures_of
from kgkit.linking.context import ContextResult, ContextRules, load_context_rules
from kgkit.types import Certainty, Experiencer, Temporality


@pytest.fixture(scope="module")
def rules() -> ContextRules:
    return load_context_rules()


def _classify(rules: ContextRules, marked: str) -> ContextResult:
    """Context of the part of a sentence that stands in brackets."""
    start, end = marked.index("["), marked.index("]") - 1
    return rules.classify(marked.replace("[", "").replace("]", ""), start, end)


@pytest.mark.parametrize(
    ("sentence", "certainty"),
    [
        # triggers that NegEx lists, before and after the finding
        ("The patient denies [chest pain].", "absent"),
        ("There is no evidence of [pneumonia].", "absent"),
        ("No [pneumothorax] or pleural effusion.", "absent"),
        ("No pneumothorax or [pleural effusion].", "absent"),
        ("Without evidence of [consolidation].", "absent"),
        ("Negative for [fracture].", "absent"),
        ("The lungs are free of [infiltrates].", "absent"),
        ("Fails to reveal [edema].", "absent"),
        ("[Pneumonia] was ruled out.", "absent"),
        ("[Effusion] is not seen.", "absent"),
        ("[Pulmonary embolism] is unlikely.", "absent"),
        ("Neither [mass] nor nodule.", "absent"),
        ("Neither mass nor [nodule].", "absent"),
        ("Interval resolution of the [pleural effusion].", "absent"),
        ("[Pneumothorax]: none.", "absent"),
        # pseudo-triggers
        ("No change in the [pleural effusion].", "present"),
        ("No significant interval change in [cardiomegaly].", "present"),
        ("Gram negative [pneumonia].", "present"),
        ("Not only [edema] was found.", "present"),
        # the end of a trigger's reach
        ("No effusion, but [edema] is seen.", "present"),
        ("No fever; [cough] for two days.", "present"),
        ("[Cardiomegaly] without edema.", "present"),
        ("Small [effusion], no pneumothorax.", "present"),
        ("No effusion. [Edema].", "present"),
        ("No [edema] is seen; effusion.", "absent"),
        # doubt
        ("Rule out [pneumonia].", "uncertain"),
        ("Possible [atelectasis].", "uncertain"),
        ("This may represent [pneumonia].", "uncertain"),
        ("Cannot exclude [effusion].", "uncertain"),
        ("[Effusion] cannot be excluded.", "uncertain"),
        ("Findings suggestive of [edema].", "uncertain"),
        ("[Atelectasis] versus pneumonia.", "uncertain"),
        ("No findings to suggest [edema].", "absent"),
        ("No effusion, possible [atelectasis].", "uncertain"),
        # plain statements
        ("[Pneumonia].", "present"),
        ("Stable [cardiomegaly].", "present"),
        # a span with its own negation is a statement that holds
        ("[No acute cardiopulmonary abnormality].", "present"),
        ("No pneumothorax and [no acute abnormality].", "present"),
    ],
)
def test_certainty(rules, sentence, certainty):
    assert _classify(rules, sentence).certainty is Certainty(certainty)


@pytest.mark.parametrize(
    ("sentence", "temporality"),
    [
        ("History of [pneumonia].", "historical"),
        ("Past medical history of [COPD].", "historical"),
        ("Status post [fracture].", "historical"),
        ("[Pneumonia] two years ago.", "historical"),
        ("Compared to prior exam the [effusion] is smaller.", "recent"),
        ("History of cough, presents with [pneumonia].", "recent"),
        ("Return if [chest pain] recurs.", "hypothetical"),
        ("Evaluate for [pneumonia].", "hypothetical"),
        ("[Pneumonia].", "recent"),
    ],
)
def test_temporality(rules, sentence, temporality):
    assert _classify(rules, sentence).temporality is Temporality(temporality)


@pytest.mark.parametrize(
    ("sentence", "experiencer"),
    [
        ("Mother had [breast cancer].", "family"),
        ("Family history of [colon cancer].", "family"),
        ("Her father had tuberculosis; patient has [pneumonia].", "patient"),
        ("Roommate had [tuberculosis].", "other"),
        ("[Pneumonia].", "patient"),
    ],
)
def test_experiencer(rules, sentence, experiencer):
    assert _classify(rules, sentence).experiencer is Experiencer(experiencer)


def test_negation_and_history_are_separate_axes(rules):
    said = _classify(rules, "No history of [pneumonia].")
    assert said == ContextResult(Certainty.ABSENT, Temporality.HISTORICAL, Experiencer.PATIENT)


@given(st.sampled_from(["No {}.", "{} is not seen.", "Possible {}.", "History of {}.", "{}.", "No change in {}."]))
def test_case_and_line_ends_do_not_matter(sentence):
    rules = load_context_rules()
    said = []
    for text in (sentence, sentence.upper(), sentence.replace(" ", "\r\n"), sentence.replace(" ", "  ")):
        start = text.index("{}")
        said.append(rules.classify(text.replace("{}", "effusion"), start, start + len("effusion")))
    assert len(set(said)) == 1


@given(st.text(max_size=50), st.integers(0, 50), st.integers(0, 50))
def test_any_span_of_any_text_is_classified_or_refused(text, start, end):
    rules = load_context_rules()
    if 0 <= start < end <= len(text) and any(map(str.isalnum, text[start:end])):
        assert isinstance(rules.classify(text, start, end), ContextResult)
    elif not 0 <= start < end <= len(text):
        with pytest.raises(ValueError, match="span"):
            rules.classify(text, start, end)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[absent", "not a readable TOML file"),
        ("[absnt]\nforward = []", r"unknown table \[absnt\]; did you mean 'absent'\?"),
        ("absent = 3", "'absent' is a value, expected a table"),
        ("shared = 3", r"\[shared\] is a value, expected a table"),
        ("[absent]\nforwards = []", "unknown list 'forwards'; did you mean 'forward'"),
        ("[absent]\nforward = 'no'", r"\[absent\] forward: expected a list of strings"),
        ("[absent]\nforward = [' ']", "' ' has no words"),
        ("[absent]\nforward = ['sign of', 'signs of']", "'signs of' stands there twice"),
        ("[absent]\nforward = ['rules out']\n[uncertain]\nforward = ['rule out']", "'rule out' is both an absent and"),
        (
            "[absent]\nforward = ['no']\n[shared]\npseudo = ['no']",
            "'no' is both pseudo and a trigger of .absent. forward",
        ),
    ],
)
def test_a_wrong_lexicon_is_refused_by_name(tmp_path, text, message):
    path = tmp_path / "rules.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message) as caught:
        load_context_rules(path)
    assert "rules.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_empty_lexicon_says_nothing(tmp_path):
    path = tmp_path / "rules.toml"
    path.write_text("", encoding="utf-8")
    assert load_context_rules(path).classify("no effusion", 3, 11) == ContextResult()


@given(st.lists(st.tuples(*[st.sampled_from(range(3))] * 3), min_size=1, max_size=30))
def test_figures_of_a_choice_equal_scikit_learns(rows):
    gold, said, majority = (np.array(column, dtype=np.float64) for column in zip(*rows, strict=True))
    columns = {"gold": gold, "said": said, "majority": majority}
    found = choice_figures(Temporality, columns, np.ones(len(rows), dtype=np.int64))
    given_values = sorted(set(gold))
    assert found["accuracy"] == pytest.approx(np.mean(gold == said))
    assert found["majority_accuracy"] == pytest.approx(np.mean(gold == majority))
    assert found["macro_f1"] == pytest.approx(f1_score(gold, said, labels=given_values, average="macro"))
    assert found["majority_macro_f1"] == pytest.approx(f1_score(gold, majority, labels=given_values, average="macro"))
    for row, value in enumerate(Temporality):
        if row in gold or row in said:
            assert found[f"{value}_f1"] == pytest.approx(f1_score(gold == row, said == row))
        else:
            assert np.isnan(found[f"{value}_f1"])


def test_a_heading_of_the_past_and_a_complaint_of_some_days(rules):
    assert _classify(rules, "PAST MEDICAL HISTORY: The patient has [diabetes].").temporality is Temporality.HISTORICAL
    assert _classify(rules, "She has a two-day history of [fever].").temporality is Temporality.RECENT
    assert _classify(rules, "FAMILY HISTORY: [colon cancer].").experiencer is Experiencer.FAMILY
    assert _classify(rules, "Large [pleural effusion], possibly from pleuritis.").certainty is Certainty.PRESENT


@pytest.mark.data
def test_temporality_and_experiencer_on_the_negex_set(rules):
    data = os.environ.get("KGKIT_DATA")
    if data is None:
        pytest.skip("KGKIT_DATA is not set: temporality is not measured on the NegEx set")
    answer = assertion(Path(data) / "negex", rules)
    for part in ("temporality", "experiencer"):
        figures = figures_of(answer.parts[part], answer.statistics[part])
        assert figures["accuracy"] > figures["majority_accuracy"]
        assert figures["macro_f1"] > figures["majority_macro_f1"] + 0.3


@pytest.mark.data
def test_negation_on_the_negex_set(rules):
    data = os.environ.get("KGKIT_DATA")
    if data is None:
        pytest.skip("KGKIT_DATA is not set: negation is not measured on the NegEx set")
    outcomes = assertion(Path(data) / "negex", rules).parts["negation"]
    figures = negation_figures(outcomes.columns, np.ones(len(outcomes.queries), dtype=np.int64))
    assert figures["f1"] >= 0.95
    assert figures["accuracy"] > figures["majority_accuracy"] + 0.1
    assert figures["majority_f1"] == 0  # the commonest answer is "affirmed"
