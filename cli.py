"""The command lines of kgkit and vlp: each command parses its options, calls one library function, prints the result.

Imports typer and the standard library only; everything heavy is imported inside the command that needs it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
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
Strict = Annotated[bool, typer.Option("--strict", help="Stop at the first defective row.")]
KgOut = Annotated[Path, typer.Option("--out", help="Graph folder to create or add to.")]
MAX_SEED = 2**32 - 1
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Recipe = Annotated[str, typer.Option(help="Name of a bundled recipe, or path of a TOML file.")]
Settings = Annotated[
    list[str], typer.Option("--set", metavar="KEY=VALUE", help="Change one recipe key; may be repeated.")
]
BootstrapSeed = Annotated[int, typer.Option(help="Of the bootstrap.", min=0, max=MAX_SEED)]
Resamples = Annotated[int, typer.Option(help="Bootstrap resamples of patients.", min=2)]
Resume = Annotated[bool, typer.Option("--resume", help="Continue a stopped run from its last checkpoint.")]
SemanticType = Annotated[
    str | None, typer.Option(metavar="TUI", help="Only concepts of this semantic type, such as T047.")
]
KeptTypes = Annotated[
    list[str],
    typer.Option("--semantic-type", metavar="TUI", help="Only concepts of this type, such as T047; may be repeated."),
]
KeptGroups = Annotated[
    list[str],
    typer.Option("--semantic-group", metavar="GROUP", help="Only concepts of this group (DISO); may be repeated."),
]
KeptSources = Annotated[
    list[str],
    typer.Option("--source", metavar="SAB", help="Only concepts named by this vocabulary; may be repeated."),
]
KeptLanguages = Annotated[
    list[str],
    typer.Option("--language", metavar="TAG", help="Only concepts with a name in this language; may be repeated."),
]
OptionalEncoder = Annotated[
    Path | None, typer.Option("--kg-encoder", help="Encoder for queries that the model was not trained on.")
]
Corpus = Annotated[str | None, typer.Option(help="Name of the corpus; the file's or folder's if not given.")]
CorpusRelease = Annotated[str, typer.Option("--release", help="Release of the corpus.")]
CorpusLevel = Annotated[
    int,
    typer.Option(
        "--licence-level", min=0, max=9, help="Restriction level (SRL); lower it where reports may be shared."
    ),
]

LinkWith = Annotated[
    Path | None,
    typer.Option(metavar="ENCODER", help="Give mentions without a concept one, by the names and index of an encoder."),
]
MinScore = Annotated[
    float | None, typer.Option(min=0, max=1, help="Search score below which such a mention stays without a concept.")
]


@ingest.command("umls")
def ingest_umls(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH",
            help="A release: META folder, *-metathesaurus-full.zip, *-full.zip or its .nlm files; "
            "tables plain, .gz or in pieces.",
        ),
    ],
    out: KgOut,
    release: Annotated[str | None, typer.Option(help="Release name; read from the path (2026AA) if not given.")] = None,
    language: Annotated[list[str], typer.Option(metavar="LAT", help="Language to keep; may be repeated.")] = ["ENG"],  # noqa: B006 - Typer copies it
    vocabulary: Annotated[
        list[str], typer.Option(metavar="SAB", help="Vocabulary to keep (all if not given); may be repeated.")
    ] = [],  # noqa: B006
    without: Annotated[list[str], typer.Option(metavar="SAB", help="Vocabulary to leave out; may be repeated.")] = [],  # noqa: B006
    semantic_type: Annotated[
        list[str], typer.Option(metavar="TUI", help="Keep concepts of this semantic type; may be repeated.")
    ] = [],  # noqa: B006
    semantic_group: Annotated[
        list[str], typer.Option(metavar="GROUP", help="Keep concepts of this group (DISO, ANAT, ...); may be repeated.")
    ] = [],  # noqa: B006
    root: Annotated[str | None, typer.Option(metavar="CUI", help="Keep this concept and all below it by is-a.")] = None,
    max_licence_level: Annotated[
        int | None, typer.Option(help="Leave out vocabularies with a higher restriction level (SRL).")
    ] = None,
    suppressed: Annotated[bool, typer.Option("--suppressed", help="Keep suppressed names and relations.")] = False,
    relations: Annotated[
        str,
        typer.Option(help="typed: no sibling cliques, no qualifiers; hierarchy: is-a and part-of alone; all; none."),
    ] = "typed",
    hierarchies: Annotated[
        bool, typer.Option("--hierarchies", help="Read MRHIER too: each atom's parent in its vocabulary.")
    ] = False,
    attribute: Annotated[
        list[str], typer.Option(metavar="ATN", help="Attribute of MRSAT to keep; may be repeated.")
    ] = [],  # noqa: B006
    skip_verification: Annotated[
        bool, typer.Option("--skip-verification", help="Go on where MRFILES gives other counts than the tables have.")
    ] = False,
    strict: Strict = False,
    as_json: Json = False,
) -> None:
    """UMLS Metathesaurus, or any files in its RRF layout. The defaults suit an English concept encoder."""
    from kgkit.graph.store import ingest as add
    from kgkit.sources.base import IngestLog
    from kgkit.sources.umls import UmlsOptions, read_umls
    from kgkit.sources.umls_relations import RelationPolicy

    options = UmlsOptions(
        languages=tuple(language),
        vocabularies=tuple(vocabulary),
        without=tuple(without),
        semantic_types=tuple(semantic_type),
        semantic_groups=tuple(semantic_group),
        root=root,
        max_licence_level=max_licence_level,
        suppressed=suppressed,
        attributes=tuple(attribute),
        relations=RelationPolicy(relations, suppressed, hierarchies),
        verify=not skip_verification,
    )
    log = IngestLog(strict=strict)
    _print_ingest(add(out, read_umls(path, log, release, options), log), as_json)


SourceName = Annotated[
    str | None,
    typer.Option(
        "--name",
        help="Name of the source (HPO, MONDO); told from the file if not given. A file of the same name and release "
        "replaces the one before: give two files of one ontology two names.",
    ),
]
SourceRelease = Annotated[
    str | None, typer.Option("--release", help="Release of the source; read from the file if not given.")
]
SourceLevel = Annotated[
    int, typer.Option("--licence-level", min=0, max=9, help="Restriction level (SRL) of what it says.")
]


@ingest.command("obo")
def ingest_obo(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="OBO file, plain or .gz.")],
    out: KgOut,
    name: SourceName = None,
    release: SourceRelease = None,
    licence_level: SourceLevel = 0,
    strict: Strict = False,
    as_json: Json = False,
) -> None:
    """An ontology in OBO format."""
    from kgkit.sources.obo import read_obo

    _add_file(read_obo, path, out, (name, release, licence_level), strict=strict, as_json=as_json)


@ingest.command("obograph")
def ingest_obograph(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="OBO graph JSON, plain or .gz.")],
    out: KgOut,
    name: SourceName = None,
    release: SourceRelease = None,
    licence_level: SourceLevel = 0,
    strict: Strict = False,
    as_json: Json = False,
) -> None:
    """An ontology as OBO graph JSON, or the term JSON of cellxgene-ontology-guide."""
    from kgkit.sources.obograph import read_obograph

    _add_file(read_obograph, path, out, (name, release, licence_level), strict=strict, as_json=as_json)


@ingest.command("owl")
def ingest_owl(
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="OWL in RDF/XML, Turtle or another RDF syntax, plain or .gz.")
    ],
    out: KgOut,
    name: SourceName = None,
    release: SourceRelease = None,
    licence_level: SourceLevel = 0,
    strict: Strict = False,
    as_json: Json = False,
) -> None:
    """An OWL ontology: named classes, their names, superclasses and relations."""
    from kgkit.sources.owl import read_owl

    _add_file(read_owl, path, out, (name, release, licence_level), strict=strict, as_json=as_json)


@ingest.command("terms")
def ingest_terms(
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="TSV or CSV, MeSH descriptors or term JSON, plain or .gz.")
    ],
    out: KgOut,
    name: SourceName = None,
    release: SourceRelease = None,
    licence_level: SourceLevel = 0,
    strict: Strict = False,
    as_json: Json = False,
) -> None:
    """A plain table of terms: id, name, and any of synonyms, definition, parents, xrefs (joined by |)."""
    from kgkit.sources.term_tables import read_terms

    _add_file(read_terms, path, out, (name, release, licence_level), strict=strict, as_json=as_json)


@ingest.command("sssom")
def ingest_sssom(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="SSSOM/TSV, plain or .gz.")],
    out: KgOut,
    name: SourceName = None,
    release: SourceRelease = None,
    licence_level: SourceLevel = 0,
    strict: Strict = False,
    as_json: Json = False,
) -> None:
    """Mappings between vocabularies."""
    from kgkit.sources.sssom import read_sssom

    _add_file(read_sssom, path, out, (name, release, licence_level), strict=strict, as_json=as_json)


@ingest.command("semantic-network")
def ingest_semantic_network(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="SRDEF, or the folder of SRDEF and SRSTR.")],
    out: KgOut,
    name: SourceName = None,
    release: SourceRelease = None,
    licence_level: SourceLevel = 0,
    strict: Strict = False,
    as_json: Json = False,
) -> None:
    """The UMLS Semantic Network: semantic types and what it states between them."""
    from kgkit.sources.semantic_network import read_semantic_network

    _add_file(read_semantic_network, path, out, (name, release, licence_level), strict=strict, as_json=as_json)


@ingest.command("rdf")
def ingest_rdf_command(
    path: Annotated[
        Path,
        typer.Argument(metavar="PATH", help="Turtle, N-Triples, N-Quads, TriG, RDF/XML, JSON-LD or N3; .gz, .zst."),
    ],
    out: KgOut,
    name: Annotated[str | None, typer.Option(help="Name of the source; the file's if not given.")] = None,
    release: Annotated[str, typer.Option(help="Release of the source.")] = "unversioned",
    licence_level: Annotated[int, typer.Option(help="Restriction level (SRL, 0 to 9) of the statements.")] = 0,
    as_json: Json = False,
) -> None:
    """Any RDF, SKOS above all: the statements are kept as they are. Reads an exported graph again."""
    from kgkit.graph.store import ingest_rdf as add
    from kgkit.sources.base import IngestLog
    from kgkit.sources.rdf import read_rdf

    log = IngestLog()
    _print_ingest(add(out, read_rdf(path, log, name, release, licence_level), log), as_json)


@kgkit.command("remove")
def remove_command(
    kg: KgPath,
    source: Annotated[str, typer.Option(help="Name of the source (HPO), or NAME@RELEASE; see: kgkit info KG")],
) -> None:
    """Remove a source; what is left equals a graph that never had it."""
    from kgkit.graph.store import remove as run

    print(f"graph digest {run(kg, source)}")


@ingest.command("radgraph")
def ingest_radgraph(
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="RadGraph .json or .jsonl (.gz), a .zip of these, or their folder.")
    ],
    out: KgOut,
    corpus: Corpus = None,
    release: CorpusRelease = "1",
    licence_level: CorpusLevel = 9,
    link_with: LinkWith = None,
    min_score: MinScore = None,
    strict: Strict = False,
    as_json: Json = False,
) -> None:
    """RadGraph annotations: RadGraph 1.0, RadGraph-XL, RadGraph2, the radgraph package's output, CheXpert Plus."""
    from kgkit.sources.radgraph import read_radgraph

    options = (corpus, release, licence_level)
    _add_mentions(read_radgraph, path, out, options, (link_with, min_score), strict=strict, as_json=as_json)


