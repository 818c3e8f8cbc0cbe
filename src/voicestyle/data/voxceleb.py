"""The manifest of VoxCeleb1. docs/data.md shows how each of its files is laid out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from voicestyle.data.folders import PICTURES, RECORDINGS, deal, files_in, named_folder
from voicestyle.data.manifest import Item, Manifest
from voicestyle.data.pictures import whole_frame_box
from voicestyle.data.tables import read_table
from voicestyle.image import picture_size

# Sets of Learnable PINs (Nagrani et al., ECCV 2018), whose numbers identity_splits.txt has, and of vox1_meta.csv
SETS = {"1": "train", "2": "val", "4": "test", "train": "train", "val": "val", "dev": "train", "test": "test"}
META_COLUMNS = ("VoxCeleb1 ID", "VGGFace1 ID", "Gender", "Nationality")
FACE_SCALE = "1.6"  # folder between a person and the videos: the boxes were enlarged by so much

Refuse = Callable[[str, str], object]


@dataclass(frozen=True)
class Person:
    """A row of vox1_meta.csv."""

    voxceleb_id: str  # id10001
    name: str  # of VGGFace1: A.J._Buckley
    gender: str  # f or m
    nationality: str
    set: str  # dev or test, of speaker verification

    @property
    def identity(self) -> str:
        """Both names, so that it can be told who is meant whichever of the two another list uses."""
        return f"{self.voxceleb_id}/{self.name}"


def import_voxceleb1(
    wav: Sequence[str | Path],
    faces: str | Path,
    meta: str | Path,
    splits: str | Path | None = None,
    frontal: str | Path | None = None,
    *,
    merge_val: bool = False,
    num_clips: int | None = None,
    refuse: Refuse = lambda who, why: None,
) -> Manifest:
    """The manifest of VoxCeleb1: an item for each clip with a frame of its video, sorted by (identity, video, clip).

    Frames and frontal pictures are dealt out evenly to the clips of their video and of their person, in the order of
    their names. Frames are taken as they are, as in the paper (`pictures.whole_frame_box`). What is incomplete is left
    out and told to `refuse`.

    Args:
        wav: folders with ``id10001/VIDEO/00001.wav``: there may be one for dev and one for test
        faces: folder with ``NAME/1.6/VIDEO/0000025.jpg``
        meta: ``vox1_meta.csv``
        splits: a list of the set of each person; None: the column ``Set`` of `meta`, which has no ``val``
        frontal: folder with ``NAME/*.jpg``, pictures in the canonical frame
        merge_val: train on ``val`` too, as the paper does
        num_clips: of each video, spread evenly; None: all of them
        refuse: called with a person or video and the reason why it is left out

    Raises:
        FileNotFoundError: a file or folder that does not exist
        ValueError: a line that is not understood, or nothing found
    """
    for path in (*wav, faces, *([frontal] if frontal else [])):
        if not Path(path).is_dir():
            raise FileNotFoundError(f"{path}: no such folder")
    people = read_meta(meta)
    split_of = read_splits(splits, people) if splits else sets_of(people, meta)
    items: list[Item] = []
    for person in sorted(people.values(), key=lambda person: person.voxceleb_id):
        if person.voxceleb_id not in split_of:
            refuse(person.identity, f"not in {splits}")
            continue
        split = split_of[person.voxceleb_id]
        clips = list(_clips(person, [Path(root) for root in wav], Path(faces), num_clips, refuse))
        pictures = files_in(_person_folder(Path(frontal), person), PICTURES) if frontal else []
        items += _items(person, "train" if merge_val and split == "val" else split, clips, pictures)
    if not items:
        raise ValueError(
            f"{', '.join(map(str, wav))}: no video with both voice and face; expected id10001/VIDEO/00001.wav there, "
            f"and NAME/{FACE_SCALE}/VIDEO/*.jpg in {faces}"
        )
    return Manifest(tuple(items), "VoxCeleb1")


def _items(
    person: Person, split: str, clips: Sequence[tuple[str, Path, Path]], frontal: Sequence[Path]
) -> Iterator[Item]:
    """The items of a person's clips: video, voice and frame of each."""
    dealt = deal(frontal or [None], len(clips))
    for (video, voice, face), picture in zip(clips, dealt, strict=True):
        yield Item(
            f"{person.voxceleb_id}/{video}/{voice.stem}",
            split,
            person.identity,
            video,
            voice,
            face,
            whole_frame(face),
            picture,
            gender=person.gender,
            nationality=person.nationality,
        )


def whole_frame(path: Path) -> tuple[float, ...]:
    """The box of a picture that is taken as it is; () for a file that is no picture."""
    try:
        return whole_frame_box(picture_size(path))
    except (OSError, ValueError):
        return ()


def sets_of(people: Mapping[str, Person], meta: str | Path) -> dict[str, str]:
    """The split of each person by the column ``Set`` of the metadata."""
    for person in people.values():
        if person.set not in ("dev", "test"):
            raise ValueError(f"{meta}: {person.voxceleb_id}: Set {person.set!r}, expected dev or test; or name a list")
    return {person.voxceleb_id: SETS[person.set] for person in people.values()}


def _clips(
    person: Person, wav: Sequence[Path], faces: Path, num_clips: int | None, refuse: Refuse
) -> Iterator[tuple[str, Path, Path]]:
    """Video, clip and frame for each clip of a person, sorted."""
    scale = _person_folder(faces, person) / FACE_SCALE
    videos: dict[str, list[Path]] = {}
    for folder in (folder for root in wav for folder in _folders(root / person.voxceleb_id)):
        videos.setdefault(folder.name, []).append(folder)
    if not videos or not scale.is_dir():
        refuse(person.identity, f"no folder {scale if videos else person.voxceleb_id} with videos")
        return
    for video in sorted(videos.keys() | {folder.name for folder in _folders(scale)}):
        voices = _once(videos.get(video, []), f"{person.identity}/{video}", refuse)
        frames = files_in(scale / video, PICTURES)
        if not voices or not frames:
            refuse(f"{person.identity}/{video}", "no frames" if voices else "no clips")
            continue
        chosen = deal(voices, min(num_clips or len(voices), len(voices)))
        yield from ((video, voice, face) for voice, face in zip(chosen, deal(frames, len(chosen)), strict=True))


def _once(folders: Sequence[Path], video: str, refuse: Refuse) -> list[Path]:
    """The clips of a video, whose folders may lie in several places, each once."""
    clips: dict[str, Path] = {}
    for clip in (clip for folder in folders for clip in files_in(folder, RECORDINGS)):
        if clips.setdefault(clip.stem, clip) != clip:
            refuse(f"{video}/{clip.stem}", f"{clip}: a clip of this name is taken already, {clips[clip.stem]}")
    return [clips[stem] for stem in sorted(clips)]


def _folders(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []


def _person_folder(root: Path, person: Person) -> Path:
    """The folder with a person's name."""
    return named_folder(root, person.name)


def meta_rows(path: Path, needed: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Where each row of a table of people stands, and its cells by column; tabs or commas between them.

    Blanks and quotes around names and cells are taken away.

    Raises:
        FileNotFoundError: no such file
        ValueError: missing columns
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; vox1_meta.csv and vox2_meta.csv are on the site of VoxCeleb")
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        delimiter = "\t" if "\t" in file.readline() else ","
    columns, rows = read_table(path, delimiter)
    if missing := sorted(set(needed) - {name.strip() for name in columns}):
        raise ValueError(f"{path}: missing columns {missing}; it has {columns}")
    return ((where, {name.strip(): cell.strip(' "') for name, cell in row.items()}) for where, row in rows)


def read_meta(path: str | Path) -> dict[str, Person]:
    """The people of ``vox1_meta.csv`` by VoxCeleb1 ID; tabs or commas between the cells.

    Raises:
        FileNotFoundError: no such file
        ValueError: missing columns, or a line that is not understood
    """
    people: dict[str, Person] = {}
    for where, cells in meta_rows(Path(path), META_COLUMNS):
        voxceleb_id, name, gender, nationality = (cells[column] for column in META_COLUMNS)
        person = Person(voxceleb_id, name, gender, nationality, cells.get("Set", ""))
        if not re.fullmatch(r"id\d{5}", person.voxceleb_id) or person.gender not in ("f", "m") or not person.name:
            raise ValueError(f"{where}: {[*cells.values()]}, expected e.g. id10001, A.J._Buckley, m, Ireland, dev")
        if person.voxceleb_id in people:
            raise ValueError(f"{where}: {person.voxceleb_id} for the second time")
        people[person.voxceleb_id] = person
    return people


def read_splits(path: str | Path, people: Mapping[str, Person]) -> dict[str, str]:
    """The split of each person in a list, by VoxCeleb1 ID.

    Lines of ``NAME SET`` (identity_splits.txt), where NAME is a VGGFace1 name or a VoxCeleb1 ID and SET one of 1, 2, 4,
    train, val, test, separated by spaces, tabs or a comma; or a CSV with the columns ``VGGFace1 ID`` and ``split``,
    such as the training.csv of cmpc2.

    Raises:
        FileNotFoundError: no such file
        ValueError: a line that is not understood, somebody whom `people` lacks, or in two splits
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such list of splits")
    id_of = {name: p.voxceleb_id for p in people.values() for name in (p.name, p.voxceleb_id, p.identity)}
    split_of: dict[str, str] = {}
    for where, name, number in _split_lines(path):
        if number not in SETS:
            hint = "; set 3 is of clips of people who are trained on" if number == "3" else ""
            raise ValueError(f"{where}: set {number!r}, expected 1 or train, 2 or val, 4 or test{hint}")
        if name not in id_of:
            raise ValueError(f"{where}: nobody of the name {name!r} in the metadata")
        if split_of.setdefault(id_of[name], SETS[number]) != SETS[number]:
            raise ValueError(f"{where}: {name} is in split {split_of[id_of[name]]} already; a person belongs to one")
    if not split_of:
        raise ValueError(f"{path}: empty; expected lines of NAME SET")
    return split_of


def _split_lines(path: Path) -> Iterator[tuple[str, str, str]]:
    """Where a line stands, the name and the set in it."""
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    if lines and "split" in lines[0].split(","):
        columns, rows = read_table(path)
        if "VGGFace1 ID" not in columns:
            raise ValueError(f"{path}: no column 'VGGFace1 ID'; it has {columns}")
        yield from ((where, row["VGGFace1 ID"], row["split"]) for where, row in rows)
        return
    for number, line in enumerate(lines, start=1):
        cells = line.replace(",", " ").split()
        if len(cells) == 2 and cells[0] in ("1", "2", "3") and "/" in cells[1]:
            raise ValueError(
                f"{path}: line {number}: {line.strip()!r} is of iden_split.txt, which has everybody in each of "
                "its sets; expected a list of people, e.g. identity_splits.txt of Learnable PINs"
            )
        if len(cells) != 2 and cells:
            raise ValueError(f"{path}: line {number}: {line.strip()!r}, expected NAME SET, e.g. 'A.J._Buckley 1'")
        if cells:
            yield f"{path}: line {number}", cells[0], cells[1]


def read_training_list(path: str | Path) -> Manifest:
    """Whom the official weights of cmpc2 were trained on: the manifest of its ``training.csv``, for leak checks.

    An item a video. Its files are named as VoxCeleb1 has them, but none is looked for.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such list")
    columns, rows = read_table(path)
    if missing := sorted({*META_COLUMNS, "video_id"} - set(columns)):
        raise ValueError(f"{path}: missing columns {missing}, expected those of the training.csv of cmpc2")
    items = []
    for _, row in rows:
        voxceleb_id, name, gender, nationality = (row[column] for column in META_COLUMNS)
        video = row["video_id"]
        face = Path(path.parent, "unzippedFaces", name, FACE_SCALE, video)
        items.append(
            Item(
                f"{voxceleb_id}/{video}",
                "train",
                f"{voxceleb_id}/{name}",
                video,
                face=face,
                gender=gender,
                nationality=nationality,
            )
        )
    return Manifest(tuple(items), str(path))
