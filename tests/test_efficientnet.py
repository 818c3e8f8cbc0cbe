"""EfficientNet-Lite1: parity with the network that its authors' weights are for, and what the distance is."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from voicestyle.convert.efficientnet import EPSILON, efficientnet_from_state
from voicestyle.nn.efficientnet import FEATURE_CHANNELS, STAGES, EfficientNet


def upstream_state(seed: int = 0) -> dict[str, Tensor]:
    """Random weights under the names of the package efficientnet-lite-pytorch, float64."""
    rng = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}

    def layer(convolution: str, norm: str, out: int, into: int, kernel: int) -> None:
        shape = (out, into, kernel, kernel)
        state[f"{convolution}.weight"] = torch.randn(shape, generator=rng).double() * (into * kernel**2) ** -0.5
        for part, low, high in (("weight", 0.5, 1.5), ("bias", -0.5, 0.5), ("running_mean", -0.5, 0.5),
                                ("running_var", 0.5, 1.5)):  # fmt: skip
            state[f"{norm}.{part}"] = (torch.rand(out, generator=rng) * (high - low) + low).double()

    layer("_conv_stem", "_bn0", 32, 3, 3)
    below, block = 32, 0
    for expansion, kernel, _, width, depth in STAGES:
        for _ in range(depth):
            name, inner = f"_blocks.{block}", below * expansion
            if expansion > 1:
                layer(f"{name}._expand_conv", f"{name}._bn0", inner, below, 1)
            layer(f"{name}._depthwise_conv", f"{name}._bn1", inner, 1, kernel)
            layer(f"{name}._project_conv", f"{name}._bn2", width, inner, 1)
            below, block = width, block + 1
    return state


def normalized(image: Tensor) -> Tensor:
    mean, std = (image.new_tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return ((image + 1) / 2 - mean) / std


def plain(state: dict[str, Tensor], image: Tensor) -> list[Tensor]:
    """The block outputs by the definition: convolution, batch normalization, ReLU6, TensorFlow's padding."""

    def conv(x: Tensor, name: str, norm: str, stride: int = 1, activate: bool = True) -> Tensor:
        weight = state[f"{name}.weight"]
        kernel, size = weight.shape[-1], x.shape[-1]
        missing = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        low, high = missing // 2, missing - missing // 2
        x = F.conv2d(F.pad(x, (low, high, low, high)), weight, None, stride, 0, 1, x.shape[1] // weight.shape[1])
        x = F.batch_norm(x, state[f"{norm}.running_mean"], state[f"{norm}.running_var"], state[f"{norm}.weight"],
                         state[f"{norm}.bias"], eps=EPSILON)  # fmt: skip
        return x.clamp(0, 6) if activate else x

    x = conv(normalized(image), "_conv_stem", "_bn0", 2)
    outputs, block = [], 0
    for expansion, _, first_stride, _, depth in STAGES:
        for i in range(depth):
            name, stride = f"_blocks.{block}", first_stride if i == 0 else 1
            y = conv(x, f"{name}._expand_conv", f"{name}._bn0") if expansion > 1 else x
            y = conv(y, f"{name}._depthwise_conv", f"{name}._bn1", stride)
            y = conv(y, f"{name}._project_conv", f"{name}._bn2", activate=False)
            x = x + y if i > 0 else y
            block += 1
        outputs.append(x)
    return [outputs[i] for i in (1, 2, 4, 6)]


@pytest.mark.parametrize("size", [64, 75])  # 75: TensorFlow's padding of odd and even sides differs
def test_features_are_those_of_the_definition(size: int) -> None:
    state = upstream_state()
    image = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1)).double() * 2 - 1
    found, wanted = efficientnet_from_state(state).features(image), plain(state, image)
    assert [f.shape[1] for f in found] == list(FEATURE_CHANNELS) == [24, 40, 112, 320]
    for mine, theirs in zip(found, wanted, strict=True):
        assert mine.shape == theirs.shape
        assert (mine - theirs).abs().max() < 1e-10 * theirs.abs().max()


def test_features_are_those_of_the_package() -> None:
    package = pytest.importorskip("efficientnet_lite_pytorch")
    state = upstream_state(2)
    theirs = package.EfficientNet.from_name("efficientnet-lite1").double().eval()
    missing, unexpected = theirs.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(name.startswith(("_conv_head", "_bn1", "_fc")) or "num_batches" in name for name in missing)
    network = efficientnet_from_state(state)
    image = torch.rand(1, 3, 240, 240, generator=torch.Generator().manual_seed(3)).double() * 2 - 1
    x = theirs._swish(theirs._bn0(theirs._conv_stem(normalized(image))))
    outputs = []
    for block in theirs._blocks:
        x = block(x)
        outputs.append(x)
    for mine, i in zip(network.features(image), (3, 6, 14, 20), strict=True):
        assert (mine - outputs[i]).abs().max() < 1e-10 * outputs[i].abs().max()


def test_a_missing_tensor_is_named() -> None:
    state = upstream_state()
    del state["_blocks.3._bn1.running_var"]
    with pytest.raises(ValueError, match=r"'_blocks\.3\._bn1\.running_var' is missing"):
        efficientnet_from_state(state)


def test_distance_is_relative_and_zero_for_equal_pictures() -> None:
    torch.manual_seed(0)
    network = EfficientNet().eval().requires_grad_(False)
    a = network.features(torch.rand(2, 3, 64, 64) * 2 - 1)
    assert torch.equal(network.distance(a, a), torch.zeros(2))
    torch.testing.assert_close(network.distance([1.5 * x for x in a], a), torch.full((2,), 0.5))
