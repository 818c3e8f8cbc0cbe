"""Losses of generator training against plain oracles, and the discriminator of patches."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from voicestyle.config import GeneratorConfig
from voicestyle.nn.patch import PatchDiscriminator
from voicestyle.nn.stylegan2 import Generator
from voicestyle.train.generator.adversary import lazy_adam, r1_penalty
from voicestyle.train.generator.codes import RowAdam
from voicestyle.train.generator.draws import draw_batch
from voicestyle.train.generator.losses import mix_styles, path_lengths, pixel_loss, texture_loss
from voicestyle.train.generator.settings import Regularizers, Stage


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_pixel_loss_against_a_plain_sum() -> None:
    a, b = random(2, 2, 3, 5, 5)
    error = a - b
    across = sum((error[..., i + 1] - error[..., i]).abs().sum() for i in range(4)) / (2 * 3 * 5 * 4)
    down = sum((error[..., i + 1, :] - error[..., i, :]).abs().sum() for i in range(4)) / (2 * 3 * 5 * 4)
    want = error.abs().sum() / error.numel() + (error**2).sum() / error.numel() + across + down
    assert torch.allclose(pixel_loss(a, b), want, atol=1e-5)


def test_texture_is_about_roughness_and_not_phase() -> None:
    rough, other, smooth = random(1, 3, 64, 64), random(1, 3, 64, 64, seed=1), torch.zeros(1, 3, 64, 64)
    assert texture_loss(rough, rough) == 0
    assert texture_loss(rough, other) < 0.2 * texture_loss(rough, smooth)
    assert texture_loss(smooth, smooth + 0.5) == 0  # of a plain ground
    image = smooth.clone().requires_grad_()
    texture_loss(image, rough).backward()
    assert torch.isfinite(image.grad).all()


def test_path_lengths_of_a_linear_map() -> None:
    """A picture that is linear in w has a Jacobian that can be multiplied out."""
    matrix = random(2, 5, 3 * 8 * 8, seed=1)  # (num_ws, w_dim, pixels)
    w = random(4, 2, 5, seed=2).requires_grad_()
    image = torch.einsum("nld,ldp->np", w, matrix).view(4, 3, 8, 8)
    lengths = path_lengths(image, w, torch.Generator().manual_seed(3))
    noise = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(3)).flatten(1) / 8
    for i in range(4):
        per_layer = [(matrix[layer] @ noise[i]).square().sum() for layer in range(2)]
        assert torch.allclose(lengths[i], torch.stack(per_layer).mean().sqrt(), rtol=1e-4)


def test_path_lengths_can_be_trained() -> None:
    """Their gradient, which is one of a gradient, is the slope of their value."""
    torch.manual_seed(0)
    generator = Generator(GeneratorConfig.tiny()).double()
    w = generator.mapping(random(2, 16).double())[:, None].repeat(1, generator.num_ws, 1).detach().requires_grad_()
    weight = generator.synthesis.convs[3].conv.weight

    def value() -> torch.Tensor:
        return path_lengths(generator.synthesis(w, "none"), w, torch.Generator().manual_seed(1)).square().mean()

    value().backward()
    slope, way = weight.grad.clone(), random(*weight.shape, seed=4).double()
    with torch.no_grad():
        weight += 1e-5 * way
    up = value()
    with torch.no_grad():
        weight -= 2e-5 * way
    assert ((up - value()) / 2e-5).item() == pytest.approx((slope * way).sum().item(), rel=1e-3)


def test_r1_of_a_linear_discriminator() -> None:
    """Its gradient is its weight, wherever it looks; a mean over patches divides."""
    weight = random(3 * 8 * 8, 2, seed=1)
    linear = nn.Linear(3 * 8 * 8, 2)
    linear.weight.data = weight.t().clone()
    network = nn.Sequential(nn.Flatten(), linear)
    assert torch.allclose(r1_penalty(network, random(4, 3, 8, 8)), weight.mean(1).square().sum(), rtol=1e-4)


def test_lazy_adam() -> None:
    plain, lazy = (lazy_adam([nn.Parameter(torch.zeros(1))], 0.1, 0.5, every) for every in (None, 4))
    assert plain.defaults["lr"] == 0.1 and plain.defaults["betas"] == (0.5, 0.99)
    assert lazy.defaults["lr"] == pytest.approx(0.08)
    assert lazy.defaults["betas"] == (pytest.approx(0.5**0.8), pytest.approx(0.99**0.8))


def test_mixed_styles_change_at_the_crossover() -> None:
    w, other = random(3, 5), random(3, 5, seed=1)
    mixed = mix_styles(w, other, torch.tensor([1, 3, 4]), 4)
    for i, crossover in enumerate([1, 3, 4]):
        for layer in range(4):
            assert torch.equal(mixed[i, layer], w[i] if layer < crossover else other[i])


def test_a_batch_is_what_its_stage_says() -> None:
    stage = Stage(32, 1, 0.1, faces=4, means=6, samples=8, regularizers=Regularizers(mixing=0.5, psi_min=0.6))
    batch = draw_batch(stage, 20, 7, 10, torch.Generator().manual_seed(0))
    assert len(set(batch.faces.tolist())) == 4
    assert torch.allclose(batch.weights.sum(1), torch.ones(6))
    assert torch.equal(batch.weights[::2], torch.full((3, 8), 1 / 8))
    assert ((batch.weights[1::2] > 0).sum(1) >= 2).all()
    assert batch.crossover.min() >= 1 and 0 < (batch.crossover == 10).sum() < 8
    assert batch.psi.min() >= 0.6 and batch.psi.max() <= 1
    parts = [batch.part(i, 2) for i in range(2)]
    assert torch.equal(torch.cat([part.z for part in parts]), batch.z)


def test_row_adam_is_adam_of_each_row_alone() -> None:
    table = random(3, 4)
    rows = [nn.Parameter(row.clone()) for row in table]
    plain = [torch.optim.Adam([row], 0.1, (0.9, 0.99)) for row in rows]
    adam = RowAdam(table)
    for seen in ([0, 2], [2], [1, 2], [0]):
        gradient = random(len(seen), 4, seed=len(seen) + seen[0])
        adam.step(torch.tensor(seen), gradient, 0.1)
        for i, g in zip(seen, gradient, strict=True):
            rows[i].grad = g
            plain[i].step()
    assert torch.allclose(table, torch.stack([row.data for row in rows]), atol=1e-5)


@pytest.mark.parametrize("size", [32, 64, 128])
def test_patches_of_three_sizes_weigh_the_same(size: int) -> None:
    torch.manual_seed(0)
    network = PatchDiscriminator(size, 4)
    logits = network(random(2, 3, size, size))
    num = (size // 8) ** 2
    assert logits.shape == (2, 3 * num)
    assert (logits[:, 2 * num :] == logits[:, 2 * num : 2 * num + 1]).all()  # the whole
    assert len(logits[0, num : 2 * num].unique()) <= (size // 16) ** 2


def test_a_small_patch_sees_its_place_alone() -> None:
    torch.manual_seed(0)
    network = PatchDiscriminator(64, 4)
    image = random(1, 3, 64, 64)
    other = image.clone()
    other[..., 48:, 48:] += 1
    before, after = (network(x)[0, :64].view(8, 8) for x in (image, other))
    assert torch.allclose(before[:3, :3], after[:3, :3], atol=1e-5) and (before[7, 7] - after[7, 7]).abs() > 1e-4
