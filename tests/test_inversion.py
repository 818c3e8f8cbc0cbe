"""From a picture to its latent."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from parity import difference, double
from tiny import tiny_generator
from voicestyle.align import face_region
from voicestyle.inversion import LinearInverter, ReconstructionObjective, identity_features, invert
from voicestyle.nn.stylegan2 import Generator


@pytest.fixture(scope="module")
def generator() -> Generator:
    return tiny_generator()


@pytest.fixture(scope="module")
def images(generator: Generator) -> Tensor:
    return generator(torch.randn(3, 16, generator=torch.Generator().manual_seed(5)))


def features(image: Tensor) -> Tensor:
    """Stands for a face backbone: the mean color of each quarter."""
    return torch.nn.functional.adaptive_avg_pool2d(image, 2).flatten(1)


def test_the_distance_of_a_picture_to_itself_is_zero(images: Tensor) -> None:
    objective = ReconstructionObjective(images, features)
    assert torch.allclose(objective(images, None), torch.zeros(3), atol=1e-6)
    assert (objective(images.flip(0)[:, :, :, ::1], None)[[0, 2]] > 1e-3).all()


def test_pixel_distance_equals_the_formula(images: Tensor) -> None:
    other = images.roll(1, 0)
    expected = torch.zeros(3)
    for factor in (1, 2, 4, 8):
        for i in range(3):
            small = [x[i].reshape(3, 32 // factor, factor, 32 // factor, factor).mean((2, 4)) for x in (images, other)]
            error = (small[1] - small[0]).flatten()
            expected[i] += (error.abs().mean() + error.square().mean()) / 4
    assert torch.allclose(ReconstructionObjective(images).pixel_distance(other), expected, atol=1e-5)


def test_identity_does_not_fade_with_the_batch(images: Tensor) -> None:
    other = images.roll(1, 0)
    together = ReconstructionObjective(images, features)(other, None)
    alone = [ReconstructionObjective(images[i : i + 1], features)(other[i : i + 1], None) for i in range(3)]
    assert torch.allclose(torch.cat(alone), together, atol=1e-6)


def test_weights_add_the_terms(images: Tensor) -> None:
    other = images.roll(1, 0)
    objective = ReconstructionObjective(images, features, pixel_weight=2.0, identity_weight=3.0)
    expected = 2 * objective.pixel_distance(other) + 3 * objective.identity_distance(other)
    assert torch.allclose(objective(other, None), expected)


class Look(torch.nn.Module):
    """Stands for LPIPS: differences of the picture's edges. It counts what it looks at."""

    name = "LPIPS"

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[tuple[int, ...]] = []

    def features(self, image: Tensor) -> list[Tensor]:
        self.sizes.append(tuple(image.shape))
        return [image.diff(dim=3)]

    def distance(self, a: list[Tensor], b: list[Tensor]) -> Tensor:
        return (a[0] - b[0]).square().mean((1, 2, 3))


def test_a_perceptual_distance_takes_the_place_of_pixels(images: Tensor) -> None:
    other, look = images.roll(1, 0), Look()
    objective = ReconstructionObjective(images, features, look)
    perceptual = (other.diff(dim=3) - images.diff(dim=3)).square().mean((1, 2, 3))
    assert torch.allclose(objective.perceptual_distance(other), perceptual)
    assert torch.allclose(objective(other, None), perceptual + objective.identity_distance(other))
    given = ReconstructionObjective(
        images, features, look, perceptual_weight=2.0, pixel_weight=3.0, identity_weight=0.0
    )
    assert torch.allclose(given(other, None), 2 * perceptual + 3 * given.pixel_distance(other))


def test_the_target_is_looked_at_once_and_large_pictures_in_small(images: Tensor) -> None:
    look = Look()
    objective = ReconstructionObjective(images.repeat(1, 1, 32, 32), perceptual=look)
    objective(images.roll(1, 0).repeat(1, 1, 32, 32), None)
    objective(images.repeat(1, 1, 32, 32), None)
    assert look.sizes == [(3, 3, 256, 256)] * 3


