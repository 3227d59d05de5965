"""The command lines of kgkit and vlp: each command parses its options, calls one library function, prints the result.

Imports typer and the standard library only; everything heavy is imported inside the command that needs it.
"""

from __future__ import annotations

import json
import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

kgkit = typer.Typer(
    no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False,
    help="Medical knowledge to RDF, concept vectors and concept search.",
)  # fmt: skip
ingest = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Add a source to a graph; the same source and release is replaced.",
)
kgkit.add_typer(ingest, name="ingest")
vlp = typer.Typer(
    no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False,
    help="A chest X-ray model that answers in concepts.",
)  # fmt: skip

KgPath = Annotated[Path, typer.Argument(metavar="KG", help="Graph folder.")]
EncoderPath = Annotated[Path, typer.Argument(metavar="ENCODER", help="Encoder folder.")]
ModelPath = Annotated[Path, typer.Argument(metavar="MODEL", help="Model folder.")]
KgOut = Annotated[Path, typer.Option("--out", help="Graph folder to create or add to.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Recipe = Annotated[str, typer.Option(help="Name of a bundled recipe, or path of a TOML file.")]
Settings = Annotated[
    list[str], typer.Option("--set", metavar="KEY=VALUE", help="Change one recipe key; may be repeated.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue a stopped run from its last checkpoint.")]
SemanticType = Annotated[
    str | None, typer.Option(metavar="TUI", help="Only concepts of this semantic type, such as T047.")
]
OptionalEncoder = Annotated[
    Path | None, typer.Option("--kg-encoder", help="Encoder for queries that the model was not trained on.")
]


@ingest.command("umls")
def ingest_umls(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="META folder: RRF tables, plain or .gz.")],
    out: KgOut,
    release: Annotated[str | None, typer.Option(help="Release name; read from the path (2026AA) if not given.")] = None,
    language: Annotated[list[str], typer.Option(help="LAT to keep; may be repeated.")] = ["ENG"],  # noqa: B006 - Typer copies it
    as_json: Json = False,
) -> None:
    """UMLS Metathesaurus, or any files in its RRF layout."""
    from kgkit.graph.store import ingest as add
    from kgkit.sources.base import IngestLog
    from kgkit.sources.umls import read_umls

    log = IngestLog()
    _print_ingest(add(out, read_umls(path, log, release, tuple(language)), log), as_json)


@ingest.command("radgraph")
def ingest_radgraph(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="RadGraph JSON, or a folder of such files.")],
    out: KgOut,
    corpus: Annotated[str | None, typer.Option(help="Name of the corpus; the file's or folder's if not given.")] = None,
    release: Annotated[str, typer.Option(help="Release of the corpus.")] = "1",
    as_json: Json = False,
) -> None:
    """RadGraph annotations, versions 1.0 and XL."""
    from kgkit.graph.store import ingest as add
    from kgkit.sources.base import IngestLog
    from kgkit.sources.radgraph import read_radgraph

    log = IngestLog()
    _print_ingest(add(out, read_radgraph(path, log, corpus, release), log), as_json)


@kgkit.command()
def info(kg: KgPath, as_json: Json = False) -> None:
    """What a graph holds: sources, statements, concepts, relations, skipped rows."""
    from kgkit.graph.store import KnowledgeGraph

    graph = KnowledgeGraph(kg)
    content: dict[str, Any] = {
        "graph_digest": graph.digest,
        "counts": graph.counts(),
        "sources": graph.manifest["sources"],
    }
    if as_json:
        _print_json(content)
        return
    for name, count in content["counts"].items():
        print(f"{count:>12,}  {name}")
    print(f"digest {graph.digest}")
    for key, source in graph.manifest["sources"].items():
        rows = ", ".join(f"{table} {count:,}" for table, count in source["rows_read"].items())
        print(f"\n{key}: {source['statements']:,} statements, licence level {source['licence_level']}\n  read: {rows}")
        _print_skips(source["skipped"])


