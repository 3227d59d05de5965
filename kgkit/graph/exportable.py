"""What the writers of all formats share: where statements and views come from, and their options."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class Exportable(Protocol):
    """A graph, or the part of it that remains below a licence level."""

    @property
    def views(self) -> Path:
        """Folder of its views."""

    def lines(self) -> Iterator[str]:
        """Every statement as an N-Quads line without its line end, the derived preferred labels among them."""


@dataclass(frozen=True)
class WriterOptions:
    """Options of some formats.

    Attributes:
        with_names: tsv: two more columns with the preferred names of head and tail.
        held_out: pykeen: share of the facts in the test part, half as many in the validation part.
        seed: pykeen: draws the split.
    """

    with_names: bool = False
    held_out: float = 0.1
    seed: int = 0
