"""Generator training at toy size: it learns, resumes to the same weights, and grows."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch

from voicestyle.config import GeneratorConfig, to_dict
from voicestyle.nn.stylegan2 import Generator
from voicestyle.train import generator as training
from voicestyle.train.generator import augment, grow, reconstruction_loss, train_generator

RECIPE = {
    "seed": 0, "manifest": "unused", "landmarks": "unused", "ema_pictures": 40, "log_every": 1, "save_every": 6,
    "generator": to_dict(GeneratorConfig(64, 8, 16, 2, 1.0, 0.0625, 16)),
    "stages": {
        "decode32": {"size": 32, "steps": 24, "batch": 8, "lr": 0.03},
        "sharpen64": {"size": 64, "steps": 6, "batch": 4, "lr": 0.005, "adversarial_weight": 0.1, "r1_every": 2},
    },
}  # fmt: skip


@pytest.fixture(autouse=True)
def toy_faces(monkeypatch, face_set) -> None:
    monkeypatch.setattr(training, "load_pictures", lambda recipe, size: face_set)


def losses(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_training_learns_and_is_deterministic(tmp_path: Path) -> None:
    first = train_generator(RECIPE, tmp_path / "a", progress=False)
    log = losses(tmp_path / "a")
    assert sum(line["pixel"] for line in log[18:24]) < 0.6 * sum(line["pixel"] for line in log[:6])
    assert "adversarial" in log[-1] and "adversarial" not in log[0]
    assert (tmp_path / "a" / "samples_000030.png").is_file()
    assert first.config.size == 64
    assert first.w_std > 0 and first.w_avg.abs().sum() > 0
    again = train_generator(RECIPE, tmp_path / "b", progress=False)
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in first.state_dict().items())


@pytest.mark.parametrize("stop", [6, 24])
def test_a_killed_run_resumes_to_the_same_weights(tmp_path: Path, monkeypatch, stop: int) -> None:
    whole = train_generator(RECIPE, tmp_path / "whole", progress=False)
    step = training._Trainer.train_step

    def dies(self):
        if self.step == stop + 2:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(training._Trainer, "train_step", dies)
    with pytest.raises(KeyboardInterrupt):
        train_generator(RECIPE, tmp_path / "killed", progress=False)
    monkeypatch.setattr(training._Trainer, "train_step", step)
    resumed = train_generator(RECIPE, tmp_path / "killed", resume=True, progress=False)
    assert all(torch.equal(v, resumed.state_dict()[k]) for k, v in whole.state_dict().items())
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")


def test_growing_keeps_the_lower_layers() -> None:
    small = Generator(GeneratorConfig(32, 8, 16, 2, 1.0, 0.0625, 16))
    large = grow(small, GeneratorConfig(64, 8, 16, 2, 1.0, 0.0625, 16))
    for name, value in small.state_dict().items():
        assert torch.equal(value, large.state_dict()[name]), name


def test_unknown_settings_are_refused(tmp_path: Path) -> None:
    recipe = copy.deepcopy(RECIPE)
    recipe["stages"]["decode32"]["bach"] = 8
    with pytest.raises(ValueError, match=r"recipe: \[stages.decode32\]: unknown keys \['bach'\]"):
        train_generator(recipe, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_reconstruction_loss_against_a_plain_sum() -> None:
    a, b = torch.randn(2, 2, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    error = a - b
    across = sum((error[..., i + 1] - error[..., i]).abs().sum() for i in range(4)) / (2 * 3 * 5 * 4)
    down = sum((error[..., i + 1, :] - error[..., i, :]).abs().sum() for i in range(4)) / (2 * 3 * 5 * 4)
    want = error.abs().sum() / error.numel() + (error**2).sum() / error.numel() + across + down
    assert torch.allclose(reconstruction_loss(a, b), want, atol=1e-5)


def test_augmentation_keeps_shape_and_gradients() -> None:
    image = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
    view = augment(image, torch.Generator().manual_seed(1))
    assert view.shape == image.shape
    assert torch.equal(view, augment(image, torch.Generator().manual_seed(1)))
    assert not torch.equal(view, augment(image, torch.Generator().manual_seed(2)))
    view.sum().backward()
    assert image.grad.abs().sum() > 0
