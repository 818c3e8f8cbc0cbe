"""The one loop: schedule, noise, independence of samples, what is kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from fill import inp
from parity import EXACT, difference, double
from tiny import tiny_generator
from voicestyle.latent import (
    lr_ramp,
    noise_ramp,
    noise_regularizer,
    normalize_noise,
    optimize_latent,
    w_statistics,
)
from voicestyle.nn.stylegan2 import Generator


@pytest.fixture(scope="module")
def generator() -> Generator:
    return tiny_generator()


def rand(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def target(generator: Generator) -> Tensor:
    return generator(rand(3, 16))


def distance_to(target: Tensor):
    return lambda image, w: (image - target).square().mean((1, 2, 3))


# ------------------------------------------------------------------------------------------------- golden numbers


def folded(maps: list[Tensor]) -> list[Tensor]:
    """The reference takes the mean over the batch too: its two samples as two channels of one."""
    return [m.transpose(0, 1) for m in maps]


def test_lr_ramp_is_the_reference_projector_s(golden_dir) -> None:
    expected = np.load(golden_dir / "projector.npz")["lr"]
    assert np.allclose([0.1 * lr_ramp(i / 100) for i in range(100)], expected, atol=1e-12)


def test_noise_regularizer_and_normalization_are_the_reference_projector_s(golden_dir) -> None:
    golden = np.load(golden_dir / "projector.npz")
    maps = folded([inp(f"reg{i}", (2, 1, s, s)).double() for i, s in enumerate((4, 8, 16, 32, 64))])
    # the golden numbers are float32 ones
    assert noise_regularizer(maps).item() == pytest.approx(float(golden["noise_regularizer"]), rel=1e-6)
    normal = normalize_noise(maps)
    assert np.allclose(normal[0].transpose(0, 1), golden["normalized0"], atol=1e-6)
    assert np.allclose([m.mean() for m in normal], golden["normalized_mean"], atol=1e-7)


def test_noise_regularizer_equals_a_naive_sum_for_each_sample() -> None:
    maps = [rand(2, 1, s, s, seed=s).double() for s in (4, 16)]
    expected = torch.zeros(2, dtype=torch.float64)
    for sample in range(2):
        for noise in maps:
            x = noise[sample, 0]
            while True:
                size = len(x)
                right = sum(x[i, j] * x[i, j - 1] for i in range(size) for j in range(size)) / size**2
                down = sum(x[i, j] * x[i - 1, j] for i in range(size) for j in range(size)) / size**2
                expected[sample] += right**2 + down**2
                if size <= 8:
                    break
                x = x.reshape(size // 2, 2, size // 2, 2).mean((1, 3))
    assert difference(noise_regularizer(maps), expected) < EXACT


def test_noise_ramp_falls_squared_to_zero_at_three_quarters() -> None:
    assert [noise_ramp(t) for t in (0, 0.375, 0.75, 0.9)] == [1, 0.25, 0, 0]


# --------------------------------------------------------------------------------------------------- w statistics


def test_w_statistics_are_the_mean_and_the_rms_distance_from_it(generator: Generator) -> None:
    w_avg, w_std = w_statistics(generator, 1500, seed=3)
    w = generator.mapping(rand(1500, 16, seed=3))
    assert torch.allclose(w_avg, w.mean(0), atol=1e-5)
    assert w_std.item() == pytest.approx((w - w.mean(0)).norm(dim=1).square().mean().sqrt().item(), rel=1e-4)
    assert torch.equal(w_statistics(generator, 1500, seed=3)[0], w_avg)


# ------------------------------------------------------------------------------------------------------- the loop


def start(generator: Generator, num: int = 3) -> Tensor:
    return generator.w_avg.repeat(num, 1)


def test_the_loss_falls_and_belongs_to_the_latent_returned(generator: Generator, target: Tensor) -> None:
    objective = distance_to(target)
    before = objective(generator.synthesis(start(generator)), None)
    result = optimize_latent(generator, start(generator), objective, num_steps=30, lr=0.1)
    assert (result.loss < 0.5 * before).all()
    assert torch.allclose(objective(generator.synthesis(result.w), None), result.loss, atol=1e-6)
    assert len(result.history) == 30 and len(result.history[0]["loss"]) == 3
    assert result.noise is None and not result.w.requires_grad


@pytest.mark.parametrize("optimize_noise", [False, True])
def test_a_sample_s_result_does_not_depend_on_its_batch(
    float64, generator: Generator, target: Tensor, optimize_noise: bool
) -> None:
    generator, target = double(generator), target.double()
    together = optimize_latent(
        generator, start(generator), distance_to(target), num_steps=8, lr=0.05, optimize_noise=optimize_noise
    )
    for i in range(3):
        alone = optimize_latent(
            generator, start(generator, 1), distance_to(target[i : i + 1]), num_steps=8, lr=0.05,
            optimize_noise=optimize_noise,
        )  # fmt: skip
        assert alone.w.dtype == torch.float64
        assert difference(alone.w[0], together.w[i]) < 1e-9  # eight steps on from 1e-15
        assert difference(alone.loss[0], together.loss[i]) < 1e-9


def test_the_descent_is_torch_s_adam(generator: Generator, target: Tensor) -> None:
    objective = distance_to(target)
    found = optimize_latent(generator, start(generator), objective, num_steps=6, lr=0.05, latent_noise=0, keep="last")
    w = start(generator).clone().requires_grad_(True)
    adam = torch.optim.Adam([w])
    for step in range(6):
        adam.param_groups[0]["lr"] = 0.05 * lr_ramp(step / 6)
        adam.zero_grad()
        objective(generator.synthesis(w), w).sum().backward()
        adam.step()
    assert torch.allclose(found.w, w, rtol=0, atol=1e-5)


def test_no_step_waits_for_what_was_computed(generator: Generator, target: Tensor, monkeypatch) -> None:
    """On a GPU, to read a number is to wait until all before it is done. The CPU's own check of losses aside."""
    from torch.utils._python_dispatch import TorchDispatchMode

    from voicestyle import latent

    class Reads(TorchDispatchMode):
        num = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.num += func is torch.ops.aten._local_scalar_dense.default
            return func(*args, **(kwargs or {}))

    monkeypatch.setattr(latent, "_check_finite", lambda losses: None)
    counts = []
    for steps in (4, 12):
        with Reads() as reads:
            optimize_latent(generator, start(generator), distance_to(target), num_steps=steps, lr=0.05)
        counts.append(reads.num)
    assert counts[0] == counts[1], counts


