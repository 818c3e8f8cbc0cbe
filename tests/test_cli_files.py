"""What commands do with files that are odd, missing, in the way, or of one name; Ctrl-C, terminals, threads."""

from __future__ import annotations

import io
import json
import math
import os
import re
import sys

import pytest
from click.testing import CliRunner
from PIL import Image

import voicestyle.audio
import voicestyle.faults
import voicestyle.pipeline
from tiny import VOICE, save_tiny
from voicestyle.cli import main
from voicestyle.cli.results import _own_names, picture_targets
from voicestyle.cli.threads import num_running, quota, set_threads
from voicestyle.decoding import load_audio
from voicestyle.faults import FaultError
from voicestyle.files import named
from voicestyle.image import load_image


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(save_tiny(tmp_path_factory.mktemp("model") / "tiny"))


def run(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.mark.parametrize(
    ("stems", "names"),
    [
        (["x", "y"], ["x", "y"]),
        (["x", "x", "y"], ["001_x", "002_x", "y"]),
        (["x", "x", "001_x"], ["001_x", "002_x", "003_001_x"]),
        (["a", "a-sheet"], ["001_a", "002_a-sheet"]),
        (["a", "a-1", "b"], ["001_a", "002_a-1", "b"]),
        (["a", "A"], ["001_a", "002_A"]),
        (["caf\u00e9", "cafe\u0301"], ["001_caf\u00e9", "002_cafe\u0301"]),
        (["002_x", "x", "x"], ["001_002_x", "002_x", "003_x"]),
    ],
)
def test_no_two_inputs_share_a_name(stems, names):
    assert _own_names(stems) == names


def test_nothing_is_written_over_an_input(tmp_path, model):
    photo, clip = tmp_path / "photo.png", tmp_path / "photo-sheet.png"
    Image.new("RGB", (32, 32)).save(photo)
    Image.new("RGB", (32, 32)).save(clip)
    before = photo.read_bytes()
    for out in (tmp_path, photo, tmp_path / "photo.PNG" if os.name == "nt" else photo):
        result = run("invert", photo, "-o", out, "--model", model)
        assert result.exit_code == 2 and "is an input, and would be overwritten" in result.stderr
    assert photo.read_bytes() == before
    assert picture_targets([str(photo)], tmp_path / "new") == [tmp_path / "new" / "photo.png"]
    (tmp_path / "link").symlink_to(tmp_path)
    assert run("invert", photo, "-o", tmp_path / "link", "--model", model).exit_code == 2
    table = tmp_path / "t.csv"
    table.write_text("file\na.wav\n")
    result = run("data", "prepare", "table", table, "--column", "voice=file", "-o", table)
    assert result.exit_code == 2 and table.read_text() == "file\na.wav\n"


def test_no_model_is_read_for_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(voicestyle.pipeline, "load", lambda *_: pytest.fail("the model was read"))
    (tmp_path / "folder").mkdir()
    for name, message in (
        ("*.wav", "no file has a name of this pattern"),
        ("gone.wav", "no such file; check the path"),
    ):
        result = run("generate", tmp_path / name, "-o", tmp_path / "out")
        assert result.exit_code == 1 and message in result.stderr
    result = run("embed", "face", tmp_path / "folder")
    assert result.exit_code == 2 and "many inputs need the name of a folder" in result.stderr
    result = run("retrieve", tmp_path / "folder")
    assert result.exit_code == 1 and "a folder, expected a file" in result.stderr


def test_an_item_that_a_library_stumbles_over_does_not_end_the_others(tmp_path, model, monkeypatch):
    def stumble(self, clip, **_):
        if "bad" in str(clip):
            raise AttributeError("'NoneType' object has no attribute 'x'\nand more")
        return original(self, clip)

    original = voicestyle.pipeline.VoiceStyle.encode_voice
    monkeypatch.setattr(voicestyle.pipeline.VoiceStyle, "encode_voice", stumble)
    bad = tmp_path / "bad.wav"
    bad.write_bytes(VOICE.read_bytes())
    result = run("embed", "voice", bad, VOICE, "--model", model)
    failed, done = map(json.loads, result.stdout.splitlines())
    assert result.exit_code == 1 and done["file"] == str(VOICE)
    assert failed == {"input": str(bad), "error": f"{bad}: cannot be used (AttributeError: 'NoneType' object has no "
                      "attribute 'x'); check that it is sound"}  # fmt: skip
    assert result.stderr.count("\n") == 1


def test_the_boundary_of_an_item():
    def error(raised):
        with (
            pytest.raises(type(raised) if isinstance(raised, (OSError, ImportError)) else ValueError) as caught,
            named("a.wav"),
        ):
            raise raised
        return str(caught.value)

    assert error(ValueError("a.wav: too short")) == "a.wav: too short"
    assert error(ValueError("too short")) == "a.wav: too short"
    assert error(FileNotFoundError("gone")) == "a.wav: gone"
    assert error(MemoryError()).startswith("a.wav: not enough memory")
    assert error(ImportError("no dlib")) == "no dlib"
    assert "KeyError: 'x'" in error(KeyError("x"))
    with pytest.raises(KeyboardInterrupt), named("a.wav"):
        raise KeyboardInterrupt


def test_a_fault_of_the_program_is_told_of_as_such(tmp_path, model, monkeypatch):
    """A made-up mistake in a line of the package: the item fails, the rest goes on, and nothing is said against it."""
    monkeypatch.setattr(voicestyle.audio, "load_audio", lambda path, rate: path)  # what follows expects a tensor
    bad = tmp_path / "bad.wav"
    bad.write_bytes(VOICE.read_bytes())
    monkeypatch.setenv("VOICESTYLE_DEBUG", "")
    result = run("embed", "voice", bad, VOICE, "--model", model)
    errors = [json.loads(line)["error"] for line in result.stdout.splitlines()]
    assert result.exit_code == 1 and [error.split(": ")[0] for error in errors] == [str(bad), str(VOICE)]
    for error in errors:
        assert ": a fault of voicestyle, and none of this input (" in error and "check that it is sound" not in error
        assert re.search(r", at \w+(/\w+)*\.py:\d+\); please report it$", error)
    assert "Traceback" not in result.stderr
    told = run("--debug", "embed", "voice", bad, "--model", model).stderr
    assert "Traceback" in told and "Error: " in told


@pytest.mark.parametrize("mistake", ["x.y", "x()", "unknown", "{}['a']", "[][1]", "1 / 0", "1 + 'a'"])
def test_whose_fault_an_error_is(mistake):
    """The same error is ours where it arises in a line of the package, and the item's where a library raises it."""
    ours = compile(mistake, voicestyle.faults.__file__, "eval")
    with pytest.raises(FaultError, match=r"^a.wav: a fault of voicestyle.*, at faults.py:1\)"), named("a.wav"):
        eval(ours, {"x": None})
    with pytest.raises(FaultError, match=r"^a.wav: b.wav: a fault"), named("a.wav"), named("b.wav"):
        eval(ours, {"x": None})
    with pytest.raises(ValueError, match=r"^a.wav: cannot be used") as caught, named("a.wav"):
        eval(compile(mistake, "PIL/Image.py", "eval"), {"x": None})
    assert not isinstance(caught.value, FaultError)
    for read in (load_audio, load_image):  # whose own guards let faults through
        assert_passes(read, ours)


def assert_passes(read, ours):
    module = "voicestyle.decoding._streams" if read is load_audio else "voicestyle.image.to_rgb"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, lambda *_: eval(ours, {"x": None}))
        with pytest.raises((AttributeError, TypeError, NameError, LookupError, ArithmeticError)):
            read(VOICE if read is load_audio else VOICE.parents[1] / "docs" / "steps.png")


