"""How long is a training step of vlp's default recipe, beside a step written as KAD's released code has it?

    python benchmarks/vlp_step.py [--rounds 3] [--threads 1] [--batch 16] [--queries 66] [--query-tokens 256]
        [--backbone efficientnet-lite0] [--size 256] [--also-trained-text] [--also-trained-backbone] [--out FILE.json]

Both sides look at the same films through the same image backbone, in the same arithmetic, and its forward pass is in
every step (`vlp train` computes the features of a frozen backbone once; that saving is left out on purpose). All else
is fp32, with the same number of threads, in turn; processor seconds, median of the rounds after one to warm up.

* vlp: the default recipe's network, losses, gradient clipping, AdamW and moving average. What is asked are frozen
  vectors of so many concepts (66 are what the default asks on Open-i).
* KAD-style (Zhang et al. 2023, stage A3): BERT-base (random weights, in training mode, dropout on) and a head of two
  layers encode 41 query strings and one entity text per study, each padded to 256 tokens, at every step; two layers
  project the patches to 768; four decoder layers with self-attention of the queries run over the patches and once more
  over the entity-text token; two cross-entropies and the contrast; AdamW. Texts are tokenised beforehand.
  With `--freeze_bert` (its README's command) no gradient goes into the text encoder; as trained, all of it learns.
  Its memory then is about 17 GB with 41 queries of 256 tokens; `--query-tokens 8` asks what a patient user would have.

`--backbone resnet50` is KAD's own: a ResNet-50 up to stride 16 with random weights; take it with `--size 224`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig, BertModel, ResNetConfig, ResNetModel

from vlp.checkpoint import average_weights, copy_weights
from vlp.config import TowerConfig, VlpRecipe, load_vlp_recipe
from vlp.features import tower_arithmetic
from vlp.methods import Batch, FilmModel, TrainingStep, build_network
from vlp.towers import ImageTower, TowerSpec, load_tower

KAD_QUERIES, KAD_TOKENS, KAD_WIDTH, KAD_SCALE = 41, 256, 768, 2.66
ENTITY_WORDS, CONCEPT_DIM, SENTENCES_PER_FILM = 120, 384, 2
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Step:
    """The films of a step, seen by both sides.

    Attributes:
        squares: float32 [B, S, S].
        present: bool [B, 66 or more], what is present.
    """

    squares: Tensor
    present: Tensor


class Peer(nn.Module):
    """The modules of KAD's stage A3 behind an image backbone."""

    def __init__(self, tower: ImageTower, dim: int, *, freeze_text: bool, query_tokens: int) -> None:
        super().__init__()
        self.tower = tower
        self.bert = BertModel(BertConfig())
        self.text_head = nn.Sequential(nn.Linear(KAD_WIDTH, KAD_WIDTH), nn.GELU(), nn.Linear(KAD_WIDTH, KAD_WIDTH))
        for part in (self.bert, self.text_head):
            part.requires_grad_(not freeze_text)
        self.project = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, KAD_WIDTH))
        self.decoder = nn.ModuleList(
            nn.TransformerDecoderLayer(KAD_WIDTH, 4, 1024, 0.1, "relu", batch_first=True, norm_first=True)
            for _ in range(4)
        )
        self.norm, self.dropout, self.classify = nn.LayerNorm(KAD_WIDTH), nn.Dropout(0.1), nn.Linear(KAD_WIDTH, 2)
        self.query_tokens = query_tokens

    def encode(self, texts: int, tokens: int, words: int) -> Tensor:
        """So many texts, padded to so many tokens: float [texts, 768]."""
        ids = torch.randint(1000, 30000, (texts, tokens))
        mask = (torch.arange(tokens) < words).long().expand(texts, -1)
        encoded: Tensor = self.text_head(self.bert(input_ids=ids, attention_mask=mask).pooler_output)
        return encoded

    def ask(self, memory: Tensor, queries: Tensor) -> Tensor:
        """Two logits of each query, float [B, 41, 2], over memory [B, P, 768]."""
        memory = self.norm(memory)
        x = self.norm(queries).expand(len(memory), -1, -1)
        for layer in self.decoder:
            x = layer(x, memory)
        answers: Tensor = self.classify(self.dropout(self.norm(x)))
        return answers

    def forward(self, features: Tensor, present: Tensor) -> Tensor:
        """The loss of a step."""
        queries = self.encode(KAD_QUERIES, self.query_tokens, min(self.query_tokens, 5))
        reports = self.encode(len(features), KAD_TOKENS, ENTITY_WORDS)
        tokens = self.project(features.flatten(1, 2))
        labels = present[:, :KAD_QUERIES].long().flatten()
        loss = F.cross_entropy(self.ask(tokens, queries).flatten(0, 1), labels)
        loss = loss + F.cross_entropy(self.ask(reports[:, None], queries).flatten(0, 1), labels)
        logits, own = tokens.mean(1) @ reports.T * KAD_SCALE, torch.arange(len(features))
        return loss + (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def load_backbone(name: str) -> ImageTower:
    """A tower by name; resnet50 is one of random weights up to stride 16."""
    if name != "resnet50":
        return load_tower(name)
    config = ResNetConfig(depths=[3, 4, 6], hidden_sizes=[256, 512, 1024])  # as KAD cuts it, at stride 16
    return ImageTower(ResNetModel(config), TowerSpec(name, config.to_dict(), *IMAGENET, "random"))


def look(tower: ImageTower, squares: Tensor, config: TowerConfig) -> Tensor:
    """Patch features, with a gradient where the tower is trained."""
    is_trained = any(parameter.requires_grad for parameter in tower.parameters())
    with torch.set_grad_enabled(is_trained), tower_arithmetic(config, squares.device):
        features: Tensor = tower(squares)
    return features.float()


def our_step(tower: ImageTower, dim: int, recipe: VlpRecipe, queries: int) -> Callable[[Step], float]:
    """A step as vlp/loop.py takes it, the tower in front."""
    network = build_network(recipe, dim, CONCEPT_DIM)
    vectors = F.normalize(torch.randn(queries, CONCEPT_DIM), dim=-1)
    is_trained = any(parameter.requires_grad for parameter in tower.parameters())
    model = FilmModel(network, tower if is_trained else None, recipe.tower)
    module = TrainingStep(model, network, recipe.loss, torch.ones(queries))
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=recipe.optimizer.learning_rate)
    average = copy_weights(model.changing())

    def step(films: Step) -> float:
        module.train()
        seen = films.squares if is_trained else look(tower, films.squares, recipe.tower).half()
        count = SENTENCES_PER_FILM * len(seen) if recipe.loss.sentence_weight > 0 else 0
        targets = films.present[:, :queries].to(torch.int8)
        own = torch.arange(count)[None] // SENTENCES_PER_FILM == torch.arange(len(seen))[:, None]
        sentences = F.normalize(torch.randn(count, CONCEPT_DIM), dim=-1)
        reports = F.normalize(torch.randn(len(seen), CONCEPT_DIM), dim=-1)
        says = torch.rand(count, queries) < 0.03
        loss, _ = module(Batch(seen, targets, vectors, reports, sentences, says, own))
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, recipe.optimizer.gradient_clip)
        optimiser.step()
        optimiser.zero_grad()
        average_weights(average, model.changing(), recipe.optimizer.ema_decay)
        return float(loss.detach())

    return step