def test_the_same_seed_repeats_and_another_does_not(generator: Generator, target: Tensor) -> None:
    runs = [
        optimize_latent(generator, start(generator), distance_to(target), num_steps=10, lr=0.05, seed=s)
        for s in (1, 1, 2)
    ]
    assert torch.equal(runs[0].w, runs[1].w)
    assert not torch.equal(runs[0].w, runs[2].w)


def test_the_global_random_state_is_not_touched(generator: Generator, target: Tensor) -> None:
    before = torch.get_rng_state()
    optimize_latent(generator, start(generator), distance_to(target), num_steps=3, lr=0.05, optimize_noise=True)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_step_that_makes_things_worse_returns_the_start(generator: Generator, target: Tensor) -> None:
    w_init = generator.mapping(rand(3, 16))  # the answer itself
    best = optimize_latent(generator, w_init, distance_to(target), num_steps=12, lr=5.0)
    last = optimize_latent(generator, w_init, distance_to(target), num_steps=12, lr=5.0, keep="last")
    assert torch.equal(best.w, w_init) and (best.loss < 1e-9).all()
    assert (last.loss > best.loss).all()


def test_each_sample_keeps_its_own_best(generator: Generator, target: Tensor) -> None:
    w_init = start(generator)
    w_init[1] = generator.mapping(rand(3, 16))[1]  # already perfect, the others are not
    result = optimize_latent(generator, w_init, distance_to(target), num_steps=40, lr=0.1)
    assert torch.equal(result.w[1], w_init[1])
    assert not torch.equal(result.w[0], w_init[0])


def test_noisy_steps_are_never_the_best(generator: Generator) -> None:
    """An objective that rewards distance from the start would prefer a picture made with latent noise."""
    w_init = start(generator, 1)
    plain = generator.synthesis(w_init)
    result = optimize_latent(
        generator, w_init, lambda image, w: -(image - plain).square().mean((1, 2, 3)) + 0 * w.sum(1), num_steps=4,
        lr=0.0, latent_noise=5.0,
    )  # fmt: skip
    assert result.loss.item() == pytest.approx(0, abs=1e-9)
    assert min(entry["loss"][0] for entry in result.history) < -1e-6


def test_score_decides_what_is_best(generator: Generator, target: Tensor) -> None:
    moved = optimize_latent(
        generator, start(generator), distance_to(target), num_steps=20, lr=0.1, score=lambda image, w: -w.sum(1)
    )
    assert torch.allclose(moved.loss, -moved.w.sum(1))


def test_no_steps_return_the_start_with_its_loss(generator: Generator, target: Tensor) -> None:
    result = optimize_latent(generator, start(generator), distance_to(target), num_steps=0, lr=0.1)
    assert torch.equal(result.w, start(generator)) and result.history == [] and (result.loss > 0).all()


