"""How fast are reports linked, beside medspaCy, and who reads negation better: kgkit, medspaCy or negspacy?

    python benchmarks/linking.py --reports indiana_cxr/reports.csv --negex negex --peer-python VENV/bin/python
        [--encoder ENCODER] [--limit 0] [--rounds 3]

medspaCy and negspacy want numpy below 2, so they live in an environment of their own, whose Python is called:

    python -m venv VENV && VENV/bin/pip install medspacy negspacy "numpy==1.26.*"

Speed: both sides look for the same phrases (those of ontologies/findings.toml without a gap; with --encoder also the
names of its graph), split sentences and apply ConText, in one process on one thread each, in turn. Seconds are
processor time; the best of the rounds counts. kgkit also finds sections, temporality and experiencer, as medspaCy does.

Quality: the rows of the NegEx/ConText set, the span marked, each library with its own rules. kgkit's rules were tuned
while that set was read (docs/linking.md); so, as far as anybody can tell, were the published triggers of all three.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kgkit.encoder.artifact import load_encoder
from kgkit.evaluation.assertion import assertion, concept_span, negation_figures
from kgkit.evaluation.tables import find_file, read_table
from kgkit.findings import load_findings
from kgkit.linking.context import ContextResult, load_context_rules
from kgkit.linking.linker import Linker, finding_phrases
from kgkit.linking.names import name_phrases
from kgkit.linking.phrases import GAP, Phrase
from kgkit.linking.reports import read_reports
from kgkit.types import Certainty

PEERS = Path(__file__).with_name("linking_peers.py")


def target_phrases(encoder: Path | None) -> list[Phrase]:
    """What both sides look for: one phrase for each string, so that neither has to choose."""
    found = [phrase for phrase in finding_phrases(load_findings()) if GAP not in phrase.text and phrase.concept]
    if encoder is not None:
        opened = load_encoder(encoder)
        names = name_phrases(opened.names, opened.semantic_types)
        found += [phrase for phrase in names if not phrase.case_sensitive]
    return list({phrase.text.casefold(): phrase for phrase in reversed(found)}.values())


def ours(phrases: Sequence[Phrase], texts: Sequence[str]) -> dict[str, Any]:
    """Our side, in the layout of linking_peers.link."""
    started = time.process_time()
    linker = Linker(phrases)
    loaded = time.process_time()
    reports = [linker.link(str(number), text) for number, text in enumerate(texts)]
    ended = time.process_time()
    mentions = [[number, mention.start, mention.end, mention.certainty is Certainty.ABSENT]
                for number, report in enumerate(reports) for mention in report.mentions]  # fmt: skip
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return {"load_s": loaded - started, "link_s": ended - loaded, "peak_mb": peak, "mentions": mentions}


def marked_spans(negex: Path) -> tuple[list[tuple[str, int, int]], list[bool], list[dict[str, str]]]:
    """(sentence, start, end) of each row whose concept stands in its sentence; whether it is negated; the row."""
    path = find_file(negex, "context_annotations.tsv", "the NegEx set")
    spans, negated, rows = [], [], []
    for row in read_table(path, ("concept", "sentence", "negation", "temporality")):
        span = concept_span(row["concept"], row["sentence"])
        if span is not None:
            spans.append((row["sentence"], *span))
            negated.append(row["negation"] == "Negated")
            rows.append(row)
    return spans, negated, rows


def figures(gold: Sequence[bool], said: Sequence[bool | None]) -> str:
    """Precision, recall and F1 of Negated; what a library cannot tell counts as not negated."""
    columns = {
        "gold": np.array(gold, dtype=np.float64),
        "said": np.array([bool(each) for each in said], dtype=np.float64),
        "majority": np.zeros(len(gold)),
    }
    found = negation_figures(columns, np.ones(len(gold), dtype=np.int64))
    return "  ".join(f"{name} {found[name]:.3f}" for name in ("f1", "precision", "recall", "accuracy"))


def main(options: argparse.Namespace) -> None:
    """Measure and print."""
    texts = [report.text for report in read_reports(options.reports)]
    texts = texts[: options.limit or None]
    phrases = target_phrases(options.encoder)
    print(f"{len(texts):,} reports, {len(phrases):,} phrases, one thread each")
    spans, gold, rows = marked_spans(options.negex) if options.negex else ([], [], [])
    task = {"link": {"phrases": [phrase.text for phrase in phrases], "reports": texts}, "negation": None}
    best: dict[str, dict[str, Any]] = {}
    for round_number in range(options.rounds):
        sides = {"kgkit": ours(phrases, texts)}
        if options.peer_python:
            task["negation"] = {"spans": spans} if spans and not round_number else None
            answer = ask_peers(options.peer_python, task)
            sides["medspaCy"] = answer["link"]
            if not round_number:
                print(", ".join(f"{name} {number}" for name, number in answer["versions"].items()))
                quality = answer.get("negation")
        for name, side in sides.items():
            if name not in best or side["link_s"] < best[name]["link_s"]:
                best[name] = side
    for name, side in best.items():
        rate = len(texts) / side["link_s"]
        print(f"{name:<9} {rate:8,.0f} reports/s, {side['link_s']:.2f} s, loading {side['load_s']:.2f} s, "
              f"peak {side['peak_mb']:,} MB, {len(side['mentions']):,} mentions")  # fmt: skip
    if "medspaCy" in best:
        print(f"kgkit links {best['medspaCy']['link_s'] / best['kgkit']['link_s']:.1f} times as many reports a second")
        compare(best["kgkit"]["mentions"], best["medspaCy"]["mentions"])
    if spans:
        print(f"negation of {len(spans):,} marked spans of the NegEx set (every row: {whole_set(options.negex)})")
        found = our_context(spans)
        said = {"kgkit": [result.certainty is Certainty.ABSENT for result in found]} | (
            {} if not options.peer_python else quality
        )
        for name in ("kgkit", "medspacy", "negspacy"):
            if name in said:
                print(f"  {name:<9} {figures(gold, said[name])}")
        print(f"  {'majority':<9} {figures(gold, [False] * len(gold))}")
        when = {"kgkit": [str(result.temporality) for result in found]}
        if options.peer_python:
            when["medspacy"] = quality["temporality"]
        for name, values in when.items():
            print(f"  {name:<9} temporality: {temporality_figures(rows, values)}")


def ask_peers(python: str, task: dict[str, Any]) -> dict[str, Any]:
    """Run linking_peers.py under another Python."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
    done = subprocess.run(
        [python, str(PEERS)], input=json.dumps(task), capture_output=True, text=True, check=False, env=environment
    )
    if done.returncode:
        raise SystemExit(f"{python} {PEERS.name} failed:\n{done.stderr[-2000:]}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def compare(left: Sequence[Sequence[Any]], right: Sequence[Sequence[Any]]) -> None:
    """How far two sides agree on spans and on what is negated."""
    first, second = ({tuple(item[:3]): item[3] for item in side} for side in (left, right))
    shared = first.keys() & second.keys()
    agreeing = sum(first[span] == second[span] for span in shared)
    print(f"{len(shared):,} spans found by both, {len(first) - len(shared):,} by kgkit alone, "
          f"{len(second) - len(shared):,} by medspaCy alone")  # fmt: skip
    print(f"of the shared ones they agree on negation in {agreeing / len(shared):.1%}")


def our_context(spans: Sequence[tuple[str, int, int]]) -> list[ContextResult]:
    """What our rules say of each span."""
    rules = load_context_rules()
    return [rules.classify(*span) for span in spans]


def temporality_figures(rows: Sequence[Mapping[str, str]], said: Sequence[str | None]) -> str:
    """Accuracy, and the F1 of historical and hypothetical."""
    names = {"Recent": "recent", "Historical": "historical", "Not particular": "hypothetical"}
    gold = [names[row["temporality"]] for row in rows]
    shown = [f"accuracy {np.mean([right == each for right, each in zip(gold, said, strict=True)]):.3f}"]
    for value in ("historical", "hypothetical"):
        both = sum(right == each == value for right, each in zip(gold, said, strict=True))
        shown.append(f"{value} f1 {2 * both / (gold.count(value) + list(said).count(value)):.3f}")
    return "  ".join(shown)


def whole_set(negex: Path) -> str:
    """Our F1 over every row, as `kgkit evaluate --task assertion` has it."""
    outcomes = assertion(negex).parts["negation"]
    found = negation_figures(outcomes.columns, np.ones(len(outcomes.queries), dtype=np.int64))
    return f"{len(outcomes.queries):,}, kgkit F1 {found['f1']:.3f}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reports", type=Path, required=True, help="what kgkit link reads")
    parser.add_argument("--negex", type=Path, help="folder with context_annotations.tsv")
    parser.add_argument("--peer-python", help="Python of the environment with medspaCy and negspacy")
    parser.add_argument("--encoder", type=Path, help="its graph's names are looked for too")
    parser.add_argument("--limit", type=int, default=0, help="so many reports only; 0: all")
    parser.add_argument("--rounds", type=int, default=3)
    main(parser.parse_args())
