"""`vlp data-info`: what a DATA folder holds, and whether its parts are really apart."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl

from kgkit.interface import load_findings
from vlp.data.labels import findings_of_labels
from vlp.data.prepared import LABEL_PREFIX, UNCERTAIN_PREFIX, PreparedData, load_data

_SHOWN = 5


def data_info(folder: Path) -> dict[str, Any]:
    """Counts, prevalence and leakage of a DATA folder.

    Returns:
        `dataset`, `parts` (split -> studies, patients, films, views, reports, mentions), `labels` (label -> finding and
        split -> positive, negative, uncertain, unknown), `concepts` (concept -> name and split -> studies in which it
        is present, uncertain, absent), `leakage`, `skipped`.

    Raises:
        InputError: if the folder is no DATA folder.
    """
    data = load_data(folder)
    split_of = data.splits.select("study_id", "split")
    manifest = data.manifest
    return {
        "dataset": manifest["dataset"],
        "layout": manifest["layout"],
        "licence": manifest["licence"],
        "split_by": manifest.get("split_by"),
        "mentions_from": manifest.get("mentions_from"),
        "data_digest": data.digest,
        "parts": _parts(data, split_of),
        "labels": _labels(data, split_of),
        "concepts": _concepts(data, split_of),
        "boxes": dict(Counter(data.boxes["label"].to_list())),
        "leakage": leakage(data),
        "skipped": manifest.get("skipped_by_reason", {}),
        "notes": manifest.get("notes", []),
    }


def leakage(data: PreparedData) -> dict[str, Any]:
    """What stands in two parts, by four measures; each has a count and the first few cases.

    `patients`; `same_file` (SHA-256 of the file); `same_look` (films that look alike to `difference_hash` and are not
    the same file); `same_report` (report text without case, digits and punctuation; that short normal reports repeat
    themselves is no leak of its own, so the longest come first).
    """
    patients = data.splits.select(key="patient_id", what="study_id", split="split")
    films = data.images.join(data.splits.select("study_id", "split"), on="study_id")
    reports = data.studies.join(data.splits.select("study_id", "split"), on="study_id").with_columns(
        key=pl.col("text").str.to_lowercase().str.replace_all(r"[^a-z\p{L}]+", " ").str.strip_chars()
    )
    reports = reports.filter(pl.col("key") != "")
    looks = films.filter(pl.col("look").is_not_null()).unique("sha256", keep="first", maintain_order=True)
    texts = _across(reports.select("key", "split", what="study_id"))
    texts["cases"].sort(key=lambda case: (-len(case["key"]), case["key"]))
    found = {
        "patients": _across(patients),
        "same_file": _across(films.select("split", key="sha256", what="path")),
        "same_look": _across(looks.select("split", key="look", what="path")),
        "same_report": texts,
    }
    return {name: {"count": value["count"], "cases": value["cases"][:_SHOWN]} for name, value in found.items()}


def _across(table: pl.DataFrame) -> dict[str, Any]:
    """Keys that stand in more than one split; columns key, split, what."""
    grouped = table.group_by("key").agg(
        pl.col("split").unique().sort().alias("splits"), pl.col("what").sort().alias("what")
    )
    shared = grouped.filter(pl.col("splits").list.len() > 1).sort("key")
    cases = [{"key": key, "splits": splits, "what": what[:_SHOWN]} for key, splits, what in shared.iter_rows()]
    return {"count": len(cases), "cases": cases}


def _parts(data: PreparedData, split_of: pl.DataFrame) -> dict[str, Any]:
    parts = {}
    for split in sorted(data.splits["split"].unique().to_list()):
        ids = data.study_ids(split)
        studies = data.studies.filter(pl.col("study_id").is_in(ids))
        films = data.films(ids, frontal_only=False)
        mentions = data.mentions.filter(pl.col("study_id").is_in(ids))
        ages = studies["age"].drop_nulls()
        parts[split] = {
            "studies": len(studies),
            "patients": studies["patient_id"].n_unique(),
            "films": len(films),
            "studies_without_film": len(studies) - films["study_id"].n_unique(),
            "views": _counts(films["view"]),
            "projections": _counts(films["projection"]),
            "reports": int((studies["text"].str.strip_chars() != "").sum()),
            "mentions": len(mentions),
            "linked_mentions": len(mentions) - mentions["concept"].null_count(),
            "sex": _counts(studies["sex"]),
            "age_median": None if ages.is_empty() else ages.median(),
        }
    return parts


def _counts(column: pl.Series) -> dict[str, int]:
    return dict(sorted(Counter(value for value in column.to_list() if value).items()))


def _labels(data: PreparedData, split_of: pl.DataFrame) -> dict[str, Any]:
    studies = data.studies.join(split_of, on="study_id")
    findings = findings_of_labels(data.labels, str(data.manifest["label_set"]))
    found: dict[str, Any] = {}
    for label in data.labels:
        values = {}
        for (split,), part in sorted(studies.group_by("split")):
            column = part[LABEL_PREFIX + label]
            doubt = part[UNCERTAIN_PREFIX + label] if UNCERTAIN_PREFIX + label in part.columns else None
            uncertain = 0 if doubt is None else int(doubt.sum())
            values[str(split)] = {
                "positive": int((column == 1).sum()),
                "negative": int((column == 0).sum()),
                "uncertain": uncertain,
                "unknown": column.null_count() - uncertain,
            }
        found[label] = {"finding": findings.get(label), "parts": values}
    return found


def _concepts(data: PreparedData, split_of: pl.DataFrame) -> dict[str, Any]:
    """Per observed concept: studies that say so of the patient, now; present beats uncertain beats absent."""
    mentions = data.mentions.filter(
        pl.col("concept").is_not_null()
        & (pl.col("kind") == "observation")
        & (pl.col("temporality") == "recent")
        & (pl.col("experiencer") == "patient")
    )
    rank = pl.col("certainty").replace_strict({"present": 2, "uncertain": 1, "absent": 0}, return_dtype=pl.Int8)
    states = mentions.with_columns(rank=rank).group_by("study_id", "concept").agg(pl.col("rank").max())
    names = mentions.group_by("concept").agg(pl.col("text").str.to_lowercase().mode().sort().first())
    name_of = dict(names.iter_rows()) | _finding_names(names["concept"].to_list())
    table = states.join(split_of, on="study_id").group_by("concept", "split", "rank").len()
    found: dict[str, Any] = {}
    for concept, split, order, count in table.sort("concept", "split", "rank").iter_rows():
        entry = found.setdefault(concept, {"name": name_of[concept], "parts": {}})
        part = entry["parts"].setdefault(split, {"present": 0, "uncertain": 0, "absent": 0})
        part[("absent", "uncertain", "present")[order]] = count
    return dict(sorted(found.items(), key=lambda item: (-_present(item[1]), item[0])))


def _finding_names(concepts: list[str]) -> dict[str, str]:
    """Concept -> the name of the finding it is the first concept of."""
    findings = load_findings().values()
    keys = {f"finding:{finding.key}": finding.name for finding in findings}
    named = {concept: finding.name for finding in reversed(findings) for concept in finding.concepts[:1]}
    return {concept: (named | keys)[concept] for concept in concepts if concept in named or concept in keys}


def _present(entry: dict[str, Any]) -> int:
    return sum(part["present"] for part in entry["parts"].values())
