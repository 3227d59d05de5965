"""Answers one SPARQL query in a process that can be stopped: `python -m kgkit.graph.query_worker`.

Oxigraph cannot interrupt a query, so what has to end in time runs here and is killed from outside. The process reads
a job as JSON from standard input, writes the answer to standard output as it comes, and says in one line on standard
error why there is none. It loads pyoxigraph and the standard library only, and starts within some hundredths of a
second.
"""

from __future__ import annotations

import json
import re
import signal
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, BinaryIO

import pyoxigraph as ox

from kgkit import namespaces as ns
from kgkit.errors import InputError

Answer = ox.QuerySolutions | ox.QueryBoolean | ox.QueryTriples

REFUSED = 3
"""Exit code for a query that is not valid; standard error holds the one line that says why."""

_GRACE_S = 2.0
_CHARACTER_CLASS = re.compile(r",? \[(?:'[^']*'|[^\]'])*\]")
"""What the parser would also have taken here, by character: of no use to anyone."""
_CONTROLS = str.maketrans({"\t": " ", "\n": " ", "\r": " "})


class AnswerFormat(StrEnum):
    """How an answer is written. CONSTRUCT and DESCRIBE give N-Triples, or Turtle where TURTLE is asked for."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"
    TSV = "tsv"
    TURTLE = "turtle"


_RESULTS = {
    AnswerFormat.JSON: ox.QueryResultsFormat.JSON,
    AnswerFormat.CSV: ox.QueryResultsFormat.CSV,
    AnswerFormat.TSV: ox.QueryResultsFormat.TSV,
}


@dataclass(frozen=True)
class QueryJob:
    """One query to answer.

    Attributes:
        store: Folder of the Oxigraph store.
        sparql: SPARQL 1.1; the known prefixes need no declaration.
        form: How the answer is written, a value of AnswerFormat.
        limit_s: Seconds after which the process ends by itself, should nobody stop it; 0 for never.
    """

    store: str
    sparql: str
    form: str = AnswerFormat.TABLE
    limit_s: float = 0.0

    def to_json(self) -> str:
        """The job as one JSON object."""
        return json.dumps(asdict(self))


def answer(store: ox.Store, sparql: str) -> Answer:
    """Answer a query over all named graphs as one; the known prefixes need no declaration.

    A statement that several named graphs hold is matched once for each of them; `DISTINCT` folds them.

    Raises:
        InputError: if the query is not valid SPARQL.
    """
    try:
        return store.query(sparql, use_default_graph_as_union=True, prefixes=dict(ns.PREFIXES))
    except SyntaxError as error:
        problem = _CHARACTER_CLASS.sub("", " ".join(str(error).split()))
        raise InputError(f"not a valid SPARQL query: {problem}") from error


def solutions(store: ox.Store, sparql: str) -> ox.QuerySolutions:
    """Rows of a SELECT query of ours, over all named graphs as one."""
    result = answer(store, sparql)
    assert isinstance(result, ox.QuerySolutions)
    return result


def write_answer(result: Answer, form: AnswerFormat, output: BinaryIO) -> None:
    """Write an answer as it is found, in constant memory.

    Tables are tab-separated with a line of headings: CURIEs for IRIs, plain text for literals, a space for a tab or
    line break in them. JSON, CSV and TSV are the W3C's SPARQL 1.1 result formats.
    """
    if isinstance(result, ox.QueryTriples):
        if form is AnswerFormat.TURTLE:
            ox.serialize(result, output, format=ox.RdfFormat.TURTLE, prefixes=dict(ns.PREFIXES))
        else:
            result.serialize(output, format=ox.RdfFormat.N_TRIPLES)
    elif form in _RESULTS:
        result.serialize(output, format=_RESULTS[form])
        if form is AnswerFormat.JSON:
            output.write(b"\n")
    elif form is AnswerFormat.TURTLE:
        raise InputError("only the answer of CONSTRUCT or DESCRIBE can be written as Turtle")
    else:
        for row in results_table(result):
            output.write(("\t".join(row) + "\n").encode())


def results_table(result: ox.QuerySolutions | ox.QueryBoolean) -> Iterator[list[str]]:
    """Rows of an answer as strings, the variables' names first: CURIEs for IRIs, plain text for literals."""
    if isinstance(result, ox.QueryBoolean):
        yield [str(bool(result)).lower()]
        return
    yield [variable.value for variable in result.variables]
    for row in result:
        yield [_shown(row[variable]) for variable in result.variables]


def _shown(term: Any) -> str:
    if term is None:
        return ""
    text = ns.compress(term.value) if isinstance(term, ox.NamedNode) else str(getattr(term, "value", term))
    return text.translate(_CONTROLS)


def _main() -> None:
    job = QueryJob(**json.load(sys.stdin))
    if job.limit_s and hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, job.limit_s + _GRACE_S)  # nobody may be left to stop this process
    try:
        with open(sys.stdout.fileno(), "wb", buffering=1 << 18, closefd=False) as output:
            write_answer(answer(ox.Store.read_only(job.store), job.sparql), AnswerFormat(job.form), output)
    except InputError as error:
        sys.stderr.write(str(error))
        sys.exit(REFUSED)


if __name__ == "__main__":
    _main()