def peer_step(peer: Peer, config: TowerConfig) -> Callable[[Step], float]:
    """A step as engine/train_fg.py takes it."""
    parameters = [parameter for parameter in peer.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=5e-5, weight_decay=0.02)

    def step(films: Step) -> float:
        peer.train()
        optimiser.zero_grad()
        loss: Tensor = peer(look(peer.tower, films.squares, config), films.present)
        loss.backward()
        optimiser.step()
        return float(loss.detach())

    return step


def measure(sides: dict[str, Callable[[Step], float]], films: Step, rounds: int) -> dict[str, dict[str, float]]:
    """Processor and clock seconds a step: every side in turn, the first round warms up."""
    spent: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
    for number in range(rounds + 1):
        for side, step in sides.items():
            processor, clock = time.process_time(), time.perf_counter()
            step(films)
            if number:
                spent[side].append((time.process_time() - processor, time.perf_counter() - clock))
    found = {}
    for side, rows in spent.items():
        processor, clock = (statistics.median(column) for column in zip(*rows, strict=True))
        found[side] = {"processor_s": processor, "clock_s": clock}
    return found


def compare(options: argparse.Namespace, *, is_trained: bool) -> dict[str, Any]:
    """All sides with a frozen or a trained backbone."""
    recipe = load_vlp_recipe("default", [f"tower.trained_blocks={-1 if is_trained else 0}"])
    recipe = replace(recipe, tower=replace(recipe.tower, input_size=options.size, precision=options.precision))
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    squares = torch.rand(options.batch, options.size, options.size, generator=generator)
    present = torch.rand(options.batch, max(options.queries, KAD_QUERIES), generator=generator) < 0.1
    tower = load_backbone(options.backbone)
    dim = tower.geometry(options.size).dim
    tower.unfreeze(-1 if is_trained else 0)
    sides: dict[str, Callable[[Step], float]] = {"vlp default": our_step(tower, dim, recipe, options.queries)}
    if not is_trained:
        sides["backbone alone"] = lambda films: float(look(tower, films.squares, recipe.tower).mean())
    for freeze_text in (True, False) if options.also_trained_text else (True,):
        peer = Peer(tower, dim, freeze_text=freeze_text, query_tokens=options.query_tokens)
        sides[f"KAD-style, text {'frozen' if freeze_text else 'trained'}"] = peer_step(peer, recipe.tower)
    found = measure(sides, Step(squares, present), options.rounds)
    ours = found["vlp default"]["processor_s"]
    return {side: row | {"times_vlp": row["processor_s"] / ours} for side, row in found.items()}


def main(options: argparse.Namespace) -> None:
    """Measure, print, write."""
    torch.set_num_threads(options.threads)
    result: dict[str, Any] = {"settings": {k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items()}}
    for is_trained in (False, True) if options.also_trained_backbone else (False,):
        name = f"backbone {'trained' if is_trained else 'frozen'}"
        result[name] = compare(options, is_trained=is_trained)
        for side, row in result[name].items():
            print(f"{name:<17} {side:<24} {row['processor_s']:8.2f} s processor {row['clock_s']:8.2f} s clock a step; "
                  f"{row['times_vlp']:6.1f} times vlp's")  # fmt: skip
    frozen = result["backbone frozen"]["KAD-style, text frozen"]["times_vlp"]
    print(f"a step of the default is {frozen:.1f} times as fast as KAD's with a frozen text encoder; goal 3")
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--queries", type=int, default=66, help="concepts that vlp asks")
    parser.add_argument("--query-tokens", type=int, default=KAD_TOKENS, help="what KAD's queries are padded to")
    parser.add_argument("--backbone", default="efficientnet-lite0", help="or resnet50, or what `vlp train` takes")
    parser.add_argument("--size", type=int, default=256, help="pixels a side")
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16", help="of the backbone, on both sides")
    parser.add_argument("--also-trained-text", action="store_true")
    parser.add_argument("--also-trained-backbone", action="store_true")
    parser.add_argument("--out", type=Path, help="JSON")
    main(parser.parse_args())
