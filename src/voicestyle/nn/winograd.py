"""3x3 convolutions with a quarter of the multiplications: Winograd's F(4x4, 3x3), as matrix products.

Lavin and Gray (CVPR 2016), section 4: tiles of 4x4 outputs are products of 36 transformed coefficients each, instead
of 144 products. It is exact algebra, with about ten times the rounding of a plain sum (1e-5 of the largest value in
float32). On a processor whose vectors are all that multiplies, convolutions of many channels take 0.4 to 0.8 of the
time that oneDNN takes for them.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

TILE, PATCH = 4, 6  # outputs and inputs of a tile, a side
BLOCK = 500_000  # transformed values that are under way together, so that they stay in the processor's cache
MIN_CHANNELS = 128  # below, moving the data about costs more than the multiplications saved
MIN_SIZE = 32  # pixels a side: below, transforming the weights does

# Lavin and Gray, section 4: of inputs, weights and outputs (points 0, 1, -1, 2, -2, infinity)
INPUT = (
    (4, 0, -5, 0, 1, 0), (0, -4, -4, 1, 1, 0), (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0), (0, 2, -1, -2, 1, 0), (0, 4, 0, -5, 0, 1),
)  # fmt: skip
WEIGHT = (
    (1 / 4, 0, 0), (-1 / 6, -1 / 6, -1 / 6), (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6), (1 / 24, -1 / 12, 1 / 6), (0, 0, 1),
)  # fmt: skip
OUTPUT = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))


def conv3x3(x: Tensor, weight: Tensor) -> Tensor:
    """x (N,C,H,W) convolved with a weight (C',C,3,3), padded by one: by Winograd's way where that is the faster one.

    That is on a CPU, for frozen weights, many channels and sides that are multiples of four.
    """
    return _Conv3x3.apply(x, weight) if pays(x, weight) else F.conv2d(x, weight, padding=1)


def pays(x: Tensor, weight: Tensor) -> bool:
    """Whether `conv3x3` goes Winograd's way."""
    is_plain = x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64) and x.dtype == weight.dtype
    height, width = x.shape[2:]
    has_tiles = min(height, width) >= MIN_SIZE and height % TILE == 0 and width % TILE == 0
    return is_plain and has_tiles and not weight.requires_grad and min(weight.shape[:2]) >= MIN_CHANNELS


class _Conv3x3(torch.autograd.Function):
    """The convolution, and the gradient of its input, which is one too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        return winograd(x, weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (weight,) = ctx.saved_tensors
        return _Conv3x3.apply(gradient, weight.flip(2, 3).transpose(0, 1)), None


@cache
def _matrices(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """The transforms of both axes at once, of flattened inputs (36,36), weights (36,9) and outputs (16,36)."""
    parts = (torch.tensor(rows, dtype=torch.float64) for rows in (INPUT, WEIGHT, OUTPUT))
    return tuple(torch.kron(part, part).to(dtype) for part in parts)


def winograd(x: Tensor, weight: Tensor) -> Tensor:
    """The convolution (N,C',H,W) of x (N,C,H,W), H and W multiples of four, with a weight (C',C,3,3), padded by one."""
    of_input, of_weight, of_output = _matrices(x.dtype)
    num, in_channels, height, width = x.shape
    out_channels = len(weight)
    u = (of_weight @ weight.reshape(-1, 9).t()).view(PATCH**2, out_channels, in_channels)
    rows = int(max(BLOCK, u.numel() / 2) / (PATCH**2 * max(in_channels, out_channels) * num * width / TILE))
    padded, out = F.pad(x, (1, 1, 1, 1)), x.new_empty(num, out_channels, height, width)
    for top in range(0, height, TILE * max(1, rows)):
        part = out[:, :, top : top + TILE * max(1, rows)]
        patches = padded[:, :, top : top + part.shape[2] + 2].unfold(2, PATCH, TILE).unfold(3, PATCH, TILE)
        v = of_input @ patches.permute(4, 5, 1, 0, 2, 3).reshape(PATCH**2, -1)
        y = of_output @ torch.bmm(u, v.view(PATCH**2, in_channels, -1)).view(PATCH**2, -1)
        y = y.view(TILE, TILE, out_channels, num, part.shape[2] // TILE, width // TILE)
        part.view(num, out_channels, -1, TILE, width // TILE, TILE).copy_(y.permute(3, 2, 4, 0, 5, 1))
    return out
