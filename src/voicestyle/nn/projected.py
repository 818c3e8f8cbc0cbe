"""Projected discriminators (Sauer et al., NeurIPS 2021): small judges of a frozen network's features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from voicestyle.nn.ops import LEAKY_SLOPE

MIXED = (64, 64, 128, 256)  # channels after mixing, the finest scale first
MOST = 256  # channels of a judge


class FeatureMixing(nn.Module):
    """Features of four scales -> features of which each knows the coarser ones: frozen random maps (section 3.2).

    Mixed over channels by 1x1 convolutions, then over scales from the coarsest up by 3x3 ones. What is random cannot be
    learnt to be ignored, so that the judges have to look at all that the features hold.
    """

    def __init__(self, channels: Sequence[int], mixed: Sequence[int] = MIXED) -> None:
        super().__init__()
        self.across = nn.ModuleList(nn.Conv2d(a, b, 1) for a, b in zip(channels, mixed, strict=True))
        finer = [mixed[0], *mixed[:-1]]
        self.down = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in zip(mixed, finer, strict=True))
        for conv in (*self.across, *self.down):
            nn.init.kaiming_normal_(conv.weight, nonlinearity="linear")
            nn.init.zeros_(conv.bias)
        self.requires_grad_(False)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        mixed: list[Tensor] = []
        above: Tensor | None = None
        for i in reversed(range(len(maps))):
            x = self.across[i](maps[i])
            if above is not None:
                x = x + F.interpolate(above, size=x.shape[-2:], mode="bilinear", align_corners=False)
            x = self.down[i](x)
            mixed.insert(0, x)
            above = x
        return mixed


def judge(channels: int, halvings: int) -> nn.Sequential:
    """Features (N,channels,H,W) -> logits (N,1,h,w), after so many strided convolutions."""
    layers: list[nn.Module] = []
    for _ in range(halvings):
        wider = min(2 * channels, MOST)
        layers += [
            spectral_norm(nn.Conv2d(channels, wider, 4, 2, 1)),
            nn.GroupNorm(8, wider),
            nn.LeakyReLU(LEAKY_SLOPE, inplace=True),
        ]
        channels = wider
    return nn.Sequential(*layers, spectral_norm(nn.Conv2d(channels, 1, 3, padding=1)))


class ProjectedDiscriminator(nn.Module):
    """Features of a frozen network -> logits (N,P): a judge a scale, each with the same part in the mean."""

    def __init__(self, channels: Sequence[int], mixed: Sequence[int] = MIXED) -> None:
        super().__init__()
        self.mixing = FeatureMixing(channels, mixed)
        finer = [mixed[0], *mixed[:-1]]
        self.judges = nn.ModuleList(judge(c, len(mixed) - 1 - i) for i, c in enumerate(finer))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Logits (N,P) of feature maps, the finest first."""
        return torch.cat([j(x).flatten(1) for j, x in zip(self.judges, self.mixing(maps), strict=True)], 1)
