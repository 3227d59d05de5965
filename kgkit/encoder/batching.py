"""Token rows kept flat, and batches of them with little padding; numpy alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast, overload

import numpy as np
import numpy.typing as npt

from kgkit.arrays import IntArray
from kgkit.csr import positions

TokenArray = npt.NDArray[np.int32]

_BATCH_COST = 32
"""What one more batch costs, in tokens: below this many padded tokens it is cheaper not to cut (measured)."""
_BATCH_TOKENS = 2048
"""Tokens of a batch at most, padding included; from about here on a larger batch is no faster on a CPU (measured)."""


class TokenRows(Sequence[Sequence[int]]):
    """Tokenised texts in one flat array; a row is a view of it, never a copy.

    Args:
        flat: int32 [sum of lengths], all rows one after another.
        offsets: int64 [n + 1], where each row starts.
    """

    def __init__(self, flat: TokenArray, offsets: IntArray) -> None:
        self.flat, self.offsets = flat, offsets

    @staticmethod
    def of(rows: Sequence[Sequence[int]]) -> TokenRows:
        """Any rows as flat ones; flat ones as they are."""
        if isinstance(rows, TokenRows):
            return rows
        lengths = np.fromiter((len(row) for row in rows), dtype=np.int64, count=len(rows))
        parts = [np.asarray(row, dtype=np.int32) for row in rows]
        flat = np.concatenate(parts) if parts else np.empty(0, dtype=np.int32)
        return TokenRows(flat, np.concatenate([[0], lengths.cumsum()]).astype(np.int64))

    @property
    def lengths(self) -> IntArray:
        """int64 [n], tokens of each row."""
        return np.diff(self.offsets)

    def take(self, indices: IntArray) -> TokenRows:
        """Some rows, in the order given; the only copy made is of their tokens."""
        indices = np.asarray(indices, dtype=np.int64)
        lengths = self.offsets[indices + 1] - self.offsets[indices]
        offsets = np.concatenate([[0], lengths.cumsum()]).astype(np.int64)
        return TokenRows(self.flat[positions(self.offsets[indices], lengths)], offsets)

    def padded(self, indices: IntArray, pad: int) -> tuple[IntArray, IntArray]:
        """Some rows as a table.

        Args:
            indices: int64 [B].
            pad: Fills what is beyond a row's end.

        Returns:
            Token ids int64 [B, T] and the mask int64 [B, T], 1 at tokens.
        """
        rows = self.take(indices)
        lengths = rows.lengths
        mask = np.arange(lengths.max(initial=0)) < lengths[:, None]
        table = np.full(mask.shape, pad, dtype=np.int64)
        table[mask] = rows.flat
        return table, mask.astype(np.int64)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, index: int) -> Sequence[int]: ...
    @overload
    def __getitem__(self, index: slice) -> TokenRows: ...
    def __getitem__(self, index: int | slice) -> Sequence[int] | TokenRows:
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        place = int(index) % len(self)
        return cast(Sequence[int], self.flat[self.offsets[place] : self.offsets[place + 1]])

    def __iter__(self) -> Iterator[Sequence[int]]:
        return (self[index] for index in range(len(self)))


def plan_batches(lengths: IntArray) -> list[IntArray]:
    """Batches that cost least, where a batch costs its tokens, padding included, and a fixed sum besides.

    Rows are cut into batches by length. A sentence of 60 tokens among names of 6 gets a batch of its own; a step of
    names and definitions is padded by a few percent where fixed batches are padded by a third.

    Args:
        lengths: int64 [n].

    Returns:
        Positions int64 of each batch, shortest rows first; every position in exactly one.
    """
    order = np.argsort(lengths, kind="stable").astype(np.int64)
    values, counts = np.unique(lengths, return_counts=True)
    starts = np.concatenate([[0], counts.cumsum()])
    best = np.zeros(len(values) + 1)  # of the rows of the first k lengths
    cut = np.zeros(len(values) + 1, dtype=np.int64)
    for k in range(1, len(values) + 1):
        costs = best[:k] + _BATCH_COST + (starts[k] - starts[:k]) * values[k - 1]
        cut[k] = costs.argmin()
        best[k] = costs[cut[k]]
    batches: list[IntArray] = []
    k = len(values)
    while k:
        rows = order[starts[cut[k]] : starts[k]]
        pieces = -(-len(rows) * max(1, int(values[k - 1])) // _BATCH_TOKENS)
        batches += reversed(np.array_split(rows, min(pieces, len(rows))))
        k = int(cut[k])
    return batches[::-1]


def equal_rows(rows: TokenRows) -> tuple[IntArray, IntArray]:
    """Which rows hold the same tokens; many names differ in case alone.

    Returns:
        An order int64 [n] of the rows in which equal ones are neighbours and lengths ascend, and where each group of
        equal rows starts in it, int64 [groups].
    """
    lengths = rows.lengths
    by_length = np.argsort(lengths, kind="stable").astype(np.int64)
    values, counts = np.unique(lengths, return_counts=True)
    orders, starts, done = [], [], 0
    for length, members in zip(values, np.split(by_length, counts.cumsum())[:-1], strict=True):
        if not length:
            orders.append(members)
            starts.append(np.array([done]))
        else:
            table = rows.flat[rows.offsets[members][:, None] + np.arange(length)]
            whole = np.ascontiguousarray(table).view(np.dtype((np.void, table.itemsize * int(length)))).ravel()
            group, sizes = np.unique(whole, return_inverse=True, return_counts=True)[1:]
            orders.append(members[np.argsort(group, kind="stable")])
            starts.append(done + np.concatenate([[0], sizes.cumsum()[:-1]]))
        done += len(members)
    none = np.empty(0, dtype=np.int64)
    return np.concatenate([none, *orders]), np.concatenate([none, *starts]).astype(np.int64)
