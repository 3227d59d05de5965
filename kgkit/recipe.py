"""Recipes: TOML files checked against frozen dataclasses; unknown keys are refused by name."""

from __future__ import annotations

import dataclasses
import tomllib
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from kgkit.errors import InputError, choices
from kgkit.files import read_toml
from kgkit.resources import resource

T = TypeVar("T")

Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]


def load_recipe(recipe_type: type[T], family: str, name: str, overrides: Sequence[str] = ()) -> T:
    """Read a recipe and apply `--set` overrides.

    Args:
        recipe_type: A frozen dataclass, possibly of nested frozen dataclasses.
        family: The folder under `recipes/` where bundled recipes live (`encoder` or `vlp`).
        name: A bundled recipe's name, or the path of a TOML file.
        overrides: `key=value` strings; the key may be dotted, the value is read as TOML, else as a string.

    Raises:
        InputError: naming the key or value, the file and the choices.
    """
    path = _recipe_path(family, name)
    content = read_toml(path, "recipe")
    for override in overrides:
        _apply_override(content, override)
    _refuse_unknown_keys(recipe_type, content, str(path), prefix="")
    try:
        return TypeAdapter(recipe_type).validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        problem = first["msg"].replace("Input should be", "expected")
        value = "" if first["type"] == "missing" else f" is {first['input']!r}"
        raise InputError(f"recipe key {key!r}{value}: {problem}", path) from error


def recipe_to_dict(recipe: Any) -> dict[str, Any]:
    """The recipe as plain values, to be saved beside the result it made."""
    return dict(TypeAdapter(type(recipe)).dump_python(recipe, mode="json"))


def changed_keys(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Recipe keys whose values differ, with the value before and now.

    >>> changed_keys({"seed": 0, "train": {"steps": 5}}, {"seed": 0, "train": {"steps": 9}})
    {'train.steps': (5, 9)}
    """
    old, new = _flat(before), _flat(now)
    return {
        key: (old.get(key), new.get(key)) for key in [*new, *(old.keys() - new.keys())] if old.get(key) != new.get(key)
    }


def _flat(recipe: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in recipe.items():
        flat |= {f"{key}.{name}": inner for name, inner in value.items()} if isinstance(value, dict) else {key: value}
    return flat


def _recipe_path(family: str, name: str) -> Path:
    if name.endswith(".toml"):
        return Path(name)
    folder = resource("recipes") / family
    path = folder / f"{name}.toml"
    if not path.is_file():
        known = [candidate.stem for candidate in folder.glob("*.toml")]
        raise InputError(f"no recipe {name!r}; {choices(name, known)}, or the path of a .toml file")
    return path


def _apply_override(content: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals:
        raise InputError(f"--set {override!r}: expected key=value")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *tables, last = key.strip().split(".")
    table = content
    for part in tables:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise InputError(f"--set {override!r}: {part!r} is a value, not a table")
    table[last] = value


def _refuse_unknown_keys(recipe_type: Any, content: dict[str, Any], path: str, prefix: str) -> None:
    hints = typing.get_type_hints(recipe_type)
    for key, value in content.items():
        if key not in hints:
            raise InputError(f"unknown recipe key {prefix + key!r}; {choices(key, hints)}", path)
        if dataclasses.is_dataclass(hints[key]) and isinstance(value, dict):
            _refuse_unknown_keys(hints[key], value, path, f"{prefix}{key}.")
