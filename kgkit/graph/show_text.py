"""A concept's page as lines of text."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from itertools import groupby

from kgkit.graph.resolve import Known
from kgkit.graph.show import ConceptPage, Shown, ShownRelation

_WIDTH = 110


def shown_text(shown: Shown, limit: int = 10) -> str:
    """The pages of `shown`, one below the other.

    Args:
        shown: Answer of `kgkit.graph.show.show`.
        limit: Lines of a list before it is cut with "... and N more".
    """
    lines = [*shown.steps]
    for page in shown.concepts:
        lines += ["", *_page(page, limit)] if lines else [*_page(page, limit)]
    return "\n".join(lines)


def _page(page: ConceptPage, limit: int) -> Iterator[str]:
    placeholder = "  (placeholder: this CUI is none of the UMLS's)" if page.is_placeholder else ""
    yield f"{page.concept}  {page.name or '(no name)'}{placeholder}"
    if len(page.members) > 1:
        yield f"  ids    {', '.join(page.members)}"
    if page.codes:
        yield f"  codes  {', '.join(page.codes[:limit])}{_more(len(page.codes), limit, inline=True)}"
    for tui, name, group in page.semantic_types:
        yield f"  type   {tui} {name} ({group})"
    for definition in page.definitions:
        yield f"\ndefinition, {definition.vocabulary}"
        yield from textwrap.wrap(definition.text, _WIDTH, initial_indent="  ", subsequent_indent="  ")
    for language, names in groupby(page.names, key=lambda row: row.language):
        rows = list(names)
        yield f"\nnames, {language or 'no language'} ({len(rows)})"
        yield from _cut((f"  {row.name}{'' if row.kind != 'abbreviation' else '  (abbreviation)'}"
                         f"  [{', '.join(row.vocabularies)}]" for row in rows), len(rows), limit)  # fmt: skip
    yield from _relations(page, limit)
    if page.matches:
        yield f"\nmatches ({len(page.matches)})"
        yield from _cut((f"  {match.kind:<8} {_known(match.other)}  [{match.vocabulary}]" for match in page.matches),
                        len(page.matches), limit)  # fmt: skip
    if page.attributes:
        yield f"\nattributes ({len(page.attributes)})"
        yield from _cut((f"  {name} = {value}  [{vocabulary}]" for name, value, vocabulary in page.attributes),
                        len(page.attributes), limit)  # fmt: skip
    for corpus, counts in page.mentions.items():
        yield f"\nmentions in {corpus}: {', '.join(f'{count:,} {certainty}' for certainty, count in counts.items())}"
    yield "\nsources"
    for graph, title, level in page.sources:
        yield f"  {graph}  {title}, licence level {level}"


def _relations(page: ConceptPage, limit: int) -> Iterator[str]:
    def heading(fact: ShownRelation) -> str:
        if fact.relation == "isa":
            return "parents" if fact.outgoing else "children"
        return f"{fact.relation} ->" if fact.outgoing else f"<- {fact.relation}"

    for title, facts in groupby(sorted(page.relations, key=_order), key=heading):
        rows = list(facts)
        yield f"\n{title} ({len(rows)})"
        lines = (f"  {_known(fact.other)}  [{', '.join(fact.vocabularies)}]" for fact in rows)
        yield from _cut(lines, len(rows), limit)


def _order(fact: ShownRelation) -> tuple[bool, bool, str]:
    return fact.relation != "isa", not fact.outgoing, fact.relation


def _known(other: Known) -> str:
    return f"{other.concept}  {other.name or ('(no name)' if other.is_concept else '(not in this graph)')}"


def _cut(lines: Iterable[str], count: int, limit: int) -> Iterator[str]:
    for place, line in enumerate(lines):
        if place == limit:
            yield f"  {_more(count, limit)}"
            return
        yield line


def _more(count: int, limit: int, *, inline: bool = False) -> str:
    if count <= limit:
        return ""
    return f"{' ' if inline else ''}... and {count - limit:,} more"
