"""Training free concept vectors on a large graph: triples per processor second beside PyKEEN's loop with negatives.

    python benchmarks/kge_scale.py [--concepts 100000] [--triples 1000000] [--epochs 3] [--interactions distmult ...]

One thread on both sides. The graph is made up, with something to learn: concepts stand in clusters of a hundred, and
each relation leads from any of a cluster to ten of them. Three trainings with
cross-entropy and Adam at 0.01, batches of 4,096: PyKEEN's sLCWA with 32 negatives per triple, ours with the same
sampling, and ours with negatives shared by the batch and sparse updates. MRR (filtered, both sides, all concepts) is
that of the same held-out triples, PyKEEN's vectors scored by our scorer; its equality is tested elsewhere.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from kge import Timed, garbage_apart, kge_recipe, pykeen_model, test_mrr, train_ours
from pykeen.training import SLCWATrainingLoop
from pykeen.triples import CoreTriplesFactory

from kgkit.encoder.model import EncoderModel
from kgkit.views.splits import TripleSplit
from kgkit.views.triples import TripleView

DIM, BATCH, INDEPENDENT, RATE, RELATIONS, MEMBERS, LIKED = 64, 4096, 32, 0.01, 40, 100, 10


def made_up_graph(num_concepts: int, num_triples: int, held_out: int, seed: int = 0) -> tuple[TripleView, TripleSplit]:
    """Facts within clusters of a hundred concepts, each relation with ten of them; and some of them held out."""
    generator = np.random.default_rng(seed)
    clusters = num_concepts // MEMBERS
    head = generator.integers(0, clusters * MEMBERS, num_triples)
    relation = generator.integers(0, RELATIONS, num_triples)
    liked = np.stack([generator.permutation(MEMBERS)[:LIKED] for _ in range(RELATIONS)])
    tail = head // MEMBERS * MEMBERS + liked[relation, generator.integers(0, LIKED, num_triples)]
    triples = np.unique(np.stack([head, relation, tail], axis=1), axis=0)
    order = generator.permutation(len(triples))
    names = (tuple(f"c{row:07d}" for row in range(num_concepts)), tuple(f"r{row:02d}" for row in range(RELATIONS)))
    nothing = triples[:0]
    split = TripleSplit(triples[order[held_out:]], nothing, triples[order[:held_out]], seed=seed)
    return TripleView(*names, triples), split


def run_ours(
    view: TripleView, split: TripleSplit, interaction: str, epochs: int, negatives: int | None
) -> dict[str, Any]:
    """Our loop; negatives of every triple's own if `negatives` is None."""
    dim = DIM * (2 if interaction in ("complex", "rotate") else 1)
    sampling = ("independent", INDEPENDENT) if negatives is None else ("shared", negatives)
    recipe = kge_recipe(f"relation.interaction={interaction}", f"relation.concept_dim={dim}", "relation.inverses=false",
                        f"relation.sampling={sampling[0]}", f"relation.negatives={sampling[1]}",
                        f"relation.triples={BATCH}")  # fmt: skip
    steps = epochs * -(-len(split.train) // BATCH)
    model, seconds = train_ours(view, split, recipe, steps)
    # A step of shared negatives asks for the heads of half of its triples and for the tails of the others.
    return {"triples_per_cpu_s": steps * BATCH / seconds, "mrr": test_mrr(model, view, split)}


def run_pykeen(view: TripleView, split: TripleSplit, interaction: str, epochs: int) -> dict[str, Any]:
    """PyKEEN's loop; without its garbage collections."""
    factory = CoreTriplesFactory(torch.from_numpy(split.train.copy()), view.num_concepts, view.num_relations)
    theirs = pykeen_model(interaction, factory, seed=0, dim=DIM)
    loop = SLCWATrainingLoop(
        model=theirs, triples_factory=factory, optimizer=torch.optim.Adam(theirs.parameters(), RATE),
        negative_sampler="basic", negative_sampler_kwargs={"num_negs_per_pos": INDEPENDENT},
    )  # fmt: skip
    timed = Timed()
    begin = time.process_time()
    with garbage_apart(timed):
        loop.train(factory, num_epochs=epochs, batch_size=BATCH, use_tqdm=False, use_tqdm_batch=False)
    seconds = time.process_time() - begin - sum(timed.collecting)
    rows = [part()[0] if isinstance(part(), tuple) else part() for part in
            (theirs.entity_representations[0], theirs.relation_representations[0])]  # fmt: skip
    concepts, relations = (torch.view_as_real(part).flatten(1) if part.is_complex() else part for part in rows)
    recipe = kge_recipe(f"relation.interaction={interaction}", f"relation.concept_dim={concepts.shape[1]}",
                        "relation.inverses=false")  # fmt: skip
    model = EncoderModel(recipe, view.num_concepts, view.num_relations)
    with torch.no_grad():
        model.concepts.weight.copy_(concepts)
        model.scorer.weight.copy_(relations)
    return {"triples_per_cpu_s": epochs * len(split.train) / seconds, "mrr": test_mrr(model, view, split)}


def main(arguments: argparse.Namespace) -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    view, split = made_up_graph(arguments.concepts, arguments.triples, arguments.held_out)
    print(f"{view.num_concepts:,} concepts, {len(split.train):,} training triples, {arguments.epochs} epochs")
    rows = []
    for name in arguments.interactions:
        runs = {
            "PyKEEN, 32 of its own": lambda name=name: run_pykeen(view, split, name, arguments.epochs),
            "ours, 32 of its own": lambda name=name: run_ours(view, split, name, arguments.epochs, None),
            f"ours, {arguments.shared} shared": lambda name=name: run_ours(
                view, split, name, arguments.epochs, arguments.shared
            ),
        }
        for what, run in runs.items():
            row = {"interaction": name, "negatives": what} | run()
            rows.append(row)
            base = next(one for one in rows if one["interaction"] == name)
            ratio = row["triples_per_cpu_s"] / base["triples_per_cpu_s"]
            print(f"{name:<10}{what:<24}{row['triples_per_cpu_s']:>10,.0f} triples/cpu-s{ratio:7.1f}x"
                  f"   MRR {row['mrr']:.4f}", flush=True)  # fmt: skip
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--concepts", type=int, default=100_000)
    parser.add_argument("--triples", type=int, default=1_000_000)
    parser.add_argument("--held-out", type=int, default=500)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--shared", type=int, default=256, help="negatives per step")
    parser.add_argument("--interactions", nargs="+", default=["distmult", "complex"],
                        choices=["distmult", "complex", "transe"])  # fmt: skip
    parser.add_argument("--json", type=Path, help="where the rows are written too")
    main(parser.parse_args())
