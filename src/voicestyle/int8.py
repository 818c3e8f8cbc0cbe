"""Weights as whole multiples of a step, one step a row, so that a file holds them in one byte each and exactly.

Rounding is done once, before features are computed or anything is trained on them; from then on, saving and loading
change nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

LEVELS = 127  # multiples to either side of zero; the largest of each row is one of the two
STEP_BITS = 9  # significant bits of a step: a float32 holds a multiple, and finds its step again, exactly
# weights in a row, below which it is not worth a step and its rounding shows: depthwise and first layers, biases
MIN_ROW = 128


def rounded(weight: Tensor) -> Tensor:
    """The weight (O, ...), float32, with each row at the nearest multiples of its step; unchanged where rows are short.

    A step is the largest absolute value of its row over 127, to 9 bits.
    """
    if not _has_long_rows(weight):
        return weight
    mantissa, exponent = torch.frexp(_largest(weight) / LEVELS)
    step = torch.ldexp((mantissa * 2**STEP_BITS).round() / 2**STEP_BITS, exponent)
    return _levels(weight, step) * _column(step, weight) + 0.0  # no negative zeros: int8 has none


def to_int8(weight: Tensor) -> tuple[Tensor, Tensor] | None:
    """Multiples (O, ...), int8, and steps (O,) of a weight that `rounded` has made; None for any other."""
    if not _has_long_rows(weight) or not torch.isfinite(weight).all():
        return None
    step = _largest(weight) / LEVELS
    levels = _levels(weight, step).to(torch.int8)
    is_exact = torch.equal(from_int8(levels, step).view(torch.int32), weight.contiguous().view(torch.int32))
    return (levels, step) if is_exact else None


def from_int8(levels: Tensor, step: Tensor) -> Tensor:
    """The weight (O, ...), float32, that `to_int8` was given."""
    return levels.float() * _column(step, levels)


def _has_long_rows(weight: Tensor) -> bool:
    return weight.ndim >= 2 and weight.dtype == torch.float32 and weight[0].numel() >= MIN_ROW


def _largest(weight: Tensor) -> Tensor:
    return weight.abs().flatten(1).amax(1).clamp_min(torch.finfo(torch.float32).tiny * 2**STEP_BITS)


def _levels(weight: Tensor, step: Tensor) -> Tensor:
    return (weight / _column(step, weight)).round().clamp(-LEVELS, LEVELS)


def _column(step: Tensor, like: Tensor) -> Tensor:
    return step.view(-1, *[1] * (like.ndim - 1))
