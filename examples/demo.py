"""`make demo`: the whole line on the bundled data, every step a real command, ending with demo/report.html."""

from __future__ import annotations

import json
import resource
import shlex
import shutil
import subprocess
import sys
import time
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
    """

    command: str
    words: str
    save: str = ""


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
             "The same training on a graph whose facts were shuffled: what the real graph must beat."),
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


def run(step: Step, number: int, total: int) -> float:
    """Run one step; seconds it took. A failed step ends the demo with its own message."""
    print(f"\n[{number}/{total}] {step.words}\n$ {step.command}", flush=True)
    begin = time.monotonic()
    done = subprocess.run(shlex.split(step.command), stdout=subprocess.PIPE if step.save else None, check=False)
    if done.returncode:
        sys.exit(f"demo: step {number} failed with exit code {done.returncode}: {step.command}")
    if step.save:
        (DEMO / step.save).write_bytes(done.stdout)
        print(f"  -> demo/{step.save}")
    return time.monotonic() - begin


def main() -> None:
    """Run the line and write the report."""
    from demo_report import write_report

    begin = time.monotonic()
    if Path.cwd() != ROOT:
        sys.exit(f"demo: run it from {ROOT}")
    shutil.rmtree(DEMO, ignore_errors=True)
    DEMO.mkdir()
    line = steps(FILMS)
    timed = [(step, run(step, number, len(line))) for number, step in enumerate(line, 1)]
    peak_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    about = {
        "steps": [asdict(step) | {"seconds": round(seconds, 1)} for step, seconds in timed],
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