def test_w_plus_latents_move_apart(generator: Generator, target: Tensor) -> None:
    w_init = start(generator)[:, None].repeat(1, generator.num_ws, 1)
    result = optimize_latent(generator, w_init, distance_to(target), num_steps=20, lr=0.1)
    assert result.w.shape == w_init.shape
    assert not torch.allclose(result.w[:, 0], result.w[:, -1])


def test_optimized_noise_stays_normalized_and_is_used(generator: Generator, target: Tensor) -> None:
    result = optimize_latent(
        generator, start(generator), distance_to(target), num_steps=8, lr=0.05, optimize_noise=True, latent_noise=0
    )
    assert [tuple(n.shape) for n in result.noise] == [(3, *s[1:]) for s in generator.synthesis.noise_shapes]
    for noise in result.noise[1:]:
        assert torch.allclose(noise.mean((1, 2, 3)), torch.zeros(3), atol=0.2)
    image = generator.synthesis(result.w, noise=result.noise)
    assert torch.allclose(distance_to(target)(image, None), result.loss, atol=1e-5)


def test_coupled_samples_share_one_price_of_their_noise(generator: Generator, target: Tensor) -> None:
    """The plain formula is in test_reference_settings; here, that samples then do depend on their batch."""
    settings = {"num_steps": 4, "lr": 0.05, "samples": "coupled", "optimize_noise": True}
    together = optimize_latent(generator, start(generator), distance_to(target), **settings)
    alone = optimize_latent(generator, start(generator, 1), distance_to(target[:1]), **settings)
    assert not torch.allclose(alone.w[0], together.w[0], atol=1e-3)
    for noise in together.noise:
        assert noise.mean().item() == pytest.approx(0, abs=1e-5) and noise.std().item() == pytest.approx(1, abs=1e-4)
        assert not torch.allclose(noise[0], noise[1], atol=0.1)


def test_patience_ends_a_run_that_stands_still(generator: Generator, target: Tensor) -> None:
    w_init = generator.mapping(rand(3, 16))
    result = optimize_latent(generator, w_init, distance_to(target), num_steps=50, lr=1.0, latent_noise=0, patience=5)
    assert len(result.history) < 12
    assert torch.equal(result.w, w_init)


def test_bfloat16_gives_a_float32_result_close_to_float32_s(generator: Generator, target: Tensor) -> None:
    settings = {"num_steps": 40, "lr": 0.1}
    exact = optimize_latent(generator, start(generator), distance_to(target), **settings)
    rough = optimize_latent(generator, start(generator), distance_to(target), **settings, dtype=torch.bfloat16)
    assert rough.w.dtype == torch.float32
    assert torch.allclose(distance_to(target)(generator.synthesis(rough.w), None), rough.loss, atol=1e-6)
    assert (rough.loss < exact.loss + 0.02).all()


def test_the_callback_sees_every_step(generator: Generator, target: Tensor) -> None:
    seen = []
    optimize_latent(
        generator, start(generator), distance_to(target), num_steps=4, lr=0.1,
        callback=lambda step, *tensors: seen.append((step, *(tuple(t.shape) for t in tensors))),
    )  # fmt: skip
    assert seen == [(i, (3, 3, 32, 32), (3, 16), (3,)) for i in range(4)]


def test_a_loss_that_is_not_finite_is_an_error(generator: Generator) -> None:
    def objective(image: Tensor, w: Tensor) -> Tensor:
        return torch.stack([w[0].sum(), w[1].sum() * float("nan")])

    with pytest.raises(ValueError, match=r"loss of sample \[1\] is not finite"):
        optimize_latent(generator, start(generator, 2), objective, num_steps=2, lr=0.1)


def test_a_loss_of_another_shape_is_an_error(generator: Generator) -> None:
    with pytest.raises(ValueError, match="expected one a sample"):
        optimize_latent(generator, start(generator, 2), lambda image, w: image.mean(), num_steps=2, lr=0.1)


def test_in_half_precision_nothing_worse_than_the_start_is_kept(generator: Generator) -> None:
    """Where the way is flat, bfloat16 cannot tell losses apart: by float32 the start is often the best."""
    w = generator.mapping(rand(24, 16, seed=3))
    target = generator.synthesis(w)
    far = w + 0.002 * rand(24, 16, seed=4)

    def off_by_much(image: Tensor, w: Tensor) -> Tensor:
        return 100 + distance_to(target)(image, w)

    found = optimize_latent(
        generator, far, off_by_much, num_steps=8, lr=0.02, latent_noise=0.0, dtype=torch.bfloat16
    )  # fmt: skip
    at_start = off_by_much(generator.synthesis(far), far)
    at_end = off_by_much(generator.synthesis(found.w), found.w)
    assert (at_end <= at_start).all()
    torch.testing.assert_close(found.loss, at_end)
