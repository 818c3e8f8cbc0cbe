"""Adaptive discriminator augmentation (Karras et al., NeurIPS 2020): views of pictures, and how many of them.

The discriminator sees real and generated pictures through the same random changes, each made with probability p. As
long as p is well below one, a generator cannot gain by making changed pictures. Changes are differentiable once: the
generator learns through them, and R1 looks at the gradient in the changed picture.
Pictures are warped with bilinear sampling, where the paper has wavelet filters; its filters, noise and cutouts, which
it found of no use (figure 4), are left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# name of a change -> (N,) random numbers to matrices (N,3,3) from a view to its picture, in coordinates of [-1, 1]
_Draw = Callable[[int, torch.Generator], Tensor]

WARM_PICTURES = 500_000  # that take p from 0 to 1 (paper, section 3)
UPDATE_EVERY = 4  # batches (paper, section 3)


@dataclass(frozen=True, eq=False)
class Changes:
    """How each picture of a batch is bent and colored; None: not at all."""

    warp: Tensor | None = None  # (N,2,3) from coordinates of the view to those of the picture
    color: Tensor | None = None  # (N,3,4) matrix and offset of RGB

    def __getitem__(self, rows: slice) -> Changes:
        return Changes(*(None if part is None else part[rows] for part in (self.warp, self.color)))

    def to(self, device: torch.device) -> Changes:
        """The same on another device."""
        return Changes(*(None if part is None else part.to(device) for part in (self.warp, self.color)))

    def __call__(self, image: Tensor) -> Tensor:
        """The views of square pictures (N,3,S,S), mirrored beyond their edges."""
        if self.warp is not None:
            grid = F.affine_grid(self.warp.to(image), list(image.shape), align_corners=False)
            image = F.grid_sample(image, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
        if self.color is not None:
            matrix, offset = self.color[..., :3].to(image), self.color[..., 3:, None].to(image)
            image = torch.einsum("nij,njhw->nihw", matrix, image) + offset
        return image


def draw_changes(num: int, size: int, p: float, rng: torch.Generator, names: Sequence[str] | None = None) -> Changes:
    """Views of `num` pictures of `size` pixels: each of the named changes with probability p, independently.

    Args:
        p: 0 changes nothing
        rng: on the CPU
        names: out of `WARPS` and `COLORS`; None: all of them, which is the paper's "bgc"

    Raises:
        ValueError: a name that does not exist
    """
    names = [*WARPS, *COLORS] if names is None else names
    if unknown := sorted(set(names) - set(WARPS) - set(COLORS)):
        raise ValueError(f"changes of pictures: got {unknown}, expected some of {[*WARPS, *COLORS]}")
    if p <= 0:
        return Changes()
    parts = []
    for known, dim in ((WARPS, 3), (COLORS, 4)):
        total = torch.eye(dim).repeat(num, 1, 1)
        for name in [name for name in known if name in names]:
            # two rotations, one before and one after stretching, are together as likely as one other change
            share = 1 - math.sqrt(1 - min(p, 1.0)) if name.startswith("rotate") else p
            gate = (torch.rand(num, generator=rng) < share)[:, None, None]
            change = torch.where(gate, known[name](num, rng), torch.eye(dim))
            if name == "shift":  # by whole pixels
                change[:, :2, 2] = (change[:, :2, 2] * (size / 2)).round() / (size / 2)
            total = total @ change if dim == 3 else change @ total
        parts.append(total[:, : dim - 1] if any(name in known for name in names) else None)
    return Changes(*parts)


def _matrix(rows: Sequence[Sequence[Tensor | float]], num: int) -> Tensor:
    cells = [[cell if isinstance(cell, Tensor) else torch.full((num,), float(cell)) for cell in row] for row in rows]
    return torch.stack([torch.stack(row, -1) for row in cells], -2)


def _scaling(x: Tensor, y: Tensor | float) -> Tensor:
    return _matrix([[x, 0, 0], [0, y, 0], [0, 0, 1]], len(x))


def _turning(angle: Tensor) -> Tensor:
    return _matrix([[angle.cos(), -angle.sin(), 0], [angle.sin(), angle.cos(), 0], [0, 0, 1]], len(angle))


def _moving(way: Tensor) -> Tensor:
    return _matrix([[1, 0, way[:, 0]], [0, 1, way[:, 1]], [0, 0, 1]], len(way))


def _uniform(num: int, rng: torch.Generator, *shape: int) -> Tensor:
    return torch.rand(num, *shape, generator=rng) * 2 - 1


def _power(num: int, rng: torch.Generator, deviation: float) -> Tensor:
    """Factors whose logarithm to base two is normal."""
    return torch.exp2(torch.randn(num, generator=rng) * deviation)


def _stretch(num: int, rng: torch.Generator) -> Tensor:
    factor = _power(num, rng, 0.2)
    return _scaling(1 / factor, factor)


# Ranges and order are those of the paper, appendix B. A warp maps the view to the picture: factors are inverse.
WARPS: dict[str, _Draw] = {
    "flip": lambda n, g: _scaling(1 - 2.0 * torch.randint(2, (n,), generator=g), 1),
    "quarter_turn": lambda n, g: _turning(torch.randint(4, (n,), generator=g) * (math.pi / 2)),
    "shift": lambda n, g: _moving(_uniform(n, g, 2) * 0.25),  # of the half side: an eighth of the side
    "scale": lambda n, g: (lambda f: _scaling(f, f))(_power(n, g, 0.2)),
    "rotate": lambda n, g: _turning(_uniform(n, g) * math.pi),
    "stretch": _stretch,
    "rotate_again": lambda n, g: _turning(_uniform(n, g) * math.pi),
    "offset": lambda n, g: _moving(torch.randn(n, 2, generator=g) * 0.25),
}

_GRAY = torch.full((3,), 3**-0.5)  # direction of brightness in RGB
_TO_GRAY = F.pad(torch.outer(_GRAY, _GRAY), (0, 1, 0, 1))  # (4,4), without the last row's one
_LAST = torch.diag(torch.tensor([0.0, 0.0, 0.0, 1.0]))
_CROSS = F.pad(torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) * 3**-0.5, (0, 1, 0, 1))


def _brightness(num: int, rng: torch.Generator) -> Tensor:
    matrix = torch.eye(4).repeat(num, 1, 1)
    matrix[:, :3, 3] = torch.randn(num, 1, generator=rng) * 0.2
    return matrix


def _contrast(num: int, rng: torch.Generator) -> Tensor:
    return (torch.eye(4) - _LAST) * _power(num, rng, 0.5)[:, None, None] + _LAST


def _hue(num: int, rng: torch.Generator) -> Tensor:
    """Rotation about the gray axis, by Rodrigues' formula."""
    angle = (_uniform(num, rng) * math.pi)[:, None, None]
    return (torch.eye(4) - _LAST) * angle.cos() + _CROSS * angle.sin() + _TO_GRAY * (1 - angle.cos()) + _LAST


