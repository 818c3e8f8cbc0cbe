"""Generator training at toy size: it learns, resumes to the same weights, starts from another run, and grows."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from parity import EXACT
from test_distributed import torchrun
from voicestyle.config import GeneratorConfig
from voicestyle.image import save_png
from voicestyle.nn.stylegan2 import Discriminator, Generator
from voicestyle.schema import to_dict
from voicestyle.train.generator import job as training
from voicestyle.train.generator import trainer as generator_trainer
from voicestyle.train.generator.grow import grow, grow_discriminator
from voicestyle.train.generator.job import train_generator
from voicestyle.train.generator.settings import GeneratorRecipe
from voicestyle.train.recipe import load_recipe

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
SMALL = GeneratorConfig(32, 8, 16, 2, 1.0, 0.0625, 16)
LARGE = GeneratorConfig(64, 8, 16, 2, 1.0, 0.0625, 16)

# a decoder that is sharpened
RECIPE = {
    "seed": 0, "ema_pictures": 40, "log_every": 1, "save_every": 6,
    "data": {"manifest": "unused"}, "codes": {"landmarks": "unused"}, "generator": to_dict(LARGE),
    "discriminator": {"kind": "patch", "channels": 4, "lr": 0.005, "r1_every": 2, "changes": ["shift", "contrast"]},
    "stages": {
        "decode32": {"size": 32, "steps": 24, "faces": 4, "means": 4, "lr": 0.03, "momentum": 0.9, "cool_down": 0.5},
        "sharpen64": {
            "size": 64, "steps": 6, "faces": 2, "means": 2, "samples": 2, "lr": 0.005,
            "reconstruction": {"texture": 1.0, "latent_lr": 0.02, "detail": 0.5},
            "adversary": {"weight": 0.3, "feature": 0.1, "after": 2}, "regularizers": {"psi_min": 0.7},
        },
    },
}  # fmt: skip

# StyleGAN2 with everything
GAN = {
    "seed": 1, "ema_pictures": 40, "log_every": 1, "save_every": 3, "data": {}, "generator": to_dict(LARGE),
    "discriminator": {"lr": 0.005, "r1_gamma": 1.0, "r1_every": 2, "p": 0.3, "p_pictures": 100},
    "stages": {
        "low": {"size": 32, "steps": 6, "samples": 8, "lr": 0.01, "adversary": {"weight": 1.0},
                "regularizers": {"path": 1.0, "path_every": 2, "mixing": 0.9}, "noise": True, "accumulate": 2},
        "high": {"size": 64, "steps": 2, "samples": 4, "lr": 0.01, "adversary": {"weight": 1.0}},
    },
}  # fmt: skip


@pytest.fixture(autouse=True)
def toy_faces(monkeypatch, face_set) -> None:
    monkeypatch.setattr(training, "load_pictures", lambda settings, size: face_set)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, face_set) -> tuple[Generator, Path]:
    """What RECIPE makes when nothing stops it, and its run folder."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "load_pictures", lambda settings, size: face_set)
        return train_generator(RECIPE, folder, progress=False), folder


@pytest.fixture(scope="module")
def whole_gan(tmp_path_factory, face_set) -> tuple[Generator, dict[str, Any], Path]:
    """What GAN makes when nothing stops it, its recipe, and its run folder."""
    folder = tmp_path_factory.mktemp("gan")
    (folder / "faces").mkdir()
    for i, picture in enumerate(face_set[0]):
        save_png(picture[None], folder / "faces" / f"{i}.png")
    recipe = {**copy.deepcopy(GAN), "data": {"folder": str(folder / "faces")}}
    return train_generator(recipe, folder / "run", progress=False), recipe, folder / "run"


def losses(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())


def killed(recipe: dict[str, Any], folder: Path, step: int, monkeypatch) -> None:
    """Train until a step, and die in it."""
    train_step = generator_trainer.GeneratorTrainer.train_step

    def dies(self):
        if self.step == step:
            raise KeyboardInterrupt
        return train_step(self)

    with monkeypatch.context() as patch:
        patch.setattr(generator_trainer.GeneratorTrainer, "train_step", dies)
        with pytest.raises(KeyboardInterrupt):
            train_generator(recipe, folder, progress=False)


def test_a_decoder_learns(whole) -> None:
    generator, folder = whole
    log = losses(folder)
    assert sum(line["pixel"] for line in log[18:24]) < 0.6 * sum(line["pixel"] for line in log[:6])
    assert "adversarial" not in log[25] and "discriminator" in log[25]  # it gets a start
    assert {"adversarial", "feature", "texture"} <= set(log[-1]) and "adversarial" not in log[0]
    assert (folder / "samples_000030.png").is_file()
    assert generator.config.size == 64
    assert generator.w_std > 0 and generator.w_avg.abs().sum() > 0


