"""Is training free concept vectors faster than PyKEEN's loop, at equal quality?

    python benchmarks/kge.py KG/umls KG/kinships [--interactions distmult ...] [--epochs 50] [--seeds 3] [--json FILE]

Both sides in one run with one thread: every concept scored (LCWA) with inverse relations, cross-entropy, Adam at 0.01,
256 questions per step, the same initial distributions, no regulariser, no choice of the best epoch. Processor seconds
per epoch of the training loops alone; PyKEEN's gc.collect at the end of an epoch is timed in the first epochs, counted
apart and then skipped. Test MRR is filtered, over both sides, with realistic ties, from each side's own evaluator.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

os.environ.setdefault("PYSTOW_HOME", str(Path(tempfile.gettempdir()) / "pystow"))

import torch
from pykeen.evaluation import RankBasedEvaluator
from pykeen.losses import CrossEntropyLoss
from pykeen.models import ERModel
from pykeen.nn import init
from pykeen.training import LCWATrainingLoop
from pykeen.triples import CoreTriplesFactory
from pykeen.utils import complex_normalize

from kgkit.encoder.config import EncoderRecipe
from kgkit.encoder.model import EncoderModel
from kgkit.evaluation.link_prediction import KnownFacts, rank_triples
from kgkit.recipe import load_recipe
from kgkit.training.kge import KgeMethod, TargetTable
from kgkit.training.optimisers import build_optimisers, set_learning_rates
from kgkit.views.benchmarks import read_benchmark
from kgkit.views.splits import TripleSplit
from kgkit.views.triples import TripleView

DIM, RELATION_DIM, BATCH, RATE = 100, 30, 256, 0.01
COLLECTED_EPOCHS = 3
INTERACTIONS = ("distmult", "complex", "transe", "rotate", "tucker")
PLAIN = ("relation.inverses=true", "relation.loss=crossentropy", "relation.dropout=0", "relation.input_dropout=0",
         "relation.label_smoothing=0", "relation.n3=0", f"relation.relation_dim={RELATION_DIM}",
         f"train.graph_learning_rate={RATE}", "train.weight_decay=0", "train.warmup_fraction=0",
         "train.decay=none")  # fmt: skip


@dataclass
class Timed:
    """Processor seconds of one side, and what came out."""

    per_epoch: list[float] = field(default_factory=list)
    collecting: list[float] = field(default_factory=list)
    mrr: list[float] = field(default_factory=list)


def kge_recipe(*changes: str) -> EncoderRecipe:
    """The recipe `kge` without anything that PyKEEN's side does not have."""
    return load_recipe(EncoderRecipe, "encoder", "kge", [*PLAIN, *changes])


def train_ours(view: TripleView, split: TripleSplit, recipe: EncoderRecipe, steps: int) -> tuple[EncoderModel, float]:
    """A trained model and its processor seconds: the product's draws, losses and optimisers."""
    torch.manual_seed(recipe.seed)
    model = EncoderModel(recipe, view.num_concepts, view.num_relations)
    method, optimisers = KgeMethod(model, split, recipe), build_optimisers(model, recipe)
    set_learning_rates(optimisers, recipe.train, 1.0)
    nothing = torch.empty(0)
    model.train()
    begin = time.process_time()
    for step in range(1, steps + 1):
        total = torch.stack(list(method.losses(method.draw(step), nothing).values())).sum()  # as the product's loop
        for optimiser in optimisers:
            optimiser.zero_grad(set_to_none=True)
        total.backward()
        for optimiser in optimisers:
            optimiser.step()
        float(total)  # a loop has to look at its loss
    return model, time.process_time() - begin


def test_mrr(model: EncoderModel, view: TripleView, split: TripleSplit) -> float:
    """Filtered MRR of our side."""
    assert model.concepts is not None
    known = KnownFacts(view.triples, view.num_relations)
    return float((1 / rank_triples(model.concepts.weight, model.eval().scorer, known, split.test)).mean())


def pykeen_model(interaction: str, factory: CoreTriplesFactory, seed: int, dim: int = DIM) -> ERModel:
    """PyKEEN's model with our initial distributions, without constraint on entities and without regulariser."""
    entity: dict[str, Any] = {"shape": dim, "initializer": init.xavier_uniform_}
    relation: dict[str, Any] = {"shape": dim, "initializer": init.xavier_uniform_}
    settings: dict[str, Any] = {}
    if interaction == "distmult":
        relation["initializer"] = init.xavier_normal_norm_
    elif interaction == "transe":
        settings["p"] = 2
    elif interaction == "tucker":
        relation["shape"] = RELATION_DIM
        entity["initializer"] = relation["initializer"] = init.xavier_normal_
        settings = dict.fromkeys(("head_dropout", "relation_dropout", "head_relation_dropout"), 0.0)
        settings |= {"embedding_dim": dim, "relation_dim": RELATION_DIM, "apply_batch_normalization": False}
    if interaction in ("complex", "rotate"):
        entity["dtype"] = relation["dtype"] = torch.cfloat
    if interaction == "rotate":
        relation |= {"initializer": init.init_phases, "constrainer": complex_normalize}
    return ERModel(
        triples_factory=factory, interaction=interaction, interaction_kwargs=settings, random_seed=seed,
        entity_representations_kwargs=entity, relation_representations_kwargs=relation, loss=CrossEntropyLoss(),
    )  # fmt: skip


