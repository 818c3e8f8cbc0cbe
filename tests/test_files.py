"""Files and folders that are there whole or not at all; kept results; hashes."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from structure import SOURCE
from voicestyle.files import folder_written_whole, is_unfinished, kept, sha256_of, written_whole
from voicestyle.image import save_png


@pytest.fixture(params=[0o022, 0o077, 0o002])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    old = os.umask(request.param)
    yield request.param
    os.umask(old)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_file_has_the_mode_that_the_umask_says_whoever_writes_it(tmp_path: Path, umask: int) -> None:
    with written_whole(tmp_path / "a" / "x.safetensors", durable=True) as beside:
        save_file({"w": torch.zeros(1)}, beside)
    save_png(Image.new("RGB", (2, 2)), tmp_path / "x.png")
    with written_whole(tmp_path / "x.npy") as beside:
        np.save(beside, np.zeros(1))  # which appends a suffix where there is none
    made = [tmp_path / "a" / "x.safetensors", tmp_path / "x.png", tmp_path / "x.npy"]
    assert [mode(path) for path in made] == [0o666 & ~umask] * 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "x.npy", "x.png"]


def test_a_folder_has_the_mode_that_the_umask_says(tmp_path: Path, umask: int) -> None:
    for text in ("old", "new"):
        with folder_written_whole(tmp_path / "model") as beside:
            (beside / "config.json").write_text(text)
            save_file({"w": torch.zeros(1)}, beside / "w.safetensors")
    assert (tmp_path / "model" / "config.json").read_text() == "new" and len([*tmp_path.iterdir()]) == 1
    assert mode(tmp_path / "model") == 0o777 & ~umask
    assert {mode(path) for path in (tmp_path / "model").iterdir()} == {0o666 & ~umask}


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError("no"), OSError("said already")])
def test_whatever_ends_the_writing_leaves_the_old_and_nothing_beside_it(tmp_path: Path, error: BaseException) -> None:
    (tmp_path / "x.txt").write_text("old")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("old")
    kind = error if isinstance(error, type) else type(error)
    with pytest.raises(kind) as raised, written_whole(tmp_path / "x.txt") as beside:
        beside.write_text("new")
        raise error
    with pytest.raises(kind), folder_written_whole(tmp_path / "model") as beside:
        (beside / "config.json").write_text("new")
        raise error
    assert isinstance(error, type) or raised.value is error
    assert {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*")} == {"x.txt", "model", "model/config.json"}
    assert (tmp_path / "x.txt").read_text() == (tmp_path / "model" / "config.json").read_text() == "old"


@pytest.mark.parametrize("call", [1, 2])
def test_a_stop_while_folders_change_places_loses_none(tmp_path: Path, monkeypatch, call: int) -> None:
    calls, replace = [], os.replace

    def stop(*names: Path) -> None:
        calls.append(names)
        if len(calls) == call:
            raise KeyboardInterrupt
        replace(*names)

    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "a").write_text("old")
    monkeypatch.setattr("voicestyle.files.os.replace", stop)
    with pytest.raises(KeyboardInterrupt), folder_written_whole(tmp_path / "model") as beside:
        (beside / "a").write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (tmp_path / "model" / "a").read_text() == "old"


def test_errors_name_the_file_that_was_asked_for(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    cases = {
        tmp_path / "file" / "x.txt": (NotADirectoryError, FileExistsError),
        tmp_path / "folder": IsADirectoryError,
        tmp_path / "file" / "a" / "b": NotADirectoryError,
    }
    for path, kind in cases.items():
        with pytest.raises(kind, match=f"^{path}: cannot be written") as raised, written_whole(path) as beside:
            beside.write_text("new")
        assert ".part" not in str(raised.value)
    with pytest.raises(NotADirectoryError, match="file: cannot"), folder_written_whole(tmp_path / "file") as beside:
        pass
    # what the block reads keeps its own name
    with pytest.raises(FileNotFoundError, match="nowhere"), written_whole(tmp_path / "x.txt") as beside:
        beside.write_text(Path("/nowhere/at all").read_text())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


FULL = """
import resource, sys, torch
from pathlib import Path
from safetensors.torch import save_file
from voicestyle.files import folder_written_whole, written_whole
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))  # as on a full disk, a write fails midway
out, big = Path(sys.argv[1]), torch.zeros(10000)

