"""How often the two warnings about inputs are right: no speech in a recording, a photograph that is not aligned.

    python benchmarks/input_warnings.py speech FOLDER... [--num 160] [--made 20]
    python benchmarks/input_warnings.py aligned FOLDER... [--num 200]

`speech` listens to recordings drawn from each folder, and to made sounds without speech (six seconds each, of ten
kinds); `aligned` looks how far the face in pictures drawn from each folder lies from where the canonical frame has it.
A second a recording or picture, on one core.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from voicestyle.align import edges_apart
from voicestyle.audio import load_audio
from voicestyle.data.folders import PICTURES, RECORDINGS, files_in
from voicestyle.image import open_image
from voicestyle.speech import doubt

RATE, LENGTH = 16000, 6 * 16000
THRESHOLDS = (0.08, 0.10, 0.12, 0.15, 0.20)
Draw = np.random.Generator


def noise(rng: Draw) -> np.ndarray:
    """White to brown, or anything between."""
    hertz = np.fft.rfftfreq(LENGTH, 1 / RATE)
    spectrum = rng.normal(size=len(hertz)) + 1j * rng.normal(size=len(hertz))
    return np.fft.irfft(spectrum * np.maximum(hertz, 1) ** -rng.uniform(0, 1), LENGTH)


def surf(rng: Draw) -> np.ndarray:
    """Noise that comes and goes."""
    return noise(rng) * (1 + np.sin(2 * np.pi * rng.uniform(0.5, 6) * np.arange(LENGTH) / RATE))


def tone(hertz: float, length: int = LENGTH, fall: float = 0.0) -> np.ndarray:
    """A tone with overtones."""
    time = np.arange(length) / RATE
    return sum(np.sin(2 * np.pi * hertz * k * time) / k for k in range(1, 9)) * np.exp(-fall * time)


def hum(rng: Draw) -> np.ndarray:
    """The mains, or a fan."""
    return tone(rng.choice([50, 60, 100, 120])) + 0.05 * rng.normal(size=LENGTH)


def chord(rng: Draw) -> np.ndarray:
    """Three notes, fading."""
    return sum(tone(110 * 2 ** (step / 12), fall=0.3) for step in rng.choice(24, 3, replace=False))


def melody(rng: Draw, wobble: float = 0.0) -> np.ndarray:
    """Notes, one after the other, that fall off as strings do or not."""
    made, at = np.zeros(LENGTH), 0
    while at < LENGTH:
        length = int(rng.uniform(0.12, 0.6) * RATE)
        time = np.arange(length) / RATE
        phase = 2 * np.pi * 110 * 2 ** (rng.integers(36) / 12) * time + wobble * np.sin(2 * np.pi * 5 * time)
        note = sum(np.sin(k * phase) / k ** rng.uniform(0.5, 2) for k in range(1, 9)) * np.exp(
            -rng.uniform(0, 6) * time
        )
        made[at : at + length] += note[: LENGTH - at]
        at += length
    return made / np.abs(made).max()


def bursts(rng: Draw, burst: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Short sounds, at irregular times."""
    made = np.zeros(LENGTH)
    for at in (np.cumsum(rng.uniform(0.1, 0.5, 60)) * RATE).astype(int):
        if at < LENGTH:
            sound = burst(np.arange(min(RATE // 5, LENGTH - at)) / RATE)
            made[at : at + len(sound)] += sound
    return made / np.abs(made).max()


def drums(rng: Draw) -> np.ndarray:
    """Skins and cymbals."""
    return bursts(
        rng,
        lambda time: (
            rng.normal(size=len(time)) * np.exp(-rng.uniform(10, 40) * time)
            + np.sin(2 * np.pi * rng.uniform(50, 120) * time) * np.exp(-15 * time)
        ),
    )


def birds(rng: Draw) -> np.ndarray:
    """Chirps."""
    return bursts(
        rng,
        lambda time: (
            np.hanning(len(time))
            * np.sin(2 * np.pi * (rng.uniform(2000, 5000) * time + rng.uniform(-8000, 8000) * time**2))
        ),
    )


def siren(rng: Draw) -> np.ndarray:
    """A tone that goes up and down."""
    hertz = 600 + 400 * np.sin(2 * np.pi * rng.uniform(0.2, 3) * np.arange(LENGTH) / RATE)
    return np.sin(2 * np.pi * np.cumsum(hertz) / RATE)


SOUNDS: dict[str, Callable[[Draw], np.ndarray]] = {
    "noise": noise,
    "surf": surf,
    "hum": hum,
    "chord": chord,
    "melody": melody,
    "vibrato": lambda rng: melody(rng, 3.0),
    "drums": drums,
    "band": lambda rng: melody(rng) + 0.7 * drums(rng) + 0.3 * melody(rng, 3.0),
    "siren": siren,
    "birds": birds,
}


def sample(folder: Path, suffixes: tuple[str, ...], num: int) -> list[Path]:
    """So many files of a folder, drawn with seed 0."""
    found = files_in(folder, suffixes, recursive=True)
    return random.Random(0).sample(found, min(num, len(found)))


def speech(folders: list[Path], num: int, num_made: int) -> None:
    """Print a row for each folder, and for each kind of made sound."""
    print("| | recordings | warned | what was said |\n|---|---|---|---|")
    for folder in folders:
        files = sample(folder, RECORDINGS, num)
        row(str(folder), [doubt(load_audio(path, RATE)) for path in tqdm(files, disable=None, leave=False)])
    for name, make in SOUNDS.items():
        sounds = [make(np.random.default_rng(seed)) for seed in range(num_made)]
        row(name, [doubt(torch.from_numpy(0.5 * sound / np.abs(sound).max()).float()) for sound in sounds])


def row(name: str, doubts: list[str | None]) -> None:
    """Print one."""
    said = Counter(text.split(":")[0].split(" found")[0] for text in doubts if text)
    print(f"| {name} | {len(doubts)} | {sum(said.values())} | {', '.join(f'{n} {t}' for t, n in said.items())} |")


def aligned(folders: list[Path], num: int) -> None:
    """Print a row for each folder: the share of pictures beyond each threshold, and quantiles."""
    print("| | pictures | a face found | median | 95 % |", *(f"> {t:.2f} |" for t in THRESHOLDS))
    print("|---" * (5 + len(THRESHOLDS)) + "|")
    for folder in folders:
        pictures = tqdm(sample(folder, PICTURES, num), disable=None, leave=False)
        apart = [edges_apart(open_image(path)) for path in pictures]
        found = np.array([value for value in apart if value is not None])
        shares = (f"{sum(value is not None and value > t for value in apart) / len(apart):.0%} |" for t in THRESHOLDS)
        middle, high = np.quantile(found, [0.5, 0.95]) if len(found) else (np.nan, np.nan)
        print(f"| {folder} | {len(apart)} | {len(found)} | {middle:.3f} | {high:.3f} |", *shares)


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", choices=["speech", "aligned"])
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--num", type=int, default=200)
    parser.add_argument("--made", type=int, default=20)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.which == "speech":
        speech(args.folders, args.num, args.made)
    else:
        aligned(args.folders, args.num)


if __name__ == "__main__":
    main()