@kgkit.command()
def query(
    kg: KgPath,
    sparql: Annotated[
        str, typer.Argument(metavar="SPARQL", help="A SPARQL 1.1 query; the known prefixes need no declaration.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print SPARQL 1.1 results JSON.")] = False,
) -> None:
    """Answer a SPARQL query over all named graphs as one."""
    from kgkit.graph.store import KnowledgeGraph, results_json, results_table

    result = KnowledgeGraph(kg).query(sparql)
    print(results_json(result) if as_json else "\n".join("\t".join(row) for row in results_table(result)))


@kgkit.command("train-encoder")
def train_encoder_command(
    kg: KgPath,
    out: Annotated[Path, typer.Option(help="Encoder folder to make.")],
    recipe: Recipe = "default",
    settings: Settings = [],  # noqa: B006 - Typer copies it
    resume: Resume = False,
) -> None:
    """Train a concept encoder: text and graph towers, all objectives in one run."""
    from kgkit.encoder.config import EncoderRecipe
    from kgkit.recipe import load_recipe

    chosen = load_recipe(EncoderRecipe, "encoder", recipe, settings)
    from kgkit.encoder.training import train_encoder

    metrics = train_encoder(kg, out, chosen, resume=resume)
    for task in ("link_prediction", "synonym_retrieval"):
        for who in ("trained", "untrained"):
            if task in metrics[who]:
                row = metrics[who][task]
                low, high = row["mrr_interval"]
                print(f"{task.replace('_', ' ')}, {who}: MRR {row['mrr']:.3f} ({low:.3f} to {high:.3f}), "
                      f"Hits@10 {row['hits_at_10']:.3f}, {row['num_queries']} queries")  # fmt: skip
    print(f"encoder written to {out}")


@kgkit.command()
def index(
    encoder: EncoderPath,
    kind: Annotated[str, typer.Option(help="auto, flat, hnsw, ivfsq8 or ivfpq.")] = "auto",
) -> None:
    """Build the search index of an encoder."""
    from kgkit.index import build_index

    built = build_index(encoder, kind)
    probes = f", nprobe {built.nprobe}" if built.nprobe else ""
    print(f"{built.kind} index of {built.num_concepts:,} concepts, {built.num_vectors:,} vectors{probes}")
    print(f"recall@10 {built.recall_at_10:.3f} against exact search")


@kgkit.command()
def search(
    encoder: EncoderPath,
    text: Annotated[list[str], typer.Argument(metavar="TEXT...", help="One or more queries.")],
    k: Annotated[int, typer.Option("-k", help="Hits per query.")] = 10,
    semantic_type: SemanticType = None,
    as_json: Json = False,
) -> None:
    """Find the concepts nearest to some words."""
    from kgkit.index import open_index

    found = open_index(encoder).search_text(text, k, semantic_type)
    if as_json:
        _print_json(
            [{"query": query, "hits": [_hit(hit) for hit in hits]} for query, hits in zip(text, found, strict=True)]
        )
        return
    for words, hits in zip(text, found, strict=True):
        print(words)
        _print_hits(hits)


@kgkit.command()
def neighbours(
    encoder: EncoderPath,
    concept: Annotated[
        str, typer.Argument(metavar="ID", help="Concept id (umls:C0032227) or source code (HP:0002202).")
    ],
    k: Annotated[int, typer.Option("-k", help="Number of neighbours.")] = 10,
    semantic_type: SemanticType = None,
    as_json: Json = False,
) -> None:
    """Find the concepts nearest to a concept."""
    from kgkit.errors import UnknownConceptError
    from kgkit.index import open_index

    opened = open_index(encoder)
    found = opened.encoder.resolve(concept)
    if found is None:
        raise UnknownConceptError(f"{encoder}: no concept {concept!r} in this encoder; find ids with: kgkit search")
    hits = opened.neighbours(found, k, semantic_type)
    if as_json:
        _print_json([_hit(hit) for hit in hits])
        return
    print(f"{found}  {opened.encoder.name(found)}")
    _print_hits(hits)