def state():
    with written_whole(out / "x", durable=True) as beside, beside.open("wb") as file:
        torch.save(big, file)
def text():
    with written_whole(out / "x") as beside:
        beside.write_text("x" * 10000)
def tensors():
    with written_whole(out / "x") as beside:
        save_file({"w": big}, beside)
def folder():
    with folder_written_whole(out / "x") as beside:
        save_file({"w": big}, beside / "w.safetensors")

for write in (state, text, tensors, folder):
    try:
        write()
    except OSError as error:
        print(write.__name__, error)
"""


def test_a_full_disk_is_an_error_with_the_path_and_leaves_nothing(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(SOURCE.parent)}
    run = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, env=env)
    lines = run.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["state", "text", "tensors", "folder"], run.stderr
    assert all(f"{tmp_path / 'x'}: cannot be written (" in line and ".part" not in line for line in lines), lines
    assert not [*tmp_path.iterdir()]


def test_a_pipe_is_written_to_itself(tmp_path: Path) -> None:
    with written_whole("/dev/null") as beside:
        beside.write_text("gone")
    assert not Path("/dev/null").is_file() and beside == Path("/dev/null")


def test_names_as_long_as_a_file_system_takes(tmp_path: Path) -> None:
    path = tmp_path / ("ä" * 125 + ".npy")
    with written_whole(path) as beside:
        assert beside.suffix == ".npy" and is_unfinished(beside) and not is_unfinished(path)
        beside.write_text("x")
    assert path.read_text() == "x"


def test_nothing_is_written_by_hand() -> None:
    """Renaming and temporary names are the trade of one module."""
    for path in SOURCE.rglob("*.py"):
        text = path.read_text()
        if path.name not in ("files.py", "download.py"):
            for word in ("os.replace", "os.rename", "mkstemp", "NamedTemporaryFile", "os.getpid"):
                assert word not in text, f"{path.name}: {word}"


def test_hashes(tmp_path: Path) -> None:
    data = bytes(range(256)) * 10000
    (tmp_path / "x").write_bytes(data)
    assert sha256_of(tmp_path / "x") == sha256_of(data) == hashlib.sha256(data).hexdigest()


# -------------------------------------------------------------------------------------------------------- kept results


def test_what_was_made_is_read_again(tmp_path: Path) -> None:
    calls = []

    def make() -> dict[str, torch.Tensor]:
        calls.append(1)
        return {"w": torch.arange(3.0).expand(2, 3), "s": torch.tensor(0.1, dtype=torch.float64)}

    made, again = (kept(tmp_path / "a" / "x.safetensors", make) for _ in range(2))
    assert len(calls) == 1 and set(made) == set(again) == {"w", "s"}
    assert all(torch.equal(made[name], again[name]) for name in made) and again["s"].dtype == torch.float64
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["x.safetensors"]


def test_without_a_path_it_is_made_each_time() -> None:
    calls = []
    for _ in range(2):
        kept(None, lambda: calls.append(1) or {})
    assert len(calls) == 2


def test_a_stop_leaves_nothing_behind(tmp_path: Path, monkeypatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kept(tmp_path / "x.safetensors", lambda: stop())
    monkeypatch.setattr("voicestyle.files.os.replace", stop)
    with pytest.raises(KeyboardInterrupt):
        kept(tmp_path / "x.safetensors", lambda: {"w": torch.zeros(1)})
    assert not list(tmp_path.iterdir())
