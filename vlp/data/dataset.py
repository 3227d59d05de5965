"""From DATA and ENCODER to tensors: what is asked, what the reports say, what the films show."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
import torch
from torch import Tensor

from kgkit.interface import InputError, load_findings, load_verified_encoder
from vlp.config import TrainConfig, VlpRecipe
from vlp.data.film_cache import FilmCache
from vlp.data.prepared import PreparedData
from vlp.data.report_text import Sentence, entity_text, report_sentences
from vlp.data.targets import ReportStates, choose_concepts, close_targets, report_states
from vlp.knowledge import AskedConcept, Knowledge
from vlp.types import TargetValue

_KAD_MAX_TOKENS = 256
_MAX_NAMES = 16


@dataclass(frozen=True)
class ReportTexts:
    """What the reports of some studies say, as vectors.

    Attributes:
        reports: float32 [N, E]: mean of the sentences, unit norm; for method `kad` the vector of the entity text. Zero
            where there is no text.
        sentences: float32 [M, E], unit norm: the distinct sentences that deny and doubt nothing.
        says: bool [M, Q]: queries that a sentence calls present, closed under is-a where the recipe says so.
        starts: int64 [N + 1]: the sentences of study n are `members[starts[n]:starts[n + 1]]`.
        members: int64 [K], rows of `sentences`.
    """

    reports: Tensor
    sentences: Tensor
    says: Tensor
    starts: Tensor
    members: Tensor

    def draw(self, rows: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """One sentence of each of some studies, at random.

        Args:
            rows: int64 [B], studies.
            generator: Of the draw.

        Returns:
            int64 [S], distinct rows of `sentences`; S is below B where studies share one or have none. And bool [B, S],
            which report holds which.
        """
        counts = self.starts[rows + 1] - self.starts[rows]
        place = (torch.rand(len(rows), generator=generator) * counts).long()
        drawn = torch.unique(self.members[(self.starts[rows] + place)[counts > 0]])
        own = torch.zeros(len(rows), len(drawn), dtype=torch.bool)
        for position, row in enumerate(rows.tolist()):
            own[position] = torch.isin(drawn, self.members[self.starts[row] : self.starts[row + 1]])
        return drawn, own


@dataclass(frozen=True)
class FilmSet:
    """Films of a split.

    Attributes:
        cache: What the films look like; it may hold other films too.
        rows: int64 [N], place of each film in the cache.
        targets: int8 [N, Q], values of `TargetValue`.
        studies: int64 [N], row of each film's study in `texts`.
        texts: Of the reports.
    """

    cache: FilmCache
    rows: Tensor
    targets: Tensor
    studies: Tensor
    texts: ReportTexts

    def __len__(self) -> int:
        return int(self.targets.shape[0])

    def parts(self, at_most: int = 0) -> Iterator[Tensor]:
        """The films as they are (view 0), some at a time, as `FilmCache.parts` gives them.

        Args:
            at_most: Every so manieth film, so that they are no more than this; 0 for all.
        """
        step = math.ceil(len(self) / at_most) or 1 if at_most else 1
        return self.cache.parts(self.rows[::step])


@dataclass(frozen=True)
class Questions:
    """What will be asked, and the answers the reports give.

    Attributes:
        queries: The chosen concepts.
        counts: Training studies in which each is present.
        vectors: float32 [Q, E].
        names: float32 [K, E], vectors of names of the queries; empty unless the recipe asks by them.
        name_starts: int64 [Q + 1]: the names of query q are `names[name_starts[q]:name_starts[q + 1]]`.
        targets: Split -> study id -> int8 [Q].
        texts: Split -> texts of its studies, in the order of `targets[split]`.
        unused: Reason -> mentions of the training reports that were not used.
        silent: Training studies without a report, which are not learnt from: that nothing is said denies nothing.
        encoder_digest: Of the encoder.
        licence_level: Highest licence level of anything the encoder was trained on.
    """

    queries: list[AskedConcept]
    counts: list[int]
    vectors: Tensor
    names: Tensor
    name_starts: Tensor
    targets: dict[str, dict[str, Tensor]]
    texts: dict[str, ReportTexts]
    unused: dict[str, int]
    silent: int
    encoder_digest: str
    licence_level: int


def choose_questions(data: PreparedData, config: TrainConfig, knowledge: Knowledge | None = None) -> Questions:
    """Choose the queries from the training reports, and build the targets of train and val.

    Args:
        data: What to learn from.
        config: Of the run.
        knowledge: Opened before, with what it has read; by default the encoder of the run is opened.

    Raises:
        InputError: if no training study has a film, or no concept is mentioned often enough.
    """
    recipe = config.recipe
    if knowledge is None:
        knowledge = Knowledge(load_verified_encoder(config.encoder_dir), load_findings(), recipe.targets.vectors)
    encoder = knowledge.encoder
    with_films = {split: studies_with_films(data, split, recipe.frontal_only) for split in ("train", "val")}
    if not with_films["train"]:
        raise InputError("no study of the train split has a film to train on", config.data_dir)
    studies = {split: _with_a_report(data, ids) for split, ids in with_films.items()}
    if not studies["train"]:
        raise InputError("no study of the train split that has a film has a report to learn from", config.data_dir)
    reports = report_states(data.mentions, studies["train"], knowledge)
    queries, counts = _queries(reports, recipe, knowledge, config)
    concepts = [query.concept for query in queries]
    targets, texts = {}, {}
    for split, ids in studies.items():
        states = reports if split == "train" else report_states(data.mentions, ids, knowledge)
        rows = torch.from_numpy(close_targets(states, concepts, knowledge, closure=recipe.targets.closure))
        targets[split] = dict(zip(ids, rows, strict=True))
        texts[split] = read_texts(report_sentences(data, ids), concepts, knowledge, recipe)
    vectors = torch.from_numpy(knowledge.vectors(queries))
    # Sentences differ from names in one direction all together; asked in the place of names they stand among them.
    among = texts["train"].sentences
    if len(among):
        shifted = among - among.mean(0) + vectors.mean(0)
        texts["train"] = replace(texts["train"], sentences=shifted)
    names, starts = _name_vectors(concepts, knowledge, recipe)
    level = int(encoder.manifest.get("licence_level", 0))
    silent = len(with_films["train"]) - len(studies["train"])
    unused, digest = reports.unused, encoder.digest
    return Questions(queries, counts, vectors, names, starts, targets, texts, unused, silent, digest, level)


def film_set(questions: Questions, split: str, cache: FilmCache, films: pl.DataFrame) -> FilmSet:
    """The films of a split beside their targets and texts.

    Args:
        questions: With targets and texts of the split.
        split: `train` or `val`.
        cache: Holds the films.
        films: Rows of `PreparedData.images`, those of the split.
    """
    of_study = questions.targets[split]
    place = {study_id: row for row, study_id in enumerate(of_study)}
    studies = torch.tensor([place[study_id] for study_id in films["study_id"]], dtype=torch.int64)
    targets = [of_study[study_id] for study_id in films["study_id"]]
    empty = torch.empty((0, len(questions.queries)), dtype=torch.int8)
    stacked = torch.stack(targets) if targets else empty
    return FilmSet(cache, cache.rows_of(films), stacked, studies, questions.texts[split])


def studies_with_films(data: PreparedData, split: str, frontal_only: bool) -> list[str]:
    """Ids of the studies of a split that have a film to look at, sorted; none if there is no such split."""
    if split not in set(data.splits["split"].to_list()):
        return []
    films = data.films(data.study_ids(split), frontal_only=frontal_only)
    return films["study_id"].unique().sort().to_list()


def _with_a_report(data: PreparedData, study_ids: list[str]) -> list[str]:
    """Those of some studies that have a report or mentions; one that was blanked still is one."""
    spoken = set(data.studies.filter(pl.col("text").fill_null("") != "")["study_id"])
    spoken |= set(data.mentions["study_id"])
    return [study_id for study_id in study_ids if study_id in spoken]


def _queries(
    reports: ReportStates, recipe: VlpRecipe, knowledge: Knowledge, config: TrainConfig
) -> tuple[list[AskedConcept], list[int]]:
    """What is asked, and in how many training studies each is present."""
    if recipe.targets.queries == "kad":
        queries = _kad_queries(knowledge)
        present = close_targets(reports, [query.concept for query in queries], knowledge) == TargetValue.PRESENT
        return queries, present.sum(axis=0).tolist()
    chosen = choose_concepts(reports, recipe.targets, knowledge)
    if not chosen:
        raise InputError(
            f"no concept is present in {recipe.targets.min_count} or more of the "
            f"{len(reports.study_ids)} training reports; mentions left out: "
            f"{reports.unused or 'none'}; lower targets.min_count",
            config.data_dir / "mentions.parquet",
        )
    return [knowledge.ask(concept) for concept in chosen], list(chosen.values())


def _kad_queries(knowledge: Knowledge) -> list[AskedConcept]:
    """The 41 strings of KAD, each under the concept its finding has here."""
    findings = [finding for finding in knowledge.findings.values() if "kad" in finding.labels]
    asked: dict[str, AskedConcept] = {}
    for finding in findings:
        query = knowledge.ask(knowledge.concept_of_finding(finding))
        if knowledge.kind == "text":
            query = replace(query, text=finding.labels["kad"])
        asked.setdefault(query.concept, query)
    return list(asked.values())


def read_texts(
    reports: Sequence[Sequence[Sentence]], concepts: Sequence[str], knowledge: Knowledge, recipe: VlpRecipe
) -> ReportTexts:
    """Vectors of reports and their sentences.

    Args:
        reports: Sentences of each study.
        concepts: The queries.
        knowledge: Reads text.
        recipe: Says what is needed.
    """
    dim = knowledge.encoder.dim
    if recipe.method == "kad":
        vectors = knowledge.embed([entity_text(report) for report in reports], _KAD_MAX_TOKENS)
        return _without_sentences(torch.from_numpy(vectors), len(concepts))
    if recipe.loss.contrast_weight == 0 and recipe.loss.sentence_weight == 0:
        return _without_sentences(torch.zeros(len(reports), dim), len(concepts))
    distinct = {sentence.text: sentence for report in reports for sentence in report}
    place = {text: row for row, text in enumerate(distinct)}
    vectors = knowledge.embed(list(distinct))
    means = np.zeros((len(reports), dim), dtype=np.float32)
    for row, report in enumerate(reports):
        if report:
            mean = vectors[[place[sentence.text] for sentence in report]].mean(axis=0)
            means[row] = mean / max(float(np.linalg.norm(mean)), 1e-6)
    # One sentence may be affirmed in one report and, after another one, not: every report speaks for itself.
    kept = [[sentence for sentence in report if sentence.is_affirmed] for report in reports]
    affirmed = {sentence.text: sentence for report in kept for sentence in report}
    row_of = {text: row for row, text in enumerate(affirmed)}
    members = [sorted({row_of[sentence.text] for sentence in report}) for report in kept]
    return ReportTexts(
        torch.from_numpy(means),
        torch.from_numpy(vectors[[place[text] for text in affirmed]].reshape(-1, dim)),
        _says(list(affirmed.values()), concepts, knowledge, closure=recipe.targets.closure),
        torch.tensor([0, *np.cumsum([len(rows) for rows in members])], dtype=torch.int64),
        torch.tensor([row for rows in members for row in rows], dtype=torch.int64),
    )


def _says(sentences: Sequence[Sentence], concepts: Sequence[str], knowledge: Knowledge, *, closure: bool) -> Tensor:
    """Bool [M, Q]."""
    column = {concept: position for position, concept in enumerate(concepts)}
    says = torch.zeros(len(sentences), len(concepts), dtype=torch.bool)
    for row, sentence in enumerate(sentences):
        linked = {knowledge.canonical(mention["concept"]) for mention in sentence.mentions if mention["concept"]}
        for concept in linked - {None}:
            assert concept is not None
            meant = {concept, *knowledge.ancestors(concept)} if closure else {concept}
            says[row, [column[name] for name in meant & column.keys()]] = True
    return says


def _without_sentences(reports: Tensor, queries: int) -> ReportTexts:
    none = torch.zeros(0, dtype=torch.int64)
    return ReportTexts(
        reports,
        torch.zeros(0, reports.shape[1]),
        torch.zeros(0, queries, dtype=torch.bool),
        torch.zeros(len(reports) + 1, dtype=torch.int64),
        none,
    )


def _name_vectors(concepts: Sequence[str], knowledge: Knowledge, recipe: VlpRecipe) -> tuple[Tensor, Tensor]:
    """Vectors of up to 16 names of each query, and where those of each begin."""
    if recipe.targets.synonym_rate == 0 or recipe.targets.vectors in ("random", "shuffled"):
        return torch.zeros(0, knowledge.encoder.dim), torch.zeros(len(concepts) + 1, dtype=torch.int64)
    names = [knowledge.names(concept)[:_MAX_NAMES] for concept in concepts]
    starts = torch.tensor([0, *np.cumsum([len(own) for own in names])], dtype=torch.int64)
    return torch.from_numpy(knowledge.embed([name for own in names for name in own])), starts
