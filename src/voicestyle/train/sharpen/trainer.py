"""One step of sharpening: an autoencoder of faces at the old size, judged, and crops of a new, larger block.

The block that doubles the size is local: what it makes of a crop of features is the crop of what it makes of all. It
learns on crops, at a quarter of the work, while whole pictures go on teaching everything below it.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from voicestyle.checkpoint import Model
from voicestyle.config import GeneratorConfig
from voicestyle.latent import lr_ramp
from voicestyle.nn.efficientnet import EfficientNet
from voicestyle.schema import read, to_dict
from voicestyle.train.generator.grow import grow, widen
from voicestyle.train.sharpen.fakes import Codes, Gallery
from voicestyle.train.sharpen.judge import Judge, Views
from voicestyle.train.sharpen.settings import SharpenRecipe

AVERAGED = 0.01  # part of the weights that enters the average at a step
COARSE = 4  # pixels of a member's target are means of so many squared
COARSE_SCALES = slice(2, None)  # of the features, for members
FACE = (0.25, 0.875, 0.25, 0.75)  # top, bottom, left, right of the face in the canonical frame
MARGIN = 4  # pixels of features around a crop, see `Synthesis.block`
PRIOR = 1e-3  # weight of the squared distance of codes from their mean, in units of their spread
MEMBERS = 1 / 3  # weight of a member's losses to a portrait's
CROP_UNPAIRED = 0.02  # weight of crops of fakes without a target, beside [weights] crop
LIMIT = 20.0  # of the norm of the generator's gradient


class SharpenTrainer:
    """The networks with their averages, judges and optimizers. A saved state goes on as the same training."""

    def __init__(self, settings: SharpenRecipe, model: Model, features: EfficientNet) -> None:
        self.settings, self.features, self.step = settings, features, 0
        if model.generator is None or model.inverter is None:
            raise ValueError(f"{model.folder}: needs a generator and its inverter; train them first")
        self.base = model.generator.config.size
        wider = replace(model.generator.config, channel_multiplier=settings.channel_multiplier)
        config = read(GeneratorConfig, {**to_dict(wider), "size": 2 * self.base})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            wide = widen(model.generator.state_dict(), wider)
            self.generator = grow(wide.state_dict(), config).to(memory_format=torch.channels_last)
            self.judge, self.crop_judge = Judge(settings.rates.discriminator), Judge(settings.rates.discriminator)
        self.start = copy.deepcopy(self.generator.synthesis).requires_grad_(False)
        self.inverter = copy.deepcopy(model.inverter).eval()
        self.average, self.inverter_average = copy.deepcopy(self.generator).eval(), copy.deepcopy(self.inverter)
        for network, learns in (
            (self.generator, True),
            (self.inverter, True),
            (self.average, False),
            (self.inverter_average, False),
        ):
            network.requires_grad_(learns)
        self.generator.mapping.requires_grad_(False)
        self.gallery = Gallery(settings.data, self.base, settings.seed)
        self.codes = Codes(self.gallery, self.inverter, config.w_dim, settings.rates.codes)
        self.rng = torch.Generator().manual_seed(settings.seed)
        self._make_optimizers()

    def _make_optimizers(self) -> None:
        synthesis, rates = self.generator.synthesis, self.settings.rates
        top = [*synthesis.convs[-2:].parameters(), *synthesis.to_rgbs[-1].parameters()]
        new = {id(p) for p in top}
        groups = [
            {"params": [p for p in synthesis.parameters() if id(p) not in new], "full": rates.generator},
            {"params": [*self.inverter.body.parameters(), *self.inverter.head.parameters()], "full": rates.inverter},
            {"params": [*self.inverter.linear.parameters()], "full": rates.linear},
        ]
        self.optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
        self.top_optimizer = torch.optim.Adam([{"params": top, "full": rates.generator}], betas=(0.9, 0.99))

    def train_step(self) -> dict[str, float]:
        """The losses of one step, on whole pictures and on crops."""
        settings = self.settings
        ramp = lr_ramp(self.step / settings.steps, 20 / settings.steps, 0.5)
        for group in (*self.optimizer.param_groups, *self.top_optimizer.param_groups):
            group["lr"] = group["full"] * ramp
        judged = self.step >= settings.adversarial_after
        losses, kept = self._whole(judged)
        losses |= self._crops(judged, *kept)
        self._follow_average()
        if self.step % 200 == 0:
            self.codes.measure()
        self.step += 1
        if not np.isfinite([*losses.values()]).all():
            raise ValueError(f"training diverged at step {self.step}: losses {losses}; lower the learning rates")
        return losses

    def _whole(self, judged: bool) -> tuple[dict[str, float], tuple[Tensor, ...]]:
        batch, weights, rng = self.settings.batch, self.settings.weights, self.rng
        num, taught = batch.portraits, batch.portraits + batch.members
        rows = np.concatenate([self.gallery.portraits(num), self.gallery.members(batch.members)])
        target = self.gallery.pictures(rows)
        own = self.codes.own[rows].clone().requires_grad_(True)
        w = torch.cat([self.codes.estimate(target) + own, self.codes.unpaired(batch.unpaired, self.step)])
        x, image = self.generator.synthesis.features(w, "random", rng=rng, until=self.base)
        views = Views(len(w), self.base, rng)
        with torch.no_grad():
            extra = self.gallery.pictures(self.gallery.portraits(batch.members + batch.unpaired))
            real = self.features(torch.cat([views(target), Views(len(extra), self.base, rng)(extra)]))
        fake = self.features(views(image))
        losses = self._likeness(image, target, fake, real, num)
        losses["anchor"] = self._anchor(image[taught:], w[taught:].detach()) * batch.unpaired / num
        losses["prior"] = PRIOR * (w[:taught] - self.codes.mean).square().sum(1).mean() / self.codes.spread**2
        told = {}
        if judged:
            genuine = [*range(num), *range(taught, taught + len(extra))]
            told["discriminator"] = self.judge.learn([f[genuine] for f in real], fake)
            doubt = self.judge.doubt(fake)
            losses["adversarial"] = weights.adversarial * doubt[:taught].sum() / num
            losses["unpaired"] = weights.unpaired * doubt[taught:].sum() / num
        self.optimizer.zero_grad(set_to_none=True)
        torch.stack([*losses.values()]).sum().backward()
        torch.nn.utils.clip_grad_norm_(self.generator.synthesis.parameters(), LIMIT)
        self.optimizer.step()
        with torch.no_grad():
            self.codes.follow(rows, own.grad)
            self.codes.known[rows] = w[:taught].detach()
        values = {name: loss.item() for name, loss in losses.items()} | told
        return values, (x.detach(), image.detach(), w.detach(), torch.from_numpy(rows[:num]))

    def _likeness(
        self, image: Tensor, target: Tensor, fake: list[Tensor], real: list[Tensor], num: int
    ) -> dict[str, Tensor]:
        """What portraits lack in all, and members in the coarse."""
        weights, last = self.settings.weights, len(target)
        fine = (image[:num] - target[:num]).abs()
        coarse = F.avg_pool2d(image[num:last], COARSE) - F.avg_pool2d(target[num:], COARSE)
        members = MEMBERS * (weights.pixel * coarse.abs().mean() + weights.face * _inner(coarse.abs()).mean())
        look = relative([f[:num] for f in fake], [f[:num] for f in real])
        broad = relative([f[num:last] for f in fake[COARSE_SCALES]], [f[num:last] for f in real[COARSE_SCALES]])
        return {
            "pixel": weights.pixel * fine.mean() + weights.face * _inner(fine).mean(),
            "perceptual": weights.perceptual * look,
            "members": members + MEMBERS / 2 * weights.perceptual * broad,
        }

    def _anchor(self, image: Tensor, w: Tensor) -> Tensor:
        """How far pictures without a target are, in the coarse, from what the generator drew of them at the start.

        Without it the discriminators drive draws to ink and paper: nothing else holds them.
        """
        with torch.no_grad():
            soft = self.start(w, "none", until=self.base)
        far, near = ((F.avg_pool2d(image, n) - F.avg_pool2d(soft, n)).abs() for n in (COARSE, COARSE // 2))
        weights = self.settings.weights
        return weights.pixel * far.mean() + weights.face * (_inner(far).mean() + _inner(near).mean() / 4)

    def _crops(self, judged: bool, x: Tensor, image: Tensor, w: Tensor, rows: Tensor) -> dict[str, float]:
        batch, weights, rng, synthesis = self.settings.batch, self.settings.weights, self.rng, self.generator.synthesis
        num, half, size = batch.crops, self.base // 2, self.base
        chosen = [*range(num), *range(batch.portraits, batch.portraits + num)]
        top, left = (int(v) for v in self.gallery.rng.integers(0, half + 1, 2))
        a, b = max(0, top - MARGIN), max(0, left - MARGIN)
        parts = (slice(None), slice(None), slice(a, top + half + MARGIN), slice(b, left + half + MARGIN))
        x, image = (t[chosen][parts].contiguous(memory_format=torch.channels_last) for t in (x, image))
        each = w[chosen][:, None].expand(-1, synthesis.num_ws, -1)
        shape = (len(chosen), 1, 2 * x.shape[2], 2 * x.shape[3])
        noise = [torch.randn(shape, generator=rng) for _ in range(2)]
        _, made = synthesis.block(len(synthesis.to_rgbs) - 1, x, image, each, noise)
        made = made[:, :, 2 * (top - a) :, 2 * (left - b) :][:, :, :size, :size]
        place = (slice(None), slice(None), slice(2 * top, 2 * top + size), slice(2 * left, 2 * left + size))
        target = self.gallery.whole(rows[:num].numpy())[place]
        views = Views(len(chosen), size, rng)
        with torch.no_grad():
            extra = self.gallery.whole(self.gallery.portraits(num))[place]
            real = self.features(torch.cat([views(target), Views(num, size, rng)(extra)]))
        fake = self.features(views(made))
        look = relative([f[:num] for f in fake], [f[:num] for f in real])
        pixel = (weights.pixel + weights.face / 2) * (made[:num] - target).abs().mean()
        losses, told = {"crop_pixel": pixel, "crop_perceptual": weights.perceptual * look}, {}
        if judged:
            told["crop_discriminator"] = self.crop_judge.learn(real, fake)
            doubt = self.crop_judge.doubt(fake)
            losses["crop_adversarial"] = weights.crop * doubt[:num].mean() + CROP_UNPAIRED * doubt[num:].mean()
        self.top_optimizer.zero_grad(set_to_none=True)
        torch.stack([*losses.values()]).sum().backward()
        self.top_optimizer.step()
        return {name: loss.item() for name, loss in losses.items()} | told

    @torch.no_grad()
    def _follow_average(self) -> None:
        pairs = ((self.average, self.generator), (self.inverter_average, self.inverter))
        for average, network in pairs:
            for slow, fast in zip(average.parameters(), network.parameters(), strict=True):
                slow.lerp_(fast, AVERAGED)

    _NETWORKS = ("generator", "average", "inverter", "inverter_average", "optimizer", "top_optimizer")
    _CODES = ("own", "first", "second", "visits", "known")

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs."""
        state = {name: getattr(self, name).state_dict() for name in self._NETWORKS}
        for name in ("judge", "crop_judge"):
            judge = getattr(self, name)
            state[name] = {"network": judge.network.state_dict(), "optimizer": judge.optimizer.state_dict()}
        codes = {name: getattr(self.codes, name) for name in self._CODES}
        chance = {"torch": self.rng.get_state(), "numpy": self.gallery.rng.bit_generator.state}
        return {"step": self.step, "codes": codes, "chance": chance, **state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.step = state["step"]
        for name in self._NETWORKS:
            getattr(self, name).load_state_dict(state[name])
        for name in ("judge", "crop_judge"):
            judge = getattr(self, name)
            judge.network.load_state_dict(state[name]["network"])
            judge.optimizer.load_state_dict(state[name]["optimizer"])
        for name in self._CODES:
            setattr(self.codes, name, state["codes"][name])
        self.codes.measure()
        self.rng.set_state(state["chance"]["torch"])
        self.gallery.rng.bit_generator.state = state["chance"]["numpy"]


def relative(a: list[Tensor], b: list[Tensor]) -> Tensor:
    """Distance of features: the mean over scales of `|a - b|` relative to `|b|`."""
    return torch.stack([(x - y).abs().mean() / y.abs().mean() for x, y in zip(a, b, strict=True)]).mean()


def _inner(image: Tensor) -> Tensor:
    """The part (N,C,h,w) of pictures where the face is."""
    height, width = image.shape[-2:]
    top, bottom, left, right = FACE
    return image[:, :, int(top * height) : int(bottom * height), int(left * width) : int(right * width)]
