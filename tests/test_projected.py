"""Projected discriminators: what is random stays as it is, every scale counts alike, and judges learn."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from voicestyle.nn.projected import ProjectedDiscriminator

CHANNELS, MIXED = (4, 6, 8, 10), (8, 8, 16, 16)


def maps(num: int, seed: int = 0) -> list[Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return [torch.randn(num, c, 32 >> i, 32 >> i, generator=rng) for i, c in enumerate(CHANNELS)]


@pytest.fixture
def network() -> ProjectedDiscriminator:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ProjectedDiscriminator(CHANNELS, MIXED).eval()  # training moves the spectral norms


def test_each_scale_has_the_same_part_of_the_logits(network: ProjectedDiscriminator) -> None:
    logits = [judge(x) for judge, x in zip(network.judges, network.mixing(maps(3)), strict=True)]
    assert [x.shape for x in logits] == [torch.Size([3, 1, 4, 4])] * 4
    assert torch.equal(network(maps(3)), torch.cat([x.flatten(1) for x in logits], 1))


def test_every_scale_knows_the_coarser_ones_and_none_the_finer(network: ProjectedDiscriminator) -> None:
    plain = network.mixing(maps(1))
    for i in range(4):
        changed = maps(1)
        changed[i] = changed[i] + 1
        differs = [not torch.equal(a, b) for a, b in zip(plain, network.mixing(changed), strict=True)]
        assert differs == [j <= i for j in range(4)]


def test_judges_learn_and_the_mixing_does_not(network: ProjectedDiscriminator) -> None:
    network.train()
    before = {name: value.clone() for name, value in network.mixing.state_dict().items()}
    optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], 1e-3)
    real, fake = maps(8), [0.7 * x for x in maps(8, seed=1)]
    losses = []
    for _ in range(30):
        loss = (1 - network(real)).relu().mean() + (1 + network(fake)).relu().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    assert all(torch.equal(value, before[name]) for name, value in network.mixing.state_dict().items())
