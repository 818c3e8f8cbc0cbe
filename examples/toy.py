"""A data set of made-up people, to try the whole way from training to a face on: ``python examples/toy.py FOLDER``.

``FOLDER/voices/PERSON/*.wav`` are buzzing syllables, deeper for some than for others, and ``FOLDER/frontal/PERSON/*.png``
drawn heads whose color says how deep: what a model of them has to find out. Nobody's voice, and nobody's face.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image, ImageDraw

PEOPLE = ("ada", "ben", "cleo", "dan", "eve", "finn")
TAKES, RATE, SECONDS, SIZE = 4, 16000, 2, 64


def voice(person: int, rng: np.random.Generator) -> np.ndarray:
    """Four syllables a second of a buzz between 90 and 275 Hz."""
    time = np.arange(SECONDS * RATE) / RATE
    pitch = 90 * 1.25**person
    buzz = sum(np.sin(2 * np.pi * pitch * k * time + rng.uniform(0, 6)) / k for k in range(1, 20))
    return 0.1 * buzz * (0.55 + 0.45 * np.sin(2 * np.pi * 4 * time)) + 0.003 * rng.normal(size=len(time))


def head(person: int, rng: np.random.Generator) -> Image.Image:
    """An oval with eyes and a mouth, on white, no two quite alike."""
    color = (40 + 35 * person, 215 - 35 * person, 128)
    picture = Image.new("RGB", (SIZE, SIZE), "white")
    draw = ImageDraw.Draw(picture)
    x, y = rng.integers(-3, 4, 2)
    draw.ellipse((14 + x, 8 + y, 50 + x, 58 + y), fill=color)
    for eye in (24, 40):
        draw.ellipse((eye - 3 + x, 26 + y, eye + 3 + x, 31 + y), fill="black")
    draw.arc((24 + x, 36 + y, 40 + x, 48 + y), 20, 160, fill="black", width=2)
    return picture


def main(folder: Path) -> None:
    """Write the recordings and pictures of everybody."""
    rng = np.random.default_rng(0)
    for number, name in enumerate(PEOPLE):
        for kind in ("voices", "frontal"):
            (folder / kind / name).mkdir(parents=True, exist_ok=True)
        for take in range(TAKES):
            soundfile.write(folder / "voices" / name / f"{take}.wav", voice(number, rng), RATE)
            head(number, rng).save(folder / "frontal" / name / f"{take}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