@contextmanager
def garbage_apart(timed: Timed) -> Iterator[None]:
    """Time PyKEEN's garbage collections: the first few are done, the others skipped."""
    collect: Callable[[], int] = gc.collect

    def timed_collect(*_: int) -> int:
        if len(timed.collecting) >= COLLECTED_EPOCHS:
            return 0
        begin = time.process_time()
        found = collect()
        timed.collecting.append(time.process_time() - begin)
        return found

    with patch("gc.collect", timed_collect):
        yield


def run_pykeen(interaction: str, split: TripleSplit, sizes: tuple[int, int], epochs: int, seed: int) -> Timed:
    """One training of PyKEEN's LCWA loop and its evaluation."""
    timed = Timed()
    train, valid, test = (torch.from_numpy(part.copy()) for part in (split.train, split.valid, split.test))
    factory = CoreTriplesFactory(train, *sizes, create_inverse_triples=True)
    model = pykeen_model(interaction, factory, seed)
    loop = LCWATrainingLoop(model=model, triples_factory=factory, optimizer=torch.optim.Adam(model.parameters(), RATE))
    settings = {"triples_factory": factory, "batch_size": BATCH, "use_tqdm": False, "use_tqdm_batch": False}
    with garbage_apart(timed):
        loop.train(num_epochs=1, **settings)  # sets everything up
        timed.collecting.clear()
        begin = time.process_time()
        loop.train(num_epochs=epochs, continue_training=True, only_size_probing=False, **settings)
        timed.per_epoch.append((time.process_time() - begin - sum(timed.collecting)) / (epochs - 1))
    timed.collecting = [statistics.mean(timed.collecting)]
    found = RankBasedEvaluator(filtered=True).evaluate(
        model, test, batch_size=64, additional_filter_triples=[train, valid], use_tqdm=False
    )
    timed.mrr.append(float(found.get_metric("both.realistic.inverse_harmonic_mean_rank")))
    return timed


def run_ours(interaction: str, view: TripleView, split: TripleSplit, epochs: int, seed: int) -> Timed:
    """The same of our side."""
    dim = DIM * (2 if interaction in ("complex", "rotate") else 1)
    recipe = kge_recipe(f"relation.interaction={interaction}", f"relation.concept_dim={dim}", f"seed={seed}",
                        "relation.sampling=all", f"relation.triples={BATCH}")  # fmt: skip
    questions = len(TargetTable(torch.from_numpy(split.train.copy()), view.num_relations))
    model, seconds = train_ours(view, split, recipe, epochs * -(-questions // BATCH))
    return Timed([seconds / epochs], mrr=[test_mrr(model, view, split)])


def compare(folder: Path, interaction: str, epochs: int, seeds: int) -> dict[str, Any]:
    """One row: medians over the seeds of processor seconds, means of MRR."""
    view, split = read_benchmark(folder)
    sides: tuple[list[Timed], list[Timed]] = ([], [])
    for seed in range(seeds):
        sides[0].append(run_ours(interaction, view, split, epochs, seed))
        sides[1].append(run_pykeen(interaction, split, (view.num_concepts, view.num_relations), epochs, seed))
    ours, theirs = (statistics.median(run.per_epoch[0] for run in side) for side in sides)
    collecting = statistics.median(run.collecting[0] for run in sides[1])
    mrr, their_mrr = ([run.mrr[0] for run in side] for side in sides)
    return {
        "set": folder.name, "interaction": interaction, "epochs": epochs,
        "ours_cpu_s_per_epoch": ours, "pykeen_cpu_s_per_epoch": theirs + collecting, "pykeen_without_gc": theirs,
        "ratio": (theirs + collecting) / ours, "ratio_without_gc": theirs / ours,
        "ours_test_mrr": mrr, "pykeen_test_mrr": their_mrr,
    }  # fmt: skip


def main(arguments: argparse.Namespace) -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    rows = []
    print(f"{'set':<10}{'':<10}{'ours':>9}{'PyKEEN':>9}{'no gc':>9}{'ratio':>8}{'no gc':>8}   test MRR ours, PyKEEN's")
    for folder in arguments.folders:
        for name in arguments.interactions:
            row = compare(folder, name, arguments.epochs, arguments.seeds)
            rows.append(row)
            times = (row["ours_cpu_s_per_epoch"], row["pykeen_cpu_s_per_epoch"], row["pykeen_without_gc"])
            means = (statistics.mean(row[key]) for key in ("ours_test_mrr", "pykeen_test_mrr"))
            print(f"{row['set']:<10}{name:<10}" + "".join(f"{value:9.4f}" for value in times)
                  + f"{row['ratio']:7.1f}x{row['ratio_without_gc']:7.1f}x   " + ", ".join(f"{m:.3f}" for m in means),
                  flush=True)  # fmt: skip
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="benchmark folders: train.txt, valid.txt, test.txt")
    parser.add_argument("--interactions", nargs="+", default=INTERACTIONS, choices=INTERACTIONS)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="where the rows are written too")
    main(parser.parse_args())
