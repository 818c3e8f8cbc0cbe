"""What is tested: lists of trials, the recordings and pictures that they name, and whether any were trained on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from voicestyle.config import SIDES, Side
from voicestyle.data.leaks import People, find_leaks
from voicestyle.data.manifest import Item, Manifest
from voicestyle.evaluate.embeddings import Source
from voicestyle.evaluate.lists import Task, TrialList, read_lists, with_people
from voicestyle.evaluate.trials import make_lists

Faces = Literal["frontal", "wild"]
# NAME/VIDEO_0000001.wav of the verification lists: videos have names of 11 characters, clips of VoxCeleb1 five digits
_VOICE = re.compile(r"[^/]+/(?P<video>.{11})_\d\d(?P<clip>\d{5})\.wav")
NOT_MADE = "leak check: not made (no training manifest given)"


@dataclass(frozen=True, eq=False)
class Protocol:
    """Trials and what they are made of."""

    name: str  # for people
    lists: tuple[TrialList, ...]
    voices: tuple[Source, ...]
    faces: tuple[Source, ...]
    pictures: str  # what kind, in words
    items: tuple[Item, ...]  # the same for the leak check: who and what is tested
    check_files: bool = True  # the leak check compares the bytes of files as well

    def __post_init__(self) -> None:
        files = [found.file for found in self.lists]
        twice = sorted({file for file in files if files.count(file) > 1})
        if twice:
            raise ValueError(f"{self.name}: two lists have the name {twice[0]}; read them one after the other")

    def __len__(self) -> int:
        """Recordings and pictures to be embedded."""
        return len(self.voices) + len(self.faces)


def manifest_protocol(
    manifest: Manifest,
    task: Task,
    split: str = "val",
    seed: int = 0,
    *,
    faces: Faces = "frontal",
    strata: Sequence[str] | None = None,
    candidates: Sequence[int] = (2,),
    lists: Iterable[str | Path] = (),
) -> Protocol:
    """Trials over the items of a split that have a voice and a picture.

    Args:
        manifest: read
        task: which trials
        split: of the manifest
        seed: of the trials
        faces: which pictures are compared, frontal renderings, or frames in the wild, aligned; the other kind stands in
            where an item lacks the one asked for
        strata: see `make_lists`
        candidates: N of each 1:N matching
        lists: folders or files of lists that name the items by their keys; default: lists are made with the seed

    Raises:
        ValueError: fewer than two such items, a stratum without trials, or a list that names other items
    """
    items = tuple(item for item in manifest.split(split) if item.voice and (item.frontal or item.face))
    if len(items) < 2:
        raise ValueError(f"{manifest.name}: {len(items)} usable pairs in split {split!r}, at least 2 needed")
    people = {item.key: item.identity for item in items}
    read = [with_people(found, people) for path in lists for found in read_lists(path, task)]
    sources = [_sources(item, faces) for item in items]
    made = "lists read" if read else f"trials made with seed {seed}"
    num_wild = sum(face.align for _, face in sources)
    named = {0: "frontal renderings", len(items): "frames in the wild, aligned"}.get(
        num_wild, f"frontal renderings, and frames in the wild, aligned, for {num_wild} of {len(items)} items"
    )
    return Protocol(
        f"{manifest.name}, split {split}, {made}",
        tuple(read or make_lists(items, task, split, seed, strata, candidates)),
        tuple(voice for voice, _ in sources),
        tuple(face for _, face in sources),
        named,
        items,
    )


def _sources(item: Item, faces: Faces) -> tuple[Source, Source]:
    wild = item.face is not None and (faces == "wild" or item.frontal is None)
    picture = item.face if wild else item.frontal
    assert item.voice is not None and picture is not None
    return (
        Source(item.key, "voice", item.voice, item.identity),
        Source(item.key, "face", picture, item.identity, wild, item.face_box if wild else ()),
    )


def published_protocol(
    lists: Iterable[str | Path], task: Task, wav: str | Path, faces: str | Path, align: bool = False
) -> Protocol:
    """The trials of published lists over the files of VoxCeleb1.

    Args:
        lists: folders or files of lists
        task: which of them
        wav: folder of ``id10001/VIDEO/00001.wav``
        faces: folder of ``NAME/1.6/VIDEO/0000025.jpg``
        align: bring pictures into the canonical frame first; else they are taken as they are, as CMPC does
    """
    paths = list(lists)
    read = [found for path in paths for found in read_lists(path, task)]
    roots = {"voice": Path(wav), "face": Path(faces)}
    for root in roots.values():
        if not root.is_dir():
            raise FileNotFoundError(f"{root}: no such folder")
    sources: dict[Side, dict[str, Source]] = {"voice": {}, "face": {}}
    for found in read:
        for side in SIDES:
            for name in found.names(side):
                person = found.owner(name, side)
                path = (_voice_path if side == "voice" else _face_path)(roots[side], name, person)
                sources[side].setdefault(name, Source(name, side, path, person, align and side == "face"))
    items = tuple(_item(source) for side in SIDES for source in sources[side].values())
    return Protocol(
        f"lists {', '.join(str(path) for path in paths)}",
        tuple(read),
        tuple(sources["voice"].values()),
        tuple(sources["face"].values()),
        "frames in the wild, aligned" if align else "frames in the wild, as they are",
        items,
        check_files=False,
    )


def _voice_path(root: Path, name: str, person: str) -> Path:
    """The recording of a list; verification lists name it by person, and VoxCeleb1 keeps it by ID."""
    match = _VOICE.fullmatch(name)
    path = root / name
    return root / person / match["video"] / f"{match['clip']}.wav" if match and not path.is_file() else path


def _face_path(root: Path, name: str, person: str) -> Path:
    """The picture of a list; verification lists leave out the folder of the scale."""
    parts = name.split("/")
    path = root / name
    return root / parts[0] / "1.6" / "/".join(parts[1:]) if len(parts) == 3 and not path.is_file() else path


def _item(source: Source) -> Item:
    """A source as the leak check knows it: a person by ID and, where the path says it, by name."""
    parts = source.name.split("/")
    match = _VOICE.fullmatch(source.name)
    named = parts[0] != source.identity and len(parts) > 1
    identity = f"{source.identity}/{parts[0]}" if named else source.identity
    video = match["video"] if match else parts[-2] if len(parts) > 2 else ""
    item = Item(f"{source.side} {source.name}", "test", identity, video)
    return replace(item, voice=source.path) if source.side == "voice" else replace(item, face=source.path)


def leak_check(protocol: Protocol, trained_on: Iterable[str | Path], allow: bool = False) -> str:
    """What is to be said of the training data: whether people or files that are tested were trained on.

    Args:
        protocol: what is tested
        trained_on: training manifests; their split "train" was trained on
        allow: mark a leak instead of refusing

    Raises:
        ValueError: a leak, and `allow` is false
    """
    return check_leaks(protocol.items, trained_on, allow, files=protocol.check_files)


def check_leaks(
    tested: Sequence[Item], trained_on: Iterable[str | Path], allow: bool = False, *, files: bool = True
) -> str:
    """What `leak_check` says of the items that are tested; `files`: their bytes are compared too.

    Raises:
        ValueError: a leak, and `allow` is false
    """
    paths = list(trained_on)
    if not paths:
        return NOT_MADE
    trained = [item for path in paths for item in Manifest.read(path).split("train")]
    leaks = find_leaks(trained, tested, files=files)
    people = People([*trained, *tested])  # a person of the lists is one item by ID and others by ID and name
    num_people = len({people.person(item.identity) for item in tested})
    shared = {people.person(identity): identity for identity in leaks.identities}
    where = ", ".join(str(path) for path in paths)
    videos = (
        f"; {len(leaks.videos)} videos of other people are in both" if leaks.videos and not leaks.identities else ""
    )
    if not leaks.identities and not leaks.files:
        return f"leak check: none of {num_people} identities were trained on ({where}){videos}"
    text = f"LEAK: {len(shared)} of {num_people} identities were trained on ({where})"
    text += f"; {len(leaks.files)} files are the same" if leaks.files else ""
    if not allow:
        raise ValueError(
            f"{text}, e.g. {[*shared.values(), *map(str, leaks.files)][0]}; test on people that the model has never "
            "seen, or mark the report with --allow-leaks"
        )
    return text
