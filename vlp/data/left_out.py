"""A finding left out: data that never speak of it, and what follows from that for all else."""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import torch

from vlp.data.dataset import Questions
from vlp.data.prepared import PreparedData
from vlp.data.report_text import sentence_ranges
from vlp.data.targets import close_targets, report_states
from vlp.knowledge import Knowledge
from vlp.types import TargetValue


def leave_out(data: PreparedData, concept: str, knowledge: Knowledge) -> PreparedData:
    """The same data as if no report had ever spoken of a concept, or of anything narrower, by any name.

    Mentions of them go, of whatever certainty, and with them the sentences they stand in; these are blanked, so that
    all other mentions keep their places. To be asked about the concept afterwards is zero-shot.
    """
    linked = data.mentions["concept"].drop_nulls().unique().to_list()
    gone = [name for name in linked if _is_within(name, concept, knowledge)]
    removed = data.mentions.filter(pl.col("concept").is_in(gone))
    text_of: dict[str, str] = dict(data.studies.select("study_id", pl.col("text").fill_null("")).iter_rows())
    blanked: dict[str, str] = {}
    for study_id, *span in removed.select("study_id", "start", "end").iter_rows():
        text = blanked.get(study_id, text_of[study_id])
        sentences = ((a, b) for a, b, _ in sentence_ranges(text_of[study_id]) if a <= span[0] < b)
        begin, end = next(sentences, span)  # a mention from outside may stand in a heading
        blanked[study_id] = text[:begin] + " " * (end - begin) + text[end:]
    texts = [blanked.get(study_id, text) for study_id, text in text_of.items()]
    studies = data.studies.with_columns(pl.Series("text", texts, dtype=pl.String))
    inside = _rows_in_blanked(data.mentions, text_of, blanked)
    return replace(data, mentions=data.mentions.filter(~inside), studies=studies)


def _is_within(linked: str, concept: str, knowledge: Knowledge) -> bool:
    canonical = knowledge.canonical(linked)
    return canonical is not None and (canonical == concept or concept in knowledge.ancestors(canonical))


def _rows_in_blanked(mentions: pl.DataFrame, before: dict[str, str], after: dict[str, str]) -> pl.Series:
    """Whether a mention's words are no longer there."""
    gone = []
    for study_id, start, end in mentions.select("study_id", "start", "end").iter_rows():
        gone.append(study_id in after and after[study_id][start:end] != before[study_id][start:end])
    return pl.Series(gone, dtype=pl.Boolean)


def mask_what_changed(questions: Questions, data: PreparedData, knowledge: Knowledge, *, closure: bool) -> Questions:
    """The same questions, uncertain wherever the whole reports would have answered otherwise.

    What is broader than a finding left out is present on its films; unmentioned, it would be learnt there as a
    negative, in a vector close to the one that is asked for afterwards. The same goes for other findings of a sentence
    that went, and for `normal`, which the finding denied.

    Args:
        questions: Chosen from the data that `leave_out` gave.
        data: Before anything was left out.
        knowledge: Gives the ancestors.
        closure: As in `close_targets`.
    """
    concepts = [query.concept for query in questions.queries]
    targets = {}
    for split, of_study in questions.targets.items():
        states = report_states(data.mentions, list(of_study), knowledge)
        whole = torch.from_numpy(close_targets(states, concepts, knowledge, closure=closure))
        targets[split] = {
            study_id: torch.where(left == answer, left, int(TargetValue.UNCERTAIN))
            for (study_id, left), answer in zip(of_study.items(), whole, strict=True)
        }
    return replace(questions, targets=targets)
