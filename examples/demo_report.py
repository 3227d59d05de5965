"""The page that `make demo` ends with: one file, no network, for someone who has never seen the project."""

from __future__ import annotations

import base64
import csv
import io
import json
from html import escape
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

mpl.rcParams |= {"svg.hashsalt": "kgkit", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}

_CREDIT = (
    "Films: NIH Clinical Center, ChestX-ray14 (Wang et al., ChestX-ray8, CVPR 2017; "
    "nihcc.app.box.com/v/ChestXray-NIHCC). The heat maps are ours."
)
_STYLE = """
body { font: 16px/1.55 system-ui, sans-serif; color: #1c2330; max-width: 980px; margin: 0 auto; padding: 24px }
h1 { font-size: 30px; margin-bottom: 4px } h2 { margin-top: 44px; border-bottom: 2px solid #dde3ee; padding-bottom: 4px }
table { border-collapse: collapse; width: 100%; font-size: 14px } td, th { padding: 4px 10px; text-align: left }
th { border-bottom: 1px solid #b8c1d1 } tr:nth-child(even) td { background: #f5f7fb } .number { text-align: right }
.quiet { color: #5d6778; font-size: 14px } code, pre { font: 13px ui-monospace, monospace; background: #f0f2f7 }
pre { padding: 12px; overflow-x: auto; white-space: pre-wrap } code { padding: 1px 4px }
.cards { display: grid; grid-template-columns: repeat(4, 1fr); gap: 12px }
.card { background: #eef3fc; border-radius: 8px; padding: 12px; text-align: center } .card b { font-size: 24px; display: block }
.line { display: flex; gap: 6px; flex-wrap: wrap; align-items: center; font-size: 14px }
.line span { background: #1f4fa3; color: #fff; border-radius: 6px; padding: 5px 9px } .line i { color: #1f4fa3; font-style: normal }
.films { display: grid; grid-template-columns: repeat(3, 1fr); gap: 14px } figure { margin: 0 } img, svg { max-width: 100% }
figcaption { font-size: 14px } .two { display: grid; grid-template-columns: 1fr 1fr; gap: 20px }
.band { fill: #b9cdf3 } .dot { fill: #1f4fa3 } .chance { stroke: #c0392b; stroke-dasharray: 4 3 }
"""


_TASKS = {
    "link-prediction": "Which concept completes a fact it never saw?",
    "synonym": "Which concept does a name it never saw mean?",
    "definition": "Which concept does a definition it never saw describe?",
}
_RIVALS = {
    "encoder": "this encoder",
    "shuffled": "shuffled graph",
    "untrained": "before training",
    "lexical": "letters",
}


def write_report(demo: Path, root: Path) -> None:
    """Write `demo/report.html` from what the demo's commands left behind.

    Args:
        demo: Folder of the demo's results.
        root: The checkout, for the labels of the NIH films.
    """
    run = _json(demo / "run.json")
    parts = [
        _head(run),
        _graph(_json(demo / "info.json"), demo / "relations.tsv"),
        _encoder({task: _json(demo / f"{task}.json") for task in _TASKS}, _lines(demo / "encoder/training_log.jsonl")),
        _search(_json(demo / "search.json"), _json(demo / "neighbours.json")),
        _model(_json(demo / "evaluation/metrics.json"), _lines(demo / "model/training_log.jsonl"), demo),
        _films(run["films"], demo, root),
        _commands(run),
    ]
    page = f"""<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width"><title>kgkit + vlp demo</title><style>{_STYLE}</style></head>
<body>{"".join(parts)}</body></html>"""
    (demo / "report.html").write_text(page, encoding="utf-8")


def _head(run: dict[str, Any]) -> str:
    names = (
        "vocabularies + reports",
        "RDF graph",
        "concept vectors",
        "search",
        "films + reports",
        "model",
        "answers, heat maps",
    )
    line = "<i>&rarr;</i>".join(f"<span>{name}</span>" for name in names)
    return f"""<h1>From medical knowledge to a chest X-ray model</h1>
<p>This page was made by <code>make demo</code> in {run["seconds"] / 60:.1f} minutes on this machine, on open data that
comes with the project. Every number below was measured in that run.</p>
<p class="line">{line}</p>
<p class="quiet">A small run on small data, to show that the whole line works. Not a medical device.</p>"""