@pytest.mark.parametrize("stop", [8, 26])
def test_a_killed_run_resumes_to_the_same_weights(whole, tmp_path: Path, monkeypatch, stop: int) -> None:
    generator, folder = whole
    killed(RECIPE, tmp_path / "killed", stop, monkeypatch)
    assert same(generator, train_generator(RECIPE, tmp_path / "killed", resume=True, progress=False))
    assert losses(tmp_path / "killed") == losses(folder)


def test_a_killed_gan_resumes_to_the_same_weights(whole_gan, tmp_path: Path, monkeypatch) -> None:
    generator, recipe, folder = whole_gan
    killed(recipe, tmp_path / "killed", 4, monkeypatch)
    assert same(generator, train_generator(recipe, tmp_path / "killed", resume=True, progress=False))
    log = losses(tmp_path / "killed")
    assert log == losses(folder)
    assert ["r1" in line for line in log] == [True, False] * 4
    assert ["path" in line for line in log[:6]] == [True, False] * 3
    assert [line["p"] for line in log[:3]] == [0.3] * 3
    assert abs(log[3]["p"] - 0.3) == pytest.approx(0.3 if log[3]["p"] == 0 else 4 * 8 / 100)  # at the fourth batch


def test_half_precision_trains_alike(whole_gan, tmp_path: Path) -> None:
    _, recipe, folder = whole_gan
    train_generator({**recipe, "precision": "bfloat16"}, tmp_path / "run", progress=False)
    for half, full in zip(losses(tmp_path / "run")[:3], losses(folder), strict=False):
        assert half["discriminator"] == pytest.approx(full["discriminator"], abs=0.1)
        assert half["discriminator"] != full["discriminator"]


def test_a_gan_learns_the_color_of_its_pictures(tmp_path: Path) -> None:
    """One color, and a discriminator that sees nothing else: samples take it on."""
    (tmp_path / "faces").mkdir()
    for i in range(4):
        save_png(torch.full((1, 3, 32, 32), 0.5 + 0.1 * i), tmp_path / "faces" / f"{i}.png")
    stage = {"size": 32, "steps": 40, "samples": 8, "lr": 0.01, "adversary": {"weight": 1.0}}
    recipe = {
        **copy.deepcopy(GAN), "data": {"folder": str(tmp_path / "faces")}, "generator": to_dict(SMALL),
        "discriminator": {"lr": 0.01, "r1_gamma": 0.1, "changes": []}, "stages": {"only": stage}, "save_every": 40,
    }  # fmt: skip

    def distance(generator: Generator) -> float:
        z = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
        return (generator(z, noise_mode="none").mean((2, 3)) - 0.65).abs().mean().item()

    before = distance(
        train_generator({**recipe, "stages": {"only": {**stage, "steps": 1}}}, tmp_path / "a", progress=False)
    )
    after = distance(train_generator(recipe, tmp_path / "b", progress=False))
    assert after < 0.6 * before


