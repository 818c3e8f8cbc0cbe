"""kill -9 in the middle of long work: run again, it ends with the same files, and leaves no lock.

The children are forked by ``python tests/test_killed.py FOLDER``, a process of one thread, and die at the most delicate
moment: when a file is written, and does not have its name yet.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile
from PIL import Image

from official import make_official
from tiny import VOICE, save_tiny
from voicestyle.build.prototypes import build_prototypes
from voicestyle.bulk.items import items
from voicestyle.bulk.run import run
from voicestyle.bulk.work import Job
from voicestyle.bulk.workers import processes
from voicestyle.checkpoint import load_model
from voicestyle.config import LogMelConfig
from voicestyle.convert.official import OfficialFiles, convert_official
from voicestyle.data.manifest import Manifest
from voicestyle.data.shards import cache_log_mels
from voicestyle.files import sha256_of
from voicestyle.schema import to_dict

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
    pytest.mark.filterwarnings("ignore:.*no speech found", "ignore:.*little speech", "ignore:.*little but noise"),
]


def cache(here: Path, out: Path) -> None:
    cache_log_mels(Manifest.read(here / "m.csv"), LogMelConfig.ge2e(), out, shard_size=2)


def bank(here: Path, out: Path) -> None:
    build_prototypes(load_model(here / "model"), [here / "m.csv"], out / "bank.safetensors", k=2, steps=1, batch=2)


def bulk(here: Path, out: Path) -> None:
    guidance = to_dict(load_model(here / "model").config.guidance) | {"steps": 1}
    job = Job("generate", "voice", str(here / "model"), "cpu", options={"guidance": guidance, "seed": 0, "vad": None})
    run(items([here / "m.csv"], "voice"), job, out, processes(1), {}, batch=2)


def convert(here: Path, out: Path) -> None:
    convert_official(OfficialFiles(here / "official" / "model_best_256.pth.tar"), out / "model")


def make(folder: Path) -> Path:
    """Four clips and pictures, their manifest, and a tiny model."""
    sound, _ = soundfile.read(VOICE, dtype="float32")
    rows = ["key,split,identity,voice,frontal"]
    for i in range(4):
        soundfile.write(folder / f"{i}.wav", sound[4000 * i : 4000 * i + 24000], 16000)
        Image.effect_noise((32, 32), 20 + i).convert("RGB").save(folder / f"{i}.png")
        rows.append(f"{i},train,p{i},{i}.wav,{i}.png")
    (folder / "m.csv").write_text("\n".join(rows) + "\n")
    save_tiny(folder / "model")
    return folder


# what is killed, and at which file
WORK: dict[str, tuple[Callable[[Path, Path], None], int]] = {"cache": (cache, 2), "bank": (bank, 2), "bulk": (bulk, 4)}
SLOW = {"convert": (convert, 1)}  # the authors' towers have no smaller form


def killed(here: Path, names: list[str]) -> None:
    """Run the script, which must outlive its children."""
    subprocess.run([sys.executable, __file__, str(here), *names], check=True, timeout=300)


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    folder = make(tmp_path_factory.mktemp("killed"))
    killed(folder, list(WORK))
    return folder


@pytest.mark.parametrize("name", WORK)
def test_work_that_was_killed_goes_on_to_the_same_end(here: Path, name: str) -> None:
    goes_on(here, name, WORK[name][0])


@pytest.mark.slow
def test_a_conversion_that_was_killed_goes_on_to_the_same_end(tmp_path: Path) -> None:
    make_official(tmp_path / "official", tiny=True, parts=["cmpc"])
    killed(tmp_path, list(SLOW))
    goes_on(tmp_path, "convert", convert)


def goes_on(here: Path, name: str, work: Callable[[Path, Path], None]) -> None:
    out, alone = here / f"{name}-killed", here / f"{name}-alone"
    assert out.is_dir()
    before = hashes(out)
    for folder in (out, alone):
        work(here, folder)
    assert hashes(out) == hashes(alone) != before
    left = [path.name for path in [*here.glob(f".{name}*"), *out.rglob("*")]]
    assert not [name for name in left if name.endswith((".lock", ".safetensors.part"))]


def hashes(folder: Path) -> dict[str, str]:
    """Of whatever is there under a name of its own; `worker` and `seconds` of results are no results."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if any(part.startswith(".") for part in name.parts):  # what was being written
            continue
        if path.suffix == ".parquet":
            pq = pytest.importorskip("pyarrow.parquet")
            rows = pq.read_table(path).drop_columns(["worker", "seconds"]).to_pylist()
            found[name.as_posix()] = sha256_of(repr(rows).encode())
        elif path.is_file():
            found[name.as_posix()] = sha256_of(path)
    return found


def die_at(number: int) -> None:
    """End this process by kill -9 where it gives a file its name for the time `number`."""
    replace, left = os.replace, [number]

    def replace_or_die(source: Path, target: Path) -> None:
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)

    os.replace = replace_or_die


def main(here: Path, names: list[str]) -> None:
    for name in names:
        work, number = {**WORK, **SLOW}[name]
        (here / f"{name}-killed").mkdir()
        if (child := os.fork()) == 0:
            die_at(number)
            work(here, here / f"{name}-killed")
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, f"{name} was not killed: {status}"


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
