"""LPIPS-VGG from its two files: torchvision's VGG16 (`vgg16-397923af.pth`) and the heads that the package ships."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from voicestyle.convert.keys import filled, layout, rename
from voicestyle.convert.torch_file import read_torch_file
from voicestyle.embedded import MODELS
from voicestyle.nn.lpips import LPIPS, STAGES

BACKBONE = "vgg16-397923af.pth"  # torchvision's VGG16_Weights.IMAGENET1K_V1
HEADS = MODELS / "lpips_heads.safetensors"  # `weights/v0.1/vgg.pth` of the package lpips 0.1.4 (BSD-2-Clause)
CLASSIFIER = {f"classifier.{i}.{leaf}" for i in (0, 3, 6) for leaf in ("weight", "bias")}  # not a part of LPIPS
WHAT = "VGG16"


def find_backbone() -> Path | None:
    """Where torchvision has left its VGG16 on this machine, or None."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / BACKBONE
    return path if path.is_file() else None


def read_lpips(path: str | Path | None = None) -> LPIPS:
    """LPIPS in evaluation mode, frozen, with torchvision's VGG16 at `path`, or wherever `find_backbone` finds it.

    Raises:
        FileNotFoundError: no such file
        ValueError: it does not hold torchvision's VGG16; see `read_torch_file` and `from_torchvision`
    """
    path = path or find_backbone()
    if path is None:
        raise FileNotFoundError(
            f"{Path(torch.hub.get_dir()) / 'checkpoints' / BACKBONE}: no such file; LPIPS needs torchvision's VGG16 "
            "there (torchvision.models.vgg16(weights='IMAGENET1K_V1') leaves it there), or its path"
        )
    state = read_torch_file(path)
    if not isinstance(state, dict):
        raise ValueError(f"{path}: holds a {type(state).__name__}, expected the state dict of torchvision's VGG16")
    try:
        backbone = from_torchvision(state)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return filled(LPIPS, backbone | load_file(HEADS)).requires_grad_(False)


def key_table() -> dict[str, str]:
    """The 26 keys of torchvision's VGG16 features -> ours."""
    table, i, place = {}, 0, 0
    for stage in STAGES:
        for _ in stage:
            for leaf in ("weight", "bias"):
                table[f"features.{i}.{leaf}"] = f"convs.{place}.{leaf}"
            i, place = i + 2, place + 1  # torchvision counts the ReLU behind each convolution,
        i += 1  # and the pooling behind each stage
    return table


def from_torchvision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The convolutions of `LPIPS` from torchvision's VGG16, whose classifier may be there and is left out.

    Raises:
        ValueError: keys missing or unknown, a shape that differs, values that are not finite
    """
    features = {key: value for key, value in state.items() if key not in CLASSIFIER}
    return rename(features, key_table(), _layout(), WHAT)


@functools.cache
def _layout() -> dict[str, Tensor]:
    """The convolutions of ours, without storage."""
    return {key: value for key, value in layout(LPIPS).items() if key.startswith("convs.")}