def _saturation(num: int, rng: torch.Generator) -> Tensor:
    return _TO_GRAY + (torch.eye(4) - _LAST - _TO_GRAY) * _power(num, rng, 1.0)[:, None, None] + _LAST


COLORS: dict[str, _Draw] = {
    "brightness": _brightness,
    "contrast": _contrast,
    "luma_flip": lambda n, g: torch.eye(4) - 2 * _TO_GRAY * torch.randint(2, (n, 1, 1), generator=g),
    "hue": _hue,
    "saturation": _saturation,
}


class AdaptiveProbability:
    """The probability p of each change, steered so that the discriminator is neither sure nor lost.

    The mean sign of its verdicts on real pictures is held near `target`: above it the discriminator overfits, and p
    rises (paper, section 3).
    """

    def __init__(self, p: float = 0.0, target: float | None = 0.6, pictures: int = WARM_PICTURES) -> None:
        """Args:
        p: at the start
        target: None keeps p as it is
        pictures: in which p may go from 0 to 1
        """
        self.p, self.target, self.pictures = p, target, pictures
        self._signs: list[float] = []

    def update(self, real_sign: float, num_pictures: int) -> None:
        """Count a batch of `num_pictures` with a mean sign of real logits of `real_sign`; adapt at each fourth."""
        self._signs.append(real_sign)
        if self.target is None or len(self._signs) < UPDATE_EVERY:
            return
        way = math.copysign(1.0, sum(self._signs) / UPDATE_EVERY - self.target)
        self.p = min(max(self.p + way * num_pictures * UPDATE_EVERY / self.pictures, 0.0), 1.0)
        self._signs = []

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs."""
        return {"p": self.p, "signs": list(self._signs)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.p, self._signs = state["p"], list(state["signs"])
