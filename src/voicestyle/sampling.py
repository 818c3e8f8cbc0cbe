"""Latents that nothing determines: random faces, further faces for one voice, and the way from face to face."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

NUM_CANDIDATES = 12  # starts of a further face, of which the first is taken that fits the voice
TOLERANCE = 0.15  # of similarity, by which such a start may fit worse than that of the first face


@torch.no_grad()
def random_latents(generator: nn.Module, num: int, seed: int = 0, truncation_psi: float = 1.0) -> Tensor:
    """Latents w (num,w_dim) of random faces; a face does not depend on how many are asked for."""
    rng = torch.Generator().manual_seed(seed)
    z = torch.stack([torch.randn(generator.config.z_dim, generator=rng) for _ in range(num)])
    return generator.truncate(generator.mapping(z.to(generator.w_avg)), truncation_psi)


@torch.no_grad()
def mean_latents(generator: nn.Module, num: int, max_mean: int, rng: torch.Generator) -> Tensor:
    """Latents w (num,w_dim), each the mean of 1 to `max_mean` random ones: pictures lie nearer to w_avg than these."""
    z = torch.randn(num * max_mean, generator.config.z_dim, generator=rng).to(generator.w_avg)
    count = torch.randint(1, max_mean + 1, (num, 1), generator=rng)
    weights = ((torch.arange(max_mean) < count) / count).to(z)
    w = torch.cat([generator.mapping(part) for part in z.split(1000)])
    return torch.einsum("nm,nmd->nd", weights, w.view(num, max_mean, -1))


def undetermined(w: Tensor, emb: Tensor) -> Tensor:
    """What embeddings (M,D) do not say of latents (M,w_dim): the residuals (M,w_dim) of their linear regression.

    Their covariance is that of latents whose embedding is given.
    """
    x, y = (v.double() - v.double().mean(0) for v in (emb, w))
    # members may have less rank than columns: `lstsq` solves that on CPUs alone ("gelsd"; CUDA has "gels" only)
    return (y - x @ (torch.linalg.pinv(x) @ y)).to(w)


@torch.no_grad()
def further_start(
    w_first: Tensor,  # (w_dim,) where the first face of the voice starts
    deviations: Tensor,  # (M,w_dim) centered: `undetermined` latents of members
    fit: Callable[[Tensor], Tensor],  # latents (N,w_dim) -> similarity to the voice (N,)
    rng: np.random.Generator,  # of this face alone
    diversity: float,  # 0: `w_first` itself; 1: as unlike as members of one embedding
    num_candidates: int = NUM_CANDIDATES,
) -> Tensor:
    """Where a further face starts (w_dim,): `w_first` and a random deviation that leaves the voice as it is.

    Deviations are normal, with the covariance of `deviations`. What a linear regression leaves of the voice in them is
    kept small by a choice: of several candidates, the first whose similarity is at most `TOLERANCE` below that of
    `w_first`, or where there is none, the most similar one.
    """
    weights = torch.from_numpy(rng.standard_normal((num_candidates, len(deviations)))).to(deviations)
    candidates = w_first + diversity / len(deviations) ** 0.5 * weights @ deviations
    first, *found = fit(torch.cat([w_first[None], candidates])).tolist()
    fitting = [i for i, similarity in enumerate(found) if similarity >= first - TOLERANCE]
    return candidates[fitting[0] if fitting else int(np.argmax(found))]


def polyline(points: Tensor, at: Tensor) -> Tensor:
    """Latents (N,w_dim) on the way along points (P,w_dim), at the parts `at` (N,) in [0,1] of its length."""
    lengths = (points[1:] - points[:-1]).norm(dim=1)
    reached = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    wanted = at.to(reached) * reached[-1]
    right = torch.searchsorted(reached, wanted).clamp(1, len(points) - 1)
    part = (wanted - reached[right - 1]) / lengths[right - 1].clamp_min(1e-12)
    return points[right - 1].lerp(points[right], part.clamp(0, 1)[:, None])
