"""The second part of sharpening: the block that doubles the size, on crops; everything below stays as it is.

The block is local: what it makes of a crop of features is the crop of what it makes of all, so it learns at a quarter
of the work. The adversary's share is held at a ratio of gradients: it cannot outweigh the likeness.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from voicestyle.train.sharpen.judge import Views
from voicestyle.train.sharpen.losses import relative
from voicestyle.train.sharpen.part import Part, is_new

MARGIN = 4  # pixels of features around a crop, see `Synthesis.block`
LOW = 5.0  # weight of what halving the picture makes of it, against the picture below
LOOKED = 10  # steps between two looks at the gradients
SLOWLY = 0.1  # part of a look that enters the adversary's weight
FIRST, MOST = 0.003, 0.05  # the adversary's weight at first, and the most that a look may say


class DetailPart(Part):
    """Crops of portraits' reconstructions and of fakes without a target, judged."""

    def __init__(self, *shared: Any) -> None:
        self.rate = shared[0].rates.detail
        super().__init__(*shared)
        self.weight = FIRST

    def layers(self) -> Iterable[tuple[str, nn.Parameter]]:
        return ((n, p) for n, p in self.generator.synthesis.named_parameters() if is_new(n, self.generator))

    def losses(self, step: int) -> tuple[dict[str, Tensor], dict[str, float]]:
        num, size, half = self.settings.batch.portraits, self.base, self.base // 2
        rows, w, x, below = self._below(step)
        top, left = (int(v) for v in self.gallery.rng.integers(0, half + 1, 2))
        made = self._crop(w, x, below, top, left)
        place = (slice(None), slice(None), slice(2 * top, 2 * top + size), slice(2 * left, 2 * left + size))
        target = self.gallery.whole(rows)[place]
        views = Views(len(w), size, self.rng)
        with torch.no_grad():
            extra = self.gallery.whole(self.gallery.portraits(len(w) - num))[place]
            real = self.features(torch.cat([views(target), Views(len(extra), size, self.rng)(extra)]))
        fake = self.features(views(made))
        weights, small = self.settings.weights, below[:, :, top : top + half, left : left + half]
        losses = {
            "pixel": (weights.pixel + weights.face / 3) * (made[:num] - target).abs().mean(),
            "perceptual": weights.perceptual * relative([f[:num] for f in fake], [f[:num] for f in real]),
            "low": LOW * (F.avg_pool2d(made, 2) - small).abs().mean(),
        }
        told = {"discriminator": self.judge.learn(real, fake)}
        if heard := self.heard(step):
            doubt = self.judge.doubt(fake).mean()
            if step % LOOKED == 0:
                self._weigh(made, doubt, torch.stack([*losses.values()]).sum(), num)
            losses["adversarial"] = heard * self.weight * doubt
        return losses, told

    @torch.no_grad()
    def _below(self, step: int) -> tuple[np.ndarray, Tensor, Tensor, Tensor]:
        """Rows of portraits; latents (N,w_dim) of these and of fakes; features and picture below."""
        batch, codes = self.settings.batch, self.codes
        rows = self.gallery.portraits(batch.portraits)
        w = torch.cat([codes.known[rows], codes.unpaired(batch.unpaired, step)])
        return rows, w, *self.generator.synthesis.features(w, "random", rng=self.rng, until=self.base)

    def _crop(self, w: Tensor, x: Tensor, below: Tensor, top: int, left: int) -> Tensor:
        """What the block makes (N,3,base,base) of the features from `top` and `left` on."""
        synthesis, half = self.generator.synthesis, self.base // 2
        a, b = max(0, top - MARGIN), max(0, left - MARGIN)
        part = (slice(None), slice(None), slice(a, top + half + MARGIN), slice(b, left + half + MARGIN))
        x, below = (t[part].contiguous(memory_format=torch.channels_last) for t in (x, below))
        shape = (len(w), 1, 2 * x.shape[2], 2 * x.shape[3])
        noise = [torch.randn(shape, generator=self.rng) for _ in range(2)]
        each = w[:, None].expand(-1, synthesis.num_ws, -1)
        _, made = synthesis.block(len(synthesis.to_rgbs) - 1, x, below, each, noise)
        return made[:, :, 2 * (top - a) :, 2 * (left - b) :][:, :, : self.base, : self.base]

    def _weigh(self, made: Tensor, doubt: Tensor, likeness: Tensor, num: int) -> None:
        """Move the adversary's weight to where its gradient is `ratio` of the likeness's, on portraits."""
        one, other = (torch.autograd.grad(loss, made, retain_graph=True)[0][:num].norm() for loss in (likeness, doubt))
        wanted = min(self.settings.weights.ratio * (one / (other + 1e-12)).item(), MOST)
        self.weight += SLOWLY * (wanted - self.weight)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"weight": self.weight}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.weight = state["weight"]
