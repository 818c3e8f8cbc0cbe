"""dlib's face network: the file parser on a synthetic file, the network against a naive formulation and dlib itself."""

from __future__ import annotations

import importlib.util
import math
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from parity import SINGLE, difference, double
from voicestyle.convert.dlib import read_state
from voicestyle.nn.dlib_resnet import BLOCKS, DlibResNet, add_padded

MEAN = (122.782, 117.001, 104.298)


class Writer:
    """dlib's serialisation, and the raw (unfolded) weights that were written."""

    def __init__(self, seed: int = 0) -> None:
        self.out, self.rng = bytearray(), np.random.default_rng(seed)
        self.convs: list[tuple[np.ndarray, ...]] = []

    def int(self, value: int) -> None:
        magnitude = abs(value)
        length = max(1, (magnitude.bit_length() + 7) // 8)
        self.out += bytes([length | (0x80 if value < 0 else 0)]) + magnitude.to_bytes(length, "little")

    def ints(self, *values: int) -> None:
        for value in values:
            self.int(value)

    def float(self, value: float) -> None:
        mantissa, exponent = math.frexp(value)
        self.ints(int(mantissa * 2**24), exponent - 24)

    def string(self, text: str) -> None:
        self.int(len(text))
        self.out += text.encode()

    def tensor(self, values: np.ndarray, *shape: int) -> None:
        self.ints(2, *shape)
        self.out += values.astype("<f4").tobytes()

    def end(self) -> None:
        self.out += b"110"
        self.ints(*(2, 0, 0, 0, 0) * 3)

    def multipliers(self) -> None:
        for value in (1.0, 1.0, 1.0, 0.0):
            self.float(value)

    def plain(self, name: str, *geometry: int) -> None:
        self.string(name)
        self.ints(*geometry)
        self.end()

    def conv_affine(self, inner: int, outer: int, kernel: int, stride: int) -> None:
        weight = self.rng.standard_normal((outer, inner, kernel, kernel)) * math.sqrt(2 / (inner * kernel**2))
        bias, gamma, beta = 0.1 * self.rng.standard_normal((3, outer))
        gamma += 1
        weight, bias, gamma, beta = (values.astype(np.float32) for values in (weight, bias, gamma, beta))
        padding = kernel // 2 if stride == 1 else 0
        self.string("con_4")
        self.tensor(np.concatenate([weight.ravel(), bias]), weight.size + outer, 1, 1, 1)
        self.ints(outer, kernel, kernel, stride, stride, padding, padding)
        self.ints(1, outer, inner, kernel, kernel, 1, 1, outer, 1, 1)
        self.multipliers()
        self.end()
        if kernel == 7:
            self.int(1)
        self.string("affine_")
        self.tensor(np.concatenate([gamma, beta]), 2 * outer, 1, 1, 1)
        self.ints(1, 1, outer, 1, 1, 1, 1, outer, 1, 1, 0)
        self.end()
        self.convs.append(tuple(values.astype(np.float64) for values in (weight, bias, gamma, beta)))


def write_network() -> Writer:
    """A file of the layout of the released one, with random weights."""
    writer = Writer()
    writer.int(1)
    writer.string("loss_metric_2")
    writer.float(0.04), writer.float(0.6)
    tree = "22" + "".join("22" + ("211" if s == 2 else "") + "222221" for _, s in BLOCKS[::-1]) + "2223"
    writer.ints(*map(int, tree))
    writer.string("input_rgb_image_sized")
    for mean in MEAN:
        writer.float(mean)
    writer.ints(150, 150)
    writer.conv_affine(3, 32, 7, 2)
    writer.plain("relu_")
    writer.plain("max_pool_2", 3, 3, 2, 2, 0, 0)
    before = 32
    for after, stride in BLOCKS:
        writer.conv_affine(before, after, 3, stride)
        writer.plain("relu_")
        writer.conv_affine(after, after, 3, 1)
        if stride == 2:
            writer.plain("avg_pool_2", 2, 2, 2, 2, 0, 0)
        writer.plain("add_prev_")
        writer.plain("relu_")
        before = after
    writer.plain("avg_pool_2", 0, 0, 1, 1, 0, 0)
    writer.fc = (writer.rng.standard_normal((256, 128)) / 16).astype(np.float32)
    writer.string("fc_2")
    writer.ints(128, 256)
    writer.tensor(writer.fc, 256, 128, 1, 1)
    writer.ints(1, 256, 128, 1, 1, 1, 0, 0, 0, 0, 1)
    writer.multipliers()
    writer.end()
    return writer


@pytest.fixture(scope="module")
def network_file(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Writer]:
    writer = write_network()
    path = tmp_path_factory.mktemp("dlib") / "network.dat"
    path.write_bytes(writer.out)
    return path, writer


def naive_conv(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, stride: int, padding: int) -> np.ndarray:
    """One picture (C, H, W): a sum over filter positions."""
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    kernel = weight.shape[-1]
    height, width = ((side - kernel) // stride + 1 for side in x.shape[1:])
    out = np.zeros((len(weight), height, width)) + bias[:, None, None]
    for i in range(kernel):
        for j in range(kernel):
            window = x[:, i : i + stride * height : stride, j : j + stride * width : stride]
            out += np.tensordot(weight[:, :, i, j], window[:, :height, :width], 1)
    return out


def naive_pool(x: np.ndarray, kernel: int, reduce: str) -> np.ndarray:
    height, width = ((side - kernel) // 2 + 1 for side in x.shape[1:])
    windows = [[x[:, 2 * i : 2 * i + kernel, 2 * j : 2 * j + kernel] for j in range(width)] for i in range(height)]
    return np.array([[getattr(window, reduce)((1, 2)) for window in row] for row in windows]).transpose(2, 0, 1)


def naive_network(pixels: np.ndarray, writer: Writer) -> np.ndarray:
    """dlib's network in float64 on one picture (3, 150, 150) of 0..255, affine layers apart."""

    def conv_affine(x: np.ndarray, i: int, stride: int, padding: int) -> np.ndarray:
        weight, bias, gamma, beta = writer.convs[i]
        return naive_conv(x, weight, bias, stride, padding) * gamma[:, None, None] + beta[:, None, None]

    x = (pixels - np.array(MEAN)[:, None, None]) / 256
    x = naive_pool(np.maximum(conv_affine(x, 0, 2, 0), 0), 3, "max")
    for i, (_, stride) in enumerate(BLOCKS):
        residual = np.maximum(conv_affine(x, 2 * i + 1, stride, 1 if stride == 1 else 0), 0)
        residual = conv_affine(residual, 2 * i + 2, 1, 1)
        skip = naive_pool(x, 2, "mean") if stride == 2 else x
        total = np.zeros(np.maximum(residual.shape, skip.shape))
        for part in (residual, skip):
            channels, height, width = part.shape
            total[:channels, :height, :width] += part
        x = np.maximum(total, 0)
    return x.mean((1, 2)) @ writer.fc


def test_network_equals_the_naive_formulation(network_file: tuple[Path, Writer]) -> None:
    path, writer = network_file
    network = DlibResNet()
    network.load_state_dict(read_state(path))
    pixels = np.random.default_rng(1).integers(0, 256, (2, 3, 150, 150)).astype(np.float64)
    expected = np.stack([naive_network(sample, writer) for sample in pixels])
    image = torch.from_numpy(pixels) / 127.5 - 1
    network.requires_grad_(False)
    # our weights are products of dlib's, rounded to float32: 22 times 6e-8 at worst
    assert difference(double(network)(image), expected) < 1e-5
    assert difference(network(image.float()), expected) < SINGLE


def test_state_is_complete_and_every_byte_counts(network_file: tuple[Path, Writer], tmp_path: Path) -> None:
    path, writer = network_file
    state = read_state(path)
    assert state.keys() == DlibResNet().state_dict().keys()
    num_floats = sum(w.size + b.size for w, b, *_ in writer.convs) + writer.fc.size
    assert sum(value.numel() for value in state.values()) == num_floats == 5_607_488
    longer = tmp_path / "longer.dat"
    longer.write_bytes(writer.out + b"\0")
    with pytest.raises(ValueError, match="1 bytes after the last layer"):
        read_state(longer)


@pytest.mark.parametrize("length", [0, 1, 5, 100, 400, 20_000, 1_000_000, -1])
def test_truncated_file(network_file: tuple[Path, Writer], tmp_path: Path, length: int) -> None:
    short = tmp_path / "short.dat"
    short.write_bytes(network_file[1].out[:length])
    with pytest.raises(ValueError, match=r"short\.dat.*end of the file"):
        read_state(short)


def test_foreign_files(network_file: tuple[Path, Writer], tmp_path: Path) -> None:
    page, other, nan, layer = (tmp_path / name for name in ("page.dat", "other.dat", "nan.dat", "layer.dat"))
    page.write_bytes(b"<!DOCTYPE html><html>")
    with pytest.raises(ValueError, match="HTML page"):
        read_state(page)
    other.write_bytes(np.random.default_rng(0).bytes(1000))
    with pytest.raises(ValueError, match=r"other\.dat"):
        read_state(other)
    writer = network_file[1]
    data = bytes(writer.out)
    start = data.index(writer.fc.astype("<f4").tobytes()[:64])
    nan.write_bytes(data[:start] + struct.pack("<f", math.nan) + data[start + 4 :])
    with pytest.raises(ValueError, match="NaN or infinity in fc"):
        read_state(nan)
    layer.write_bytes(data.replace(b"max_pool_2", b"avg_pool_2", 1))
    with pytest.raises(ValueError, match=r"avg_pool_2.*expected 'max_pool_2'"):
        read_state(layer)
    with pytest.raises(FileNotFoundError, match=r"absent\.dat"):
        read_state(tmp_path / "absent.dat")


def test_add_padded_keeps_both_maps() -> None:
    a, b = torch.ones(1, 2, 3, 1), 2 * torch.ones(1, 1, 2, 4)
    total = add_padded(a, b)
    assert total.shape == (1, 2, 3, 4)
    assert total.sum() == a.sum() + b.sum()
    assert total[0, 0, 0, 0] == 3 and total[0, 0, 0, 1] == 2 and total[0, 1, 2, 0] == 1 and total[0, 1, 2, 3] == 0


def test_gradient_reaches_the_picture() -> None:
    network = DlibResNet().requires_grad_(False)
    image = torch.zeros(1, 3, 150, 150, requires_grad=True)
    network(image).square().sum().backward()
    assert image.grad is not None and image.grad.abs().sum() > 0


def test_parity_with_dlib(shared_dir: Path) -> None:
    dlib = pytest.importorskip("dlib")
    package = importlib.util.find_spec("face_recognition_models")  # not imported: it needs an old setuptools
    if package is None:
        pytest.skip("needs the package face_recognition_models, which holds the weights")
    path = str(Path(package.origin).parent / "models" / "dlib_face_recognition_resnet_model_v1.dat")
    reference = dlib.face_recognition_model_v1(path)
    network = DlibResNet()
    network.load_state_dict(read_state(path))
    faces = sorted((shared_dir / "data" / "pairs" / "face").glob("*.jpg"))[:4]
    chips = np.stack([np.array(Image.open(face).convert("RGB").resize((150, 150))) for face in faces])
    expected = np.stack([np.array(reference.compute_face_descriptor(chip)) for chip in chips])
    with torch.no_grad():
        got = network(torch.from_numpy(chips).permute(0, 3, 1, 2).float() / 127.5 - 1).numpy()
    np.testing.assert_allclose(got, expected, atol=1e-4)  # dlib computes in float32
