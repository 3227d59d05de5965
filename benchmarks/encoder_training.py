"""How fast does kgkit train a text encoder, beside loops written as KAD's and SapBERT's recipes write them?

    python benchmarks/encoder_training.py --kg KG [--rounds 3] [--threads 2] [--kad-pairs 64] [--sapbert-pairs 256]

The same weights, the same strings, the same loss, the same dropout and the same number of threads on all sides, in one
run and in turn, so that what differs is how the texts are read:

* KAD-style (Zhang et al. 2023, stage A2): every text is tokenised when its turn comes and padded to 128 tokens; BERT's
  pooler and a head of two layers, soft targets by concept, AdamW, fp32.
* SapBERT-style (Liu et al. 2021): both names tokenised when their turn comes and padded to 25 tokens, first token,
  multi-similarity loss on mined pairs, AdamW, fp32.
* kgkit: tokenised when their turn comes, too (in training they come from a store), batches of like length, one look-up
  of the word vectors per step, `StepReader` as in training; fp32 and bf16.

Prints seconds of processor and clock per step, the ratios, the padding, and the first losses, which agree at equal
precision without dropout (`--dropout 0`).
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModel, AutoTokenizer

from kgkit.encoder.batching import TokenRows, plan_batches
from kgkit.encoder.config import EncoderRecipe, TextConfig
from kgkit.encoder.precision import autocast_for
from kgkit.encoder.text_tower import TextTower
from kgkit.encoder.weights import text_weights
from kgkit.graph.store import KnowledgeGraph
from kgkit.recipe import load_recipe
from kgkit.training.objectives import kad_soft_contrast, multi_similarity
from kgkit.training.reading import StepReader
from kgkit.views.triples import open_triples

KAD_SCALE = 1 / 0.07


@dataclass(frozen=True)
class Pairs:
    """The texts of one step: row i on the left belongs to row i on the right, both to a concept."""

    left: list[str]
    right: list[str]
    concepts: Tensor


Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def kad_loss(left: Tensor, right: Tensor, concepts: Tensor) -> Tensor:
    """KAD's contrast at the temperature it starts from."""
    return kad_soft_contrast(left, right, concepts, KAD_SCALE)


def sapbert_loss(left: Tensor, right: Tensor, concepts: Tensor) -> Tensor:
    """SapBERT's loss over the names of both sides."""
    return multi_similarity(torch.cat([left, right]), torch.cat([concepts, concepts]))


def kad_pairs(kg: Path, count: int, steps: int) -> list[Pairs]:
    """Facts in both directions and definitions, in the proportion in which the graph has them."""
    views = KnowledgeGraph(kg).views
    view = open_triples(views)
    table = pl.read_parquet(views / "concepts.parquet", columns=["name", "definition"])
    names, defined = table["name"].to_list(), table["definition"].is_not_null().arg_true().to_numpy()
    definitions = table["definition"].to_list()
    generator, batches = np.random.default_rng(0), []
    for _ in range(steps):
        left, right, concepts = [], [], []
        for pick in generator.integers(0, len(view.triples) + len(defined), size=count):
            if pick >= len(view.triples):
                row = int(defined[pick - len(view.triples)])
                pair = (names[row], definitions[row], row)
            else:
                head, relation, tail = view.triples[pick].tolist()
                name = view.relations[relation].replace("_", " ")
                pair = (f"{names[head]} [SEP] {name}", names[tail], tail)
                if generator.random() < 0.5:
                    pair = (f"{name} [SEP] {names[tail]}", names[head], head)
            for side, value in zip((left, right, concepts), pair, strict=True):
                side.append(value)
        batches.append(Pairs(left, right, torch.tensor(concepts)))
    return batches


def sapbert_pairs(kg: Path, count: int, steps: int) -> list[Pairs]:
    """Two names of each of `count` concepts."""
    table = pl.read_parquet(KnowledgeGraph(kg).views / "names.parquet", columns=["concept", "name"]).unique()
    table = table.sort("concept", "name").group_by("concept", maintain_order=True).agg("name")
    several = table.filter(pl.col("name").list.len() > 1)["name"].to_list()
    generator, batches = np.random.default_rng(0), []
    for _ in range(steps):
        rows = generator.choice(len(several), size=count, replace=False)
        chosen = [generator.choice(len(several[row]), size=2, replace=False) for row in rows]
        left, right = ([several[row][pick[side]] for row, pick in zip(rows, chosen, strict=True)] for side in (0, 1))
        batches.append(Pairs(left, right, torch.from_numpy(rows)))
    return batches


