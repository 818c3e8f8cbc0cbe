"""Manifests of data that lies in folders, one a person, or that a table of another form describes."""

from __future__ import annotations

import os
import random
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from voicestyle.data.manifest import COLUMNS, PATHS, SPLITS, Item, Manifest, item_from_cells
from voicestyle.data.tables import is_parquet, read_table

T = TypeVar("T")

RECORDINGS = (  # what `decoding.load_audio` reads
    ".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".spx", ".mp3", ".mp2", ".mpga", ".m4a", ".m4b", ".aac",
    ".webm", ".mp4", ".m4v", ".aif", ".aiff", ".aifc", ".caf", ".amr", ".mka", ".mkv", ".3gp", ".3g2", ".mov", ".avi",
    ".au", ".snd", ".w64", ".rf64", ".wma", ".wmv", ".asf", ".wv", ".ape", ".tta", ".ac3", ".eac3", ".dts", ".flv",
    ".mpg", ".mpeg", ".ts", ".voc",
)  # fmt: skip
PICTURES = (  # `image.FORMATS`
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm",
)  # fmt: skip
GENDERS = {"f": "f", "female": "f", "m": "m", "male": "m", "": ""}


def import_folders(
    voices: str | Path | None,
    faces: str | Path | None,
    frontal: str | Path | None = None,
    *,
    shares: tuple[float, float] = (0.1, 0.1),
    seed: int = 0,
    refuse: Callable[[str, str], object] = lambda what, why: None,
) -> Manifest:
    """The manifest of folders that have a folder for each person: ``voices/PERSON/**``, ``faces/PERSON/**``.

    Each recording is an item, and a person's pictures are dealt out evenly to the recordings, both in the order of
    their names; a person without recordings has an item for each picture. A folder within a person's folder counts as
    one video.

    Args:
        frontal: pictures in the canonical frame, laid out in the same way
        shares: of the people who go to ``val`` and to ``test``
        seed: of the draw; who is drawn depends on the names of all people
        refuse: called with each folder that has other files in it, and how many of what kind

    Raises:
        FileNotFoundError: a folder that does not exist
        ValueError: nothing in them, or shares that leave nobody to train on
    """
    roots = {"voice": voices, "face": faces, "frontal": frontal}
    held = {kind: _people(Path(root), kind, refuse) for kind, root in roots.items() if root is not None}
    people = sorted({person for of_kind in held.values() for person in of_kind})
    split_of = draw_splits(people, shares, seed)
    items = []
    for person in people:
        files = {kind: of_kind.get(person, []) for kind, of_kind in held.items()}
        main = next(kind for kind in roots if files.get(kind))
        num = len(files[main])
        dealt = {kind: deal(paths, num) for kind, paths in files.items() if paths}
        for row, path in enumerate(files[main]):
            key = composed(path.relative_to(roots[main] or "").as_posix())
            video = key.rpartition("/")[0] if key.count("/") > 1 else ""
            voice, face, front = (dealt[kind][row] if kind in dealt else None for kind in roots)
            items.append(Item(key, split_of[person], person, video, voice=voice, face=face, frontal=front))
    return Manifest(tuple(items), " and ".join(str(root) for root in roots.values() if root is not None))


