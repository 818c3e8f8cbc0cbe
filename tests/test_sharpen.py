"""Sharpening: what it starts from stays as it is, its parts do what they say, and a run ends in a model."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from test_efficientnet import upstream_state
from tiny import tiny_encoder, tiny_generator
from voicestyle.checkpoint import load_model, save_model
from voicestyle.config import GeneratorConfig, InverterConfig, VoiceStyleConfig
from voicestyle.convert.efficientnet import read_efficientnet
from voicestyle.data.manifest import Item, Manifest
from voicestyle.nn.inverter import Inverter
from voicestyle.nn.stylegan2 import Generator
from voicestyle.train.generator.gaussian import RIDGE, whitened, with_gaussian
from voicestyle.train.generator.grow import widen
from voicestyle.train.sharpen.detail import MOST
from voicestyle.train.sharpen.fakes import Codes, Gallery
from voicestyle.train.sharpen.job import train_sharpen
from voicestyle.train.sharpen.judge import Views
from voicestyle.train.sharpen.part import is_new
from voicestyle.train.sharpen.settings import DataConfig, read_settings
from voicestyle.train.sharpen.trainer import SharpenTrainer


def test_a_wider_generator_draws_the_same() -> None:
    narrow = tiny_generator()
    config = dataclasses.replace(narrow.config, channel_multiplier=2 * narrow.config.channel_multiplier, channel_max=24)
    wide = widen(narrow.state_dict(), config)
    w = torch.randn(3, config.w_dim)
    assert wide.synthesis.convs[-1].bias.shape[0] > narrow.synthesis.convs[-1].bias.shape[0]
    torch.testing.assert_close(wide.synthesis(w), narrow.synthesis(w), rtol=1e-4, atol=1e-4)


def test_a_mapping_can_be_a_gaussian_and_nothing_else_changes() -> None:
    old = tiny_generator().double()
    size = old.config.w_dim
    rng = torch.Generator().manual_seed(1)
    mean, root = torch.randn(size, generator=rng).double(), torch.randn(size, size, generator=rng).double() * 0.3
    new, shift = with_gaussian(old, mean, root)
    w = torch.randn(4, size, generator=rng).double()
    assert (new.synthesis(w + shift) - old.synthesis(w)).abs().max() < 1e-10
    drawn = new.mapping(torch.randn(50_000, size, generator=rng).double()) - shift
    spread = (root @ root.T).diagonal().sqrt()
    assert ((drawn.mean(0) - mean) / spread).abs().max() < 0.03
    # z is normalized: its covariance is that of the Gaussian all the same
    assert (torch.cov(drawn.T) - root @ root.T).abs().max() < 0.05 * spread.max() ** 2


def test_whitened_latents_draw_the_same_and_vary_alike() -> None:
    old = tiny_generator().double()
    size = old.config.w_dim
    rng = torch.Generator().manual_seed(2)
    scale = torch.logspace(-1, 0.5, size).double()
    mean, root = torch.randn(size, generator=rng).double(), torch.randn(size, size, generator=rng).double() * scale
    config = InverterConfig(w_dim=size, size=32, linear_size=8, depth=10, width=4)
    inverter = Inverter(config).double().eval()
    torch.nn.init.normal_(inverter.head.weight)
    new, other, left = whitened(old, inverter, mean, root)
    image = torch.rand(3, 3, 32, 32, generator=rng).double() * 2 - 1
    assert (new.synthesis(other(image)) - old.synthesis(inverter(image))).abs().max() < 1e-4  # details are float32
    spread = torch.linalg.eigvalsh(root @ root.T)
    torch.testing.assert_close(torch.linalg.eigvalsh(left @ left.T), spread / (spread + RIDGE * spread.mean()))


def test_a_mapping_of_another_shape_is_refused() -> None:
    generator = tiny_generator()
    generator.config = dataclasses.replace(generator.config, z_dim=8)
    with pytest.raises(ValueError, match="expected equal sizes and at least two layers"):
        with_gaussian(generator, torch.zeros(16), torch.eye(16))


def test_views_are_the_same_for_a_picture_and_its_target() -> None:
    views = Views(4, 24, torch.Generator().manual_seed(0))
    image = torch.rand(4, 3, 24, 24) * 2 - 1
    assert torch.equal(views(image)[1:3], views(image[1:3], first=1))
    assert not torch.equal(views(image), image)


@pytest.fixture
def data(tmp_path: Path) -> DataConfig:
    """Six portraits of two sources, as a manifest."""
    rng = np.random.default_rng(0)
    items = []
    for i, person in enumerate(["a/1", "a/2", "a/3", "a/4", "a/5", "b/1"]):
        path = tmp_path / f"portrait{i}.png"
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
        items.append(Item(f"portrait{i}", "train", person, frontal=path))
    Manifest(tuple(items)).write(tmp_path / "portraits.csv")
    return DataConfig(str(tmp_path / "portraits.csv"), {"a": 1.0, "b": 5.0})


def test_sources_are_balanced_and_mirrors_are_mirrored(data: DataConfig) -> None:
    gallery = Gallery(data, 32, seed=0)
    assert len(gallery) == 2 * 6
    rows = gallery.portraits(2000)
    assert 0.45 < (rows % 6 == 5).mean() < 0.55
    assert 0.45 < (rows >= 6).mean() < 0.55
    assert torch.equal(gallery.pictures(np.array([2])).flip(3), gallery.pictures(np.array([8])))
    assert gallery.whole(np.array([0])).shape == (1, 3, 64, 64)


def test_a_source_without_a_weight_is_named(data: DataConfig) -> None:
    with pytest.raises(ValueError, match=r"no weight for source \['b'\]"):
        Gallery(dataclasses.replace(data, weights={"a": 1.0}), 32, seed=0)


def test_codes_follow_their_gradient_and_are_measured(data: DataConfig) -> None:
    gallery = Gallery(data, 32, seed=0)
    inverter = Inverter(InverterConfig(w_dim=16, size=32, linear_size=8, depth=10, width=4)).eval()
    codes = Codes(gallery, inverter, rate=0.1)
    share = torch.from_numpy(np.tile(gallery.share, 2)) / 2
    torch.testing.assert_close(codes.mean, (share @ codes.known[:12].double()).float())
    before = codes.known.clone()
    codes.follow(np.array([3]), torch.ones(1, 16))
    moved = (before - codes.known)[3]
    torch.testing.assert_close(moved, torch.full((16,), 0.1 * codes.spread / 4), rtol=1e-3, atol=1e-6)
    assert torch.equal(codes.known[:3], before[:3])
    assert codes.unpaired(4, turn=0).shape == (4, 16)


@pytest.fixture
def recipe(data: DataConfig, tmp_path: Path) -> dict[str, Any]:
    generator = Generator(dataclasses.replace(GeneratorConfig.tiny(), size=64)).eval()
    inverter_config = InverterConfig(w_dim=16, size=32, linear_size=8, depth=10, width=4)
    encoder = tiny_encoder()
    config = VoiceStyleConfig("tiny", encoder.config, generator.config, inverter=inverter_config)
    save_model(tmp_path / "soft", config, encoder, generator, inverter=Inverter(inverter_config).eval())
    torch.save({name: value.float() for name, value in upstream_state().items()}, tmp_path / "lite1.pth")
    return {
        "seed": 0, "model": str(tmp_path / "soft"), "features": str(tmp_path / "lite1.pth"),
        "steps": {"faces": 2, "detail": 2, "alone": 1}, "log_every": 1, "save_every": 1,
        "channel_multiplier": generator.config.channel_multiplier, "data": dataclasses.asdict(data),
        "batch": {"portraits": 2, "unpaired": 2},
    }  # fmt: skip


def test_a_run_ends_in_a_model_of_twice_the_size(recipe: dict[str, Any], tmp_path: Path) -> None:
    train_sharpen(recipe, tmp_path / "run", progress=False)
    model = load_model(tmp_path / "run" / "model")
    assert model.generator is not None and model.inverter is not None
    assert model.generator.config.size == 128
    assert model.config.guidance.size == 64
    assert model.generator.synthesis(model.inverter(torch.zeros(1, 3, 128, 128))).shape == (1, 3, 128, 128)
    log = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert ["adversarial" in line for line in log] == [False, True, False, True]
    assert ["anchor" in line for line in log] == [True, True, False, False]
    assert (tmp_path / "run" / "faces_000004.png").is_file()


def trainer_of(recipe: dict[str, Any]) -> SharpenTrainer:
    return SharpenTrainer(read_settings(recipe), load_model(recipe["model"]), read_efficientnet(recipe["features"]))


def test_each_part_teaches_its_own_layers(recipe: dict[str, Any]) -> None:
    trainer = trainer_of(recipe)
    states = [{name: value.clone() for name, value in trainer.generator.synthesis.named_parameters()}]
    for _ in range(4):
        trainer.train_step()
        states.append({name: value.clone() for name, value in trainer.generator.synthesis.named_parameters()})
    average = dict(trainer.average.synthesis.named_parameters())
    for name in states[0]:
        new = is_new(name, trainer.generator)
        assert torch.equal(states[0][name], states[2][name]) == new, name
        assert torch.equal(states[3][name], states[4][name]) != new, name
        assert torch.equal(states[4][name], average[name]) != new, name  # the average is what the block stands on


def test_a_crop_is_what_the_whole_picture_shows_there(recipe: dict[str, Any]) -> None:
    trainer = trainer_of(recipe)
    synthesis = trainer.generator.synthesis
    for conv in synthesis.convs:
        conv.noise_strength.data.zero_()
    w = trainer.codes.known[:2]
    x, below = synthesis.features(w, "none", until=64)
    whole = synthesis(w, "none")
    for top, left in ((0, 0), (5, 9), (32, 32)):
        crop = trainer.detail._crop(w, x, below, top, left)
        assert (crop - whole[:, :, 2 * top : 2 * top + 64, 2 * left : 2 * left + 64]).abs().max() < 1e-4


def test_the_adversary_is_held_at_a_ratio_of_gradients(recipe: dict[str, Any]) -> None:
    part = trainer_of(recipe).detail
    made = torch.randn(3, 3, 4, 4, requires_grad=True)
    for _ in range(200):
        part._weigh(made, 7 * made[:2].sum(), 2 * made[:2].sum(), 2)
    assert part.weight == pytest.approx(min(0.6 * 2 / 7, MOST), rel=1e-3)
    for _ in range(200):
        part._weigh(made, 700 * made[:2].sum(), 2 * made[:2].sum(), 2)
    assert part.weight == pytest.approx(0.6 * 2 / 700, rel=1e-3)


def test_a_resumed_run_is_the_same_run(recipe: dict[str, Any]) -> None:
    through = trainer_of(recipe)
    for _ in range(4):
        through.train_step()
    for stop in (1, 3):
        first = trainer_of(recipe)
        for _ in range(stop):
            first.train_step()
        second = trainer_of(recipe)
        second.load_state_dict(copy.deepcopy(first.state_dict()))
        for _ in range(4 - stop):
            second.train_step()
        assert torch.equal(second.codes.known, through.codes.known)
        pairs = zip(second.average.parameters(), through.average.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


def test_settings_that_do_not_fit_are_refused(recipe: dict[str, Any]) -> None:
    for change, message in (
        ({"stepz": 1}, "stepz"),
        ({"steps": {"faces": 0, "detail": 1}}, "steps.faces: got 0"),
        ({"steps": {"faces": 1}}, "steps.detail: missing"),
    ):
        with pytest.raises(ValueError, match=message):
            read_settings(recipe | change)
    del recipe["data"]
    with pytest.raises(ValueError, match="data: missing"):
        read_settings(recipe)
