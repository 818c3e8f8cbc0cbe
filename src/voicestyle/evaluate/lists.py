"""Lists of trials, read and written in the layouts that were published with CMPC and PINs.

- matching: ``matching_{v2f,f2v}_{U,G,N,GN}.csv``, 1:N as ``..._N.csv``; probe, positive, negatives, spaces between
- verification: ``veriflist_test_{random,G,N,A,GN,GNA}_*.txt``; id, two speaker ids, label, voice, face, commas between
- retrieval: ``wav_*.csv`` and ``jpg_*.csv``; VoxCeleb1 ID and file, tabs between
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from voicestyle.config import SIDES, Side
from voicestyle.files import written_whole

Task = Literal["matching", "verification", "retrieval"]
Direction = Literal["v2f", "f2v"]
STRATA = {  # what impostors share with the probe
    "U": "any",
    "G": "same gender",
    "N": "same nationality",
    "A": "same age",
    "GN": "same gender and nationality",
    "GNA": "same gender, nationality and age",
}

_NAMES = {
    "matching": re.compile(r"matching_(v2f|f2v)_(U|G|N|GN)(?:_\d+)?\.csv"),
    "verification": re.compile(r"veriflist_test_(random|G|N|A|GN|GNA)(?:_\w+)?\.txt"),
    "retrieval": re.compile(r"wav_(\w+)\.csv"),
}
_PATTERNS = {"matching": "matching_*.csv", "verification": "veriflist_*.txt", "retrieval": "wav_*.csv"}
_VERIFICATION_COLUMNS = ("id", "voice-speaker-id", "face-speaker-id", "label", "voice-path", "face-path")
_ID_COLUMN = "VoxCeleb1 ID"


@dataclass(frozen=True)
class MatchingList:
    """Which of N candidates belongs to the probe?"""

    file: str
    direction: Direction
    stratum: str  # a key of STRATA
    trials: tuple[tuple[str, ...], ...]  # names of the probe, the positive and the negatives
    people: Mapping[str, str]  # whom a name belongs to
    read: bool = False  # from a file; else made with a seed
    num_unlabeled: int = 0  # items of the manifest that could not be in the stratum

    def names(self, side: Side) -> list[str]:
        """The voices or faces of the trials, each once."""
        if (side == "voice") == (self.direction == "v2f"):
            return _once(trial[0] for trial in self.trials)
        return _once(name for trial in self.trials for name in trial[1:])

    def owner(self, name: str, side: Side) -> str:
        """Whom a voice or a face belongs to."""
        return self.people[name]

    def write(self, folder: Path) -> None:
        """Write the file into a folder."""
        _write(folder / self.file, self.trials, " ")


@dataclass(frozen=True)
class VerificationList:
    """Do this voice and this face belong to one person?"""

    file: str
    stratum: str
    trials: tuple[tuple[str, str, bool], ...]  # names of voice and face, and whether they are of one person
    people: Mapping[str, str]
    read: bool = False
    num_unlabeled: int = 0

    def names(self, side: Side) -> list[str]:
        """The voices or faces of the trials, each once."""
        return _once(face if side == "face" else voice for voice, face, _ in self.trials)

    def owner(self, name: str, side: Side) -> str:
        """Whom a voice or a face belongs to."""
        return self.people[name]

    def write(self, folder: Path) -> None:
        """Write the file into a folder."""
        rows = (
            (number, self.people[voice], self.people[face], int(same), voice, face)
            for number, (voice, face, same) in enumerate(self.trials, start=1)
        )
        _write(folder / self.file, [_VERIFICATION_COLUMNS, *rows], ",")


@dataclass(frozen=True)
class RetrievalList:
    """All faces are ranked for each voice, and all voices for each face."""

    file: str  # of the voices; that of the faces has jpg for wav
    voices: Mapping[str, str]  # name -> whom it belongs to
    faces: Mapping[str, str]
    read: bool = False
    stratum: str = "U"

    def names(self, side: Side) -> list[str]:
        """The voices or faces to rank."""
        return list(self.voices if side == "voice" else self.faces)

    def owner(self, name: str, side: Side) -> str:
        """Whom a voice or a face belongs to."""
        return (self.voices if side == "voice" else self.faces)[name]

    def write(self, folder: Path) -> None:
        """Write both files into a folder."""
        for kind, people in (("wav", self.voices), ("jpg", self.faces)):
            rows = [(_ID_COLUMN, kind), *((person, name) for name, person in people.items())]
            _write(folder / self.file.replace("wav_", f"{kind}_", 1), rows, "\t")


TrialList = MatchingList | VerificationList | RetrievalList


def num_repeated(trial_list: TrialList) -> int:
    """How many trials of a list that was read stand there for the second time or more; each of them counts."""
    trials = () if isinstance(trial_list, RetrievalList) or not trial_list.read else trial_list.trials
    return len(trials) - len(set(trials))


def source(trial_list: TrialList) -> str:
    """The file that a list was read from; empty for one that was made with a seed."""
    return trial_list.file if trial_list.read else ""


# ------------------------------------------------------------------------------------------------------------ reading


def read_lists(path: str | Path, task: Task) -> list[TrialList]:
    """The lists of a task in a folder and the folders within, or the one of a file, in the order of their names.

    Raises:
        FileNotFoundError: no such file or folder, or no list of the task in it
        ValueError: a list of another layout, or one that contradicts itself
    """
    path = Path(path)
    files = [path] if path.is_file() else sorted(path.rglob(_PATTERNS[task]))
    if not files:
        what = f"no list of {task} in it, expected {_PATTERNS[task]}" if path.is_dir() else "no such folder or file"
        raise FileNotFoundError(f"{path}: {what}")
    readers: dict[Task, Callable[[Path, re.Match[str]], TrialList]] = {
        "matching": _read_matching,
        "verification": _read_verification,
        "retrieval": _read_retrieval,
    }
    return [readers[task](file, _match(file, task)) for file in files]


def with_people(trial_list: TrialList, people: Mapping[str, str]) -> TrialList:
    """The list with identities from elsewhere, for names that say nothing of them, such as the keys of a manifest.

    Raises:
        ValueError: names that are not there
    """
    missing = [name for side in SIDES for name in trial_list.names(side) if name not in people]
    if missing:
        raise ValueError(
            f"{trial_list.file}: {len(missing)} of its names are no items of the manifest with a voice and a picture, "
            f"e.g. {missing[0]}; name the manifest that it was made from, or --wav and --faces for a published list"
        )
    if isinstance(trial_list, RetrievalList):
        voices, faces = ({name: people[name] for name in trial_list.names(side)} for side in SIDES)
        return replace(trial_list, voices=voices, faces=faces)
    return replace(trial_list, people=people)


def _match(path: Path, task: Task) -> re.Match[str]:
    match = _NAMES[task].fullmatch(path.name)
    if match is None:
        raise ValueError(f"{path}: the name says no list of {task}, expected one like {_NAMES[task].pattern}")
    return match


def _read_matching(path: Path, name: re.Match[str]) -> MatchingList:
    rows = [tuple(cell for cell in row if cell) for row in _read(path, " ")]
    if not rows or len(rows[0]) < 3 or any(len(row) != len(rows[0]) for row in rows):
        raise ValueError(f"{path}: expected lines of one length with a probe, a positive and negatives")
    if wrong := next((row for row in rows if row[1] in row[2:]), None):
        raise ValueError(f"{path}: {' '.join(wrong)}: the second name, who it is, is also among those who it is not")
    direction: Direction = "v2f" if name[1] == "v2f" else "f2v"
    # VoxCeleb1 keeps voices by ID and faces by name; the probe and its positive say which belong together
    own = [row[:2] if direction == "v2f" else row[1::-1] for row in rows]
    id_of = {_folder(face): _folder(voice) for voice, face in own}
    people = {cell: id_of.get(_folder(cell), _folder(cell)) for row in rows for cell in row}
    return MatchingList(path.name, direction, name[2], tuple(rows), people, read=True)


def _read_verification(path: Path, name: re.Match[str]) -> VerificationList:
    header, *rows = _read(path, ",") or [[]]
    if tuple(header) != _VERIFICATION_COLUMNS or not rows or any(len(row) != len(header) for row in rows):
        raise ValueError(f"{path}: expected lines with {', '.join(_VERIFICATION_COLUMNS)}; got {header}")
    labels = {row[3] for row in rows}
    if not labels <= {"0", "1"}:
        raise ValueError(f"{path}: labels {sorted(labels)}, expected 0 and 1")
    trials = tuple((voice, face, label == "1") for _, _, _, label, voice, face in rows)
    _check_once(path, [((voice, face), same) for voice, face, same in trials])
    people = {voice: _person(voice_id) for _, voice_id, _, _, voice, _ in rows}
    people |= {face: _person(face_id) for _, _, face_id, _, _, face in rows}
    return VerificationList(path.name, "U" if name[1] == "random" else name[1], trials, people, read=True)


def _person(speaker: str) -> str:
    """The VoxCeleb1 ID of a speaker's number: both count the names in alphabetical order, IDs from id10001."""
    return f"id1{int(speaker):04d}" if speaker.isdecimal() else speaker


