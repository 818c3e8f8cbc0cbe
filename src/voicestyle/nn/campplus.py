"""CAM++ (Wang et al., "CAM++: a fast and efficient network for speaker verification", Interspeech 2023).

Batch norms are constants once training has ended: one behind a convolution is folded into it, the others are affine.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

N_MELS = 80
EMBED_DIM = 192
HEAD_CHANNELS = 32
STEM_CHANNELS = 128
GROWTH = 32  # channels that a layer of a dense block adds
BOTTLENECK = 128  # channels inside of such a layer
BLOCKS = ((12, 1), (24, 2), (16, 2))  # layers and dilation of each dense block (3D-Speaker DTDNN.py)
SEGMENT = 100  # frames after the stem, 2 s: what the local context of a mask is averaged over
CONTEXT_REDUCTION = 2


class CAMPlusPlus(nn.Module):
    """Log mel energies -> speaker embedding: a 2-d head, then dense blocks of masked dilated convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.head = Head()
        channels = HEAD_CHANNELS * N_MELS // 8
        self.stem = nn.Conv1d(channels, STEM_CHANNELS, 5, stride=2, padding=2)
        stages: list[nn.Module] = []
        channels = STEM_CHANNELS
        for num_layers, dilation in BLOCKS:
            layers = [DenseLayer(channels + i * GROWTH, dilation) for i in range(num_layers)]
            channels += num_layers * GROWTH
            stages.append(nn.Sequential(*layers, Affine(channels), nn.ReLU(), nn.Conv1d(channels, channels // 2, 1)))
            channels //= 2
        self.stages = nn.Sequential(*stages)
        self.last = Affine(channels)
        self.fc = nn.Linear(2 * channels, EMBED_DIM)

    def forward(self, fbank: Tensor) -> Tensor:
        """Embeddings (N, 192), not normalized, of log mel energies (N, 1, 80, T), whatever their mean."""
        x = fbank - fbank.mean(3, keepdim=True)
        x = self.stem(self.head(x).flatten(1, 2)).relu()
        x = self.last(self.stages(x)).relu()
        return self.fc(torch.cat([x.mean(2), x.std(2)], dim=1))


class Affine(nn.Module):
    """A scale and an offset for each channel: what is left of a batch norm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, T) -> (N, C, T)."""
        return torch.addcmul(self.bias[:, None], x, self.weight[:, None])


class Head(nn.Module):
    """Residual 2-d convolutions that leave time as it is and halve the bands three times."""

    def __init__(self, channels: int = HEAD_CHANNELS) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, channels, 3, padding=1)
        self.blocks = nn.Sequential(*(HeadBlock(channels, halves) for halves in (True, False) * 2))
        self.last = nn.Conv2d(channels, channels, 3, stride=(2, 1), padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 1, n_mels, T) -> (N, 32, n_mels / 8, T)."""
        return self.last(self.blocks(self.first(x).relu())).relu()


class HeadBlock(nn.Module):
    """Two convolutions and a skip, which is a convolution where the bands are halved."""

    def __init__(self, channels: int, halves: bool) -> None:
        super().__init__()
        stride = (2 if halves else 1, 1)
        self.conv1 = nn.Conv2d(channels, channels, 3, stride=stride, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.skip = nn.Conv2d(channels, channels, 1, stride=stride) if halves else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, T) -> (N, C, H or H / 2, T)."""
        return (self.conv2(self.conv1(x).relu()) + self.skip(x)).relu()


class DenseLayer(nn.Module):
    """A dilated convolution whose channels are masked by their context, beside all that came before."""

    def __init__(self, in_channels: int, dilation: int) -> None:
        super().__init__()
        self.norm = Affine(in_channels)
        self.squeeze = nn.Conv1d(in_channels, BOTTLENECK, 1)
        self.local = nn.Conv1d(BOTTLENECK, GROWTH, 3, padding=dilation, dilation=dilation, bias=False)
        self.context1 = nn.Conv1d(BOTTLENECK, BOTTLENECK // CONTEXT_REDUCTION, 1)
        self.context2 = nn.Conv1d(BOTTLENECK // CONTEXT_REDUCTION, GROWTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, T) -> (N, C + 32, T)."""
        h = self.squeeze(self.norm(x).relu()).relu()
        context = h.mean(2, keepdim=True) + F.avg_pool1d(h, SEGMENT, ceil_mode=True)  # (N, 128, segments)
        mask = self.context2(self.context1(context).relu()).sigmoid()
        mask = mask.repeat_interleave(SEGMENT, dim=2)[..., : h.shape[2]]
        return torch.cat([x, self.local(h) * mask], dim=1)