def test_ctrl_c_has_a_status_of_its_own(tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(voicestyle.pipeline, "load", stop)
    result = run("embed", "voice", VOICE)
    assert result.exit_code == 130 and result.stderr == "Stopped.\n"


def test_a_terminal_without_a_letter_loses_no_line(tmp_path, model, monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="cp437", errors="strict")
    monkeypatch.setattr(sys, "stdout", stream)
    clip = tmp_path / "\u20ac\u4e16.flac"
    clip.write_bytes(VOICE.read_bytes())
    with pytest.raises(SystemExit):
        main(["embed", "voice", str(clip), "-o", str(tmp_path / "\u4e16.npz"), "--model", model])
    stream.flush()
    assert stream.buffer.getvalue().decode("cp437").endswith("\\u4e16.npz\n")


def test_records_are_shown_to_people_without_python(model):
    for command in (("prototypes", "show", "--model", model), ("models", "info", model)):
        result = run(*command)
        assert result.exit_code == 0 and not set(result.stdout) & set("{}[]'"), result.stdout
        json.loads(run(*command, "--json").stdout)


def test_threads_wait_as_others_need_the_cores(tmp_path):
    environment = {"OMP_WAIT_POLICY": "active"}
    set_threads(environment)
    assert "GOMP_SPINCOUNT" not in environment  # what the user says stays
    set_threads(environment := {})
    assert environment["GOMP_SPINCOUNT"] in ("0", "4000")
    load = tmp_path / "loadavg"
    load.write_text("0.50 0.40 0.30 5/500 12345\n")
    assert num_running(load, samples=1) == 4 and num_running(tmp_path / "none") == 0


def test_quotas_of_containers(tmp_path):
    assert quota(tmp_path) == math.inf
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert quota(tmp_path) == math.inf
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert quota(tmp_path) == 1.5
    (tmp_path / "cpu.max").unlink()
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("50000\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert quota(tmp_path) == 0.5
