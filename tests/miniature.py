"""VoxCeleb1 in miniature: the folders and lists of the real one, with synthetic voices and drawn pictures."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image, ImageDraw

from tiny import VOICE

SAMPLE_RATE = 16000  # Hz

PEOPLE = {  # VoxCeleb1 ID -> name, gender, nationality, set of verification, set of the splits
    "id10001": ("Ann_Able", "f", "Ireland", "dev", 1),
    "id10002": ("B.B._Baker", "m", "USA", "dev", 1),
    "id10003": ("Cy_Cole_Jr.", "m", "India", "dev", 2),
    "id10270": ("Dee", "f", "USA", "test", 4),
    "id10271": ("Eve_E.", "f", "UK", "test", 4),
}
SHARED = "shared_vid0"  # a video in which two people speak
VIDEOS = {  # VoxCeleb1 ID -> video -> clips, frames
    "id10001": {"aaaaaaaaaaa": (3, 5), SHARED: (1, 2)},
    "id10002": {SHARED: (2, 1)},
    "id10003": {"bbb-bbb_bbb": (1, 1), "without_wav": (0, 2)},
    "id10270": {"ddddddddddd": (2, 2)},
    "id10271": {"eeeeeeeeeee": (1, 1), "without_jpg": (1, 0)},
}
COMPLETE = 10  # clips of videos that have both


@dataclass(frozen=True)
class Miniature:
    """Where its parts lie."""

    wav: Path
    faces: Path
    frontal: Path
    meta: Path
    splits: Path


@cache
def _speech() -> np.ndarray:
    return soundfile.read(VOICE, dtype="float32")[0]


def write_voice(path: Path, seed: int, seconds: float = 1.6) -> None:
    """Speech of a synthesizer, from another place for each seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    start = seed * 1999 % (len(_speech()) - int(seconds * SAMPLE_RATE))
    soundfile.write(path, _speech()[start : start + int(seconds * SAMPLE_RATE)], SAMPLE_RATE)


def write_face(path: Path, seed: int, size: int = 48) -> None:
    """A disc with eyes and a mouth, in colors of the seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    skin, ground = np.random.default_rng(seed).integers(0, 256, (2, 3)).tolist()
    picture = Image.new("RGB", (size, size), tuple(ground))
    draw = ImageDraw.Draw(picture)
    unit = size / 12
    draw.ellipse((2 * unit, unit, 10 * unit, 11 * unit), fill=tuple(skin))
    for left, top, right, bottom in ((4, 4, 5, 5), (7, 4, 8, 5), (4.5, 8, 7.5, 9)):
        draw.ellipse((left * unit, top * unit, right * unit, bottom * unit), fill="black")
    picture.save(path)


def make_miniature(root: Path) -> Miniature:
    """Five people; a video that two of them share, two incomplete videos, one file that is none, one file twice."""
    mini = Miniature(
        root / "wav", root / "unzippedFaces", root / "VGG_ALL_FRONTAL", root / "vox1_meta.csv", root / "splits.txt"
    )
    seed = 0
    for voxceleb_id, videos in VIDEOS.items():
        name = PEOPLE[voxceleb_id][0]
        for video, (num_clips, num_frames) in videos.items():
            for clip in range(num_clips):
                write_voice(mini.wav / voxceleb_id / video / f"{clip + 1:05d}.wav", seed := seed + 1)
            for frame in range(num_frames):
                write_face(mini.faces / name / "1.6" / video / f"{25 * (frame + 1):07d}.jpg", seed := seed + 1)
        for picture in range(2):
            write_face(mini.frontal / name / f"{picture + 1:08d}.jpg", seed := seed + 1)
    (mini.wav / "id10270" / "ddddddddddd" / "00002.wav").write_bytes(b"RIFF")  # an interrupted copy
    first = mini.wav / "id10001" / "aaaaaaaaaaa"
    shutil.copy(first / "00001.wav", first / "00002.wav")
    meta = ["VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet"]
    meta += ["\t".join((voxceleb_id, *person[:4])) for voxceleb_id, person in PEOPLE.items()]
    mini.meta.write_text("\n".join(meta) + "\n")
    mini.splits.write_text("".join(f"{person[0]} {person[4]} \n" for person in PEOPLE.values()))  # with its last space
    return mini
