"""HSE_FaceRec's MobileNet against the plain execution of TensorFlow.js' layout of its weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fill import inp
from voicestyle.convert.faceres import read_state
from voicestyle.nn.faceres import FaceRes

STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
CHANNELS = (32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
MEAN = (103.939, 116.779, 123.68)
Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def arrays() -> Arrays:
    """Weights by their names in the graph, in TensorFlow's layout."""
    shapes: dict[str, tuple[int, ...]] = {"conv1/convolution/merged_input": (3, 3, 3, 32)}
    shapes["conv1_bn/batchnorm_1/sub"] = (32,)
    for i, (before, after) in enumerate(zip(CHANNELS, CHANNELS[1:], strict=False), start=1):
        shapes[f"conv_dw_{i}/depthwise_kernel"] = (3, 3, before, 1)
        shapes[f"conv_dw_{i}_bn/batchnorm_1/mul"] = shapes[f"conv_dw_{i}_bn/batchnorm_1/sub"] = (before,)
        shapes[f"conv_pw_{i}/convolution/merged_input"] = (1, 1, before, after)
        shapes[f"conv_pw_{i}_bn/batchnorm_1/sub"] = (after,)
    for name, outs, ins in (("feats", 256, 1024), ("gender_pred", 1, 256), ("age_pred", 100, 256)):
        shapes[f"{name}/kernel"], shapes[f"{name}/bias"] = (ins, outs), (outs,)
    made = {}
    for name, shape in shapes.items():
        fan_in = max(1, np.prod(shape[:-1]) if "depthwise" not in name else 9)
        made[name] = inp(name, shape).numpy() * np.float32(1.7 / fan_in**0.5 if len(shape) > 1 else 0.1)
        if name.endswith(("mul", "sub")):
            made[name] += np.float32(1 if name.endswith("mul") else 0.3)
    made["conv1_relu/Cast"] = np.array(6, np.float32)
    made["global_pooling/Mean/reduction_indices"] = np.array([1, 2], np.int32)
    return made


def write(arrays: Arrays, folder: Path) -> Path:
    weights = [{"name": n, "shape": [*a.shape], "dtype": str(a.dtype)} for n, a in arrays.items()]
    manifest = [{"paths": ["faceres-deep.bin"], "weights": weights}]
    (folder / "faceres-deep.bin").write_bytes(b"".join(a.tobytes() for a in arrays.values()))
    path = folder / "faceres-deep.json"
    path.write_text(json.dumps({"modelTopology": {}, "weightsManifest": manifest}))
    return path


def naive(arrays: Arrays, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The graph, operation by operation, in float64: pooled channels, hidden layer, ages, gender."""
    a = {name: torch.from_numpy(value).double() for name, value in arrays.items()}
    x = (image.double() + 1) * 127.5
    x = torch.stack([x[:, channel] - mean for channel, mean in zip((2, 1, 0), MEAN, strict=True)], 1)

    def conv(x: Tensor, kernel: Tensor, stride: int) -> Tensor:
        """A convolution padded as "same": as much as is needed, the odd pixel at the end."""
        size, (height, _, ins, outs) = x.shape[-1], kernel.shape
        missing = max(0, (-(-size // stride) - 1) * stride + height - size)
        x = F.pad(x, (missing // 2, missing - missing // 2) * 2)
        if outs == 1 and ins > 1:
            return F.conv2d(x, kernel.permute(2, 3, 0, 1), stride=stride, groups=ins)
        return F.conv2d(x, kernel.permute(3, 2, 0, 1), stride=stride)

    def offset(x: Tensor, norm: str) -> Tensor:
        return (x + a[f"{norm}/batchnorm_1/sub"].view(-1, 1, 1)).relu().minimum(torch.tensor(6.0))

    x = offset(conv(x, a["conv1/convolution/merged_input"], 2), "conv1_bn")
    for i, stride in enumerate(STRIDES, start=1):
        x = conv(x, a[f"conv_dw_{i}/depthwise_kernel"], stride)
        x = offset(x * a[f"conv_dw_{i}_bn/batchnorm_1/mul"].view(-1, 1, 1), f"conv_dw_{i}_bn")
        x = offset(conv(x, a[f"conv_pw_{i}/convolution/merged_input"], 1), f"conv_pw_{i}_bn")
    pooled = x.mean((2, 3))
    hidden = (pooled @ a["feats/kernel"] + a["feats/bias"]).relu()
    ages = (hidden @ a["age_pred/kernel"] + a["age_pred/bias"]).softmax(1)
    gender = (hidden @ a["gender_pred/kernel"] + a["gender_pred/bias"]).sigmoid()
    return pooled, hidden, ages, gender[:, 0]


def test_network_is_the_graph(arrays: Arrays, tmp_path: Path) -> None:
    network = FaceRes().eval()
    network.load_state_dict(read_state(write(arrays, tmp_path)))
    image = inp("face", (2, 3, 96, 96), lo=-1)
    pooled, hidden, ages, gender = naive(arrays, image)
    assert pooled.std() > 0.01 and hidden.std() > 0.01
    with torch.no_grad():
        got = network.double()(image.double()).split((1024, 256, 1, 1), dim=1)
    years = (ages * torch.arange(1, 101)).sum(1)
    for ours, theirs in zip(
        got, ((pooled + 1e-4).sqrt(), hidden, years[:, None], gender.clamp(0.001, 0.999).logit()[:, None]), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)  # folded weights are float32


def test_gradients_reach_black_pixels(arrays: Arrays, tmp_path: Path) -> None:
    network = FaceRes().eval().requires_grad_(False)
    network.load_state_dict(read_state(write(arrays, tmp_path)))
    image = torch.full((1, 3, 64, 64), -1.0, requires_grad=True)
    network(image).sum().backward()
    assert image.grad is not None and image.grad.isfinite().all() and image.grad.abs().sum() > 0


def test_foreign_files_are_refused(arrays: Arrays, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"faceres-deep\.json: no such file"):
        read_state(tmp_path / "faceres-deep.json")
    path = write(arrays, tmp_path)
    binary = tmp_path / "faceres-deep.bin"
    whole = binary.read_bytes()
    binary.write_bytes(whole[:-4])
    with pytest.raises(ValueError, match="not among them"):
        read_state(path)
    binary.write_bytes(whole + b"1234")
    with pytest.raises(ValueError, match=r"expected \d+; this is not"):
        read_state(path)
    binary.unlink()
    with pytest.raises(FileNotFoundError, match="keeps its weights there"):
        read_state(path)
    with pytest.raises(ValueError, match="no or another 'feats/bias'; this is not .all of. faceres-deep"):
        read_state(write({n: a for n, a in arrays.items() if n != "feats/bias"}, tmp_path))
    with pytest.raises(ValueError, match="1 weights unknown"):
        read_state(write({**arrays, "more": np.zeros(1, np.float32)}, tmp_path))
    path.write_text("{")
    with pytest.raises(ValueError, match="not a JSON file"):
        read_state(path)
    path.write_text("{}")
    with pytest.raises(ValueError, match=r"no manifest of TensorFlow\.js"):
        read_state(path)
