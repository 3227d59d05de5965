"""Positions in lists that stand one after the other in one array (CSR)."""

from __future__ import annotations

import numpy as np

from kgkit.arrays import IntArray


def positions(starts: IntArray, counts: IntArray) -> IntArray:
    """Flat positions of the members of some lists, list after list: int64 [counts.sum()].

    Args:
        starts: int64 [R], where each list begins.
        counts: int64 [R], how long it is.

    >>> positions(np.array([2, 0]), np.array([3, 2]))
    array([2, 3, 4, 0, 1])
    """
    shift: IntArray = np.repeat(starts - (counts.cumsum() - counts), counts)
    return shift + np.arange(len(shift))
