"""The face recognition ResNet of dlib (King 2017, `dnn_face_recognition_ex.cpp`) as a differentiable module.

dlib's affine layers are constants once training has ended, so each is folded into the convolution before it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

RGB_MEAN = (122.782, 117.001, 104.298)  # dlib `input_rgb_image_sized`, in 0..255
INPUT_SIZE = 150  # pixels, square
STEM_CHANNELS = 32
# (channels, stride) of each residual block: `anet_type` with its levels 4 to 0, read from the input to the output
BLOCKS = (
    *[(32, 1)] * 3,
    (64, 2), *[(64, 1)] * 3,
    (128, 2), *[(128, 1)] * 2,
    (256, 2), *[(256, 1)] * 2,
    (256, 2),
)  # fmt: skip
EMBED_DIM = 128


class DlibResNet(nn.Module):
    """Face image -> dlib's face descriptor.

    Two faces of one person have descriptors within a Euclidean distance of 0.6 (dlib's training threshold).
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, STEM_CHANNELS, 7, stride=2)
        widths = (STEM_CHANNELS, *(channels for channels, _ in BLOCKS))
        self.blocks = nn.Sequential(
            *(Block(before, after, stride) for before, (after, stride) in zip(widths, BLOCKS, strict=False))
        )
        self.fc = nn.Linear(widths[-1], EMBED_DIM, bias=False)
        self.register_buffer("rgb_mean", torch.tensor(RGB_MEAN).view(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Descriptors (N, 128), not normalised, as dlib has them.

        Args:
            image: (N, 3, 150, 150) RGB in [-1, 1], framed as dlib's `get_face_chip(size=150, padding=0.25)` frames it
        """
        x = (image * 127.5 + (127.5 - self.rgb_mean)) / 256
        x = F.max_pool2d(self.stem(x).relu(), 3, stride=2)
        return self.fc(self.blocks(x).mean((2, 3)))


class Block(nn.Module):
    """Residual block; with stride 2 the skip is averaged 2x2, and neither path is padded at its borders."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1 if stride == 1 else 0)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        residual = self.conv2(self.conv1(x).relu())
        skip = x if self.stride == 1 else F.avg_pool2d(x, 2)
        return add_padded(residual, skip).relu()


def add_padded(a: Tensor, b: Tensor) -> Tensor:
    """Sum (N, C, H, W) of two maps, each padded with zeros at its end to the larger C, H and W (dlib `add_prev_`)."""
    shape = [max(sizes) for sizes in zip(a.shape, b.shape, strict=True)]
    return _pad_to(a, shape) + _pad_to(b, shape)


def _pad_to(x: Tensor, shape: list[int]) -> Tensor:
    missing = [want - got for want, got in zip(shape, x.shape, strict=True)]
    return F.pad(x, (0, missing[3], 0, missing[2], 0, missing[1])) if any(missing) else x
