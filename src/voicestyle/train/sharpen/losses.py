"""What a generated face lacks: against its target, and where it has none, against what was drawn before."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from voicestyle.train.sharpen.settings import WeightConfig

COARSE = 4  # pixels of a member's target are means of so many squared
FAR = 8  # and of the anchor's
COARSE_SCALES = slice(2, None)  # of the features, for members
BROAD = 0.15  # weight of these; more lets their softness pass for a trait of the person
FACE = (0.25, 0.875, 0.25, 0.75)  # top, bottom, left, right of the face in the canonical frame
MEMBERS = 1 / 3  # weight of a member's losses to a portrait's

Features = list[Tensor]


def likeness(
    image: Tensor, target: Tensor, fake: Features, real: Features, num: int, weights: WeightConfig
) -> dict[str, Tensor]:
    """What the first `num` pictures, portraits, lack in all, and the others, members, in the coarse."""
    last = len(target)
    coarse = F.avg_pool2d(image[num:last], COARSE) - F.avg_pool2d(target[num:], COARSE)
    look = relative([f[:num] for f in fake], [f[:num] for f in real])
    broad = relative([f[num:last] for f in fake[COARSE_SCALES]], [f[num:last] for f in real[COARSE_SCALES]])
    return {
        "pixel": in_pixels(image[:num] - target[:num], weights),
        "perceptual": weights.perceptual * look,
        "members": MEMBERS * (in_pixels(coarse, weights) + weights.perceptual * BROAD * broad),
    }


def anchor(image: Tensor, before: Tensor, weights: WeightConfig) -> Tensor:
    """How far pictures are, in the coarse, from those of the generator that training started from.

    Without it the discriminators drive draws to ink and paper: nothing else holds them.
    """
    return weights.anchor * in_pixels(F.avg_pool2d(image, FAR) - F.avg_pool2d(before, FAR), weights)


def in_pixels(difference: Tensor, weights: WeightConfig) -> Tensor:
    """Absolute differences (N,3,h,w) of pictures, those inside the face once more."""
    apart, (height, width) = difference.abs(), difference.shape[-2:]
    top, bottom, left, right = FACE
    inner = apart[:, :, int(top * height) : int(bottom * height), int(left * width) : int(right * width)]
    return weights.pixel * apart.mean() + weights.face * inner.mean()


def relative(a: Features, b: Features) -> Tensor:
    """Distance of features: the mean over scales of |a - b| relative to |b|."""
    return torch.stack([(x - y).abs().mean() / y.abs().mean() for x, y in zip(a, b, strict=True)]).mean()
