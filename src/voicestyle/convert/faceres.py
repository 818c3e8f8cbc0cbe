"""TensorFlow.js' ``faceres-deep`` (``.json`` and the ``.bin`` beside it) of Human's models as our state dict."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from voicestyle.convert.keys import layout, rename
from voicestyle.convert.tfjs import read_arrays
from voicestyle.nn.faceres import BLOCKS, FaceRes

ADVICE = "this is not (all of) faceres-deep.json and faceres-deep.bin, get both again"
CONSTANTS = ("_relu/Cast", "_relu/Const_1", "reduction_indices")  # the bounds 6 and 0, and the axes of the mean


def read_state(path: str | Path) -> dict[str, Tensor]:
    """The state dict of `FaceRes`, float32, with batch norms folded.

    Args:
        path: the ``.json`` file; the weights lie beside it, where it says

    Raises:
        FileNotFoundError: one of the two files is missing
        ValueError: not that network: truncated, or names or shapes differ
    """
    path = Path(path)
    arrays = read_arrays(path)
    left = {name: value for name, value in arrays.items() if not name.endswith(CONSTANTS)}
    state: dict[str, np.ndarray] = {}
    try:
        state |= _convolution(left, "stem", "conv1/convolution/merged_input", "conv1_bn")
        for number in range(len(BLOCKS)):
            ours, (depthwise, pointwise) = f"blocks.{number}", (f"conv_{kind}_{number + 1}" for kind in ("dw", "pw"))
            kernel = left.pop(f"{depthwise}/depthwise_kernel") * left.pop(f"{depthwise}_bn/batchnorm_1/mul")[:, None]
            state[f"{ours}.depthwise.weight"] = kernel.transpose(2, 3, 0, 1)
            state[f"{ours}.depthwise.bias"] = left.pop(f"{depthwise}_bn/batchnorm_1/sub")
            merged = f"{pointwise}/convolution/merged_input"
            state |= _convolution(left, f"{ours}.pointwise", merged, f"{pointwise}_bn")
        for ours, theirs in (("hidden", "feats"), ("gender", "gender_pred"), ("age", "age_pred")):
            state[f"{ours}.weight"] = left.pop(f"{theirs}/kernel").T
            state[f"{ours}.bias"] = left.pop(f"{theirs}/bias")
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path}: no or another {error}; {ADVICE}") from None
    if left:
        raise ValueError(f"{path}: {len(left)} weights unknown, e.g. {sorted(left)[:3]}; {ADVICE}")
    tensors = {name: torch.from_numpy(np.array(value)) for name, value in state.items()}
    return rename(tensors, {name: name for name in tensors}, layout(FaceRes), str(path))


def _convolution(left: dict[str, np.ndarray], ours: str, kernel: str, norm: str) -> dict[str, np.ndarray]:
    """A convolution that the converter of TensorFlow.js has merged with the scale of its batch norm."""
    weight = left.pop(kernel).transpose(3, 2, 0, 1)
    return {f"{ours}.weight": weight, f"{ours}.bias": left.pop(f"{norm}/batchnorm_1/sub")}