def _graph(info: dict[str, Any], relations: Path) -> str:
    counts = info["counts"]
    shown = ("concepts", "names", "triples", "statements")
    cards = "".join(f'<div class="card"><b>{counts[name]:,}</b>{name}</div>' for name in shown)
    rows, skips = [], []
    for name, source in info["sources"].items():
        files = ", ".join(f"{escape(table)} {count:,}" for table, count in source["rows_read"].items())
        rows.append([escape(name.replace("@", " ")), files, f"{source['statements']:,}"])
        skips += [[f"{count:,}", escape(reason)] for reason, count in source["skipped"].items()]
    with relations.open(encoding="utf-8") as stream:
        facts = [
            [escape(row[0].removeprefix("rela:").replace("_", " ")), f"{int(row[1]):,}"]
            for row in list(csv.reader(stream, delimiter="\t"))[1:]
        ]
    return f"""<h2>1. The knowledge graph</h2>
<p>Open vocabularies about the chest (HPO, Mondo, NCI Thesaurus, Uberon) in the file layout of the UMLS, and eight
annotated example reports. A <b>concept</b> is one medical idea, whatever its names; a <b>triple</b> is a fact such as
<i>pleural effusion is a pleural disorder</i>, kept once and in one direction.</p>
<div class="cards">{cards}</div>
{_table(["source", "rows read", "statements"], rows)}
<div class="two"><div><h3>Commonest relations</h3>{_table(["relation", "facts"], facts)}</div>
<div><h3>Rows not used, and why</h3>{_table(["rows", "reason"], skips)}</div></div>"""


def _encoder(tables: dict[str, dict[str, Any]], log: list[dict[str, Any]]) -> str:
    rows = []
    for task, question in _TASKS.items():
        table = tables[task]
        part = table["rows"][0]["part"]
        differences = {row["minus"]: row for row in table["differences"] if row["part"] == part}
        for row in table["rows"]:
            if row["part"] != part:
                continue
            low, high = row["mrr_interval"]
            cells = [question if row["name"] == "encoder" else "", _RIVALS[row["name"]], f"<b>{row['mrr']:.3f}</b>",
                     f"{low:.3f} to {high:.3f}", f"{row['hits_at_10']:.0%}", f"{row['num_queries']:,}"]  # fmt: skip
            other = differences.get(row["name"])
            if other is not None:
                low, high = other["mrr_interval"]
                clear = "" if low <= 0 <= high else " &#10003;"
                cells.append(f"{other['mrr']:+.3f} ({low:+.3f} to {high:+.3f}){clear}")
            rows.append([*cells, *[""] * (7 - len(cells))])
    candidates = tables["link-prediction"]["about"]["num_candidates"]
    steps = [record["step"] for record in log]
    losses = Figure(figsize=(4.6, 2.6), layout="constrained")
    axes = losses.add_subplot()
    for name in ("relation", "synonym", "definition", "alignment"):
        if name in log[0]["losses"]:
            axes.plot(steps, [record["losses"][name] for record in log], label=name)
    axes.set(xlabel="training step", ylabel="weighted loss", title="What it learns from")
    axes.legend(frameon=False)
    curve = Figure(figsize=(4.6, 2.6), layout="constrained")
    axes = curve.add_subplot()
    for name, words in (("valid_link_mrr", "facts"), ("valid_synonym_mrr", "names")):
        measured = [(record["step"], record[name]) for record in log if name in record]
        if measured:
            axes.plot(*zip(*measured, strict=True), marker="o", label=words)
    axes.set(xlabel="training step", ylabel="MRR among a sample", title="What it never saw (validation)", ylim=(0, 1))
    axes.legend(frameon=False)
    return f"""<h2>2. The concept encoder</h2>
<p>Every concept gets a vector from its words (a small language model) and from its neighbours in the graph (a graph
network). <b>MRR</b> is the mean of 1/rank of the right concept among all {candidates:,}: 1 is perfect, chance is
{_chance(candidates):.4f}. <b>Hits@10</b>: how often the right one is among the first ten. <b>Shuffled graph</b> is the same training on facts
whose right-hand sides were exchanged at random: only what beats it has learnt from the graph. <b>Letters</b> compares
spelling alone. &#10003;: the difference to this encoder is clear of zero (95% bootstrap, same queries).</p>
{_table(["question", "", "MRR", "95% interval", "Hits@10", "queries", "this encoder minus the other"], rows)}
<div class="two">{_svg(losses)}{_svg(curve)}</div>"""


def _search(searches: list[dict[str, Any]], neighbours: list[dict[str, Any]]) -> str:
    blocks = []
    for search in searches:
        rows = [[escape(hit["name"]), escape(hit["concept"]), f"{hit['score']:.2f}"] for hit in search["hits"]]
        blocks.append(
            f"<div><h3>&ldquo;{escape(search['query'])}&rdquo;</h3>{_table(['concept', 'id', 'score'], rows)}</div>"
        )
    rows = [
        [escape(hit["name"]), escape(hit["concept"]), ", ".join(hit["semantic_types"]), f"{hit['score']:.2f}"]
        for hit in neighbours
    ]
    return f"""<h2>3. Searching concepts</h2>
<p>Everyday words find the medical concepts they mean. A score of 1 is a name that stands in a vocabulary.</p><div class="two">{"".join(blocks)}</div>
<h3>Nearest to pleural effusion</h3>{_table(["concept", "id", "semantic type", "score"], rows)}
<p class="quiet">Ids from umls:C9000000 up are placeholders of concepts without a published CUI.</p>"""


