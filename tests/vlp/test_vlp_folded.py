"""A folded network is the network."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from vlp.config import ModelConfig
from vlp.folded import FoldedNetwork, asker
from vlp.model import QueryNetwork

DIM, QUERY_DIM = 6, 10


def trained_like(config: ModelConfig, seed: int) -> QueryNetwork:
    """A network no weight of which is what it starts from."""
    generator = torch.Generator().manual_seed(seed)
    network = QueryNetwork(DIM, QUERY_DIM, config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4 + 0.1)
    network.fit_standardisation(
        [torch.rand(4, 3, 3, DIM, generator=generator) * 5], torch.randn(7, QUERY_DIM, generator=generator)
    )
    return network.eval()


@given(
    st.integers(1, 3), st.sampled_from([1, 2, 4]), st.booleans(),
    st.integers(1, 4), st.integers(1, 5), st.integers(1, 6), st.integers(0, 10**6),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_it_says_the_same(
    layers: int, heads: int, has_positions: bool, batch: int, side: int, count: int, seed: int
) -> None:
    config = ModelConfig(
        width=16, heads=heads, layers=layers, feedforward=12, position_encoding=has_positions, joint_dim=5
    )
    network = trained_like(config, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    features = (torch.randn(batch, side, side + 1, DIM, generator=generator) * 3).half()
    vectors = F.normalize(torch.randn(count, QUERY_DIM, generator=generator), dim=-1)
    folded = asker(network, vectors, (side, side + 1))
    assert isinstance(folded, FoldedNetwork)
    with torch.inference_mode():
        expected, found = network(features, vectors), folded(features)
    for name in expected._fields:
        wanted = getattr(expected, name)
        assert getattr(found, name).shape == wanted.shape
        torch.testing.assert_close(getattr(found, name), wanted, rtol=1e-4, atol=2e-4)
    # what is done after folding is not seen
    with torch.no_grad():
        network.patch_projection.weight.zero_()
    with torch.inference_mode():
        torch.testing.assert_close(folded(features).logits, found.logits)


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 40), st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_bf16_rounds_the_answers_and_no_more(layers: int, batch: int, count: int, seed: int) -> None:
    network = trained_like(ModelConfig(width=16, heads=2, layers=layers, feedforward=12, joint_dim=5), seed)
    generator = torch.Generator().manual_seed(seed + 1)
    features = torch.randn(batch, 4, 3, DIM, generator=generator).half()
    vectors = F.normalize(torch.randn(count, QUERY_DIM, generator=generator), dim=-1)
    with torch.inference_mode():
        exact, rounded = (asker(network, vectors, (4, 3), kind)(features) for kind in ("fp32", "bf16"))
        alone = asker(network, vectors[:1], (4, 3), "bf16")(features)
    assert torch.equal(rounded.embedding, exact.embedding)
    assert {getattr(rounded, name).dtype for name in rounded._fields} == {torch.float32}
    torch.testing.assert_close(rounded.evidence, exact.evidence, rtol=0.02, atol=0.05)
    torch.testing.assert_close(rounded.attention.sum((-2, -1)), torch.ones(batch, count))
    torch.testing.assert_close(rounded.attention, exact.attention, rtol=0.05, atol=0.01)
    torch.testing.assert_close(rounded.local_logits, exact.local_logits, rtol=0.02, atol=0.05)
    torch.testing.assert_close(rounded.logits, exact.logits, rtol=0.02, atol=0.1)
    torch.testing.assert_close(alone.logits[:, 0], rounded.logits[:, 0], rtol=0.01, atol=0.02)


def test_queries_that_see_each_other_are_asked_as_they_are() -> None:
    config = ModelConfig(width=16, heads=2, layers=1, feedforward=8, query_self_attention=True, joint_dim=5)
    network = trained_like(config, 0)
    features, vectors = torch.randn(2, 3, 3, DIM), torch.randn(4, QUERY_DIM)
    found = asker(network, vectors, (3, 3))
    assert not isinstance(found, FoldedNetwork)
    with torch.inference_mode():
        assert torch.equal(found(features).logits, network(features, vectors).logits)
    with pytest.raises(RuntimeError):
        asker(network, vectors[:, :3], (3, 3))(features)
