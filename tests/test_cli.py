"""The two commands: what they are, how fast they answer, what they say when something is wrong."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import typer
from graphs import ROOT
from rrf import Rrf, tiny_rrf

import cli

BIN = Path(sys.executable).parent
HEAVY = ("torch", "polars", "faiss", "transformers", "pyoxigraph", "numpy", "kgkit", "vlp")
Run = Callable[..., tuple[int, str, str]]


def commands(app: typer.Typer) -> Iterator[tuple[str, Any]]:
    def walk(command: Any, path: str) -> Iterator[tuple[str, Any]]:
        yield path, command
        for name, inner in getattr(command, "commands", {}).items():
            yield from walk(inner, f"{path} {name}")

    yield from walk(typer.main.get_command(app), "")


COMMANDS = [(f"{program}{path}", command) for program, app in (("kgkit", cli.kgkit), ("vlp", cli.vlp))
            for path, command in commands(app)]  # fmt: skip


@pytest.mark.parametrize("name", ["kgkit", "vlp"])
def test_the_console_script_is_our_file(name: str) -> None:
    (entry,) = {entry.value for entry in metadata.entry_points(group="console_scripts", name=name)}
    assert entry == f"cli:{name}_main"
    (loaded, *_) = [entry.load() for entry in metadata.entry_points(group="console_scripts", name=name)]
    assert Path(inspect.getfile(loaded)).resolve() == ROOT / "cli.py"
    assert (BIN / name).is_file()


@pytest.mark.parametrize("name", ["kgkit", "vlp"])
def test_help_answers_in_under_half_a_second(name: str) -> None:
    times = []
    for _ in range(10):
        started = time.perf_counter()
        done = subprocess.run([BIN / name, "--help"], capture_output=True, text=True, check=True, timeout=30)
        times.append(time.perf_counter() - started)
        assert done.stdout.startswith(f"Usage: {name} [OPTIONS] COMMAND")
        if len(times) >= 3 and min(times) < 0.5:
            break
    assert min(times) < 0.5


@pytest.mark.parametrize("name", ["kgkit", "vlp"])
def test_help_of_every_command_loads_nothing_heavy(name: str) -> None:
    """One process per program asks for the help of all its commands."""
    code = f"""
import sys, cli
for path in {[path.split()[1:] for path, _ in COMMANDS if path.split()[0] == name]!r}:
    sys.argv = [{name!r}, *path, "--help"]
    try:
        cli.{name}_main()
    except SystemExit as leaving:
        assert not leaving.code, path