@kgkit.command()
def link(
    encoder: EncoderPath,
    reports: Annotated[Path, typer.Argument(metavar="REPORTS", help=".jsonl, .csv, .txt, or a folder of .txt files.")],
    out: Annotated[Path, typer.Option(help="mentions.jsonl to write.")],
) -> None:
    """Turn report text into mentions: spans, certainty, concepts."""
    from kgkit.encoder.artifact import load_encoder
    from kgkit.linking.linker import load_linker
    from kgkit.linking.reports import link_reports, read_reports

    done = link_reports(load_linker(load_encoder(encoder)), read_reports(reports), out)
    counts = ", ".join(f"{count:,} {certainty}" for certainty, count in done.by_certainty.items())
    print(f"{done.num_reports:,} reports, {done.num_mentions:,} mentions ({counts}) of {done.num_concepts:,} concepts")
    print(f"{done.num_without_mentions:,} reports without a mention; written to {out}")


class Dataset(StrEnum):
    """Data sets that `vlp prepare` reads."""

    openi = "openi"


@vlp.command()
def prepare(
    dataset: Annotated[Dataset, typer.Argument(help="Which data set.")],
    source: Annotated[Path, typer.Argument(metavar="SRC", help="Its folder.")],
    kg_encoder: Annotated[Path, typer.Option(help="Encoder folder; the linker finds its concepts.")],
    out: Annotated[Path, typer.Option(help="Data folder to make.")],
    seed: Annotated[int, typer.Option(help="Of the split, where the data set fixes none.")] = 0,
) -> None:
    """Read films and reports, find the mentions, split by patient."""
    from vlp.data.prepare import PrepareConfig
    from vlp.data.prepare import prepare as run

    done = run(PrepareConfig(str(dataset), source, kg_encoder, out, seed=seed))
    studies = ", ".join(f"{split} {count:,}" for split, count in sorted(done.studies.items()))
    print(f"studies: {studies}; {done.films:,} films, {done.mentions:,} mentions; written to {out}")
    _print_skips(done.skipped)
    for note in done.notes:
        print(f"  note: {note}")


@vlp.command()
def train(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Folder made by vlp prepare.")],
    kg_encoder: Annotated[Path, typer.Option(help="Encoder folder; its vectors are the queries.")],
    out: Annotated[Path, typer.Option(help="Model folder to make.")],
    recipe: Recipe = "default",
    settings: Settings = [],  # noqa: B006 - Typer copies it
    resume: Resume = False,
) -> None:
    """Train on films and report text; labels are never read."""
    from vlp.config import TrainConfig, load_vlp_recipe

    config = TrainConfig(data, kg_encoder, out, load_vlp_recipe(recipe, settings), resume)
    from vlp.training import train as run

    done = run(config)
    print(f"{done.train_films:,} films, {done.queries} concepts, best epoch {done.best_epoch}; written to {out}")


@vlp.command()
def evaluate(
    model: ModelPath,
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Folder made by vlp prepare, with labels.")],
    split: Annotated[str, typer.Option(help="Split to evaluate on.")],
    out: Annotated[Path, typer.Option(help="Folder for metrics.json and report.html.")],
    kg_encoder: OptionalEncoder = None,
) -> None:
    """Measure a model against labels: AUROC per finding with patient-level 95% intervals."""
    from vlp.evaluation import EvaluateConfig
    from vlp.evaluation import evaluate as run

    metrics = run(EvaluateConfig(model, data, split, out, kg_encoder))
    print(f"{'finding':<22} {'AUROC':>6}  {'95% interval':<16} positives of studies")
    rows = metrics["per_finding"] | ({"normal": metrics["normal"]} if metrics["normal"] else {})
    for name, row in sorted(rows.items(), key=lambda item: -(item[1]["auroc"] or 0)):
        print(f"{name:<22} {_estimate(row, row['auroc'])}  {row['positives']} of {row['n']}")
    macro = metrics["macro_auroc"]
    print(f"{'macro':<22} {_estimate(macro, macro['value'])}  over {len(macro['findings'])} findings: {macro['rule']}")
    print(f"written to {out}")


