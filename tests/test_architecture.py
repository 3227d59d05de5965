"""The direction of imports, the size of things, and what may not stand in the repository."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from graphs import ROOT

LAYERS = (
    ("kgkit",),
    (
        "kgkit.arrays",
        "kgkit.errors",
        "kgkit.types",
        "kgkit.progress",
        "kgkit.resources",
        "kgkit.ranking",
        "kgkit.csr",
        "kgkit.languages",
        "kgkit.training_log",
    ),
    ("kgkit.namespaces", "kgkit.files", "kgkit.recipe"),
    ("kgkit.findings", "kgkit.linking.phrases", "kgkit.linking.tokens"),
    ("kgkit.sources",),
    ("kgkit.views",),
    ("kgkit.graph",),
    ("kgkit.encoder",),
    ("kgkit.linking", "kgkit.search"),
    ("kgkit.interface",),
    ("kgkit.evaluation",),
    ("kgkit.training",),
    ("vlp",),
    ("cli",),
)
"""A module may import from its own layer and from those above it in this table, also inside its functions."""

ONLY_IN = {
    "torch": [
        "kgkit.encoder.*",
        "kgkit.evaluation.link_prediction",
        "kgkit.training.*",
        "kgkit.views.to_pyg",
        "kgkit.views.to_pykeen",
        "vlp.*",
    ],
    "accelerate": ["kgkit.training.loop", "kgkit.training.reading", "vlp.loop", "vlp.training"],
    "transformers": ["kgkit.encoder.text_tower", "vlp.towers"],
    "pykeen": ["kgkit.encoder.relation_scorer", "kgkit.views.to_pykeen"],
    "torch_geometric": ["kgkit.encoder.graph_tower", "kgkit.views.to_pyg"],
    "networkx": ["kgkit.views.to_networkx"],
    "faiss": ["kgkit.search.dense", "kgkit.training.mining"],
    "sqlite3": ["kgkit.search.catalogue"],
    "onnxruntime": ["kgkit.encoder.text_onnx", "vlp.runner"],
    "pyoxigraph": ["kgkit.graph.*", "kgkit.sources.rdf", "kgkit.sources.owl"],
    "rdflib": ["kgkit.graph.rdflib_api", "kgkit.graph.validate"],
    "oxrdflib": ["kgkit.graph.rdflib_api"],
    "pyshacl": ["kgkit.graph.validate"],
    "matplotlib": ["kgkit.encoder.concept_map", "kgkit.graph.neighbourhood", "kgkit.training_log", "vlp.*"],
    "tensorboardX": ["kgkit.training_log"],
    "fastobo": ["kgkit.sources.obo"],
    "yaml": ["kgkit.sources.sssom"],
    "typer": ["cli"],
}
PATHS = [*sorted((ROOT / "kgkit").rglob("*.py")), *sorted((ROOT / "vlp").rglob("*.py")), ROOT / "cli.py"]


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path): path for path in PATHS}


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def imported(module: str, *, top_level: bool) -> Iterator[str]:
    """Modules that a module imports, at its top level or anywhere."""
    for node in tree(module).body if top_level else ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            known = [name for name in inner if name in MODULES]
            yield from known
            if len(known) < len(inner):
                yield str(node.module)


def layer(module: str) -> int:
    fits = [(len(name), index) for index, names in enumerate(LAYERS) for name in names
            if module == name or (module.startswith(f"{name}.") and name != "kgkit")]  # fmt: skip
    return max(fits, default=(0, len(LAYERS)))[1]


def functions(module: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{module}:{node.lineno} {node.name}", node


def test_every_module_has_its_layer() -> None:
    assert not [name for name in MODULES if layer(name) == len(LAYERS)]


def test_imports_go_one_way() -> None:
    wrong = [f"{module} imports {name}" for module in MODULES for name in imported(module, top_level=False)
             if name in MODULES and layer(name) > layer(module)]  # fmt: skip
    assert wrong == []


def test_vlp_sees_of_kgkit_the_interface_alone() -> None:
    seen = {name for module in MODULES if module.startswith("vlp") for name in imported(module, top_level=False)
            if name.startswith("kgkit")}  # fmt: skip
    assert seen == {"kgkit.interface"}


def test_no_module_needs_itself_to_be_imported() -> None:
    graph = {module: {name for name in imported(module, top_level=True) if name in MODULES} for module in MODULES}
    assert len(list(TopologicalSorter(graph).static_order())) == len(MODULES)  # raises CycleError, which names them


@pytest.mark.parametrize("library", sorted(ONLY_IN))
def test_a_library_stays_behind_its_modules(library: str) -> None:
    users = {
        module for module in MODULES for name in imported(module, top_level=False) if name.split(".")[0] == library
    }
    assert users, f"nothing imports {library} any more"
    assert [module for module in users if not any(fnmatch(module, pattern) for pattern in ONLY_IN[library])] == []


def test_the_command_line_imports_typer_and_the_standard_library() -> None:
    names = {name.split(".")[0] for name in imported("cli", top_level=True)}
    assert names - sys.stdlib_module_names == {"typer"}


@pytest.mark.parametrize("module", ["kgkit.interface", "kgkit.search.concept_search", "kgkit.search.build"])
def test_search_and_interface_load_no_torch(module: str) -> None:
    code = f"import sys, {module}; print([n for n in ('torch', 'transformers', 'pykeen') if n in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60, cwd=ROOT
    )
    assert done.stdout == "[]\n"


def test_modules_and_functions_are_small() -> None:
    # cli.py is the table of contents of both tools: it has one short function per command and grows with them.
    small = {name: path for name, path in MODULES.items() if name != "cli"}
    wrong = [name for name, path in small.items() if len(path.read_text(encoding="utf-8").splitlines()) > 400]
    for module in small:
        for where, node in functions(module):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            count = len([argument for argument in arguments if argument.arg not in ("self", "cls")])
            if (node.end_lineno or 0) - node.lineno >= 60 or count > 8:
                wrong.append(where)
    assert wrong == []


def test_nothing_is_called_utils_and_no_public_function_takes_any_keyword() -> None:
    assert not [name for name in MODULES if re.search(r"\b(utils?|helpers?|misc|common)$", name)]
    assert not [where for module in MODULES for where, node in functions(module)
                if node.args.kwarg and not node.name.startswith("_")]  # fmt: skip


def public(
    body: list[ast.stmt], where: str
) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]]:
    for node in body:
        named = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        if named and not node.name.startswith("_") and node.name != "forward":  # torch's; its class says what it does
            yield f"{where}.{node.name}", node
            if isinstance(node, ast.ClassDef):
                yield from public(node.body, f"{where}.{node.name}")


def test_everything_public_has_a_docstring() -> None:
    silent = [module for module in MODULES if MODULES[module].read_text() and not ast.get_docstring(tree(module))]
    silent += [where for module in MODULES for where, node in public(tree(module).body, module)
               if not ast.get_docstring(node)]  # fmt: skip
    assert silent == []


@cache
def tracked_texts() -> dict[str, str]:
    """Every text file of the repository: tracked, or new and not ignored."""
    listing = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(listing, capture_output=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    paths = [ROOT / name for name in done.stdout.decode().split("\0") if name]
    data = {str(path.relative_to(ROOT)): path.read_bytes() for path in paths if path.is_file()}
    return {name: content.decode("utf-8") for name, content in data.items() if b"\0" not in content[:4096]
            and not name.endswith((".jpg", ".png"))}  # fmt: skip


def test_no_file_knows_the_machine_it_was_written_on() -> None:
    # Put together from parts, so that this file does not hold what it looks for.
    words = ["/" + "work/", "/" + "root/", "/home/" + "[a-z]", r"\." + "library", r"(?<!\.)\.\./" + "shared"]
    words += ["pypi" + r"\.org", "files" + r"\.pythonhosted", "huggingface" + r"\.co/api", "--index" + "-url"]
    allowed = {(".ci/run", "../" + "shared")}
    found = {(name, match) for name, text in tracked_texts().items() for match in re.findall("|".join(words), text)}
    assert len(tracked_texts()) > 50
    assert found - allowed == set()