def import_table(path: str | Path, columns: Mapping[str, str], split: str = "train") -> Manifest:
    """The manifest of a CSV (or Parquet) with other columns; paths in it are relative to its folder.

    A column that has the name of one of ours is taken as it is. The key of a row without one is its first path; a row
    without an identity is a person of its own. Genders may be spelt out.

    Args:
        columns: our name of a column -> its name in the file, e.g. {"voice": "file", "identity": "speaker"}
        split: of all rows, where the file has none

    Raises:
        FileNotFoundError: no such file
        ValueError: a name of ours that does not exist, a column that the file lacks, or a cell not understood
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such table")
    if unknown := sorted(set(columns) - set(COLUMNS)):
        raise ValueError(f"{path}: unknown columns {unknown} of a manifest; known: {list(COLUMNS)}")
    delimiter = "\t" if path.suffix.lower() == ".tsv" and not is_parquet(path) else ","
    held, rows = read_table(path, delimiter)
    source = {name: columns.get(name, name) for name in COLUMNS if name in columns or name in held}
    if missing := sorted(set(source.values()) - set(held)):
        raise ValueError(f"{path}: no columns {missing}; it has {held}")
    if not set(source) & set(PATHS):
        raise ValueError(f"{path}: say which of its columns {held} is the voice, face or frontal")
    items = []
    for where, row in rows:
        cells = {name: row[column] for name, column in source.items()}
        cells["key"] = cells.get("key") or next((cells[name] for name in PATHS if cells.get(name)), "")
        cells["identity"] = cells.get("identity") or cells["key"]
        cells["split"] = cells.get("split") or split
        if (gender := cells.get("gender", "").lower()) not in GENDERS:
            raise ValueError(f"{where}: gender {gender!r}, expected one of {sorted(GENDERS)}")
        cells["gender"] = GENDERS[gender]
        items.append(item_from_cells(cells, path.parent, where))
    return Manifest(tuple(items), str(path))


def draw_splits(people: Sequence[str], shares: tuple[float, float], seed: int) -> dict[str, str]:
    """The split of each person: shares of all, rounded, go to ``val`` and ``test``, the others to ``train``."""
    num_val, num_test = (round(share * len(people)) for share in shares)
    if min(shares) < 0 or num_val + num_test >= len(people):
        raise ValueError(f"shares {shares} for val and test of {len(people)} people: nobody would be left to train on")
    drawn = random.Random(seed).sample(sorted(people), num_val + num_test)
    train, val, test = SPLITS
    return dict.fromkeys(people, train) | dict.fromkeys(drawn[:num_val], val) | dict.fromkeys(drawn[num_val:], test)


def files_in(folder: Path, suffixes: tuple[str, ...], recursive: bool = False) -> list[Path]:
    """The files of a folder with these suffixes in any case, sorted by path; what is hidden is left out.

    Links are followed, and a folder that several lead to is taken once.
    """
    found, seen = [], set()
    for root, folders, names in os.walk(folder, followlinks=True):  # a Path would ask the file system about each file
        if (real := os.path.realpath(root)) in seen:
            folders.clear()
            continue
        seen.add(real)
        found += [os.path.join(root, name) for name in names if name.lower().endswith(suffixes) and name[0] != "."]
        folders[:] = sorted(name for name in folders if recursive and name[0] != ".")
    return [Path(path) for path in sorted(found)]


def files_told(folder: Path, suffixes: tuple[str, ...], what: str) -> list[Path]:
    """`files_in` a folder and all below it; a warning says how many others there are, and of which suffixes."""
    held = files_in(folder, ("",), recursive=True)
    found = [path for path in held if path.name.lower().endswith(suffixes)]
    if found and (others := told_by_suffix(set(held) - set(found))):
        warnings.warn(f"{folder}: left out, no {what}s by their names: {others}", stacklevel=3)
    return found


def told_by_suffix(paths: Iterable[Path]) -> str:
    """How many files there are of each suffix, in words; empty for none."""
    counts = Counter(path.suffix.lower() or "no suffix" for path in paths)
    return ", ".join(f"{number} of {suffix}" for suffix, number in sorted(counts.items()))


def composed(name: str) -> str:
    """A name with each letter and its accent as one sign; macOS keeps them apart in the names of files."""
    return unicodedata.normalize("NFC", name)


def named_folder(root: Path, name: str) -> Path:
    """The folder of a name, however its accents are written; Windows drops a dot at the end of a name."""
    forms = (form for n in (name, name.rstrip(".")) for form in (n, composed(n), unicodedata.normalize("NFD", n)))
    folders = [root / form for form in forms]
    return next((folder for folder in folders if folder.is_dir()), folders[0])


def deal(things: Sequence[T], num: int) -> list[T]:
    """`num` of the things, spread evenly over all of them; things are used again where there are fewer."""
    return [things[(2 * i + 1) * len(things) // (2 * num)] for i in range(num)]


def _people(root: Path, kind: str, refuse: Callable[[str, str], object]) -> dict[str, list[Path]]:
    """The files of each person's folder; of others in it, `refuse` is told how many there are."""
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder; expected one folder a person in it")
    suffixes = RECORDINGS if kind == "voice" else PICTURES
    folders = sorted(folder for folder in root.iterdir() if folder.is_dir() and not folder.name.startswith("."))
    people: dict[str, list[Path]] = {}
    for folder in folders:
        held = files_in(folder, ("",), recursive=True)
        files = [path for path in held if path.name.lower().endswith(suffixes)]
        if files:
            people.setdefault(composed(folder.name), []).extend(files)
        if others := told_by_suffix(set(held) - set(files)):
            refuse(str(folder), f"no {kind} by their names: {others}")
    if not people:
        raise ValueError(f"{root}: expected a folder for each person with files {', '.join(suffixes)}")
    return people