@ingest.command("labels")
def ingest_labels(
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="Table of CheXpert, CheXbert or NegBio labels, .csv or .csv.gz.")
    ],
    out: KgOut,
    id_column: Annotated[
        str | None, typer.Option(help="Column that names a report; study_id, Path, or the like if not given.")
    ] = None,
    corpus: Corpus = None,
    release: CorpusRelease = "1",
    licence_level: CorpusLevel = 9,
    strict: Strict = False,
    as_json: Json = False,
) -> None:
    """The 14 CheXpert labels of reports, whoever made them; columns are joined by name."""
    from kgkit.graph.store import ingest as add
    from kgkit.sources.base import IngestLog
    from kgkit.sources.report_labels import read_report_labels

    log = IngestLog(strict=strict)
    _print_ingest(add(out, read_report_labels(path, log, corpus, release, licence_level, id_column), log), as_json)


@ingest.command("mentions")
def ingest_mentions(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="mentions.jsonl, as kgkit link writes it.")],
    out: KgOut,
    corpus: Corpus = None,
    release: CorpusRelease = "1",
    licence_level: CorpusLevel = 9,
    link_with: LinkWith = None,
    min_score: MinScore = None,
    strict: Strict = False,
    as_json: Json = False,
) -> None:
    """Reports that kgkit link has linked, with the concepts they mention."""
    from kgkit.sources.mentions import read_mentions

    options = (corpus, release, licence_level)
    _add_mentions(read_mentions, path, out, options, (link_with, min_score), strict=strict, as_json=as_json)


@kgkit.command()
def info(kg: KgPath, as_json: Json = False) -> None:
    """What a graph holds: sources, skipped rows, counts, components, merged classes."""
    from dataclasses import asdict

    from kgkit.graph.info import graph_info, info_text
    from kgkit.graph.store import KnowledgeGraph

    found = graph_info(KnowledgeGraph(kg))
    if as_json:
        _print_json(asdict(found))
    else:
        print(info_text(found))


class AnswerForm(StrEnum):
    """Formats of `kgkit query`."""

    table = "table"
    json = "json"
    csv = "csv"
    tsv = "tsv"
    turtle = "turtle"


