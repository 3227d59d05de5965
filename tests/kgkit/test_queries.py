"""Questions to a graph: named queries, parameters, formats, a limit that stops, and rdflib's way of asking."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import rdflib
from graphs import ROOT
from hypothesis import example, given
from hypothesis import strategies as st
from rdflib.compare import isomorphic
from rdflib.query import Result

from kgkit import namespaces as ns
from kgkit.errors import InputError, KgkitError
from kgkit.graph.queries import named_queries, query_text, run_query, set_parameters, write_query
from kgkit.graph.query_worker import AnswerFormat, QueryJob, results_table, solutions
from kgkit.graph.rdflib_api import rdflib_dataset
from kgkit.graph.store import KnowledgeGraph
from kgkit.namespaces import iri_of

ENDLESS = "SELECT (COUNT(*) AS ?n) { ?a ?b ?c . ?d ?e ?f . ?g ?h ?i . ?j ?k ?l }"
UNION_FACTS = "SELECT ?s ?o { ?s rela:isa ?o }"


@pytest.fixture(scope="module")
def graph(union_kg_dir: Path) -> KnowledgeGraph:
    return KnowledgeGraph(union_kg_dir)


def answered(
    graph: KnowledgeGraph,
    query: str,
    settings: list[str] | None = None,
    form: AnswerFormat = AnswerFormat.TABLE,
    limit_s: float = 0,
) -> str:
    output = io.BytesIO()
    run_query(graph, query, settings or [], output, form, limit_s)
    return output.getvalue().decode()


def rows(graph: KnowledgeGraph, query: str, settings: list[str]) -> list[tuple[str, ...]]:
    return [tuple(line.split("\t")) for line in answered(graph, query, settings).splitlines()[1:]]


EFFUSION = ["concept=umls:C0032227"]
EXPECTED: dict[str, tuple[list[str], list[tuple[str, ...]]]] = {
    "agreed-facts": ([], [("umls:C0032227", "rela:isa", "umls:C0013687", "2")]),
    "ancestors": (["concept=umls:C0041296"], [
        ("HP:0002103", "Abnormal pleura morphology"), ("umls:C0013687", "Effusion"),
        ("umls:C0014013", "Pleural empyema"), ("HP:0002202", "Pleural effusion"),
        ("umls:C0032227", "Pleural effusion")]),
    "code": (["code=bioportal:TST/x y"], [("umls:C0032227", "Pleural effusion", "graph:TST@1")]),
    "definitions": (EFFUSION, [("Fluid in the pleural cavity.", "graph:HPO@2025"),
                               ("Too much fluid in the pleural cavity.", "graph:HP@2026")]),
    "descendants": (["concept=HP:0002103"], [
        ("umls:C0014013", "Pleural empyema"), ("HP:0002202", "Pleural effusion"),
        ("umls:C0032227", "Pleural effusion"), ("umls:C0041296", "Tuberculous empyema")]),
    "hubs": ([], [("umls:C0032227", "Pleural effusion", "4"), ("umls:C0014013", "Pleural empyema", "2"),
                  ("HP:0002103", "Abnormal pleura morphology", "1"), ("HP:0002202", "Pleural effusion", "1"),
                  ("umls:C0013687", "Effusion", "1"), ("umls:C0018802", "Congestive heart failure", "1"),
                  ("umls:C0032225", "Pleura", "1"), ("umls:C0041296", "Tuberculous empyema", "1")]),
    "matches": (["concept=umls:C0032225"], [
        ("close", "HP:0002103", "Abnormal pleura morphology", "graph:HP@2026")]),
    "mentions": (EFFUSION, [("graph:notes@1", "kgkit:absent", "1", "1"), ("graph:notes@1", "kgkit:present", "1", "1")]),
    "names": (["concept=HP:0002202"], [
        ("Pleural effusion", "best", "graph:HP@2026"), ("Pleural fluid", "other", "graph:HP@2026"),
        ("Pleural effusion", "best", "graph:HPO@2025"), ("Fluid around lungs", "other", "graph:HPO@2025"),
        ("PLEFF", "abbreviation", "graph:TST@1"), ("PLEFF", "other", "graph:TST@1"),
        ("Effusion, Pleural", "best", "graph:TST@1"), ("derrame pleural", "best", "graph:TST@1")]),
    "neighbours": (EFFUSION, [
        ("->", "rela:isa", "umls:C0013687", "Effusion", "HPO@2025, TST@1"),
        ("->", "rela:isa", "HP:0002103", "Abnormal pleura morphology", "HP@2026"),
        ("->", "rela:has_finding_site", "umls:C0032225", "Pleura", "TST@1"),
        ("<-", "rela:isa", "umls:C0014013", "Pleural empyema", "HPO@2025"),
        ("<-", "rela:cause_of", "umls:C0018802", "Congestive heart failure", "TST@1")]),
    "of-type": (["type=STY:T047"], [("umls:C0018802", "Congestive heart failure"),
                                    ("umls:C0032227", "Pleural effusion")]),
    "replaced": (["retired=umls:C0000001"], [("synonym", "umls:C0032227", "Pleural effusion")]),
    "vocabularies": ([], [
        ("graph:HP@2026", "HPO as OBO", "2026", "0", "kgkit:source/hpo@2026"),
        ("graph:HPO@2025", "Human Phenotype Ontology", "2025", "0", "kgkit:source/umls@2026AA"),
        ("graph:TST@1", "Test vocabulary", "1", "3", "kgkit:source/umls@2026AA"),
        ("graph:UMLS@2026AA", "UMLS Metathesaurus", "2026AA", "0", "kgkit:source/umls@2026AA"),
        ("graph:notes@1", "Two reports", "1", "0", "kgkit:source/notes@1")]),
}  # fmt: skip


def test_every_named_query_has_an_expected_answer() -> None:
    assert EXPECTED.keys() == named_queries().keys()


@pytest.mark.parametrize("name", EXPECTED)
def test_a_named_query_gives_the_expected_answer(graph: KnowledgeGraph, name: str) -> None:
    settings, expected = EXPECTED[name]
    found = rows(graph, name, settings)
    assert sorted(found) == sorted(expected)
    assert {setting.partition("=")[0] for setting in settings} == set(named_queries()[name].required)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_named_query_says_what_it_answers_and_is_sparql_as_it_stands(graph: KnowledgeGraph, name: str) -> None:
    query = named_queries()[name]
    assert query.sparql.startswith("# ")
    assert query.question.endswith("?")
    assert solutions(graph.store, query.sparql).variables


def test_ends_of_retired_ids(graph: KnowledgeGraph) -> None:
    split = [("split", "umls:C0013687", "Effusion"), ("split", "umls:C0032225", "Pleura")]
    assert rows(graph, "replaced", ["retired=umls:C0000003"]) == split
    assert rows(graph, "replaced", ["retired=umls:C0000004"]) == [("deleted", "", "")]
    assert rows(graph, "replaced", ["retired=umls:C0032227"]) == []


def test_a_parameter_takes_several_values_and_a_default_can_be_replaced(graph: KnowledgeGraph) -> None:
    both = rows(graph, "of-type", ["type=STY:T023", "type=STY:T046"])
    assert both == [("umls:C0032225", "Pleura"), ("umls:C0032227", "Pleural effusion")]
    spanish = rows(graph, "of-type", ["type=STY:T046", "language=es"])
    assert spanish == [("umls:C0032227", "derrame pleural")]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ([], "this query needs --set concept=VALUE"),
        (["concept"], "--set concept: expected NAME=VALUE"),
        (["concpt=umls:C1"], "--set concpt: did you mean 'concept'? choices: concept"),
    ],
)
def test_wrong_parameters_are_named(settings: list[str], message: str) -> None:
    with pytest.raises(InputError) as error:
        set_parameters(query_text("names"), settings)
    assert str(error.value) == message
    with pytest.raises(InputError, match="--set x: this query has no parameters"):
        set_parameters("ASK {}", ["x=1"])


@given(st.text())
@example('" } SELECT * { ?s ?p ?o } #')
@example("\\")
@example("<a:b> <a:c>")
@example("umls:C1> . ?s ?p <x")
def test_whatever_a_value_holds_it_is_one_term(union_kg_dir: Path, value: str) -> None:
    query = set_parameters('SELECT ?x {\n VALUES ?x { "a" } # required\n}', [f"x={value}"])
    ((term,),) = [tuple(row) for row in solutions(KnowledgeGraph(union_kg_dir).store, query)]
    texts = {value}
    with suppress(InputError):  # it is no id
        texts.add(iri_of(value.removeprefix("<").removesuffix(">")))
    assert term.value in texts


def test_a_query_may_stand_in_a_file(graph: KnowledgeGraph, tmp_path: Path) -> None:
    file = tmp_path / "mine.rq"
    file.write_text("ASK { umls:C0014013 rela:isa umls:C0032227 }")
    assert answered(graph, f"@{file}") == answered(graph, str(file)) == "true\n"
    with pytest.raises(InputError, match=r"none\.rq: not a readable query file"):
        query_text(f"@{tmp_path / 'none.rq'}")
    with pytest.raises(InputError, match="no query named 'neighbors'; did you mean 'neighbours'"):
        query_text("neighbors")
    with pytest.raises(InputError, match="no query given"):
        query_text(" ")


def test_tables_hold_curies_and_plain_text(graph: KnowledgeGraph) -> None:
    query = 'SELECT ?a ?b ?c { BIND(umls:C0032227 AS ?a) BIND("x\\ty\\nz"@en AS ?b) BIND(2 AS ?c) }'
    assert list(results_table(solutions(graph.store, query))) == [["a", "b", "c"], ["umls:C0032227", "x y z", "2"]]
    assert answered(graph, "ASK {}") == "true\n"


@pytest.mark.parametrize("form", [AnswerFormat.JSON, AnswerFormat.CSV, AnswerFormat.TSV])
def test_answers_are_in_the_formats_of_the_w3c(graph: KnowledgeGraph, form: AnswerFormat) -> None:
    """Read by rdflib's own readers; CSV does not tell a language."""
    query = "SELECT ?c ?name ?n ?none { ?c skos:altLabel ?name BIND(STRLEN(?name) AS ?n) } ORDER BY ?name"
    text = answered(graph, query, form=form)
    found = [[term and str(term) for term in row] for row in Result.parse(io.BytesIO(text.encode()), format=form.value)]
    expected = [[row["c"].value, row["name"].value, row["n"].value, None] for row in solutions(graph.store, query)]
    assert len(found) == 3
    assert found == expected
    if form is AnswerFormat.JSON:
        assert json.loads(text)["results"]["bindings"][0]["name"]["xml:lang"] == "en"
        assert json.loads(answered(graph, "ASK {}", form=form)) == {"head": {}, "boolean": True}


