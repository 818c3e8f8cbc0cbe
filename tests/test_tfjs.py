"""Graphs of TensorFlow.js, executed operation by operation, against the same network in torch."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fill import inp
from voicestyle.convert.tfjs import Graph


def text(name: str) -> str:
    return base64.b64encode(name.encode()).decode()


def node(op: str, name: str, *inputs: str, stride: int = 0, padding: str = "", fused: tuple[str, ...] = ()) -> Any:
    attr: dict[str, Any] = {}
    if stride:
        attr = {"strides": {"list": {"i": ["1", str(stride), str(stride), "1"]}}, "padding": {"s": text(padding)}}
    if fused:
        attr["fused_ops"] = {"list": {"s": [text(f) for f in fused]}}
    return {"op": op, "name": name, "input": [*inputs], "attr": attr}


WEIGHTS = {
    "kernel": inp("kernel", (3, 3, 3, 4)), "offset": inp("offset", (4,)), "depth": inp("depth", (3, 3, 4, 1)),
    "slope": inp("slope", (4,)), "dense": inp("dense", (4, 5)), "dense offset": inp("dense offset", (5,)),
}  # fmt: skip
AXES = torch.tensor([1, 2], dtype=torch.int32)
WIDTHS = torch.tensor([[0, 0], [1, 1], [2, 0], [0, 0]], dtype=torch.int32)
NODES = [
    *(node("Const", name) for name in (*WEIGHTS, "axes", "widths")),
    node("Placeholder", "picture"),
    node("_FusedConv2D", "first", "picture", "kernel", "offset", stride=2, padding="SAME", fused=("BiasAdd", "Relu6")),
    node("Pad", "padded", "first", "widths"),
    node("DepthwiseConv2dNative", "second", "padded", "depth", stride=1, padding="VALID"),
    node("Abs", "size", "second"),
    node("Mul", "scaled", "size:0", "slope"),
    node("Mean", "pooled", "scaled", "axes"),
    node("_FusedMatMul", "out", "pooled", "dense", "dense offset", fused=("BiasAdd",)),
]


def write(folder: Path, nodes: list[Any]) -> Path:
    arrays = {**{n: w.numpy() for n, w in WEIGHTS.items()}, "axes": AXES.numpy(), "widths": WIDTHS.numpy()}
    weights = [{"name": n, "shape": [*a.shape], "dtype": str(a.dtype)} for n, a in arrays.items()]
    (folder / "net.bin").write_bytes(b"".join(a.tobytes() for a in arrays.values()))
    held = {"modelTopology": {"node": nodes}, "weightsManifest": [{"paths": ["net.bin"], "weights": weights}]}
    (folder / "net.json").write_text(json.dumps(held))
    return folder / "net.json"


def in_torch(image: Tensor) -> Tensor:
    x = F.conv2d(F.pad(image, (0, 1, 0, 1)), WEIGHTS["kernel"].permute(3, 2, 0, 1), WEIGHTS["offset"], stride=2)
    x = F.pad(x.clamp(0, 6), (2, 0, 1, 1))
    x = F.conv2d(x, WEIGHTS["depth"].permute(2, 3, 0, 1), groups=4).abs()
    return (x * WEIGHTS["slope"].view(-1, 1, 1)).mean((2, 3)) @ WEIGHTS["dense"] + WEIGHTS["dense offset"]


@pytest.mark.parametrize("order", [1, -1])
def test_a_graph_is_the_network(order: int, tmp_path: Path) -> None:
    """In whatever order its nodes stand."""
    image = inp("image", (2, 3, 12, 12), lo=-1)
    torch.testing.assert_close(Graph(write(tmp_path, NODES[::order]))(image), in_torch(image), atol=1e-5, rtol=1e-5)


def test_what_cannot_be_executed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"operations \['Cumsum'\], expected those of"):
        Graph(write(tmp_path, [*NODES, node("Cumsum", "more", "out")]))
    with pytest.raises(ValueError, match="node 'lost' depends on nodes that are not there"):
        Graph(write(tmp_path, [*NODES, node("Relu", "lost", "nowhere")]))
    path = write(tmp_path, NODES)
    held = json.loads(path.read_text())
    path.write_text(json.dumps({"weightsManifest": held["weightsManifest"]}))
    with pytest.raises(ValueError, match=r"no graph of TensorFlow\.js"):
        Graph(path)
