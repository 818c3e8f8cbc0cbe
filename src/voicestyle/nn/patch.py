"""A small discriminator of patches: sharpens a decoder on a processor, where StyleGAN2's discriminator is too slow."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from voicestyle.nn.ops import EqualConv2d, EqualLinear, at_least_float32, leaky_relu

DETAIL_GAIN = 8.0  # brings what a blur takes away to about the size of the picture itself
WIDTHS = (1, 2, 4, 6, 8)  # feature maps after each halving, in units of `channels`


class PatchDiscriminator(nn.Module):
    """Picture (N,3,S,S) -> logits (N,P): of small patches, of large ones and of the whole, each a third of the mean.

    Beside the picture it sees its details, amplified, and where it looks: blur is then plain to see, and an eye is
    judged as an eye. Patches as in Isola et al. (CVPR 2017, section 3.2.2), batch deviation as in StyleGAN2.
    """

    def __init__(self, size: int, channels: int = 32) -> None:
        super().__init__()
        widths = [8] + [w * channels for w in WIDTHS]
        self.convs = nn.ModuleList(StridedConv(a, b) for a, b in zip(widths, widths[1:], strict=False))
        self.small = EqualConv2d(widths[3], 1, 3, activate=False)
        self.large = EqualConv2d(widths[4], 1, 3, activate=False)
        self.final = EqualConv2d(widths[5] + 1, widths[5], 3)
        self.whole = EqualLinear(widths[5] * (size // 32) ** 2, 1)
        line = torch.linspace(-1, 1, size)
        place = torch.stack([line.expand(size, size), line[:, None].expand(size, size)])[None]
        self.register_buffer("place", place, persistent=False)

    def features(self, image: Tensor) -> list[Tensor]:
        """Feature maps of 1/2, 1/4, ... 1/32 of the size of the picture."""
        detail = image - F.interpolate(F.avg_pool2d(image, 2), scale_factor=2, mode="bilinear", align_corners=False)
        x = torch.cat([image, DETAIL_GAIN * detail, self.place.expand(len(image), -1, -1, -1).to(image.dtype)], 1)
        maps = []
        for conv in self.convs:
            x = conv(x)
            maps.append(x)
        return maps

    def judge(self, maps: list[Tensor]) -> Tensor:
        """Logits (N,P) of what `features` found."""
        spread = (at_least_float32(maps[4]).var(0, unbiased=False) + 1e-8).sqrt().mean().to(maps[4].dtype)
        whole = self.final(torch.cat([maps[4], spread.expand(len(maps[4]), 1, *maps[4].shape[2:])], 1))
        heads = [self.small(maps[2]).flatten(1), self.large(maps[3]).flatten(1), self.whole(whole.flatten(1))]
        # each repeated so that all three have the same part in the mean
        return torch.cat([head.repeat_interleave(heads[0].shape[1] // head.shape[1], 1) for head in heads], 1)

    def forward(self, image: Tensor) -> Tensor:
        return self.judge(self.features(image))


class StridedConv(nn.Module):
    """4x4 convolution with stride 2, without a low-pass filter, leaky ReLU; equalized learning rate."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 4, 4))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.scale = (16 * in_channels) ** -0.5

    def forward(self, x: Tensor) -> Tensor:
        weight = (self.weight * self.scale).to(x.dtype)
        return leaky_relu(F.conv2d(x, weight, stride=2, padding=1), self.bias)
