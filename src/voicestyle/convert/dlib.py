"""dlib's serialised face recognition network (`dlib_face_recognition_resnet_model_v1.dat`) -> our state dict.

The file is one nested record: a version for each layer from the output to the input, then the layers themselves from
the input to the output. Every byte is read and checked, so that a network of another shape can never pass for this one.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from voicestyle.nn.dlib_resnet import BLOCKS, EMBED_DIM, INPUT_SIZE, RGB_MEAN, STEM_CHANNELS

_ADD_LAYER, _TAG_OR_SKIP, _INPUT_LAYER = 2, 1, 3  # versions of dlib's nested templates
_EMPTY_TENSOR = (2, 0, 0, 0, 0)  # version and four dimensions
_MULTIPLIERS = (1.0, 1.0, 1.0, 0.0)  # learning rate and decay of weights and biases: of no use after training


def read_state(path: str | Path) -> dict[str, Tensor]:
    """The state dict of `nn.dlib_resnet.DlibResNet`, float32, affine layers folded into their convolutions.

    Raises:
        FileNotFoundError: no such file
        ValueError: not dlib's face recognition network, truncated, or with bytes left over
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected dlib_face_recognition_resnet_model_v1.dat")
    reader = _Reader(path.read_bytes(), path.name)
    _read_header(reader)

    state: dict[str, Tensor] = {}
    state |= _read_conv_affine(reader, "stem", 3, STEM_CHANNELS, kernel=7, stride=2, is_input=True)
    _read_plain(reader, "relu_")
    _read_plain(reader, "max_pool_2", 3, 3, 2, 2, 0, 0)
    channels = STEM_CHANNELS
    for i, (out_channels, stride) in enumerate(BLOCKS):
        state |= _read_conv_affine(reader, f"blocks.{i}.conv1", channels, out_channels, kernel=3, stride=stride)
        _read_plain(reader, "relu_")
        state |= _read_conv_affine(reader, f"blocks.{i}.conv2", out_channels, out_channels, kernel=3, stride=1)
        if stride == 2:
            _read_plain(reader, "avg_pool_2", 2, 2, 2, 2, 0, 0)
        _read_plain(reader, "add_prev_")
        _read_plain(reader, "relu_")
        channels = out_channels
    _read_plain(reader, "avg_pool_2", 0, 0, 1, 1, 0, 0)
    state["fc.weight"] = _read_fc(reader, channels)
    if reader.position != len(reader.data):
        raise reader.error(f"{len(reader.data) - reader.position} bytes after the last layer", "the end of the file")
    return state


def _read_header(reader: _Reader) -> None:
    """The loss layer, the versions of all layers from the output to the input, and the input layer."""
    reader.expect_ints("version", 1)
    reader.expect_string("loss_metric_2")
    reader.number(), reader.number()  # margin and distance threshold of the training loss
    versions = [_ADD_LAYER] * 2  # fully connected layer, global average
    for _, stride in reversed(BLOCKS):
        versions += [_ADD_LAYER] * 2  # rectifier, sum
        if stride == 2:
            versions += [_ADD_LAYER, _TAG_OR_SKIP, _TAG_OR_SKIP]  # average pool of a skip, and the tag of the main path
        versions += [_ADD_LAYER] * 5 + [_TAG_OR_SKIP]  # affine, conv, rectifier, affine, conv; the tag of the skip
    versions += [_ADD_LAYER] * 3 + [_INPUT_LAYER]  # max pool, rectifier, affine; conv on the input
    reader.expect_ints("layer versions", *versions)
    reader.expect_string("input_rgb_image_sized")
    reader.expect_floats("RGB mean", *RGB_MEAN)
    reader.expect_ints("input size", INPUT_SIZE, INPUT_SIZE)


def _read_conv_affine(
    reader: _Reader, name: str, in_channels: int, out_channels: int, kernel: int, stride: int, is_input: bool = False
) -> dict[str, Tensor]:
    """`name.weight` and `name.bias` of a convolution and the affine layer after it."""
    shape = (out_channels, in_channels, kernel, kernel)
    padding = kernel // 2 if stride == 1 else 0
    reader.expect_string("con_4")
    params = reader.tensor(f"{name}, convolution", math.prod(shape) + out_channels, 1, 1, 1)
    reader.expect_ints(f"{name}, geometry", out_channels, kernel, kernel, stride, stride, padding, padding)
    reader.expect_ints(f"{name}, shape of filters and biases", 1, *shape, 1, 1, out_channels, 1, 1)
    reader.expect_floats(f"{name}, multipliers", *_MULTIPLIERS)
    _read_layer_end(reader)
    if is_input:
        reader.expect_ints("sample expansion", 1)
    weight, bias = params[: math.prod(shape)].reshape(shape), params[math.prod(shape) :]

    reader.expect_string("affine_")
    gamma, beta = reader.tensor(f"{name}, affine", 2 * out_channels, 1, 1, 1).reshape(2, out_channels)
    reader.expect_ints(f"{name}, shape of gamma and beta", *(1, 1, out_channels, 1, 1) * 2, 0)
    _read_layer_end(reader)
    folded = {f"{name}.weight": weight * gamma[:, None, None, None], f"{name}.bias": bias * gamma + beta}
    return {key: torch.from_numpy(value.astype(np.float32)) for key, value in folded.items()}


