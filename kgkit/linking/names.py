"""Names of graph concepts as phrases to look for in reports: which names are fit for that, and what they are worth."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

import polars as pl

from kgkit.linking.phrases import Phrase
from kgkit.linking.tokens import tokenize
from kgkit.types import MentionKind

OBSERVATION_TYPES = frozenset({"T019", "T020", "T033", "T037", "T046", "T047", "T048", "T184", "T190", "T191"})
"""Semantic types of disorders and findings: anomalies, findings, injuries, diseases, symptoms, neoplasms."""
ANATOMY_TYPES = frozenset({"T017", "T018", "T021", "T022", "T023", "T029", "T030"})
"""Semantic types of gross anatomy; tissues (T024) and cells (T025) are not seen on a radiograph."""

PREFERRED_SCORE = 1.0
SYNONYM_SCORE = 0.9
AMBIGUOUS_FACTOR = 0.5
"""What is left of the score of a name that several concepts share."""
_MAX_WORDS = 8
_MIN_CHARACTERS = 3
_ABBREVIATIONS = frozenset({"AB", "ACR"})
_MAX_ABBREVIATION_CHARACTERS = 6
# Words that are names in some vocabulary and denote nothing by themselves in a report.
_AMBIGUOUS = frozenset(
    """
    abnormal abnormality absence absent abrupt acute adult age aggressive all allergy also and any area atypical base benign body
    bilateral borderline can case cause central change child chronic clear clinical condition congenital contour cord
    course death decreased deep defect delayed deterioration diffuse discomfort disease disorder distal distribution
    dominant dull duration early episodic evidence extent extreme family fat female finding focal for general
    generalized global groove group has head high hot ill impact impression inferior increased indeterminate infant
    injury intermediate intermittent interval intermittently large lateral left length lesion level light limb limited
    localized long loss low lower male malignant margin medial mild minimal minor mixed moderate more multiple
    negative new node none normal not now old onset organ other outer pain part patchy patient peripheral persistent
    phenotypic point position positive possible posterior present primary profound progressive prominent proximal
    quality recurrent refractory region regional right root severe severity sharp short side sign similar single sinus
    site size skin slow small solitary spatial stable stage state status superior symptom syndrome system total
    trigger trauma type unchanged unilateral unknown unspecified upper variable view was white wide within worsening
    """.split()
)  # fmt: skip


def name_phrases(
    names: pl.DataFrame, semantic_types: Callable[[str], tuple[str, ...]], skipped: Mapping[str, str] = MappingProxyType({})
) -> Iterator[Phrase]:
    """Phrases for the names of a graph.

    A name scores PREFERRED_SCORE where it is the concept's preferred name, else SYNONYM_SCORE. A name of several
    concepts goes to the one whose preferred name it is, then to the smaller CURIE, at AMBIGUOUS_FACTOR of its score.

    Args:
        names: Columns of kgkit.encoder.artifact.NAME_COLUMNS.
        semantic_types: TUIs of a concept.
        skipped: Concepts to leave out, such as a second id of a finding.
    """
    kinds: dict[str, MentionKind | None] = {}
    owners: dict[tuple[tuple[str, ...], str], dict[str, bool]] = defaultdict(dict)
    columns = ("concept", "name", "term_type", "language", "is_preferred")
    for concept, name, term_type, language, preferred in names.select(columns).iter_rows():
        if concept in skipped or not str(language or "en").startswith("en"):
            continue
        if concept not in kinds:
            kinds[concept] = mention_kind(semantic_types(concept))
        if kinds[concept] is None:
            continue
        words = tokenize(name).words
        if not is_usable_name(name, words):
            continue
        case = name if term_type in _ABBREVIATIONS or is_abbreviation(name) else ""
        owners[words, case][concept] = owners[words, case].get(concept, False) or bool(preferred)
    for (words, case), concepts in owners.items():
        concept = min(concepts, key=lambda candidate: (not concepts[candidate], candidate))
        score = PREFERRED_SCORE if concepts[concept] else SYNONYM_SCORE
        if len(concepts) > 1:
            score *= AMBIGUOUS_FACTOR
        kind = kinds[concept]
        assert kind is not None
        yield Phrase(case or " ".join(words), concept, kind, score, case_sensitive=bool(case))


def mention_kind(semantic_types: tuple[str, ...]) -> MentionKind | None:
    """Anatomy, observation, or None where a concept of these types is nothing a report sees."""
    if not OBSERVATION_TYPES.isdisjoint(semantic_types):
        return MentionKind.OBSERVATION
    return None if ANATOMY_TYPES.isdisjoint(semantic_types) else MentionKind.ANATOMY


def is_usable_name(name: str, words: tuple[str, ...]) -> bool:
    """Whether a name is worth looking for: some letters, no punctuation, not too long, no everyday word.

    >>> [is_usable_name(name, tokenize(name).words) for name in ("Pleural effusion", "Right", "Edema, pulmonary", "T4")]
    [True, False, False, False]
    """
    if not words or len(words) > _MAX_WORDS or not all(word.isalnum() for word in words):
        return False
    if sum(character.isalpha() for character in name) < _MIN_CHARACTERS:
        return False
    return not all(word in _AMBIGUOUS or len(word) < _MIN_CHARACTERS for word in words)


def is_abbreviation(name: str) -> bool:
    """Whether a name is an abbreviation by its look: one short word with two capitals or more, no small letter run.

    >>> [is_abbreviation(name) for name in ("COPD", "ARDSs", "Lung", "HIV-1", "pneumonia")]
    [True, False, False, True, False]
    """
    letters = [character for character in name if character.isalpha()]
    return " " not in name and len(name) <= _MAX_ABBREVIATION_CHARACTERS and all(map(str.isupper, letters))
