"""The forms that weights have in files: float16, int8, float32; and a fingerprint that is the same in each of them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from voicestyle.int8 import from_int8, to_int8

STEP = ".step"  # ends the name of the steps of a weight that is stored as int8


def stored(state: Mapping[str, Tensor], dtype: torch.dtype = torch.float16) -> dict[str, Tensor]:
    """A state dict as a file holds it: in its `halved` form, but rounded weights as int8, and their steps beside them.

    With another `dtype` than float16, none are int8.
    """
    result: dict[str, Tensor] = {}
    for name, value in halved(state, dtype).items():
        whole = to_int8(state[name].detach().cpu()) if dtype == torch.float16 else None
        result |= {name: value} if whole is None else {name: whole[0], name + STEP: whole[1]}
    return result


def restored(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict, float32, that `stored` was given."""
    steps = {name for name in state if name.endswith(STEP) and state.get(name.removesuffix(STEP)) is not None}
    result = {}
    for name, value in state.items():
        if name + STEP in steps:
            value = from_int8(value, state[name + STEP])
        if name not in steps:
            result[name] = value.float() if value.is_floating_point() else value
    return result


def is_finite(value: Tensor) -> bool:
    """Whether no number is NaN or infinite: what `torch.isfinite(value).all()` says, in a seventh of its time."""
    return not value.numel() or math.isfinite(value.abs().max())


def halved(state: Mapping[str, Tensor], dtype: torch.dtype = torch.float16) -> dict[str, Tensor]:
    """A state dict on the CPU with matrices and kernels as `dtype`, the rest unchanged.

    Vectors (biases, statistics of normalization) are small and can need the range, so they stay float32, and so does
    a tensor that float16 cannot hold.
    """
    result = {}
    for name, value in state.items():
        value = value.detach().cpu().contiguous()
        if value.ndim >= 2 and value.is_floating_point() and is_finite(cast := value.to(dtype)):
            value = cast
        result[name] = value
    return result


def fingerprint(module: nn.Module) -> str:
    """The sha256 (hex) of a network's state in float16 form (`halved`): names, types, shapes and bytes.

    It does not change by saving and loading, whatever the weights are stored in, and tells nothing finer apart.
    """
    digest = hashlib.sha256()
    for name, value in sorted(halved(module.state_dict()).items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy() if value.numel() else b"")
    return digest.hexdigest()
