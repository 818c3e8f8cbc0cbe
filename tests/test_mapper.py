"""The mapper: a face without guided steps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import voicestyle
from tiny import VOICE, save_tiny
from voicestyle import cli
from voicestyle.build.mapper import distill, starts
from voicestyle.build.prototypes import write_bank
from voicestyle.checkpoint import load_model
from voicestyle.config import MapperConfig
from voicestyle.data.manifest import Item, Manifest
from voicestyle.nn.mapper import Mapper
from voicestyle.pipeline import VoiceStyle


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("voices") / "voices.csv"
    Manifest([Item(f"v{i}", "train", f"person{i}", voice=VOICE) for i in range(10)]).write(path)
    return path


@pytest.fixture(scope="module")
def taught(manifest: Path, tmp_path_factory) -> tuple[VoiceStyle, dict]:
    folder = tmp_path_factory.mktemp("models")
    vs = voicestyle.load(save_tiny(folder / "tiny"), device="cpu")
    _, report = distill(vs, [manifest], folder / "fast", steps=12, batch=2, lr=0.01)
    return voicestyle.load(folder / "fast", device="cpu"), report


def test_it_is_the_start_until_it_has_learnt() -> None:
    w = torch.randn(3, 16)
    assert torch.equal(Mapper(MapperConfig(8, 16))(torch.ones(1, 8), w), w)


def test_it_learns_what_guidance_looks_for(taught: tuple[VoiceStyle, dict]) -> None:
    vs, report = taught
    assert report["fast"] > report["similarity of the start"] and 0 < report["way / w_std"] < 10
    voice_emb = vs.encode_voice(VOICE)
    start = starts(vs, voice_emb)
    (before,), (after,) = (
        vs.similarity(voice_emb, vs.encode_face(vs.synthesize(w)))[0]
        for w in (start, vs.model.mapper(voice_emb, start))
    )
    assert after > before


def test_a_fast_face_takes_no_steps_and_says_so(taught: tuple[VoiceStyle, dict], tmp_path: Path) -> None:
    vs, _ = taught
    ask = [
        "generate",
        str(VOICE),
        "-o",
        str(tmp_path / "f.png"),
        "--fast",
        "--sheet",
        "--json",
        "--model",
        str(vs.model.folder),
    ]
    found = CliRunner().invoke(cli.main, ask)
    record = json.loads(found.stdout)
    assert found.exit_code == 0 and record["steps"] == 0 and record["settings"] == "custom", found.output
    assert Path(record["faces"][0]).is_file() and Path(record["sheet"]).is_file()


def test_a_model_without_mapper_tells_how_to_get_one(tmp_path: Path) -> None:
    ask = ["generate", str(VOICE), "-o", str(tmp_path / "f.png"), "--fast", "--model", str(save_tiny(tmp_path / "m"))]
    found = CliRunner().invoke(cli.main, ask)
    assert found.exit_code == 1 and "models distill" in found.output


def test_fast_and_steps_contradict_each_other(tmp_path: Path) -> None:
    found = CliRunner().invoke(
        cli.main, ["generate", str(VOICE), "-o", str(tmp_path / "f.png"), "--fast", "--steps", "3"]
    )
    assert found.exit_code == 2 and "--fast" in found.output


def test_a_mapper_of_other_networks_is_refused(taught: tuple[VoiceStyle, dict], tmp_path: Path) -> None:
    import shutil

    from tiny import CONFIG, parts, tiny_generator
    from voicestyle.checkpoint import save_model

    vs, _ = taught
    encoder, _, _ = parts()
    other = save_model(tmp_path / "other", CONFIG, encoder, tiny_generator(seed=5))
    config = json.loads((vs.model.folder / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config))
    shutil.copy(vs.model.folder / "mapper.safetensors", other)
    with pytest.raises(ValueError, match="another encoder or generator"):
        voicestyle.load(other, device="cpu")


def test_too_few_voices_are_told(tmp_path: Path) -> None:
    Manifest([Item("v", "train", "p", voice=VOICE)]).write(tmp_path / "one.csv")
    vs = voicestyle.load(save_tiny(tmp_path / "m"), device="cpu")
    with pytest.raises(ValueError, match="one.csv: 1 usable voices"):
        distill(vs, [tmp_path / "one.csv"], tmp_path / "out", steps=1)


def test_a_new_bank_leaves_the_mapper_where_it_is(taught: tuple[VoiceStyle, dict], tmp_path: Path) -> None:
    vs, _ = taught
    (tmp_path / "new.part").mkdir()
    write_bank(tmp_path / "new", vs.model, vs.bank, {"about": "again"})
    made = load_model(tmp_path / "new")
    assert made.mapper is not None and made.metadata["about"] == "again"
    assert all(map(torch.equal, made.mapper.state_dict().values(), vs.model.mapper.state_dict().values()))
