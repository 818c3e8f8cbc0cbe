"""What a step of a generator's training draws."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from voicestyle.train.generator.settings import Stage

MAX_MEMBERS = 8  # faces in one mean: as many as the method averages


@dataclass(frozen=True, eq=False)
class Draws:
    """All that is random in a whole batch or a part of one, but for augmentation and noise."""

    faces: Tensor  # (F,) training pictures, none twice
    members: Tensor  # (M,8) those whose latents are averaged
    weights: Tensor  # (M,8)
    z: Tensor  # (S,2,z_dim) of the sample, and of what may be mixed into it
    crossover: Tensor  # (S,) layers that the first of the two has
    psi: Tensor  # (S,1) truncation

    def part(self, index: int, num: int) -> Draws:
        """One of `num` parts of the same size."""
        cut = lambda x: x[len(x) * index // num : len(x) * (index + 1) // num]  # noqa: E731
        return Draws(*(cut(getattr(self, field.name)) for field in fields(self)))


def draw_batch(stage: Stage, num_faces: int, z_dim: int, num_ws: int, rng: torch.Generator) -> Draws:
    """The choices of a whole batch; every other mean is a plain one of eight, the others have random weights."""
    psi_min = stage.regularizers.psi_min
    count = torch.randint(2, MAX_MEMBERS + 1, (stage.means, 1), generator=rng)
    # exponential draws normalized to one are a uniform draw from the simplex
    share = -torch.rand(stage.means, MAX_MEMBERS, generator=rng).clamp(1e-6).log()
    share = share * (torch.arange(MAX_MEMBERS) < count)
    share[::2] = 1
    is_mixed = torch.rand(stage.samples, generator=rng) < stage.regularizers.mixing
    crossover = torch.randint(1, num_ws, (stage.samples,), generator=rng)
    return Draws(
        faces=torch.randperm(num_faces, generator=rng)[: stage.faces],
        members=torch.randint(max(num_faces, 1), (stage.means, MAX_MEMBERS), generator=rng),
        weights=share / share.sum(1, keepdim=True),
        z=torch.randn(stage.samples, 2, z_dim, generator=rng),
        crossover=torch.where(is_mixed, crossover, num_ws),
        psi=psi_min + (1 - psi_min) * torch.rand(stage.samples, 1, generator=rng),
    )
