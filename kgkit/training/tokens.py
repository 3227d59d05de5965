"""Texts tokenised once and kept on disk, so that neither time nor memory is spent on them again."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np
import polars as pl

from kgkit.arrays import IntArray
from kgkit.encoder.batching import TokenArray, TokenRows
from kgkit.encoder.text_tower import TextTower
from kgkit.progress import progress

_CHUNK = 20_000


class TokenStore(TokenRows):
    """Token rows of some texts, memory-mapped; make one with `build`.

    Args:
        flat: int32 [sum of lengths].
        offsets: int64 [n + 1].
        tower: Its tokenizer made them.
        limit: Tokens of a row at most.
    """

    def __init__(self, flat: TokenArray, offsets: IntArray, tower: TextTower, limit: int) -> None:
        super().__init__(flat, offsets)
        self._tower, self._limit = tower, limit

    @staticmethod
    def build(folder: Path, texts: pl.Series, tower: TextTower, limit: int) -> TokenStore:
        """Tokenise texts into a folder, or open what was made there of the same texts before.

        The files `<key>.tokens.npy` and `<key>.offsets.npy` carry a digest of the texts, the tokenizer and the limit
        in their names; the second is renamed into place last, so a killed run leaves nothing that would be opened.

        Args:
            folder: Made if it is missing.
            texts: Strings without nulls.
            tower: Tokenises.
            limit: Tokens of a text at most; the model's own limit holds besides.
        """
        folder.mkdir(parents=True, exist_ok=True)
        key = _digest(texts, tower, limit)
        tokens, offsets = folder / f"{key}.tokens.npy", folder / f"{key}.offsets.npy"
        found = _open(tokens, offsets, len(texts))
        if found is None:
            _write(tokens, offsets, texts, tower, limit)
            found = _open(tokens, offsets, len(texts))
            assert found is not None
        for stale in folder.glob("*.npy*"):  # of other texts; what another process is writing now has this key
            if not stale.name.startswith(key):
                stale.unlink(missing_ok=True)
        return TokenStore(*found, tower, limit)

    def rows(self, indices: IntArray) -> TokenRows:
        """Rows of some texts, in the order given, in memory."""
        return self.take(indices)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Rows of texts that are not stored, cut alike."""
        return self._tower.tokenize(texts, self._limit)


def _digest(texts: pl.Series, tower: TextTower, limit: int) -> str:
    digest = hashlib.sha256(f"{tower.tokenizer_digest} {min(limit, tower.max_positions)} {len(texts)}\n".encode())
    for chunk in _chunks(texts):
        digest.update(chunk.str.len_bytes().to_numpy().tobytes())  # with the lengths, the joined text is unambiguous
        digest.update("".join(chunk.to_list()).encode())
    return digest.hexdigest()[:32]


def _chunks(texts: pl.Series) -> Iterator[pl.Series]:
    return (texts.slice(at, _CHUNK) for at in range(0, len(texts), _CHUNK))


def _open(tokens: Path, offsets: Path, count: int) -> tuple[TokenArray, IntArray] | None:
    """Both arrays, memory-mapped; None if they are not there, or not whole."""
    if not (tokens.is_file() and offsets.is_file()):
        return None
    try:
        starts: IntArray = np.load(offsets, mmap_mode="r")
        whole = len(starts) == count + 1
        if whole and starts[-1] == 0:  # an empty file cannot be mapped
            return np.empty(0, dtype=np.int32), starts
        flat: TokenArray = np.load(tokens, mmap_mode="r")
    except (ValueError, EOFError, OSError):
        return None
    return (flat, starts) if whole and len(flat) == starts[-1] else None


def _write(tokens: Path, offsets: Path, texts: pl.Series, tower: TextTower, limit: int) -> None:
    """Tokens first; offsets, whose presence says that all is there, last."""
    lengths = [np.zeros(1, dtype=np.int64)]
    total = 0
    temporary = tokens.with_name(f"{tokens.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as stream, progress("tokens", len(texts), "texts") as report:
        _header(stream, 0)
        for chunk in _chunks(texts):
            rows = TokenRows.of(tower.tokenize(chunk.to_list(), limit))
            stream.write(rows.flat.tobytes())
            lengths.append(rows.lengths)
            total += len(rows.flat)
            report.advance(len(chunk))
        stream.seek(0)
        _header(stream, total)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(tokens)
    temporary = offsets.with_name(f"{offsets.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as stream:
        np.save(stream, np.concatenate(lengths).cumsum())
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(offsets)


def _header(stream: IO[bytes], count: int) -> None:
    """The header of a .npy file of int32; numpy pads it, so that one with another count fits into its place."""
    np.lib.format.write_array_header_1_0(
        stream, {"descr": np.dtype(np.int32).str, "fortran_order": False, "shape": (count,)}
    )
