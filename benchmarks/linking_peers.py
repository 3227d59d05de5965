"""medspaCy and negspacy on the tasks that benchmarks/linking.py sends; runs in their own environment (numpy 1.26).

Reads one JSON object from standard input, writes one to standard output. Needs nothing of kgkit.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from importlib.metadata import version
from typing import Any

CONTEXT = "medspacy_context"


def silence() -> None:
    """PyRuSH logs every token at level debug, which would be measured instead of its work."""
    from loguru import logger

    logger.remove()


def medspacy_pipeline(phrases: list[str]) -> Any:
    """Sentences, target phrases and ConText with medspaCy's own rules."""
    import medspacy
    from medspacy.ner import TargetRule

    parts = ["medspacy_tokenizer", "medspacy_pyrush", "medspacy_target_matcher", CONTEXT]
    nlp = medspacy.load(medspacy_enable=parts)
    if phrases:
        nlp.get_pipe("medspacy_target_matcher").add([TargetRule(phrase, "TARGET") for phrase in phrases])
    return nlp


def link(task: dict[str, Any]) -> dict[str, Any]:
    """Mentions of the phrases in reports: seconds of processor time, and report, start, end, negated of each."""
    started = time.process_time()
    nlp = medspacy_pipeline(task["phrases"])
    loaded = time.process_time()
    found = []
    for number, text in enumerate(task["reports"]):
        for span in nlp(text).ents:
            found.append([number, span.start_char, span.end_char, bool(span._.is_negated)])
    ended = time.process_time()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return {"load_s": loaded - started, "link_s": ended - loaded, "peak_mb": peak, "mentions": found}


def negation(task: dict[str, Any]) -> dict[str, Any]:
    """Whether each marked span of a sentence is negated, by both libraries; None where they cannot tell."""
    import negspacy.negation  # noqa: F401  registers "negex" with spaCy
    import spacy

    medspacy = medspacy_pipeline([])
    context, sentences = medspacy.get_pipe(CONTEXT), medspacy.get_pipe("medspacy_pyrush")
    plain = spacy.blank("en")
    sentencizer = plain.add_pipe("sentencizer")
    negex = plain.add_pipe("negex")
    answers: dict[str, list[bool | None]] = {"medspacy": [], "negspacy": []}
    temporality: list[str | None] = []
    family: list[bool | None] = []
    for text, start, end in task["spans"]:
        doc = sentences(medspacy.tokenizer(text))
        span = doc.char_span(start, end, label="TARGET", alignment_mode="expand")
        if span is None:
            answers["medspacy"].append(None)
            temporality.append(None)
            family.append(None)
        else:
            doc.ents = [span]
            (entity,) = context(doc).ents
            answers["medspacy"].append(bool(entity._.is_negated))
            kind = "hypothetical" if entity._.is_hypothetical else "historical" if entity._.is_historical else "recent"
            temporality.append(kind)
            family.append(bool(entity._.is_family))
        doc = sentencizer(plain.tokenizer(text))
        span = doc.char_span(start, end, label="TARGET", alignment_mode="expand")
        if span is None:
            answers["negspacy"].append(None)
        else:
            doc.ents = [span]
            (entity,) = negex(doc).ents
            answers["negspacy"].append(bool(entity._.negex))
    return answers | {"temporality": temporality, "family": family}


def main() -> None:
    """Answer the tasks of standard input."""
    silence()
    task = json.load(sys.stdin)
    names = ("medspacy", "negspacy", "spacy", "numpy")
    answer = {"versions": {name: version(name) for name in names}}
    answer["link"] = link(task["link"])
    if task.get("negation"):
        answer["negation"] = negation(task["negation"])
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
