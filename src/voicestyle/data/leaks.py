"""What a training and a test manifest share: people, recordings, files. A score is worth nothing without this check."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from voicestyle.data.manifest import Item, Manifest
from voicestyle.files import sha256_of

_VOXCELEB1 = re.compile(r"(id1[01]\d{3})(?:/(.+))?", re.IGNORECASE)  # VoxCeleb1 counts from id10001 to id11251


@dataclass(frozen=True)
class Leaks:
    """What the test manifest shares with the training manifest, in its own words, sorted; all empty: clean."""

    identities: tuple[str, ...] = ()
    videos: tuple[str, ...] = ()  # one video may show several people, so this can happen without a shared identity
    files: tuple[Path, ...] = ()  # of the test manifest, with the very bytes of a training file

    def __bool__(self) -> bool:
        return bool(self.identities or self.videos or self.files)

    def __str__(self) -> str:
        counts = [(len(self.identities), "identities"), (len(self.videos), "videos"), (len(self.files), "files")]
        return ", ".join(f"{number} {name}" for number, name in counts) + " of the test were trained on"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready values."""
        files = [str(path) for path in self.files]
        return {"identities": list(self.identities), "videos": list(self.videos), "files": files}


def find_leaks(
    train: Manifest | Iterable[Item],
    test: Manifest | Iterable[Item],
    *,
    names: Mapping[str, str] | None = None,
    files: bool = True,
) -> Leaks:
    """What of `test` is in `train`; the caller picks the splits, for all items of both are compared.

    Identities are compared without regard to case. A person of VoxCeleb1 is the same by VoxCeleb1 ID (``id10001``), by
    VGGFace1 name (``A.J._Buckley``) and by both (``id10001/A.J._Buckley``), as far as `names` or an item of either
    manifest tells which belong together.

    Args:
        names: VoxCeleb1 ID -> VGGFace1 name, for manifests of which one has IDs alone and the other names alone
        files: also compare the bytes of files; those that are missing count as different
    """
    train, test = list(train), list(test)
    people = People([*train, *test], names)
    trained = {people.person(item.identity) for item in train}
    identities = {item.identity for item in test if people.person(item.identity) in trained}
    videos = {item.video for item in train if item.video} & {item.video for item in test}
    return Leaks(tuple(sorted(identities)), tuple(sorted(videos)), _same_files(train, test) if files else ())


class People:
    """Who is who among the identities of items: VoxCeleb1 IDs and VGGFace1 names of one person become one."""

    def __init__(self, items: Iterable[Item], names: Mapping[str, str] | None = None) -> None:
        self._id_of = {_folded(name): _folded(voxceleb_id) for voxceleb_id, name in (names or {}).items()}
        for item in items:
            if match := _VOXCELEB1.fullmatch(item.identity):
                self._learn(match[1], match[2])
            if item.voice and item.face and len(item.voice.parts) > 2 and len(item.face.parts) > 3:
                # wav/id10001/VIDEO/00001.wav and unzippedFaces/NAME/1.6/VIDEO/0000025.jpg
                match = _VOXCELEB1.fullmatch(item.voice.parts[-3])
                if match and item.face.parts[-3] == "1.6":
                    self._learn(match[1], item.face.parts[-4])

    def _learn(self, voxceleb_id: str, name: str | None) -> None:
        if name:
            self._id_of[_folded(name)] = _folded(voxceleb_id)

    def person(self, identity: str) -> str:
        """The same text for all identities of one person."""
        if match := _VOXCELEB1.fullmatch(identity):
            return _folded(match[1])
        name = _folded(identity)
        return self._id_of.get(name, name)


def _folded(name: str) -> str:
    """A name without case, and without what file systems and lists make of it: spaces, a dot at the end."""
    return name.strip().replace(" ", "_").rstrip(".").casefold()


def _same_files(train: Iterable[Item], test: Iterable[Item]) -> tuple[Path, ...]:
    """Files of `test` with the bytes of one of `train`; only files of the same length are read."""
    trained, tested = _by_size(train), _by_size(test)
    found: set[Path] = set()
    for size in trained.keys() & tested.keys():
        hashes = {sha256_of(path) for path in trained[size]}
        found |= {path for path in tested[size] if path in trained[size] or sha256_of(path) in hashes}
    return tuple(sorted(found))


def _by_size(items: Iterable[Item]) -> dict[int, set[Path]]:
    """The files of items that exist, by their length in bytes."""
    found: dict[int, set[Path]] = defaultdict(set)
    for path in {path for item in items for path in item.files}:
        if path.is_file():
            found[os.path.getsize(path)].add(path)
    return found