def test_the_identity_network_of_a_model_comes_first() -> None:
    encoder, network = SimpleNamespace(identity_features="own"), SimpleNamespace(identity_features="network")
    assert identity_features(encoder, None) == "own" and identity_features(encoder, network) == "network"


def test_outside_of_the_region_only_the_person_counts(images: Tensor) -> None:
    other, region = images.roll(1, 0), face_region(32)
    inside = torch.where(region > 0, other, images)
    found = ReconstructionObjective(images, features, Look(), pixel_weight=1.0, region=region)
    assert torch.allclose(found.pixel_distance(other), found.pixel_distance(inside), atol=1e-6)
    assert torch.allclose(found.perceptual_distance(other), found.perceptual_distance(inside), atol=1e-6)
    assert (found.identity_distance(other) - found.identity_distance(inside)).abs().min() > 1e-4
    whole = ReconstructionObjective(images, region=torch.ones(1, 1, 32, 32))
    assert torch.allclose(whole.pixel_distance(other), ReconstructionObjective(images).pixel_distance(other))


def test_the_pixel_distance_is_a_mean_over_the_region(images: Tensor) -> None:
    """The same error everywhere is as far with a small region as with all of the picture."""
    region = torch.zeros(1, 1, 32, 32)
    region[..., 8:24, 8:24] = 1  # edges that every scale of the pyramid has too
    everywhere, inside = (ReconstructionObjective(images, region=r) for r in (None, region))
    assert torch.allclose(inside.pixel_distance(images + 0.5), everywhere.pixel_distance(images + 0.5), atol=1e-5)


def test_invert_finds_pictures_of_the_generator(generator: Generator, images: Tensor) -> None:
    result = invert(generator, images, features, steps=40)
    start = ReconstructionObjective(images, features)(generator.synthesis(generator.w_avg.repeat(3, 1)), None)
    assert result.w.shape == (3, 16) and (result.loss < 0.5 * start).all()


def test_the_batch_bounds_memory_and_changes_no_result(float64, generator: Generator, images: Tensor) -> None:
    generator, images = double(generator), images.double()
    whole = invert(generator, images, features, steps=10, lr=0.05)
    parts = invert(generator, images, features, steps=10, lr=0.05, batch=2)
    assert difference(parts.w, whole.w) < 1e-9  # ten steps on from 1e-15
    assert [len(entry["loss"]) for entry in parts.history] == [3] * 10


def test_w_plus_reconstructs_what_w_cannot(generator: Generator, images: Tensor) -> None:
    odd = images.flip(2)  # no picture of this generator
    w = invert(generator, odd, steps=24)
    w_plus = invert(generator, odd, steps=24, space="w_plus", w_init=w.w)
    assert w_plus.w.shape == (3, generator.num_ws, 16)
    assert (w_plus.loss < w.loss).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[:, :, :16], r"got shape \(3, 3, 16, 32\), expected \(N, 3, 32, 32\)"),
        (lambda x: x[:0], "expected"),
        (lambda x: x / 0, "not finite"),
    ],
)
def test_unfit_pictures_are_errors(generator: Generator, images: Tensor, change, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        invert(generator, change(images), steps=1)


def test_unfit_starts_are_errors(generator: Generator, images: Tensor) -> None:
    with pytest.raises(ValueError, match="w_init"):
        invert(generator, images, w_init=torch.zeros(2, 16), steps=1)
    with pytest.raises(ValueError, match="space"):
        invert(generator, images, space="z", steps=1)


def test_the_linear_estimate_is_a_better_start_than_the_mean(generator: Generator, images: Tensor) -> None:
    inverter = LinearInverter.learn(generator, 400)
    estimate = inverter(images)
    assert estimate.shape == (3, generator.config.w_dim) and estimate.dtype == images.dtype
    objective = ReconstructionObjective(images)
    with torch.no_grad():
        from_mean = objective(generator.synthesis(generator.w_avg.expand(3, -1)), None)
        from_estimate = objective(generator.synthesis(estimate), None)
    assert from_estimate.mean() < 0.7 * from_mean.mean()
    assert torch.equal(estimate, LinearInverter.learn(generator, 400)(images))
