"""However a step's texts are read, vectors and gradients are those of one pass over all of them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from accelerate import Accelerator

from kgkit.encoder.config import EncoderRecipe
from kgkit.encoder.text_tower import TextTower
from kgkit.training.reading import StepReader

Recipe = Callable[..., EncoderRecipe]
TEXTS = ["lung", "pleural effusion", "the thin lining around the lung", "rib", "broken bone", "heart", "tb"]


class FakeProcess:
    """An accelerator of one of several processes whose `gather` is answered from what the others read."""

    def __init__(self, index: int, count: int, gathered: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.process_index, self.num_processes = index, count
        self.device, self.gather = torch.device("cpu"), gathered


def gradients(tower: TextTower, reader: StepReader) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    tower.zero_grad()
    tokens = tower.tokenize(TEXTS, 12)
    vectors = reader.read(tokens, seed=5)
    # A loss that needs all vectors at once, as a contrast does.
    (vectors @ vectors.T).softmax(-1).diagonal().log().sum().backward()
    reader.backward(vectors.grad)
    found = {name: parameter.grad.clone() for name, parameter in tower.named_parameters() if parameter.grad is not None}
    return vectors.detach(), found


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], atol=2e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("chunk", [1, 3, 6, 100])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_texts_read_in_chunks_give_the_gradients_of_one_batch(tiny_recipe: Recipe, chunk: int, dropout: float) -> None:
    tower = TextTower(tiny_recipe(f"text.dropout={dropout}").text).train()
    accelerator = Accelerator(cpu=True)
    vectors, cached = gradients(tower, StepReader(tower, accelerator, nullcontext, chunk))
    again, repeated = gradients(tower, StepReader(tower, accelerator, nullcontext, chunk))
    assert torch.equal(vectors, again), "the draw of the dropout follows the seed"
    assert_same(cached, repeated)
    if not dropout:
        whole, plain = gradients(tower, StepReader(tower, accelerator, nullcontext, 0))
        torch.testing.assert_close(vectors, whole, atol=1e-5, rtol=1e-5)
        assert_same(cached, plain)
    assert any(bool(gradient.abs().max() > 1e-4) for gradient in cached.values())


@pytest.mark.parametrize("count", [2, 3])
def test_shares_of_several_processes_sum_to_one_batch(tiny_recipe: Recipe, count: int) -> None:
    tower = TextTower(tiny_recipe().text).train()
    whole, plain = gradients(tower, StepReader(tower, Accelerator(cpu=True), nullcontext, 0))
    local: list[torch.Tensor] = []
    for index in range(count):  # what each process reads

        def keep(part: torch.Tensor) -> torch.Tensor:
            local.append(part)
            return torch.cat([part] * count)

        reader = StepReader(tower, FakeProcess(index, count, keep), nullcontext, 0)  # type: ignore[arg-type]
        reader.read(tower.tokenize(TEXTS, 12), seed=5)
    summed: dict[str, torch.Tensor] = {}
    for index in range(count):
        accelerator = FakeProcess(index, count, lambda part: torch.cat(local))
        vectors, shared = gradients(tower, StepReader(tower, accelerator, nullcontext, 0))  # type: ignore[arg-type]
        torch.testing.assert_close(vectors, whole, atol=1e-5, rtol=1e-5)
        for name, gradient in shared.items():
            summed[name] = summed.get(name, torch.zeros_like(gradient)) + gradient
    assert_same(summed, plain)


def test_nothing_to_read_is_an_empty_answer(tiny_recipe: Recipe) -> None:
    tower = TextTower(tiny_recipe().text)
    reader = StepReader(tower, Accelerator(cpu=True), nullcontext, 0)
    assert reader.read([], seed=1).shape == (0, tower.dim)
    reader.backward(None)
