"""Names of graph concepts as phrases to look for in reports: which are fit for that, what they are worth."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator

import polars as pl

from kgkit.languages import english
from kgkit.linking.phrases import Phrase
from kgkit.linking.tokens import is_redacted, tokenize
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
_MAX_ABBREVIATION_CHARACTERS = 6
# Words that are names in some vocabulary and denote nothing by themselves in a report.
_AMBIGUOUS_WORDS = """
abnormal abnormality abrupt absence absent acute adult age aggressive all allergy also and any apical
area atypical base benign bilateral body border borderline can case cause cavity central change child
chronic clear clinical complication condition congenital contour cord course death decreased deep defect
delayed deterioration diffuse discomfort disease disorder distal distribution dominant dull duration
early element episodic evidence excluded extent extreme family fat female finding fluid focal for general
generalized global groove group has head high hot ill impact impression increased indeterminate infant
inferior injury intermediate intermittent intermittently interval junction large lateral left length
lesion level light limb limited localized long loss low lower lumen male malignant margin medial mild
minimal minor mixed moderate more multiple negative new node none normal not now old onset organ organism
other outer pain part patchy patient peripheral persistent phenotypic point position positive possible
posterior present primary process profound progressive projection prominent proximal quality recurrence
recurrent refractory region regional result right root segment series severe severity sharp short side
sided sign similar single sinus site size skin slow small solitary space spatial stable stage state
status structure superior surface symptom syndrome system tissue total trauma trigger tubular type
unchanged unilateral unknown unspecified upper valve variable view wall was white wide within worsening
"""
_AMBIGUOUS = frozenset(_AMBIGUOUS_WORDS.split())


def name_phrases(
    names: pl.DataFrame,
    semantic_types: Callable[[str], tuple[str, ...]],
    taken: Collection[tuple[str, ...]] = (),
) -> Iterator[Phrase]:
    """Phrases for the names of a graph.

    A name scores PREFERRED_SCORE where it is the concept's preferred name, else SYNONYM_SCORE, and AMBIGUOUS_FACTOR
    of that where several concepts have it: each gets a phrase, so that all of them are candidates. Of these the one
    whose preferred name it is wins, then the smaller CURIE (see PhraseMatcher).

    Args:
        names: Columns of kgkit.encoder.artifact.NAME_COLUMNS.
        semantic_types: TUIs of a concept.
        taken: Words (as tokenized) that already stand for something, such as a finding, and for the name less surely.
    """
    kinds: dict[str, MentionKind | None] = {}
    owners: dict[tuple[tuple[str, ...], str], dict[str, bool]] = defaultdict(dict)
    columns = ("concept", "name", "is_abbreviation", "is_preferred")
    for concept, name, abbreviation, preferred in names.filter(english()).select(columns).iter_rows():
        if concept not in kinds:
            kinds[concept] = mention_kind(semantic_types(concept))
        if kinds[concept] is None:
            continue
        words = tokenize(name).words
        if not is_usable_name(name, words):
            continue
        case = name if abbreviation or looks_abbreviated(name) else ""
        owners[words, case][concept] = owners[words, case].get(concept, False) or bool(preferred)
    for (words, case), concepts in owners.items():
        factor = AMBIGUOUS_FACTOR if len(concepts) > 1 or words in taken else 1.0
        for concept, is_preferred in concepts.items():
            kind = kinds[concept]
            assert kind is not None
            score = factor * (PREFERRED_SCORE if is_preferred else SYNONYM_SCORE)
            yield Phrase(case or " ".join(words), concept, kind, score, case_sensitive=bool(case))


def mention_kind(semantic_types: tuple[str, ...]) -> MentionKind | None:
    """Anatomy, observation, or None where a concept of these types is nothing a report sees."""
    if not OBSERVATION_TYPES.isdisjoint(semantic_types):
        return MentionKind.OBSERVATION
    return None if ANATOMY_TYPES.isdisjoint(semantic_types) else MentionKind.ANATOMY


def is_usable_name(name: str, words: tuple[str, ...]) -> bool:
    """Whether a name is worth looking for: some letters, no punctuation, not too long, no everyday word.

    A name that looks like a de-identification mark ("XXXX syndrome") would be found where a report says nothing.

    >>> [is_usable_name(name, tokenize(name).words) for name in ("Effusion", "Right", "Edema, lung", "T4")]
    [True, False, False, False]
    """
    if not words or len(words) > _MAX_WORDS or not all(word.isalnum() for word in words):
        return False
    if sum(character.isalpha() for character in name) < _MIN_CHARACTERS or any(map(is_redacted, words)):
        return False
    return not all(word in _AMBIGUOUS or len(word) < _MIN_CHARACTERS for word in words)


def looks_abbreviated(name: str) -> bool:
    """Whether a name is an abbreviation by its look: one short word whose letters are all capitals.

    >>> [looks_abbreviated(name) for name in ("COPD", "Lung", "HIV-1", "pneumonia")]
    [True, False, True, False]
    """
    letters = [character for character in name if character.isalpha()]
    return " " not in name and len(name) <= _MAX_ABBREVIATION_CHARACTERS and all(map(str.isupper, letters))
