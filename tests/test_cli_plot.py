"""The group `plot` of the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner, Result
from PIL import Image

from tiny import VOICE, save_tiny
from voicestyle.cli import main
from voicestyle.cli.plot import space
from voicestyle.data.manifest import Item, Manifest
from voicestyle.plots import COLORS

COMMANDS = ("training", "space", "similarities", "prototypes", "interpolations")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> list[str]:
    """Options that choose the tiny model."""
    return ["--model", str(save_tiny(tmp_path_factory.mktemp("models") / "tiny")), "--device", "cpu"]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    """Six pairs of six people in two splits, in one of which a voice is damaged."""
    folder = tmp_path_factory.mktemp("pairs")
    speech, rate = soundfile.read(VOICE, dtype="float32")
    rng, items = np.random.default_rng(0), []
    for i in range(6):
        voice, frontal = folder / f"{i}.wav", folder / f"{i}.png"
        soundfile.write(voice, np.roll(speech, i * rate // 3) * (1 + i), rate)
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(frontal)
        split, gender = ("val" if i < 4 else "test"), "fm"[i % 2]
        items.append(Item(f"clip{i}", split, f"person{i}", voice=voice, frontal=frontal, gender=gender))
    (folder / "5.wav").write_bytes(b"not a recording")
    Manifest(tuple(items)).write(folder / "pairs.csv")
    return folder / "pairs.csv"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["plot", *map(str, arguments)])


def write_run(folder: Path) -> Path:
    folder.mkdir()
    (folder / "log.jsonl").write_text("".join(json.dumps({"step": s, "loss": 1 / s}) + "\n" for s in (1, 2, 3)))
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_help_opens_with_an_example(command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert result.output.splitlines()[2].strip().startswith(f"Example: voicestyle plot {command}")


def test_training_draws_several_runs(tmp_path) -> None:
    out = tmp_path / "new" / "curves.svg"
    result = run("training", write_run(tmp_path / "one"), write_run(tmp_path / "two"), "-o", out)
    assert result.exit_code == 0 and result.stdout.split() == [str(out)]
    assert out.read_bytes().startswith(b"<?xml")


@pytest.mark.parametrize(
    ("command", "options"),
    [("similarities", []), ("space", ["--color", "identity", "--method", "pca"]), ("space", ["--seed", 1])],
)
def test_pairs_are_drawn_and_the_same_command_gives_the_same_file(command, options, manifest, model, tmp_path) -> None:
    outs = [tmp_path / "a.png", tmp_path / "b.png"]
    for out in outs:
        result = run(command, manifest, "-o", out, *options, "--cache", tmp_path / "cache", *model)
        assert result.exit_code == 0, result.output
    assert outs[0].read_bytes() == outs[1].read_bytes()


def test_an_unusable_item_is_told_of_and_left_out(manifest, model, tmp_path) -> None:
    splits = ["--split", "val", "--split", "test"]
    result = run("space", manifest, "-o", tmp_path / "map.png", "--color", "split", *splits, *model)
    assert result.exit_code == 0, result.output
    assert "left out: voice clip5" in result.stderr


def test_no_label_but_those_of_the_library_may_color_a_map(manifest, tmp_path) -> None:
    (color,) = [option for option in space.params if option.name == "color"]
    assert tuple(color.type.choices) == COLORS
    result = run("space", manifest, "-o", tmp_path / "map.png", "--color", "nationality")
    assert result.exit_code == 2 and "nationality" in result.stderr


@pytest.mark.parametrize("command", ["training", "space", "similarities"])
def test_other_formats_are_refused_before_the_work(command: str, tmp_path) -> None:
    result = run(command, tmp_path / "missing", "-o", tmp_path / "picture.jpg")
    assert result.exit_code == 2 and ".png or .svg or .pdf" in result.stderr


def test_missing_inputs_end_with_one_line(model, tmp_path) -> None:
    for command in (["training", tmp_path], ["similarities", tmp_path / "no.csv", *model]):
        result = run(*command, "-o", tmp_path / "picture.png")
        assert result.exit_code == 1 and result.stderr.startswith("Error: ") and len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "picture.png").exists()


def test_prototypes_take_as_many_sheets_as_they_need(model, tmp_path) -> None:
    result = run("prototypes", "-o", tmp_path / "one.png", "--num-members", 1, *model)
    assert result.exit_code == 0 and result.stdout.split() == [str(tmp_path / "one.png")]
    with Image.open(tmp_path / "one.png") as sheet:
        assert "AI-generated" in sheet.text
    result = run("prototypes", "-o", tmp_path / "many.png", "--num-members", 1, "--per-page", 4, *model)
    assert result.stdout.split() == [str(tmp_path / f"many-{page}.png") for page in (1, 2)]
    result = run("prototypes", "-o", tmp_path / "folder", "--num-members", 1, "--per-page", 4, *model)
    assert result.stdout.split() == [str(tmp_path / "folder" / f"prototypes-{page}.png") for page in (1, 2)]
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".")]


def test_interpolations_draw_the_ways_that_the_seed_says(model, tmp_path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        path = tmp_path / f"{name}.png"
        result = run("interpolations", "-o", path, "--num", 2, "--steps", 3, "--seed", seed, *model)
        assert result.stdout.split() == [str(path)]
    a, b, c = ((tmp_path / f"{name}.png").read_bytes() for name in "abc")
    assert a == b != c
