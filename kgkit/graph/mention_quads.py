"""Reports and their mentions as N-Quads; one named graph per corpus."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote

from kgkit import namespaces as ns
from kgkit.sources.base import SourceTables
from kgkit.types import Mention, ReportMentions


def mention_lines(tables: SourceTables) -> Iterator[str]:
    """Quads of a source's reports: the text, then every mention with span, kind, certainty and relations."""
    graph = f"<{ns.GRAPH}{tables.graphs[0].name}> ." if tables.graphs else ""
    for report in tables.reports:
        iri = f"{ns.BASE}report/{quote(tables.name, safe='')}/{quote(report.report_id, safe='/')}"
        for predicate, value in _report(report):
            yield f"<{iri}> <{predicate}> {value} {graph}"
        for index, mention in enumerate(report.mentions):
            for predicate, value in _mention(mention, iri):
                yield f"<{iri}/mention/{index}> <{predicate}> {value} {graph}"


def _report(report: ReportMentions) -> Iterator[tuple[str, str]]:
    yield ns.RDF_TYPE, f"<{ns.BASE}Report>"
    yield ns.DCTERMS + "identifier", literal(report.report_id)
    yield ns.BASE + "reportText", literal(report.text)


def _mention(mention: Mention, report: str) -> Iterator[tuple[str, str]]:
    yield ns.RDF_TYPE, f"<{ns.BASE}Mention>"
    yield ns.BASE + "mentionedIn", f"<{report}>"
    yield ns.BASE + "mentionText", literal(mention.text)
    yield ns.BASE + "spanStart", f'"{mention.start}"^^<{ns.XSD}integer>'
    yield ns.BASE + "spanEnd", f'"{mention.end}"^^<{ns.XSD}integer>'
    yield ns.BASE + "mentionKind", f"<{ns.BASE}{mention.kind}>"
    yield ns.BASE + "certainty", f"<{ns.BASE}{mention.certainty}>"
    yield ns.BASE + "temporality", f"<{ns.BASE}{mention.temporality}>"
    yield ns.BASE + "experiencer", f"<{ns.BASE}{mention.experiencer}>"
    if mention.section:
        yield ns.BASE + "section", literal(mention.section)
    if mention.concept is not None:
        yield ns.BASE + "denotes", f"<{ns.expand(mention.concept)}>"
    for relation, target in dict.fromkeys(mention.relations):
        yield f"{ns.BASE}{relation}", f"<{report}/mention/{target}>"


def literal(text: str) -> str:
    r"""An N-Quads string literal.

    >>> print(literal('a "b"\n'))
    "a \"b\"\n"
    """
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r")
    return f'"{escaped}"'
