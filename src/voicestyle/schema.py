"""Plain values (TOML, JSON) as dataclasses, checked against the types that these declare. The one reader of settings.

A field says by its type what it takes: ``steps: Count``, ``lr: Positive``, ``kind: Literal["patch", "stylegan2"]``,
another dataclass for a section, ``dict[str, Stage]`` for sections of free names. What types cannot say, a dataclass
says in ``__post_init__`` by a `SettingError`.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


@dataclass(frozen=True)
class Range:
    """Which numbers a setting takes."""

    least: float = -math.inf
    most: float = math.inf
    open: bool = False  # `least` itself is too little

    def __contains__(self, value: float) -> bool:
        return math.isfinite(value) and self.least <= value <= self.most and not (self.open and value == self.least)

    def __str__(self) -> str:
        if self.most < math.inf:
            return f" from {self.least:g} to {self.most:g}"
        return f" above {self.least:g}" if self.open else f" of {self.least:g} or more"


Count = Annotated[int, Range(1)]
Whole = Annotated[int, Range(0)]
Positive = Annotated[float, Range(0, open=True)]
NonNegative = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, 1)]


class SettingError(ValueError):
    """A setting that is unknown, missing or does not fit: `key`, dotted from the outermost section, and the problem."""

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(f"{key}: {problem}" if key else problem)
        self.key, self.problem = key, problem

    def within(self, section: str) -> SettingError:
        """The same error, of a setting of that section."""
        return SettingError(_join(section, self.key), self.problem)


@dataclass(frozen=True)
class SettingsFile:
    """A file of settings: what it is called, and where in it each of them stands."""

    name: str
    text: str = ""  # TOML; empty: places are not known

    def error(self, error: SettingError) -> ValueError:
        """The error with file and line."""
        line = self.line_of(error.key)
        return ValueError(f"{self.name}{f':{line}' if line else ''}: {error}")

    def line_of(self, key: str) -> int | None:
        """The line of a setting, else of the innermost section around it that the file has."""
        lines = _lines_of(self.text)
        parts = key.split(".")
        return next((lines[k] for n in range(len(parts), 0, -1) if (k := ".".join(parts[:n])) in lines), None)


@cache
def _lines_of(text: str) -> dict[str, int]:
    """The line of each section and setting in the text of a TOML file, from 1."""
    found: dict[str, int] = {}
    section = ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[+\s*([^\[\]#]+?)\s*\]+\s*(#.*)?$", line):
            section = re.sub(r"\s*\.\s*", ".", header[1].replace('"', ""))
            found.setdefault(section, number)
        elif setting := re.match(r'\s*("?[\w.-]+"?)\s*=', line):
            found.setdefault(_join(section, setting[1].strip('"')), number)
    return found


def read(cls: type[T], values: Mapping[str, Any], source: SettingsFile | None = None) -> T:
    """The dataclass `cls` of plain values, nested as it is.

    Raises:
        ValueError: a setting that is unknown, missing, of another type or out of range; it says file, line and key
    """
    try:
        return _section(cls, values, "")
    except SettingError as error:
        if source is None:
            raise
        raise source.error(error) from None


def check(config: Any) -> None:
    """Raise `SettingError` where a field of a dataclass holds what its type forbids: for ``__post_init__``."""
    for name, hint in _hints(type(config)).items():
        _value(hint, getattr(config, name), name)


def to_dict(config: Any) -> dict[str, Any]:
    """A dataclass as plain JSON-ready values."""
    return dataclasses.asdict(config)


def hint_of(cls: type, key: str) -> Any:
    """The type of a setting by its dotted name.

    Raises:
        SettingError: there is none of that name
    """
    hint: Any = cls
    for place, part in enumerate(parts := key.split(".")):
        hint = _plain(hint)
        if get_origin(hint) is dict:
            hint = get_args(hint)[1]
        elif dataclasses.is_dataclass(hint) and part in (hints := _hints(hint)):
            hint = hints[part]
        else:
            known = _hints(hint) if dataclasses.is_dataclass(hint) else {}
            raise SettingError(key, _unknown(part, known, ".".join(parts[:place])))
    return hint


def convert(hint: Any, value: Any, key: str) -> Any:
    """A plain value as what a type says, such as 1 as 1.0 for a float; a `SettingError` where it does not fit."""
    return _value(hint, value, key)


def _section(cls: Any, values: Any, path: str) -> Any:
    if not isinstance(values, Mapping):
        raise SettingError(path, f"got {_show(values)}, expected a section [{path}]")
    hints = _hints(cls)
    for name in values:
        if name not in hints:
            raise SettingError(_join(path, str(name)), _unknown(str(name), hints, path))
    for field in dataclasses.fields(cls):
        if field.name not in values and _is_required(field):
            raise SettingError(_join(path, field.name), f"missing, expected {_expected(hints[field.name])}")
    made = {name: _value(hints[name], value, _join(path, name)) for name, value in values.items()}
    try:
        return cls(**made)
    except SettingError as error:
        raise error.within(path) from None


def _value(hint: Any, value: Any, key: str) -> Any:
    fit = _FITS.get(get_origin(hint) or hint, _fit_plain)
    return fit(hint, value, key)


def _fit_annotated(hint: Any, value: Any, key: str) -> Any:
    inner, *ranges = get_args(hint)
    try:
        found = _value(inner, value, key)
    except SettingError:
        raise _misfit(hint, value, key) from None
    if any(isinstance(part, Range) and found not in part for part in ranges):
        raise _misfit(hint, value, key)
    return found


def _fit_optional(hint: Any, value: Any, key: str) -> Any:
    return None if value is None else _value(_plain(hint), value, key)


def _fit_choice(hint: Any, value: Any, key: str) -> Any:
    if not any(type(value) is type(choice) and value == choice for choice in get_args(hint)):
        raise _misfit(hint, value, key)
    return value


def _fit_tuple(hint: Any, value: Any, key: str) -> Any:
    inner = get_args(hint)
    if not isinstance(value, (list, tuple)) or (inner[-1] is not ... and len(value) != len(inner)):
        raise _misfit(hint, value, key)
    hints = [inner[0]] * len(value) if inner[-1] is ... else inner
    try:
        return tuple(_value(part, held, key) for part, held in zip(hints, value, strict=True))
    except SettingError:
        raise _misfit(hint, value, key) from None


def _fit_dict(hint: Any, value: Any, key: str) -> Any:
    if not isinstance(value, Mapping):
        raise _misfit(hint, value, key)
    return {name: _value(get_args(hint)[1], held, _join(key, str(name))) for name, held in value.items()}


def _fit_plain(hint: Any, value: Any, key: str) -> Any:
    if hint is Any:
        return value
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else _section(hint, value, key)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if hint is float and is_number:
        return float(value)
    if type(value) is not hint:
        raise _misfit(hint, value, key)
    return value


_FITS = {
    Annotated: _fit_annotated,
    Union: _fit_optional,
    types.UnionType: _fit_optional,
    Literal: _fit_choice,
    tuple: _fit_tuple,
    dict: _fit_dict,
}


def _read_hints(cls: Any) -> dict[str, Any]:
    """The types of the fields of a dataclass."""
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


_hints: Callable[[Any], dict[str, Any]] = cache(_read_hints)


def _plain(hint: Any) -> Any:
    """The type itself of one that may be None."""
    if get_origin(hint) in (Union, types.UnionType):
        return next(part for part in get_args(hint) if part is not type(None))
    return hint


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _misfit(hint: Any, value: Any, key: str) -> SettingError:
    return SettingError(key, f"got {_show(value)}, expected {_expected(hint)}")


def _show(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "a section" if isinstance(value, Mapping) else repr(list(value) if isinstance(value, tuple) else value)


_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text in quotes"}


def _expected(hint: Any) -> str:
    """What a type takes, in words."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _expected(inner[0]) + "".join(str(part) for part in inner[1:] if isinstance(part, Range))
    if origin in (Union, types.UnionType):
        return _expected(_plain(hint))
    if origin is Literal:
        return f"one of {', '.join(repr(choice) for choice in inner if choice != '')}"
    if origin is tuple:
        of = _expected(inner[0])
        return f"a list, each {of}" if inner[-1] is ... else f"a list of {len(inner)}, each {of}"
    if origin is dict or dataclasses.is_dataclass(hint):
        return "a section"
    return _WORDS.get(hint, "a value")


def _unknown(name: str, known: Iterable[str], section: str) -> str:
    near = difflib.get_close_matches(name, known, cutoff=0.6)
    place = f"[{section}] has" if section else "there is"
    instead = f"did you mean {' or '.join(map(repr, near))}?" if near else f"expected one of {sorted(known)}"
    return f"{place} no setting {name!r}; {instead}"


def _join(section: str, key: str) -> str:
    return f"{section}.{key}" if section and key else section or key
