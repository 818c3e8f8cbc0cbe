"""Pictures with their latents, and latents that no picture has: what the generator is asked to draw."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from voicestyle.data.manifest import Manifest
from voicestyle.image import load_image
from voicestyle.train.sharpen.settings import DataConfig

PSI = 0.9  # of draws from the Gaussian of the codes
NEAR = (0.3, 1.0)  # range of it for draws near the mean, where means of members lie
MOST = 8  # portraits in a mean


class Gallery:
    """Portraits with mirror images. Rows count portraits, then their mirrors."""

    def __init__(self, data: DataConfig, size: int, seed: int) -> None:
        """Pictures of `size`, and of twice that, are held as bytes."""
        portraits = Manifest.read(data.portraits).split("train")
        faces = [(item.frontal, item.identity) for item in portraits if item.frontal]
        sources = [identity.partition("/")[0] for _, identity in faces]
        if unknown := sorted(set(sources) - set(data.weights)):
            raise ValueError(f"{data.portraits}: no weight for source {unknown}; add it to [data.weights]")
        self.size = size
        self.large = torch.cat([_bytes(load_image(path, 2 * size)) for path, _ in faces])
        self.small = _bytes(nn.functional.avg_pool2d(_floats(self.large), 2))
        share = np.array([data.weights[source] for source in sources])
        self.share = share / share.sum()
        self.rng = np.random.default_rng(seed)

    @property
    def num_portraits(self) -> int:
        """Portraits without their mirror images."""
        return len(self.large)

    def __len__(self) -> int:
        return 2 * len(self.large)

    def portraits(self, num: int) -> np.ndarray:
        """Rows of random portraits, balanced by source."""
        rows = self.rng.choice(self.num_portraits, num, p=self.share)
        return rows + self.num_portraits * self.rng.integers(0, 2, num)

    def pictures(self, rows: np.ndarray) -> Tensor:
        """Pictures (N,3,size,size) of rows."""
        return _channels_last(torch.stack([self._one(self.small, row) for row in rows]))

    def whole(self, rows: np.ndarray) -> Tensor:
        """Portraits (N,3,2 size,2 size) of rows."""
        return _channels_last(torch.stack([self._one(self.large, row) for row in rows]))

    @staticmethod
    def _one(held: Tensor, row: int) -> Tensor:
        picture = _floats(held[row % len(held)])
        return picture.flip(2) if row >= len(held) else picture


class Codes:
    """The latent of each row of a gallery, and latents between them.

    They begin as what the inverter says and go their own way. The inverter stays as it is: what moves all codes
    together leaves the generator behind wherever nobody looks.
    """

    def __init__(self, gallery: Gallery, inverter: nn.Module, rate: float) -> None:
        self.gallery, self.rate = gallery, rate
        with torch.no_grad():
            parts = np.array_split(np.arange(len(gallery)), -(-len(gallery) // 64))
            self.known = torch.cat([inverter(gallery.pictures(part).contiguous()) for part in parts])
        self.first, self.second = torch.zeros_like(self.known), torch.zeros_like(self.known)  # Adam's moments
        self.visits = torch.zeros(len(gallery), 1)
        self.measure()

    def measure(self) -> None:
        """Take mean, spread and covariance of the portraits' latents, balanced by source."""
        share = torch.from_numpy(np.tile(self.gallery.share, 2)) / 2
        w = self.known[: len(share)].double()
        self.mean = share @ w
        apart = (w - self.mean) * share.sqrt()[:, None]
        covariance = apart.T @ apart
        self.spread = float(covariance.trace().sqrt())
        ridge = 1e-6 * covariance.diagonal().mean() + 1e-12
        self.root = torch.linalg.cholesky(covariance + ridge * torch.eye(len(covariance), dtype=w.dtype)).to(self.known)
        self.mean = self.mean.to(self.known)

    def unpaired(self, num: int, turn: int) -> Tensor:
        """Latents (num,w_dim) that no picture has: between two, near the mean, means of some, draws, in turn."""
        gallery, rng = self.gallery, self.gallery.rng
        found = []
        for i in range(num):
            kind = (turn + i) % 4
            if kind == 0:
                a, b = self.known[gallery.portraits(2)]
                found.append(a.lerp(b, float(rng.random())))
            elif kind == 2:
                found.append(self.known[gallery.portraits(int(rng.integers(2, MOST + 1)))].mean(0))
            else:
                psi = PSI if kind == 3 else float(rng.uniform(*NEAR))
                z = torch.from_numpy(rng.standard_normal(len(self.mean))).to(self.mean)
                found.append(self.mean + psi * self.root @ z)
        return torch.stack(found)

    def follow(self, rows: np.ndarray, gradient: Tensor) -> None:
        """A step of Adam (betas .5 and .99) for rows."""
        rate = self.rate * self.spread / self.known.shape[1] ** 0.5  # of the deviation of a coordinate
        for row, slope in zip(rows.tolist(), gradient, strict=True):
            self.visits[row] += 1
            first = self.first[row].mul_(0.5).add_(slope, alpha=0.5) / (1 - 0.5 ** self.visits[row])
            second = self.second[row].mul_(0.99).addcmul_(slope, slope, value=0.01) / (1 - 0.99 ** self.visits[row])
            self.known[row] -= rate * first / (second.sqrt() + 1e-12)

    _STATES = ("known", "first", "second", "visits", "mean", "spread", "root")

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {name: getattr(self, name) for name in self._STATES}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        for name in self._STATES:
            setattr(self, name, state[name])


def _bytes(image: Tensor) -> Tensor:
    return ((image + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def _floats(held: Tensor) -> Tensor:
    return held.float() / 127.5 - 1


def _channels_last(image: Tensor) -> Tensor:
    return image.contiguous(memory_format=torch.channels_last)
