"""The one-shot inverter: its two parts, its place in a model folder, and inversions that start from it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import voicestyle
from tiny import CONFIG, parts, save_tiny, tiny_generator
from voicestyle.build.prototypes import Projector, build_bank
from voicestyle.checkpoint import INVERTER, load_model, save_model
from voicestyle.config import InverterConfig
from voicestyle.image import to_pil
from voicestyle.nn.inverter import Inverter
from voicestyle.sampling import mean_latents

WITH_INVERTER = dataclasses.replace(CONFIG, inverter=InverterConfig.tiny())


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def samples() -> tuple[torch.Tensor, torch.Tensor]:
    """Latents of a tiny generator and their pictures."""
    generator = tiny_generator()
    w = mean_latents(generator, 200, 4, rng())
    return w, generator.synthesis(w)


@pytest.fixture(scope="module")
def inverter(samples: tuple[torch.Tensor, torch.Tensor]) -> Inverter:
    """Its linear part solved, its ResNet at random."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Inverter(InverterConfig.tiny()).eval().requires_grad_(False)
    w, images = samples
    network.solve_linear(network.small(images), w, ridge=1e-3)
    return network


@pytest.fixture(scope="module")
def folder(tmp_path_factory, inverter: Inverter) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "with", WITH_INVERTER, *parts(), inverter=inverter)


def test_the_linear_part_is_a_ridge_regression(samples: tuple[torch.Tensor, torch.Tensor], inverter: Inverter) -> None:
    w, images = (v.double().numpy() for v in samples)
    x = images.reshape(200, 3, 8, 4, 8, 4).mean((3, 5)).reshape(200, -1)
    mean, variance = x.mean(0), x.var(0).mean() * len(x)
    x = x - mean
    weight = np.linalg.inv(x.T @ x + 1e-3 * variance * np.eye(x.shape[1])) @ x.T @ (w - w.mean(0))
    expected = x @ weight + w.mean(0)
    assert np.allclose(inverter(samples[1]).numpy(), expected, atol=1e-4)  # the head is zero: all of it is linear
    assert np.mean((expected - w) ** 2) < 0.2 * w.var(0).mean()


def test_the_head_adds_what_the_resnet_sees(samples: tuple[torch.Tensor, torch.Tensor], inverter: Inverter) -> None:
    network = Inverter(inverter.config).eval()
    network.load_state_dict(inverter.state_dict())
    network.head.bias.data[3] = 2.0
    difference = network(samples[1]) - inverter(samples[1])
    assert torch.allclose(difference[:, 3], torch.tensor(2.0), atol=1e-4)
    assert difference[:, [0, 1, 2, *range(4, 16)]].abs().max() < 1e-4


def test_larger_pictures_are_averaged_down(samples: tuple[torch.Tensor, torch.Tensor], inverter: Inverter) -> None:
    images = samples[1][:4]
    doubled = images.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.allclose(inverter(doubled), inverter(images), atol=1e-4)


# -------------------------------------------------------------------------------------------------- in a model folder


def test_a_model_keeps_its_inverter(folder: Path, inverter: Inverter, samples, tmp_path: Path) -> None:
    model = load_model(folder)
    assert model.config.inverter == inverter.config and not model.inverter.training
    assert torch.allclose(model.inverter(samples[1]), inverter(samples[1]), atol=0.02)  # stored as float16
    assert model.summary()["inverter_fingerprint"] == model.inverter_fingerprint
    assert model.summary()["num_parameters"]["inverter"] == sum(p.numel() for p in inverter.parameters())
    again = save_model(tmp_path / "again", model.config, model.encoder, model.generator, inverter=model.inverter)
    assert load_model(again).inverter_fingerprint == model.inverter_fingerprint