@kgkit.command()
def query(
    kg: KgPath,
    sparql: Annotated[
        str,
        typer.Argument(
            metavar="QUERY",
            help="SPARQL 1.1 (the known prefixes need no declaration), the name of a bundled query, or a file (@FILE).",
        ),
    ] = "",
    settings: Annotated[
        list[str], typer.Option("--set", metavar="NAME=VALUE", help="Parameter of the query; may be repeated.")
    ] = [],  # noqa: B006 - Typer copies it
    as_json: Annotated[bool, typer.Option("--json", help="Print SPARQL 1.1 results JSON.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print SPARQL 1.1 results CSV.")] = False,
    form: Annotated[AnswerForm, typer.Option("--format", help="Print the answer so.")] = AnswerForm.table,
    timeout: Annotated[float, typer.Option(min=0, help="Seconds after which the query is stopped; 0 for never.")] = 60,
    list_queries: Annotated[bool, typer.Option("--list", help="Name the bundled queries.")] = False,
) -> None:
    """Answer a SPARQL query over all named graphs as one."""
    from kgkit.graph.queries import named_queries, run_query
    from kgkit.graph.query_worker import AnswerFormat
    from kgkit.graph.store import KnowledgeGraph

    if list_queries:
        for name, known in named_queries().items():
            needs = "".join(f" --set {parameter}=..." for parameter in known.required)
            print(f"{name + needs:<32} {known.question}")
        return
    chosen = AnswerFormat("json" if as_json else "csv" if as_csv else form.value)
    run_query(KnowledgeGraph(kg), sparql, settings, sys.stdout.buffer, chosen, timeout)


@kgkit.command("show")
def show_command(
    kg: KgPath,
    concept: Annotated[
        str, typer.Argument(metavar="ID", help="Concept id (umls:C0032227, HP:0002202), source code or retired id.")
    ],
    limit: Annotated[int, typer.Option(help="Lines of a list before it is cut.")] = 10,
    plot: Annotated[Path | None, typer.Option(help="Draw the neighbourhood: a .png, .svg or .pdf to write.")] = None,
    as_json: Json = False,
) -> None:
    """Everything a graph says of a concept, and who says so."""
    from dataclasses import asdict

    from kgkit.graph.show import show
    from kgkit.graph.show_text import shown_text
    from kgkit.graph.store import KnowledgeGraph

    found = show(KnowledgeGraph(kg), concept)
    if as_json:
        _print_json(asdict(found))
    else:
        print(shown_text(found, limit))
    if plot is not None:
        from kgkit.graph.neighbourhood import draw_shown

        count = draw_shown(found, plot)
        print(f"{count} neighbours drawn: {plot}", file=sys.stderr)


@kgkit.command("validate")
def validate_command(
    kg: KgPath,
    sample: Annotated[int, typer.Option(min=1, help="Nodes of each kind that SHACL looks at.")] = 500,
    deep: Annotated[bool, typer.Option("--deep", help="Derive the views from the RDF alone, and compare.")] = False,
    as_json: Json = False,
) -> None:
    """Check a graph: laws on all of it, SHACL shapes on a sample. Exit code 1 if something is wrong."""
    from dataclasses import asdict

    from kgkit.graph.store import KnowledgeGraph
    from kgkit.graph.validate import validate, validation_text

    found = validate(KnowledgeGraph(kg), sample, deep=deep)
    if as_json:
        _print_json(asdict(found) | {"is_sound": found.is_sound})
    else:
        print(validation_text(found))
    if not found.is_sound:
        raise typer.Exit(1)


@kgkit.command("export")
def export_command(
    kg: KgPath,
    format_name: Annotated[
        str,
        typer.Option("--format", help="nquads, ntriples, turtle, trig, tsv, graphml, pykeen, pyg or neo4j."),
    ],
    out: Annotated[Path, typer.Option(help="File (.gz or .zst compresses it), or folder for pykeen, pyg, neo4j.")],
    max_licence_level: Annotated[
        int | None, typer.Option(help="Leave out vocabularies above this UMLS source restriction level (0 to 9).")
    ] = None,
    names: Annotated[bool, typer.Option("--names", help="tsv: add the names of head and tail.")] = False,
    held_out: Annotated[float, typer.Option(help="pykeen: share of the facts in test; half as many in valid.")] = 0.1,
    seed: Annotated[int, typer.Option(help="pykeen: draws the split.", min=0, max=MAX_SEED)] = 0,
    as_json: Json = False,
) -> None:
    """Write the graph, or what is left below a licence level, in another tool's format."""
    from kgkit.graph.export import ExportOptions, export
    from kgkit.graph.exportable import WriterOptions

    options = WriterOptions(with_names=names, held_out=held_out, seed=seed)
    done = export(kg, ExportOptions(format_name, out, max_licence_level, options))
    if as_json:
        _print_json({"out": str(out), "counts": done.counts, "note": done.note})
        return
    print(f"{', '.join(f'{count:,} {what}' for what, count in done.counts.items())}; written to {out}")
    if done.note:
        print(f"note: {done.note}")


@kgkit.command("diff")
def diff_command(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="Graph folder.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="Graph folder.")],
    limit: Annotated[int, typer.Option(help="Lines printed of each kind of change.")] = 10,
    as_json: Json = False,
) -> None:
    """What changed from one graph to another: ids added, removed, merged, split; names; facts; sources."""
    from kgkit.graph.diff import diff, diff_lines

    found = diff(old, new)
    if as_json:
        _print_json(found.to_json())
        return
    for line in diff_lines(found, limit):
        print(line)


HELD_OUT_TASKS = ["link-prediction", "synonym", "definition"]


@kgkit.command("train-encoder")
def train_encoder_command(
    kg: Annotated[Path, typer.Argument(help="Graph folder, or a benchmark folder (train.txt, valid.txt, test.txt).")],
    out: Annotated[Path, typer.Option(help="Encoder folder to make.")],
    recipe: Recipe = "default",
    interaction: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="PyKEEN's scorer of facts: transe, distmult, complex, rotate, tucker, ..."),
    ] = None,
    loss: Annotated[str | None, typer.Option(metavar="NAME", help="PyKEEN's loss of facts.")] = None,
    sampler: Annotated[
        str | None, typer.Option(metavar="NAME", help="PyKEEN's sampler of negatives: basic, bernoulli, pseudotyped.")
    ] = None,
    settings: Settings = [],  # noqa: B006 - Typer copies it
    resume: Resume = False,
) -> None:
    """Train a concept encoder: text and graph towers, all objectives in one run.

    --interaction, --loss and --sampler are short for --set relation.interaction=NAME and so on.
    """
    from kgkit.encoder.config import EncoderRecipe
    from kgkit.recipe import load_recipe

    parts = {"interaction": interaction, "loss": loss, "sampler": sampler}
    by_name = [f"relation.{key}={name}" for key, name in parts.items() if name is not None]
    chosen = load_recipe(EncoderRecipe, "encoder", recipe, [*by_name, *settings])
    if by_name and not chosen.objectives.relation:
        from kgkit.errors import InputError

        raise InputError(f"{by_name[0]}: recipe {recipe!r} learns no facts ('objectives.relation' is 0)")
    from kgkit.training.loop import train_encoder

    metrics = train_encoder(kg, out, chosen, resume=resume)
    if metrics is None:  # under torchrun the first process alone writes and measures
        return
    for task, row in metrics.items():
        low, high = row["mrr_interval"]
        print(f"{task.replace('_', ' ')}: MRR {row['mrr']:.3f} ({low:.3f} to {high:.3f}), "
              f"Hits@10 {row['hits_at_10']:.3f}, {row['num_queries']} queries")  # fmt: skip
    print(f"encoder written to {out}")


