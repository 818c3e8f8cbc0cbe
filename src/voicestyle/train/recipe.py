"""Recipes: the TOML files that say how something is trained."""

from __future__ import annotations

import dataclasses
import difflib
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def load_recipe(
    path: str | Path, overrides: Iterable[str] = (), defaults: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The settings of a TOML recipe, with ``section.key=value`` overrides applied.

    A value is read as TOML and, where it is not TOML, as a plain string. Only settings that the recipe states, or
    that have a default, can be overridden, by a value of the same type: a misspelt name is an error.

    Args:
        path: of the recipe
        overrides: what is to be changed
        defaults: settings that the recipe may leave out, nested like it; only those that are overridden are added

    Raises:
        FileNotFoundError: there is no such recipe
        ValueError: not TOML, or an override that fits no setting
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such recipe")
    try:
        recipe = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a TOML file: {error}") from None
    for override in overrides:
        _override(recipe, override, path, defaults or {})
    return recipe


def defaults_of(section: type) -> dict[str, Any]:
    """What a section of a recipe may leave out, and what holds then: the defaults of its dataclass."""
    held = {field.name: field.default for field in dataclasses.fields(section)}
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in held.items()
        if value is not dataclasses.MISSING
    }


def _override(recipe: dict[str, Any], override: str, path: Path, defaults: Mapping[str, Any]) -> None:
    name, equals, text = override.partition("=")
    if not equals or not name.strip():
        raise ValueError(f"override {override!r}: expected name=value, e.g. training.lr=0.001")
    name = name.strip()
    known = {*_names(defaults), *_names(recipe)}
    if name not in known:
        near = difflib.get_close_matches(name, known, cutoff=0.85)
        instead = f"did you mean {' or '.join(map(repr, near))}?" if near else f"it has {sorted(known)}"
        raise ValueError(f"override {override!r}: {path} has no setting {name!r}; {instead}")
    *sections, key = name.split(".")
    table = recipe
    for section in sections:
        table = table.setdefault(section, {})
    value, old = _parse(text.strip()), table[key] if key in table else _lookup(defaults, name)
    if isinstance(old, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if isinstance(old, str) and not isinstance(value, str):
        value = text.strip()
    if type(value) is not type(old):
        raise ValueError(
            f"override {override!r}: got {type(value).__name__}, expected {type(old).__name__} like {old!r}"
        )
    table[key] = value


def _names(table: Mapping[str, Any], prefix: str = "") -> Iterable[str]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _names(value, f"{prefix}{key}.")
        else:
            yield prefix + key


def _parse(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, KeyError):
        return text


def dump_recipe(recipe: Mapping[str, Any], section: str = "") -> str:
    """The recipe as TOML that `load_recipe` reads back unchanged: plain values first, then one table a section."""
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
    sides = [{name: _lookup(side, name) for name in _names(side)} for side in (held, asked)]
    return sorted(n for n in {*sides[0], *sides[1]} if sides[0].get(n) != sides[1].get(n))


def difference(held: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """The settings in which two recipes differ, in words."""
    sides = [{name: _lookup(side, name) for name in _names(side)} for side in (held, asked)]
    names = differing(held, asked)
    return ", ".join(f"{n}: {sides[0].get(n)!r} there, {sides[1].get(n)!r} asked" for n in names)


def _lookup(table: Mapping[str, Any], name: str) -> Any:
    for part in name.split("."):
        table = table[part]
    return table
