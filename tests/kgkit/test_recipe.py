"""Recipes: what they say is what runs, and what they should not say is refused by name."""

from __future__ import annotations

import doctest
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import kgkit.recipe
from kgkit.encoder.config import EncoderRecipe
from kgkit.errors import InputError
from kgkit.recipe import changed_keys, load_recipe, recipe_to_dict
from kgkit.resources import resource


@dataclass(frozen=True)
class Part:
    steps: int
    rate: float = 0.5


@dataclass(frozen=True)
class Whole:
    name: str
    part: Part
    seed: int = 0
    sizes: tuple[int, ...] = (1,)


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    path = tmp_path / "own.toml"
    path.write_text('name = "a"\nsizes = [3, 4]\n[part]\nsteps = 7\n', encoding="utf-8")
    return str(path)


def test_a_file_is_read_with_its_defaults(recipe: str) -> None:
    assert load_recipe(Whole, "encoder", recipe) == Whole("a", Part(7, 0.5), 0, (3, 4))


def test_settings_replace_values_in_order(recipe: str) -> None:
    changed = load_recipe(
        Whole, "encoder", recipe, ["part.rate=1e-3", "part.rate=2e-3", "sizes=[9]", "name=plain text"]
    )
    assert changed == Whole("plain text", Part(7, 0.002), 0, (9,))


def test_a_recipe_comes_back_from_what_is_saved_beside_the_result() -> None:
    for path in sorted((resource("recipes") / "encoder").glob("*.toml")):
        loaded = load_recipe(EncoderRecipe, "encoder", path.stem)
        assert loaded == load_recipe(EncoderRecipe, "encoder", str(path))
        saved = recipe_to_dict(loaded)
        flat = [f"{key}={value}" for key, value in saved.items() if not isinstance(value, dict)]
        flat += [f"{table}.{key}={value}" for table, content in saved.items() if isinstance(content, dict)
                 for key, value in content.items()]  # fmt: skip
        assert load_recipe(EncoderRecipe, "encoder", "default", flat) == loaded


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("sede=1", "unknown recipe key 'sede'; did you mean 'seed'? choices: name, part, seed, sizes"),
        ("part.step=1", "unknown recipe key 'part.step'; did you mean 'steps'? choices: rate, steps"),
        ("other.key=1", "unknown recipe key 'other'; choices: name, part, seed, sizes"),
        ("seed=much", "recipe key 'seed' is 'much': expected a valid integer"),
        ("part.steps=1.5", "recipe key 'part.steps' is 1.5: expected a valid integer"),
        ("part=3", "recipe key 'part' is 3: "),
        ("name.first=3", "--set 'name.first=3': 'name' is a value, not a table"),
        ("seed", "--set 'seed': expected key=value"),
        ("", "--set '': expected key=value"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(recipe: str, setting: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        load_recipe(Whole, "encoder", recipe, [setting])
    assert str(error.value).removeprefix(f"{recipe}: ").startswith(message)


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text('name = "a"\n[part]\n', encoding="utf-8")
    with pytest.raises(InputError, match=r"own\.toml: recipe key 'part\.steps': Field required"):
        load_recipe(Whole, "encoder", str(path))


@pytest.mark.parametrize("content", [b"name = ", b"name = '\xff'"])
def test_a_file_that_is_not_toml_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "own.toml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"own\.toml: not a readable TOML recipe \("):
        load_recipe(Whole, "encoder", str(path))


def test_a_missing_recipe_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no recipe 'defualt'; did you mean 'default'\? choices: benchmark, default"):
        load_recipe(Whole, "encoder", "defualt")
    with pytest.raises(InputError, match=r"none\.toml: not a readable TOML recipe"):
        load_recipe(Whole, "encoder", str(tmp_path / "none.toml"))


@given(st.dictionaries(st.sampled_from("abc"), st.integers() | st.dictionaries(st.sampled_from("xyz"), st.integers())))
def test_changed_keys_are_those_of_another_value(recipe: dict[str, object]) -> None:
    assert changed_keys(recipe, recipe) == {}
    more = recipe | {"new": {"x": 1}}
    assert changed_keys(recipe, more) == {"new.x": (None, 1)}
    assert changed_keys(more, recipe) == {"new.x": (1, None)}


def test_the_example_of_changed_keys_runs() -> None:
    found = doctest.testmod(kgkit.recipe)
    assert (found.failed, found.attempted > 0) == (0, True)