def test_without_its_file_a_model_has_no_inverter(folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        if path.name != INVERTER:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    assert load_model(tmp_path).inverter is None
    assert "inverter" not in load_model(tmp_path).summary()["num_parameters"]


def test_the_inverter_of_another_generator_is_refused(folder: Path, tmp_path: Path) -> None:
    encoder, _, _ = parts()
    save_model(tmp_path / "other", WITH_INVERTER, encoder, tiny_generator(seed=1))
    (tmp_path / "other" / INVERTER).write_bytes((folder / INVERTER).read_bytes())
    with pytest.raises(ValueError, match=r"inverter\.safetensors: inverts generator .*, but the model's is"):
        load_model(tmp_path / "other")


def test_an_inverter_is_saved_with_its_generator_and_config(inverter: Inverter, tmp_path: Path) -> None:
    encoder, generator, bank = parts()
    with pytest.raises(ValueError, match="expected a generator, and the same in the config"):
        save_model(tmp_path / "a", CONFIG, encoder, generator, bank, inverter=inverter)
    with pytest.raises(ValueError, match="expected a generator"):
        save_model(tmp_path / "b", WITH_INVERTER, encoder, inverter=inverter)


# ------------------------------------------------------------------------------------------------ where searches start


@pytest.fixture(scope="module")
def vs(folder: Path) -> voicestyle.VoiceStyle:
    return voicestyle.load(folder, device="cpu")


def test_an_inversion_starts_at_the_models_inverter(vs, samples) -> None:
    images = samples[1][:2]
    estimate = vs.model.inverter(images)
    assert torch.equal(vs.invert(images, steps=0).w, estimate)
    assert torch.equal(vs.invert(images, steps=0, start="w_avg").w, vs.generator.w_avg.expand(2, -1))
    linear = vs.invert(images, steps=0, start="linear").w
    assert not torch.equal(linear, estimate) and (linear - samples[0][:2]).norm() < (vs.generator.w_avg - linear).norm()
    assert torch.equal(vs.invert(images, "w_plus", steps=0).w, estimate[:, None].expand(-1, vs.generator.num_ws, -1))
    assert torch.equal(vs.invert(images, steps=0, w_init=samples[0][:2]).w, samples[0][:2])


def test_a_few_steps_from_an_estimate_do_what_many_from_the_mean_do(vs, samples) -> None:
    images = samples[1][:4]
    few = vs.invert(images, steps=5, start="inverter", perceptual="pixel").loss
    from_mean = vs.invert(images, steps=5, start="w_avg", perceptual="pixel").loss
    assert (few < 0.5 * from_mean).all()


def test_a_model_without_inverter_says_how_to_get_one(tmp_path: Path, samples) -> None:
    vs = voicestyle.load(save_tiny(tmp_path / "tiny"), device="cpu")
    assert torch.equal(vs.invert(samples[1][:1], steps=0).w, vs.generator.w_avg[None])
    with pytest.raises(ValueError, match="no inverter; `voicestyle train inverter` adds one"):
        vs.invert(samples[1][:1], steps=0, start="inverter")


def test_a_bank_is_built_by_the_models_inverter(vs, samples) -> None:
    pictures = list(samples[1][:6].split(1))
    bank = build_bank(vs.model, pictures, list("abcdef"), 2, start="inverter", steps=0)
    assert torch.allclose(bank.member_w, vs.model.inverter(samples[1][:6]), atol=1e-4)
    with pytest.raises(ValueError, match="this model has no inverter"):
        build_bank(dataclasses.replace(vs.model, inverter=None), pictures, list("abcdef"), 2, start="inverter")


def test_an_estimate_that_draws_worse_than_the_mean_face_is_no_start(vs, samples, monkeypatch) -> None:
    seen = {}

    def invert(*_: object, w_init: torch.Tensor, **__: object) -> SimpleNamespace:
        seen["start"] = w_init
        return SimpleNamespace(w=w_init)

    wrong = samples[0][:2].clone()
    wrong[1] += 50 * vs.generator.w_std
    monkeypatch.setattr("voicestyle.build.prototypes.invert", invert)
    monkeypatch.setattr(Projector, "_estimate", lambda _, images: wrong)
    Projector(vs.model, start="inverter", steps=1)([(b"", lambda: (list(samples[1][:2].split(1)), samples[1][:2]))])
    assert torch.equal(seen["start"][0], wrong[0]) and torch.equal(seen["start"][1], vs.generator.w_avg)


# ------------------------------------------------------------------------------------------------------- command line


def run(*arguments: object) -> tuple[int, str]:
    from click.testing import CliRunner

    from voicestyle.cli import main

    result = CliRunner().invoke(main, [str(a) for a in arguments])
    return result.exit_code, result.output


def test_inverting_a_picture_shows_both_side_by_side(folder: Path, tmp_path: Path, samples) -> None:
    to_pil(samples[1][:1])[0].save(tmp_path / "photo.png")
    out = tmp_path / "out.png"
    code, printed = run("invert", tmp_path / "photo.png", "-o", out, "--compare", "--steps", 1, "--model", folder,
                        "--perceptual", "pixel", "--json")  # fmt: skip
    assert code == 0, printed
    record = json.loads(printed.splitlines()[-1])
    assert record["start"] == "inverter" and record["compared"] == str(tmp_path / "out-compare.png")
    with Image.open(record["compared"]) as sheet, Image.open(out) as alone:
        assert "AI-generated" in sheet.text and "AI-generated" in alone.text
        assert sheet.width > 2 * alone.width


def test_starts_are_named(folder: Path, tmp_path: Path, samples) -> None:
    to_pil(samples[1][:1])[0].save(tmp_path / "photo.png")
    found = {}
    for start in ("w_avg", "linear", "inverter"):
        common = ("--steps", 0, "--model", folder, "--perceptual", "pixel")
        code, printed = run(
            "invert", tmp_path / "photo.png", "-o", tmp_path / f"{start}.png", "--start", start, *common
        )
        assert code == 0, printed
        found[start] = np.load(tmp_path / f"{start}.npy")
    assert len({latent.tobytes() for latent in found.values()}) == 3
