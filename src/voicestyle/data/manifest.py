"""The manifest: one table that says who speaks in which clip and what they look like. Training reads nothing else."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from voicestyle.data.tables import read_table, write_table

SPLITS = ("train", "val", "test")
MAX_AGE = 130  # years

FileKind = Literal["voice", "face", "frontal"]  # of an item's files


@dataclass(frozen=True)
class Item:
    """One clip of a person: a voice, a face, or both. Labels are empty where they are not known."""

    key: str  # unique, names the item in errors and results
    split: str  # one of SPLITS
    identity: str  # whose clip; stands for a person
    video: str = ""  # which recording; empty: the key
    voice: Path | None = None  # audio file
    face: Path | None = None  # a frame of that clip, in the wild
    face_box: tuple[float, ...] = ()  # pixels: left, top, right, bottom of the face in that frame; () where not found
    frontal: Path | None = None  # a picture of the same person in the canonical frame
    gender: str = ""  # "f" or "m", by which same-gender trials are made
    nationality: str = ""
    age: float | None = None  # years

    @property
    def files(self) -> tuple[Path, ...]:
        """Voice, face and frontal, as far as there are any."""
        return tuple(path for path in (self.voice, self.face, self.frontal) if path is not None)

    def file(self, kind: FileKind) -> Path:
        """The file of a kind; a ValueError where the item has none."""
        path = {"voice": self.voice, "face": self.face, "frontal": self.frontal}[kind]
        if path is None:
            raise ValueError(f"item {self.key!r}: no {kind}, expected a file; leave it out, or add it to the manifest")
        return path


EDGES = ("left", "top", "right", "bottom")
PATHS: tuple[FileKind, ...] = ("voice", "face", "frontal")
COLUMNS = tuple(f.name for f in fields(Item))


@dataclass(frozen=True)
class Manifest:
    """Items in the order of the file. Checked when made: see `Manifest.check`."""

    items: tuple[Item, ...]
    name: str = "manifest"  # in errors: the file it came from

    def __post_init__(self) -> None:
        self.check()

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Item]:
        return iter(self.items)

    def split(self, name: str) -> Manifest:
        """The items of one split.

        Raises:
            ValueError: there are none
        """
        chosen = tuple(item for item in self.items if item.split == name)
        if not chosen:
            held = sorted({item.split for item in self.items})
            raise ValueError(f"{self.name}: no item of split {name!r}; it has {held}")
        return replace(self, items=chosen)

    def check(self) -> None:
        """Refuse what would spoil a result without a word.

        Raises:
            ValueError: no items, a repeated key, an unknown split, an item with neither voice nor face, or an identity
                in two splits (what is tested would have been trained on)
        """
        if not self.items:
            raise ValueError(f"{self.name}: no items")
        keys: set[str] = set()
        split_of: dict[str, str] = {}
        for item in self.items:
            where = f"{self.name}: item {item.key!r}"
            if not item.key or item.key in keys:
                raise ValueError(f"{where}: key empty or used twice; each item needs its own")
            if item.split not in SPLITS:
                raise ValueError(f"{where}: split {item.split!r}, expected one of {SPLITS}")
            if not item.identity:
                raise ValueError(f"{where}: no identity; give each person a name or a number")
            if item.voice is None and item.face is None and item.frontal is None:
                raise ValueError(f"{where}: neither voice nor face nor frontal, expected at least one")
            if split_of.setdefault(item.identity, item.split) != item.split:
                raise ValueError(
                    f"{where}: identity {item.identity!r} is in split {split_of[item.identity]!r} too; "
                    "an identity belongs to one split"
                )
            keys.add(item.key)

    def check_files(self) -> None:
        """Raise FileNotFoundError, with the first few names, where files are missing."""
        missing = [path for item in self.items for path in item.files if not path.is_file()]
        if missing:
            names = ", ".join(str(path) for path in missing[:3])
            raise FileNotFoundError(f"{self.name}: {len(missing)} of its files are missing, e.g. {names}")

    @classmethod
    def read(cls, path: str | Path) -> Manifest:
        """The manifest of a CSV or Parquet file with the columns of `Item`; paths are relative to the file's folder.

        Raises:
            FileNotFoundError: there is no such file
            ValueError: what `read_items` or `check` refuses
            ImportError: a Parquet file, and pyarrow is not installed
        """
        return cls(read_items(path), str(path))

    def write(self, path: str | Path) -> None:
        """Write the file that `read` reads, Parquet where its name ends so; paths become relative to its folder.

        In Parquet `age` is a number and `face_box` a list of four; all other columns are text, as in CSV.
        """
        path = Path(path)
        rows = ([_cell(getattr(item, column), path.parent) for column in COLUMNS] for item in self.items)
        write_table(path, COLUMNS, rows)


def read_items(path: str | Path) -> tuple[Item, ...]:
    """The items of a CSV or Parquet file one by one, without what a `Manifest` checks of them together.

    Raises:
        FileNotFoundError: there is no such file
        ValueError: unknown or missing columns, or a cell that cannot be understood
        ImportError: a Parquet file, and pyarrow is not installed
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such manifest")
    columns, rows = read_table(path)
    unknown, missing = set(columns) - set(COLUMNS), {"key", "split", "identity"} - set(columns)
    if unknown or missing:
        raise ValueError(
            f"{path}: unknown columns {sorted(unknown)}, missing columns {sorted(missing)}; known: {list(COLUMNS)}"
        )
    return tuple(item_from_cells(cells, path.parent, where) for where, cells in rows)


