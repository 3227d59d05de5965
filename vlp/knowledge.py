"""Concepts as vlp uses them: which are broader than which, how each is asked, and what a user's words denote.

The one place in vlp that touches the encoder's contents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kgkit.interface import ConceptEncoder, Finding

FloatArray = npt.NDArray[np.float32]
FINDING_PREFIX = "finding:"
NORMAL = "normal"
"""Key of the finding that denies all others."""


@dataclass(frozen=True, slots=True)
class AskedConcept:
    """A concept as a query.

    Attributes:
        concept: CURIE, or `finding:<key>`, or "" for free text.
        name: For people.
        text: The words that were encoded, or the preferred name.
        is_text_encoded: Whether the vector comes from the words, not from the graph.
        is_finding: Whether it stands in the table of findings; the others are broader or rarer concepts.
    """

    concept: str
    name: str
    text: str
    is_text_encoded: bool
    is_finding: bool


class Knowledge:
    """The encoder and the table of findings, seen as one.

    Args:
        encoder: An opened ENCODER.
        findings: As read by `load_findings`.
    """

    def __init__(self, encoder: ConceptEncoder, findings: dict[str, Finding]) -> None:
        self.encoder = encoder
        self.findings = findings
        self._ancestors: dict[str, frozenset[str]] = {}
        self._finding_of = {self.concept_of_finding(finding): finding for finding in reversed(findings.values())}
        self._broader: dict[str, set[str]] = {}
        for finding in findings.values():
            concept = self.concept_of_finding(finding)
            broader = {self.concept_of_finding(findings[key]) for key in finding.parents if key in findings}
            self._broader.setdefault(concept, set()).update(broader - {concept})
            # A finding may stand on several concepts of the graph: who has one of them has the finding.
            for other in self._concepts_of(finding)[1:]:
                self._broader.setdefault(other, set()).add(concept)

    def concept_of_finding(self, finding: Finding) -> str:
        """The first of a finding's concepts that this encoder holds, else `finding:<key>`."""
        concepts = self._concepts_of(finding)
        return concepts[0] if concepts else FINDING_PREFIX + finding.key

    def finding_of(self, concept: str) -> Finding | None:
        """The finding a concept stands for, if any."""
        return self._finding_of.get(concept)

    def canonical(self, concept: str) -> str | None:
        """The id under which a mention's concept is counted; None if neither encoder nor findings know it."""
        if concept.startswith(FINDING_PREFIX):
            finding = self.findings.get(concept.removeprefix(FINDING_PREFIX))
            return None if finding is None else self.concept_of_finding(finding)
        return self.encoder.resolve(concept)

    def ancestors(self, concept: str) -> frozenset[str]:
        """All broader concepts, by is-a of the graph and the parents of findings; never itself."""
        if concept not in self._ancestors:
            found: set[str] = set()
            pending = list(self._parents(concept))
            while pending:
                parent = pending.pop()
                if parent not in found:
                    found.add(parent)
                    pending.extend(self._parents(parent))
            self._ancestors[concept] = frozenset(found - {concept})
        return self._ancestors[concept]

    def ask(self, concept: str) -> AskedConcept:
        """How a concept is asked.

        A finding without a concept in the graph is asked by the words of the table; all else by its concept
        vector.
        """
        finding = self.finding_of(concept)
        if concept in self.encoder:
            name = finding.name if finding is not None else self.encoder.name(concept)
            text = self.encoder.name(concept)
            return AskedConcept(concept, name, text, is_text_encoded=False, is_finding=finding is not None)
        assert finding is not None, concept
        return AskedConcept(concept, finding.name, finding.query, is_text_encoded=True, is_finding=True)

    def find(self, words: str) -> AskedConcept:
        """What a user's words denote: a finding (key, name, phrase), a concept id, else the words."""
        wanted = words.strip().casefold()
        for finding in self.findings.values():
            names = (finding.key, FINDING_PREFIX + finding.key, finding.name, finding.query, *finding.strings)
            if wanted in (name.casefold() for name in names):
                return self.ask(self.concept_of_finding(finding))
        concept = self.encoder.resolve(words.strip())
        if concept is not None:
            return self.ask(concept)
        return AskedConcept("", words.strip(), words.strip(), is_text_encoded=True, is_finding=False)

    def vectors(self, asked: Sequence[AskedConcept]) -> FloatArray:
        """Query vectors: float32 [len(asked), dim], rows of unit norm."""
        vectors = np.zeros((len(asked), self.encoder.dim), dtype=np.float32)
        by_text = [row for row, query in enumerate(asked) if query.is_text_encoded]
        by_concept = [row for row, query in enumerate(asked) if not query.is_text_encoded]
        if by_text:
            vectors[by_text] = self.encoder.embed_text([asked[row].text for row in by_text])
        if by_concept:
            vectors[by_concept] = self.encoder.embed_concepts([asked[row].concept for row in by_concept])
        return vectors

    def _concepts_of(self, finding: Finding) -> list[str]:
        resolved = (self.encoder.resolve(concept) for concept in finding.concepts)
        return list(dict.fromkeys(concept for concept in resolved if concept is not None))

    def _parents(self, concept: str) -> set[str]:
        parents = set(self._broader.get(concept, ()))
        if concept in self.encoder:
            parents.update(parent for parent in self.encoder.parents(concept) if parent in self.encoder)
        return parents
