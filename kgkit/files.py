"""Artifact folders: a manifest written last, atomic replacement, provenance.

A folder (graph, encoder, data, model) is complete if and only if it holds `manifest.json`, which is written last by
an atomic rename. Work goes to `<folder>.partial` and is renamed when done, so a killed run leaves nothing that loads.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import IO, Any

from kgkit import __version__
from kgkit.errors import InputError

_KINDS = {
    "kg": "knowledge graph",
    "export": "graph export",
    "projector": "folder for the embedding projector",
    "encoder": "concept encoder",
    "data": "prepared data",
    "model": "trained model",
    "onnx": "exported model",
    "evaluation": "evaluation",
    "grounding": "pointing game",
    "cross-validation": "cross-validation",
    "finetuning": "table of fine-tuning",
}
FORMAT_VERSIONS = dict.fromkeys(_KINDS, 1) | {"kg": 2, "data": 2, "model": 2}
"""Of each kind of artifact folder; raised when a folder of before cannot be read any more."""
_LIBRARIES = ("torch", "torch-geometric", "pykeen", "transformers", "faiss-cpu", "pyoxigraph", "polars", "numpy")


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes, read in blocks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_text_atomically(path: Path, text: str) -> None:
    """Write a text file so that a reader sees the old content or the new, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


