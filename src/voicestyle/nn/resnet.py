"""ResNet-10, -18 and -34 (He et al., CVPR 2016) as the CMPC towers use them: no classifier, any input size."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

Depth = Literal[10, 18, 34]
# Residual blocks of the four stages (He et al., table 1); one each for 10, a size of our own for small sets
NUM_BLOCKS: dict[Depth, tuple[int, ...]] = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}


class ResNet(nn.Module):
    """Image or log-mel -> pooled features.

    The names of parameters are those of torchvision, so that its weights load as they are (less `fc`).

    Args:
        depth: 10, 18 or 34
        in_channels: 1 for a log-mel, 3 for an image
        width: channels of the first stage; the last stage has 8 times as many
    """

    def __init__(self, depth: Depth, in_channels: int, width: int = 64) -> None:
        super().__init__()
        if depth not in NUM_BLOCKS:
            raise ValueError(f"ResNet depth: got {depth}, expected one of {sorted(NUM_BLOCKS)}")
        self.conv1 = nn.Conv2d(in_channels, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            _stage(num_blocks, width * max(1, 2**i // 2), width * 2**i, stride=1 if i == 0 else 2)
            for i, num_blocks in enumerate(NUM_BLOCKS[depth])
        )
        self.num_features = 8 * width
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, 8 * width), all >= 0, of x (N, in_channels, H, W)."""
        x = self.maxpool(self.bn1(self.conv1(x)).relu())
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return x.mean((2, 3))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a skip, projected where the shape changes."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample = None
        if stride != 1 or in_channels != out_channels:
            projection = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        residual = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        skip = x if self.downsample is None else self.downsample(x)
        return (residual + skip).relu()


def _stage(num_blocks: int, in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    rest = [BasicBlock(out_channels, out_channels, 1) for _ in range(num_blocks - 1)]
    return nn.Sequential(BasicBlock(in_channels, out_channels, stride), *rest)
