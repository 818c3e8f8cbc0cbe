"""Networks of TensorFlow.js (a ``.json`` and the ``.bin`` beside it): their weights, and their graphs as they are."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

ADVICE = "this is not a whole network of TensorFlow.js, get both of its files again"


class Graph:
    """A frozen graph of TensorFlow.js, operation by operation: for networks that judge, and are not shipped.

    Knows what convolutional networks for pictures are made of; another operation is an error.
    """

    def __init__(self, path: str | Path) -> None:
        """Read the graph of a ``.json`` file.

        Raises:
            FileNotFoundError: one of the two files is missing
            ValueError: not a network, truncated, or with an unknown operation
        """
        path = Path(path)
        weights = read_arrays(path)
        self.nodes = _nodes(path)
        self.constants = {name: torch.from_numpy(np.array(value)) for name, value in weights.items()}
        known = {*OPERATIONS, "Const", "Placeholder"}
        if unknown := sorted({node["op"] for node in self.nodes} - known):
            raise ValueError(f"{path}: operations {unknown}, expected those of {sorted(known)}; use another network")

    @torch.no_grad()
    def __call__(self, image: Tensor) -> Tensor:
        """What the last node says of pictures (N, 3, H, W), scaled and ordered as the network takes them."""
        values = {**self.constants}
        for node in self.nodes:
            if node["op"] == "Placeholder":
                values[node["name"]] = image.permute(0, 2, 3, 1)
            elif node["op"] != "Const":
                inputs = [values[name.split(":")[0].lstrip("^")] for name in node.get("input", [])]
                values[node["name"]] = OPERATIONS[node["op"]](_Attributes(node), *inputs)
        return values[self.nodes[-1]["name"]]


class _Attributes:
    """What the operations ask of a node."""

    def __init__(self, node: Mapping[str, Any]) -> None:
        self.values = node.get("attr", {})
        fused = self.values.get("fused_ops", {}).get("list", {}).get("s", [])
        self.fused = [base64.b64decode(name).decode() for name in fused]

    @property
    def stride(self) -> int:
        return int(self.values["strides"]["list"]["i"][1])

    @property
    def is_same(self) -> bool:
        return base64.b64decode(self.values["padding"]["s"]).decode() == "SAME"

    @property
    def keeps_dims(self) -> bool:
        return bool(self.values.get("keep_dims", {}).get("b", False))


def _convolve(node: _Attributes, x: Tensor, kernel: Tensor, *rest: Tensor, depthwise: bool = False) -> Tensor:
    """A convolution of (N, H, W, C) with a kernel (height, width, in, out), and what is fused with it."""
    x, groups = x.permute(0, 3, 1, 2), kernel.shape[2] if depthwise else 1
    kernel = kernel.permute(2, 3, 0, 1) if depthwise else kernel.permute(3, 2, 0, 1)
    if node.is_same:
        for axis in (3, 2):  # the odd pixel goes to the end
            size, width = x.shape[axis], kernel.shape[axis]
            missing = max(0, (math.ceil(size / node.stride) - 1) * node.stride + width - size)
            before = [0, 0] * (3 - axis)
            x = F.pad(x, (*before, missing // 2, missing - missing // 2))
    made = F.conv2d(x, kernel, stride=node.stride, groups=groups).permute(0, 2, 3, 1)
    return _finish(node, made, rest)


def _finish(node: _Attributes, x: Tensor, rest: tuple[Tensor, ...]) -> Tensor:
    for name in node.fused:
        x = x + rest[0] if name == "BiasAdd" else {"Relu": torch.relu, "Relu6": lambda x: x.clamp(0, 6)}[name](x)
    return x


def _axes(axes: Tensor) -> tuple[int, ...]:
    return tuple(axes.flatten().tolist())


OPERATIONS: dict[str, Callable[..., Tensor]] = {
    "Conv2D": _convolve,
    "_FusedConv2D": _convolve,
    "DepthwiseConv2dNative": lambda n, *x: _convolve(n, *x, depthwise=True),
    "FusedDepthwiseConv2dNative": lambda n, *x: _convolve(n, *x, depthwise=True),
    "_FusedMatMul": lambda n, x, kernel, *rest: _finish(n, x @ kernel, rest),
    "Add": lambda n, x, y: x + y,
    "AddV2": lambda n, x, y: x + y,
    "Sub": lambda n, x, y: x - y,
    "Mul": lambda n, x, y: x * y,
    "Maximum": lambda n, x, y: torch.maximum(x, y),
    "Minimum": lambda n, x, y: torch.minimum(x, y),
    "Relu": lambda n, x: x.relu(),
    "Abs": lambda n, x: x.abs(),
    "Square": lambda n, x: x.square(),
    "Rsqrt": lambda n, x: x.rsqrt(),
    "Sigmoid": lambda n, x: x.sigmoid(),
    "Softmax": lambda n, x: x.softmax(-1),
    "Identity": lambda n, x: x,
    "Sum": lambda n, x, axes: x.sum(_axes(axes), keepdim=n.keeps_dims),
    "Mean": lambda n, x, axes: x.mean(_axes(axes), keepdim=n.keeps_dims),
    "Squeeze": lambda n, x: x.reshape(len(x), -1),
    "Reshape": lambda n, x, shape: x.reshape(len(x), *shape[1:].tolist()),
    "MatMul": lambda n, x, kernel: x @ kernel,
    "Pad": lambda n, x, widths: F.pad(x, widths.flip(0).flatten().tolist()),
}


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Every weight by its name in the graph, as TensorFlow lays it out: height, width, in, out.

    Raises:
        FileNotFoundError, ValueError: as `Graph`
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected a network of TensorFlow.js")
    held = _read(path)
    try:
        (group,) = held["weightsManifest"]
        (shard,), weights = group["paths"], [(w["name"], w["shape"], w["dtype"]) for w in group["weights"]]
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{path}: no manifest of TensorFlow.js with one file of weights; {ADVICE}") from None
    binary = path.parent / Path(shard).name
    if not binary.is_file():
        raise FileNotFoundError(f"{binary}: no such file; {path.name} keeps its weights there")
    data, position, arrays = binary.read_bytes(), 0, {}
    for name, shape, kind in weights:
        count = math.prod(shape)
        if kind not in ("float32", "int32") or position + 4 * count > len(data):
            raise ValueError(f"{binary}: {len(data)} bytes, {name} of type {kind} not among them; {ADVICE}")
        arrays[name] = np.frombuffer(data, f"<{kind[0]}4", count, position).reshape(shape)
        position += 4 * count
    if position != len(data):
        raise ValueError(f"{binary}: {len(data)} bytes, expected {position}; {ADVICE}")
    return arrays


def _nodes(path: Path) -> list[dict[str, Any]]:
    """The nodes of the graph, each after those that it depends on."""
    held = _read(path)
    try:
        left = list(held["modelTopology"]["node"])
    except (KeyError, TypeError):
        raise ValueError(f"{path}: no graph of TensorFlow.js; {ADVICE}") from None
    ordered: list[dict[str, Any]] = []
    known: set[str] = set()
    while left:
        ready = [n for n in left if {i.split(":")[0].lstrip("^") for i in n.get("input", [])} <= known]
        if not ready:
            raise ValueError(f"{path}: node {left[0]['name']!r} depends on nodes that are not there; {ADVICE}")
        ordered += ready
        known |= {node["name"] for node in ready}
        left = [node for node in left if node["name"] not in known]
    return ordered


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError):
        raise ValueError(f"{path}: not a JSON file; {ADVICE}") from None