@kgkit.command("ablate")
def ablate_command(
    kg: Annotated[Path, typer.Argument(help="Graph folder, or a benchmark folder.")],
    out: Annotated[Path, typer.Option(help="Folder for the encoders and the table.")],
    recipe: Recipe = "default",
    without: Annotated[list[str], typer.Option(help="Part to switch off, one variant each; give it repeatedly.")] = [],  # noqa: B006
    baseline: Annotated[list[str], typer.Option(help="Another recipe as a variant; give it repeatedly.")] = [],  # noqa: B006
    shuffled: Annotated[bool, typer.Option("--shuffled", help="Add the same training on a shuffled graph.")] = False,
    seeds: Annotated[str, typer.Option(help="Seeds, separated by commas.")] = "0,1,2",
    measure: Annotated[list[str], typer.Option(help="TASK or TASK=DIR; give it repeatedly.")] = HELD_OUT_TASKS,
    settings: Settings = [],  # noqa: B006 - Typer copies it
    as_json: Json = False,
) -> None:
    """Train variants of a recipe over several seeds and compare them on what was held out."""
    from kgkit.errors import InputError, choices
    from kgkit.evaluation.evaluate import TASKS
    from kgkit.training.ablation import Measurement, ablate, make_variants, render

    wanted = []
    for text in measure:
        task, equals, folder = text.partition("=")
        if task not in TASKS:
            raise InputError(f"--measure {text!r}: {choices(task, TASKS)}")
        wanted.append(Measurement(task, Path(folder) if equals else None))
    variants = make_variants(recipe, settings, without, baseline, shuffled=shuffled)
    result = ablate(kg, out, variants, _seeds(seeds), wanted)
    if as_json:
        _print_json(result)
    else:
        print(render(result))


@kgkit.command("evaluate")
def evaluate_command(
    encoder: EncoderPath,
    task: Annotated[
        str, typer.Option(help="link-prediction, synonym, definition, relatedness, linking, search or assertion.")
    ],
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of a test set: a benchmark graph for link-prediction (otherwise the encoder's own held-out "
            "facts), EHR-RelA for relatedness, the NCBI disease corpus for linking, NegEx for assertion.",
        ),
    ] = None,
    against: Annotated[
        list[str],
        typer.Option(
            metavar="NAME=ENCODER", help="Another encoder of the same graph to compare with; may be repeated."
        ),
    ] = [],  # noqa: B006
    file: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Which file of the corpus (linking); else development, test, train."),
    ] = None,
    seed: BootstrapSeed = 0,
    as_json: Json = False,
) -> None:
    """Measure an encoder on what it never saw or on a test set, with 95% intervals and paired differences."""
    from kgkit.errors import InputError
    from kgkit.evaluation.evaluate import evaluate as measure
    from kgkit.evaluation.report import evaluation_lines

    others = []
    for each in against:
        name, equals, folder = each.partition("=")
        if not (name and equals and folder):
            raise InputError(f"--against {each!r}: expected NAME=ENCODER")
        others.append((name, Path(folder)))
    result = measure(encoder, task, data, others, seed, file)
    if as_json:
        _print_json(result)
        return
    for line in evaluation_lines(result):
        print(line)


@kgkit.command("verify-encoder")
def verify_encoder_command(encoder: EncoderPath) -> None:
    """Read every byte of an encoder and hold it against the digests in its manifest."""
    from kgkit.encoder.integrity import verify_encoder

    done = verify_encoder(encoder)
    print(f"encoder digest {done.digest}")
    print(f"{done.num_files} files, {done.num_bytes:,} bytes: unchanged since they were written")
    if not done.is_recorded:
        print("note: the manifest has one digest of vectors, text tower and concepts; the other files have none")


@kgkit.command("export-embeddings")
def export_embeddings_command(
    encoder: EncoderPath,
    format_name: Annotated[str, typer.Option("--format", help="parquet, npy, word2vec or projector.")],
    out: Annotated[
        Path, typer.Option(help="File; folder for projector. npy writes the ids beside it (x.npy and x.tsv).")
    ],
    max_licence_level: Annotated[
        int | None,
        typer.Option(min=0, max=9, help="Refuse an encoder trained on anything above this restriction level (SRL)."),
    ] = None,
    what: Annotated[str, typer.Option(help="concepts, or names: the text vector of every name.")] = "concepts",
    semantic_type: SemanticType = None,
    semantic_group: Annotated[
        str | None, typer.Option(metavar="GROUP", help="Only concepts of this group, such as DISO or ANAT.")
    ] = None,
) -> None:
    """Write an encoder's vectors in the format of another tool."""
    from kgkit.encoder.export_embeddings import EmbeddingExport, export_embeddings

    options = EmbeddingExport(format_name, out, what, max_licence_level, semantic_type, semantic_group)
    done = export_embeddings(encoder, options)
    print(f"{done.num_vectors:,} vectors of length {done.dim}; written to {', '.join(map(str, done.files))}")
    if done.licence_level:
        print(f"note: licence level {done.licence_level}; whoever gets them needs the licences of the sources")


@kgkit.command("map-concepts")
def map_concepts_command(
    encoder: EncoderPath,
    out: Annotated[Path, typer.Option(help="Picture to write: .png, .svg or .pdf.")],
    sample: Annotated[int, typer.Option(help="Most concepts drawn; 5,000 take half a minute.")] = 5000,
    seed: Annotated[int, typer.Option(help="Of the sample and of t-SNE.", min=0, max=MAX_SEED)] = 0,
    colour: Annotated[str, typer.Option(help="group, type (semantic), or prefix (of the id).")] = "group",
    width: Annotated[int, typer.Option(help="Pixels.")] = 1600,
    height: Annotated[int, typer.Option(help="Pixels.")] = 1200,
) -> None:
    """Draw the concepts of an encoder as a map in two dimensions."""
    from kgkit.encoder.concept_map import MapOptions, draw_concept_map

    found = draw_concept_map(encoder, out, MapOptions(sample, seed, colour, width, height))
    print(f"{len(found.rows):,} concepts drawn; written to {out}")
    for category in found.categories:
        if category.num_drawn:
            print(f"  {category.num_drawn:>6,} of {category.num_all:>6,}  {category.name}")