print([module for module in {HEAVY!r} if module in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60, cwd=ROOT
    )
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(("path", "command"), COMMANDS, ids=[path for path, _ in COMMANDS])
def test_every_command_and_every_option_has_a_help_text(path: str, command: Any) -> None:
    assert command.help, path
    for parameter in command.params:
        assert parameter.help, f"{path} {parameter.name}"


def failed(result: tuple[int, str, str], program: str) -> str:
    """The one line that a failed command writes."""
    code, out, err = result
    assert (code, out) == (1, "")
    (line,) = err.splitlines()
    assert line.startswith(f"{program}: ")
    return line.removeprefix(f"{program}: ")


def test_a_missing_path_an_empty_folder_and_a_truncated_row_are_one_line(command: Run, tmp_path: Path) -> None:
    out = tmp_path / "kg"
    line = failed(command("kgkit", "ingest", "umls", tmp_path / "none", "--out", out), "kgkit")
    assert line == f"{tmp_path / 'none'}: no such file or folder; expected a META folder or zip of a UMLS release"
    (tmp_path / "empty").mkdir()
    line = failed(command("kgkit", "ingest", "umls", tmp_path / "empty", "--out", out), "kgkit")
    assert line == f"{tmp_path / 'empty'}: no MRCONSO.RRF or MRCONSO.RRF.gz here (found: nothing)"
    rrf = tiny_rrf().write(tmp_path / "META") / "MRREL.RRF"
    rrf.write_bytes(rrf.read_bytes()[:-9])
    line = failed(command("kgkit", "ingest", "umls", tmp_path / "META", "--out", out), "kgkit")
    place = f"{rrf}, line {len(tiny_rrf().tables['MRREL'])}"
    assert line.startswith(f"{place}: truncated: the last row has 10 columns, expected 16")
    assert not out.exists()


def test_a_folder_that_is_not_a_graph_or_not_an_encoder_is_one_line(
    command: Run, tmp_path: Path, tiny_kg_dir: Path
) -> None:
    line = failed(command("kgkit", "info", tmp_path), "kgkit")
    assert line == f"{tmp_path}: not a knowledge graph: it has no manifest.json (an unfinished run leaves none)"
    for call in (
        ("search", tiny_kg_dir, "fluid"),
        ("neighbours", tiny_kg_dir, "umls:C0032227"),
        ("index", tiny_kg_dir),
    ):
        line = failed(command("kgkit", *call), "kgkit")
        assert line == f"{tiny_kg_dir}: this is a knowledge graph, expected a concept encoder"
    (tmp_path / "reports.txt").write_text("No effusion.")
    call = ("kgkit", "link", tiny_kg_dir, tmp_path / "reports.txt", "--out", tmp_path / "mentions.jsonl")
    assert failed(command(*call), "kgkit").endswith("expected a concept encoder")
    assert not (tmp_path / "mentions.jsonl").exists()


def test_out_over_a_folder_of_something_else_is_one_line(command: Run, tmp_path: Path, tiny_rrf_dir: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    line = failed(command("kgkit", "ingest", "umls", tiny_rrf_dir, "--out", tmp_path), "kgkit")
    assert line == f"{tmp_path}: this folder holds something else; give a new folder or a graph made by kgkit"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("train.stepz=5", "unknown recipe key 'train.stepz'; did you mean 'steps'? choices: "),
        ("sede=1", "unknown recipe key 'sede'; did you mean 'seed'? choices: "),
        ("seed=much", "recipe key 'seed' is 'much': expected a valid integer"),
    ],
)
def test_a_wrong_recipe_key_is_one_line_with_the_near_ones(
    command: Run, tmp_path: Path, tiny_kg_dir: Path, setting: str, message: str
) -> None:
    out = tmp_path / "encoder"
    line = failed(command("kgkit", "train-encoder", tiny_kg_dir, "--out", out, "--set", setting), "kgkit")
    assert message in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("option", "recipe", "message"),
    [
        (["--interaction", "transee"], "default", "recipe key 'relation.interaction' is 'transee'"),
        (["--loss", "hinge"], "default", "recipe key 'relation.loss' is 'hinge'"),
        (["--sampler", "bernoulli"], "default", "recipe key 'relation.sampler' is 'bernoulli': a sampler serves"),
        (["--interaction", "rotate"], "sapbert", "relation.interaction=rotate: recipe 'sapbert' learns no facts"),
    ],
)
def test_parts_of_pykeen_are_chosen_by_name(
    command: Run, tmp_path: Path, tiny_kg_dir: Path, option: list[str], recipe: str, message: str
) -> None:
    arguments = ("train-encoder", tiny_kg_dir, "--out", tmp_path / "encoder", "--recipe", recipe, *option)
    assert message in failed(command("kgkit", *arguments), "kgkit")
    assert not list(tmp_path.iterdir())


def test_vlp_says_what_is_wrong_in_one_line(command: Run, tmp_path: Path, tiny_kg_dir: Path) -> None:
    films, out = ROOT / "examples" / "openi", tmp_path / "data"
    line = failed(command("vlp", "prepare", "openi", films, "--kg-encoder", tiny_kg_dir, "--out", out), "vlp")
    assert line == f"{tiny_kg_dir}: this is a knowledge graph, expected a concept encoder"
    assert not list(tmp_path.iterdir())


def test_a_wrong_query_is_one_line(command: Run, tiny_kg_dir: Path) -> None:
    assert failed(command("kgkit", "query", tiny_kg_dir, "SELEC ?s {}"), "kgkit").startswith(
        "not a valid SPARQL query: "
    )


def test_the_command_line_itself_is_checked(command: Run) -> None:
    code, _, err = command("kgkit", "serach", "x")
    assert code == 2
    assert "No such command 'serach'" in err


