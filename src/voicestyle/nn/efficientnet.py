"""EfficientNet-Lite1 (Tan and Le, ICML 2019; Lite: without squeeze-and-excite, ReLU6): features of four scales.

Batch normalization is folded into the convolutions: the network is used frozen alone. Padding is TensorFlow's, which
puts the odd row and column of a strided convolution at the bottom and on the right.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# expansion, kernel, stride of the first, output channels, blocks: table 1 of the paper, with Lite1's depth of 1.1
STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 3),
    (6, 5, 2, 40, 3),
    (6, 3, 2, 80, 4),
    (6, 5, 1, 112, 4),
    (6, 5, 2, 192, 5),
    (6, 3, 1, 320, 1),
)
STEM = 32  # channels
FEATURE_STAGES = (1, 2, 4, 6)  # the last of each resolution: strides 4, 8, 16 and 32
FEATURE_CHANNELS = tuple(STAGES[i][3] for i in FEATURE_STAGES)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pictures in [0,1]


class SameConv(nn.Module):
    """Convolution with a bias whose output has the input's size over its stride, rounded up; ReLU6 where `activate`."""

    def __init__(self, a: int, b: int, kernel: int, stride: int = 1, groups: int = 1, activate: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(b, a // groups, kernel, kernel) * (2 * groups / (a * kernel**2)) ** 0.5)
        self.bias = nn.Parameter(torch.zeros(b))
        self.stride, self.groups, self.activate = stride, groups, activate

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.weight.shape[-1]
        padding = kernel // 2
        if self.stride > 1:
            missing = [max((-(-s // self.stride) - 1) * self.stride + kernel - s, 0) for s in x.shape[-2:]]
            x = F.pad(x, [side for m in reversed(missing) for side in (m // 2, m - m // 2)])
            padding = 0
        x = F.conv2d(x, self.weight, self.bias, self.stride, padding, groups=self.groups)
        return F.relu6(x, inplace=True) if self.activate else x


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise convolution, linear 1x1 projection; added to the input where shapes allow it."""

    def __init__(self, a: int, b: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        inner = a * expansion
        self.expand = SameConv(a, inner, 1) if expansion > 1 else None
        self.depthwise = SameConv(inner, inner, kernel, stride, groups=inner)
        self.project = SameConv(inner, b, 1, activate=False)
        self.has_skip = stride == 1 and a == b

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else self.expand(x)
        y = self.project(self.depthwise(y))
        return x + y if self.has_skip else y


class EfficientNet(nn.Module):
    """Picture (N,3,H,W) in [-1,1] -> features at strides 4, 8, 16, 32 of 24, 40, 112 and 320 channels."""

    name = "EfficientNet"

    def __init__(self) -> None:
        super().__init__()
        self.stem = SameConv(3, STEM, 3, 2)
        channels, stages = STEM, []
        for expansion, kernel, stride, width, depth in STAGES:
            blocks = []
            for i in range(depth):
                blocks.append(InvertedResidual(channels, width, expansion, kernel, stride if i == 0 else 1))
                channels = width
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)

    def features(self, image: Tensor) -> list[Tensor]:
        """The maps (N,C,H/stride,W/stride) of the four scales, the finest first."""
        mean, std = (image.new_tensor(values)[:, None, None] for values in (MEAN, STD))
        x = self.stem((image * 0.5 + 0.5 - mean) / std)
        maps = []
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i in FEATURE_STAGES:
                maps.append(x)
        return maps

    def forward(self, image: Tensor) -> list[Tensor]:
        return self.features(image)

    def distance(self, a: list[Tensor], b: list[Tensor]) -> Tensor:
        """Distance (N,) of two pictures' features: the mean over scales of `|a - b|` relative to `|b|`, >= 0."""
        parts = [(x - y).abs().mean((1, 2, 3)) / y.abs().mean((1, 2, 3)) for x, y in zip(a, b, strict=True)]
        return torch.stack(parts).mean(0)
