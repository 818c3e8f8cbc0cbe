"""Recipes: the TOML files that say how something is trained or put together."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from voicestyle.schema import SettingError, SettingsFile, convert, hint_of, read

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

T = TypeVar("T")


class Recipe(dict[str, Any]):
    """The settings of a recipe as plain nested values, and the file that they are from."""

    def __init__(self, values: Mapping[str, Any], source: SettingsFile) -> None:
        super().__init__(values)
        self.source = source


def read_recipe(path: str | Path) -> Recipe:
    """What a TOML file holds.

    Raises:
        FileNotFoundError: there is no such recipe
        ValueError: not TOML
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such recipe")
    try:
        text = path.read_text(encoding="utf-8")
        return Recipe(tomllib.loads(text), SettingsFile(str(path), text))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a TOML file: {error}") from None


def load_recipe(path: str | Path, settings: type, overrides: Iterable[str] = ()) -> Recipe:
    """The settings of a TOML recipe, with ``section.key=value`` overrides applied, all checked.

    Every setting that there is can be overridden, whether the recipe states it or not. A value is read as TOML and,
    where text is asked for, as it is.

    Args:
        path: of the recipe
        settings: the dataclass that says what there is
        overrides: what is to be changed

    Raises:
        FileNotFoundError: there is no such recipe
        ValueError: not TOML, or a setting that is unknown, missing or does not fit: with file, line and key
    """
    recipe = read_recipe(path)
    for override in overrides:
        try:
            _override(recipe, override, settings)
        except SettingError as error:
            raise ValueError(f"override {override!r} of {path}: {error}") from None
    settings_of(recipe, settings)
    return recipe


def settings_of(recipe: Mapping[str, Any], settings: type[T]) -> T:
    """The settings of a recipe, or of plain values, as a dataclass.

    Raises:
        ValueError: one that is unknown, missing or does not fit
    """
    return read(settings, recipe, _source(recipe))


@contextmanager
def named(recipe: Mapping[str, Any]) -> Iterator[None]:
    """A context in which settings that turn out not to fit are told with the recipe's file and line."""
    try:
        yield
    except SettingError as error:
        raise _source(recipe).error(error) from None


def _source(recipe: Mapping[str, Any]) -> SettingsFile:
    return recipe.source if isinstance(recipe, Recipe) else SettingsFile("recipe")


def _override(recipe: dict[str, Any], override: str, settings: type) -> None:
    name, equals, text = override.partition("=")
    name, text = name.strip(), text.strip()
    if not equals or not name:
        raise SettingError("", "expected name=value, e.g. training.lr=0.001")
    hint = hint_of(settings, name)
    *sections, key = name.split(".")
    table: Any = recipe
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            raise SettingError(name, f"{section} is no section there")
    try:
        value = convert(hint, _parse(text), name)
    except SettingError:
        if hint is not str:
            raise
        value = text  # such as 7, which is meant as it is
    table[key] = list(value) if isinstance(value, tuple) else value


def _parse(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, KeyError):
        return text


def dump_recipe(recipe: Mapping[str, Any], section: str = "") -> str:
    """The recipe as TOML that `read_recipe` reads back unchanged: plain values first, then one table a section."""
    plain = {key: value for key, value in recipe.items() if not isinstance(value, Mapping)}
    lines = [f"{_key(key)} = {_value(value)}" for key, value in plain.items()]
    for key, value in recipe.items():
        if isinstance(value, Mapping):
            name = f"{section}.{_key(key)}" if section else _key(key)
            lines += ["", f"[{name}]", dump_recipe(value, name)]
    return "\n".join(lines).strip("\n") + ("\n" if not section else "")


def _value(value: Any) -> str:
    # a JSON string, number, boolean or list of them is also TOML, but for DEL, which only TOML wants escaped
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(key: str) -> str:
    return key if key.replace("_", "").replace("-", "").isalnum() and key.isascii() else _value(key)


def differing(held: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """The names of the settings, as "section.key", in which two recipes differ."""
    sides = [dict(leaves(side)) for side in (held, asked)]
    return sorted(n for n in {*sides[0], *sides[1]} if sides[0].get(n) != sides[1].get(n))


def difference(held: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """The settings in which two recipes differ, in words."""
    sides = [dict(leaves(side)) for side in (held, asked)]
    names = differing(held, asked)
    return ", ".join(f"{n}: {sides[0].get(n)!r} there, {sides[1].get(n)!r} asked" for n in names)


def leaves(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Each setting of a recipe by its name, as "section.key", and its value."""
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
