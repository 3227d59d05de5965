from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from vlp.config import ModelConfig
from vlp.model import QueryNetwork, sincos_positions

CONFIG = ModelConfig(width=16, heads=2, layers=2, feedforward=16, dropout=0.3, patch_dropout=0.3, joint_dim=8)


def network_of(config: ModelConfig) -> QueryNetwork:
    torch.manual_seed(0)
    return QueryNetwork(feature_dim=6, query_dim=10, config=config).eval()


@pytest.fixture
def films() -> torch.Tensor:
    return torch.randn(3, 4, 5, 6, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def queries() -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(7, 10, generator=torch.Generator().manual_seed(2)), dim=1)


def test_a_score_does_not_depend_on_what_else_was_asked(films: torch.Tensor, queries: torch.Tensor) -> None:
    network = network_of(CONFIG)
    together = network(films, queries)
    for position in range(len(queries)):
        alone = network(films, queries[position : position + 1])
        assert torch.allclose(alone.logits[:, 0], together.logits[:, position], atol=1e-5)
        assert torch.allclose(alone.attention[:, 0], together.attention[:, position], atol=1e-5)


def test_with_query_self_attention_it_does(films: torch.Tensor, queries: torch.Tensor) -> None:
    network = network_of(replace(CONFIG, query_self_attention=True))
    alone, together = network(films, queries[:1]).logits[:, 0], network(films, queries).logits[:, 0]
    assert (alone - together).abs().max() > 1e-3


def test_a_score_does_not_depend_on_the_batch(films: torch.Tensor, queries: torch.Tensor) -> None:
    network = network_of(CONFIG)
    together = network(films, queries).logits
    assert torch.allclose(network(films[1:2], queries).logits, together[1:2], atol=1e-5)


def test_the_local_logit_is_the_sum_of_its_parts(films: torch.Tensor, queries: torch.Tensor) -> None:
    """Without what its patches say, the local logit is a number that no film changes."""
    output = network_of(CONFIG)(films, queries)
    assert output.attention.shape == output.evidence.shape == (3, 7, 4, 5)
    assert torch.allclose(output.attention.sum((2, 3)), torch.ones(3, 7), atol=1e-5)
    rest = output.local_logits - (output.attention * output.evidence).sum((2, 3))
    assert torch.allclose(rest, rest[:1].expand(3, -1), atol=1e-5)


def test_the_heat_map_does_not_depend_on_what_bias_and_evidence_share(
    films: torch.Tensor, queries: torch.Tensor
) -> None:
    """Move a constant from the bias into every patch's evidence: neither logits nor attention may change."""
    network = network_of(CONFIG)
    before = network(films, queries)
    questions = network.query_projection((queries - network.query_mean) / network.query_std)
    asked = network.local_reader.question(network.local_reader.norm_question(questions))
    with torch.no_grad():
        network.local_reader.patch.bias += 0.5
        moved = 0.5 * asked.sum(-1) / 16**0.5
        after = network(films, queries)
    assert torch.allclose(after.local_logits - moved, before.local_logits, atol=1e-4)
    assert torch.allclose(after.attention, before.attention, atol=1e-5)


def test_the_local_reader_sees_one_patch_at_a_time(films: torch.Tensor, queries: torch.Tensor) -> None:
    """Change one patch: the odds between any two other patches' weights stay, so no patch speaks for another."""
    network = network_of(CONFIG)
    changed = films.clone()
    changed[:, 2, 3] += 5
    patches = [network.patch_projection(x.flatten(1, 2)) for x in (films, changed)]
    questions, positions = (
        network.query_projection((queries - network.query_mean) / network.query_std),
        sincos_positions(4, 5, 16),
    )
    evidence = []
    for given in patches:
        reader = network.local_reader
        memory = reader.norm_patch(given) + positions
        evidence.append(reader.question(reader.norm_question(questions)) @ reader.patch(memory).transpose(1, 2))
    moved = (evidence[0] - evidence[1]).abs().amax((0, 1))
    assert int(moved.argmax()) == 2 * 5 + 3
    moved[2 * 5 + 3] = 0
    assert moved.max() < 1e-5


def test_positions_matter_only_when_switched_on(films: torch.Tensor, queries: torch.Tensor) -> None:
    mirrored = films.flip(2)
    blind = network_of(replace(CONFIG, position_encoding=False))
    assert torch.allclose(blind(films, queries).logits, blind(mirrored, queries).logits, atol=1e-5)
    seeing = network_of(CONFIG)
    assert (seeing(films, queries).logits - seeing(mirrored, queries).logits).abs().max() > 1e-4


def test_positions_are_all_different() -> None:
    positions = sincos_positions(9, 7, 16)[0]
    assert positions.shape == (63, 16)
    distances = torch.cdist(positions, positions) + torch.eye(63) * 9
    assert distances.min() > 0.1


def test_standardisation_makes_channels_comparable(films: torch.Tensor) -> None:
    network = network_of(CONFIG)
    vectors = torch.eye(10)[:4] + 2
    network.fit_standardisation(torch.split(films * torch.tensor([1.0, 10, 100, 0, 5, 7]) + 3, 2), vectors)
    standard = (vectors - network.query_mean) / network.query_std
    assert torch.allclose(standard.mean(0), torch.zeros(10), atol=1e-5)
    assert standard.square().mean() == pytest.approx(1, abs=1e-4)
    assert torch.allclose(network.feature_mean[3], torch.tensor(3.0))
    assert network.feature_std[3] == pytest.approx(1e-3)
    assert torch.allclose(network.feature_std[2] / network.feature_std[0], torch.tensor(100.0), rtol=0.2)
