"""evaluate: one task, one encoder and those it is compared with, in one table with intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from kgkit.encoder.integrity import load_verified_encoder
from kgkit.errors import InputError, choices
from kgkit.evaluation.assertion import assertion
from kgkit.evaluation.entity_linking import entity_linking, lexical_entity_linking, searched_entity_linking
from kgkit.evaluation.finding_presence import LABELS, finding_presence, finding_presence_baselines
from kgkit.evaluation.outcomes import Answer, Measured, means, measure, refuse_unpaired
from kgkit.evaluation.relatedness import lexical_relatedness, relatedness
from kgkit.evaluation.retrieval import (
    definition_retrieval,
    lexical_definition_retrieval,
    lexical_synonym_retrieval,
    synonym_retrieval,
)
from kgkit.evaluation.search_quality import search_quality
from kgkit.ranking import NUM_RESAMPLES
from kgkit.search.concept_search import DENSE, HYBRID
from kgkit.search.concept_search import LEXICAL as LETTERS

ENCODER, LEXICAL = "encoder", "lexical"
"""Names of the rows that every table may have; no other row may take them."""


@dataclass(frozen=True)
class Sources:
    """What is measured on.

    Attributes:
        data: Folder of a test set; None: what the encoder held out itself.
        file: Which file of it.
    """

    data: Path | None
    file: str | None

    @property
    def folder(self) -> Path:
        """The folder, where the task cannot do without."""
        assert self.data is not None
        return self.data


@dataclass(frozen=True)
class Task:
    """One way to measure.

    Attributes:
        ask: Measures an encoder.
        lexical: Measures character n-grams on the same queries.
        rows: Measures the encoder and all that every table of this task shows beside it, by name, the encoder first;
            if not given, the encoder and character n-grams.
        needs: What --data has to hold; None where the encoder's own held-out parts are read.
        may_take_data: Whether --data may replace the own held-out parts.
        has_files: Whether --file chooses among several.
    """

    ask: Callable[[Path, Sources], Answer]
    lexical: Callable[[Path, Sources], Answer] | None = None
    rows: Callable[[Path, Sources], Mapping[str, Answer]] | None = None
    needs: str | None = None
    may_take_data: bool = False
    has_files: bool = False


def _link_prediction(folder: Path, sources: Sources) -> Answer:
    from kgkit.evaluation.link_prediction import link_prediction  # needs torch, which takes seconds to import

    return link_prediction(folder, sources.data)


def _linking(folder: Path, given: Sources) -> Answer:
    if _has_marked_reports(given):
        return finding_presence(folder, given.folder)
    return entity_linking(folder, given.folder, given.file)


def _lexical_linking(folder: Path, given: Sources) -> Answer:
    if _has_marked_reports(given):
        return Answer(cannot="it reads no context, so it cannot say what is present")
    return lexical_entity_linking(folder, given.folder, given.file)


def _linking_rows(folder: Path, given: Sources) -> Mapping[str, Answer]:
    both = {ENCODER: _linking(folder, given), LEXICAL: _lexical_linking(folder, given)}
    if _has_marked_reports(given):
        return both | finding_presence_baselines(given.folder)
    return both | searched_entity_linking(folder, given.folder, given.file)


def _search_rows(folder: Path, _: Sources) -> Mapping[str, Answer]:
    answers = search_quality(folder)  # in one index
    return {ENCODER: answers[HYBRID], DENSE: answers[DENSE], LETTERS: answers[LETTERS]}


def _has_marked_reports(given: Sources) -> bool:
    return (given.folder / LABELS).is_file()


TASKS = MappingProxyType(
    {
        "link-prediction": Task(_link_prediction, may_take_data=True),
        "synonym": Task(
            lambda folder, _: synonym_retrieval(folder), lambda folder, _: lexical_synonym_retrieval(folder)
        ),
        "definition": Task(
            lambda folder, _: definition_retrieval(folder), lambda folder, _: lexical_definition_retrieval(folder)
        ),
        "relatedness": Task(
            lambda folder, given: relatedness(folder, given.folder),
            lambda folder, given: lexical_relatedness(folder, given.folder),
            needs="EHR-RelA.tsv",
        ),
        "linking": Task(
            _linking,
            _lexical_linking,
            _linking_rows,
            needs="NCBI*_corpus.txt, or with reports.csv and labels14.csv",
            has_files=True,
        ),
        "search": Task(
            lambda folder, _: search_quality(folder, (HYBRID,))[HYBRID],
            rows=_search_rows,
        ),
        "assertion": Task(lambda _, given: assertion(given.folder), needs="context_annotations.tsv"),
    }
)
"""Task name -> how it is measured."""


def evaluate(
    folder: Path,
    task: str,
    data: Path | None = None,
    against: Sequence[tuple[str, Path]] = (),
    seed: int = 0,
    file: str | None = None,
) -> dict[str, Any]:
    """Measure an encoder at one task, beside others.

    Args:
        folder: ENCODER.
        task: One of TASKS.
        data: Folder of the test set, where the task reads one.
        against: (name, ENCODER) of further rows, such as other recipes on the same graph.
        seed: Of the bootstrap.
        file: Which file of `data`, where there are several.

    Returns:
        task, encoder, seed, resamples; `rows`: name, part, figures with `<figure>_interval` (95%, percentile) and
        num_queries; `differences`: the encoder minus each other row, paired on the same queries; `cannot`: row name ->
        why it has no figures; `notes`; and facts about the data. For `assertion` also the figures of each part by
        its name, so that `negation.f1` is one.

    Raises:
        InputError: for an unknown task, data that are missing or not wanted, a folder that is no encoder, names that
            are taken, or encoders that were not asked the same.
    """
    if task not in TASKS:
        raise InputError(f"unknown task {task!r}; {choices(task, TASKS)}")
    chosen, sources = TASKS[task], Sources(data, file)
    check_question(task, sources, against)
    if task != "assertion":
        load_verified_encoder(folder)
    answers = _own_rows(chosen, folder, sources)
    for name, other in against:
        load_verified_encoder(other)
        answers[name] = chosen.ask(other, sources)
        refuse_unpaired(answers[ENCODER], answers[name], f"{name}={other}")
    result = {"task": task, "encoder": str(folder), "seed": seed, "resamples": NUM_RESAMPLES}
    result |= {"about": dict(answers[ENCODER].about)}
    if data is not None:
        result["data"] = str(data)
    measured = _measured(answers, seed)
    result |= _table(answers, measured)
    if task == "assertion":
        result |= {part: figures.to_json() for part, figures in measured[ENCODER].items()}
    return result


def held_out_metrics(folder: Path, seed: int) -> dict[str, Any]:
    """Figures of an encoder on what its training held out, for its metrics.json.

    Args:
        folder: ENCODER, complete up to metrics.json: its manifest is read.
        seed: Of the bootstrap.

    Returns:
        `link_prediction`, `synonym`, `definition`: the figures of the first part with their intervals, and the other
        parts by name; tasks without queries, or that the encoder cannot do, are left out.
    """
    metrics: dict[str, Any] = {}
    for task in ("link-prediction", "synonym", "definition"):
        answer = TASKS[task].ask(folder, Sources(None, None))
        rows = {part: figures.to_json() for part, figures in _measured({ENCODER: answer}, seed)[ENCODER].items()}
        if rows:
            first, *others = rows
            metrics[task.replace("-", "_")] = (
                rows[first] | {"part": first} | dict(answer.about) | {part: rows[part] for part in others}
            )
    return metrics


def _own_rows(chosen: Task, folder: Path, sources: Sources) -> dict[str, Answer]:
    if chosen.rows is not None:
        return dict(chosen.rows(folder, sources))
    answers = {ENCODER: chosen.ask(folder, sources)}
    if chosen.lexical is not None:
        answers[LEXICAL] = chosen.lexical(folder, sources)
    return answers


def check_question(task: str, sources: Sources, against: Sequence[tuple[str, Path]] = ()) -> None:
    """Refuse what a task cannot be asked, before anything is read.

    Raises:
        InputError: for data that are missing or not wanted, or names of rows that are taken.
    """
    chosen = TASKS[task]
    if chosen.needs is not None and sources.data is None:
        raise InputError(f"task {task!r} needs --data: a folder with {chosen.needs}")
    if chosen.needs is None and sources.data is not None and not chosen.may_take_data:
        raise InputError(f"task {task!r} reads what the encoder held out itself; leave --data out")
    if sources.data is not None and not sources.data.is_dir():
        raise InputError(f"no such folder; expected one with {chosen.needs or 'a benchmark'}", sources.data)
    if sources.file is not None and not chosen.has_files:
        raise InputError(f"task {task!r} has no files to choose from; leave --file out")
    if task == "assertion" and against:
        raise InputError(
            "task 'assertion' measures the context rules, which are no part of an encoder; leave --against out"
        )
    names = [name for name, _ in against]
    for name in names:
        if name in (ENCODER, LEXICAL) or names.count(name) > 1:
            raise InputError(f"--against {name!r}: the name is taken; give every row its own")


def _measured(answers: dict[str, Answer], seed: int) -> dict[str, dict[str, Measured]]:
    return {
        name: {
            part: measure(outcomes, seed, answer.statistics.get(part, means)) for part, outcomes in answer.parts.items()
        }
        for name, answer in answers.items()
    }


def _table(answers: dict[str, Answer], measured: dict[str, dict[str, Measured]]) -> dict[str, Any]:
    parts = list(dict.fromkeys(part for answer in answers.values() for part in answer.parts))
    ours = measured[ENCODER]
    rows = [{"name": name, "part": part} | figures[part].to_json()
            for part in parts for name, figures in measured.items() if part in figures]  # fmt: skip
    differences = [{"minus": name, "part": part} | ours[part].minus(figures[part])
                   for part in parts for name, figures in measured.items()
                   if name != ENCODER and part in figures and part in ours]  # fmt: skip
    notes = [f"{name}: {note}" for name, answer in answers.items() for note in answer.notes]
    for name, answer in answers.items():
        for part, counts in answer.about.get("unseen", {}).items():
            if counts["tied"] or (counts["unseen"] and part == "test"):  # inductive facts are unseen by their nature
                notes.append(f"{name}: {counts['unseen']:,} {part} facts have an end or relation that no training fact "
                             f"has; {counts['tied']:,} of them rank as tied with every candidate")  # fmt: skip
    return {
        "rows": rows,
        "differences": differences,
        "cannot": {name: answer.cannot for name, answer in answers.items() if answer.cannot},
        "notes": notes,
    }
