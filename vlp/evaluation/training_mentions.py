"""What the training reports spoke of, so that an evaluation can say which findings were seen, rare or unseen.

A finding is *seen* if any training report mentions it (present, uncertain or absent), or if it was a query of the
training; *rare* if it is seen but present in few training reports; *unseen* otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from kgkit.interface import Certainty, Finding, InputError, load_findings, write_json_atomically
from vlp.artifact import VlpModel
from vlp.data.prepared import PreparedData
from vlp.evaluation.asked import Asked

MENTIONS_FILE, FILMS_FILE = "training_mentions.json", "training_films.parquet"
RARE_BELOW = 20


@dataclass(frozen=True, slots=True)
class Mentioned:
    """How often the training reports mention a concept.

    Attributes:
        reports: Reports that mention it, in whatever sense.
        present: Reports that call it present.
    """

    reports: int
    present: int


def count_training_mentions(data: PreparedData) -> dict[str, Mentioned]:
    """Concept, as the mentions name it -> reports of the train split that mention it."""
    train = data.splits.filter(pl.col("split") == "train")["study_id"]
    linked = data.mentions.filter(pl.col("study_id").is_in(train.implode()) & pl.col("concept").is_not_null())
    is_present = pl.col("certainty") == Certainty.PRESENT.value
    counts = linked.group_by("concept").agg(
        pl.col("study_id").n_unique().alias("reports"),
        pl.col("study_id").filter(is_present).n_unique().alias("present"),
    )
    return {concept: Mentioned(reports, present) for concept, reports, present in counts.sort("concept").iter_rows()}


def write_training_mentions(folder: Path, data: PreparedData) -> None:
    """Write `training_mentions.json` into a MODEL folder, for evaluations on other data."""
    counts = count_training_mentions(data)
    write_json_atomically(folder / MENTIONS_FILE, {c: [m.reports, m.present] for c, m in counts.items()})


def training_mentions(model: VlpModel, data: PreparedData) -> dict[str, Mentioned] | None:
    """The counts kept with a model; or those of these data, if it was trained on them; else None.

    Raises:
        InputError: if the file in the folder is damaged.
    """
    path = model.folder / MENTIONS_FILE
    if path.is_file():
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return {concept: Mentioned(int(reports), int(present)) for concept, (reports, present) in content.items()}
        except (ValueError, TypeError, AttributeError) as error:
            raise InputError(f"damaged ({error})", path) from error
    return count_training_mentions(data) if data.digest == model.manifest["data_digest"] else None


def write_training_films(folder: Path, data: PreparedData) -> None:
    """Write `training_films.parquet` into a MODEL folder: sha256 and split of the films of train and val."""
    parts = data.splits.filter(pl.col("split").is_in(["train", "val"])).select("study_id", "split")
    films = data.images.join(parts, on="study_id").select("sha256", "split").unique().sort("sha256", "split")
    films.write_parquet(folder / FILMS_FILE)


def studies_learnt_from(model: VlpModel, data: PreparedData, splits: tuple[str, ...] = ("train",)) -> set[str]:
    """Studies of any data that have a film which the model was trained on, or with `val` chosen by: the very same file.

    Raises:
        InputError: if the list in the folder is damaged.
    """
    path = model.folder / FILMS_FILE
    if not path.is_file():
        return set()
    try:
        films = pl.read_parquet(path).filter(pl.col("split").is_in(splits))["sha256"]
    except (OSError, pl.exceptions.PolarsError) as error:
        raise InputError(f"damaged ({str(error).splitlines()[0]})", path) from error
    return set(data.images.filter(pl.col("sha256").is_in(films.implode()))["study_id"])


def trained_counts(model: VlpModel) -> dict[str, int]:
    """Query concept -> training reports in which it is present, narrower concepts counted in."""
    table = pl.read_parquet(model.folder / "queries.parquet", columns=["concept", "count"])
    return {concept: int(count) for concept, count in table.iter_rows() if concept}


def seen_flags(
    asked: Asked, mentions: Mapping[str, Mentioned] | None, present_in_training: Mapping[str, int]
) -> dict[str, object]:
    """Flags of one row.

    Args:
        asked: The column.
        mentions: As from `training_mentions`.
        present_in_training: Query concept -> training reports that have it, narrower concepts counted in.

    Returns:
        `training` (seen, rare, unseen; None if it cannot be known), `seen`, `rare`, `seen_in_training` (it was a
        query of the training) and `training_reports` / `training_present`, None where not known.
    """
    ids = {asked.query.concept} if asked.query.concept is not None else set[str]()
    finding = asked.finding or _finding_of(asked.query.concept)
    if finding is not None:
        ids |= {f"finding:{finding.key}", *finding.concepts}
    was_query = asked.query.is_seen
    known = [mentions[concept] for concept in ids if concept in mentions] if mentions is not None else []
    present = max([m.present for m in known] + [present_in_training.get(c, 0) for c in ids], default=0)
    reports = max([m.reports for m in known] + [present], default=0)
    is_known = mentions is not None or was_query
    seen = was_query or reports > 0
    rare = seen and present < RARE_BELOW
    return {
        "training": ("rare" if rare else "seen" if seen else "unseen") if is_known else None,
        "seen": seen if is_known else None,
        "rare": rare if is_known else None,
        "seen_in_training": was_query,
        "training_reports": reports if is_known else None,
        "training_present": present if is_known else None,
    }


def _finding_of(concept: str | None) -> Finding | None:
    return next((f for f in load_findings().values() if concept is not None and concept in f.concepts), None)
