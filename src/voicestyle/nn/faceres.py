"""HSE_FaceRec's MobileNet (Savchenko, "Efficient facial representations ...", PeerJ Computer Science, 2019).

A MobileNet v1 trained on VGGFace2 with heads for age and gender, as `faceres-deep` of Human's models has it, with its
batch norms folded.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BGR_MEAN = (103.939, 116.779, 123.68)  # in 0..255 (Keras `imagenet_utils`, mode "caffe", as HSE_FaceRec_tf has it)
INPUT_SIZE = 224  # pixels, square
STEM_CHANNELS = 32
# (channels, stride) of each depthwise separable convolution: MobileNet v1, Howard et al., 2017
BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))
HIDDEN = 256  # of the layer before the heads
NUM_AGES = 100  # the age head tells the ages of 1 to 100 years
MAX_LOGIT = 6.9068  # of gender: probabilities of 0.001 to 0.999
AGE = -2  # which of the features is the age in years
BLOCK_SIZES = (BLOCKS[-1][0], HIDDEN, 1, 1)  # features: pooled, hidden, age, gender
ROOT_EPS = 1e-4  # under the square root, whose slope has no bound at zero


class FaceRes(nn.Module):
    """Face image -> what tells people, ages and genders apart."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, STEM_CHANNELS, 3, stride=2)
        layers, channels = [], STEM_CHANNELS
        for out_channels, stride in BLOCKS:
            layers.append(Separable(channels, out_channels, stride))
            channels = out_channels
        self.blocks = nn.Sequential(*layers)
        self.hidden = nn.Linear(channels, HIDDEN)
        self.gender = nn.Linear(HIDDEN, 1)
        self.age = nn.Linear(HIDDEN, NUM_AGES)
        self.register_buffer("mean", torch.tensor(BGR_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("years", torch.arange(1.0, NUM_AGES + 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Features (N, 1282): root of the pooled channels (1,024), hidden layer (256), years, gender's logit (m > 0).

        Args:
            image: (N, 3, 224, 224) RGB in [-1, 1], the face with a margin
        """
        pooled, hidden = self.layers(image)
        age = (self.age(hidden).softmax(1) * self.years).sum(1, keepdim=True)
        gender = self.gender(hidden).clamp(-MAX_LOGIT, MAX_LOGIT)
        return torch.cat([(pooled + ROOT_EPS).sqrt(), hidden, age, gender], dim=1)

    def layers(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The pooled channels (N, 1024) and the hidden layer (N, 256), both >= 0."""
        x = image.flip(1) * 127.5 + (127.5 - self.mean)
        # channels beside each other in memory: convolutions of one channel alone take half the time so
        x = F.relu6(self.stem(_pad_end(x).contiguous(memory_format=torch.channels_last)))
        pooled = self.blocks(x).mean((2, 3))
        return pooled, self.hidden(pooled).relu()


class Separable(nn.Module):
    """A convolution of each channel alone, then one of each pixel alone, both rectified and cut off at 6."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        padding = 1 if stride == 1 else 0
        self.depthwise = nn.Conv2d(in_channels, in_channels, 3, stride, padding, groups=in_channels)
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H, W), halved where the stride is 2."""
        x = F.relu6(self.depthwise(x if self.stride == 1 else _pad_end(x)))
        return F.relu6(self.pointwise(x))


def _pad_end(x: Tensor) -> Tensor:
    """TensorFlow's padding "same" of a 3x3 convolution with stride 2 of an even size: one pixel, at the end alone."""
    return F.pad(x, (0, 1, 0, 1))