def test_triples_are_n_triples_or_turtle(graph: KnowledgeGraph) -> None:
    query = "CONSTRUCT { ?s skos:broader ?o } WHERE { ?s rela:isa ?o }"
    read = {
        form: rdflib.Graph().parse(
            data=answered(graph, query, form=form), format="turtle" if form == "turtle" else "nt"
        )
        for form in AnswerFormat
    }
    assert len(read[AnswerFormat.TABLE]) == 4
    assert all(isomorphic(read[AnswerFormat.TABLE], other) for other in read.values())
    assert "umls:C0014013 skos:broader umls:C0032227" in answered(graph, query, form=AnswerFormat.TURTLE)
    with pytest.raises(InputError, match="only the answer of CONSTRUCT or DESCRIBE can be written as Turtle"):
        answered(graph, "ASK {}", form=AnswerFormat.TURTLE)


@pytest.mark.parametrize("form", list(AnswerFormat))
def test_the_answer_of_the_stoppable_process_is_the_same(graph: KnowledgeGraph, form: AnswerFormat) -> None:
    query = "CONSTRUCT { ?s ?p ?o } WHERE { ?s ?p ?o }" if form is AnswerFormat.TURTLE else "SELECT * { ?s ?p ?o }"
    assert answered(graph, query, form=form, limit_s=60) == answered(graph, query, form=form)


