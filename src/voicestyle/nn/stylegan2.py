"""StyleGAN2 (Karras et al., CVPR 2020): mapping, synthesis, discriminator.

Modulated convolution is computed as scale input -> shared convolution -> scale output, which equals the
per-sample weights of the paper (section 2.2) and needs neither grouped convolutions nor, where the weights are frozen,
any weight gradient.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from voicestyle.config import GeneratorConfig
from voicestyle.nn.ops import (
    LEAKY_SLOPE,
    SQRT2,
    EqualConv2d,
    EqualLinear,
    at_least_float32,
    blur,
    blur_kernel,
    upsample2,
)
from voicestyle.nn.winograd import conv3x3

NoiseMode = Literal["const", "none", "random"]


class Mapping(nn.Module):
    """z (N,z_dim) -> w (N,w_dim): an MLP on the normalized z."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        widths = [config.z_dim] + [config.w_dim] * config.num_mapping_layers
        self.layers = nn.ModuleList(
            EqualLinear(a, b, lr_multiplier=config.mapping_lr_multiplier, activate=True)
            for a, b in zip(widths, widths[1:], strict=False)
        )

    def forward(self, z: Tensor) -> Tensor:
        x = z * torch.rsqrt(z.square().mean(1, keepdim=True) + 1e-8)
        for layer in self.layers:
            x = layer(x)
        return x