@kgkit.command()
def index(
    encoder: EncoderPath,
    kind: Annotated[str, typer.Option(help="auto, flat, hnsw, ivfsq8 or ivfpq.")] = "auto",
    as_json: Json = False,
) -> None:
    """Build the search index of an encoder."""
    from dataclasses import asdict

    from kgkit.search.build import build_index

    built = build_index(encoder, kind)
    if as_json:
        _print_json(asdict(built))
        return
    dense = built.dense
    effort = f", {'efSearch' if dense.kind == 'hnsw' else 'nprobe'} {dense.effort}" if dense.effort else ""
    print(f"{dense.kind} index of {built.num_concepts:,} concepts, {built.num_names:,} names, "
          f"{dense.num_vectors:,} vectors{effort}")  # fmt: skip
    print(f"recall@10 {dense.recall_at_10:.3f} against exact search")
    if not built.reads_text:
        print("note: this encoder has no text tower; queries are compared with names by letters alone")


@kgkit.command()
def search(
    encoder: EncoderPath,
    text: Annotated[list[str], typer.Argument(metavar="[TEXT...]", help="Queries.")] = [],  # noqa: B006 - Typer copies it
    file: Annotated[
        str | None, typer.Option(metavar="FILE", help="File with one query per line; - for standard input.")
    ] = None,
    k: Annotated[int, typer.Option("-k", help="Hits per query.")] = 10,
    mode: Annotated[
        str | None,
        typer.Option(help="hybrid, dense (vectors alone) or lexical (letters alone); hybrid where it is possible."),
    ] = None,
    semantic_type: KeptTypes = [],  # noqa: B006
    semantic_group: KeptGroups = [],  # noqa: B006
    source: KeptSources = [],  # noqa: B006
    language: KeptLanguages = [],  # noqa: B006
    explain: Annotated[bool, typer.Option("--explain", help="Show the name that matched and both scores.")] = False,
    as_json: Json = False,
) -> None:
    """Find the concepts that some words mean."""
    from kgkit.errors import InputError
    from kgkit.search.concept_search import open_search
    from kgkit.search.filters import ConceptFilter

    queries = [*text, *_lines(file)]
    if not queries:
        raise InputError("no query; give some words, a file of them with --file, or --file - for the standard input")
    keep = ConceptFilter(tuple(semantic_type), tuple(semantic_group), tuple(source), tuple(language))
    opened = open_search(encoder)
    found = opened.search(queries, k, mode=mode, keep=keep)
    if not opened.reads_text:
        print("note: this encoder has no text tower; names were compared by letters alone", file=sys.stderr)
    read_as = [None if mode == "dense" else opened.read_as(query) for query in queries]
    if as_json:
        _print_json([{"query": query, "read_as": read, "hits": [_hit(hit) for hit in hits]}
                     for query, read, hits in zip(queries, read_as, found, strict=True)])  # fmt: skip
        return
    for query, read, hits in zip(queries, read_as, found, strict=True):
        print(query if read is None else f"{query}  (read as: {read})")
        _print_hits(hits, explain=explain)


