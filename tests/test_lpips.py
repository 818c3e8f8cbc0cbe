"""LPIPS: parity with the package lpips 0.1.4 (numbers stored), an independent oracle, and properties of a distance.

tests/assets/golden/lpips_vgg.npz holds what the package computes (version 0.1, VGG16) with a backbone filled by rule:
`inp("lpips_a0", (2,3,64,64), lo=-1)` against `lpips_a1`, and `lpips_b0` (45 x 80 pixels) against `lpips_b1`, where the
second sample of the latter is 0.9 times the former plus 0.1 times itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from fill import inp
from official import VGG_CONVS, vgg16_state
from parity import EXACT, SINGLE, difference, double
from voicestyle.convert import torch_file
from voicestyle.convert.lpips import (
    BACKBONE,
    HEADS,
    find_backbone,
    from_torchvision,
    key_table,
    read_lpips,
)
from voicestyle.nn.lpips import LPIPS


@pytest.fixture(scope="module", autouse=True)
def expansion() -> Iterator[None]:
    """The classifier of the file has its shapes, but takes no room, which is else refused."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_file, "EXPANSION", 10**9)
        yield


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return vgg16_state()


@pytest.fixture(scope="module")
def backbone(state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vgg") / BACKBONE
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def lpips(backbone: Path) -> LPIPS:
    return read_lpips(backbone)


def pair(name: str, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    a, b = (inp(f"lpips_{name}{i}", shape, lo=-1) for i in (0, 1))
    b[1] = 0.9 * a[1] + 0.1 * b[1]
    return a, b


def test_distances_are_those_of_the_package(lpips: LPIPS, golden_dir: Path) -> None:
    golden = np.load(golden_dir / "lpips_vgg.npz")
    for name, shape in (("a", (2, 3, 64, 64)), ("b", (2, 3, 45, 80))):
        want = golden["distance_64" if name == "a" else "distance_45x80"]
        a, b = pair(name, shape)
        assert difference(double(lpips)(a.double(), b.double()), want) < 1e-5  # the package computes in float32
        assert difference(lpips(a, b), want) < SINGLE


def test_distances_are_those_of_the_formula(lpips: LPIPS, state: dict[str, Tensor]) -> None:
    """Equation 1 of the paper, read from torchvision's names, one position at a time in float64."""
    state = {key: value.double() for key, value in state.items() if key.startswith("features")}
    heads = [value.double() for _, value in sorted(load_file(HEADS).items())]
    shift, scale = (torch.tensor(v).double() for v in ([-0.030, -0.088, -0.188], [0.458, 0.448, 0.450]))

    def features(image: Tensor) -> list[Tensor]:
        x = (image.double() - shift[:, None, None]) / scale[:, None, None]
        maps = []
        for i in VGG_CONVS:
            x = F.conv2d(x, state[f"features.{i}.weight"], state[f"features.{i}.bias"], padding=1).clamp(min=0)
            if i in (2, 7, 14, 21, 28):
                maps.append(x)
                x = F.max_pool2d(x, 2) if i < 28 else x
        return maps

    a, b = (x[:1] for x in pair("c", (2, 3, 16, 32)))
    total = 0.0
    for head, x, y in zip(heads, features(a), features(b), strict=True):
        cells = [
            (head * (u / u.norm() - v / v.norm()) ** 2).sum()
            for u, v in zip(x[0].flatten(1).T, y[0].flatten(1).T, strict=True)
        ]
        total += float(sum(cells)) / len(cells)
    assert double(lpips)(a.double(), b.double()).item() == pytest.approx(total, rel=EXACT)


def test_it_is_a_distance(lpips: LPIPS) -> None:
    a, b = pair("a", (2, 3, 32, 32))
    assert torch.equal(lpips(a, a), torch.zeros(2))
    assert (lpips(a, b) > 0).all()
    assert torch.allclose(lpips(a, b), lpips(b, a), rtol=SINGLE)
    nearer = lpips(a, a + 0.1 * (b - a))
    assert (nearer < lpips(a, b)).all()


def test_features_of_a_target_are_computed_once(lpips: LPIPS) -> None:
    a, b = pair("a", (2, 3, 32, 32))
    target = lpips.features(b[:1])
    assert [tuple(f.shape[1:]) for f in target] == [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4), (512, 2, 2)]
    assert torch.allclose(lpips.distance(lpips.features(a), target), lpips(a, b[:1].expand(2, -1, -1, -1)), rtol=SINGLE)


def test_gradients_reach_the_picture_even_where_nothing_fires(lpips: LPIPS) -> None:
    a, b = pair("a", (2, 3, 32, 32))
    image = a.clone().requires_grad_()
    lpips(image, b).sum().backward()
    assert torch.isfinite(image.grad).all() and image.grad.abs().sum() > 0
    assert all(p.grad is None for p in lpips.parameters())
    silent = LPIPS()
    torch.nn.init.constant_(silent.convs[0].bias, -1e3)  # no unit of the first maps fires
    image.grad = None
    silent(image, b).sum().backward()
    assert torch.isfinite(image.grad).all()


def test_heads_are_the_1472_of_the_package() -> None:
    heads = load_file(HEADS)
    assert {name: len(head) for name, head in heads.items()} == {
        "heads.0": 64, "heads.1": 128, "heads.2": 256, "heads.3": 512, "heads.4": 512,
    }  # fmt: skip
    assert sum(len(head) for head in heads.values()) == 1472
    assert all((head >= 0).all() for head in heads.values())


def test_key_table_covers_both_sides(lpips: LPIPS, state: dict[str, Tensor]) -> None:
    features = {key: value for key, value in state.items() if key.startswith("features.")}
    assert key_table().keys() == features.keys()
    ours = from_torchvision(state)
    assert len(ours) == len(features) and all(torch.equal(ours[key_table()[key]], features[key]) for key in features)
    assert {k for k in lpips.state_dict() if not k.startswith("heads.")} == set(key_table().values())


def test_the_backbone_is_found_where_torchvision_leaves_it(
    backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert find_backbone() is None
    with pytest.raises(FileNotFoundError, match=rf"hub/checkpoints/{BACKBONE}: no such file; LPIPS needs torchvision"):
        read_lpips()
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / BACKBONE).symlink_to(backbone)
    assert find_backbone() == tmp_path / "hub" / "checkpoints" / BACKBONE
    network = read_lpips()
    assert not network.training and not any(p.requires_grad for p in network.parameters())


def test_another_network_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "vgg.pth"
    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3), "features.1.weight": torch.zeros(64)}, path)
    with pytest.raises(ValueError, match=r"vgg\.pth: VGG16: 25 keys missing"):
        read_lpips(path)
    torch.save([torch.zeros(1)], path)
    with pytest.raises(ValueError, match=r"vgg\.pth: holds a list, expected the state dict of torchvision's VGG16"):
        read_lpips(path)
