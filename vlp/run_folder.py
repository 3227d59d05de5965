"""The folder a run works in, and what the run is about: run.json there, so that no other run goes on with it."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from kgkit.interface import InputError, changed_keys, partial_folder, partial_path, write_json_atomically

RUN_FILE = "run.json"
CHANGED = "recipe_changed"
"""Under this run.json lists recipe keys that a resumed run has changed: key, and value before."""


def open_run(
    out_dir: Path, kind: str, run: Mapping[str, Any], *, resume: bool, may_change: Collection[str] = ()
) -> Path:
    """The folder in which a run makes `out_dir`: a new one, or that of the stopped run that it goes on with.

    Args:
        out_dir: What will be published.
        kind: Of artifact.
        run: What this run is about; values that JSON knows.
        resume: Whether to go on with a stopped run.
        may_change: Recipe keys that may be others than when the run began.

    Raises:
        InputError: if something else is at `out_dir`; and as `check_stopped_run`, if it resumes.
    """
    changes = check_stopped_run(out_dir, run, may_change) if resume else []
    partial = partial_folder(out_dir, kind, keep=resume)
    write_json_atomically(partial / RUN_FILE, {**run, CHANGED: changes} if changes else run)
    return partial


def check_stopped_run(out_dir: Path, run: Mapping[str, Any], may_change: Collection[str] = ()) -> list[dict[str, Any]]:
    """Refuse to go on with a run that was begun with other inputs, or in a folder that does not say with which.

    Args:
        out_dir: What the run makes.
        run: What this run is about.
        may_change: Recipe keys that may be others.

    Returns:
        Those that are, after those of earlier attempts.

    Raises:
        InputError: if there is no stopped run, or naming what changed.
    """
    partial = partial_path(out_dir)
    path = partial / RUN_FILE
    if not path.is_file():
        raise InputError("nothing to resume: there is no stopped run here", partial)
    begun, now = json.loads(path.read_text(encoding="utf-8")), json.loads(json.dumps(run))
    keys = changed_keys(begun.get("recipe", {}), now.get("recipe", {}))
    others = [key for key, value in now.items() if key != "recipe" and begun.get(key) != value]
    refused = [f"{key} (was {old!r}, is {new!r})" for key, (old, new) in keys.items() if key not in may_change]
    if others or refused:
        raise InputError(f"cannot resume: {', '.join([*refused, *others])} changed since the run began", partial)
    return [*begun.get(CHANGED, ()), *({"key": key, "before": old} for key, (old, _) in keys.items())]


def changes_of(partial: Path) -> list[dict[str, Any]]:
    """What resumed attempts of the run in this folder have changed of its recipe."""
    return list(json.loads((partial / RUN_FILE).read_text(encoding="utf-8")).get(CHANGED, ()))
