"""The files of an index. Their arrays are memory maps: opening takes no time, and only what is used is read."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from kgkit.arrays import IntArray
from kgkit.csr import positions
from kgkit.errors import InputError

INDEX_FORMAT = 3
"""Raised when an index of before cannot be read any more."""
INDEX, MANIFEST = "index", "manifest.json"
FAISS, ARRAYS, CATALOGUE = "vectors.faiss", "arrays.safetensors", "catalogue.sqlite"

_KINDS = MappingProxyType({"F32": np.float32, "I32": np.int32, "I64": np.int64})
_LONGEST_HEADER = 1 << 20


class DamagedIndexError(InputError):
    """A file of an index is missing, or not what it should be."""


@dataclass(frozen=True)
class DenseSummary:
    """The FAISS part of an index.

    Attributes:
        kind: One of `kgkit.search.dense.KINDS`.
        num_vectors: Rows: concepts and names.
        recall_at_10: Share of the ten nearest rows that are among the 40 rows FAISS gives, which are then scored
            exactly; on names that were not in the index yet. 1 for flat.
        effort: nprobe or efSearch; 0 where there is none.
    """

    kind: str
    num_vectors: int
    recall_at_10: float
    effort: int


def map_arrays(path: Path) -> Mapping[str, npt.NDArray[Any]]:
    """The arrays of a safetensors file by name, read-only and memory-mapped.

    Raises:
        DamagedIndexError: if the file is missing, cut off or no safetensors of float32, int32 or int64.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > min(size, _LONGEST_HEADER):
                raise ValueError("no header")
            header = json.loads(stream.read(length))
        return {
            name: _map_array(path, size, 8 + length, about) for name, about in header.items() if name != "__metadata__"
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = "missing" if isinstance(error, FileNotFoundError) else str(error).splitlines()[0]
        raise DamagedIndexError(f"damaged or missing ({reason})", path) from error


def _map_array(path: Path, size: int, start: int, about: Mapping[str, Any]) -> npt.NDArray[Any]:
    kind, shape, (first, last) = _KINDS[about["dtype"]], tuple(about["shape"]), about["data_offsets"]
    if last - first != math.prod(shape) * np.dtype(kind).itemsize or start + last > size:
        raise ValueError(f"cut off after {size:,} bytes")
    if not math.prod(shape):  # nothing can be mapped there
        return np.zeros(shape, dtype=kind)
    # As a plain array, since numpy's own class of maps makes every slice ten times slower.
    return np.memmap(path, dtype=kind, mode="r", offset=start + first, shape=shape).view(np.ndarray)


def members_of(starts: IntArray, rows: IntArray) -> IntArray:
    """Positions of the members of some rows of a CSR layout, row after row.

    Args:
        starts: int64 [N + 1], where the members of each row begin.
        rows: int64 [R].

    >>> members_of(np.array([0, 2, 5, 6]), np.array([1, 0]))
    array([2, 3, 4, 0, 1])
    """
    return positions(starts[rows], starts[rows + 1] - starts[rows])