class ModulatedConv2d(nn.Module):
    """Convolution whose weights are scaled per input channel by a style, an affine map of w."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        w_dim: int,
        upsample: bool = False,
        demodulate: bool = True,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size))
        self.affine = EqualLinear(w_dim, in_channels, bias_init=1.0)
        self.scale = 1 / math.sqrt(in_channels * kernel_size**2)
        self.upsample = upsample
        self._known: tuple[Tensor, int, tuple[Tensor, Tensor]] | None = None  # a weight, its version, what it became
        if upsample:
            self.register_buffer("kernel", blur_kernel(), persistent=False)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """Features (N,C',H',W'), not demodulated, of x (N,C,H,W) and style (N,C)."""
        weight = self._prepared()[0].to(x.dtype)
        x = x * (style * self.scale).to(x.dtype)[:, :, None, None]
        if self.upsample:
            return blur(F.conv_transpose2d(x, weight, stride=2), self.kernel, padding=1, gain=4)
        return conv3x3(x, weight) if weight.shape[-1] == 3 else F.conv2d(x, weight)

    def demodulation(self, style: Tensor) -> Tensor:
        """One over the norm of the scaled weights, one a sample and output channel: (N,C') (StyleGAN2, equation 3)."""
        squares = self._prepared()[1]
        return torch.rsqrt((style * self.scale).to(squares.dtype).square() @ squares.t() + 1e-8)

    def _prepared(self) -> tuple[Tensor, Tensor]:
        """The weight as the convolution takes it, and the sums (C',C) of its squares over its taps.

        Found once for frozen weights: at a guided step of a small network it is a fifth of the work.
        """
        if self.weight.requires_grad:
            return self._prepare()
        now = self.weight.detach()  # shares memory and version with it: held, so that nothing else can take its place
        if self._known is not None:
            known, version, prepared = self._known
            same = known.data_ptr() == now.data_ptr() and known.dtype == now.dtype and version == now._version
            if same:
                return prepared
        self._known = now, now._version, self._prepare()
        return self._known[2]

    def _prepare(self) -> tuple[Tensor, Tensor]:
        weight = self.weight.transpose(0, 1).contiguous() if self.upsample else self.weight
        return weight, self.weight.square().sum((2, 3))


class StyledConv(nn.Module):
    """Modulated, demodulated 3x3 convolution, scaled noise, bias, activation."""

    def __init__(
        self, in_channels: int, out_channels: int, w_dim: int, resolution: int, upsample: bool = False
    ) -> None:
        super().__init__()
        self.conv = ModulatedConv2d(in_channels, out_channels, 3, w_dim, upsample)
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.register_buffer("noise_const", torch.randn(1, 1, resolution, resolution))

    def forward(self, x: Tensor, w: Tensor, noise: Tensor | None) -> Tensor:
        style = self.conv.affine(w)
        x = self.conv(x, style)
        # leaky(d x + n + b) sqrt(2) with the constants drawn inside: two passes over the features instead of five
        gain = (self.conv.demodulation(style) * SQRT2)[:, :, None, None]
        shift = self.bias[:, None, None] * SQRT2
        if noise is not None:
            shift = shift + noise * (self.noise_strength * SQRT2)
        x = torch.addcmul(shift.to(x.dtype), x, gain.to(x.dtype))
        return F.leaky_relu(x, LEAKY_SLOPE, inplace=True)


class ToRGB(nn.Module):
    """Features -> RGB, added to the picture of the resolution below."""

    def __init__(self, in_channels: int, w_dim: int) -> None:
        super().__init__()
        self.conv = ModulatedConv2d(in_channels, 3, 1, w_dim)
        self.bias = nn.Parameter(torch.zeros(3))
        self.register_buffer("kernel", blur_kernel(), persistent=False)

    def forward(self, x: Tensor, w: Tensor, image: Tensor | None) -> Tensor:
        rgb = self.conv(x, self.conv.affine(w)) + self.bias[:, None, None]  # of float32 under autocast too
        return rgb if image is None else rgb + upsample2(image, self.kernel)


class Synthesis(nn.Module):
    """w -> picture: skip connections of RGB from 4 px up (StyleGAN2, section 4.1)."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.num_ws = config.num_ws
        self.const = nn.Parameter(torch.randn(1, config.num_channels(4), 4, 4))
        self.convs = nn.ModuleList([StyledConv(config.num_channels(4), config.num_channels(4), config.w_dim, 4)])
        self.to_rgbs = nn.ModuleList([ToRGB(config.num_channels(4), config.w_dim)])
        for resolution in (2**i for i in range(3, config.size.bit_length())):
            below, here = config.num_channels(resolution // 2), config.num_channels(resolution)
            self.convs.append(StyledConv(below, here, config.w_dim, resolution, upsample=True))
            self.convs.append(StyledConv(here, here, config.w_dim, resolution))
            self.to_rgbs.append(ToRGB(here, config.w_dim))

    @property
    def noise_shapes(self) -> list[tuple[int, ...]]:
        """Shape (1,1,r,r) of each noise map, from the lowest resolution up."""
        return [tuple(conv.noise_const.shape) for conv in self.convs]

    def forward(
        self,
        w: Tensor,  # (N, w_dim) or (N, num_ws, w_dim)
        noise_mode: NoiseMode = "const",
        noise: list[Tensor] | None = None,  # one map a layer, (1 or N, 1, r, r); overrides noise_mode
        rng: torch.Generator | None = None,  # for noise_mode "random", on the device of w
        until: int | None = None,  # resolution; None: all
    ) -> Tensor:
        """Picture (N,3,size,size), about [-1,1], not clamped, float32.

        With `until` it is the smaller picture (N,3,until,until) that the skip connections carry there: a part of the
        work, for whoever looks at no more than that.

        Raises:
            ValueError: w or the noise maps have another shape than the network takes, or no such resolution.
        """
        return self.features(w, noise_mode, noise, rng, until)[1]

    def features(
        self,
        w: Tensor,
        noise_mode: NoiseMode = "const",
        noise: list[Tensor] | None = None,
        rng: torch.Generator | None = None,
        until: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Features (N,C,r,r) and picture (N,3,r,r) of the last block; arguments are as for `forward`."""
        if w.ndim == 2:
            w = w[:, None].expand(-1, self.num_ws, -1)
        if w.ndim != 3 or w.shape[1] != self.num_ws:
            raise ValueError(f"w: got shape {tuple(w.shape)}, expected (N, w_dim) or (N, {self.num_ws}, w_dim)")
        resolutions = [4 * 2**i for i in range(len(self.to_rgbs))]
        if until is not None and until not in resolutions:
            raise ValueError(f"until: got {until}, expected one of {resolutions}")
        maps = self._noise(w, noise_mode, noise, rng)
        x = self.const.expand(w.shape[0], -1, -1, -1).to(w.dtype)
        x = self.convs[0](x, w[:, 0], maps[0])
        image = self.to_rgbs[0](x, w[:, 1], None)
        num_blocks = len(resolutions) if until is None else resolutions.index(until) + 1
        for i in range(1, num_blocks):
            x, image = self.block(i, x, image, w, maps[2 * i - 1 : 2 * i + 1])
        return x, image

    def block(
        self,
        i: int,  # from 1, the block of 8 px, up
        x: Tensor,  # features (N,C,h,h) of the block below
        image: Tensor,  # (N,3,h,h) its picture
        w: Tensor,  # (N, num_ws, w_dim)
        noise: Sequence[Tensor | None],  # of its two layers
    ) -> tuple[Tensor, Tensor]:
        """Features (N,C',2h,2h) and picture (N,3,2h,2h) of one block.

        It is local: a crop of features makes the crop of the picture, less a margin of 8 px at cut edges.
        """
        x = self.convs[2 * i - 1](x, w[:, 2 * i - 1], noise[0])
        x = self.convs[2 * i](x, w[:, 2 * i], noise[1])
        return x, self.to_rgbs[i](x, w[:, 2 * i + 1], image)

    def _noise(
        self, w: Tensor, mode: NoiseMode, noise: list[Tensor] | None, rng: torch.Generator | None
    ) -> list[Tensor | None] | list[Tensor]:
        if noise is not None:
            if len(noise) != len(self.convs):
                raise ValueError(f"noise: got {len(noise)} maps, expected {len(self.convs)}")
            return noise
        if mode == "const":
            return [conv.noise_const for conv in self.convs]
        if mode == "none":
            return [None] * len(self.convs)
        if mode == "random":
            return [torch.randn(w.shape[0], *s[1:], generator=rng, device=w.device) for s in self.noise_shapes]
        raise ValueError(f"noise_mode: got {mode!r}, expected 'const', 'none' or 'random'")


class Generator(nn.Module):
    """z -> w -> picture, with the statistics of w as buffers."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        self.mapping = Mapping(config)
        self.synthesis = Synthesis(config)
        self.register_buffer("w_avg", torch.zeros(config.w_dim))
        self.register_buffer("w_std", torch.ones(()))

    @property
    def num_ws(self) -> int:
        """Style inputs of the synthesis network."""
        return self.synthesis.num_ws

    def truncate(self, w: Tensor, truncation_psi: float) -> Tensor:
        """w moved towards the mean: w_avg for psi 0, w itself for psi 1 (StyleGAN, appendix B)."""
        return w if truncation_psi == 1 else self.w_avg + truncation_psi * (w - self.w_avg)

    def forward(self, z: Tensor, truncation_psi: float = 1.0, noise_mode: NoiseMode = "const") -> Tensor:
        """Pictures (N,3,size,size) of z (N,z_dim)."""
        return self.synthesis(self.truncate(self.mapping(z), truncation_psi), noise_mode)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a 1x1 skip, at half the resolution."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = EqualConv2d(in_channels, in_channels, 3)
        self.conv2 = EqualConv2d(in_channels, out_channels, 3, downsample=True)
        self.skip = EqualConv2d(in_channels, out_channels, 1, downsample=True, activate=False)

    def forward(self, x: Tensor) -> Tensor:
        return (self.conv2(self.conv1(x)) + self.skip(x)) / SQRT2


class Discriminator(nn.Module):
    """Picture (N,3,size,size) -> logit (N,1), with minibatch standard deviation over groups of four."""

    GROUP = 4  # StyleGAN2's default; smaller batches form one group

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.from_rgb = EqualConv2d(3, config.num_channels(config.size), 1)
        resolutions = [2**i for i in range(config.size.bit_length() - 1, 2, -1)]
        self.blocks = nn.ModuleList(
            ResidualBlock(config.num_channels(r), config.num_channels(r // 2)) for r in resolutions
        )
        channels = config.num_channels(4)
        self.final_conv = EqualConv2d(channels + 1, channels, 3)
        self.final_linear = EqualLinear(channels * 16, channels, activate=True)
        self.logit = EqualLinear(channels, 1)

    def forward(self, image: Tensor) -> Tensor:
        x = self.from_rgb(image)
        for block in self.blocks:
            x = block(x)
        x = self.final_conv(torch.cat([x, self._minibatch_std(x)], 1))
        return self.logit(self.final_linear(x.flatten(1)))

    def _minibatch_std(self, x: Tensor) -> Tensor:
        num, _, height, width = x.shape
        group = min(num, self.GROUP)
        if num % group:
            raise ValueError(
                f"discriminator: batch of {num}, expected a multiple of {group} (minibatch standard deviation)"
            )
        y = at_least_float32(x).reshape(group, num // group, -1)
        std = (y.var(0, unbiased=False) + 1e-8).sqrt().mean(1)  # (num / group,)
        return std.repeat(group).view(num, 1, 1, 1).expand(-1, 1, height, width).to(x.dtype)
