"""The three ways to learn from films and reports: which network, and what it is told by a batch.

query   concepts and sentences ask patches      vlp/model.py
kad     KAD, as its code does it                vlp/kad.py
clip    films and reports are contrasted        vlp/clip.py
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from vlp.checkpoint import State
from vlp.clip import ContrastNetwork
from vlp.config import LossConfig, TowerConfig, VlpRecipe
from vlp.features import tower_arithmetic
from vlp.kad import KadNetwork, kad_contrast
from vlp.losses import query_loss, sentence_targets, shared_concepts, soft_contrast_loss, target_weights
from vlp.model import QueryNetwork, QueryOutput
from vlp.towers import ImageTower

Network = QueryNetwork | KadNetwork | ContrastNetwork
Parts = dict[str, Tensor]


class Batch(NamedTuple):
    """What a step learns from.

    Attributes:
        films: float16 [B, Hp, Wp, D], patch features; or float32 [B, S, S], squares, where the tower is trained.
        targets: int8 [B, Q], values of `TargetValue`.
        queries: float32 [Q, E], what the concepts are asked with in this step.
        reports: float32 [B, E].
        sentences: float32 [S, E].
        says: bool [S, Q], concepts that a sentence calls present.
        own: bool [B, S], whose report holds which sentence.
    """

    films: Tensor
    targets: Tensor
    queries: Tensor
    reports: Tensor
    sentences: Tensor
    says: Tensor
    own: Tensor


def build_network(recipe: VlpRecipe, feature_dim: int, query_dim: int) -> Network:
    """The network of a recipe's method, with new weights."""
    if recipe.method == "kad":
        return KadNetwork(feature_dim, query_dim, recipe.model)
    if recipe.method == "clip":
        return ContrastNetwork(feature_dim, query_dim, recipe.model)
    return QueryNetwork(feature_dim, query_dim, recipe.model)


class FilmModel(nn.Module):
    """Network, and the tower in front of it where that is trained; see `FilmCache.look` for what it takes.

    Args:
        network: The network.
        tower: A tower of which blocks are trained; None where films come as features.
        config: Of the tower.
    """

    def __init__(self, network: Network, tower: ImageTower | None, config: TowerConfig) -> None:
        super().__init__()
        self.network = network
        self.tower = tower
        self.config = config

    def forward(self, films: Tensor, query_vectors: Tensor) -> QueryOutput:
        """Answers about films float16 [B, Hp, Wp, D] or squares float32 [B, S, S]."""
        output: QueryOutput = self.network(self.features(films), query_vectors)
        return output

    def features(self, films: Tensor) -> Tensor:
        """Patch features: float [B, Hp, Wp, D]."""
        if self.tower is None:
            return films
        with tower_arithmetic(self.config, films.device):
            features: Tensor = self.tower(films)
        return features.float()

    def changing(self) -> State:
        """All that training changes: name -> the tensor itself."""
        changing = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        if self.tower is not None:
            trained = self.tower.named_parameters()
            changing |= {f"tower.{name}": value.data for name, value in trained if value.requires_grad}
        return changing


class TrainingStep(nn.Module):
    """Model and losses as one module, so that several processes share its forward pass and gradients.

    Args:
        model: Films and vectors in, `QueryOutput` out.
        network: The network inside it.
        config: Of the losses.
        balance: float [Q], see `class_balance`.
    """

    balance: Tensor

    def __init__(self, model: nn.Module, network: Network, config: LossConfig, balance: Tensor) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.register_buffer("balance", balance, persistent=False)
        self._network = [network]  # it is a part of the model already

    def forward(self, batch: Batch) -> tuple[Tensor, Parts]:
        """Loss of a batch and its parts, of which `train_loss` compares with `val_loss`."""
        network = self._network[0]
        if isinstance(network, ContrastNetwork):
            return self._clip(network, batch)
        if isinstance(network, KadNetwork):
            return self._kad(network, batch)
        return self._query(network, batch)

    def _query(self, network: QueryNetwork, batch: Batch) -> tuple[Tensor, Parts]:
        """Concepts and sentences are asked in one pass, since queries do not see each other."""
        config, concepts = self.config, len(batch.queries)
        asked = batch.queries
        if len(batch.sentences):
            asked = torch.cat([asked, batch.sentences])
        output: QueryOutput = self.model(batch.films, asked)
        weights = target_weights(batch.targets, config, self.balance)
        query = query_loss(output.logits[:, :concepts], batch.targets, weights)
        local = query_loss(output.local_logits[:, :concepts], batch.targets, weights)
        loss = query + config.local_weight * local
        parts = {"train_loss": query.detach(), "train_local_loss": local.detach()}
        if len(batch.sentences):
            told = sentence_targets(batch.own, batch.says, batch.targets)
            sentence = query_loss(output.logits[:, concepts:], told, target_weights(told, config))
            loss = loss + config.sentence_weight * sentence
            parts["train_sentence_loss"] = sentence.detach()
        if config.contrast_weight > 0:
            reports = network.embed_reports(batch.reports)
            overlap = _with_self(shared_concepts(batch.targets), batch.reports)
            contrast = soft_contrast_loss(output.embedding, reports, overlap, config.contrast_scale)
            loss = loss + config.contrast_weight * contrast
            parts["train_contrast_loss"] = contrast.detach()
        return loss, parts

    def _kad(self, network: KadNetwork, batch: Batch) -> tuple[Tensor, Parts]:
        output: QueryOutput = self.model(batch.films, batch.queries)
        weights = target_weights(batch.targets, self.config, self.balance)
        query = loss = query_loss(output.logits, batch.targets, weights)
        parts = {"train_loss": query.detach()}
        if self.config.text_queries != "off":
            text = query_loss(network.ask_text(batch.reports, batch.queries), batch.targets, weights)
            parts["train_text_loss"] = text.detach()
            # `mix` is the coin of the paper; a factor of zero keeps both sides in the graph.
            coin = (torch.rand(()) < 0.5).to(query.dtype)
            loss = query + text if self.config.text_queries == "sum" else coin * query + (1 - coin) * text
        contrast = kad_contrast(output.embedding, network.embed_reports(batch.reports), self.config.contrast_scale)
        parts["train_contrast_loss"] = contrast.detach()
        return loss + self.config.contrast_weight * contrast, parts

    def _clip(self, network: ContrastNetwork, batch: Batch) -> tuple[Tensor, Parts]:
        output: QueryOutput = self.model(batch.films, batch.queries)
        there = batch.reports.norm(dim=1) > 0
        images, reports = output.embedding[there], network.embed_reports(batch.reports[there])
        loss = kad_contrast(images, reports, network.scale) if len(images) > 1 else output.logits.sum() * 0.0
        return loss, {"train_loss": loss.detach()}


def _with_self(overlap: Tensor, reports: Tensor) -> Tensor:
    """A film belongs to its own report, also to one without a concept; a study without a report takes no part."""
    there = (reports.norm(dim=1) > 0).to(overlap.dtype)
    own = torch.eye(len(overlap), device=overlap.device, dtype=overlap.dtype)
    found: Tensor = torch.maximum(overlap, own) * there[:, None] * there[None, :]
    return found