@kgkit.command()
def neighbours(
    encoder: EncoderPath,
    concept: Annotated[
        str, typer.Argument(metavar="ID", help="Concept id (umls:C0032227) or source code (HP:0002202).")
    ],
    k: Annotated[int, typer.Option("-k", help="Number of neighbours.")] = 10,
    semantic_type: KeptTypes = [],  # noqa: B006 - Typer copies it
    semantic_group: KeptGroups = [],  # noqa: B006
    source: KeptSources = [],  # noqa: B006
    language: KeptLanguages = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """Find the concepts nearest to a concept."""
    from kgkit.search.concept_search import open_search
    from kgkit.search.filters import ConceptFilter

    keep = ConceptFilter(tuple(semantic_type), tuple(semantic_group), tuple(source), tuple(language))
    opened = open_search(encoder)
    hits = opened.neighbours(concept, k, keep=keep)
    if as_json:
        _print_json([_hit(hit) for hit in hits])
        return
    found = opened.concept(concept)
    print(f"{found.id}  {found.name}")
    _print_hits(hits)


@kgkit.command()
def link(
    encoder: EncoderPath,
    reports: Annotated[
        Path,
        typer.Argument(
            metavar="REPORTS",
            help="Report text (.jsonl, .csv, .txt, a folder of .txt files), mentions.jsonl, or RadGraph annotations.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="mentions.jsonl to write.")],
    form: Annotated[
        str, typer.Option("--format", help="What REPORTS is: reports, mentions, radgraph; auto looks.")
    ] = "auto",
    encoding: Annotated[
        str, typer.Option(help="Of report text; mixed: UTF-8, and cp1252 in the lines that are not.")
    ] = "utf-8",
    min_score: MinScore = None,
    names_only: Annotated[
        bool, typer.Option("--names-only", help="Link the spans of others by name alone; needs no search index.")
    ] = False,
) -> None:
    """Turn report text into mentions: spans, certainty, concepts; or give the mentions of others their concepts."""
    from kgkit.linking.link_file import LinkOptions, link_file
    from kgkit.linking.spans import MIN_SCORE

    options = LinkOptions(form, encoding, MIN_SCORE if min_score is None else min_score, names_only)
    done = link_file(encoder, reports, out, options)
    made = done.summary
    counts = ", ".join(f"{count:,} {certainty}" for certainty, count in made.by_certainty.items())
    print(f"{made.num_reports:,} reports, {made.num_mentions:,} mentions ({counts})")
    print(f"{made.num_linked:,} linked to {made.num_concepts:,} concepts")
    print(f"{made.num_ambiguous:,} of them might also denote another")
    _print_skips(dict(done.skipped), dict(done.first_defect))
    print(f"{made.num_without_mentions:,} reports without a mention; written to {out}")


class Dataset(StrEnum):
    """Data sets that `vlp prepare` reads."""

    openi = "openi"
    nih = "nih"
    mimic_cxr = "mimic-cxr"
    chexpert = "chexpert"
    padchest = "padchest"
    chestxdet10 = "chestxdet10"
    csv = "csv"


@vlp.command()
def prepare(
    dataset: Annotated[Dataset, typer.Argument(help="Which data set.")],
    source: Annotated[Path, typer.Argument(metavar="SRC", help="Its folder; of csv, the table.")],
    out: Annotated[Path, typer.Option(help="Data folder to make.")],
    kg_encoder: Annotated[
        Path | None, typer.Option(help="Encoder folder; the linker finds its concepts. Not needed without reports.")
    ] = None,
    mentions: Annotated[
        Path | None, typer.Option(metavar="FILE", help="mentions.jsonl to take in place of the linker's.")
    ] = None,
    seed: Annotated[
        int, typer.Option(help="Of the split by patient, where the data set fixes none.", min=0, max=MAX_SEED)
    ] = 0,
    val_fraction: Annotated[float, typer.Option(help="Part of the patients for validation, likewise.")] = 0.1,
    test_fraction: Annotated[float, typer.Option(help="Part of the patients for the test, likewise.")] = 0.2,
    split_file: Annotated[
        Path | None, typer.Option(help="CSV with study_id or patient_id, and split; replaces the data set's own.")
    ] = None,
    test_only: Annotated[bool, typer.Option("--test-only", help="Everything is the test part.")] = False,
    where: Annotated[
        list[str], typer.Option(metavar="COLUMN=VALUE", help="Read only these rows of the table; may be repeated.")
    ] = [],  # noqa: B006 - Typer copies it
    labels: Annotated[
        str | None, typer.Option(help="Label table of MIMIC-CXR: chexpert, negbio, test-set-labeled.")
    ] = None,
    reports: Annotated[Path | None, typer.Option(help="Folder or .zip of MIMIC-CXR's reports.")] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of the films, where it is not SRC.")] = None,
    side: Annotated[int, typer.Option(min=0, help="Longer side of the films kept, pixels; 0 keeps none.")] = 512,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first film that cannot be read.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on reading films where a stopped run left off.")] = False,
) -> None:
    """Read films and reports, find the mentions, split by patient."""
    from vlp.data.decode import DecodeOptions
    from vlp.data.prepare import PrepareConfig
    from vlp.data.prepare import prepare as run
    from vlp.data.source import ReadOptions, conditions
    from vlp.data.splits import SplitOptions

    splits = SplitOptions(seed, val_fraction, test_fraction, split_file, test_only)
    read = ReadOptions(conditions(where), reports, images, labels)
    decode = DecodeOptions(side, strict, resume)
    done = run(PrepareConfig(str(dataset), source, kg_encoder, out, splits, read, decode, mentions))
    studies = ", ".join(f"{split} {count:,}" for split, count in sorted(done.studies.items()))
    print(f"studies: {studies}; {done.films:,} films, {done.mentions:,} mentions; written to {out}")
    _print_skips(done.skipped, done.first_skipped)
    for note in done.notes:
        print(f"  note: {note}")


@vlp.command("data-info")
def data_info(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Folder made by vlp prepare.")],
    as_json: Json = False,
    top: Annotated[int, typer.Option(help="Concepts shown, the most frequent first.")] = 15,
) -> None:
    """What a data folder holds: counts, prevalence, and whether its parts are really apart."""
    from vlp.data.info import data_info as run
    from vlp.data.info_text import info_text

    found = run(data)
    if as_json:
        _print_json(found)
    else:
        print(info_text(found, top))


@vlp.command()
def shard(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Folder made by vlp prepare.")],
    out: Annotated[Path, typer.Option(help="Data folder to make, its films in shards/*.tar (WebDataset).")],
    split: Annotated[str | None, typer.Option(help="Only this part.")] = None,
    films_per_shard: Annotated[int, typer.Option(min=1, help="Films in each tar.")] = 1000,
    side: Annotated[int, typer.Option(min=1, help="Longer side of the films at most, pixels.")] = 512,
) -> None:
    """Write a data folder's films as tar shards that stream in order; vlp reads them as any data folder."""
    from vlp.data.shards import ShardConfig
    from vlp.data.shards import shard as run

    done = run(ShardConfig(data, out, films_per_shard, side, split))
    films = ", ".join(f"{name} {count:,}" for name, count in sorted(done.films.items()))
    print(f"films: {films}; {done.shards} shards, {done.bytes / 1e6:,.1f} MB; written to {out}")


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
    split: Annotated[str, typer.Option(help="Split to evaluate on; all, for data the model was not trained on.")],
    out: Annotated[Path, typer.Option(help="Folder for metrics.json, predictions.csv and report.html.")],
    query: Annotated[
        list[str],
        typer.Option(help="Name, concept id or words, or LABEL=WORDS; may be repeated; by default every known label."),
    ] = [],  # noqa: B006
    average_synonyms: Annotated[
        bool, typer.Option("--average-synonyms", help="Ask with the mean vector of all names of a concept.")
    ] = False,
    min_positives: Annotated[int, typer.Option(help="Positive studies a finding needs to be in the macro mean.")] = 20,
    specificity: Annotated[float, typer.Option(help="At which sensitivity is asked.", min=0.0, max=1.0)] = 0.9,
    validation_split: Annotated[
        str | None, typer.Option(help="Whose labels give thresholds and calibration; val, if there is one.")
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option(help="calibration.json of another evaluation, in place of the validation split.")
    ] = None,
    readers: Annotated[
        Path | None, typer.Option(help="CSV: reader,finding,sensitivity,specificity; or reader,study_id,FINDING...")
    ] = None,
    resamples: Resamples = 1000,
    seed: BootstrapSeed = 0,
    kg_encoder: OptionalEncoder = None,
) -> None:
    """Measure a model against labels: AUROC and more per finding, with patient-level 95% intervals."""
    from vlp.evaluation.evaluate import EvaluateConfig
    from vlp.evaluation.evaluate import evaluate as run

    config = EvaluateConfig(
        model, data, split, out, kg_encoder, seed, tuple(query), average_synonyms, min_positives, resamples,
        specificity, validation_split, calibration, readers,
    )  # fmt: skip
    metrics = run(config)
    print(f"{'finding':<22} {'AUROC':>6}  {'95% interval':<16} positives of studies")
    rows = metrics["per_finding"] | ({"normal": metrics["normal"]} if metrics["normal"] else {})
    for name, row in sorted(rows.items(), key=lambda item: -(item[1]["auroc"] or 0)):
        note = f"  {row['training']}" if row["training"] in ("rare", "unseen") else ""
        print(f"{name:<22} {_estimate(row, row['auroc'])}  {row['positives']} of {row['n']}{note}")
    macro = metrics["macro_auroc"]
    print(f"{'macro':<22} {_estimate(macro, macro['value'])}  over {len(macro['findings'])} findings: {macro['rule']}")
    if metrics["trained_on"]:
        print(f"{metrics['trained_on']} of these studies were trained on: this is no test")
    if metrics["undefined"]:
        print(f"{len(metrics['undefined'])} findings have no AUROC, for want of positive or negative studies")
    if metrics["unreadable_films"]:
        print(f"{len(metrics['unreadable_films'])} films could not be read; they are listed in metrics.json")
    print(f"written to {out}")


@vlp.command()
def finetune(
    model: ModelPath,
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Folder made by vlp prepare, with labels.")],
    out: Annotated[Path, typer.Option(help="Folder to make, one evaluation per fraction and seed.")],
    mode: Annotated[
        str, typer.Option(help="probe: regression on the frozen model; full: the tower is trained.")
    ] = "probe",
    fraction: Annotated[list[float], typer.Option(help="Part of the training patients; may be repeated.")] = [1.0],  # noqa: B006
    seeds: Annotated[int, typer.Option(help="Subsets, and orders of training, per fraction.", min=1)] = 3,
    split: Annotated[str, typer.Option(help="Split to test on.")] = "test",
    features: Annotated[str, typer.Option(help="What a probe reads: patches, answers or both.")] = "both",
    train_list: Annotated[Path | None, typer.Option(help="train_val_list.txt of ChestX-ray14 or alike.")] = None,
    test_list: Annotated[Path | None, typer.Option(help="test_list.txt, likewise.")] = None,
    last_blocks: Annotated[int, typer.Option(help="Tower blocks that mode full trains; -1 for all.", min=-1)] = 3,
    epochs: Annotated[int, typer.Option(help="Passes over the drawn films in mode full, at most.", min=1)] = 20,
    cpu_minutes: Annotated[float, typer.Option(help="Processor time of a fit in mode full; 0: no limit.", min=0)] = 0,
    batch_size: Annotated[int, typer.Option(help="Films per step in mode full.", min=1)] = 16,
    learning_rate: Annotated[float, typer.Option(help="Of the head in mode full; the tower's is a tenth.")] = 1e-3,
    min_positives: Annotated[int, typer.Option(help="Positive studies a finding needs to be in the macro mean.")] = 20,
    resamples: Resamples = 1000,
    kg_encoder: OptionalEncoder = None,
    resume: Resume = False,
) -> None:
    """Learn from labels, few or many: a linear probe or the whole tower, several seeds, beside the zero-shot model."""
    from vlp.finetuning.finetune import FinetuneConfig
    from vlp.finetuning.finetune import finetune as run
    from vlp.finetuning.summary import table
    from vlp.finetuning.tower import FullConfig

    full = FullConfig(last_blocks, epochs, cpu_minutes, batch_size, learning_rate)
    config = FinetuneConfig(
        model, data, out, mode, tuple(fraction), seeds, split, features,
        train_list, test_list, full, kg_encoder, min_positives, resamples, resume,
    )  # fmt: skip
    for line in table(run(config)):
        print(line)
    print(f"written to {out}")


@vlp.command()
def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="Model folder, or folder of an evaluation.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Likewise; the difference is A minus B.")],
    data: Annotated[Path | None, typer.Option(help="Data folder to measure models on.")] = None,
    split: Annotated[str | None, typer.Option(help="Its split.")] = None,
    out: Annotated[Path | None, typer.Option(help="JSON to write.")] = None,
    min_positives: Annotated[int, typer.Option(help="Positive studies a finding needs to be in the macro mean.")] = 20,
    resamples: Resamples = 1000,
    seed: BootstrapSeed = 0,
    kg_encoder: OptionalEncoder = None,
    as_json: Json = False,
) -> None:
    """Compare two models on the same films: the difference of AUROC, paired over resampled patients."""
    from vlp.evaluation.compare import CompareConfig
    from vlp.evaluation.compare import compare as run

    found = run(CompareConfig(first, second, data, split, out, kg_encoder, seed, resamples, min_positives))
    if as_json:
        _print_json(found)
        return
    rows = {name: row["auroc"] for name, row in found["per_finding"].items()}
    rows[f"macro of {len(found['findings'])}"] = found["macro_auroc"]
    print(f"{'finding':<22} {'A':>6} {'B':>6} {'A - B':>7}  95% interval")
    for name, row in rows.items():
        if row is None or row["difference"] is None:
            print(f"{name:<22} undefined")
        else:
            values = f"{row['first']:>6.3f} {row['second']:>6.3f} {row['difference']:>+7.3f}"
            print(f"{name:<22} {values}  {row['low']:+.3f} to {row['high']:+.3f}")
    if found["not_in_both"]:
        print(f"not asked of both, and left out: {', '.join(found['not_in_both'])}")