@pytest.mark.parametrize("limit_s", [0, 60])
@pytest.mark.parametrize("wrong", ["SELEC ?s {}", "SELECT ?s { ?s nope:x ?o }", "INSERT DATA { <a:a> <a:b> <a:c> }"])
def test_a_query_that_is_not_sparql_is_one_line(graph: KnowledgeGraph, wrong: str, limit_s: float) -> None:
    with pytest.raises(InputError, match=r"^not a valid SPARQL query: ") as error:
        answered(graph, wrong, limit_s=limit_s)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 200


def processes() -> str:
    listing = ["ps", "-o", "pid,args", "--ppid", str(os.getpid())]
    return subprocess.run(listing, capture_output=True, text=True, check=False).stdout


@pytest.mark.parametrize("query", [ENDLESS, "SELECT * { ?a ?b ?c . ?d ?e ?f . ?g ?h ?i . ?j ?k ?l }"])
def test_a_query_that_takes_too_long_is_stopped(graph: KnowledgeGraph, query: str) -> None:
    output = io.BytesIO()
    started = time.monotonic()
    with pytest.raises(
        KgkitError, match=r"stopped after 0\.5 s \(--timeout\); what was printed is not the whole answer"
    ):
        write_query(graph, query, output, AnswerFormat.JSON, limit_s=0.5)
    assert time.monotonic() - started < 2.5
    assert "query_worker" not in processes()
    with pytest.raises(json.JSONDecodeError):
        json.loads(output.getvalue())