class PeerLoop:
    """A step as the peers' recipes write it.

    Args:
        recipe: Pooling and head.
        length: Every text is padded to so many tokens.
        loss: Of both sides.
    """

    def __init__(self, recipe: EncoderRecipe, length: int, loss: Loss) -> None:
        source = text_weights(recipe.text.model)
        self.tokenizer = AutoTokenizer.from_pretrained(source)
        self.model = AutoModel.from_pretrained(
            source, hidden_dropout_prob=recipe.text.dropout, attention_probs_dropout_prob=recipe.text.dropout
        ).train()
        self.pooling, self.length, self.loss = recipe.text.pooling, length, loss
        self.head: torch.nn.Module = torch.nn.Identity()
        if recipe.text.head == "mlp":
            torch.manual_seed(0)
            self.head = TextTower(recipe.text).head
        parameters = [*self.model.parameters(), *self.head.parameters()]
        self.optimiser = torch.optim.AdamW(parameters, lr=recipe.train.text_learning_rate)

    def _vectors(self, texts: list[str]) -> Tensor:
        batch = self.tokenizer(
            texts, max_length=self.length, padding="max_length", truncation=True, return_tensors="pt"
        )
        output = self.model(**batch)
        if self.pooling == "mean":
            mask = batch["attention_mask"].unsqueeze(-1).float()
            pooled = (output.last_hidden_state * mask).sum(1) / mask.sum(1)
        else:
            pooled = output.pooler_output if self.pooling == "pooler" else output.last_hidden_state[:, 0]
        return F.normalize(self.head(pooled), dim=-1)

    def step(self, pairs: Pairs) -> float:
        """One optimiser step; gives the loss."""
        self.optimiser.zero_grad()
        loss = self.loss(self._vectors(pairs.left), self._vectors(pairs.right), pairs.concepts)
        loss.backward()
        self.optimiser.step()
        return float(loss.detach())


class OurLoop:
    """A step as kgkit's training reads texts.

    Args:
        recipe: Pooling, head, lengths.
        precision: fp32 or bf16.
        loss: Of both sides.
    """

    def __init__(self, recipe: EncoderRecipe, precision: str, loss: Loss) -> None:
        torch.manual_seed(0)
        self.tower = TextTower(recipe.text).train()
        self.reader = StepReader(self.tower, Accelerator(), autocast_for(precision), 0)
        self.optimiser = torch.optim.AdamW(self.tower.parameters(), lr=recipe.train.text_learning_rate, fused=True)
        self.loss, self.steps = loss, 0
        self.limit = max(recipe.text.max_name_tokens, recipe.text.max_definition_tokens)
        self.tokens = self.padded = 0

    def step(self, pairs: Pairs) -> float:
        """One optimiser step; gives the loss."""
        rows = TokenRows.of(self.tower.tokenize([*pairs.left, *pairs.right], self.limit))
        self.steps += 1
        self.optimiser.zero_grad(set_to_none=True)
        texts = self.reader.read(rows, self.steps)
        loss = self.loss(*texts.chunk(2), pairs.concepts)
        loss.backward()
        self.reader.backward(texts.grad)
        self.optimiser.step()
        self.tokens += int(rows.lengths.sum())
        self.padded += sum(len(batch) * int(rows.lengths[batch].max()) for batch in plan_batches(rows.lengths))
        return float(loss.detach())


def measure(title: str, sides: dict[str, PeerLoop | OurLoop], batches: list[Pairs]) -> None:
    """Every side in turn on every batch; the first one warms up."""
    spent = {side: np.zeros(2) for side in sides}
    losses: dict[str, list[float]] = {side: [] for side in sides}
    for number, pairs in enumerate(batches):
        for side, loop in sides.items():
            processor, clock = time.process_time(), time.perf_counter()
            losses[side].append(loop.step(pairs))
            if number:
                spent[side] += time.process_time() - processor, time.perf_counter() - clock
    print(title)
    peer = next(iter(spent.values()))
    for side, seconds in spent.items():
        per_step, ratio = seconds / (len(batches) - 1), peer / seconds
        print(f"  {side:<16} {per_step[0]:7.2f} s processor, {per_step[1]:7.2f} s clock a step; "
              f"{ratio[0]:5.2f} and {ratio[1]:5.2f} times the peer; first loss {losses[side][0]:.4f}")  # fmt: skip
    ours = sides["kgkit fp32"]
    assert isinstance(ours, OurLoop)
    print(f"  padding of kgkit's batches {1 - ours.tokens / ours.padded:.1%}")


def with_text(recipe: EncoderRecipe, dropout: float, **changes: int) -> EncoderRecipe:
    """The recipe with other text options."""
    text: TextConfig = dataclasses.replace(recipe.text, dropout=dropout, **changes)
    return dataclasses.replace(recipe, text=text)


def main(options: argparse.Namespace) -> None:
    """Measure and print."""
    torch.set_num_threads(options.threads)
    kad = with_text(load_recipe(EncoderRecipe, "encoder", "kad", []), options.dropout)
    sapbert = load_recipe(EncoderRecipe, "encoder", "sapbert", [])
    sapbert = with_text(sapbert, options.dropout, max_definition_tokens=sapbert.text.max_name_tokens)
    for title, recipe, length, loss, batches in (
        (f"KAD's pairs, {options.kad_pairs} a step; goal 4 at equal precision", kad, 128, kad_loss,
         kad_pairs(options.kg, options.kad_pairs, options.rounds + 1)),
        (f"SapBERT's pairs, {options.sapbert_pairs} a step; goal 1.15 at equal precision, 2 with bf16", sapbert, 25,
         sapbert_loss, sapbert_pairs(options.kg, options.sapbert_pairs, options.rounds + 1)),
    ):  # fmt: skip
        sides: dict[str, PeerLoop | OurLoop] = {"peer fp32": PeerLoop(recipe, length, loss)}
        for precision in ("fp32", "bf16"):
            sides[f"kgkit {precision}"] = OurLoop(recipe, precision, loss)
        measure(title, sides, batches)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kg", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3, help="steps that are timed, on every side")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--kad-pairs", type=int, default=64)
    parser.add_argument("--sapbert-pairs", type=int, default=256)
    parser.add_argument("--dropout", type=float, default=0.1, help="on all sides; 0.1 is the peers' own")
    main(parser.parse_args())
