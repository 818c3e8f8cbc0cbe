"""Winograd's convolution against the plain one."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from voicestyle.nn import winograd
from voicestyle.nn.winograd import conv3x3, pays


def rand(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize(
    ("num", "channels", "out", "height", "width"), [(1, 3, 5, 4, 4), (2, 7, 4, 12, 32), (3, 16, 24, 40, 8)]
)
@pytest.mark.parametrize("block", [1, 500_000])
def test_it_is_the_convolution(num, channels, out, height, width, block, monkeypatch) -> None:
    monkeypatch.setattr(winograd, "BLOCK", block)
    x, weight = rand(num, channels, height, width), rand(out, channels, 3, 3, seed=1)
    assert torch.allclose(winograd.winograd(x, weight), F.conv2d(x, weight, padding=1), rtol=0, atol=1e-10)


def test_value_and_gradient_are_those_of_the_plain_one(monkeypatch) -> None:
    monkeypatch.setattr(winograd, "MIN_CHANNELS", 8)
    x, weight, cotangent = rand(2, 8, 32, 36).requires_grad_(), rand(12, 8, 3, 3, seed=1), rand(2, 12, 32, 36, seed=2)
    assert pays(x, weight)
    got, expected = conv3x3(x, weight), F.conv2d(x, weight, padding=1)
    assert got.grad_fn.name() != expected.grad_fn.name() and torch.allclose(got, expected, rtol=0, atol=1e-10)
    mine, plain = (torch.autograd.grad(y, x, cotangent, create_graph=True)[0] for y in (got, expected))
    assert torch.allclose(mine, plain, rtol=0, atol=1e-10)


def test_second_derivatives_are_those_of_the_plain_one(monkeypatch) -> None:
    monkeypatch.setattr(winograd, "MIN_CHANNELS", 2)
    monkeypatch.setattr(winograd, "MIN_SIZE", 4)
    weight = rand(2, 2, 3, 3, seed=1)
    assert torch.autograd.gradgradcheck(lambda x: conv3x3(x, weight) ** 2, rand(1, 2, 4, 4).requires_grad_())


@pytest.mark.parametrize("change", ["weights in training", "few channels", "small", "not of tiles", "half"])
def test_it_is_left_alone_where_it_does_not_pay(change: str) -> None:
    x, weight = torch.ones(1, 128, 32, 32), torch.ones(128, 128, 3, 3)
    assert pays(x, weight)
    if change == "weights in training":
        weight.requires_grad_()
    x = {"few channels": x[:, :64], "small": x[..., :16, :16], "not of tiles": torch.ones(1, 128, 34, 34)}.get(
        change, x
    )
    weight = weight[:, :64] if change == "few channels" else weight
    if change == "half":
        x, weight = x.bfloat16(), weight.bfloat16()
    assert not pays(x, weight)
    assert torch.allclose(conv3x3(x, weight), F.conv2d(x, weight, padding=1))


def test_rounding_in_float32_is_small() -> None:
    x, weight = rand(1, 128, 32, 32, dtype=torch.float32), rand(128, 128, 3, 3, seed=1, dtype=torch.float32)
    exact = F.conv2d(x.double(), weight.double(), padding=1)
    assert (conv3x3(x, weight) - exact).abs().max() < 1e-4 * exact.abs().max()