def write_json_atomically(path: Path, value: Any) -> None:
    """Write JSON so that a reader sees the old content or the new, never a part."""
    write_text_atomically(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


@contextmanager
def output_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write that appears under its name when it is whole; nothing appears if writing it fails.

    Raises:
        InputError: if it cannot be created.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = temporary.open("wb")
    except OSError as error:
        raise InputError(f"cannot create the file ({error.strerror})", path) from error
    try:
        with stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


_PARTIAL, _UNFINISHED = ".partial", ".unfinished"
"""Stands in a folder of work that is under way and names its process, which alone may read there: nobody else's folder
is taken for one, and what was not measured yet is not taken for finished."""


def partial_path(final: Path) -> Path:
    """Where `final` is prepared before it is published."""
    return final.with_name(final.name + _PARTIAL)


def require_replaceable(folder: Path, kind: str) -> None:
    """Nothing that a user may miss is overwritten: what is there is empty, or an older folder of the same kind.

    Raises:
        InputError: saying what is there instead.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"this is a file; expected a folder to write the {_KINDS[kind]} to", folder)
    if not folder.exists() or not any(folder.iterdir()):
        return
    found = _kind_of(folder / "manifest.json")
    if found != kind:
        what = f"is a {_KINDS[found]}" if found in _KINDS else "holds something else"
        raise InputError(f"this folder {what}; name another for the {_KINDS[kind]}, or remove it first", folder)


def _kind_of(manifest: Path) -> str | None:
    try:
        return str(json.loads(manifest.read_text(encoding="utf-8"))["kind"])
    except (OSError, ValueError, TypeError, KeyError):
        return None


def partial_folder(final: Path, kind: str | None, *, keep: bool = False) -> Path:
    """The folder in which `final` is prepared; emptied first unless `keep` (a resumed run).

    Args:
        final: What will be published.
        kind: Of artifact; None for a part of one, whose place nobody else can name.
        keep: Leave what is there.

    Raises:
        InputError: if it cannot be made, there is a folder of that name that no run of ours has left, or `final` may
            not be replaced (`require_replaceable`).
    """
    if kind is not None:
        require_replaceable(final, kind)
    partial = partial_path(final)
    is_ours = (partial / _UNFINISHED).is_file() or not partial.exists() or not any(partial.iterdir())
    if not keep and not is_ours:
        raise InputError("work would be done here, but no unfinished run left this folder; move it away", partial)
    if partial.exists() and not keep:
        shutil.rmtree(partial)
    try:
        partial.mkdir(parents=True, exist_ok=True)
        (partial / _UNFINISHED).write_text(str(os.getpid()))
    except OSError as error:
        raise InputError(f"cannot create the output folder ({error.strerror})", partial) from error
    return partial


def publish_folder(partial: Path, final: Path) -> None:
    """Put a finished folder in the place of an older one."""
    previous = final.with_name(f".{final.name}.{os.getpid()}.previous")
    if final.exists():
        final.rename(previous)
    partial.rename(final)
    (final / _UNFINISHED).unlink(missing_ok=True)  # after the rename: killed between the two, it would be nobody's
    shutil.rmtree(previous, ignore_errors=True)


def write_manifest(folder: Path, kind: str, content: dict[str, Any]) -> None:
    """Complete an artifact folder: its manifest is the last file written.

    Args:
        folder: The artifact folder.
        kind: A key of FORMAT_VERSIONS.
        content: The fields particular to this kind.
    """
    head = {"kind": kind, "format_version": FORMAT_VERSIONS[kind]}
    write_json_atomically(folder / "manifest.json", head | content | {"provenance": provenance()})


def read_manifest(folder: Path, kind: str) -> dict[str, Any]:
    """Read and check the manifest of an artifact folder.

    Raises:
        InputError: if the folder is missing, unfinished, of another kind or of a newer format.
    """
    wanted = _KINDS[kind]
    if not folder.exists():
        raise InputError(f"no such folder; expected a {wanted}", folder)
    path = folder / "manifest.json"
    if not path.is_file():
        raise InputError(f"not a {wanted}: it has no manifest.json (an unfinished run leaves none)", folder)
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"not readable as JSON ({error})", path) from error
    if folder.name.endswith(_PARTIAL) and _writer_of(folder) not in (None, str(os.getpid())):
        raise InputError(f"an unfinished {wanted}: wait for the run that makes it, or resume it", folder)
    found = manifest.get("kind") if isinstance(manifest, dict) else None
    if found != kind:
        raise InputError(f"this is a {_KINDS.get(str(found), 'folder of unknown kind')}, expected a {wanted}", folder)
    if manifest.get("format_version") != FORMAT_VERSIONS[kind]:
        version = manifest.get("format_version")
        raise InputError(f"format version {version!r}, this kgkit reads {FORMAT_VERSIONS[kind]}; make it again", path)
    return dict(manifest)


def file_digests(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """SHA-256 of files of an artifact folder by name, for its manifest.

    Raises:
        InputError: if one is not there.
    """
    try:
        return {name: sha256_file(folder / name) for name in names}
    except OSError as error:
        raise InputError(f"damaged or missing ({error.strerror})", Path(str(error.filename))) from error


def require_unchanged(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Hold the files whose digests a manifest records against them.

    Raises:
        InputError: naming the first that is missing or changed.
    """
    recorded = manifest.get("file_digests")
    if not isinstance(recorded, dict):
        raise InputError("records no digests of its files", folder / "manifest.json")
    for name in changed_files(folder, recorded):
        raise InputError("digests disagree: the file has changed since the folder was made", folder / name)


def changed_files(folder: Path, recorded: Mapping[str, str]) -> list[str]:
    """Files whose SHA-256 is not the one recorded for them, in the order of the record.

    Raises:
        InputError: if one is not there.
    """
    found = file_digests(folder, recorded)
    return [name for name, digest in recorded.items() if found[name] != digest]


def _writer_of(folder: Path) -> str | None:
    marker = folder / _UNFINISHED
    return marker.read_text(encoding="utf-8") if marker.is_file() else None


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """Content of a TOML file.

    Args:
        path: The file.
        what: What kind of file it is, for the message.

    Raises:
        InputError: if it is missing, not UTF-8 or not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise InputError(f"not a readable TOML {what} ({error})", path) from error


def provenance() -> dict[str, Any]:
    """Versions and git revision, so that a result can be traced to the code that made it."""
    versions = {}
    for library in _LIBRARIES:
        try:
            versions[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return {
        "kgkit": __version__,
        "python": platform.python_version(),
        "git_revision": _git_revision(),
        "versions": versions,
    }


def _git_revision() -> str | None:
    """Revision of the checkout the code runs from; None for an installed wheel."""
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