@vlp.command("cross-validate")
def cross_validate_command(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Folder made by vlp prepare, with labels.")],
    kg_encoder: Annotated[Path, typer.Option(help="Encoder folder; its vectors are the queries.")],
    out: Annotated[Path, typer.Option(help="Folder for seed-<n>/, each like an evaluation, and summary.json.")],
    recipe: Recipe = "default",
    folds: Annotated[int, typer.Option(help="Folds, by patient, over the splits train and val.")] = 5,
    seeds: Annotated[str, typer.Option(help="Seeds, separated by commas.")] = "0",
    leave_out: Annotated[
        list[str], typer.Option(help="Label to ask of models that never heard of it, or all; may be repeated.")
    ] = [],  # noqa: B006
    probe: Annotated[bool, typer.Option("--probe", help="A supervised linear probe in place of the recipe.")] = False,
    min_positives: Annotated[int, typer.Option(help="Positive studies a finding needs to be in the macro mean.")] = 20,
    settings: Settings = [],  # noqa: B006 - Typer copies it
    resume: Resume = False,
) -> None:
    """Train and measure a recipe fold by fold; compare two of them with vlp compare OUT/seed-0 OTHER/seed-0."""
    from vlp.config import load_vlp_recipe
    from vlp.cross_validation import CrossValidateConfig, cross_validate

    chosen = load_vlp_recipe(recipe, settings)
    summary = cross_validate(
        CrossValidateConfig(
            data, kg_encoder, out, chosen, folds, tuple(_seeds(seeds)), tuple(leave_out), probe, min_positives, resume
        )
    )
    for seed, row in summary["seeds"].items():
        print(f"seed {seed}: macro AUROC {_estimate(row, row['value'])} over {', '.join(row['findings'])}")
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
    check_input: Annotated[
        bool, typer.Option("--check-input", help="Abstain from what is not a frontal chest film, and say why.")
    ] = False,
    overlays: Annotated[Path | None, typer.Option(help="Folder for heat maps drawn over the films.")] = None,
    overlays_per_film: Annotated[int, typer.Option(help="Findings drawn per film, the likeliest first.", min=1)] = 1,
    calibration: Annotated[
        Path | None, typer.Option(help="calibration.json of an evaluation; by default the one kept with the model.")
    ] = None,
    kg_encoder: OptionalEncoder = None,
) -> None:
    """Answer queries about films."""
    from vlp.predict import PredictConfig
    from vlp.predict import predict as run

    config = PredictConfig(
        model, tuple(paths), tuple(query), kg_encoder, out, all_concepts, check_input, overlays, overlays_per_film,
        calibration,
    )  # fmt: skip
    done = run(config)
    by_image: dict[str, list[tuple[Any, float | None]]] = {}
    for found, calibrated in zip(done.found, done.calibrated, strict=True):
        by_image.setdefault(found.image, []).append((found, calibrated))
    for image, answers in by_image.items():
        print(image)
        for answer, calibrated in sorted(answers, key=lambda pair: -pair[0].probability)[:top]:
            note = "" if calibrated is None else f"  calibrated {calibrated:.3f}"
            print(f"  {answer.probability:.3f}  {answer.finding}  {answer.concept or '(text)'}{note}")
    for name, reason in done.abstained:
        print(f"no answer: {name}: {reason}")
    for name, reason in done.failed:
        print(f"not read: {name}: {reason}", file=sys.stderr)
    if overlays is not None:
        print(f"{len(done.overlays)} overlays written to {overlays}")
    if out is not None:
        print(f"written to {out}")


