"""LPIPS (Zhang et al., CVPR 2018), version 0.1 on VGG16: how different two pictures look."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# VGG16 (Simonyan and Zisserman, ICLR 2015, configuration D): channels of the 3x3 convolutions between the poolings
STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
# ImageNet's mean and deviation for pictures in [-1,1] (upstream `ScalingLayer`)
MEAN, STD = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
EPS = 1e-10  # upstream `normalize_tensor`


class LPIPS(nn.Module):
    """Distance of pictures: squared differences of unit VGG16 features, weighted by how much people mind them.

    `features` of a target need to be computed once only; `distance` compares them.
    """

    name = "LPIPS"

    def __init__(self) -> None:
        super().__init__()
        widths = [channels for stage in STAGES for channels in stage]
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in zip([3, *widths], widths, strict=False))
        self.heads = nn.ParameterList(torch.zeros(stage[-1]) for stage in STAGES)  # non-negative
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Distances (N,), >= 0, of pictures (N,3,H,W) in [-1,1], at least 16 px high and wide."""
        return self.distance(self.features(a), self.features(b))

    def features(self, image: Tensor) -> list[Tensor]:
        """Five maps (N,C,H',W') of unit vectors (zero where nothing fires), the last before each pooling."""
        x = (image - self.mean) / self.std
        convs = iter(self.convs)
        maps = []
        for i, stage in enumerate(STAGES):
            x = x if i == 0 else F.max_pool2d(x, 2)
            for _ in stage:
                x = next(convs)(x).relu()
            # vector_norm has a gradient at zero, which the square root of a sum has not
            maps.append(x / (torch.linalg.vector_norm(x, dim=1, keepdim=True) + EPS))
        return maps

    def distance(self, a: list[Tensor], b: list[Tensor]) -> Tensor:
        """Distances (N,) of what `features` returned; one of the two may have a batch of one."""
        total = a[0].new_zeros(())
        for head, x, y in zip(self.heads, a, b, strict=True):
            total = total + ((x - y).square() * head.view(1, -1, 1, 1)).sum(1).mean((1, 2))
        return total
