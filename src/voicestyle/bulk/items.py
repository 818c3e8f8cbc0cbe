"""What there is to do: recordings or pictures out of folders, lists, manifests, Parquet and tar shards, one by one."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from voicestyle.config import Side
from voicestyle.data.folders import PICTURES, RECORDINGS, files_in, files_told
from voicestyle.data.tables import read_table
from voicestyle.files import sha256_of

SUFFIXES: dict[Side, tuple[str, ...]] = {"voice": RECORDINGS, "face": PICTURES}
COLUMNS: dict[Side, tuple[str, ...]] = {"voice": ("voice", "path"), "face": ("frontal", "face", "path")}
TABLES = (".csv", ".parquet")


@dataclass(frozen=True)
class Input:
    """One input: its name, and where it lies or what it is."""

    name: str
    content: Path | bytes  # a file, or the bytes of a member of a tar

    def digest(self) -> str:
        """The sha256 (hex) of the content.

        Raises:
            OSError: the file is gone or cannot be read
        """
        return sha256_of(self.content)

    @property
    def suffix(self) -> str:
        """Of the name, lower case: the format of the content."""
        return Path(self.name).suffix.lower()


def items(sources: Iterable[str | Path], kind: Side) -> Iterator[Input]:
    """The inputs of all sources, lazily, in the order of their names within a folder.

    A source is a file; a folder (all files of the kind in it and below); a ``.csv`` or ``.parquet`` with a column
    ``voice`` or ``frontal`` or ``face`` (as manifests have), or ``path``, relative to it; or a ``.tar`` (WebDataset),
    whose members of the kind are taken.

    Raises:
        FileNotFoundError: no such source
        ValueError: a table without such a column, a damaged tar, a folder without anything
    """
    for source in map(Path, sources):
        if source.is_dir():
            yield from _folder(source, kind)
        elif not source.exists():
            raise FileNotFoundError(f"{source}: no such file or folder; check the path")
        elif source.suffix.lower() in TABLES:
            yield from _table(source, kind)
        elif source.suffix.lower() == ".tar":
            yield from _tar(source, kind)
        else:
            yield Input(str(source), source)


def count(sources: Iterable[str | Path], kind: Side) -> int:
    """How many inputs there are, for a bar: a look at names alone. What is wrong with a source, `items` says."""
    num = 0
    for source in map(Path, sources):
        if source.is_dir():
            num += len(files_in(source, SUFFIXES[kind], recursive=True))
        elif source.suffix.lower() == ".tar" and tarfile.is_tarfile(source):
            with tarfile.open(source) as tar:
                num += sum(Path(name).suffix.lower() in SUFFIXES[kind] for name in tar.getnames())
        elif source.suffix.lower() in TABLES and source.is_file():
            num += len(read_table(source)[1])
        else:
            num += 1
    return num


def is_many(sources: Sequence[str | Path]) -> bool:
    """Whether any source is itself a collection: a folder, a table, a tar."""
    return any(Path(s).is_dir() or Path(s).suffix.lower() in (*TABLES, ".tar") for s in sources)


def _folder(folder: Path, kind: Side) -> Iterator[Input]:
    found = files_told(folder, SUFFIXES[kind], kind)
    if not found:
        raise ValueError(f"{folder}: holds no {kind}s, expected files that end in {', '.join(SUFFIXES[kind])}")
    yield from (Input(str(path), path) for path in found)


def _table(path: Path, kind: Side) -> Iterator[Input]:
    columns, rows = read_table(path)
    column = next((name for name in COLUMNS[kind] if name in columns), None)
    if column is None:
        raise ValueError(f"{path}: columns {columns}, expected one of {COLUMNS[kind]}")
    for _, cells in rows:
        if cells[column]:
            yield Input(cells[column], path.parent / cells[column])


def _tar(path: Path, kind: Side) -> Iterator[Input]:
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                if member.isfile() and Path(member.name).suffix.lower() in SUFFIXES[kind]:
                    file = tar.extractfile(member) or io.BytesIO()
                    yield Input(f"{path}/{member.name}", file.read())
    except tarfile.TarError as error:
        raise ValueError(f"{path}: damaged or no tar file ({error}); get it again") from None
