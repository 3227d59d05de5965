"""The answer of `evaluate` as lines for people."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

_TITLES = MappingProxyType(
    {
        "mrr": "MRR", "hits_at_1": "Hits@1", "hits_at_3": "Hits@3", "hits_at_5": "Hits@5", "hits_at_10": "Hits@10",
        "mean_rank": "mean rank", "tail_mrr": "MRR tails", "head_mrr": "MRR heads", "spearman": "Spearman",
        "pearson": "Pearson", "macro_f1": "macro F1", "micro_f1": "micro F1", "micro_precision": "micro precision",
        "micro_recall": "micro recall", "f1": "F1", "precision": "precision", "recall": "recall",
        "accuracy": "accuracy", "majority_accuracy": "majority accuracy", "majority_f1": "majority F1",
        "majority_macro_f1": "majority macro F1", "recent_f1": "F1 recent", "historical_f1": "F1 historical",
        "hypothetical_f1": "F1 hypothetical", "patient_f1": "F1 patient", "family_f1": "F1 family",
        "other_f1": "F1 other",
    }
)  # fmt: skip
_WIDTH = 27


def evaluation_lines(result: dict[str, Any]) -> list[str]:
    """Tables of an evaluation: per part a row for each method, then the paired differences.

    Args:
        result: What `evaluate` gave.
    """
    about = ", ".join(f"{name.replace('_', ' ')} {_plain(value)}" for name, value in result["about"].items()
                      if not isinstance(value, dict))  # fmt: skip
    told = f"{about}; " if about else ""
    lines = [f"{result['task']}: {told}95% intervals from {result['resamples']:,} resamples, seed {result['seed']}"]
    for part in dict.fromkeys(row["part"] for row in result["rows"]):
        rows = [row for row in result["rows"] if row["part"] == part]
        lines += ["", f"{part}: {rows[0]['num_queries']:,} queries"]
        figures = [name for name in _TITLES if any(name in row for row in rows)]
        names = [row["name"] for row in rows]
        differences = [row for row in result["differences"] if row["part"] == part]
        names += [f"encoder - {row['minus']}" for row in differences]
        width = max(len(name) for name in names) + 2
        lines.append("  " + " " * width + "".join(f"{_TITLES[name]:<{_WIDTH}}" for name in figures).rstrip())
        for name, row, sign in zip(names, rows + differences, [""] * len(rows) + ["+"] * len(differences), strict=True):
            cells = "".join(f"{_estimate(row, figure, sign):<{_WIDTH}}" for figure in figures)
            lines.append(f"  {name:<{width}}{cells}".rstrip())
    lines += [""] if result["cannot"] or result["notes"] else []
    lines += [f"{name}: not measured, {why}" for name, why in result["cannot"].items()]
    return lines + [f"note: {note}" for note in result["notes"]]


def _estimate(row: dict[str, Any], figure: str, sign: str) -> str:
    value = row.get(figure)
    if value is None:
        return "-"
    digits = 1 if figure == "mean_rank" else 3
    low, high = row[f"{figure}_interval"]
    interval = "" if low is None else f" ({low:{sign}.{digits}f} to {high:{sign}.{digits}f})"
    return f"{value:{sign}.{digits}f}{interval}"


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)
