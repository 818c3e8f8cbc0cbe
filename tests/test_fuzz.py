"""Damaged inputs of every kind: the documented error, which names the file, or a result that is finite."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from test_audio import write_ffmpeg
from tiny import VOICE, save_tiny
from voicestyle.audio import voice_input
from voicestyle.checkpoint import load_model
from voicestyle.config import LogMelConfig
from voicestyle.data.journal import work_through
from voicestyle.data.manifest import Manifest
from voicestyle.data.shards import LogMelShards, cache_log_mels
from voicestyle.evaluate.lists import read_lists
from voicestyle.image import load_image
from voicestyle.train.encoder.settings import EncoderRecipe
from voicestyle.train.generator.settings import GeneratorRecipe
from voicestyle.train.recipe import load_recipe
from voicestyle.train.run import Run

pytestmark = pytest.mark.filterwarnings("ignore")
MANY = int(os.environ.get("VOICESTYLE_FUZZ", "400"))  # rounds of each file in the long run
LIMIT_GB, IDLE_GB = 1.5, 0.4  # of a program that reads one file; what it takes before, with PyTorch loaded
SOUND = soundfile.read(VOICE, dtype="float32")[0][:24000]
NUMBERS = [
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\0\0\0\x80",
    b"-1",
    b"NaN",
    b"1e9",
]


def mutated(data: bytes, rng: random.Random) -> bytes:
    """One to three of: bits flipped, bytes cut, doubled, moved, or put to the ends of the range of numbers."""
    data = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        if not data:
            break
        # half of all changes are where headers are
        at = rng.randrange(min(len(data), rng.choice([64, 400, len(data), len(data)])))
        kind = rng.randrange(6)
        if kind == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del data[at:]
        elif kind == 2:
            del data[at : at + rng.randint(1, 64)]
        elif kind == 3:
            data[at:at] = data[at : at + rng.randint(1, 400)]
        elif kind == 4:
            number = rng.choice(NUMBERS)
            data[at : at + len(number)] = number
        else:
            data[at : at + 8] = rng.randbytes(8)
    return bytes(data)


def try_all(path: Path, read: Callable[[Path], object], rounds: int, told: str = "") -> None:
    """Read the file in `rounds` mutations of a seed that its name gives."""
    data, rng = path.read_bytes(), random.Random(path.name)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # Linux: begin to count the peak anew
    held = memory("VmRSS")
    for number in range(rounds):
        path.write_bytes(mutated(data, rng))
        try:
            made = read(path)
        except (ValueError, OSError) as error:
            assert (told or path.name) in str(error), f"round {number}: {error!r} does not name {path.name}"
        except Exception as error:
            raise AssertionError(f"round {number} of {path.name}: {error!r}") from error
        else:
            assert not isinstance(made, torch.Tensor) or made.isfinite().all(), f"round {number} of {path.name}"
    path.write_bytes(data)
    grown = memory("VmHWM") - held
    assert grown < LIMIT_GB - IDLE_GB, f"{path.name}: {grown:.2f} GB"


def memory(name: str) -> float:
    """GB that this process takes (VmRSS), or took at most since it was reset (VmHWM); 0 where nobody counts them."""
    try:
        text = Path("/proc/self/status").read_text()
    except OSError:
        return 0.0
    return int(re.search(rf"{name}:\s+(\d+) kB", text)[1]) / 1e6


def rounds(few: int) -> list:
    return [few, pytest.param(MANY, marks=pytest.mark.slow)]


@pytest.mark.parametrize("num", rounds(12))
@pytest.mark.parametrize("name", ["a.wav", "a.aiff", "a.flac", "a.ogg", "a.au", "a.caf", "a.mp3", "a.m4a", "a.mkv"])
def test_recordings(tmp_path, name, num):
    path = tmp_path / name
    if name[2:] in ("m4a", "mkv", "mp3"):
        write_ffmpeg(path, SOUND[None], 16000, "libmp3lame" if name.endswith("mp3") else "aac")
    else:
        soundfile.write(path, SOUND, 16000)
    config = LogMelConfig.ge2e()

    try_all(path, lambda path: voice_input(path, config, vad=False), num)


@pytest.mark.parametrize("num", rounds(15))
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tif", "a.bmp", "a.gif", "a.ppm"])
def test_pictures(tmp_path, name, num):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {} if name.endswith(("bmp", "gif", "ppm")) else {"exif": exif}
    Image.fromarray(pixels).save(tmp_path / name, **options)
    try_all(tmp_path / name, load_image, num)


@pytest.mark.parametrize("num", rounds(12))
@pytest.mark.parametrize("part", ["config.json", "encoder.safetensors", "prototypes.safetensors"])
def test_model_folders(tmp_path, part, num):
    folder = save_tiny(tmp_path / "model")

    def read(path: Path) -> None:
        load_model(folder)

    try_all(folder / part, read, num, told="model")


@pytest.mark.parametrize("num", rounds(40))
def test_manifests_and_lists(tmp_path, num):
    (manifest := tmp_path / "m.csv").write_text(
        "key,split,identity,voice,face,face_box,gender,age\nk1,train,a,v/1.wav,f/1.jpg,1 2 3 4,f,30\n"
        "k2,val,b,v/2.wav,f/2.jpg,,m,\n"
    )
    try_all(manifest, Manifest.read, num)
    (matching := tmp_path / "matching_v2f_U.csv").write_text("a/1 a/1 b/2\nb/2 b/2 a/1\n")
    try_all(matching, lambda path: read_lists(path, "matching"), num)
    header = "id,voice-speaker-id,face-speaker-id,label,voice-path,face-path\n"
    (pairs := tmp_path / "veriflist_test_random_a.txt").write_text(header + "1,2,2,1,A/x_1.wav,A/y/1.jpg\n" * 3)
    try_all(pairs, lambda path: read_lists(path, "verification"), num)


@pytest.mark.parametrize("num", rounds(30))
def test_recipes(tmp_path, num):
    recipes = Path(__file__).resolve().parents[1] / "recipes"
    for name, settings in (("toy_encoder.toml", EncoderRecipe), ("toy_generator.toml", GeneratorRecipe)):
        (path := tmp_path / name).write_bytes((recipes / name).read_bytes())
        try_all(path, lambda path, settings=settings: load_recipe(path, settings), num)


@pytest.mark.parametrize("num", rounds(15))
def test_what_runs_go_on_from(tmp_path, num):
    with Run.start(tmp_path / "run", {"seed": 1}) as run:
        run.log(1, loss=0.5)
        run.save_state({"step": 1, "w": torch.arange(5.0)})

    def resume(path: Path) -> None:
        with Run.start(run.folder, {"seed": 1}, resume=True) as again:
            again.load_state()

    for part in ("state/last.pt", "log.jsonl", "recipe.toml"):
        try_all(run.folder / part, resume, num, told="run")
        run.log(1, loss=0.5)
    journal = tmp_path / "done.jsonl"
    journal.write_text(json.dumps({"size": 1}) + "\n" + json.dumps(["a", {"n": 1}]) + "\n")

    def work(path: Path) -> None:
        done = work_through(path, {"size": 1}, {"a": 1, "b": 2}, lambda n: {"n": n}, 1, lambda _: None)
        assert set(done) == {"a", "b"}

    try_all(journal, work, num)


@pytest.mark.parametrize("num", rounds(6))
def test_what_bulk_runs_go_on_from(tmp_path, num):
    pytest.importorskip("pyarrow")
    from voicestyle.bulk.results import Results
    from voicestyle.bulk.work import Row

    folder, row = tmp_path / "bulk", {"embedding": [1.0, 2.0], "similarity": 0.5}

    def go_on(path: Path) -> None:
        with Results(folder, {"what": "x"}) as results:
            results.write(Row("new", "n.wav", row))

    def begin() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        with Results(folder, {"what": "x"}) as results:
            results.write(Row("old", "o.wav", row))
        with pytest.raises(KeyboardInterrupt), Results(folder, {"what": "x"}) as results:
            results.write(Row("stopped", "s.wav", row))
            raise KeyboardInterrupt

    begin()
    held = {path.name: path.read_bytes() for path in folder.iterdir()}
    for name in held:

        def read(path: Path, name: str = name) -> None:
            damaged = path.read_bytes()
            begin()
            path.write_bytes(damaged)
            go_on(path)

        try_all(folder / name, read, num, told="bulk")


@pytest.mark.parametrize("num", rounds(10))
def test_caches(tmp_path, num):
    from voicestyle.data.manifest import Item

    soundfile.write(tmp_path / "a.wav", SOUND, 16000)
    config = LogMelConfig.ge2e()
    cache_log_mels(Manifest((Item("k", "train", "p", voice=tmp_path / "a.wav"),)), config, tmp_path / "cache")

    def read(path: Path) -> torch.Tensor:
        held = LogMelShards(tmp_path / "cache", config)
        return torch.cat([held[key].flatten() for key in held.keys()])  # noqa: SIM118

    try_all(tmp_path / "cache" / "index.json", read, num, told="cache")
    # a flipped bit of a number is another number, so the frames themselves are cut alone
    data = (tmp_path / "cache" / "00000.safetensors").read_bytes()
    for length in (0, 7, 100, len(data) - 1):
        (tmp_path / "cache" / "00000.safetensors").write_bytes(data[:length])
        with pytest.raises(ValueError, match="00000.safetensors: missing or damaged"):
            read(tmp_path)
