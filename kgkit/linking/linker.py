"""Report text to mentions: what is named, where, how sure, when, whose, and which concept it is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from kgkit.findings import Finding, load_findings
from kgkit.linking.context import ContextRules, TextContext, load_context_rules
from kgkit.linking.coordination import with_shared_heads
from kgkit.linking.names import name_phrases
from kgkit.linking.phrases import GAP, Phrase, PhraseMatch, PhraseMatcher, phrase_parts
from kgkit.types import Certainty, Mention, MentionKind, ReportMentions

if TYPE_CHECKING:
    from kgkit.encoder.artifact import ConceptEncoder

# With one of these inside, a phrase with a gap is a clause of its own: "No effusion, heart is enlarged".
_VERBS = frozenset({"is", "are", "was", "were", "appear", "remain", "seem"})


class Linker:
    """Finds mentions in reports; deterministic, and independent of the order of its phrases.

    Args:
        phrases: What to look for; `load_linker` makes them from an encoder and the findings.
        context: Rules for certainty, temporality and experiencer; the bundled ones if not given.
    """

    def __init__(self, phrases: Iterable[Phrase], context: ContextRules | None = None) -> None:
        self._matcher = PhraseMatcher(phrases)
        self._context = context or load_context_rules()

    def link(self, report_id: str, text: str) -> ReportMentions:
        """Mentions of one report.

        Args:
            report_id: Kept as given.
            text: The report as it stands; `text[mention.start:mention.end] == mention.text` for each mention.

        Returns:
            The mentions sorted by place; none where the text names nothing.
        """
        context, matches = self.find(text)
        matches = with_shared_heads(context.tokens.words, context.sentence_of, matches, self._matcher.named)
        return ReportMentions(report_id, text, tuple(_mention(match, text, context) for match in matches))

    def find(self, text: str) -> tuple[TextContext, list[PhraseMatch]]:
        """The words of a text with their triggers, and the phrases found among them, sorted by place."""
        context = self._context.read(text)
        return context, self._matcher.find(context.tokens, text, context.sentence_of)


def load_linker(encoder: ConceptEncoder, findings: Mapping[str, Finding] | None = None) -> Linker:
    """A linker for the names of an encoder's graph and the strings of the findings.

    A finding's string stands for the finding's concept with score 1; a graph name for its own concept (see
    kgkit.linking.names). Where a string and a name are the same words, the string wins and the name is a candidate.

    Args:
        encoder: An opened ENCODER.
        findings: The bundled ones if not given.

    Raises:
        InputError: if the encoder's names, the findings or the context rules cannot be read.
    """
    findings = load_findings() if findings is None else findings
    own = list(finding_phrases(findings, finding_concepts(findings, encoder)))
    taken = {phrase_parts(phrase.text)[0] for phrase in own if phrase.concept is not None and GAP not in phrase.text}
    return Linker([*own, *name_phrases(encoder.names, encoder.semantic_types, taken)])


def finding_concepts(findings: Mapping[str, Finding], encoder: ConceptEncoder) -> dict[str, str]:
    """The concept each finding is in a graph: the first of its ids that is there, else `finding:<key>`."""
    concepts = {}
    for key, finding in findings.items():
        resolved = (encoder.resolve(curie) for curie in finding.concepts)
        concepts[key] = next((concept for concept in resolved if concept is not None), f"finding:{key}")
    return concepts


def finding_phrases(findings: Mapping[str, Finding], concepts: Mapping[str, str] | None = None) -> Iterator[Phrase]:
    """Phrases of the findings.

    Args:
        findings: As read by `load_findings`.
        concepts: Key -> concept; `finding:<key>` for a key that is not there.
    """
    for key, finding in findings.items():
        concept = (concepts or {}).get(key, f"finding:{key}")
        for text in finding.strings:
            yield Phrase(text, concept)
        for text in finding.denials:
            yield Phrase(text, concept, denies=True)
        for text in finding.excluded:
            yield Phrase(text, None)


def _mention(match: PhraseMatch, text: str, context: TextContext) -> Mention:
    tokens = context.tokens
    start, end = tokens.starts[match.first], tokens.ends[match.stop - 1]
    is_clause = not _VERBS.isdisjoint(tokens.words[match.first : match.head])
    said = context.classify(match.head, match.stop, since=match.first if is_clause else 0)
    return Mention(
        text=text[start:end],
        start=start,
        end=end,
        kind=match.phrase.kind,
        certainty=_certainty(match.phrase, said.certainty, is_clause),
        temporality=said.temporality,
        experiencer=said.experiencer,
        section=context.section_of[match.first],
        concept=match.phrase.concept,
        link_score=match.phrase.score,
        candidates=match.candidates,
    )


def _certainty(phrase: Phrase, said: Certainty, is_clause: bool) -> Certainty:
    """Certainty of a mention, given what its context says.

    Anatomy is there whatever is denied about it (RadGraph's ANAT-DP). A phrase that denies a finding asserts it only
    where the negation stands inside its clause ("heart is not normal").
    """
    if phrase.kind is MentionKind.ANATOMY:
        return Certainty.PRESENT
    if not phrase.denies or said is Certainty.UNCERTAIN:
        return said
    return Certainty.PRESENT if is_clause and said is Certainty.ABSENT else Certainty.ABSENT
