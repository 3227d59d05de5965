"""ablate: the same training with parts switched off, and with the recipes people use today, over several seeds."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from kgkit.encoder.config import EncoderRecipe
from kgkit.errors import InputError, choices
from kgkit.evaluation.evaluate import LEXICAL, TASKS, Sources, check_question
from kgkit.evaluation.outcomes import Answer, Measured, Outcomes, figures_of, means, measure, refuse_unpaired
from kgkit.files import partial_path, read_manifest, write_json_atomically, write_text_atomically
from kgkit.progress import progress
from kgkit.recipe import load_recipe, recipe_to_dict
from kgkit.training.loop import CHECKPOINT, train_encoder
from kgkit.training.source import source_digest

SWITCHES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "graph": ("graph.family=none", "graph.fanouts=[]"),
        "relation": ("objectives.relation=0",),
        "alignment": ("objectives.alignment=0",),
        "synonym": ("objectives.synonym=0",),
        "definition": ("objectives.definition=0",),
        "hard-negatives": ("train.hard_negatives=0",),
        "training": ("train.steps=0", "train.fact_steps=0"),
    }
)
"""What can be switched off, and how; `training` leaves every weight as it starts."""

SHUFFLED = "shuffled-graph"


@dataclass(frozen=True)
class Variant:
    """One row of the table."""

    name: str
    recipe: EncoderRecipe


@dataclass(frozen=True)
class Measurement:
    """One column group of the table: a task and what it is measured on."""

    task: str
    data: Path | None = None

    @property
    def name(self) -> str:
        """As it stands in the table."""
        return self.task if self.data is None else f"{self.task} ({self.data.name})"


def make_variants(
    recipe: str, settings: Sequence[str], without: Sequence[str], baselines: Sequence[str], *, shuffled: bool
) -> list[Variant]:
    """The full recipe, then each switch, the shuffled control and the baselines.

    Args:
        recipe: Name or path of the full recipe.
        settings: `key=value`, for every variant alike, so that budgets and held-out parts agree; a recipe of no steps
            (`untrained`) stays without any budget.
        without: Keys of SWITCHES.
        baselines: Names or paths of other recipes.
        shuffled: Whether to add the same training on a graph whose tails are permuted within each relation.

    Raises:
        InputError: for an unknown switch, or what `load_recipe` raises.
    """
    for switch in without:
        if switch not in SWITCHES:
            raise InputError(f"cannot switch off {switch!r}; {choices(switch, SWITCHES)}")

    def load(name: str, *changes: str) -> EncoderRecipe:
        is_untrained = load_recipe(EncoderRecipe, "encoder", name).train.steps == 0
        shared = [setting for setting in settings if not (is_untrained and setting.startswith("train."))]
        return load_recipe(EncoderRecipe, "encoder", name, [*shared, *changes])

    variants = [Variant(Path(recipe).stem, load(recipe))]
    variants += [Variant(f"without {switch}", load(recipe, *SWITCHES[switch])) for switch in without]
    if shuffled:
        variants.append(Variant(SHUFFLED, load(recipe, f"held_out.control={SHUFFLED}")))
    return variants + [Variant(Path(name).stem, load(name)) for name in baselines]


def ablate(
    path: Path, out: Path, variants: Sequence[Variant], seeds: Sequence[int], measurements: Sequence[Measurement]
) -> dict[str, Any]:
    """Train every variant with every seed and measure all of them on the same queries.

    Encoders stand in `<out>/<variant>/seed-<n>`; those that are there already are not trained again, one that was
    killed is resumed. The table is written to `<out>/ablation.json` and `ablation.md`.

    Args:
        path: Graph folder, or benchmark folder.
        out: Folder to make.
        variants: The first one is what the others are compared with.
        seeds: A seed draws the held-out parts and the training.
        measurements: What to measure.

    Returns:
        The content of ablation.json: `rows` with variant, measurement, and of its headline figure the mean and the
        standard deviation over seeds, the 95% interval, and `difference` (first variant minus this one, paired, with
        interval; queries of all seeds pooled).

    Raises:
        InputError: if a folder holds another recipe than the one asked for, or the encoder of another graph.
    """
    if len({variant.name for variant in variants}) < len(variants):
        raise InputError("two variants have one name; give recipes different names")
    for measurement in measurements:
        check_question(measurement.task, Sources(measurement.data, None))
    digest = source_digest(path)
    with progress("encoders", len(variants) * len(seeds), "encoders") as report:
        for seed in seeds:
            for variant in variants:
                _train(path, digest, _folder(out, variant, seed), dataclasses.replace(variant.recipe, seed=seed))
                report.advance(note=f"{variant.name}, seed {seed}")
    rows: list[dict[str, Any]] = []
    for measurement in measurements:
        rows += _measured(out, variants, seeds, measurement)
    result = {"graph": str(path), "seeds": list(seeds), "rows": rows}
    write_json_atomically(out / "ablation.json", result)
    write_text_atomically(out / "ablation.md", render(result))
    return result


def render(result: Mapping[str, Any]) -> str:
    """The table as Markdown."""
    lines = [
        f"# {result['rows'][0]['variant'] if result['rows'] else 'nothing'} and its variants",
        "",
        f"Graph `{result['graph']}`, seeds {', '.join(map(str, result['seeds']))}. Intervals are 95% bootstrap "
        "intervals over the queries of all seeds; a difference is the first variant minus this one, paired.",
    ]
    for name in dict.fromkeys(row["measurement"] for row in result["rows"]):
        rows = [row for row in result["rows"] if row["measurement"] == name]
        if "cannot" in rows[0]:
            lines += ["", f"## {name}: {rows[0]['variant']} cannot be measured: {rows[0]['cannot']}"]
            continue
        lines += ["", f"## {name}: {rows[0]['figure']}, {rows[0]['part']}, {rows[0]['num_queries']:,} queries", "",
                  "| variant | mean (95%) | sd over seeds | difference (95%) | CPU minutes | pairs |",
                  "| --- | --- | --- | --- | --- | --- |"]  # fmt: skip
        for row in rows:
            if "cannot" in row:
                lines.append(f"| {row['variant']} | {row['cannot']} | | | | |")
                continue
            low, high = row["interval"]
            spread = "" if row["sd"] is None else f"{row['sd']:.4f}"
            minutes = "" if row["cpu_minutes"] is None else f"{row['cpu_minutes']:.1f}"
            pairs = "" if row["pairs"] is None else f"{row['pairs']:,.0f}"
            lines.append(f"| {row['variant']} | {row['mean']:.4f} ({low:.4f} to {high:.4f}) | {spread} | "
                         f"{_difference(row)} | {minutes} | {pairs} |")  # fmt: skip
    return "\n".join([*lines, ""])


def _difference(row: Mapping[str, Any]) -> str:
    if row["difference"] is None:
        return ""
    low, high = row["difference_interval"]
    return f"{row['difference']:+.4f} ({low:+.4f} to {high:+.4f})" + (" *" if low > 0 or high < 0 else "")


def _folder(out: Path, variant: Variant, seed: int) -> Path:
    return out / variant.name.replace(" ", "-") / f"seed-{seed}"


def _train(path: Path, digest: str, folder: Path, recipe: EncoderRecipe) -> None:
    if (folder / "manifest.json").exists():
        found = read_manifest(folder, "encoder")
        for key, value, what in (("recipe", recipe_to_dict(recipe), "recipe"), ("graph_digest", digest, "graph")):
            if found[key] != value:
                raise InputError(f"holds an encoder of another {what}; remove it or choose another --out", folder)
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    checkpoint = partial_path(folder) / CHECKPOINT
    train_encoder(path, folder, recipe, resume=checkpoint.exists())


def _measured(
    out: Path, variants: Sequence[Variant], seeds: Sequence[int], measurement: Measurement
) -> list[dict[str, Any]]:
    task, sources = TASKS[measurement.task], Sources(measurement.data, None)
    first = [task.ask(_folder(out, variants[0], seed), sources) for seed in seeds]
    answers = {variants[0].name: first}
    for variant in variants[1:]:
        folders = [_folder(out, variant, seed) for seed in seeds]
        answers[variant.name] = [task.ask(folder, sources) for folder in folders]
        for ours, theirs, folder in zip(first, answers[variant.name], folders, strict=True):
            refuse_unpaired(ours, theirs, str(folder))
    if task.lexical is not None:
        answers[LEXICAL] = [task.lexical(_folder(out, variants[0], seed), sources) for seed in seeds]
    manifests = {
        variant.name: [read_manifest(_folder(out, variant, seed), "encoder") for seed in seeds] for variant in variants
    }
    heading = {"measurement": measurement.name}
    if not all(answer.parts for answer in first):
        reason = next(answer.cannot for answer in first if not answer.parts)
        return [{"variant": variants[0].name, "cannot": reason} | heading]  # nothing to compare the others with
    part = next(iter(first[0].parts))
    reference = _whole(first, part)
    return [
        {"variant": name, "part": part}
        | heading
        | _row(found, part, reference, is_first=name == variants[0].name)
        | {
            "cpu_minutes": _mean(manifests.get(name), "cpu_seconds", 60),
            "pairs": _mean(manifests.get(name), "pairs", 1),
        }
        for name, found in answers.items()
    ]


def _row(answers: Sequence[Answer], part: str, reference: Measured, *, is_first: bool) -> dict[str, Any]:
    cannot = next((answer.cannot for answer in answers if part not in answer.parts), None)
    if cannot is not None:
        return {"cannot": cannot}
    whole = reference if is_first else _whole(answers, part)
    figure = next(iter(whole.figures))
    by_seed = [figures_of(answer.parts[part], answer.statistics.get(part, means))[figure] for answer in answers]
    row = {
        "figure": figure,
        "mean": float(np.mean(by_seed)),
        "sd": float(np.std(by_seed, ddof=1)) if len(by_seed) > 1 else None,
        "by_seed": by_seed,
        "interval": whole.to_json()[f"{figure}_interval"],
        "num_queries": whole.num_queries,
        "difference": None,
    }
    if not is_first:
        difference = reference.minus(whole)
        row |= {"difference": difference[figure], "difference_interval": difference[f"{figure}_interval"]}
    return row


def _whole(answers: Sequence[Answer], part: str) -> Measured:
    """The figures of all seeds' queries together."""
    return measure(_pooled(answers, part), seed=0, statistic=answers[0].statistics.get(part, means))


def _pooled(answers: Sequence[Answer], part: str) -> Outcomes:
    """The outcomes of all seeds as one, each seed's units its own."""
    parts = [answer.parts[part] for answer in answers]
    offsets = np.cumsum([0, *(int(outcomes.units.max()) + 1 for outcomes in parts)])
    columns = {name: np.concatenate([outcomes.columns[name] for outcomes in parts]) for name in parts[0].columns}
    units = np.concatenate([outcomes.units + offset for outcomes, offset in zip(parts, offsets, strict=False)])
    return Outcomes([query for outcomes in parts for query in outcomes.queries], columns, units)


def _mean(manifests: Sequence[Mapping[str, Any]] | None, key: str, divisor: float) -> float | None:
    if manifests is None or any(key not in manifest for manifest in manifests):
        return None
    return float(np.mean([manifest[key] for manifest in manifests])) / divisor
