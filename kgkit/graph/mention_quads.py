"""Reports and their mentions as N-Quads, and back; one named graph per corpus."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from urllib.parse import quote

from kgkit import namespaces as ns
from kgkit.sources.base import SourceTables
from kgkit.types import (
    Certainty,
    Change,
    Experiencer,
    Mention,
    MentionKind,
    MentionRelation,
    ReportMentions,
    Temporality,
)

REPORT = ns.BASE + "Report"
MENTION = ns.BASE + "Mention"
_FRAGMENT = "#mention"


def mention_lines(tables: SourceTables) -> Iterator[str]:
    """Quads of a source's reports: the text, then every mention with all it says.

    A mention's IRI is its report's with a fragment, which no report id can hold: ids are percent-encoded.
    """
    graph = f"<{ns.GRAPH}{tables.graphs[0].name}> ." if tables.graphs else ""
    for report in tables.reports:
        iri = f"{ns.BASE}report/{quote(tables.name, safe='')}/{quote(report.report_id, safe='/')}"
        for predicate, value in _report(report):
            yield f"<{iri}> <{predicate}> {value} {graph}"
        for index, mention in enumerate(report.mentions):
            for predicate, value in _mention(mention, iri):
                yield f"<{iri}{_FRAGMENT}{index}> <{predicate}> {value} {graph}"


def reports_from_quads(quads: Iterable[tuple[str, str, str]]) -> Iterator[ReportMentions]:
    """Inverse of `mention_lines`; relations, which are a set in RDF, come back sorted.

    Args:
        quads: (IRI of the subject, IRI of the predicate, IRI or text of the object). The quads of a report and its
            mentions stand together, as they do where they are written, or sorted by subject; others are passed over.
    """
    for _, group in groupby(quads, key=lambda quad: quad[0].partition(_FRAGMENT)[0]):
        report: dict[str, list[str]] = defaultdict(list)
        mentions: dict[int, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        for subject, predicate, value in group:
            _, fragment, index = subject.partition(_FRAGMENT)
            (mentions[int(index)] if fragment else report)[predicate].append(value)
        if REPORT in report[ns.RDF_TYPE]:
            (report_id,), (text,) = report[ns.DCTERMS + "identifier"], report[ns.BASE + "reportText"]
            found = tuple(_mention_from(mentions[index]) for index in range(len(mentions)))
            yield ReportMentions(report_id, text, found)


def _report(report: ReportMentions) -> Iterator[tuple[str, str]]:
    yield ns.RDF_TYPE, f"<{REPORT}>"
    yield ns.DCTERMS + "identifier", literal(report.report_id)
    yield ns.BASE + "reportText", literal(report.text)


def _mention(mention: Mention, report: str) -> Iterator[tuple[str, str]]:
    yield ns.RDF_TYPE, f"<{MENTION}>"
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
        yield ns.BASE + "denotes", f"<{ns.iri_of(mention.concept)}>"
    if mention.link_score is not None:
        yield ns.BASE + "linkScore", f'"{mention.link_score!r}"^^<{ns.XSD}double>'
    if mention.change is not None:
        yield ns.BASE + "change", f"<{ns.BASE}{mention.change}>"
    if mention.is_measurement:
        yield ns.BASE + "isMeasurement", f'"true"^^<{ns.XSD}boolean>'
    for relation, target in dict.fromkeys(mention.relations):
        yield f"{ns.BASE}{relation}", f"<{report}{_FRAGMENT}{target}>"


def _mention_from(facts: Mapping[str, list[str]]) -> Mention:
    stated = {predicate.removeprefix(ns.BASE): values[0] for predicate, values in facts.items()}
    words = {name: value.removeprefix(ns.BASE) for name, value in stated.items()}
    score, change = stated.get("linkScore"), words.get("change")
    relations = [
        (relation, int(target.partition(_FRAGMENT)[2]))
        for relation in MentionRelation
        for target in facts.get(ns.BASE + relation, ())
    ]
    return Mention(
        text=stated["mentionText"],
        start=int(stated["spanStart"]),
        end=int(stated["spanEnd"]),
        kind=MentionKind(words["mentionKind"]),
        certainty=Certainty(words["certainty"]),
        temporality=Temporality(words["temporality"]),
        experiencer=Experiencer(words["experiencer"]),
        section=stated.get("section", ""),
        concept=ns.curie_of(stated["denotes"]) if "denotes" in stated else None,
        link_score=None if score is None else float(score),
        relations=tuple(sorted(relations)),
        change=None if change is None else Change(change),
        is_measurement="isMeasurement" in stated,
    )


def literal(text: str) -> str:
    r"""An N-Quads string literal.

    >>> print(literal('a "b"\n'))
    "a \"b\"\n"
    """
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r")
    return f'"{escaped}"'
