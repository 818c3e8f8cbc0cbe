"""The synthesis network as the reference formulates it: weights of each sample, grouped convolutions, plain filters."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from voicestyle.nn.ops import LEAKY_SLOPE, SQRT2
from voicestyle.nn.stylegan2 import ModulatedConv2d, StyledConv, Synthesis, ToRGB


def filtered(x: Tensor, kernel: Tensor, padding: tuple[int, int]) -> Tensor:
    """x (N,C,H,W), each channel a picture of its own, zero-padded before and after and filtered."""
    num, channels, height, width = x.shape
    x = F.pad(x.reshape(num * channels, 1, height, width), (*padding, *padding))
    x = F.conv2d(x, kernel.flip(0, 1)[None, None])
    return x.view(num, channels, *x.shape[-2:])


def upsampled(x: Tensor, kernel: Tensor) -> Tensor:
    """x (N,C,H,W) at twice its size: a zero after each pixel, then filtered."""
    num, channels, height, width = x.shape
    x = F.pad(x.reshape(num, channels, height, 1, width, 1), (0, 1, 0, 0, 0, 1))
    return filtered(x.reshape(num, channels, 2 * height, 2 * width), kernel * 4, (2, 1))


def modulated(conv: ModulatedConv2d, x: Tensor, w: Tensor, demodulate: bool) -> Tensor:
    """Each sample convolved with its own weights (StyleGAN2, equations 1 to 3), as one grouped convolution."""
    style = conv.affine(w)
    num, in_channels, height, width = x.shape
    weight = conv.scale * conv.weight[None] * style[:, None, :, None, None]  # (N,O,I,k,k)
    if demodulate:
        weight = weight * torch.rsqrt(weight.square().sum((2, 3, 4), keepdim=True) + 1e-8)
    out_channels, size = weight.shape[1], weight.shape[-1]
    x = x.reshape(1, num * in_channels, height, width)
    if conv.upsample:
        weight = weight.transpose(1, 2).reshape(num * in_channels, out_channels, size, size)
        x = F.conv_transpose2d(x, weight, stride=2, groups=num)
        return filtered(x.view(num, out_channels, *x.shape[-2:]), conv.kernel * 4, (1, 1))
    weight = weight.reshape(num * out_channels, in_channels, size, size)
    return F.conv2d(x, weight, padding=size // 2, groups=num).view(num, out_channels, height, width)


class ReferenceSynthesis(nn.Module):
    """w (N,w_dim) -> picture (N,3,size,size), with the weights of a `Synthesis`, which all require gradients."""

    def __init__(self, synthesis: Synthesis) -> None:
        super().__init__()
        self.parts = copy.deepcopy(synthesis).requires_grad_(True)

    def styled(self, layer: StyledConv, x: Tensor, w: Tensor) -> Tensor:
        x = modulated(layer.conv, x, w, demodulate=True)
        x = x + layer.noise_strength * layer.noise_const
        return F.leaky_relu(x + layer.bias[:, None, None], LEAKY_SLOPE) * SQRT2

    def to_rgb(self, layer: ToRGB, x: Tensor, w: Tensor, image: Tensor | None) -> Tensor:
        rgb = modulated(layer.conv, x, w, demodulate=False) + layer.bias[:, None, None]
        return rgb if image is None else rgb + upsampled(image, layer.kernel)

    def forward(self, w: Tensor) -> Tensor:
        convs, image = self.parts.convs, None
        x = self.styled(convs[0], self.parts.const.repeat(len(w), 1, 1, 1), w)
        for i, to_rgb in enumerate(self.parts.to_rgbs):
            if i > 0:
                x = self.styled(convs[2 * i - 1], x, w)
                x = self.styled(convs[2 * i], x, w)
            image = self.to_rgb(to_rgb, x, w, image)
        return image
