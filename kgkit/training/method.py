"""What the training loop asks of a way to train: draw a step, turn text vectors into losses, measure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor

Tokens = Sequence[Sequence[int]]

Reader = Callable[[Tokens, str], Tensor]
"""Reads texts without gradients, with progress: (tokens, description) to float32 [n, dim] on the CPU."""


class Draw(Protocol):
    """What one step works on; everything else in it is the method's own."""

    @property
    def tokens(self) -> Tokens:
        """Texts to be read in this step; the loop reads them in batches formed by length."""

    @property
    def items(self) -> int:
        """What the step learns from: synonym pairs, definitions, text pairs and facts together."""


D = TypeVar("D", bound=Draw)


class Method(Protocol[D]):
    """A way to train an `EncoderModel`; see towers.py, text_pairs.py and kge.py."""

    def draw(self, step: int) -> D:
        """The batch of a step (1 and up).

        It depends on the recipe's seed, the step and whether texts are learnt still: a resumed run repeats it, all
        processes draw the same.
        """

    @property
    def takes_turns(self) -> bool:
        """Whether it learns texts first and facts after."""

    def end_texts(self) -> None:
        """Texts stay as they are from here on; what later steps need of them is read now.

        Called once, if it takes turns.
        """

    def losses(self, draw: D, texts: Tensor) -> dict[str, Tensor]:
        """Weighted losses of a step by objective; their sum is minimised.

        Args:
            draw: What `draw` gave.
            texts: float32 [len(draw.tokens), dim], the vectors of its texts, in order; gradients flow into them.
        """

    def after_step(self, draw: D, texts: Tensor) -> None:
        """Take notice of the texts that were read (detached)."""

    def validate(self) -> Mapping[str, float]:
        """Figures on the validation part, higher is better, for the learning curve and the choice of weights.

        The first one decides. Empty if nothing is held out.
        """

    def state(self) -> dict[str, Tensor]:
        """What a resumed run needs beside the weights."""

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take back what `state` gave."""

    @property
    def preferred(self) -> Tensor | None:
        """Text vectors of the preferred names as they will stay, float32 [N, dim], if `end_texts` has read them."""

    def concept_vectors(self, preferred: Tensor) -> Tensor:
        """Vectors of all concepts, float32 [N, dim], unit rows, as they are written into the encoder.

        Args:
            preferred: float32 [N, dim], text vectors of the preferred names; [N, 0] without a text tower.
        """


class OneKindOfStep:
    """What `Method` asks about turns, for methods that do not take them."""

    takes_turns = False
    preferred: Tensor | None = None
    """Read with all other names in the end."""

    def end_texts(self) -> None:
        """Not called."""


def seed_torch(seed: int) -> None:
    """Seed torch's own draws (dropout) on the CPU and, if there is one, the GPU.

    `torch.manual_seed` asks every kind of device, which takes longer than a small step.
    """
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed(seed)


def step_generator(seed: int, step: int, purpose: int) -> torch.Generator:
    """A generator that depends on its arguments alone."""
    mixed = (seed * 1_000_003 + step) * 1_009 + purpose
    return torch.Generator().manual_seed(mixed % (2**63))
