"""Which concepts a search may find."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

SEMANTIC_TYPE, SEMANTIC_GROUP, SOURCE, LANGUAGE = "semantic type", "semantic group", "vocabulary", "language"


@dataclass(frozen=True)
class ConceptFilter:
    """Conditions on concepts: one of the values of each field that has any.

    Attributes:
        semantic_types: TUIs, such as T047.
        semantic_groups: Groups of semantic types, such as DISO; a concept belongs to that of its smallest TUI.
        sources: Vocabularies (SAB): the concept has a name from it.
        languages: BCP 47: the concept has a name in it; `en` takes `en-GB` too.
    """

    semantic_types: tuple[str, ...] = ()
    semantic_groups: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()

    def conditions(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """What is asked of a concept: pairs of a facet's name and the values wanted."""
        fields = (self.semantic_types, self.semantic_groups, self.sources, self.languages)
        for facet, values in zip((SEMANTIC_TYPE, SEMANTIC_GROUP, SOURCE, LANGUAGE), fields, strict=True):
            if values:
                yield facet, values

    def __bool__(self) -> bool:
        return any(True for _ in self.conditions())
