"""The folder a run works in, and what the run is about: run.json there, so that no other run goes on with it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kgkit.interface import InputError, partial_folder, partial_path, write_json_atomically

RUN_FILE = "run.json"


def open_run(out_dir: Path, kind: str, run: Mapping[str, Any], *, resume: bool) -> Path:
    """The folder in which a run makes `out_dir`: a new one, or that of the stopped run that it goes on with.

    Args:
        out_dir: What will be published.
        kind: Of artifact.
        run: What this run is about; values that JSON knows.
        resume: Whether to go on with a stopped run.

    Raises:
        InputError: if something else is at `out_dir`; and as `check_stopped_run`, if it resumes.
    """
    if resume:
        check_stopped_run(out_dir, run)
    partial = partial_folder(out_dir, kind, keep=resume)
    write_json_atomically(partial / RUN_FILE, run)
    return partial


def check_stopped_run(out_dir: Path, run: Mapping[str, Any]) -> None:
    """Refuse to go on with a run that was begun with other inputs, or in a folder that does not say with which.

    Args:
        out_dir: What the run makes.
        run: What this run is about.

    Raises:
        InputError: if there is no stopped run, or naming what changed.
    """
    partial = partial_path(out_dir)
    path = partial / RUN_FILE
    if not path.is_file():
        raise InputError("nothing to resume: there is no stopped run here", partial)
    begun = json.loads(path.read_text(encoding="utf-8"))
    changed = [key for key, value in json.loads(json.dumps(run)).items() if begun.get(key) != value]
    if changed:
        raise InputError(f"cannot resume: {', '.join(changed)} changed since the run began", partial)