def _model(metrics: dict[str, Any], log: list[dict[str, Any]], demo: Path) -> str:
    rows = dict(sorted(metrics["per_finding"].items(), key=lambda item: -(item[1]["auroc"] or 0)))
    if metrics["normal"]:
        rows["normal (nothing found)"] = metrics["normal"]
    body = []
    for name, row in rows.items():
        counted = name in metrics["macro_auroc"]["findings"]
        label = f"<b>{escape(name)}</b>" if counted else escape(name)
        interval = "" if row["low"] is None else f"{row['low']:.2f} to {row['high']:.2f}"
        value = "undefined" if row["auroc"] is None else f"{row['auroc']:.2f}"
        body.append([label, value, interval, _bar(row), f"{row['positives']} of {row['n']}"])
    macro = metrics["macro_auroc"]
    manifest = _json(demo / "model/manifest.json")
    curve = Figure(figsize=(4.6, 2.6), layout="constrained")
    axes = curve.add_subplot()
    epochs = [record["epoch"] for record in log]
    for key, label in (("train_loss", "training films"), ("val_loss", "validation films")):
        if key in log[0]:
            axes.plot(epochs, [record[key] for record in log], label=label)
    axes.set(xlabel="epoch", ylabel="loss", title="Learning from report text")
    axes.legend(frameon=False)
    return f"""<h2>4. The chest X-ray model</h2>
<p>The model was shown films and what their <i>reports</i> mention; no human label was used in training. It was then
asked about {metrics["studies"]} studies of patients it never saw. <b>AUROC</b> is the chance that it ranks a film with
the finding above one without: 0.5 is guessing (red line), 1 is perfect. The band is the 95% interval over patients: a
band that crosses the red line proves nothing. Findings in bold have at least 20 positives and enter the mean:
<b>{macro["value"]:.3f} ({macro["low"]:.3f} to {macro["high"]:.3f})</b>.</p>
{_table(["finding", "AUROC", "95% interval", "0 &mdash; 1", "positives"], body)}
<div class="two">{_svg(curve)}<p class="quiet">Trained on {escape(str(manifest.get("dataset", "Open-i")))} studies, which are CC BY-NC-ND:
the trained model is for research only. No film of that collection is shown here.</p></div>"""


def _films(films: list[dict[str, Any]], demo: Path, root: Path) -> str:
    with (root / "examples/nih/labels.csv").open(encoding="utf-8") as stream:
        labels = {row["image_file"]: row["Finding Labels"].replace("|", ", ") for row in csv.DictReader(stream)}
    blocks = []
    for number, film in enumerate(films, 1):
        picture = base64.b64encode((demo / f"ground-{number}.png").read_bytes()).decode()
        said = (demo / f"ground-{number}.txt").read_text(encoding="utf-8").split(";")[0]
        blocks.append(
            f'<figure><img alt="heat map" src="data:image/png;base64,{picture}"><figcaption>Asked: '
            f"<b>{escape(film['query'])}</b>. {escape(said)}.<br>NIH label: {escape(labels[film['image'] + '.jpg'])}.</figcaption></figure>"
        )
    return f"""<h2>5. Where it looks</h2><p>Films of another hospital. The warm areas are where the model finds its evidence
for the question; they are not a drawn outline of the disease.</p>
<div class="films">{"".join(blocks)}</div><p class="quiet">{_CREDIT}</p>"""


def _commands(run: dict[str, Any]) -> str:
    lines = "\n".join(
        f"$ {escape(step['command'])}"
        + (f" > demo/{step['save']}" if step["save"] else "")
        + f"   # {step['seconds']:.0f} s{', beside the one above' if step['beside'] else ''}"
        for step in run["steps"]
    )
    return f"""<h2>6. The exact commands</h2><pre>{lines}</pre>
<p class="quiet">At most {run["peak_mb"] / 1024:.1f} GB of memory in one process. Data, licences and sources: docs/data.md.</p>"""


def _table(head: list[str], rows: list[list[str]]) -> str:
    top = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _bar(row: dict[str, Any]) -> str:
    if row["low"] is None:
        return ""
    low, high, value = (200 * row[key] for key in ("low", "high", "auroc"))
    return (
        '<svg width="200" height="16"><line class="chance" x1="100" x2="100" y1="0" y2="16"/>'
        f'<rect class="band" x="{low:.1f}" y="4" width="{high - low:.1f}" height="8"/><circle class="dot" cx="{value:.1f}" cy="8" r="4"/></svg>'
    )


def _svg(figure: Figure) -> str:
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None})
    text = stream.getvalue()
    return "<div>" + text[text.index("<svg") :] + "</div>"


def _chance(num_candidates: int) -> float:
    """MRR of guessing: the mean of 1/rank over all ranks."""
    return sum(1 / rank for rank in range(1, num_candidates + 1)) / num_candidates


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