def item_from_cells(cells: Mapping[str, str], folder: Path, where: str) -> Item:
    """The item of a row of text; paths are relative to `folder`. Errors begin with `where`."""
    values: dict[str, Any] = dict(cells)
    for name in PATHS:
        values[name] = folder / cells[name] if cells.get(name) else None
    values["face_box"] = _box(cells.get("face_box", "").split(), where)
    values["age"] = _age(cells.get("age", ""), where)
    return Item(**values)


def _box(cells: list[str], where: str) -> tuple[float, ...]:
    """Four numbers, or none."""
    try:
        box = tuple(float(cell) for cell in cells)
    except ValueError:
        box = (math.nan,)
    if box and (len(box) != 4 or not all(map(math.isfinite, box))):
        raise ValueError(
            f"{where}: face_box {' '.join(cells)!r}, expected 'left top right bottom' in pixels, or nothing"
        )
    return box


def _age(cell: str, where: str) -> float | None:
    """A number of years, or None for nothing."""
    try:
        age = float(cell) if cell else None
    except ValueError:
        age = math.nan
    if age is not None and not 0 <= age <= MAX_AGE:
        raise ValueError(f"{where}: age {cell!r}, expected years from 0 to {MAX_AGE}, or nothing")
    return age


def _cell(value: Any, folder: Path) -> Any:
    """A field of an item as a table holds it."""
    return Path(os.path.relpath(value, folder)).as_posix() if isinstance(value, Path) else value


def import_pairs(folder: str | Path) -> Manifest:
    """The manifest of a folder with ``pairs.csv``, ``voice/KEY.ogg``, ``face/KEY.jpg`` and ``frontal/KEY.jpg``.

    Of ``pairs.csv`` these columns are used: key, identity, and face_left, face_top, face_right, face_bottom (pixels of
    the face, or nothing); and where there are such, split (else all are of ``train``), video, gender, nationality and
    frontal (True or False).
    """
    folder = Path(folder)
    table = folder / "pairs.csv"
    if not table.is_file():
        raise FileNotFoundError(f"{table}: no such file; expected a folder with pairs.csv, voice/, face/ and frontal/")
    columns, rows = read_table(table)
    needed = {"key", "identity", *(f"face_{e}" for e in EDGES)}
    if missing := sorted(needed - set(columns)):
        raise ValueError(f"{table}: missing columns {missing}; it has {columns}")
    items = [
        Item(
            row["key"],
            row.get("split", "train"),
            row["identity"],
            row.get("video", ""),
            voice=folder / "voice" / f"{row['key']}.ogg",
            face=folder / "face" / f"{row['key']}.jpg",
            face_box=_box(" ".join(row[f"face_{edge}"] for edge in EDGES).split(), where),
            frontal=folder / "frontal" / f"{row['key']}.jpg" if row.get("frontal") == "True" else None,
            gender=row.get("gender", ""),
            nationality=row.get("nationality", ""),
        )
        for where, row in rows
    ]
    return Manifest(tuple(items), str(table))
