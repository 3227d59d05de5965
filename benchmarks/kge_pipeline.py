"""Does the same configuration do as well in PyKEEN's own pipeline?

    python benchmarks/kge_pipeline.py KG/umls KG/kinships [--seeds 5] [--json FILE]

ComplEx of 500 complex numbers, every concept scored (LCWA) with inverse relations, cross-entropy, N3 at 0.01, Adam at
0.01, 256 questions per step, 700 steps; the weights of the best validation MRR are kept. Ours is `kgkit train-encoder
--recipe kge` with the settings that stand in the recipe, whose rate falls with a cosine; the pipeline has a constant
rate, with its early stopper as the choice of weights. Test MRR is filtered, over both sides, with realistic ties, from
each side's own evaluator; processor seconds are those of the whole run, evaluation included.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import statistics
import tempfile
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ.setdefault("PYSTOW_HOME", str(Path(tempfile.gettempdir()) / "pystow"))

import torch
from pykeen.pipeline import pipeline
from pykeen.triples import CoreTriplesFactory

from kgkit.encoder.config import EncoderRecipe
from kgkit.recipe import load_recipe
from kgkit.training.loop import train_encoder
from kgkit.views.benchmarks import read_benchmark

DIM, BATCH, STEPS, RATE, N3 = 500, 256, 700, 0.01, 0.01
EVALUATIONS = 20
SETTINGS = ("relation.sampling=all", f"relation.triples={BATCH}", f"relation.concept_dim={2 * DIM}",
            f"train.steps={STEPS}")  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        mrr: Test MRR.
        cpu_seconds: Of the whole run.
    """

    mrr: float
    cpu_seconds: float


def ours(folder: Path, seed: int, scratch: Path) -> Run:
    """`kgkit train-encoder --recipe kge`."""
    began = time.process_time()
    recipe = load_recipe(EncoderRecipe, "encoder", "kge", [*SETTINGS, f"seed={seed}"])
    metrics = train_encoder(folder, scratch / f"{folder.name}-{seed}", recipe)
    assert metrics is not None
    return Run(float(metrics["link_prediction"]["mrr"]), time.process_time() - began)


def pykeens(folder: Path, seed: int) -> Run:
    """`pykeen.pipeline.pipeline` on the same split."""
    view, split = read_benchmark(folder)
    counts = {"num_entities": len(view.concepts), "num_relations": len(view.relations)}
    training, validation, testing = (
        CoreTriplesFactory(torch.from_numpy(part), **counts, create_inverse_triples=is_training)
        for part, is_training in ((split.train, True), (split.valid, False), (split.test, False))
    )
    questions = len({(h, r) for h, r, _ in split.train.tolist()}) + len({(r, t) for _, r, t in split.train.tolist()})
    epochs = math.ceil(STEPS * BATCH / questions)
    began = time.process_time()
    result = pipeline(
        training=training, validation=validation, testing=testing, model="ComplEx",
        model_kwargs={"embedding_dim": DIM, "regularizer": "PowerSum", "regularizer_kwargs": {"p": 3.0, "weight": N3},
                      "entity_initializer": "xavier_normal", "relation_initializer": "xavier_normal"},
        loss="crossentropy", optimizer="Adam", optimizer_kwargs={"lr": RATE}, training_loop="LCWA",
        training_kwargs={"num_epochs": epochs, "batch_size": BATCH, "use_tqdm": False},
        stopper="early", stopper_kwargs={"frequency": max(1, epochs // EVALUATIONS), "patience": EVALUATIONS,
                                         "metric": "both.realistic.inverse_harmonic_mean_rank"},
        evaluator_kwargs={"filtered": True}, evaluation_kwargs={"use_tqdm": False},
        random_seed=seed, device="cpu",
    )  # fmt: skip
    mrr = result.metric_results.get_metric("both.realistic.inverse_harmonic_mean_rank")
    return Run(float(mrr), time.process_time() - began)


def main() -> None:
    """Run both sides, seed by seed, and print means."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    found: dict[str, dict[str, list[dict[str, float]]]] = {}
    for folder in arguments.folders:
        runs: dict[str, list[Run]] = {"kgkit": [], "pykeen": []}
        with tempfile.TemporaryDirectory() as scratch:
            for seed in range(arguments.seeds):  # interleaved, so that a busy machine is busy for both
                runs["kgkit"].append(ours(folder, seed, Path(scratch)))
                runs["pykeen"].append(pykeens(folder, seed))
        for side, rows in runs.items():
            mrr = [run.mrr for run in rows]
            spread = statistics.stdev(mrr) if len(mrr) > 1 else 0.0
            seconds = statistics.median(run.cpu_seconds for run in rows)
            print(
                f"{folder.name:<10} {side:<8} MRR {statistics.mean(mrr):.3f} (sd {spread:.3f}), {seconds:.1f} s",
                flush=True,
            )
        found[folder.name] = {side: [asdict(run) for run in rows] for side, rows in runs.items()}
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