def exactly(face_set: tuple[torch.Tensor, torch.Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """Train on the faces in float64."""
    monkeypatch.setattr(training, "load_pictures", lambda settings, size: tuple(x.double() for x in face_set))


def test_accumulation_gives_the_same_gradient(float64, face_set, tmp_path: Path, monkeypatch) -> None:
    """A batch in two parts trains as one does, where no discriminator compares pictures."""
    exactly(face_set, monkeypatch)
    recipe = copy.deepcopy(RECIPE)
    recipe["stages"] = {
        "only": {"size": 32, "steps": 2, "faces": 4, "means": 4, "lr": 0.01, "reconstruction": {"latent_lr": 0.02}}
    }
    whole = train_generator(recipe, tmp_path / "whole", progress=False)
    recipe["stages"]["only"]["accumulate"] = 2
    parts = train_generator(recipe, tmp_path / "parts", progress=False)
    for name, value in whole.state_dict().items():
        assert value.dtype == torch.float64
        assert torch.allclose(value, parts.state_dict()[name], rtol=EXACT, atol=EXACT), name


def test_two_processes_train_as_one(float64, whole_gan, face_set, tmp_path: Path, monkeypatch) -> None:
    """The same weights in both; for a decoder, those of one process. (A discriminator compares pictures of a part.)"""
    stage = {
        "size": 32,
        "steps": 3,
        "faces": 4,
        "means": 4,
        "lr": 0.01,
        "reconstruction": {"latent_lr": 0.02, "texture": 1.0},
    }
    recipes = {"gan": whole_gan[1], "decoder": {**copy.deepcopy(RECIPE), "stages": {"only": stage}}}
    exactly(face_set, monkeypatch)
    torch.save(training.load_pictures(None, 0), tmp_path / "faces.pt")
    (tmp_path / "recipes.json").write_text(json.dumps(recipes))
    (tmp_path / "train.py").write_text(f"""
import json, os, sys, torch
from parity import in_float64
from voicestyle.train.generator import job as training
training.load_pictures = lambda settings, size: torch.load("{tmp_path}/faces.pt")
kind = sys.argv[1]
recipe = json.load(open("{tmp_path}/recipes.json"))[kind]
with in_float64():
    made = training.train_generator(recipe, f"{tmp_path}/{{kind}}", progress=False)
torch.save(made.state_dict(), f"{tmp_path}/{{kind}}{{os.environ['RANK']}}.pt")
""")
    for kind in recipes:  # each in a job of its own: processes that meet a second time in one job may wait for ever
        done = torchrun(tmp_path / "train.py", kind)
        assert done.returncode == 0, done.stderr[-2000:]
    one = train_generator(recipes["decoder"], tmp_path / "one", progress=False).state_dict()
    for kind in recipes:
        first, second = (torch.load(tmp_path / f"{kind}{rank}.pt") for rank in (0, 1))
        for name, value in first.items():
            assert torch.equal(value, second[name]), name
            assert kind == "gan" or torch.allclose(value, one[name], rtol=EXACT, atol=EXACT), name


def test_a_run_starts_from_a_narrower_one(tmp_path: Path) -> None:
    first = copy.deepcopy(RECIPE)
    first["stages"] = {"decode32": RECIPE["stages"]["decode32"]}
    train_generator(first, tmp_path / "first", progress=False)
    second = copy.deepcopy(RECIPE)
    second |= {"start": str(tmp_path / "first"), "generator": to_dict(GeneratorConfig(64, 12, 24, 2, 1.0, 0.0625, 16))}
    second["stages"] = {"go_on": {"size": 32, "steps": 2, "faces": 4, "means": 4, "lr": 1e-6}}
    train_generator(second, tmp_path / "second", progress=False)
    assert losses(tmp_path / "second")[0]["pixel"] < 0.7 * losses(tmp_path / "first")[0]["pixel"]
    second["start"] = str(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="no saved state to start from"):
        train_generator(second, tmp_path / "third", progress=False)


def test_growing_keeps_the_lower_layers() -> None:
    small = Generator(SMALL)
    large = grow(small.state_dict(), LARGE)
    for name, value in small.state_dict().items():
        assert torch.equal(value, large.state_dict()[name]), name


def test_widening_keeps_the_pictures() -> None:
    small = Generator(SMALL).requires_grad_(False)
    wide = grow(small.state_dict(), GeneratorConfig(32, 12, 40, 2, 1.0, 0.0625, 16)).requires_grad_(False)
    z = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    # the normalization of z is a mean square, so that new components of the same size do not change the others
    z = z / z.square().mean(1, keepdim=True).sqrt()
    more = torch.cat([z, torch.ones(3, 4)], 1)
    assert torch.allclose(small(z, noise_mode="none"), wide(more, noise_mode="none"), atol=1e-4)


def test_growing_a_discriminator_keeps_the_lower_blocks() -> None:
    small, large = Discriminator(SMALL), Discriminator(LARGE)
    grown = grow_discriminator(small.state_dict(), large).state_dict()
    assert torch.equal(grown["blocks.1.conv1.weight"], small.state_dict()["blocks.0.conv1.weight"])
    assert torch.equal(grown["logit.weight"], small.state_dict()["logit.weight"])


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({}, "stages.a.faces: no pictures in a batch"),
        ({"samples": 4}, "stages.a.samples: they have no target, and need adversary.weight above 0"),
        ({"faces": 3, "accumulate": 2}, "stages.a.faces: got 3, which cannot be cut into 2 parts"),
        (
            {"faces": 2, "reconstruction": {"identity": 1.0}},
            r"stages.a.reconstruction.identity: it needs the section \[identity\]",
        ),
        (
            {"samples": 4, "adversary": {"weight": 1.0}, "reconstruction": {"texture": 1.0}},
            "stages.a.reconstruction.texture: it is for faces and means",
        ),
        ({"faces": 2, "regularizers": {"path": 1.0}}, "stages.a.regularizers.path: it is for samples"),
    ],
)
def test_stages_that_do_not_fit_are_refused(tmp_path: Path, stage: dict[str, Any], message: str) -> None:
    stages = {"a": {"size": 32, "steps": 1, "lr": 1.0, **stage}}
    with pytest.raises(ValueError, match=f"^recipe: {message}"):
        train_generator({**RECIPE, "stages": stages}, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_a_wrong_path_leaves_no_run_folder_behind(tmp_path: Path) -> None:
    recipe = {name: value for name, value in RECIPE.items() if name != "codes"}
    recipe |= {"data": {"folder": str(tmp_path / "nowhere")}}
    recipe |= {"stages": {"a": {"size": 32, "steps": 1, "lr": 1.0, "samples": 2, "adversary": {"weight": 1.0}}}}
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        train_generator(recipe, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_the_toy_recipe_runs(whole_gan, tmp_path: Path) -> None:
    recipe = load_recipe(
        RECIPES / "toy_generator.toml",
        GeneratorRecipe,
        [f"data.folder={whole_gan[1]['data']['folder']}", "stages.low.steps=1", "stages.high.steps=2"],
    )
    assert train_generator(recipe, tmp_path / "run", progress=False).config.size == 64
