"""The findings of `data_info` as lines for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_LEAKS = {
    "patients": "patients in two parts",
    "same_file": "identical files in two parts",
    "same_look": "films in two parts that look the same and are not the same file",
    "same_report": "report texts that stand in two parts",
}
_KEY_LENGTH = 70


def info_text(info: dict[str, Any], top: int) -> str:
    """All of it, concepts cut to the `top` most frequent."""
    return "\n".join(
        [*_head(info), "", *_parts(info), "", *_labels(info), *_concepts(info, top), *_leakage(info), *_skipped(info)]
    )


def _head(info: dict[str, Any]) -> Iterator[str]:
    yield f"{info['dataset']} ({info['layout']}), split: {info['split_by']}, mentions: {info['mentions_from']}"
    yield f"licence: {info['licence']}"


def _parts(info: dict[str, Any]) -> Iterator[str]:
    yield f"{'part':<8}{'studies':>9}{'patients':>10}{'films':>9}{'reports':>9}{'mentions':>10}  views"
    for split, part in info["parts"].items():
        views = ", ".join(f"{view} {count:,}" for view, count in part["views"].items())
        numbers = [part[name] for name in ("studies", "patients", "films", "reports", "mentions")]
        cells = "".join(f"{value:>{width},}" for value, width in zip(numbers, (9, 10, 9, 9, 10), strict=True))
        yield f"{split:<8}{cells}  {views}"


def _labels(info: dict[str, Any]) -> Iterator[str]:
    splits = list(info["parts"])
    if info["labels"]:
        yield "labels, positive of known (for evaluation only)"
    for label, entry in info["labels"].items():
        cells = []
        for split in splits:
            part = entry["parts"].get(split)
            known = 0 if part is None else part["positive"] + part["negative"]
            doubt = f" +{part['uncertain']:,}?" if part and part["uncertain"] else ""
            share = f"{part['positive'] / known:.1%}" if part and known else "-"
            cells.append(f"{split} {part['positive'] if part else 0:,}/{known:,}{doubt} ({share})")
        unnamed = "" if entry["finding"] else "  (no finding of findings.toml)"
        yield f"  {label:<28} {', '.join(cells)}{unnamed}"
    if info["labels"]:
        yield ""


def _concepts(info: dict[str, Any], top: int) -> Iterator[str]:
    concepts = list(info["concepts"].items())
    if not concepts:
        return
    yield f"concepts in reports, studies present/uncertain/absent ({min(top, len(concepts))} of {len(concepts):,})"
    for concept, entry in concepts[:top]:
        cells = [f"{split} {part['present']:,}/{part['uncertain']:,}/{part['absent']:,}"
                 for split, part in entry["parts"].items()]  # fmt: skip
        yield f"  {concept:<18} {entry['name'][:28]:<28} {', '.join(cells)}"
    yield ""


def _leakage(info: dict[str, Any]) -> Iterator[str]:
    yield "leakage"
    for name, words in _LEAKS.items():
        found = info["leakage"][name]
        yield f"  {found['count']:>6,} {words}"
        for case in found["cases"][:2]:
            key = case["key"] if len(case["key"]) <= _KEY_LENGTH else case["key"][:_KEY_LENGTH] + "..."
            yield f"         {key} ({', '.join(case['splits'])}: {', '.join(case['what'])})"


def _skipped(info: dict[str, Any]) -> Iterator[str]:
    for reason, entry in info["skipped"].items():
        yield f"  skipped {entry['count']:,}: {reason} (first: {entry['first']})"
    for note in info["notes"]:
        yield f"  note: {note}"
