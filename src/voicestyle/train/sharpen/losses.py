"""What a generated face lacks: against its target, and where it has none, against what was drawn before."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from voicestyle.train.sharpen.settings import WeightConfig

COARSE = 8  # pixels: what the anchor holds are means of so many squared
FACE = (0.25, 0.875, 0.25, 0.75)  # top, bottom, left, right of the face in the canonical frame

Features = list[Tensor]


def likeness(image: Tensor, target: Tensor, fake: Features, real: Features, weights: WeightConfig) -> dict[str, Tensor]:
    """What pictures lack, in pixels and in features."""
    return {
        "pixel": in_pixels(image - target, weights),
        "perceptual": weights.perceptual * relative(fake, real),
    }


def anchor(image: Tensor, before: Tensor, weights: WeightConfig) -> Tensor:
    """How far pictures are, in the coarse, from those of the generator that training started from.

    Nothing else holds pictures without a target.
    """
    return weights.anchor * in_pixels(F.avg_pool2d(image, COARSE) - F.avg_pool2d(before, COARSE), weights)


def in_pixels(difference: Tensor, weights: WeightConfig) -> Tensor:
    """Absolute differences (N,3,h,w) of pictures, those inside the face once more."""
    apart, (height, width) = difference.abs(), difference.shape[-2:]
    top, bottom, left, right = FACE
    inner = apart[:, :, int(top * height) : int(bottom * height), int(left * width) : int(right * width)]
    return weights.pixel * apart.mean() + weights.face * inner.mean()


def relative(a: Features, b: Features) -> Tensor:
    """Distance of features: the mean over scales of |a - b| relative to |b|."""
    return torch.stack([(x - y).abs().mean() / y.abs().mean() for x, y in zip(a, b, strict=True)]).mean()