def _read_fc(reader: _Reader, in_features: int) -> Tensor:
    """The weight (out, in) of the last layer, which has no bias."""
    reader.expect_string("fc_2")
    reader.expect_ints("fc, features", EMBED_DIM, in_features)
    weight = reader.tensor("fc", in_features, EMBED_DIM, 1, 1)
    no_bias = 1
    reader.expect_ints("fc, shape of weights and biases", 1, in_features, EMBED_DIM, 1, 1, 1, 0, 0, 0, 0, no_bias)
    reader.expect_floats("fc, multipliers", *_MULTIPLIERS)
    _read_layer_end(reader)
    return torch.from_numpy(weight.reshape(in_features, EMBED_DIM).T.astype(np.float32))


def _read_plain(reader: _Reader, name: str, *geometry: int) -> None:
    reader.expect_string(name)
    reader.expect_ints(f"{name}, geometry", *geometry)
    _read_layer_end(reader)


def _read_layer_end(reader: _Reader) -> None:
    """What training left behind each layer: three flags and three tensors, empty in a released file."""
    flags = reader.take(3)
    if set(flags) - set(b"01"):
        raise reader.error(repr(flags), "three flags, each 0 or 1")
    reader.expect_ints("training state", *_EMPTY_TENSOR * 3)


class _Reader:
    """dlib's basic types: integers and floats of variable length, strings, tensors of raw floats."""

    def __init__(self, data: bytes, name: str) -> None:
        self.data, self.name, self.position = data, name, 0

    def error(self, got: str, expected: str) -> ValueError:
        what = "an HTML page (a download page?)" if self.data.lstrip()[:1] == b"<" else got
        return ValueError(
            f"{self.name}: {what} at byte {self.position}, expected {expected}; "
            "this is not (all of) dlib_face_recognition_resnet_model_v1.dat, get the file again"
        )

    def take(self, count: int) -> bytes:
        if self.position + count > len(self.data):
            raise self.error("the end of the file", f"{count} more bytes")
        taken = self.data[self.position : self.position + count]
        self.position += count
        return taken

    def integer(self) -> int:
        """A control byte (sign in bit 7, length in the low four) and a little-endian magnitude."""
        (control,) = self.take(1)
        if control & 0x70 or not 1 <= control & 0x0F <= 8:
            self.position -= 1
            raise self.error(f"control byte {control:#04x}", "an integer")
        magnitude = int.from_bytes(self.take(control & 0x0F), "little")
        return -magnitude if control & 0x80 else magnitude

    def number(self) -> float:
        """Integer mantissa and binary exponent."""
        mantissa, exponent = self.integer(), self.integer()
        if abs(exponent) > 1024:
            raise self.error(f"exponent {exponent}", "a float")
        return math.ldexp(mantissa, exponent)

    def tensor(self, what: str, *shape: int) -> np.ndarray:
        """Float64 values, flat, of a tensor that must have this shape (stored as raw little-endian float32)."""
        self.expect_ints(f"shape of {what}", 2, *shape)
        values = np.frombuffer(self.take(4 * math.prod(shape)), "<f4").astype(np.float64)
        if not np.isfinite(values).all():
            raise self.error(f"NaN or infinity in {what}", "finite weights")
        return values

    def expect_ints(self, what: str, *expected: int) -> None:
        got = tuple(self.integer() for _ in expected)
        if got != expected:
            raise self.error(f"{what} {got}", str(expected))

    def expect_floats(self, what: str, *expected: float) -> None:
        got = tuple(self.number() for _ in expected)
        if not np.allclose(got, expected, rtol=1e-6):
            raise self.error(f"{what} {got}", str(expected))

    def expect_string(self, expected: str) -> None:
        length = self.integer()
        if not 0 <= length <= 64:
            raise self.error(f"a string of {length} bytes", repr(expected))
        got = self.take(length)
        if got != expected.encode():
            raise self.error(f"layer {got!r}", repr(expected))
