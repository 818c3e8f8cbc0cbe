"""What the files and folders that a recipe names hold: a run may go on with data that only moved."""

from __future__ import annotations

import glob
import json
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from voicestyle.data.manifest import PATHS, Item, read_items
from voicestyle.files import sha256_of


def contents(recipe: Mapping[str, Any]) -> dict[str, str]:
    """A hash for each setting, as "section.key", that names a file, folder or pattern of files that are there."""
    return {name: found for name, value in _texts(recipe) if (found := content_of(value))}


def content_of(place: str) -> str:
    """The hash of what lies at a place, whatever its name; empty where nothing does.

    Of a manifest count its items and the sizes of their files; of a folder or pattern, names and sizes; of any other
    file, its bytes.
    """
    path = Path(place)
    if not place or "\0" in place:
        return ""
    if path.is_file():
        return _digest(_manifest(path) or sha256_of(path))
    if path.is_dir():
        files = (file for file in path.rglob("*") if file.is_file())
        return _digest(sorted((file.relative_to(path).as_posix(), file.stat().st_size) for file in files))
    found = sorted(glob.glob(place)) if glob.has_magic(place) else []
    return _digest([(Path(name).name, Path(name).stat().st_size) for name in found]) if found else ""


def _manifest(path: Path) -> list[Any]:
    """The items of a manifest, files by their sizes; empty for any other file."""
    try:
        items = read_items(path) if path.suffix.lower() in (".csv", ".parquet") else ()
    except (ValueError, ImportError):
        return []
    labels = [field.name for field in fields(Item) if field.name not in PATHS]
    return [
        [*(getattr(item, label) for label in labels), *(_size(getattr(item, name)) for name in PATHS)] for item in items
    ]


def _size(path: Path | None) -> int:
    return path.stat().st_size if path is not None and path.is_file() else -1


def _digest(values: Any) -> str:
    return sha256_of(json.dumps(values).encode())


def _texts(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """The settings of a recipe that are text."""
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from _texts(value, f"{prefix}{name}.")
        elif isinstance(value, str):
            yield f"{prefix}{name}", value
