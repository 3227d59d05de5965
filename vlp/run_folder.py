"""What a stopped run was about: run.json in its partial folder, so that no other run goes on with it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kgkit.interface import InputError

RUN_FILE = "run.json"


def refuse_another_run(partial: Path, run: Mapping[str, Any]) -> None:
    """Refuse to go on with a run that was begun with other inputs; a folder that does not say is taken.

    Args:
        partial: Where the stopped run worked.
        run: What this run is about, as it would be written; values that JSON knows.

    Raises:
        InputError: naming what changed.
    """
    path = partial / RUN_FILE
    if not path.is_file():
        return
    begun = json.loads(path.read_text(encoding="utf-8"))
    changed = [key for key, value in json.loads(json.dumps(run)).items() if begun.get(key) != value]
    if changed:
        raise InputError(f"cannot resume: {', '.join(changed)} changed since the run began", partial)
