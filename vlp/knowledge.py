"""Concepts as vlp uses them: which are broader than which, how each is asked, and what a user's words denote.

The one place in vlp that touches the encoder's contents.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import polars as pl

from kgkit.interface import ConceptEncoder, Finding, FloatArray, english
from vlp.config import VectorKind

FINDING_PREFIX = "finding:"
_GAP = "..."
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
        kind: What a query's vector is; see `TargetConfig.vectors`.
    """

    def __init__(self, encoder: ConceptEncoder, findings: dict[str, Finding], kind: VectorKind = "concept") -> None:
        self.encoder = encoder
        self.findings = findings
        self.kind = kind
        self._ancestors: dict[str, frozenset[str]] = {}
        self._read: dict[tuple[str, int | None], FloatArray] = {}
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
        vector, or by its words too where all queries are (kind `text`).
        """
        finding = self.finding_of(concept)
        by_text = self.kind == "text"
        if concept in self.encoder and not (by_text and finding is not None):
            name = finding.name if finding is not None else self.encoder.name(concept)
            text = self.encoder.name(concept)
            return AskedConcept(concept, name, text, is_text_encoded=by_text, is_finding=finding is not None)
        assert finding is not None, concept
        return AskedConcept(concept, finding.name, finding.query, is_text_encoded=True, is_finding=True)

    def embed(self, texts: Sequence[str], max_tokens: int | None = None) -> FloatArray:
        """Text vectors, each text read once: float32 [len(texts), dim], unit rows, zero for an empty text."""
        fresh = list(dict.fromkeys(t for t in texts if t.strip() and (t, max_tokens) not in self._read))
        if fresh:
            vectors = self.encoder.embed_text(fresh, max_tokens)
            self._read |= {(text, max_tokens): vector for text, vector in zip(fresh, vectors, strict=True)}
        nothing = np.zeros(self.encoder.dim, dtype=np.float32)
        found = [self._read.get((text, max_tokens), nothing) for text in texts]
        return np.array(found, dtype=np.float32).reshape(len(texts), self.encoder.dim)

    def names(self, concept: str) -> list[str]:
        """English names of a concept that are no abbreviations, and a finding's phrases without gaps, sorted.

        `normal` has none: its phrases deny diseases, and a text encoder puts "no acute disease" beside the diseases
        (asked so, its AUROC fell from .76 to .26).
        """
        finding = self.finding_of(concept)
        if finding is not None and finding.key == NORMAL:
            return []
        texts: list[str] = []
        if concept in self.encoder:
            texts += self._names_of.get(concept, [])
        if finding is not None:
            texts += [finding.query, *(phrase for phrase in finding.strings if _GAP not in phrase)]
        return sorted({text.casefold(): text for text in texts}.values())

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
        if self.kind == "random":
            return np.array([_random_vector(_key(query), self.encoder.dim) for query in asked], dtype=np.float32)
        if self.kind == "shuffled":
            asked = [self._exchanged(query) for query in asked]
        vectors = np.zeros((len(asked), self.encoder.dim), dtype=np.float32)
        by_text = [row for row, query in enumerate(asked) if query.is_text_encoded]
        by_concept = [row for row, query in enumerate(asked) if not query.is_text_encoded]
        if by_text:
            vectors[by_text] = self.encoder.embed_text([asked[row].text for row in by_text])
        if by_concept:
            vectors[by_concept] = self.encoder.embed_concepts([asked[row].concept for row in by_concept])
        return vectors

    def broader(self, query: AskedConcept) -> frozenset[str]:
        """What is broader than a query; in the control `shuffled`, than the concept whose vector it has."""
        if self.kind == "shuffled":
            query = self._exchanged(query)
        return self.ancestors(query.concept) if query.concept else frozenset()

    def _exchanged(self, query: AskedConcept) -> AskedConcept:
        """The concept whose vector this one gets in the control: a finding that of another finding, and so on.

        One exchange for all, so that a concept asked only after training has its wrong vector too.
        """
        if query.concept in self._other_finding:
            return self.ask(self._other_finding[query.concept])
        others = self.encoder.concepts
        number = int.from_bytes(hashlib.sha256(_key(query).encode()).digest()[:8], "big")
        return replace(query, concept=others[number % len(others)], is_text_encoded=False)

    @cached_property
    def _names_of(self) -> dict[str, list[str]]:
        names = self.encoder.names.filter(english() & ~pl.col("is_abbreviation"))
        grouped = names.group_by("concept", maintain_order=True).agg("name")
        return dict(zip(grouped["concept"].to_list(), grouped["name"].to_list(), strict=True))

    @cached_property
    def _other_finding(self) -> dict[str, str]:
        concepts = sorted(self._finding_of, key=lambda concept: hashlib.sha256(concept.encode()).digest())
        return dict(zip(concepts, [*concepts[1:], *concepts[:1]], strict=True))

    def _concepts_of(self, finding: Finding) -> list[str]:
        resolved = (self.encoder.resolve(concept) for concept in finding.concepts)
        return list(dict.fromkeys(concept for concept in resolved if concept is not None))

    def _parents(self, concept: str) -> set[str]:
        parents = set(self._broader.get(concept, ()))
        if concept in self.encoder:
            parents.update(parent for parent in self.encoder.parents(concept) if parent in self.encoder)
        return parents


def _key(query: AskedConcept) -> str:
    return query.concept or query.text.casefold()


def _random_vector(key: str, dim: int) -> FloatArray:
    """A direction drawn for a key, the same in every run: float32 [dim], unit norm."""
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")
    vector = np.random.default_rng(seed).normal(size=dim).astype(np.float32)
    found: FloatArray = vector / np.linalg.norm(vector)
    return found
