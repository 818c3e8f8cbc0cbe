"""The most likely latents that show who a picture shows: what the generator draws by itself, moved towards a person.

A projection that looks at pixels alone leaves the latents that a generator knows how to draw, the more so where the
picture is softer or otherwise lit than what it learnt from. Here the picture says who it is (identity features) and how
it looks in the coarse, the generator's own latents say what a face is, and Gauss-Newton steps with one regressed linear
map find what fits both: the maximum of the posterior, of which every step keeps the best.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from voicestyle.files import kept
from voicestyle.nn.stylegan2 import Generator

NUM_SAMPLES = 800  # from which the map is regressed: some three times as many as latents have numbers
STEPS = 4  # after the first the cost fell by 21, 6 and 3 % (968 members, the map regressed anew at each step)
FIRST, LATER = 1.0, 0.7  # lengths of the steps: the map is least true where it is used last
SIZE = 16  # pixels of the coarse look
LOOKS = 64  # principal components of it
RIDGE = 0.02  # of the regression, in units of the latents' mean variance
IDENTITY, LOOK = 0.25, 0.8  # variance that is granted to a feature, in units of its variance over samples
BATCH = 16


class LikelyInverter:
    """Pictures to latents, without gradients: a step is one rendering and one look at it."""

    def __init__(
        self, generator: Generator, face_features: Callable[[Tensor], Tensor], learnt: Mapping[str, Tensor]
    ) -> None:
        self.generator, self.face_features = generator, face_features
        self.learnt = {name: value.to(generator.w_avg.device) for name, value in learnt.items()}

    @classmethod
    def learn(
        cls,
        generator: Generator,
        face_features: Callable[[Tensor], Tensor],  # (N,3,H,W) in [-1,1] -> (N,D)
        num_samples: int = NUM_SAMPLES,
        seed: int = 0,
        *,
        cache: Path | None = None,  # folder where it is kept and found again; needs `fingerprint`
        fingerprint: str | None = None,  # of the generator and of what sees identity
        progress: bool = True,  # show a bar on a terminal
    ) -> LikelyInverter:
        """The estimate for a generator. A minute or two at 128 px on a core."""
        path = None
        if cache is not None and fingerprint is not None:
            path = cache / f"likely-{fingerprint[:32]}-{num_samples}-{seed}.safetensors"

        def fit() -> dict[str, Tensor]:
            z = torch.randn(num_samples, generator.config.z_dim, generator=torch.Generator().manual_seed(seed))
            w = generator.mapping(z.to(generator.w_avg))
            parts = tqdm(w.split(BATCH), "samples", leave=False, disable=None if progress else True)
            seen = [see(generator, face_features, part) for part in parts]
            return regressed(w.double(), *(torch.cat(some).double() for some in zip(*seen, strict=True)))

        with torch.no_grad():
            return cls(generator, face_features, kept(path, fit))

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Latents (N,w_dim) of pictures (N,3,size,size) in [-1,1]."""
        known = self.learnt
        target = self._features(self.face_features(images), coarse(images))
        hessian = known["map"].T @ (known["precision"][:, None] * known["map"]) + known["prior"]
        w = known["mean"].expand(len(images), -1)
        best, lowest = w, torch.full((len(images),), torch.inf).to(w)
        at = known["center"].expand(len(images), -1)  # what the best draws
        for step in range(STEPS + 1):
            features = self._features(*see(self.generator, self.face_features, w.to(images)))
            cost = self._cost(w, features, target)
            better = cost < lowest
            best, lowest = torch.where(better[:, None], w, best), torch.where(better, cost, lowest)
            at = torch.where(better[:, None], features, at)
            slope = (known["precision"] * (target - at)) @ known["map"] - (best - known["mean"]) @ known["prior"]
            w = best + (FIRST if step == 0 else LATER) * torch.linalg.solve(hessian, slope.T).T
        return best.to(images)

    def _features(self, identity: Tensor, look: Tensor) -> Tensor:
        known = self.learnt
        return torch.cat([identity.double(), (look.double() - known["look_mean"]) @ known["looks"]], 1)

    def _cost(self, w: Tensor, features: Tensor, target: Tensor) -> Tensor:
        """Twice the negative logarithm of the posterior (N,), but for a constant."""
        apart, away = target - features, w - self.learnt["mean"]
        return (apart.square() * self.learnt["precision"]).sum(1) + ((away @ self.learnt["prior"]) * away).sum(1)


def regressed(w: Tensor, identity: Tensor, look: Tensor) -> dict[str, Tensor]:
    """What is learnt from samples: latents (N,w_dim), their identity features (N,D) and coarse looks (N,C), float64."""
    look_mean = look.mean(0)
    _, _, directions = torch.linalg.svd(look - look_mean, full_matrices=False)
    looks = directions[:LOOKS].T
    features = torch.cat([identity, (look - look_mean) @ looks], 1)
    mean, center = w.mean(0), features.mean(0)
    covariance = torch.cov(w.T)
    eye = torch.eye(len(mean)).to(w)
    ridge = RIDGE * covariance.diagonal().mean()
    slope = torch.linalg.solve(covariance + ridge * eye, (w - mean).T @ (features - center) / (len(w) - 1))
    num, spread = identity.shape[1], features.var(0)
    granted = [IDENTITY * spread[:num].mean().expand(num), LOOK * spread[num:].mean().expand(looks.shape[1])]
    return {
        "mean": mean,
        "prior": torch.linalg.inv(covariance + 1e-3 * ridge * eye),
        "map": slope.T.contiguous(),
        "center": center,
        "precision": 1 / torch.cat(granted),
        "look_mean": look_mean,
        "looks": looks.contiguous(),
    }


def see(generator: Generator, face_features: Callable[[Tensor], Tensor], w: Tensor) -> tuple[Tensor, Tensor]:
    """Identity features and coarse look of what latents (N,w_dim) draw."""
    image = generator.synthesis(w).clamp(-1, 1)
    return face_features(image), coarse(image)


def coarse(image: Tensor) -> Tensor:
    """The picture (N,3,S,S) at `SIZE` pixels (N, 3 * SIZE^2)."""
    return F.adaptive_avg_pool2d(image, SIZE).flatten(1)