@vlp.command()
def predict(
    model: ModelPath,
    paths: Annotated[list[Path], typer.Argument(metavar="FILM...", help="Films (JPEG, PNG, DICOM) or folders.")],
    query: Annotated[
        list[str],
        typer.Option(
            help="Name, concept id or free text; may be repeated; if not given, the findings it was trained on."
        ),
    ] = [],  # noqa: B006
    out: Annotated[Path | None, typer.Option(help="Table to write, .csv or .json.")] = None,
    top: Annotated[int, typer.Option(help="Lines printed per film.")] = 10,
    all_concepts: Annotated[bool, typer.Option("--all", help="Ask for every concept it was trained on.")] = False,
    kg_encoder: OptionalEncoder = None,
) -> None:
    """Answer queries about films."""
    from vlp.predict import PredictConfig
    from vlp.predict import predict as run

    done = run(PredictConfig(model, tuple(paths), tuple(query), kg_encoder, out, all_concepts))
    for image in dict.fromkeys(found.image for found in done.found):
        print(image)
        answers = sorted((found for found in done.found if found.image == image), key=lambda found: -found.probability)
        for answer in answers[:top]:
            print(f"  {answer.probability:.3f}  {answer.finding}  {answer.concept or '(text)'}")
    for name, reason in done.failed:
        print(f"not read: {name}: {reason}", file=sys.stderr)
    if out is not None:
        print(f"written to {out}")


@vlp.command()
def ground(
    model: ModelPath,
    image: Annotated[Path, typer.Argument(metavar="FILM", help="A film (JPEG, PNG, DICOM).")],
    query: Annotated[str, typer.Option(help="Name, concept id or free text.")],
    out: Annotated[Path, typer.Option(help="PNG to write: the heat map over the film.")],
    kg_encoder: OptionalEncoder = None,
) -> None:
    """Show where on a film a query finds its evidence."""
    from vlp.grounding import GroundConfig
    from vlp.grounding import ground as run

    found = run(GroundConfig(model, image, query, out, kg_encoder))
    print(f"{found.query.text}: probability {found.score:.3f}, hottest box {found.box}; written to {out}")


def _print_ingest(done: Any, as_json: bool) -> None:
    if as_json:
        _print_json(vars(done))
        return
    rows = ", ".join(f"{table} {count:,}" for table, count in sorted(done.rows_read.items()))
    print(f"{done.source}: {done.statements:,} statements\n  read: {rows}")
    _print_skips(done.skipped)
    print(f"graph digest {done.graph_digest}")


def _print_skips(skipped: dict[str, int]) -> None:
    for reason, count in sorted(skipped.items()):
        print(f"  skipped {count:,}: {reason}")


def _hit(hit: Any) -> dict[str, Any]:
    return {name: getattr(hit, name) for name in ("rank", "concept", "name", "semantic_types", "score")}


def _print_hits(hits: list[Any]) -> None:
    for hit in hits:
        print(f"  {hit.rank:>2}  {hit.score:.3f}  {hit.concept:<16}  {','.join(hit.semantic_types):<10}  {hit.name}")


def _estimate(row: dict[str, Any], value: float | None) -> str:
    if value is None:
        return f"{'undefined':<24}"
    interval = "" if row["low"] is None else f"{row['low']:.3f} to {row['high']:.3f}"
    return f"{value:>6.3f}  {interval:<16}"


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=1, ensure_ascii=False))


def _run(app: typer.Typer, name: str) -> None:
    """Run an app; an error that the user can mend is one line and exit code 1, with `--debug` the traceback too."""
    debug = "--debug" in sys.argv
    sys.argv = [argument for argument in sys.argv if argument != "--debug"]
    # Threads that spin while they wait make a run many times slower when another process wants the core.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if not debug:
        import warnings

        warnings.simplefilter("ignore")
    try:
        app(prog_name=name)
    except Exception as error:
        from kgkit.errors import KgkitError

        if debug or not isinstance(error, KgkitError | OSError):
            raise
        sys.stderr.write(f"{name}: {' '.join(str(error).split())}\n")
        sys.exit(1)


def kgkit_main() -> None:
    """Entry point of the console script `kgkit`."""
    _run(kgkit, "kgkit")


def vlp_main() -> None:
    """Entry point of the console script `vlp`."""
    _run(vlp, "vlp")