def test_a_stopped_query_is_exit_code_1_and_one_line(
    union_kg_dir: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    code, out, err = command("kgkit", "query", union_kg_dir, ENDLESS, "--timeout", 0.5)
    assert (code, out) == (1, "")
    assert err == "kgkit: stopped after 0.5 s (--timeout); what was printed is not the whole answer\n"


def test_a_query_ends_by_itself_if_nobody_is_left_to_stop_it(graph: KnowledgeGraph) -> None:
    store = graph.folder / f"store.{graph.digest[:16]}"
    job = QueryJob(str(store), ENDLESS, limit_s=0.1)
    call = [sys.executable, "-m", "kgkit.graph.query_worker"]
    done = subprocess.run(call, input=job.to_json(), text=True, capture_output=True, timeout=20, check=False, cwd=ROOT)
    assert done.returncode == -signal.SIGALRM


def test_an_answer_that_nobody_reads_on_is_stopped(graph: KnowledgeGraph) -> None:
    class Closed(io.BytesIO):
        def write(self, _: object) -> int:
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        write_query(graph, "SELECT * { ?a ?b ?c . ?d ?e ?f . ?g ?h ?i }", Closed(), limit_s=60)
    assert "query_worker" not in processes()


def test_the_stoppable_process_loads_next_to_nothing_and_starts_at_once(graph: KnowledgeGraph) -> None:
    heavy = ("polars", "numpy", "rdflib", "typer", "scipy", "kgkit.graph.store")
    code = f"import sys, kgkit.graph.query_worker; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "[]\n"
    times = []
    for _ in range(5):
        started = time.perf_counter()
        answered(graph, "ASK {}", limit_s=60)
        times.append(time.perf_counter() - started)
    assert min(times) < 0.3


def test_the_command_lists_the_named_queries(union_kg_dir: Path, command: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = command("kgkit", "query", union_kg_dir, "--list")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == list(named_queries())
    assert "of-type --set type=...           Which concepts have this semantic type?" in out
    _, out, _ = command("kgkit", "query", union_kg_dir, "of-type", "--set", "type=STY:T023", "--csv")
    assert out == f"concept,name\r\n{ns.expand('umls:C0032225')},Pleura\r\n"
    assert command("kgkit", "query", union_kg_dir)[0] == 1


def test_rdflib_gives_the_same_answers(graph: KnowledgeGraph) -> None:
    dataset = rdflib_dataset(graph)
    for name, (settings, _) in EXPECTED.items():
        query = set_parameters(named_queries()[name].sparql, settings)
        ours = [[None if term is None else term.value for term in row] for row in solutions(graph.store, query)]
        theirs = [[None if term is None else str(term) for term in row] for row in dataset.query(query)]
        assert sorted(map(str, theirs)) == sorted(map(str, ours))
    assert len(list(dataset.query(UNION_FACTS))) == 5  # one fact is stated twice


def test_rdflib_walks_the_union_of_the_named_graphs(graph: KnowledgeGraph) -> None:
    dataset = rdflib_dataset(graph)
    concept = rdflib.URIRef(ns.expand("umls:C0032227"))
    assert dataset.value(concept, rdflib.SKOS.prefLabel) is not None
    assert set(dataset.objects(concept, rdflib.URIRef(ns.RELATION + "isa"))) == {
        rdflib.URIRef(ns.expand("umls:C0013687"))
    }
    every = set(dataset.triples((None, None, None)))
    assert len(every) == len(dataset)
    assert {(str(s), str(p)) for s, p, _ in every} == {
        (row["s"].value, row["p"].value) for row in solutions(graph.store, "SELECT ?s ?p { ?s ?p ?o }")
    }
    assert dataset.qname(concept) == "umls:C0032227"
    names = {str(named.identifier) for named in dataset.graphs()}
    assert ns.GRAPH + "HPO@2025" in names


def test_rdflib_cannot_change_a_graph(graph: KnowledgeGraph) -> None:
    dataset = rdflib_dataset(graph)
    size = len(dataset)
    with pytest.raises(RuntimeError):
        dataset.add((rdflib.RDF.type, rdflib.RDF.type, rdflib.RDF.type))
    assert len(dataset) == size
