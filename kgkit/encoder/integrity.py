"""Whether an ENCODER folder is what was written: digests of its parts, vectors of unit length, names that fit."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kgkit.encoder.artifact import ConceptEncoder, load_encoder, vector_blocks
from kgkit.errors import InputError
from kgkit.files import sha256_file
from kgkit.progress import progress

_PARTS = ("vectors.safetensors", "graph.safetensors", "concepts.parquet", "names.parquet", "text", "evaluation")
"""Files, and folders with all that is in them: what decides the answers. Reports, logs and the index are not among
them: they are made again without the encoder becoming another."""
_DIGESTED = ("vectors.safetensors", "text/model.safetensors", "concepts.parquet")
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Verified:
    """What was found whole.

    Attributes:
        digest: The encoder's digest.
        num_files: Files read.
        num_bytes: Their size.
        is_recorded: Whether the manifest records every file's digest; older encoders record that of the whole alone.
    """

    digest: str
    num_files: int
    num_bytes: int
    is_recorded: bool


def describe_parts(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of every file that decides an encoder's answers, for its manifest (field `parts`).

    Args:
        folder: The ENCODER folder, complete but for its manifest.

    Returns:
        Path within the folder, with `/` -> {"bytes": int, "sha256": hex}; sorted by path.
    """
    files = [path for name in _PARTS for path in (folder / name, *(folder / name).rglob("*")) if path.is_file()]
    found: dict[str, dict[str, Any]] = {}
    with progress("digests", sum(path.stat().st_size for path in files) >> 20, "MB") as report:
        for path in sorted(files):
            size = path.stat().st_size
            found[path.relative_to(folder).as_posix()] = {"bytes": size, "sha256": sha256_file(path)}
            report.advance(size >> 20)
    return found


def encoder_digest(parts: Mapping[str, Mapping[str, Any]]) -> str:
    """The encoder's digest: over its vectors, its text tower if it has one, and its concepts.

    Args:
        parts: What `describe_parts` gave.
    """
    digest = hashlib.sha256()
    for name in _DIGESTED:
        if name in parts:
            digest.update(parts[name]["sha256"].encode())
    return digest.hexdigest()


def load_verified_encoder(folder: Path) -> ConceptEncoder:
    """As `load_encoder`, after every byte that decides the answers was held against the manifest.

    Raises:
        InputError: naming the first part that is missing or changed.
    """
    return _load_unchanged(folder)[0]


def verify_encoder(folder: Path) -> Verified:
    """Read every byte of an encoder, hold it against its manifest, and look at what it says.

    Args:
        folder: The ENCODER folder.

    Raises:
        InputError: naming the first part that is missing, changed, or does not fit the others.
    """
    encoder, parts = _load_unchanged(folder)
    if encoder_digest(parts) != encoder.digest:
        changed = ", ".join(name for name in _DIGESTED if name in parts)
        raise InputError(f"digests disagree: one of {changed} has changed since the encoder was written", folder)
    _require_fitting_names(encoder)
    for key in ("concepts", "names"):
        _require_unit_rows(folder, key)
    is_recorded = "parts" in encoder.manifest
    return Verified(encoder.digest, len(parts), sum(part["bytes"] for part in parts.values()), is_recorded)


def _load_unchanged(folder: Path) -> tuple[ConceptEncoder, dict[str, dict[str, Any]]]:
    encoder = load_encoder(folder)
    recorded = encoder.manifest.get("parts", {})
    parts = describe_parts(folder)
    for name, part in recorded.items():
        if name not in parts:
            raise InputError("missing; the folder is damaged", folder / name)
        if parts[name]["sha256"] != part["sha256"]:
            raise InputError("digests disagree: the file has changed since the encoder was written", folder / name)
    return encoder, parts


def _require_fitting_names(encoder: ConceptEncoder) -> None:
    strange = encoder.names.join(encoder.table, on="concept", how="anti")
    if len(strange):
        problem = f"name {strange['name'][0]!r} belongs to {strange['concept'][0]!r}, which is no concept here"
        raise InputError(problem, encoder.folder / "names.parquet")
    named = encoder.names["vector"].drop_nulls().n_unique()
    if named != len(encoder.name_vectors):
        problem = f"{named} distinct names but {len(encoder.name_vectors)} name vectors; the folder is damaged"
        raise InputError(problem, encoder.folder)


def _require_unit_rows(folder: Path, key: str) -> None:
    start = 0
    for block in vector_blocks(folder, key):
        if block.shape[1]:
            norms = np.linalg.norm(block, axis=1)
            wrong = np.flatnonzero(~(np.abs(norms - 1) <= _TOLERANCE))  # NaN is wrong too
            if len(wrong):
                row = int(wrong[0])
                problem = f"row {start + row} of {key!r} has length {norms[row]:.3g}, expected 1"
                raise InputError(problem, folder / "vectors.safetensors")
        start += len(block)