def _read_retrieval(path: Path, name: re.Match[str]) -> RetrievalList:
    sides = []
    for file, kind in ((path, "wav"), (path.with_name(f"jpg_{name[1]}.csv"), "jpg")):
        if not file.is_file():
            raise FileNotFoundError(f"{file}: no such list; {path.name} needs it beside it")
        header, *rows = _read(file, "\t") or [[]]
        if header != [_ID_COLUMN, kind] or not rows or any(len(row) != 2 for row in rows):
            raise ValueError(f"{file}: expected lines with {_ID_COLUMN} and {kind}, a tab between; got {header}")
        _check_once(file, [(file_name, person) for person, file_name in rows])
        sides.append({file_name: person for person, file_name in rows})
    voices, faces = sides
    return RetrievalList(path.name, voices, faces, read=True)


def _check_once(path: Path, said: Iterable[tuple[Any, Any]]) -> None:
    """Raise where a list says two things of one trial or file."""
    first: dict[Any, Any] = {}
    for what, value in said:
        if first.setdefault(what, value) != value:
            name = " and ".join(what) if isinstance(what, tuple) else what
            raise ValueError(f"{path}: {name}: {first[what]!r} in one line, {value!r} in another; correct the list")


def _read(path: Path, delimiter: str) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8-sig") as file:  # some editors put a mark at the beginning
        try:
            return [row for row in csv.reader(file, delimiter=delimiter) if row]
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: not a list of trials ({error})") from None


def _write(path: Path, rows: Iterable[Sequence[Any]], delimiter: str) -> None:
    with written_whole(path) as beside, beside.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter, lineterminator="\n").writerows(rows)


def _folder(name: str) -> str:
    return name.split("/", 1)[0]


def _once(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
