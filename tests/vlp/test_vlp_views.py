"""Views: what a film is turned into for training."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vlp.config import TowerConfig
from vlp.views import FixedView, KadView, fixed_views, training_views

WHOLE = ((0.0, 0.0), (1.0, 1.0))


def film(side: int = 64) -> torch.Tensor:
    """A ramp with a bright square up on the left: nothing about it is symmetric."""
    ramp = torch.linspace(0.2, 0.6, side).expand(side, side).clone()
    ramp[4:16, 6:18] = 0.9
    return ramp[None]


@pytest.mark.parametrize("augmentation", ["moves", "kad"])
def test_the_first_view_is_the_film_and_all_are_the_same_in_every_run(augmentation: str) -> None:
    config = replace(TowerConfig(), views=12, augmentation=augmentation)
    views = training_views(config)
    assert views == training_views(config)
    assert len(views) == len(set(views)) == 12
    assert torch.equal(views[0].apply(film()), film())


@given(st.integers(0, 2**32 - 1))
def test_kads_crops_lie_inside_and_have_its_areas_and_ratios(seed: int) -> None:
    view = KadView.draw(np.random.default_rng(seed))
    (left, top), (width, height) = view.corner, view.size
    assert min(left, top) >= 0
    assert left + width <= 1 + 1e-9
    assert top + height <= 1 + 1e-9
    assert 0.2 - 1e-9 <= width * height <= 1 + 1e-9
    assert 3 / 4 - 1e-9 <= width / height <= 4 / 3 + 1e-9
    assert len(view.operations) <= 2
    seen = view.apply(film().expand(2, -1, -1))
    assert seen.shape == (2, 64, 64)
    assert torch.equal(seen[0], seen[1])
    assert float(seen.min()) >= 0
    assert float(seen.max()) <= 1


def test_kads_draws_mirror_half_and_keep_one_operation_on_average() -> None:
    generator = np.random.default_rng(0)
    views = [KadView.draw(generator) for _ in range(2000)]
    assert np.mean([view.is_mirrored for view in views]) == pytest.approx(0.5, abs=0.05)
    assert np.mean([len(view.operations) for view in views]) == pytest.approx(1.0, abs=0.06)
    assert len({kind for view in views for kind, _ in view.operations}) == 10


def test_each_operation_does_what_its_name_says() -> None:
    def seen(*operations: tuple[str, int], is_mirrored: bool = False) -> torch.Tensor:
        return KadView(*WHOLE, is_mirrored, operations).apply(film())[0]

    plain = film()[0]
    assert torch.allclose(seen(), plain, atol=1 / 255)
    assert torch.equal(seen(is_mirrored=True), seen().flip(1))
    assert torch.allclose(seen(("identity", 1)), plain, atol=1 / 255)
    assert seen(("autocontrast", 1)).max() > 0.99
    assert seen(("autocontrast", 1)).min() == 0
    assert seen(("equalize", 1)).std() > plain.std()
    dark = plain < 0.7
    assert torch.allclose(seen(("brightness", 1))[dark], plain[dark] * 1.36, atol=2 / 255)
    for name, axis in (("translate x", 1), ("translate y", 0)):
        left = seen((name, 1))
        assert torch.allclose(left.narrow(axis, 0, 50), seen().narrow(axis, 7, 50), atol=1 / 255)
        assert torch.allclose(left.narrow(axis, 58, 6), torch.tensor(128 / 255), atol=1e-6)
        assert not torch.equal(left, seen((name, -1)))
    for name in ("shear x", "shear y", "rotate"):
        one, other = seen((name, 1)), seen((name, -1))
        assert not torch.allclose(one, plain, atol=0.05)
        assert not torch.allclose(one, other, atol=0.05)


def test_moves_never_mirror() -> None:
    for view in fixed_views(50):
        assert isinstance(view, FixedView)
        bright = (view.apply(film())[0] > 0.8).nonzero().float().mean(0)
        assert bright[1] < 32, view
