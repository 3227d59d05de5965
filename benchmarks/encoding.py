"""How fast are names turned into vectors, beside sentence-transformers, and how far are the vectors apart?

    python benchmarks/encoding.py --kg KG [--names 4000] [--rounds 3] [--threads 2]

Both read the same strings with the same weights in one run, in turn, tokenising included: sentence-transformers as its
users call it (`encode`, fp32, batches of 32 sorted by length), and the text tower as kgkit writes name vectors (token
rows read once each, batches by length, the precision that a measurement prefers). Prints seconds of processor and
clock, their ratios, and the mean and lowest cosine between the two.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import torch

from kgkit.encoder.config import EncoderRecipe
from kgkit.encoder.precision import autocast_for, choose_precision
from kgkit.encoder.text_tower import TextTower
from kgkit.encoder.weights import text_weights
from kgkit.graph.store import KnowledgeGraph
from kgkit.recipe import load_recipe
from kgkit.training.tokens import TokenStore


def timed(work: Callable[[], np.ndarray]) -> tuple[float, float, np.ndarray]:
    """(seconds of processor time of all threads, seconds by the clock, result)."""
    processor, clock = time.process_time(), time.perf_counter()
    result = work()
    return time.process_time() - processor, time.perf_counter() - clock, result


def main(kg: Path, num_names: int, rounds: int, threads: int) -> None:
    """Measure and print."""
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(threads)
    recipe = load_recipe(EncoderRecipe, "encoder", "default", [])
    names = pl.read_parquet(KnowledgeGraph(kg).views / "names.parquet", columns=["name"])["name"].unique().sort()
    if num_names:
        names = names.sample(min(num_names, len(names)), seed=0)
    peer = SentenceTransformer(text_weights(recipe.text.model), device="cpu")
    peer.max_seq_length = recipe.text.max_name_tokens
    tower = TextTower(recipe.text).eval()
    precision = choose_precision("auto", tower)

    def ours() -> np.ndarray:
        with tempfile.TemporaryDirectory() as folder:
            store = TokenStore.build(Path(folder), names, tower, recipe.text.max_name_tokens)
            return tower.encode_all(store, autocast_for(precision), "kgkit").numpy()

    strings = names.to_list()
    sides = {"sentence-transformers fp32": lambda: peer.encode(strings), f"kgkit {precision}": ours}
    spent = {side: np.zeros(2) for side in sides}
    vectors = {}
    for _ in range(rounds):
        for side, work in sides.items():
            processor, clock, vectors[side] = timed(work)
            spent[side] += processor, clock
    for side, (processor, clock) in spent.items():
        rate = rounds * len(strings) / np.array([processor, clock])
        print(
            f"{side:<28} {processor:7.1f} s processor, {clock:7.1f} s clock: {rate[0]:6.0f} and {rate[1]:6.0f} names/s"
        )
    ratio = np.divide(*spent.values())
    cosine = np.multiply(*vectors.values()).sum(axis=1)
    print(f"ratio {ratio[0]:.2f} of processor time, {ratio[1]:.2f} of the clock; goal 1.8")
    print(f"cosine: mean {cosine.mean():.6f}, lowest {cosine.min():.6f}; goal 0.999")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kg", type=Path, required=True)
    parser.add_argument("--names", type=int, default=4000, help="a sample of so many; 0: all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    main(options.kg, options.names, options.rounds, options.threads)