@vlp.command()
def ground(
    model: ModelPath,
    image: Annotated[Path, typer.Argument(metavar="FILM", help="A film; a folder with --boxes; or a data folder.")],
    out: Annotated[Path, typer.Option(help="PNG to write: the heat map over the film; else a folder.")],
    query: Annotated[str | None, typer.Option(help="Name, concept id or free text, about one film.")] = None,
    boxes: Annotated[
        Path | None, typer.Option(help="CSV of readers' boxes (image, finding, x, y, w, h): measure against them.")
    ] = None,
    frame: Annotated[
        int | None, typer.Option(help="Side of the square picture the boxes refer to (NIH: 1024); else the film's own.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Of a data folder; by default all of it.")] = None,
    kg_encoder: OptionalEncoder = None,
) -> None:
    """Show where on a film a query finds its evidence; or measure how often that is where readers saw it."""
    if query is None:
        from vlp.evaluation.pointing import PointingConfig

        _point(PointingConfig(model, boxes, image, out, frame, kg_encoder, split=split))
        return
    from vlp.grounding import GroundConfig
    from vlp.grounding import ground as run

    found = run(GroundConfig(model, image, query, out, kg_encoder))
    print(f"{found.query.text}: probability {found.score:.3f}, hottest box {found.box}; written to {out}")


def _point(config: Any) -> None:
    """The pointing game: `vlp ground` against readers' boxes."""
    from vlp.evaluation.pointing import point as run

    found = run(config)
    print(f"{'finding':<22} {'n':>4} {'hits':>6} {'chance':>7} {'IoU box':>8} {'IoU map':>8}")
    for name, row in found["per_finding"].items():
        print(
            f"{name:<22} {row['n']:>4} {row['hit']:>6.2f} {row['chance']:>7.2f} "
            f"{row['iou_box']:>8.2f} {row['iou_map']:>8.2f}"
        )
    hit, chance = found["hit"], found["chance"]
    interval = f"95% {hit['low']:.2f} to {hit['high']:.2f}"
    print(f"all {found['n']} on {found['films']} films: hits {hit['value']:.2f} ({interval})")
    print(f"a point thrown at random would hit {chance['value']:.2f}")
    for item in found["failed"]:
        print(f"not read: {item['film']}: {item['reason']}", file=sys.stderr)
    print(f"written to {config.out_dir}")


class ExportFormat(StrEnum):
    """What `vlp export` writes."""

    onnx = "onnx"


@vlp.command("export")
def export_model_command(
    model: ModelPath,
    out: Annotated[Path, typer.Option(help="Folder to make.")],
    form: Annotated[ExportFormat, typer.Option("--format", help="What to write.")] = ExportFormat.onnx,
    query: Annotated[
        list[str],
        typer.Option(help="Name, concept id or free text; may be repeated; if not given, every query of the model."),
    ] = [],  # noqa: B006
    kg_encoder: OptionalEncoder = None,
) -> None:
    """Write a model with its queries for onnxruntime: it runs without torch and transformers."""
    from vlp.export import ExportConfig
    from vlp.export import export as run

    done = run(ExportConfig(model, out, tuple(query), kg_encoder))
    print(f"{done.queries} queries, {done.megabytes:.1f} MB; scores differ from torch by at most {done.difference:.1e}")
    print(f"written to {out}; run it with: python {out}/runner.py FILM...")


def _add_file(
    read: Callable[..., Any],
    path: Path,
    out: Path,
    options: tuple[str | None, str | None, int],
    *,
    strict: bool,
    as_json: bool,
) -> None:
    """Add one file by its reader; the options are name, release and licence level."""
    from kgkit.graph.store import ingest as add
    from kgkit.sources.base import IngestLog

    log = IngestLog(strict=strict)
    _print_ingest(add(out, read(path, log, *options), log), as_json)


def _add_mentions(
    read: Callable[..., Any],
    path: Path,
    out: Path,
    options: tuple[str | None, str | None, int],
    linking: tuple[Path | None, float | None],
    *,
    strict: bool,
    as_json: bool,
) -> None:
    """Add reports with mentions; `linking` is the encoder that links them, if any, and the least search score."""
    from kgkit.graph.store import ingest as add
    from kgkit.sources.base import IngestLog

    log = IngestLog(strict=strict)
    tables = read(path, log, *options)
    encoder, min_score = linking
    if encoder is None and min_score is not None:
        from kgkit.errors import InputError

        raise InputError("--min-score says how sure a link has to be; give --link-with ENCODER too")
    if encoder is not None:
        from kgkit.linking.link_file import linked_source
        from kgkit.linking.spans import MIN_SCORE

        tables = linked_source(tables, log, encoder, MIN_SCORE if min_score is None else min_score)
    _print_ingest(add(out, tables, log), as_json)


def _print_ingest(done: Any, as_json: bool) -> None:
    if as_json:
        _print_json(vars(done))
        return
    rows = ", ".join(f"{table} {count:,}" for table, count in sorted(done.rows_read.items()))
    print(f"{done.source}: {done.statements:,} statements\n  read: {rows}")
    for check in done.checks:
        print(f"  {check}")
    _print_skips(done.skipped, done.first_defect)
    print(f"graph digest {done.graph_digest}")


def _print_skips(skipped: dict[str, int], first_defect: dict[str, str] | None = None) -> None:
    for reason, count in sorted(skipped.items()):
        first = (first_defect or {}).get(reason)
        print(f"  skipped {count:,}: {reason}{f' (first: {first})' if first else ''}")


def _lines(file: str | None) -> list[str]:
    """The lines of a text file, or of standard input (-)."""
    from kgkit.errors import InputError

    if file is None:
        return []
    try:
        content = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        return content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise InputError("not UTF-8", "standard input" if file == "-" else file, line) from error
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", file) from error


def _hit(hit: Any) -> dict[str, Any]:
    names = ("rank", "concept", "name", "semantic_types", "score", "matched_name", "dense_score", "lexical_score")
    return {name: getattr(hit, name) for name in names}


def _print_hits(hits: list[Any], *, explain: bool = False) -> None:
    if not hits:
        print("  nothing found")
    for hit in hits:
        print(f"  {hit.rank:>2}  {hit.score:.3f}  {hit.concept:<16}  {','.join(hit.semantic_types):<10}  {hit.name}")
        if explain:
            scores = (("dense", hit.dense_score), ("lexical", hit.lexical_score))
            shown = "".join(f", {side} {score:.3f}" for side, score in scores if score is not None)
            print(f"      by the name {hit.matched_name!r}{shown}")


def _estimate(row: dict[str, Any], value: float | None) -> str:
    if value is None:
        return f"{'undefined':<24}"
    interval = "" if row["low"] is None else f"{row['low']:.3f} to {row['high']:.3f}"
    return f"{value:>6.3f}  {interval:<16}"


def _seeds(text: str) -> list[int]:
    from kgkit.errors import InputError

    words = text.split(",")
    if not all(word.strip().isdecimal() and int(word) <= MAX_SEED for word in words):
        raise InputError(f"--seeds {text!r}: expected whole numbers up to {MAX_SEED} separated by commas")
    return [int(word) for word in words]


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
