"""Where the files that travel with the code are: ontologies/ and recipes/."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parent


def resource(name: str) -> Path:
    """Path of a bundled file or folder such as `ontologies/findings.toml`.

    In a checkout these stand beside the packages; in a wheel they are inside kgkit/_resources.
    """
    packaged = _PACKAGE / "_resources" / name
    return packaged if packaged.exists() else _PACKAGE.parent / name
