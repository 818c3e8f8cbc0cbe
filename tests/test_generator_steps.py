"""What a step of a generator's training computes does not rest on parts, processes, stages, stops, or the precision."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from test_train_generator import GAN, RECIPE, SMALL, killed, losses, same, toy_faces  # noqa: F401, the fixture
from together import at_once, threads
from voicestyle.config import GeneratorConfig
from voicestyle.schema import to_dict
from voicestyle.train.distributed import World
from voicestyle.train.generator import trainer as module
from voicestyle.train.generator.codes import FaceCodes
from voicestyle.train.generator.grow import rename
from voicestyle.train.generator.job import train_generator
from voicestyle.train.generator.morph import MorphSpace
from voicestyle.train.generator.settings import read_settings
from voicestyle.train.generator.trainer import GeneratorTrainer

SAMPLES = {"size": 32, "steps": 3, "samples": 8, "lr": 0.01, "adversary": {"weight": 1.0}}


class Squares:
    """Sixteen pictures of one color each, in place of files."""

    def __len__(self) -> int:
        return 16

    def batch(self, rows: Tensor, size: int, then: Tensor | None = None) -> Tensor:
        return (rows / 8 - 1)[:, None, None, None].expand(-1, 3, size, size).float()


def trainer(stages: list[dict[str, Any]], world: World | None = None, **changes: Any) -> GeneratorTrainer:
    """A GAN of these stages, before its first step."""
    recipe = {**copy.deepcopy(GAN), "data": {"folder": "unused"}, **changes}
    recipe["stages"] = {f"stage{i}": stage for i, stage in enumerate(stages)}
    return GeneratorTrainer(read_settings(recipe), world or World(), Squares())


def close(a: torch.nn.Module, b: torch.nn.Module, atol: float) -> None:
    for name, value in a.state_dict().items():
        torch.testing.assert_close(value, b.state_dict()[name], atol=atol, rtol=0, msg=name)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_truncated_samples_train_in_half_precision(precision: str) -> None:
    made = trainer([{**SAMPLES, "regularizers": {"psi_min": 0.5}}], precision=precision)
    assert all(torch.isfinite(torch.tensor(list(made.train_step().values()))))


def test_the_mean_path_length_moves_once_a_step(monkeypatch) -> None:
    monkeypatch.setattr(module, "path_lengths", lambda image, w, rng: w.sum((1, 2)) * 0 + image.sum() * 0 + 1)
    for accumulate in (1, 2, 4):
        made = trainer([{**SAMPLES, "regularizers": {"path": 1.0}, "accumulate": accumulate}])
        penalty = made.train_step()["path"]
        assert made.path_mean.value.item() == pytest.approx(0.01)
        assert penalty == pytest.approx(1.0)  # all parts are measured by the same mean, that of the steps before


def test_parts_and_processes_train_as_each_other() -> None:
    """Noise maps, the noise of path lengths, and what is truncated towards: two processes, or a batch in two parts."""
    regularizers = {"path": 1.0, "path_every": 1, "mixing": 0.5, "psi_min": 0.5}
    stage = {**SAMPLES, "samples": 8, "noise": True, "regularizers": regularizers}
    # augmentation is steered by signs, which rounding may turn
    changes = {"discriminator": {"lr": 0.005, "r1_gamma": 1.0, "r1_every": 2, "changes": []}}

    parts = [{**stage, "accumulate": 2}]
    whole, first, second = trainer(parts, **changes), *(trainer([stage], world, **changes) for world in threads(2))
    for made in (whole, first, second):
        made.center.is_begun = True  # the first step of all truncates towards the mean of a part
    for _ in range(2):
        at_once(first.train_step, second.train_step)
        whole.train_step()
    close(first.generator, second.generator, 0)
    close(first.generator, whole.generator, 2e-3)
    torch.testing.assert_close(first.path_mean.value, whole.path_mean.value, rtol=1e-3, atol=0)
    torch.testing.assert_close(first.generator.w_avg, whole.generator.w_avg, rtol=0, atol=1e-4)


def test_no_two_parts_have_the_same_noise(monkeypatch) -> None:
    seen: list[Tensor] = []
    lengths = module.path_lengths

    def spy(image: Tensor, w: Tensor, rng: torch.Generator) -> Tensor:
        seen.append(torch.randn(4, generator=torch.Generator().manual_seed(rng.initial_seed())))
        return lengths(image, w, rng)

    monkeypatch.setattr(module, "path_lengths", spy)
    made = [trainer([{**SAMPLES, "regularizers": {"path": 1.0}, "accumulate": 2}], world) for world in threads(2)]
    at_once(*(one.train_step for one in made))
    assert len({tuple(noise.tolist()) for noise in seen}) == 4


@pytest.mark.parametrize("samples", [0, 2, 12])
def test_the_discriminator_pulls_a_picture_as_hard_as_asked(face_set, samples: int) -> None:
    """Beside samples, which have no target, too."""
    recipe = copy.deepcopy(RECIPE)
    stage = {"size": 64, "steps": 1, "faces": 2, "means": 2, "samples": samples, "lr": 0.01,
             "adversary": {"weight": 0.5, "weight_max": 1e9}}  # fmt: skip
    recipe["stages"] = {"only": stage}
    settings = read_settings(recipe)
    codes = FaceCodes(MorphSpace.build(*face_set), SMALL.z_dim, SMALL.w_dim, torch.device("cpu"))
    made = GeneratorTrainer(settings, World(), None, codes)
    stage = settings.stages["only"]
    part = module.draw_batch(stage, len(codes), SMALL.z_dim, made.generator.num_ws, torch.Generator().manual_seed(0))
    image = torch.randn(4 + samples, 3, 64, 64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    both, _ = made._picture_gradient(image, module.Part(0, part), is_judged=True)
    made.entered = replace(stage, adversary=replace(stage.adversary, weight=0.0))
    alone, _ = made._picture_gradient(image, module.Part(0, part), is_judged=True)
    pull = both - alone
    strength = [x.square().sum((1, 2, 3)).mean().sqrt() for x in (pull, alone[:4])]
    assert (strength[0] / strength[1]).item() == pytest.approx(0.5, rel=1e-3)


def test_the_average_grows_the_layers_of_what_it_averages() -> None:
    made = trainer([SAMPLES, {**SAMPLES, "size": 64}])
    made.step = 3
    made.enter()
    assert made.generator.config.size == 64 and same(made.generator, made.average)


@pytest.mark.parametrize("kind", ["stylegan2", "patch"])
@pytest.mark.parametrize("rests", [False, True])
def test_a_new_size_goes_on_with_what_was_learnt(kind: str, rests: bool) -> None:
    """The amount of augmentation and what both optimizers remember, though a stage has no discriminator between."""
    settings = {"discriminator": {"kind": kind, "channels": 4, "lr": 0.005, "p": 0.0}}
    made = trainer([{**SAMPLES, "steps": 1}, {**SAMPLES, "size": 64}], **settings)
    if rests:
        made.stages.insert(1, replace(made.stages[0], adversary=type(made.stages[0].adversary)()))
    made.train_step()
    made.adversary.probability.p = 0.37
    before = made.adversary.rest()
    while made.generator.config.size == 32:
        made.enter()
        assert (made.adversary is None) == (made.resting is not None)
        made.step += 1
    assert made.adversary.probability.p == 0.37
    network, held, moments = made.adversary.network, made.adversary.optimizer.state, before["moments"]
    moments = rename(moments, network) if kind == "stylegan2" else moments
    kept = [name for name, p in network.named_parameters() if p in held]
    assert len(kept) > 0.6 * len(moments)
    for name, parameter in network.named_parameters():
        assert name not in kept or torch.equal(held[parameter]["exp_avg"], moments[name]["exp_avg"])
    assert made.optimizer.state[made.generator.mapping.layers[0].weight]["step"].item() == 1


def test_a_resumed_run_keeps_the_discriminator_that_it_starts_from(tmp_path: Path, monkeypatch) -> None:
    """Although its own first stage has none."""
    sharpen = {**RECIPE["stages"]["sharpen64"], "steps": 2, "adversary": {"weight": 0.3, "feature": 0.1}}
    first = {**copy.deepcopy(RECIPE), "stages": {"sharpen64": sharpen}}
    train_generator(first, tmp_path / "first", progress=False)
    second = {**copy.deepcopy(RECIPE), "start": str(tmp_path / "first"), "save_every": 1}
    decode = {"size": 64, "steps": 2, "faces": 4, "means": 4, "lr": 0.01}
    second["stages"] = {"decode": decode, "sharpen64": sharpen}
    whole = train_generator(second, tmp_path / "whole", progress=False)
    killed(second, tmp_path / "killed", 1, monkeypatch)
    assert same(whole, train_generator(second, tmp_path / "killed", resume=True, progress=False))
    assert losses(tmp_path / "whole") == losses(tmp_path / "killed")


def test_other_seeds_see_other_batches(monkeypatch) -> None:
    drawn: dict[int, Tensor] = {}
    draw = module.draw_batch

    def spy(*arguments: Any) -> Any:
        batch = draw(*arguments)
        drawn[len(drawn)] = batch.z
        return batch

    monkeypatch.setattr(module, "draw_batch", spy)
    reals = []
    for seed in (0, 1):
        made = trainer([SAMPLES], seed=seed)
        reals.append(made._real_pictures())
        made.train_step()
    assert not torch.equal(drawn[0], drawn[1]) and not torch.equal(*reals)


def test_the_config_of_a_start_may_be_wider() -> None:
    """Its discriminator comes along, and augmentation begins as the recipe says."""
    first = trainer([SAMPLES])
    first.train_step()
    first.adversary.probability.p = 0.9
    recipe = {**copy.deepcopy(GAN), "data": {"folder": "unused"}, "stages": {"only": SAMPLES}}
    recipe["generator"] = to_dict(GeneratorConfig(64, 12, 24, 2, 1.0, 0.0625, 16))
    second = GeneratorTrainer(read_settings(recipe), World(), Squares(), start=first.state_dict())
    close(second.adversary.network, first.adversary.network, 0)
    assert second.adversary.probability.p == 0.3
