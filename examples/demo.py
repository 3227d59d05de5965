"""`make demo`: the whole line on the bundled data, every step a real command, ending with demo/report.html."""

from __future__ import annotations

import json
import os
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DEMO = Path("demo")
NIH = "examples/nih/images"

QUERIES = ("fluid around the lung", "enlarged heart", "collapsed lung", "coughing up blood")
CONCEPT = "HP:0002202"  # pleural effusion
COUNT_BY_RELATION = (
    "SELECT ?relation (COUNT(*) AS ?facts) WHERE { SELECT DISTINCT ?head ?relation ?tail WHERE "
    "{ ?relation a owl:ObjectProperty . ?head ?relation ?tail } } GROUP BY ?relation ORDER BY DESC(?facts) LIMIT 8"
)


@dataclass(frozen=True)
class Step:
    """One command of the demo.

    Attributes:
        command: As a user would type it.
        words: What it does, for a newcomer.
        save: File under demo/ that gets its standard output; "" to show it instead.
        beside: Whether it runs beside the step before it: two trainings on half the cores each are done sooner than one
            after the other on all of them.
    """

    command: str
    words: str
    save: str = ""
    beside: bool = False


@dataclass(frozen=True)
class Film:
    """An NIH film to ask about, with the finding that its label names."""

    image: str
    query: str


FILMS = (
    Film("00005532_004", "cardiomegaly"),
    Film("00010277_000", "pleural effusion"),
    Film("00007629_001", "atelectasis"),
)


def steps(films: tuple[Film, ...]) -> list[Step]:
    """All commands, in order."""
    searches = " ".join(shlex.quote(query) for query in QUERIES)
    line = [
        Step("kgkit ingest umls ontologies/thorax --out demo/kg --release thorax-2026",
             "Medical vocabularies become one RDF graph: concepts, names, definitions, relations."),
        Step("kgkit ingest radgraph examples/radgraph --out demo/kg --corpus radgraph-examples",
             "Annotated reports join the graph: what is present, uncertain or absent, and where."),
        Step("kgkit info demo/kg --json", "What the graph holds, and which rows were skipped and why.", "info.json"),
        Step(f'kgkit query demo/kg "{COUNT_BY_RELATION}"', "The graph answers SPARQL: its commonest relations.", "relations.tsv"),
        Step("kgkit train-encoder demo/kg --out demo/encoder --recipe fast",
             "A text encoder and a graph network learn one vector per concept."),
        Step("kgkit train-encoder demo/kg --out demo/control --recipe fast --set held_out.control=shuffled-graph",
             "Beside it, the same training on a graph whose facts were shuffled: what the real graph must beat.", beside=True),
        Step("kgkit train-encoder demo/kg --out demo/untrained --recipe untrained",
             "The language model as it came, without a step of training: the floor."),
        *(Step(f"kgkit evaluate demo/encoder --task {task} --against shuffled=demo/control --against untrained=demo/untrained --json",
               f"All of them on what training never saw: {words}.", f"{task}.json")
          for task, words in (("link-prediction", "facts"), ("synonym", "names"), ("definition", "definitions"))),
        Step("kgkit index demo/encoder", "The vectors become a search index."),
        Step(f"kgkit search demo/encoder {searches} -k 5 --json", "Lay words find medical concepts.", "search.json"),
        Step(f"kgkit neighbours demo/encoder {CONCEPT} -k 8 --json", "The concepts nearest to pleural effusion.", "neighbours.json"),
        Step("vlp prepare openi examples/openi --kg-encoder demo/encoder --out demo/data",
             "600 chest X-ray studies: films, reports, and the concepts that the reports mention."),
        Step("vlp train demo/data --kg-encoder demo/encoder --out demo/model --recipe fast",
             "The vision-language model learns to find those concepts on the films. It sees report text only, no labels."),
        Step("vlp evaluate demo/model demo/data --split test --out demo/evaluation",
             "On patients it never saw: how often does it rank a diseased film above a healthy one?"),
        Step(f"vlp predict demo/model {NIH} --out demo/predictions.csv --top 5", "Predictions on films of another hospital."),
    ]  # fmt: skip
    line += [
        Step(f"vlp ground demo/model {NIH}/{film.image}.jpg --query {shlex.quote(film.query)} --out demo/ground-{number}.png",
             f"Where on the film it sees {film.query}.", f"ground-{number}.txt")
        for number, film in enumerate(films, 1)
    ]  # fmt: skip
    return line


def run(group: Sequence[Step], number: int, total: int) -> list[float]:
    """Run steps at once, the first of which is step `number` of `total`.

    Returns:
        Seconds until each was done, and all before it. The first speaks as it goes, the others when they are done. A
        failed step ends the demo, and those beside it, with its own message.
    """
    begin, seconds = time.monotonic(), list[float]()
    share = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // len(group)))} if len(group) > 1 else {}
    with ExitStack() as stack:
        started = []
        for later, step in enumerate(group):
            print(f"\n[{number + later}/{total}] {step.words}\n$ {step.command}", flush=True)
            said = stack.enter_context(tempfile.TemporaryFile())
            words = said if later else None
            command, out = shlex.split(step.command), said if step.save else words
            process = stack.enter_context(subprocess.Popen(command, stdout=out, stderr=words, env=os.environ | share))
            stack.callback(process.kill)
            started.append((step, process, said))
        for later, (step, process, said) in enumerate(started):
            failed = process.wait()
            said.seek(0)
            if step.save:
                (DEMO / step.save).write_bytes(said.read())
                print(f"  -> demo/{step.save}")
            elif later:
                print(f"\n[{number + later}/{total}] said:\n{said.read().decode()}", flush=True)
            if failed:
                sys.exit(f"demo: step {number + later} failed with exit code {failed}: {step.command}")
            seconds.append(time.monotonic() - begin)
    return seconds


def run_all(line: Sequence[Step]) -> list[float]:
    """Seconds that each step took."""
    seconds = list[float]()
    while (done := len(seconds)) < len(line):
        end = next((row for row in range(done + 1, len(line)) if not line[row].beside), len(line))
        seconds += run(line[done:end], done + 1, len(line))
    return seconds


def main() -> None:
    """Run the line and write the report."""
    from demo_report import write_report

    begin = time.monotonic()
    if Path.cwd() != ROOT:
        sys.exit(f"demo: run it from {ROOT}")
    shutil.rmtree(DEMO, ignore_errors=True)
    DEMO.mkdir()
    line = steps(FILMS)
    seconds = run_all(line)
    peak_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    about = {
        "steps": [asdict(step) | {"seconds": round(took, 1)} for step, took in zip(line, seconds, strict=True)],
        "films": [asdict(film) for film in FILMS],
        "seconds": round(time.monotonic() - begin, 1),
        "peak_mb": round(peak_mb),
    }
    (DEMO / "run.json").write_text(json.dumps(about, indent=1), encoding="utf-8")
    write_report(DEMO, ROOT)
    took = time.monotonic() - begin
    print(f"\nDone in {took / 60:.1f} minutes, at most {peak_mb / 1024:.1f} GB of memory. Open demo/report.html")


if __name__ == "__main__":
    main()
