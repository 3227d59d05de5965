"""How many films a second does a model answer, beside its bare image backbone, and what do more queries cost?

    python benchmarks/vlp_prediction.py MODEL [--films FOLDER] [--rounds 20] [--threads 1] [--batch 8] [--out FILE.json]

One process, the same films and threads, in turn; median processor seconds of the rounds after two to warm up, and
ratios of these.

* backbone: `patch_features`, what the network reads. Goal: answers at 90% or more of its films a second.
* `VlpModel.answer` and the way of `vlp predict` (questions folded into the network once) with 1 query, the model's own
  findings, all its queries, and 200. Goal: 200 at most 10% slower than 1.
* the exported model in onnxruntime against torch, in fp32 and in the recipe's arithmetic, with all its queries. Goal:
  faster.
* with --films: clock seconds of reading and answering one after the other, and of reading ahead as `vlp predict` does.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vlp.artifact import VlpModel, load_model
from vlp.denial import ResolvedQueries
from vlp.export import ExportConfig, export
from vlp.features import load_squares, patch_features
from vlp.folded import asker
from vlp.images import find_images
from vlp.predict import answer_squares, answers
from vlp.queries import resolve_queries
from vlp.runner import VlpRunner

MANY, WARM_UP = 200, 2
Side = Callable[[], object]


def in_turn(sides: dict[str, Side], rounds: int, films: int, clock: Callable[[], float]) -> dict[str, float]:
    """Median milliseconds a film of every side."""
    spent: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + WARM_UP):
        for name, side in sides.items():
            started = clock()
            side()
            if number >= WARM_UP:
                spent[name].append(clock() - started)
    return {name: statistics.median(seconds) / films * 1000 for name, seconds in spent.items()}


def queries(model: VlpModel) -> dict[str, Tensor]:
    """Query vectors of several lengths; what a model does not have is made up."""
    every = model.query_vectors
    generator = torch.Generator().manual_seed(0)
    made_up = F.normalize(torch.randn(MANY, every.shape[1], generator=generator), dim=-1)
    findings = resolve_queries(model, (), findings_only=True).vectors
    sets = {1: every[:1], len(findings): findings, len(every): every, MANY: torch.cat([every, made_up])[:MANY]}
    return {str(count): vectors for count, vectors in sorted(sets.items())}


def torch_sides(model: VlpModel, squares: Tensor) -> dict[str, Side]:
    """Backbone, answer and folded answer."""
    grid = (model.patches.rows, model.patches.columns)
    sides: dict[str, Side] = {"backbone": lambda: patch_features(model.tower, squares, model.recipe.tower)}
    for count, vectors in queries(model).items():
        ask = asker(model.network, vectors, grid, model.recipe.tower.precision)

        def folded(ask: Callable[[Tensor], Any] = ask) -> object:
            with torch.inference_mode():
                return ask(patch_features(model.tower, squares, model.recipe.tower))

        sides[f"answer {count}"] = lambda vectors=vectors: model.answer(squares, vectors)  # type: ignore[misc]
        sides[f"predict {count}"] = folded
    return sides


def export_sides(model: VlpModel, squares: Tensor, threads: int, folder: Path) -> dict[str, Side]:
    """The exported model against torch, many films and one."""
    export(ExportConfig(model.folder, folder))
    runner, pixels = VlpRunner(folder, threads), squares.numpy()
    exact = replace(model, recipe=replace(model.recipe, tower=replace(model.recipe.tower, precision="fp32")))
    resolved = resolve_queries(model, ())
    sides: dict[str, Side] = {}
    for name, part in (("", slice(None)), (", one film", slice(1))):
        sides[f"onnxruntime{name}"] = lambda part=part: runner.answer_squares(pixels[part])  # type: ignore[misc]
        sides[f"torch fp32{name}"] = lambda part=part: answer_squares(exact, squares[part], resolved)  # type: ignore[misc]
        sides[f"torch {model.recipe.tower.precision}, the recipe's{name}"] = (
            lambda part=part: answer_squares(model, squares[part], resolved)  # type: ignore[misc]
        )
    return sides


def reading(model: VlpModel, folder: Path, resolved: ResolvedQueries) -> tuple[dict[str, Side], int]:
    """Files read one after the other, and ahead."""
    paths, size, batch = find_images([folder]), model.recipe.tower.input_size, model.recipe.tower.batch_size

    def one_after_the_other() -> None:
        for start in range(0, len(paths), batch):
            answer_squares(model, load_squares(paths[start : start + batch], size), resolved)

    def ahead() -> None:
        for _ in answers(model, paths, lambda path, side: load_squares([path], side)[0], resolved):
            pass

    def read_alone() -> None:
        load_squares(paths, size)

    return {"read, then answered": one_after_the_other, "read ahead": ahead, "read alone": read_alone}, len(paths)


def main(options: argparse.Namespace) -> None:
    """Measure, print, write."""
    torch.set_num_threads(options.threads)
    model = load_model(options.model)
    size = model.recipe.tower.input_size
    squares = torch.from_numpy(np.random.default_rng(0).uniform(size=(options.batch, size, size)).astype(np.float32))
    found = in_turn(torch_sides(model, squares), options.rounds, options.batch, time.process_time)
    result: dict[str, Any] = {"processor_ms_a_film": found, "threads": options.threads, "batch": options.batch}
    for name, spent in found.items():
        print(
            f"{name:<34} {spent:7.2f} ms of processor a film; {found['backbone'] / spent:6.1%} of the backbone's rate"
        )
    for way in ("answer", "predict"):
        slower = result[f"{way}_{MANY}_over_1"] = found[f"{way} {MANY}"] / found[f"{way} 1"] - 1
        print(f"{way}: {MANY} queries are {slower:.1%} slower than one; goal at most 10%")
    with tempfile.TemporaryDirectory() as folder:
        sides = export_sides(model, squares, options.threads, Path(folder) / "ONNX")
        many = in_turn(
            {k: v for k, v in sides.items() if "one film" not in k}, options.rounds, options.batch, time.process_time
        )
        one = in_turn({k: v for k, v in sides.items() if "one film" in k}, options.rounds, 1, time.process_time)
    result["export_ms_a_film"] = many | one
    for name, spent in result["export_ms_a_film"].items():
        print(f"{name:<34} {spent:7.2f} ms of processor a film")
    if options.films:
        resolved = resolve_queries(model, (), findings_only=True)
        ways, count = reading(model, options.films, resolved)
        result["clock_ms_a_file"] = in_turn(ways, max(1, options.rounds // 5), count, time.perf_counter)
        for name, spent in result["clock_ms_a_file"].items():
            print(f"{name:<34} {spent:7.2f} ms by the clock a file, of {count}")
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="MODEL folder")
    parser.add_argument("--films", type=Path, help="folder of films, for reading ahead")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--out", type=Path, help="JSON")
    main(parser.parse_args())
