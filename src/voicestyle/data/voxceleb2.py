"""The manifest of VoxCeleb2. docs/data.md shows how each of its files is laid out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import av

from voicestyle.data.folders import PICTURES, RECORDINGS, deal, files_in
from voicestyle.data.manifest import Item, Manifest
from voicestyle.data.voxceleb import Person, Refuse, meta_rows, read_splits, sets_of, whole_frame
from voicestyle.files import named
from voicestyle.image import save_png

META_COLUMNS = ("VoxCeleb2 ID", "VGGFace2 ID", "Gender", "Set")

_ID = re.compile(r"id\d{5}")


def import_voxceleb2(
    audio: Sequence[str | Path],
    meta: str | Path,
    faces: Sequence[str | Path] = (),
    splits: str | Path | None = None,
    *,
    num_clips: int | None = None,
    refuse: Refuse = lambda who, why: None,
) -> Manifest:
    """The manifest of VoxCeleb2: an item for each clip, sorted by (identity, video, clip).

    A clip has a picture of its own, or one of its video, or one of its person, dealt out evenly in the order of their
    names, and taken as it is. Without `faces` there are voices alone; with them, clips without a picture are left out.

    Args:
        audio: folders with ``id00012/VIDEO/00001.m4a``, or above them (``vox2`` with ``dev/aac`` and ``test/aac``)
        meta: ``vox2_meta.csv``
        faces: folders with ``id00012/VIDEO/00001.jpg`` or ``.../00001/*.jpg`` (see `write_frames`),
            ``id00012/VIDEO/*.jpg``, or ``n000012/*.jpg`` (VGGFace2)
        splits: as of `voxceleb.import_voxceleb1`; None: the column ``Set`` of `meta`, which has no ``val``
        num_clips: of each video, spread evenly; None: all of them
        refuse: called with a person, video or clip and the reason why it is left out

    Raises:
        FileNotFoundError: a file or folder that does not exist
        ValueError: a line that is not understood, or nothing found
    """
    people = read_meta(meta)
    split_of = read_splits(splits, people) if splits else sets_of(people, meta)
    roots = [root for folder in audio for root in _roots(Path(folder), "aac")]
    pictures = [root for folder in faces for root in _roots(Path(folder), "jpg")]
    _tell_strangers(roots, people, meta, refuse)
    items: list[Item] = []
    for person in sorted(people.values(), key=lambda person: person.voxceleb_id):
        videos = _videos(roots, person.voxceleb_id, RECORDINGS, refuse)
        if person.voxceleb_id not in split_of or not videos:
            refuse(person.identity, "no clips" if person.voxceleb_id in split_of else f"not in {splits}")
            continue
        items += _items(person, split_of[person.voxceleb_id], videos, pictures, num_clips, refuse)
    if not items:
        raise ValueError(
            f"{', '.join(map(str, (*audio, *faces)))}: no clip that can be used; expected id00012/VIDEO/00001.m4a"
        )
    return Manifest(tuple(items), "VoxCeleb2")


def write_frames(
    films: Sequence[str | Path],
    out: str | Path,
    refuse: Refuse = lambda what, why: None,
    start: Callable[[int], object] = lambda total: None,
    progress: Callable[[int], object] = lambda num: None,
) -> int:
    """Write the middle frame of each ``id00012/VIDEO/00001.mp4`` as ``out/id00012/VIDEO/00001.png``; how many.

    Frames that are there already are kept, so work that was stopped goes on. Films that cannot be read are told to
    `refuse`.

    Args:
        films: folders with the films, or above them (``vox2`` with ``dev/mp4`` and ``test/mp4``)
        start: called with the number of films
        progress: called with the number of films that are done since it was called last
    """
    found = {
        path.relative_to(root): path
        for folder in films
        for root in _roots(Path(folder), "mp4")
        for path in files_in(root, (".mp4",), recursive=True)
    }
    start(len(found))
    num_there = 0
    for name, path in found.items():
        target = Path(out) / name.with_suffix(".png")
        try:
            if not target.is_file():
                target.parent.mkdir(parents=True, exist_ok=True)
                _write_frame(path, target)
            num_there += 1
        except (ValueError, OSError) as error:
            refuse(str(name), str(error))
        progress(1)
    return num_there


def _write_frame(path: Path, target: Path) -> None:
    """Write the frame in the middle of a film."""
    with named(path), path.open("rb") as file, av.open(file, format="mp4") as film:
        if not film.streams.video:
            raise ValueError("no pictures in it, expected a film of a face")
        stream = film.streams.video[0]
        if stream.duration:  # to the nearest frame before the middle that stands by itself
            film.seek((stream.start_time or 0) + stream.duration // 2, stream=stream)
        frame = next(film.decode(stream), None)
        if frame is None:
            raise ValueError("no frame of it can be decoded; get the file again")
        save_png(frame.to_image(), target)


def read_meta(path: str | Path) -> dict[str, Person]:
    """The people of ``vox2_meta.csv`` by VoxCeleb2 ID: commas or tabs, blanks around cells, and more columns or not.

    Raises:
        FileNotFoundError: no such file
        ValueError: missing columns, or a line that is not understood
    """
    people: dict[str, Person] = {}
    for where, cells in meta_rows(Path(path), META_COLUMNS):
        id_, face_id, gender, set_ = (cells[name] for name in META_COLUMNS)
        if not _ID.fullmatch(id_) or gender not in ("f", "m") or not face_id:
            raise ValueError(f"{where}: {[*cells.values()]}, expected e.g. id00012, n000012, m, dev")
        if id_ in people:
            raise ValueError(f"{where}: {id_} for the second time")
        people[id_] = Person(id_, face_id, gender, cells.get("Nationality", ""), set_)
    return people


def _roots(folder: Path, kind: str) -> list[Path]:
    """The folders of people in a folder or, as the archives are laid out, in ``dev/aac`` and the like below it."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    places = [folder / name for name in (".", kind, "dev", "test", f"dev/{kind}", f"test/{kind}")]
    found = [place for place in places if place.is_dir() and any(_people_in(place))]
    if not found:
        raise ValueError(f"{folder}: no folders of people, such as id00012 (or n000012 of pictures)")
    return found


def _people_in(folder: Path) -> Iterator[str]:
    return (path.name for path in folder.iterdir() if re.fullmatch(r"id\d{5}|n\d{6}", path.name) and path.is_dir())


def _tell_strangers(roots: Sequence[Path], people: Mapping[str, Person], meta: str | Path, refuse: Refuse) -> None:
    for stranger in sorted({name for root in roots for name in _people_in(root)} - people.keys()):
        refuse(stranger, f"not in {meta}")


def _videos(roots: Sequence[Path], person: str, suffixes: tuple[str, ...], refuse: Refuse) -> dict[str, list[Path]]:
    """The clips of each video of a person, sorted, each once."""
    videos: dict[str, dict[str, Path]] = {}
    for folder in (root / person for root in roots if (root / person).is_dir()):
        for clip in files_in(folder, suffixes, recursive=True):
            if len(clip.relative_to(folder).parts) != 2:
                refuse(f"{person}/{clip.relative_to(folder)}", f"{clip}: expected {person}/VIDEO/{clip.name}")
            elif (first := videos.setdefault(clip.parent.name, {}).setdefault(clip.stem, clip)) != clip:
                refuse(f"{person}/{clip.parent.name}/{clip.stem}", f"{clip}: a clip of this name is taken: {first}")
    return {video: [clips[stem] for stem in sorted(clips)] for video, clips in sorted(videos.items())}


def _items(
    person: Person,
    split: str,
    videos: Mapping[str, Sequence[Path]],
    pictures: Sequence[Path],
    num_clips: int | None,
    refuse: Refuse,
) -> Iterator[Item]:
    """The items of a person's clips, those without a picture left out where there are pictures at all."""
    chosen = [clip for clips in videos.values() for clip in deal(clips, min(num_clips or len(clips), len(clips)))]
    of_person = [path for root in pictures for path in files_in(root / person.name, PICTURES)]
    dealt = dict(zip(chosen, deal(of_person, len(chosen)), strict=True)) if of_person else {}
    for clip in chosen:
        key = f"{person.voxceleb_id}/{clip.parent.name}/{clip.stem}"
        face = _own_picture(pictures, person.voxceleb_id, clip, videos[clip.parent.name]) or dealt.get(clip)
        if pictures and face is None:
            refuse(key, "no picture")
            continue
        yield Item(
            key,
            split,
            person.identity,
            clip.parent.name,
            voice=clip,
            face=face,
            face_box=whole_frame(face) if face else (),
            gender=person.gender,
            nationality=person.nationality,
        )


def _own_picture(roots: Sequence[Path], person: str, clip: Path, clips: Sequence[Path]) -> Path | None:
    """The picture of a clip, or its share of those of its video; None where there is neither."""
    stems = {other.stem for other in clips}
    for folder in (root / person / clip.parent.name for root in roots):
        held = files_in(folder, PICTURES)
        if of_clip := [path for path in held if path.stem == clip.stem] or files_in(folder / clip.stem, PICTURES):
            return of_clip[len(of_clip) // 2]
        if of_video := [path for path in held if path.stem not in stems]:
            return deal(of_video, len(clips))[clips.index(clip)]
    return None
