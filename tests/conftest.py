"""Shared fixtures: where the research data and the golden numbers lie."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("MKL_CBWR", "AUTO")  # as the command line does: the same numbers in every run
os.environ.setdefault("OMP_NUM_THREADS", "1")  # toy networks are faster so, most of all on a busy machine

import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

from parity import in_float64  # noqa: E402
from voicestyle.train.generator.morph import MIRRORED  # noqa: E402

# the same examples in every run, however slow the machine
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")

SHARED = Path(__file__).resolve().parents[2] / "shared"
ASSETS = Path(__file__).resolve().parent / "assets"


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The research data beside the checkout; tests that need it skip where it is absent."""
    if not (SHARED / "data").is_dir():
        pytest.skip("needs the research data (../shared), which a user's machine does not have")
    return SHARED


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """Numbers computed with the reference implementations."""
    return ASSETS / "golden"


@pytest.fixture
def float64() -> Iterator[None]:
    """See `parity.in_float64`."""
    with in_float64():
        yield


@pytest.fixture(scope="session")
def face_set() -> tuple[torch.Tensor, torch.Tensor]:
    """Twelve drawn "faces" of 64 px (discs of several sizes and colors on white) and 68 landmarks of each."""
    rng = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 64), indexing="ij")
    angles = torch.linspace(0, 2 * torch.pi, 69)[:68]
    # each landmark sits where iBUG's mirror order expects its partner: left and right change places
    order = torch.tensor(MIRRORED)
    circle = torch.stack([angles.sin(), -angles.cos()], -1)
    circle = torch.where((order == torch.arange(68))[:, None], circle * torch.tensor([0.0, 1.0]), circle)
    circle[order] = torch.where((order > torch.arange(68))[:, None], circle * torch.tensor([-1.0, 1.0]), circle[order])
    pictures, landmarks = [], []
    for _ in range(12):
        radius, color = 0.35 + 0.3 * torch.rand(1, generator=rng), torch.rand(3, 1, 1, generator=rng) * 1.2 - 1
        inside = torch.sigmoid((radius - (x.square() + y.square()).sqrt()) * 40)
        pictures.append(1 + inside * (color - 1))
        landmarks.append(circle * radius)
    return torch.stack(pictures), torch.stack(landmarks)
