"""The authors' files, made up at small size, all the way to a face: convert, give members their pictures, generate."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

import voicestyle
from official import make_official
from tiny import save_tiny
from voicestyle.cli import main
from voicestyle.data.frontal import MostSimilar, face_embedder, load_square

CLIP = "wav/id10845/0RsOMTn-DSM/00001.wav"


@pytest.fixture(scope="module")
def example(shared_dir: Path) -> Path:
    """What the authors ship: two voices, a frame of each retrieved video, and frontal pictures of these people."""
    return shared_dir / "data" / "reference_example"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)


@pytest.fixture(scope="module")
def frontal(example: Path, tmp_path_factory) -> Path:
    """Four pictures of each person: all 1,295 would take a minute."""
    few = tmp_path_factory.mktemp("frontal")
    for person in sorted((example / "VGG_ALL_FRONTAL").iterdir()):
        (few / person.name).mkdir()
        for path in sorted(person.iterdir())[:4]:
            shutil.copy(path, few / person.name)
    return few


@pytest.fixture(scope="module")
def converted(example: Path, tmp_path_factory) -> Path:
    """A converted model whose index lists the 16 videos of the example among 60; the generator has 64 px."""
    folder = tmp_path_factory.mktemp("official")
    names = sorted((path.parents[1].name, path.name) for path in example.glob("unzippedFaces/*/1.6/*"))
    files = make_official(folder / "files", tiny=True, names=names)
    options = [text for part, path in files.items() for text in (f"--{part}", path)]
    result = run("models", "convert", *options, "--num-prototypes", 5, "-o", folder / "converted")
    assert result.exit_code == 0, result.output
    shutil.rmtree(folder / "files")
    return folder / "converted"


@pytest.fixture(scope="module")
def built(converted: Path, example: Path, frontal: Path) -> tuple[Path, Result]:
    out = converted.with_name("built")
    result = run(
        "prototypes", "build", "--model", converted, "--faces", example / "unzippedFaces", "--frontal", frontal,
        "--limit", 6, "--steps", 2, "--batch", 4, "--perceptual", "pixel", "--device", "cpu", "-o", out,
    )  # fmt: skip
    return out, result


def test_a_converted_model_says_what_it_lacks(converted: Path, example: Path, tmp_path: Path) -> None:
    result = run("generate", example / CLIP, "--model", converted, "--device", "cpu", "-o", tmp_path / "face.png")
    assert result.exit_code == 1 and not list(tmp_path.iterdir())
    assert "this bank has no latents" in result.stderr and "prototypes build --model FOLDER --faces" in result.stderr
    shown = run("prototypes", "show", "--model", converted, "--device", "cpu", "--json")
    assert json.loads(shown.stdout)["has_latents"] is False


def test_a_sample_of_members_gets_pictures(built, example: Path, frontal: Path) -> None:
    out, result = built
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{out}\n"
    assert result.stderr.startswith("6 of 60 members, 3 prototypes; left out: 44 members without frames, 0 without")
    assert not out.with_name("built.part").exists()
    vs = voicestyle.load(out, device="cpu")
    choose = MostSimilar(frontal, face_embedder(vs.encoder.encode_face, vs.device))
    key = vs.bank.member_keys[2]
    frame = next((example / "unzippedFaces" / Path(key).parent / "1.6" / Path(key).name).iterdir())
    chosen = load_square(choose(key, frame))
    assert torch.allclose(vs.bank.member_emb[2], vs.encode_face(chosen)[0], atol=1e-4)
    assert vs.bank.member_w.shape == (6, vs.generator.config.w_dim)
    assert vs.model.metadata["members"]["identity"] == "ir_se50" and "sources" in vs.model.metadata


@pytest.mark.parametrize("settings", ["model", "reference"])
def test_a_face_is_generated(built, example: Path, tmp_path: Path, settings: str) -> None:
    result = run(
        "generate", example / CLIP, "--model", built[0], "--device", "cpu", "--steps", 2, "-o", tmp_path / "face.png",
        "--json", *(["--reference"] if settings == "reference" else []),
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    made = json.loads(result.stdout)
    assert made["settings"] == settings and len(made["prototypes"]) == 3
    with Image.open(tmp_path / "face.png") as picture:
        assert picture.size == (64, 64) and picture.text["settings"] == settings
    members = [member["member"] for member in made["members"]]
    bank = voicestyle.load(built[0], device="cpu").bank
    if settings == "reference":
        assert members == bank.member_keys  # all six, in the order of the data set, people more than once
    else:
        assert len({key.split("/")[0] for key in members}) == len(members)


def test_manifests_and_faces_exclude_each_other(converted: Path, example: Path, tmp_path: Path) -> None:
    for arguments in (("pairs.csv", "--faces", example), (), ("pairs.csv", "--limit", 3)):
        result = run("prototypes", "build", *arguments, "--model", converted, "-o", tmp_path / "out")
        assert result.exit_code == 2, result.output


def test_reference_projections_need_lpips_and_clip(converted: Path, example: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    build = ("prototypes", "build", "--model", converted, "--device", "cpu", "--faces", example / "unzippedFaces")
    build = (*build, "--frontal", example / "VGG_ALL_FRONTAL", "-o", tmp_path / "out", "--reference")
    assert "LPIPS needs torchvision's VGG16" in run(*build).stderr
    assert "similarity 'face'" in run(*build, "--perceptual", "pixel").stderr
    assert run(*build, "--method", "one-shot").exit_code == 2


@pytest.mark.slow
def test_the_reference_all_the_way(converted: Path, example: Path, frontal: Path, tmp_path: Path, monkeypatch) -> None:
    """With LPIPS, the identity network, coupled samples and noise maps, as the authors project their members."""
    make_official(tmp_path / "checkpoints", parts=("backbone",))
    monkeypatch.setattr("voicestyle.convert.torch_file.EXPANSION", 10**9)  # made-up classifiers take no room
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    out = tmp_path / "built"
    result = run(
        "prototypes", "build", "--model", converted, "--faces", example / "unzippedFaces", "--frontal", frontal,
        "--limit", 4, "--steps", 2, "--similarity", "face", "--reference", "--device", "cpu", "-o", out,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    members = voicestyle.load(out, device="cpu").model.metadata["members"]
    assert members | {"perceptual": "lpips", "identity": "ir_se50", "samples": "coupled", "keep": "last"} == members


@pytest.mark.parametrize("choice", ["auto", "pixel", "lpips"])
def test_invert_says_that_there_is_no_lpips(tmp_path: Path, monkeypatch, choice: str) -> None:
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    Image.new("RGB", (32, 32), (90, 60, 30)).save(tmp_path / "face.png")
    model = save_tiny(tmp_path / "tiny")
    result = run(
        "invert", tmp_path / "face.png", tmp_path / "face.png", "--steps", 1, "--perceptual", choice, "--model", model,
        "--device", "cpu", "-o", tmp_path / "out",
    )  # fmt: skip
    assert result.exit_code == (1 if choice == "lpips" else 0)
    said = "No LPIPS (torchvision's VGG16 is not found): comparing by pixels and face features.\n"
    assert result.stderr.count(said) == (1 if choice == "auto" else 0)
    assert ("LPIPS needs torchvision's VGG16" in result.stderr) == (choice == "lpips")
