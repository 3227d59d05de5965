"""README.md of an ENCODER: what it was made from, how, how good it is, what it may be used for, how to load it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

TASKS = {
    "link_prediction": "facts, both sides, filtered",
    "synonym": "synonyms -> concept",
    "definition": "definitions -> concept",
}
"""What the table of figures calls each task of metrics.json; others go by their own name."""
_HELD_OUT = {
    "triples": "facts, with everything else that is said of the same two concepts",
    "names": "synonyms, by normalised string: out of training names, neighbours and the definitions of their concepts",
    "definitions": "definitions",
    "concepts": "concepts, with all their names, definitions and facts",
}
_OBJECTIVES = {
    "synonym": "synonym contrast",
    "definition": "name-definition contrast",
    "relation": "relations",
    "alignment": "text-graph alignment",
    "text_pairs": "KAD's text pairs",
}


def model_card(manifest: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    """The card as Markdown, with the front matter that model hubs read.

    What the manifest or the metrics do not say is left out.

    Args:
        manifest: Fields of the encoder's manifest. `sources` are names with release (`HPO@2025-01-16`), or mappings
            with `name`, and, where known, `title` and `licence_level`.
        metrics: Content of metrics.json: per task `mrr`, `mrr_interval`, `hits_at_1`, `hits_at_10`, `num_queries` of
            its `part`, and the same of further parts by their names.
    """
    recipe = _mapping(manifest.get("recipe"))
    sections = (
        _front_matter(manifest, recipe),
        _introduction(manifest, recipe),
        _use(manifest, recipe),
        _data(manifest),
        _training(manifest, recipe),
        _metrics(metrics),
        _held_out(recipe),
        _limits(manifest, recipe),
    )
    return "\n\n".join(section for section in sections if section) + "\n"


def _front_matter(manifest: Mapping[str, Any], recipe: Mapping[str, Any]) -> str:
    """YAML; strings are written as JSON, which is YAML too."""
    has_text = _text_model(recipe) != "none"
    tags = ["concept-embeddings", "knowledge-graph", "ontology", "medical"]
    tags += ["sentence-transformers", "feature-extraction"] if has_text else ["knowledge-graph-embeddings"]
    fields: dict[str, Any] = {
        "license": "other",
        "license_name": f"licences-of-the-sources-level-{_licence_level(manifest)}",
        "library_name": "sentence-transformers" if has_text else "kgkit",
        "tags": tags,
    }
    if has_text:
        fields["pipeline_tag"] = "sentence-similarity"
        if not _is_path(_text_model(recipe)):
            fields["base_model"] = _text_model(recipe)
    return "\n".join(["---", *(f"{key}: {json.dumps(value)}" for key, value in fields.items()), "---"])


def _introduction(manifest: Mapping[str, Any], recipe: Mapping[str, Any]) -> str:
    graph = _mapping(recipe.get("graph")).get("family", "none")
    parts = [] if _text_model(recipe) == "none" else [f"a text tower started from `{_shown_model(recipe)}`"]
    parts += [] if graph == "none" else [f"a relational graph tower (`{graph}`)"]
    made = " and ".join(parts) or "free vectors trained on relations alone: it cannot read text"
    what = f"{manifest['num_concepts']:,} medical concepts as unit vectors of length {manifest['dim']}, by {made}."
    same = " Names, definitions and any other words are read into the same space." if parts else ""
    return f"# Concept encoder\n\n{what}{same}"


def _licence_level(manifest: Mapping[str, Any]) -> str:
    level = manifest.get("licence_level")
    return "unknown" if level is None else str(level)


def _use(manifest: Mapping[str, Any], recipe: Mapping[str, Any]) -> str:
    python = ["from pathlib import Path", "from kgkit.interface import load_encoder", ""]
    python.append('encoder = load_encoder(Path("ENCODER"))')
    python.append("encoder.vectors                                   # float32 "
                  f"[{manifest['num_concepts']}, {manifest['dim']}], rows as in encoder.concepts")  # fmt: skip
    text = ""
    if _text_model(recipe) != "none":
        python.append('encoder.embed_text(["fluid around the lung"])     # float32 '
                      f"[1, {manifest['dim']}], without torch")  # fmt: skip
        text = (
            "\n\nWith sentence-transformers, the text tower alone:\n\n```python\n"
            "from sentence_transformers import SentenceTransformer\n\n"
            'vectors = SentenceTransformer("ENCODER/text").encode(["fluid around the lung"])\n```'
        )
    block = "\n".join(python)
    return (
        f"## Use\n\n```python\n{block}\n```{text}\n\n"
        "`kgkit index`, `kgkit search`, `kgkit link`, `kgkit evaluate` and `kgkit export-embeddings` take this folder."
    )


def _data(manifest: Mapping[str, Any]) -> str:
    rows = []
    for source in manifest.get("sources", ()):
        if isinstance(source, str):
            rows.append((source, "", ""))
        else:
            rows.append((str(source["name"]), str(source.get("title", "")), str(source.get("licence_level", ""))))
    level = f"**{_licence_level(manifest)}**"
    lines = [f"Highest licence level (UMLS source restriction level, 0 to 9) of any text or fact: {level}."]
    if manifest.get("graph_digest"):
        lines.append(f"Digest of the graph: `{manifest['graph_digest']}`.")
    if others := manifest.get("names_in_other_languages"):
        lines.append(f"Names in other languages than English, which taught nothing: {others:,}.")
    names = ("source and release", "title", "licence level")
    filled = [column for column in range(3) if any(row[column] for row in rows)]
    table = _table([names[column] for column in filled], [[row[column] for column in filled] for row in rows])
    return "## Data\n\n" + "\n".join(lines) + (f"\n\n{table}" if rows else "")


def _training(manifest: Mapping[str, Any], recipe: Mapping[str, Any]) -> str:
    rows: list[Sequence[str]] = []
    if _text_model(recipe) != "none":
        rows.append(("base model", f"`{_shown_model(recipe)}`"))
    weights = _mapping(recipe.get("objectives"))
    active = [f"{title} {weights[name]:g}" for name, title in _OBJECTIVES.items() if weights.get(name)]
    if active:
        rows.append(("objectives and weights", ", ".join(active)))
    relation = _mapping(recipe.get("relation"))
    if weights.get("relation") and relation:
        rows.append(
            ("relations", f"{relation['interaction']}, loss {relation['loss']}, {relation['sampling']} negatives")
        )
    if manifest.get("steps") is not None:
        kept = f"; weights of the {manifest['written_weights']}" if manifest.get("written_weights") else ""
        rows.append(("steps", f"{manifest['steps']:,}{kept}"))
    if manifest.get("pairs") is not None:
        rows.append(("training items", f"{manifest['pairs']:,}"))
    if manifest.get("cpu_seconds") is not None:
        seconds = manifest["cpu_seconds"]
        spent = f"{seconds / 60:.1f} minutes" if seconds >= 60 else f"{seconds:.1f} seconds"
        rows.append(("CPU time", f"{spent}, all threads together"))
    for change in manifest.get("recipe_changed", ()):
        rows.append((f"until step {change['step']:,}", f"{change['key']} was {change['before']:g}"))
    if manifest.get("precision"):
        rows.append(("precision", str(manifest["precision"])))
    if "seed" in recipe:
        rows.append(("seed", str(recipe["seed"])))
    control = _mapping(recipe.get("held_out")).get("control", "none")
    if control != "none":
        rows.append(("control", f"**{control}: a control that must not be used for anything else**"))
    provenance = _mapping(manifest.get("provenance"))
    if provenance.get("kgkit"):
        revision = f", revision {provenance['git_revision']}" if provenance.get("git_revision") else ""
        rows.append(("made with", f"kgkit {provenance['kgkit']}{revision}"))
    if not rows:
        return ""
    return "## Training\n\n" + _table(("what", "value"), rows) + "\n\nThe whole recipe is in `manifest.json`."


def _metrics(metrics: Mapping[str, Any]) -> str:
    rows = []
    for task in [*TASKS, *(name for name in metrics if name not in TASKS)]:
        figures = _mapping(metrics.get(task))
        title = TASKS.get(task, task.replace("_", " "))
        parts = {str(figures.get("part", "all")): figures, **figures}
        rows += [_row(title, name, part) for name, part in parts.items() if isinstance(part, Mapping) and "mrr" in part]
    if not rows:
        return "## Measured\n\nNothing was held out, so nothing is measured."
    note = (
        "On what training never saw, among all concepts; 95% bootstrap intervals in brackets. Facts that are asked for "
        "pass no message; an inductive concept hears of its other half. Ties count by their mean rank."
    )
    table = _table(("held out", "part", "MRR", "Hits@1", "Hits@10", "queries"), rows)
    return f"## Measured\n\n{note}\n\n{table}"


def _row(title: str, part: str, figures: Mapping[str, Any]) -> list[str]:
    cells = [_with_interval(figures, key) for key in ("mrr", "hits_at_1", "hits_at_10")]
    return [title, part.replace("_", " "), *cells, f"{figures['num_queries']:,}" if "num_queries" in figures else ""]


def _with_interval(figures: Mapping[str, Any], key: str) -> str:
    value, interval = figures.get(key), figures.get(f"{key}_interval")
    if value is None:
        return ""
    if interval is None or None in interval:
        return f"{value:.3f}"
    return f"{value:.3f} ({interval[0]:.3f} to {interval[1]:.3f})"


def _held_out(recipe: Mapping[str, Any]) -> str:
    shares = _mapping(recipe.get("held_out"))
    lines = [f"- {shares[key]:.1%} of the {what}" for key, what in _HELD_OUT.items() if shares.get(key)]
    if not lines:
        return ""
    tail = (
        "Half as much again of names, definitions and facts served to watch the training (`evaluation/`, part `valid`)."
    )
    return "## Held out\n\n" + "\n".join([*lines, "", tail])


def _limits(manifest: Mapping[str, Any], recipe: Mapping[str, Any]) -> str:
    level = manifest.get("licence_level")
    protected = (
        "Vectors are made from the texts and facts of the sources and carry their licences: whoever receives this "
        "folder, or vectors exported from it, needs the licences of every source above."
    )
    if level == 0:
        protected += " Level 0 asks for no more than the sources' own open terms, attribution among them."
    lines = [
        "**Not for clinical use**: not a medical device; nearness of vectors is no statement about a patient.",
        protected,
        "English names alone, of any region, are trained on and asked; names in other languages have vectors. It "
        "has the view of medicine of those who wrote its sources; rare concepts with one name and few relations are "
        "placed less well.",
        "Neighbours are alike or related, not the same: opposites, and a disease and its organ, may lie close.",
    ]
    if _text_model(recipe) == "none":
        lines.append("Without a text tower: words, and concepts that are not in the graph, have no vector.")
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text_model(recipe: Mapping[str, Any]) -> str:
    return str(_mapping(recipe.get("text")).get("model", "none"))


def _is_path(model: str) -> bool:
    r"""Whether a base model is a place on somebody's disk, not the name of a package or a hub id (`owner/name`)."""
    return re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", model) is None or Path(model).exists()


def _shown_model(recipe: Mapping[str, Any]) -> str:
    """The base model without the folders of the machine it lay on."""
    model = _text_model(recipe)
    return re.split(r"[/\\]", model.rstrip("/\\"))[-1] if _is_path(model) else model


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = [[" ".join(cell.replace("|", r"\|").split()) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in [list(head), ["---"] * len(head), *cells])
