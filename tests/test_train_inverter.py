"""Training of a one-shot inverter at toy size: it learns, resumes to the same weights, and goes into its model."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch

from tiny import save_tiny, tiny_generator
from voicestyle.checkpoint import load_model
from voicestyle.image import save_png
from voicestyle.nn.inverter import Inverter
from voicestyle.sampling import mean_latents
from voicestyle.schema import to_dict
from voicestyle.train import inverter as training
from voicestyle.train.inverter import InverterRecipe, read_settings, train_inverter
from voicestyle.train.recipe import load_recipe

RECIPES = Path(__file__).resolve().parents[1] / "recipes"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> dict:
    """The toy recipe, with a tiny model and pictures that its generator can draw."""
    root = tmp_path_factory.mktemp("inverter")
    generator = tiny_generator()
    images = generator.synthesis(mean_latents(generator, 60, 3, torch.Generator().manual_seed(5)))
    (root / "faces").mkdir()
    for number, image in enumerate(images.split(1)):
        save_png(image, root / "faces" / f"{number:02d}.png")
    recipe = load_recipe(RECIPES / "toy_inverter.toml", InverterRecipe, [f"data.folder={root / 'faces'}"])
    return recipe | {"model": str(save_tiny(root / "tiny"))}


def log(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(recipe: dict, tmp_path_factory) -> tuple[Path, Inverter]:
    """A run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return folder, train_inverter(recipe, folder, progress=False, device="cpu")


@pytest.fixture(scope="module")
def short(recipe: dict) -> dict:
    """The same recipe with a few steps."""
    return recipe | {"save_every": 4, "log_every": 1, "schedule": recipe["schedule"] | {"steps": 12}}


def test_it_learns_more_than_the_linear_part_knows(whole: tuple[Path, Inverter], recipe: dict) -> None:
    lines = log(whole[0])
    scores = [line["psnr"] for line in lines if "psnr" in line]
    assert lines[0]["step"] == 0 and max(scores[1:]) > scores[0] + 0.3  # the first is the linear part alone
    assert {"latent", "pixel", "identity"} <= set(lines[1])
    generator = tiny_generator()
    w = mean_latents(generator, 40, 3, torch.Generator().manual_seed(9))  # none of those it learnt from
    images, inverter = generator.synthesis(w), whole[1]
    alone = inverter.linear(inverter.small(images))
    with torch.no_grad():
        errors = [(generator.synthesis(v) - images).square().mean() for v in (inverter(images), alone)]
    assert errors[0] < errors[1]


def test_its_model_is_the_recipes_with_the_best_weights(whole: tuple[Path, Inverter], recipe: dict) -> None:
    folder, inverter = whole
    model, before = load_model(folder / "model"), load_model(recipe["model"])
    assert model.encoder_fingerprint == before.encoder_fingerprint
    assert model.generator_fingerprint == before.generator_fingerprint and len(model.bank.member_keys) == 40
    for name, value in inverter.state_dict().items():
        assert torch.allclose(model.inverter.state_dict()[name].double(), value.double(), atol=2e-3), name
    state = torch.load(folder / "state" / "last.pt", weights_only=True)
    scores = [line["psnr"] for line in log(folder) if "psnr" in line]
    assert state["best_psnr"] == max(scores)
    assert all(torch.equal(v, inverter.state_dict()[k]) for k, v in state["best_weights"].items())


@pytest.mark.parametrize("stop", [3, 10])
def test_a_killed_run_resumes_to_the_same_weights(short: dict, tmp_path: Path, monkeypatch, stop: int) -> None:
    whole = train_inverter(short, tmp_path / "whole", progress=False, device="cpu")
    step = training.InverterTrainer.train_step

    def dies(self):
        if self.step == stop:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(training.InverterTrainer, "train_step", dies)
    with pytest.raises(KeyboardInterrupt):
        train_inverter(short, tmp_path / "run", progress=False, device="cpu")
    monkeypatch.setattr(training.InverterTrainer, "train_step", step)
    resumed = train_inverter(short, tmp_path / "run", resume=True, progress=False, device="cpu")
    assert all(torch.equal(v, resumed.state_dict()[k]) for k, v in whole.state_dict().items())
    state, expected = (torch.load(tmp_path / name / "state" / "last.pt") for name in ("run", "whole"))
    assert all(torch.equal(v, state["inverter"][k]) for k, v in expected["inverter"].items())
    assert log(tmp_path / "run") == log(tmp_path / "whole")


def test_samples_alone_are_enough(short: dict, tmp_path: Path) -> None:
    recipe = copy.deepcopy(short)
    del recipe["data"]
    recipe["schedule"] |= {"pictures": 0, "steps": 8}
    train_inverter(recipe, tmp_path / "run", progress=False, device="cpu")
    scores = [line["psnr"] for line in log(tmp_path / "run") if "psnr" in line]
    assert len(scores) == 3 and all(10 < score < 100 for score in scores)


def test_left_out_pictures_are_not_trained_on(recipe: dict) -> None:
    mirrored = recipe | {"data": recipe["data"] | {"mirror": True}}
    trainer = training.InverterTrainer(read_settings(mirrored), load_model(recipe["model"]))
    trained = trainer.stream.batch(trainer.train_rows, 32)
    assert len(trained) == 2 * (60 - recipe["num_validation"])
    for picture in trainer.held_out:
        for mine in (picture, picture.flip(2)):
            assert (trained - mine).abs().amax((1, 2, 3)).min() > 0.01


def test_the_ridge_that_draws_the_left_out_pictures_best_is_taken(recipe: dict) -> None:
    model = load_model(recipe["model"])

    def start(*ridge: float) -> training.InverterTrainer:
        return training.InverterTrainer(
            read_settings(recipe | {"samples": recipe["samples"] | {"ridge": list(ridge)}}), model
        )

    alone = {ridge: start(ridge) for ridge in (1e3, 0.1, 1e2)}
    scores = {ridge: trainer.score(trainer.inverter) for ridge, trainer in alone.items()}
    assert max(scores, key=scores.get) == 0.1
    together = start(*scores)
    assert together.validate() == pytest.approx(scores[0.1], abs=1e-4)  # the average starts there too
    assert torch.equal(together.inverter.linear.weight, alone[0.1].inverter.linear.weight)


def test_a_wrong_path_leaves_no_run_folder_behind(recipe: dict, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        train_inverter(recipe | {"data": {"folder": str(tmp_path / "nowhere")}}, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_a_model_without_generator_is_refused(recipe: dict, tmp_path: Path) -> None:
    for path in Path(recipe["model"]).iterdir():
        if path.stem not in ("generator", "prototypes"):
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(ValueError, match="no generator to invert"):
        train_inverter(recipe | {"model": str(tmp_path)}, tmp_path / "run", progress=False)


def test_the_recipe_of_the_embedded_model_makes_a_small_network() -> None:
    recipe = load_recipe(RECIPES / "embedded_inverter.toml", InverterRecipe)
    settings = read_settings(recipe)
    network = Inverter(training.InverterConfig(w_dim=128, **to_dict(settings.inverter)))
    assert 2 * sum(p.numel() for p in network.parameters()) < 3e6  # bytes, in float16
