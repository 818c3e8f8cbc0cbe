"""The first part of sharpening: faces at the old size, as a judged decoder of portraits."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from voicestyle.train.sharpen.judge import Views
from voicestyle.train.sharpen.losses import anchor, likeness
from voicestyle.train.sharpen.part import Part, is_new

PRIOR = 1e-3  # weight of the squared distance of codes from their mean, in units of their spread


class FacePart(Part):
    """Reconstructions, and fakes without a target, judged; the codes follow."""

    def __init__(self, *shared: Any) -> None:
        self.rate = shared[0].rates.generator
        super().__init__(*shared)
        self.start = copy.deepcopy(self.generator.synthesis).requires_grad_(False)

    def layers(self) -> Iterable[tuple[str, nn.Parameter]]:
        return ((n, p) for n, p in self.generator.synthesis.named_parameters() if not is_new(n, self.generator))

    def losses(self, step: int) -> tuple[dict[str, Tensor], dict[str, float]]:
        batch, weights, codes = self.settings.batch, self.settings.weights, self.codes
        num = batch.portraits
        self.rows = self.gallery.portraits(num)
        target = self.gallery.pictures(self.rows)
        self.paired = codes.known[self.rows].requires_grad_(True)
        w = torch.cat([self.paired, codes.unpaired(batch.unpaired, step)])
        _, image = self.generator.synthesis.features(w, "random", rng=self.rng, until=self.base)
        views = Views(len(w), self.base, self.rng)
        with torch.no_grad():
            extra = self.gallery.pictures(self.gallery.portraits(batch.unpaired))
            real = self.features(torch.cat([views(target), Views(len(extra), self.base, self.rng)(extra)]))
            before = self.start(w[num:], "none", until=self.base)
        fake = self.features(views(image))
        losses = likeness(image[:num], target, [f[:num] for f in fake], [f[:num] for f in real], weights)
        losses["anchor"] = anchor(image[num:], before, weights) * batch.unpaired / num
        losses["prior"] = PRIOR * (self.paired - codes.mean).square().sum(1).mean() / codes.spread**2
        told = {"discriminator": self.judge.learn(real, fake)}
        if heard := self.heard(step):
            doubt = self.judge.doubt(fake)
            losses["adversarial"] = heard * weights.adversarial * doubt[:num].sum() / num
            losses["unpaired"] = heard * weights.unpaired * doubt[num:].sum() / num
        return losses, told

    def train_step(self, step: int, num: int) -> dict[str, float]:
        values = super().train_step(step, num)
        self.codes.follow(self.rows, self.paired.grad)
        if step % 200 == 0:
            self.codes.measure()
        return values

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"start": self.start.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.start.load_state_dict(state["start"])
