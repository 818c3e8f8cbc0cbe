"""The command line: what is printed where, exit codes, and nothing half-written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner, Result
from PIL import Image

import voicestyle
from tiny import VOICE, save_tiny
from voicestyle.checkpoint import load_model
from voicestyle.cli import main
from voicestyle.pipeline import DISCLAIMER

OTHER = VOICE.with_name("rms.flac")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def run(model: Path):
    """Runs a command with the tiny model."""

    def run(*arguments: object, given: bool = True) -> Result:
        command = [str(a) for a in arguments] + (["--model", str(model), "--device", "cpu"] if given else [])
        return CliRunner().invoke(main, command)

    return run


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


# ------------------------------------------------------------------------------------------------------- generate


def test_generate_writes_a_face_and_says_where(run, tmp_path) -> None:
    result = run("generate", VOICE, "-o", tmp_path / "face.png")
    assert result.exit_code == 0, result.output
    path, similarity = result.stdout.split()
    assert path == str(tmp_path / "face.png") and -1 <= float(similarity) <= 1
    assert result.stderr == DISCLAIMER + "\n"
    assert files(tmp_path) == ["face.png"]
    with Image.open(path) as picture:
        assert picture.text["AI-generated"] == DISCLAIMER


def test_the_command_gives_what_the_library_gives(run, model: Path, tmp_path) -> None:
    run("generate", VOICE, "-o", tmp_path / "face.png", "--seed", 5, "--steps", 2, "--k", 2)
    voicestyle.load(model, device="cpu").generate(VOICE, seed=5, steps=2, k=2).save(tmp_path / "library.png")
    assert (tmp_path / "face.png").read_bytes() == (tmp_path / "library.png").read_bytes()


def test_several_clips_and_sheets_go_into_a_new_folder(run, tmp_path) -> None:
    result = run("generate", VOICE, OTHER, "-o", tmp_path / "new" / "out", "--sheet", "--num-faces", 2)
    assert result.exit_code == 0
    assert files(tmp_path / "new" / "out") == [
        "rms-1.png", "rms-2.png", "rms-sheet.png", "slt-1.png", "slt-2.png", "slt-sheet.png",
    ]  # fmt: skip
    assert len(result.stdout.splitlines()) == 4
    assert result.stderr.count(DISCLAIMER) == 1


def test_a_clip_gives_the_same_face_alone_and_among_others(run, tmp_path) -> None:
    run("generate", OTHER, VOICE, "-o", tmp_path)
    run("generate", VOICE, "-o", tmp_path / "alone.png")
    assert (tmp_path / "alone.png").read_bytes() == (tmp_path / "slt.png").read_bytes()


def test_clips_of_one_name_do_not_overwrite_each_other(run, tmp_path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "slt.flac").write_bytes(OTHER.read_bytes())
    run("generate", VOICE, tmp_path / "a" / "slt.flac", "-o", tmp_path / "out", "--steps", 0)
    assert files(tmp_path / "out") == ["001_slt.png", "002_slt.png"]


def test_json_is_one_object_a_line(run, tmp_path) -> None:
    result = run("generate", VOICE, "missing.wav", "-o", tmp_path, "--json")
    good, bad = (json.loads(line) for line in result.stdout.splitlines())
    assert good["faces"] == [str(tmp_path / "slt.png")] and good["voice"] == str(VOICE)
    assert good["seed"] == 0 and good["steps"] == 4 and good["model"] == "tiny"
    assert len(good["prototypes"]) == 3 and set(good["members"][0]) == {
        "member",
        "prototype",
        "similarity",
        "percentile",
    }
    assert bad["input"] == "missing.wav" and "no such file" in bad["error"]
    assert result.exit_code == 1


def bad_clips(folder: Path) -> dict[str, Path]:
    noise = np.random.default_rng(0).standard_normal(48000)
    for name, samples in {
        "silence": np.zeros(48000), "noise": 1e-4 * noise, "short": 0.3 * noise[:8000],
        "nan": np.full(48000, np.nan),
    }.items():  # fmt: skip
        soundfile.write(folder / f"{name}.wav", samples.astype(np.float32), 16000, subtype="FLOAT")
    (folder / "text.wav").write_text("to whom it may concern")
    (folder / "empty.wav").touch()
    names = ("silence", "noise", "short", "nan", "text", "empty", "missing")
    return {name: folder / f"{name}.wav" for name in names}


def test_a_bad_clip_is_told_of_and_does_not_stop_the_others(run, tmp_path) -> None:
    clips = bad_clips(tmp_path)
    result = run("generate", *clips.values(), VOICE, "-o", tmp_path / "out", "--steps", 1)
    assert result.exit_code == 1
    assert files(tmp_path / "out") == ["slt.png"]
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == len(clips)
    for path, error in zip(clips.values(), errors, strict=True):
        assert str(path) in error
    assert "Traceback" not in result.output and len(result.stdout.splitlines()) == 1


def test_nothing_is_written_for_a_bad_clip(run, tmp_path) -> None:
    clip = bad_clips(tmp_path)["silence"]
    assert run("generate", clip, "-o", tmp_path / "out" / "face.png").exit_code == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate"], "Missing argument"),
        (["generate", VOICE], "Missing option '-o'"),
        (["generate", VOICE, VOICE, "-o", "face.png"], "one file for 2 inputs"),
        (["generate", VOICE, "-o", "face.jpg"], "written as PNG"),
        (["generate", VOICE, "-o", "x", "--seed", -1], "--seed"),
        (["generate", VOICE, "-o", "x", "--num-faces", 0], "--num-faces"),
        (["generate", VOICE, "-o", "x", "--dtype", "int8"], "--dtype"),
        (["embed", "smell", VOICE], "smell"),
        (["embed", "voice", VOICE, "-o", "x.csv"], r"ends in .npy or .npz or .json"),
        (["retrieve", VOICE, "-o", "x.jpg"], "ends in .png"),
        (["sing"], "No such command"),
    ],
)
def test_wrong_usage_ends_with_2_before_any_work(run, arguments: list[object], message: str) -> None:
    result = run(*arguments, given=False)
    assert result.exit_code == 2 and message in result.stderr


def test_a_place_that_cannot_be_written_to_is_an_error_before_work(run, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("voicestyle.pipeline.VoiceStyle.generate", lambda *_, **__: pytest.fail("worked first"))
    (tmp_path / "file").touch()
    for out in (tmp_path / "file" / "face.png", tmp_path / "file" / "folder", Path("/proc/nothing/face.png")):
        result = run("generate", VOICE, "-o", out)
        assert result.exit_code == 1 and "cannot be written to" in result.stderr, result.output


def test_a_model_that_is_none_is_one_line(run, model: Path, tmp_path) -> None:
    result = run("generate", VOICE, "-o", tmp_path, "--model", tmp_path / "nothing", given=False)
    assert result.exit_code == 1 and "no such model" in result.stderr
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in files(model):
        (copy / name).write_bytes((model / name).read_bytes())
    (copy / "generator.safetensors").write_bytes(b"<html>")
    result = run("generate", VOICE, "-o", tmp_path, "--model", copy, given=False)
    assert result.exit_code == 1 and "generator.safetensors: truncated or not" in result.stderr
    (copy / "encoder.safetensors").unlink()
    result = run("generate", VOICE, "-o", tmp_path, "--model", copy, given=False)
    assert result.exit_code == 1 and "encoder.safetensors: missing" in result.stderr
    assert len(result.stderr.splitlines()) == 1


# --------------------------------------------------------------------------------------------------- other commands


def test_embed_prints_or_writes_unit_vectors(run, tmp_path) -> None:
    line = run("embed", "voice", VOICE).stdout
    emb = np.array(json.loads(line)["embedding"])
    assert emb.shape == (32,) and np.linalg.norm(emb) == pytest.approx(1, abs=1e-5)
    run("embed", "voice", VOICE, OTHER, "-o", tmp_path / "v.npz")
    held = np.load(tmp_path / "v.npz")
    assert held["files"].tolist() == [str(VOICE), str(OTHER)]
    assert held["embeddings"].dtype == np.float32 and np.allclose(held["embeddings"][0], emb, atol=1e-4)
    run("embed", "voice", VOICE, "-o", tmp_path / "v.npy")
    assert np.allclose(np.load(tmp_path / "v.npy"), emb[None], atol=1e-4)
    run("embed", "voice", VOICE, "-o", tmp_path / "v.json")
    assert np.allclose(json.loads((tmp_path / "v.json").read_text())[str(VOICE)], emb, atol=1e-4)


def test_embed_leaves_bad_files_out_and_never_shifts_rows(run, tmp_path) -> None:
    result = run("embed", "voice", VOICE, "missing.wav", "-o", tmp_path / "v.npz")
    assert result.exit_code == 1 and np.load(tmp_path / "v.npz")["files"].tolist() == [str(VOICE)]
    result = run("embed", "voice", VOICE, "missing.wav", "-o", tmp_path / "v.npy")
    assert result.exit_code == 1 and "use .npz" in result.stderr and not (tmp_path / "v.npy").exists()


def test_a_generated_face_can_be_embedded_and_inverted(run, tmp_path) -> None:
    run("generate", VOICE, "-o", tmp_path / "face.png", "--steps", 0)
    assert len(json.loads(run("embed", "face", tmp_path / "face.png").stdout)["embedding"]) == 32
    result = run("invert", tmp_path / "face.png", "-o", tmp_path / "again.png", "--steps", 30)
    assert result.exit_code == 0, result.output
    assert np.load(tmp_path / "again.npy").shape == (16,)
    before, after = (np.asarray(Image.open(tmp_path / f"{n}.png"), float) for n in ("face", "again"))
    assert np.abs(before - after).mean() < 30
    result = run("invert", tmp_path / "face.png", "-o", tmp_path / "plus", "--steps", 1, "--space", "w_plus", "--json")
    record = json.loads(result.stdout)
    assert np.load(record["latent"]).shape == (8, 16) and Path(record["picture"]).name == "face.png"


def test_invert_tells_of_pictures_that_are_none(run, tmp_path) -> None:
    (tmp_path / "text.png").write_text("hello")
    result = run("invert", tmp_path / "text.png", "missing.png", "-o", tmp_path / "out")
    assert result.exit_code == 1 and result.stderr.count("Error: ") == 2 and not (tmp_path / "out").exists()


def test_retrieve_lists_prototypes_and_draws_members(run, tmp_path) -> None:
    result = run("retrieve", VOICE, "-o", tmp_path / "near.png", "--k", 2, "--num-members", 5)
    lines = [line.split("\t") for line in result.stdout.splitlines()]
    assert [line[0] for line in lines] == ["prototype"] * 2 + ["member"] * 5
    assert Image.open(tmp_path / "near.png").text["model"] == "tiny"
    record = json.loads(run("retrieve", VOICE, "--json").stdout)
    assert len(record["prototypes"]) == 3 and len(record["members"]) <= 8
    assert run("retrieve", "missing.wav").exit_code == 1


def test_prototypes_are_shown_and_built(run, model: Path, tmp_path) -> None:
    record = json.loads(run("prototypes", "show", "--json").stdout)
    assert record["num_prototypes"] == 6 and sum(record["members_per_prototype"]) == record["num_members"] == 40
    run("generate", VOICE, "-o", tmp_path / "face.png", "--num-faces", 4, "--steps", 1)
    rows = [f"f{i},train,p{i},face-{i}.png" for i in range(1, 5)]
    (tmp_path / "faces.csv").write_text("\n".join(["key,split,identity,frontal", *rows]) + "\n")
    result = run("prototypes", "build", tmp_path / "faces.csv", "-o", tmp_path / "new", "--k", 2, "--steps", 2)
    assert result.exit_code == 0 and result.stdout == f"{tmp_path / 'new'}\n", result.output
    assert len(load_model(tmp_path / "new").bank.centroids) == 2
    result = run("prototypes", "build", tmp_path / "faces.csv", "-o", tmp_path / "b.safetensors", "--k", 9)
    assert result.exit_code == 1 and "expected k = 9 or more" in result.stderr


@pytest.fixture(scope="module")
def pairs(model: Path, tmp_path_factory) -> Path:
    """Four people with two voices between them, and a pair that cannot be read."""
    folder = tmp_path_factory.mktemp("pairs")
    vs = voicestyle.load(model, device="cpu")
    rows = ["key,split,identity,voice,frontal,gender"]
    for i, gender in enumerate("fmfm"):
        vs.generate(VOICE, seed=i, steps=0, num_faces=4).save(folder / f"{i}.png")
        rows.append(f"k{i},val,p{i},{VOICE if gender == 'f' else OTHER},{i}-{i + 1}.png,{gender}")
    rows.append(f"bad,val,p9,{folder / 'missing.wav'},0-1.png,f")
    (folder / "pairs.csv").write_text("\n".join(rows) + "\n")
    return folder / "pairs.csv"


@pytest.mark.parametrize(("task", "num_scores"), [("matching", 4), ("verification", 4), ("retrieval", 6)])
def test_association_is_evaluated(run, pairs: Path, task: str, num_scores: int) -> None:
    result = run("evaluate", task, pairs, "--json")
    assert result.exit_code == 0, result.output
    reports = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(reports) == num_scores and all(r["num_identities"] == 4 and r["chance"] >= 0 for r in reports)
    assert "left out: item 'bad'" in result.stderr
    assert "chance" in run("evaluate", task, pairs).stdout


def test_generation_is_evaluated_and_stops_at_a_bad_pair(run, pairs: Path, tmp_path) -> None:
    options = ["--num-faces", 2, "--steps", 1, "--no-judge"]
    result = run("evaluate", "generation", pairs, *options)
    assert result.exit_code == 1 and "missing.wav" in result.stderr
    good = tmp_path / "pairs.csv"
    good.write_text("\n".join(pairs.read_text().splitlines()[:-1]) + "\n")
    for i in range(4):
        (tmp_path / f"{i}-{i + 1}.png").write_bytes((pairs.parent / f"{i}-{i + 1}.png").read_bytes())
    result = run("evaluate", "generation", good, *options, "--cache", tmp_path / "cache", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["num_voices"] == 4
    assert "| guided |" in run("evaluate", "generation", good, *options, "--cache", tmp_path / "cache").stdout


def test_models_are_listed_and_described(run, model: Path) -> None:
    assert run("models", "list", given=False).exit_code == 0
    record = json.loads(run("models", "info", model, "--json", given=False).stdout)
    assert record["name"] == "tiny" and record["sources"] == {"upstream.bin": "0" * 64}
    assert record["config"]["encoder"]["embed_dim"] == 32
    assert run("models", "info", "nonsense", given=False).exit_code == 1


def test_warnings_are_one_line_without_code(run, tmp_path, monkeypatch) -> None:
    def load(*_: object, **__: object) -> None:
        warnings.warn("two of nine were left out", stacklevel=1)
        raise ValueError("and then it failed")

    monkeypatch.setattr("voicestyle.pipeline.load", load)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        result = run("plot", "interpolations", "-o", tmp_path / "a.png")
    assert result.stderr == "Warning: two of nine were left out\nError: and then it failed\n"


def test_a_dry_run_prints_the_resolved_recipe(run, tmp_path) -> None:
    recipe = Path(__file__).parents[1] / "recipes" / "toy_encoder.toml"
    command = ["train", "encoder", recipe, "-o", tmp_path / "run", "--dry-run", "--set"]
    result = run(*command, "schedule.clip_norm=0.5", given=False)  # which the recipe leaves out
    assert result.exit_code == 0 and "clip_norm = 0.5" in result.stdout and not (tmp_path / "run").exists()
    result = run(*command, "schedule.batch=1", given=False)
    assert result.exit_code == 1 and "schedule.batch: got 1, expected a whole number of 2 or more" in result.stderr
    result = run("train", "encoder", tmp_path / "missing.toml", "-o", tmp_path / "run", given=False)
    assert result.exit_code == 1 and "no such recipe" in result.stderr


@pytest.mark.parametrize("part", ["generator", "inverter"])
def test_settings_that_a_recipe_leaves_out_can_be_set(run, part: str, tmp_path) -> None:
    recipe = Path(__file__).parents[1] / "recipes" / f"toy_{part}.toml"
    result = run("train", part, recipe, "-o", tmp_path, "--dry-run", "--set", "tensorboard=true", given=False)
    assert result.exit_code == 0 and "tensorboard = true" in result.stdout


def commands(group=main, names=()):
    yield names
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*names, name))


@pytest.mark.parametrize("names", list(commands()), ids=" ".join)
def test_every_help_opens_with_an_example(names: tuple[str, ...]) -> None:
    result = CliRunner().invoke(main, [*names, "--help"])
    first = [line for line in result.stdout.splitlines() if line.strip()][1].strip()
    assert result.exit_code == 0 and first.startswith("Example: voicestyle " + " ".join(names).split(" ")[0])


def test_the_module_runs_as_a_program(model: Path, tmp_path) -> None:
    env = {**os.environ, "PYTHONPATH": str(Path(voicestyle.__file__).parents[1])}
    command = [sys.executable, "-W", "error", "-m", "voicestyle", "generate", VOICE, "-o", tmp_path / "a.png"]
    done = subprocess.run([*command, "--model", model, "--steps", "1"], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path / "a.png")) and files(tmp_path) == ["a.png"]