def test_debug_adds_the_traceback(tmp_path: Path) -> None:
    call = [sys.executable, "-c", "import cli; cli.kgkit_main()", "info", str(tmp_path / "none"), "--debug"]
    done = subprocess.run(call, capture_output=True, text=True, timeout=60, cwd=ROOT, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback (most recent call last):")
    assert done.stderr.splitlines()[-1].endswith("none: no such folder; expected a knowledge graph")


def test_the_line_from_files_to_answers(command: Run, tmp_path: Path) -> None:
    """The documented use: ingest both kinds of source, look at the graph, ask it."""
    kg = tmp_path / "kg"
    code, out, err = command("kgkit", "ingest", "umls", tiny_rrf().write(tmp_path / "META"), "--out", kg)
    assert (code, err) == (0, "")
    assert out.startswith("umls@unversioned: ")
    assert "  skipped 9: MRREL: same fact from its other side, or twice\n" in out
    code, out, _ = command("kgkit", "ingest", "radgraph", ROOT / "examples" / "radgraph", "--out", kg, "--json")
    summary = json.loads(out)
    assert (code, summary["source"], summary["rows_read"]["reports"]) == (0, "radgraph@1", 8)
    code, out, _ = command("kgkit", "info", kg, "--json")
    info = json.loads(out)
    assert info["graph_digest"] == summary["graph_digest"]
    assert set(info["sources"]) == {"umls@unversioned", "radgraph@1"}
    _, out, _ = command("kgkit", "info", kg)
    assert f"digest {info['graph_digest']}" in out
    assert f"{info['counts']['statements']:,}  statements" in out
    query = "SELECT ?name { umls:C0417093 rela:isa/skos:prefLabel ?name }"
    assert command("kgkit", "query", kg, query) == (0, "name\nAccidental Falls\n", "")
    _, out, _ = command("kgkit", "query", kg, query, "--json")
    value = {"type": "literal", "value": "Accidental Falls", "xml:lang": "en"}
    assert json.loads(out) == {"head": {"vars": ["name"]}, "results": {"bindings": [{"name": value}]}}


def test_reports_join_the_graph_from_labels_and_from_linked_mentions(command: Run, tmp_path: Path) -> None:
    kg, labels, mentions = tmp_path / "kg", tmp_path / "labels.csv", tmp_path / "mentions.jsonl"
    labels.write_text("study_id,Age,Pleural Effusion,No Finding\n1,70,0.0,\n2,71,,1.0\n3,72,7,\n", encoding="utf-8")
    mentions.write_text('{"report_id": "1", "text": "Clear.", "mentions": []}\n', encoding="utf-8")
    code, out, _ = command("kgkit", "ingest", "labels", labels, "--out", kg, "--corpus", "mimic", "--release", "2")
    assert (code, out.splitlines()[0]) == (0, "mimic@2: 34 statements")
    assert "skipped 1: columns: no label: 'Age'\n  skipped 1: labels: not 1, 0, -1 or blank (first: " in out
    assert "mimic@2" in command("kgkit", "info", kg)[1]
    code, out, _ = command("kgkit", "ingest", "mentions", mentions, "--out", kg, "--licence-level", "0", "--json")
    assert (code, json.loads(out)["rows_read"]) == (0, {"reports": 1, "mentions": 0})
    info = json.loads(command("kgkit", "info", kg, "--json")[1])
    assert {key: source["licence_level"] for key, source in info["sources"].items()} == {"mimic@2": 9, "mentions@1": 0}
    effusion = "kgkit:denotes umls:C0032227 ; kgkit:certainty ?said"
    query = f"SELECT ?id ?said {{ ?m {effusion} ; kgkit:mentionedIn/dcterms:identifier ?id }}"
    assert command("kgkit", "query", kg, query)[1] == "id\tsaid\n1\tkgkit:absent\n"
    code, out, err = command("kgkit", "ingest", "labels", labels, "--out", kg, "--strict")
    assert (code, out) == (1, "")
    assert err.splitlines()[-1].endswith("labels.csv, line 4: labels: not 1, 0, -1 or blank: 'Pleural Effusion 7'")


def test_a_killed_command_leaves_nothing_that_loads(tmp_path: Path) -> None:
    """The console script, killed in the middle of its first ingest, and run again."""
    rrf = Rrf()
    for index in range(5000):
        rrf.atom(f"C{index:07}", f"name {index}")
    call = [BIN / "kgkit", "ingest", "umls", rrf.write(tmp_path / "META"), "--out", tmp_path / "kg"]
    process = subprocess.Popen(call, stdout=subprocess.DEVNULL)
    while process.poll() is None and not list(tmp_path.glob("kg/quads")):
        time.sleep(0.001)
    process.kill()
    assert process.wait() < 0
    info = subprocess.run(
        [BIN / "kgkit", "info", tmp_path / "kg"], capture_output=True, text=True, timeout=60, check=False
    )
    assert info.returncode == 1
    assert info.stderr.startswith(f"kgkit: {tmp_path / 'kg'}: not a knowledge graph: it has no manifest.json")
    subprocess.run(call, check=True, timeout=60, stdout=subprocess.DEVNULL)
    info = subprocess.run(
        [BIN / "kgkit", "info", tmp_path / "kg"], capture_output=True, text=True, timeout=60, check=True
    )
    assert " 5,000  concepts" in info.stdout


def test_a_folder_that_may_not_be_written_is_one_line(command: Run, tmp_path: Path, tiny_rrf_dir: Path) -> None:
    (tmp_path / "file").write_text("x")
    line = failed(command("kgkit", "ingest", "umls", tiny_rrf_dir, "--out", tmp_path / "file" / "kg"), "kgkit")
    assert str(tmp_path / "file") in line
