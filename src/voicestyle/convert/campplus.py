"""3D-Speaker's CAM++ checkpoint (``campplus_cn_en_common.pt``) as our state dict, with batch norms folded."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from voicestyle.convert.keys import layout, rename
from voicestyle.convert.torch_file import read_torch_file
from voicestyle.nn.campplus import BLOCKS, CAMPlusPlus

EPS = 1e-5  # of all batch norms (PyTorch's default)
COUNT = "num_batches_tracked"  # of use while a network is trained


def from_3d_speaker(path: str | Path) -> dict[str, Tensor]:
    """The state dict of `CAMPlusPlus` held by 3D-Speaker's checkpoint at `path`.

    Raises:
        FileNotFoundError: nothing at `path`
        ValueError: not that checkpoint: not safely loadable, or keys or shapes differ
    """
    state = read_torch_file(path)
    if not isinstance(state, dict):
        raise ValueError(f"{path}: a {type(state).__name__}, expected the state dict of 3D-Speaker's CAM++")
    return translate(state, str(path))


def translate(state: dict[str, Tensor], where: str = "state") -> dict[str, Tensor]:
    """3D-Speaker's state dict of CAM++ folded and under our keys, every key and shape checked (ValueError)."""
    left = {key: value.double() for key, value in state.items() if not key.endswith(COUNT)}
    folded: dict[str, Tensor] = {}
    try:
        for ours, theirs, norm in _convolutions():
            scale, offset = _affine(left, norm)
            weight = left.pop(f"{theirs}.weight")
            folded[f"{ours}.weight"] = weight * scale.view(-1, *[1] * (weight.ndim - 1))
            folded[f"{ours}.bias"] = offset
        for ours, norm in _norms():
            folded[f"{ours}.weight"], folded[f"{ours}.bias"] = _affine(left, norm)
        for ours, theirs in _plain():
            folded[ours] = left.pop(theirs)
        for number in range(len(BLOCKS)):  # a convolution that has no bias
            folded[f"{_transit(number)}.bias"] = torch.zeros_like(folded[f"{_transit(number)}.weight"][:, 0, 0])
        folded["fc.weight"] = folded["fc.weight"][..., 0]
    except (KeyError, IndexError, RuntimeError) as error:
        raise ValueError(f"{where}: not 3D-Speaker's CAM++ ({error}); get the file again") from None
    if left:
        raise ValueError(f"{where}: {len(left)} keys unknown, e.g. {sorted(left)[:3]}; not 3D-Speaker's CAM++")
    return rename(folded, {key: key for key in folded}, layout(CAMPlusPlus), where)


def _convolutions() -> list[tuple[str, str, str]]:
    """Our name, theirs, and the batch norm behind it, of each convolution that takes one in."""
    head = [("head.first", "head.conv1", "head.bn1"), ("head.last", "head.conv2", "head.bn2")]
    for number in range(4):
        theirs = f"head.layer{number // 2 + 1}.{number % 2}"
        head += [(f"head.blocks.{number}.conv{i}", f"{theirs}.conv{i}", f"{theirs}.bn{i}") for i in (1, 2)]
        if number % 2 == 0:
            head.append((f"head.blocks.{number}.skip", f"{theirs}.shortcut.0", f"{theirs}.shortcut.1"))
    layers = [(f"{o}.squeeze", f"{t}.linear1", f"{t}.nonlinear2.batchnorm") for o, t in _layers()]
    stem = ("stem", "xvector.tdnn.linear", "xvector.tdnn.nonlinear.batchnorm")
    return [*head, stem, *layers, ("fc", "xvector.dense.linear", "xvector.dense.nonlinear.batchnorm")]


def _norms() -> list[tuple[str, str]]:
    """Our name and theirs of each batch norm that stands before a rectifier, so that it stays."""
    layers = [(f"{ours}.norm", f"{theirs}.nonlinear1.batchnorm") for ours, theirs in _layers()]
    ends = [
        (f"stages.{number}.{num_layers}", f"xvector.transit{number + 1}.nonlinear.batchnorm")
        for number, (num_layers, _) in enumerate(BLOCKS)
    ]
    return [*layers, *ends, ("last", "xvector.out_nonlinear.batchnorm")]


def _plain() -> list[tuple[str, str]]:
    """Our name and theirs of each tensor that is taken as it is."""
    names = [(f"{_transit(number)}.weight", f"xvector.transit{number + 1}.linear.weight") for number in range(3)]
    for ours, theirs in _layers():
        names.append((f"{ours}.local.weight", f"{theirs}.cam_layer.linear_local.weight"))
        for i in (1, 2):
            names += [
                (f"{ours}.context{i}.{part}", f"{theirs}.cam_layer.linear{i}.{part}") for part in ("weight", "bias")
            ]
    return names


def _layers() -> list[tuple[str, str]]:
    """Our name and theirs of each layer of the dense blocks."""
    return [
        (f"stages.{number}.{i}", f"xvector.block{number + 1}.tdnnd{i + 1}")
        for number, (num_layers, _) in enumerate(BLOCKS)
        for i in range(num_layers)
    ]


def _transit(number: int) -> str:
    """Our name of the convolution that ends a dense block."""
    return f"stages.{number}.{BLOCKS[number][0] + 2}"


def _affine(state: dict[str, Tensor], norm: str) -> tuple[Tensor, Tensor]:
    """Scale and offset of a batch norm, taken out of `state`."""
    mean, variance = state.pop(f"{norm}.running_mean"), state.pop(f"{norm}.running_var")
    scale = (variance + EPS).rsqrt() * state.pop(f"{norm}.weight", torch.ones_like(mean))
    return scale, state.pop(f"{norm}.bias", torch.zeros_like(mean)) - mean * scale
