"""Fits with several fractions and seeds in one table. Pure: plain dicts in and out."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

Metrics = Mapping[str, Any]
_WIDTH = 24


def summarise(zero_shot: Metrics, fits: Mapping[float, Sequence[Metrics]], min_positives: int) -> dict[str, Any]:
    """Means over seeds, beside the zero-shot row.

    A macro mean is over the findings that are defined in every fit it is compared with and have `min_positives`
    positive test studies (all that are defined, if none has); the zero-shot mean beside it is over the same ones.

    Args:
        zero_shot: As `measure` gives it; `skipped` alone where the model could not be asked.
        fits: Fraction -> one `measure` for each seed.
        min_positives: Positive test studies a finding needs to count.

    Returns:
        `zero_shot`, `fractions` (fraction -> `macro_auroc`, `per_finding`, `normal`, and what was drawn) and
        `shared_macro_auroc`: over the findings defined in all fits, so that fractions can be compared.
    """
    rows = zero_shot.get("per_finding", {})
    everything = [fit for row in fits.values() for fit in row]
    shared = _counted(everything, rows, min_positives)
    fractions = {}
    for fraction, row in fits.items():
        counted = _counted(row, rows, min_positives)
        names = sorted({name for fit in row for name in fit["per_finding"]})
        fractions[f"{fraction:g}"] = {
            "macro_auroc": _macro(row, counted) | {"zero_shot": _mean_of(rows, counted)},
            "per_finding": {
                name: _spread([_auroc(fit, name) for fit in row])
                | {"positives": row[0]["per_finding"][name]["positives"]}
                for name in names
            },
            "normal": _spread([(fit["normal"] or {}).get("auroc") for fit in row]),
            "train_patients": [fit["train_patients"] for fit in row],
            "train_studies": [fit["train_studies"] for fit in row],
            "strengths": [fit["strength"] for fit in row],
        } | ({"best_epochs": [fit["best_epoch"] for fit in row]} if all("best_epoch" in fit for fit in row) else {})
    return {
        "zero_shot": {"skipped": zero_shot["skipped"]} if "skipped" in zero_shot else _zero_shot_row(zero_shot),
        "fractions": fractions,
        "shared_macro_auroc": {
            "findings": shared,
            "zero_shot": _mean_of(rows, shared),
            "fractions": {f"{fraction:g}": _macro(row, shared) for fraction, row in fits.items()},
        },
        "min_positives": min_positives,
    }


def table(metrics: Metrics) -> list[str]:
    """The summary as lines of text: AUROC, mean and deviation over seeds, and in how many of them it is defined."""
    fractions = metrics["fractions"]
    zero_shot = metrics["zero_shot"]
    findings = zero_shot.get("per_finding", {})
    lines = [f"{'finding':<22} {'zero-shot':>9}" + "".join(f" {float(name):>{_WIDTH}.0%}" for name in fractions)]
    names = sorted({name for row in fractions.values() for name in row["per_finding"]})
    for name in names:
        cells = [_cell(row["per_finding"].get(name, {})) for row in fractions.values()]
        lines.append(f"{name:<22} {_number(findings.get(name)):>9}" + "".join(f" {cell:>{_WIDTH}}" for cell in cells))
    cells = [_cell(row["normal"]) for row in fractions.values()]
    lines.append(
        f"{'normal':<22} {_number(zero_shot.get('normal')):>9}" + "".join(f" {cell:>{_WIDTH}}" for cell in cells)
    )
    for fraction, row in fractions.items():
        macro = row["macro_auroc"]
        left = f"{f'macro, {float(fraction):.0%}':<22} {_number(macro['zero_shot']):>9}"
        lines.append(f"{left} {_cell(macro):>{_WIDTH}}  over {len(macro['findings'])} findings")
    shared = metrics["shared_macro_auroc"]
    cells = [_cell(row) for row in shared["fractions"].values()]
    lines.append(
        f"{'macro, same findings':<22} {_number(shared['zero_shot']):>9}"
        + "".join(f" {cell:>{_WIDTH}}" for cell in cells)
        + f"  over {len(shared['findings'])} findings"
    )
    if "skipped" in zero_shot:
        lines.append(f"no zero-shot row: {zero_shot['skipped']}")
    return lines


def _zero_shot_row(zero_shot: Metrics) -> dict[str, Any]:
    return {
        "macro_auroc": zero_shot["macro_auroc"],
        "per_finding": {name: row["auroc"] for name, row in zero_shot["per_finding"].items()},
        "normal": (zero_shot["normal"] or {}).get("auroc"),
    }


def _counted(fits: Sequence[Metrics], zero_shot: Mapping[str, Metrics], min_positives: int) -> list[str]:
    """Findings defined in all fits, and zero-shot where there is any; the frequent ones if there are any."""
    first = fits[0]["per_finding"]
    defined = [
        name
        for name in sorted(first)
        if all(_auroc(fit, name) is not None for fit in fits)
        and (not zero_shot or zero_shot.get(name, {}).get("auroc") is not None)
    ]
    return [name for name in defined if first[name]["positives"] >= min_positives] or defined


def _macro(fits: Sequence[Metrics], counted: list[str]) -> dict[str, Any]:
    values = [_mean([_auroc(fit, name) for name in counted]) for fit in fits]
    return _spread(values) | {"findings": counted}


def _mean_of(zero_shot: Mapping[str, Metrics], counted: list[str]) -> float | None:
    return _mean([zero_shot[name]["auroc"] for name in counted]) if zero_shot else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _auroc(fit: Metrics, name: str) -> float | None:
    value: float | None = fit["per_finding"].get(name, {}).get("auroc")
    return value


def _spread(values: Sequence[float | None]) -> dict[str, Any]:
    """Mean, standard deviation (n - 1), smallest and largest of the seeds that are defined; and all of them."""
    known = [value for value in values if value is not None]
    return {
        "mean": statistics.fmean(known) if known else None,
        "sd": statistics.stdev(known) if len(known) > 1 else None,
        "min": min(known, default=None),
        "max": max(known, default=None),
        "seeds_defined": len(known),
        "values": list(values),
    }


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _cell(spread: Metrics) -> str:
    """`0.812 +- 0.010`, and `(2 of 3)` where it is undefined in some seeds."""
    if spread.get("mean") is None:
        return "undefined"
    deviation = "" if spread["sd"] is None else f" +- {spread['sd']:.3f}"
    defined, seeds = spread["seeds_defined"], len(spread["values"])
    return f"{spread['mean']:.3f}{deviation}" + (f" ({defined} of {seeds})" if defined < seeds else "")
