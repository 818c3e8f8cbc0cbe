"""IR-SE50 (Deng et al., ArcFace, CVPR 2019): who a face is, as the identity loss of the inversion compares it."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

INPUT_SIZE = 112  # pixels, square
EMBED_DIM = 512
STAGES = ((64, 3), (128, 4), (256, 14), (512, 3))  # channels and blocks; each stage halves the resolution
SE_REDUCTION = 16  # squeeze-and-excitation (Hu et al., CVPR 2018), section 3.2
# The face within a picture framed as FFHQ frames it: rows and columns of 256 px (pSp's identity loss, as VoiceStyle
# takes it over)
FRAME_SIZE, ROWS, COLUMNS = 256, slice(35, 223), slice(32, 220)


class IRSE50(nn.Module):
    """Face -> unit embedding; the cosine of two embeddings says how alike the faces are."""

    def __init__(self) -> None:
        super().__init__()
        width = STAGES[0][0]
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.PReLU(width))
        blocks = []
        for channels, num_blocks in STAGES:
            for i in range(num_blocks):
                blocks.append(Block(width, channels, stride=2 if i == 0 else 1))
                width = channels
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.BatchNorm2d(width)
        self.fc = nn.Linear(width * (INPUT_SIZE // 2 ** len(STAGES)) ** 2, EMBED_DIM)
        self.embed_norm = nn.BatchNorm1d(EMBED_DIM)

    def forward(self, face: Tensor) -> Tensor:
        """Unit embeddings (N,512) of aligned faces (N,3,112,112), RGB in [-1,1]."""
        x = self.norm(self.blocks(self.stem(face)))
        return F.normalize(self.embed_norm(self.fc(x.flatten(1))), dim=1)

    def identity_features(self, image: Tensor) -> Tensor:
        """Unit embeddings (N,512) of pictures (N,3,H,W) in [-1,1] in the frame of FFHQ, of any size."""
        if image.shape[-2:] != (FRAME_SIZE, FRAME_SIZE):
            image = F.adaptive_avg_pool2d(image, FRAME_SIZE)
        return self(F.adaptive_avg_pool2d(image[:, :, ROWS, COLUMNS], INPUT_SIZE))


class Block(nn.Module):
    """Improved residual unit (ArcFace, section 3.1) with a gate on its channels."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.prelu = nn.PReLU(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.gate = Gate(out_channels)
        if in_channels == out_channels:
            self.shortcut: nn.Module = nn.MaxPool2d(1, stride)  # every other pixel, or all of them
        else:
            projection = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        residual = self.norm2(self.conv2(self.prelu(self.conv1(self.norm1(x)))))
        return self.gate(residual) + self.shortcut(x)


class Gate(nn.Module):
    """Squeeze and excitation: every channel scaled by what all channels hold on average."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // SE_REDUCTION, 1, bias=False)
        self.fc2 = nn.Conv2d(channels // SE_REDUCTION, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc2(self.fc1(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
