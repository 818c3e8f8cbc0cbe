"""The most likely latents: a naive oracle where everything is linear, and what the steps may not do."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from tiny import tiny_generator
from voicestyle.likely import IDENTITY, LOOK, LOOKS, SIZE, LikelyInverter, coarse, regressed, see

DIM = 6


class Linear:
    """A generator that draws linearly, and whose latents are a Gaussian."""

    def __init__(self, seed: int = 0) -> None:
        rng = torch.Generator().manual_seed(seed)
        self.root = torch.randn(DIM, DIM, generator=rng).double() / 4
        self.paint = torch.randn(DIM, 3 * SIZE**2, generator=rng).double() / 400
        self.eye = torch.randn(3 * SIZE**2, 5, generator=rng).double() / 8
        self.config = SimpleNamespace(z_dim=DIM)
        self.w_avg = torch.zeros(DIM).double()

    def mapping(self, z: Tensor) -> Tensor:
        return z.double() @ self.root + 0.3

    def synthesis(self, w: Tensor) -> Tensor:
        return (w @ self.paint).view(-1, 3, SIZE, SIZE)

    def identity(self, image: Tensor) -> Tensor:
        return image.flatten(1) @ self.eye


@pytest.fixture
def linear() -> Linear:
    return Linear()


def test_where_all_is_linear_it_is_the_mean_of_the_posterior(linear: Linear, monkeypatch) -> None:
    monkeypatch.setattr("voicestyle.likely.RIDGE", 1e-9)
    inverter = LikelyInverter.learn(linear, linear.identity, 4000, progress=False)  # type: ignore[arg-type]
    image = torch.rand(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1)).double() - 0.5
    found = inverter(image)
    # the oracle: Gaussian conditioning with the covariances of the same samples
    w = linear.mapping(torch.randn(4000, DIM, generator=torch.Generator().manual_seed(0)))
    y = torch.cat([linear.identity(linear.synthesis(w)), linear.synthesis(w).flatten(1)], 1)
    spread = y.var(0)
    # what is drawn has DIM dimensions, and the mean is over all 64 components
    look = LOOK * spread[5:].sum() / LOOKS
    noise = torch.cat([IDENTITY * spread[:5].mean().expand(5), look.expand(y.shape[1] - 5)])
    slope = torch.linalg.lstsq(w - w.mean(0), y - y.mean(0)).solution  # exact: all is linear
    hessian = slope @ (slope / noise).T + torch.linalg.inv(torch.cov(w.T))
    target = torch.cat([linear.identity(image), image.flatten(1)], 1) - y.mean(0)
    expected = w.mean(0) + torch.linalg.solve(hessian, slope @ (target / noise).T).T
    assert (found - expected).abs().max() < 1e-6 * expected.std()


def test_each_picture_has_its_own_latent_and_none_is_worse_than_the_mean() -> None:
    generator = tiny_generator().double()
    features = torch.nn.Conv2d(3, 4, 3).double().requires_grad_(False)

    def identity(image: Tensor) -> Tensor:
        return features(image).relu().mean((2, 3))

    inverter = LikelyInverter.learn(generator, identity, 60, progress=False)
    size = generator.config.size
    image = torch.rand(5, 3, size, size).double() * 2 - 1
    found = inverter(image)
    assert (found[2:3] - inverter(image[2:3])).abs().max() < 1e-9
    target = inverter._features(identity(image), coarse(image))

    def cost(w: Tensor) -> Tensor:
        return inverter._cost(w, inverter._features(*see(generator, identity, w)), target)

    mean = inverter.learnt["mean"].expand_as(found)
    assert (cost(found) <= cost(mean)).all() and (cost(found) < cost(mean) - 1e-6).any()


def test_what_is_learnt_is_kept(tmp_path, linear: Linear) -> None:
    first = LikelyInverter.learn(linear, linear.identity, 40, cache=tmp_path, fingerprint="a" * 64, progress=False)  # type: ignore[arg-type]
    linear.synthesis = lambda w: 1 / 0  # type: ignore[assignment,method-assign]
    second = LikelyInverter.learn(linear, linear.identity, 40, cache=tmp_path, fingerprint="a" * 64, progress=False)  # type: ignore[arg-type]
    assert all(torch.equal(first.learnt[name], second.learnt[name]) for name in first.learnt)


def test_it_needs_no_more_than_samples_of_latents_and_features() -> None:
    rng = torch.Generator().manual_seed(0)
    w = torch.randn(50, 4, generator=rng).double()
    learnt = regressed(w, w @ torch.randn(4, 3, generator=rng).double(), torch.randn(50, 8, generator=rng).double())
    assert learnt["map"].shape == (11, 4) and learnt["precision"].shape == (11,)
