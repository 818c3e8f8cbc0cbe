"""Small differentiable signal operations that the StyleGAN2 networks are made of. Plain PyTorch, no custom kernels."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEAKY_SLOPE = 0.2  # StyleGAN2, section 2
SQRT2 = math.sqrt(2.0)  # keeps the variance of activations after the leaky ReLU


def at_least_float32(x: Tensor) -> Tensor:
    """x in float32 where it is of half precision, else x itself."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def leaky_relu(x: Tensor, bias: Tensor | None = None) -> Tensor:
    """Leaky ReLU of x (N,C,...) plus a bias (C,), scaled by the square root of two to keep the variance."""
    if bias is not None:
        x = x + bias.view(1, -1, *([1] * (x.ndim - 2))).to(x.dtype)
    return F.leaky_relu(x, LEAKY_SLOPE) * SQRT2


def blur_kernel() -> Tensor:
    """The separable [1, 3, 3, 1] low-pass filter of StyleGAN2 as a (4,4) kernel of unit sum."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    return torch.outer(taps, taps) / taps.sum() ** 2


def blur(x: Tensor, kernel: Tensor, padding: int, gain: float = 1.0) -> Tensor:
    """x (N,C,H,W) filtered by a symmetric kernel, zero-padded on each side: a depthwise convolution.

    The output has H + 2 * padding - 3 rows for a 4-tap kernel.
    """
    num_channels = x.shape[1]
    weight = (kernel * gain).to(x.dtype).expand(num_channels, 1, -1, -1)
    return F.conv2d(x, weight, padding=padding, groups=num_channels)


def upsample2(x: Tensor, kernel: Tensor) -> Tensor:
    """x (N,C,H,W) at twice its size: zeros inserted, then low-pass filtered."""
    num_channels = x.shape[1]
    weight = (kernel * 4).to(x.dtype).expand(num_channels, 1, -1, -1)
    return F.conv_transpose2d(x, weight, stride=2, padding=1, groups=num_channels)


class EqualLinear(nn.Module):
    """Linear layer with equalized learning rate (Karras et al., ICLR 2018)."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias_init: float = 0.0,
        lr_multiplier: float = 1.0,
        activate: bool = False,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((out_features,), bias_init / lr_multiplier))
        self.scale = lr_multiplier / math.sqrt(in_features)
        self.lr_multiplier = lr_multiplier
        self.activate = activate

    def forward(self, x: Tensor) -> Tensor:
        x = F.linear(x, self.weight * self.scale, self.bias * self.lr_multiplier)
        return leaky_relu(x) if self.activate else x


class EqualConv2d(nn.Module):
    """Convolution without bias, with equalized learning rate; bias and activation follow where `activate`.

    With `downsample`, the input is low-pass filtered and the stride is 2.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, downsample: bool = False, activate: bool = True
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if activate else None
        self.scale = 1 / math.sqrt(in_channels * kernel_size**2)
        self.kernel_size = kernel_size
        self.downsample = downsample
        if downsample:
            self.register_buffer("kernel", blur_kernel(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        weight = (self.weight * self.scale).to(x.dtype)
        if self.downsample:
            # a 1x1 kernel needs one sample of padding around the filter, a 3x3 kernel two
            x = F.conv2d(blur(x, self.kernel, padding=1 + self.kernel_size // 2), weight, stride=2)
        else:
            x = F.conv2d(x, weight, padding=self.kernel_size // 2)
        return x if self.bias is None else leaky_relu(x, self.bias)
