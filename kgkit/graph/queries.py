"""SPARQL on a graph: named queries, parameters, a time limit that really stops."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pyoxigraph as ox

from kgkit import namespaces as ns
from kgkit.errors import InputError, KgkitError, choices
from kgkit.graph.query_worker import REFUSED, AnswerFormat, QueryJob, answer, write_answer
from kgkit.graph.store import KnowledgeGraph
from kgkit.resources import resource

_PARAMETER = re.compile(
    r"^(?P<before>[ \t]*VALUES[ \t]+\?(?P<name>\w+)[ \t]*\{)[^}\n]*\}[ \t]*#[ \t]*(?P<kind>required|default)\b.*$",
    re.MULTILINE | re.IGNORECASE,
)
_NAME = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class NamedQuery:
    """A bundled query.

    Attributes:
        name: What to type after `kgkit query KG`.
        question: What it answers, in words.
        sparql: Its text.
        required: Parameters that have to be set.
        optional: Parameters with a default value.
    """

    name: str
    question: str
    sparql: str
    required: tuple[str, ...]
    optional: tuple[str, ...]


def named_queries() -> dict[str, NamedQuery]:
    """The queries of `ontologies/queries`, by name.

    The first line of a file is a comment with the question it answers. A line `VALUES ?name { value } # required` (or
    `# default`) makes `name` a parameter; the file stays valid SPARQL with that value.
    """
    found = {}
    for path in sorted(resource("ontologies/queries").glob("*.rq")):
        text = path.read_text(encoding="utf-8")
        kinds = {part["name"]: part["kind"].lower() for part in _PARAMETER.finditer(text)}
        required = tuple(name for name, kind in kinds.items() if kind == "required")
        optional = tuple(name for name, kind in kinds.items() if kind == "default")
        question = text.partition("\n")[0].lstrip("# ")
        found[path.stem] = NamedQuery(path.stem, question, text, required, optional)
    return found


def query_text(given: str) -> str:
    """SPARQL of what a user typed: a query's name, a file (`@FILE` or `FILE.rq`), or SPARQL itself.

    Raises:
        InputError: if the name or file does not exist.
    """
    if given.startswith("@") or given.endswith(".rq"):
        path = Path(given.removeprefix("@"))
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"not a readable query file ({error})", path) from error
    if not given.strip():
        raise InputError("no query given; a name, a file or SPARQL is expected (kgkit query KG --list names some)")
    if _NAME.fullmatch(given):
        known = named_queries()
        if given not in known:
            raise InputError(f"no query named {given!r}; {choices(given, known, limit=20)}")
        return known[given].sparql
    return given


def set_parameters(sparql: str, settings: Sequence[str]) -> str:
    """Put values into the parameters of a query.

    Args:
        sparql: A query with lines `VALUES ?name { value } # required` or `# default`.
        settings: `name=value`; a value is an id (`umls:C0032227`), an IRI or, failing that, a text. A name that is
            given several times takes all of its values.

    Raises:
        InputError: if a setting is malformed, names no parameter, or a required parameter is not set.
    """
    values: dict[str, list[str]] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise InputError(f"--set {setting}: expected NAME=VALUE")
        values.setdefault(name, []).append(_term(value))
    known = {part["name"]: part["kind"].lower() for part in _PARAMETER.finditer(sparql)}
    for name in values:
        if name not in known:
            raise InputError(f"--set {name}: " + (choices(name, known) if known else "this query has no parameters"))
    missing = [name for name, kind in known.items() if kind == "required" and name not in values]
    if missing:
        raise InputError("this query needs " + ", ".join(f"--set {name}=VALUE" for name in missing))

    def filled(part: re.Match[str]) -> str:
        terms = values.get(part["name"])
        return f"{part['before']} {' '.join(terms)} }}" if terms else part[0]

    return _PARAMETER.sub(filled, sparql)


def _term(value: str) -> str:
    """A parameter's value as SPARQL writes it; whatever it holds, it is one term."""
    try:
        return str(ox.NamedNode(ns.iri_of(value.removeprefix("<").removesuffix(">"))))
    except (InputError, ValueError):
        return str(ox.Literal(value))


def run_query(
    graph: KnowledgeGraph,
    given: str,
    settings: Sequence[str],
    output: BinaryIO,
    form: AnswerFormat = AnswerFormat.TABLE,
    limit_s: float = 0.0,
) -> None:
    """What `kgkit query` does: `query_text`, `set_parameters` and `write_query` in one."""
    write_query(graph, set_parameters(query_text(given), settings), output, form, limit_s)


def write_query(
    graph: KnowledgeGraph, sparql: str, output: BinaryIO, form: AnswerFormat = AnswerFormat.TABLE, limit_s: float = 0.0
) -> None:
    """Answer a query and write the answer as it is found.

    Args:
        graph: An open graph.
        sparql: SPARQL 1.1; the known prefixes need no declaration.
        output: Where the answer goes; after a timeout it holds a part of it.
        form: How it is written.
        limit_s: Seconds after which the query is stopped; 0 for never. With a limit the query runs in a process of
            its own, since Oxigraph cannot be interrupted.

    Raises:
        InputError: if the query is not valid.
        KgkitError: if the time is up.
    """
    store = graph.store
    if not limit_s:
        write_answer(answer(store, sparql), form, output)
        return
    job = QueryJob(str(graph.store_folder.resolve()), sparql, form, limit_s)
    _write_in_child(job, output)


def _write_in_child(job: QueryJob, output: BinaryIO) -> None:
    command = [sys.executable, "-m", "kgkit.graph.query_worker"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as child:  # noqa: S603
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stderr is not None
        late = threading.Event()

        def stop() -> None:
            late.set()
            child.kill()

        timer = threading.Timer(job.limit_s, stop)
        timer.start()
        try:
            child.stdin.write(job.to_json().encode())
            child.stdin.close()
            shutil.copyfileobj(child.stdout, output, 1 << 18)
            output.flush()
            said = child.stderr.read().decode(errors="replace").strip()
            code = child.wait()
        finally:
            timer.cancel()
            child.kill()
    if late.is_set() and code != 0:
        raise KgkitError(f"stopped after {job.limit_s:g} s (--timeout); what was printed is not the whole answer")
    if code == REFUSED:
        raise InputError(said)
    if code:
        reason = said.splitlines()[-1] if said else "it may have run out of memory"
        raise KgkitError(f"the query's process ended with code {code}: {reason}")
