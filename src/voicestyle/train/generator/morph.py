"""Faces as shape and texture, so that any weighted mean of faces has a sharp picture (a morph).

A generator that is trained on pictures alone never sees the middle of its latent space, and the method averages
latents. Here a mean of latents has a target: shapes (landmarks) and textures (pictures warped to the mean shape) are
averaged apart and put together again, as in active appearance models (Cootes et al., ECCV 1998).
Coordinates are those of ``torch.nn.functional.grid_sample``: (x, y) in [-1, 1] from edge to edge of the frame.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from voicestyle.align import detect_faces, find_landmarks

# the 68 landmarks of the iBUG scheme in the order of a mirrored face
MIRRORED = [
    *range(16, -1, -1), *range(26, 16, -1), 27, 28, 29, 30, *range(35, 30, -1),
    45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40,
    *range(54, 47, -1), *range(59, 54, -1), *range(64, 59, -1), 67, 66, 65,
]  # fmt: skip
OUTLINE_ANGLES = torch.deg2rad(torch.linspace(-100, 100, 11))  # 0 is up; symmetric, so a mirror reverses the order
# Smoothing of the thin-plate splines, in units of their kernel: landmarks of soft pictures jitter by about a pixel.
SMOOTHING = 1e-3


def landmarks_of(pictures: Sequence[Image.Image], predictor: str | Path) -> tuple[Tensor, list[int]]:
    """Landmarks (M,68,2) of the pictures in which one face is found, and the indices of these M.

    Args:
        pictures: RGB
        predictor: see `align.find_landmarks`; errors are those of it

    Raises:
        ValueError: no face in any of them
    """
    points, found = [], []
    for i, picture in enumerate(pictures):
        boxes = detect_faces(picture)
        if len(boxes) == 1:
            with suppress(ValueError):  # not upright
                held = torch.from_numpy(find_landmarks(picture, boxes[0], predictor)).float()
                points.append(held / torch.tensor(picture.size) * 2 - 1)
                found.append(i)
    if not points:
        raise ValueError(f"landmarks: no face found in any of {len(pictures)} pictures; are they frontal faces?")
    return torch.stack(points), found


def outline(pictures: Tensor, center: Tensor) -> Tensor:
    """Where the head with its hair ends on a white ground, along rays from its center: (N,11,2).

    Args:
        pictures: (N,3,S,S) in [-1,1]
        center: (N,2)
    """
    radii = torch.linspace(0.2, 1.1, 91)
    direction = torch.stack([OUTLINE_ANGLES.sin(), -OUTLINE_ANGLES.cos()], -1)  # (11,2)
    rays = center[:, None, None] + direction[:, None] * radii[:, None]  # (N,11,91,2)
    ink = F.grid_sample(1 - pictures.mean(1, keepdim=True), rays, align_corners=False, padding_mode="border")[:, 0]
    inside = ink > 0.25  # an eighth of the range darker than white
    last = (inside * torch.arange(1, 92)).amax(-1).clamp(1, 91) - 1  # (N,11)
    return (center[:, None] + direction * radii[last][..., None]).clamp(-1, 1)


def spline_grid(target: Tensor, source: Tensor, size: int, smoothing: float = SMOOTHING) -> Tensor:
    """For each pixel of a picture with shape `target`, where it lies in one with shape `source`: (N,size,size,2).

    A thin-plate spline (Bookstein 1989), fitted per sample and evaluated on a quarter of the pixels a side.

    Args:
        target, source: (N,P,2)
    """
    num, num_points = target.shape[:2]
    system = target.new_zeros(num, num_points + 3, num_points + 3)
    affine = _affine(target)  # (N,P,3)
    system[:, :num_points, :num_points] = _kernel(target, target) + smoothing * torch.eye(num_points)
    system[:, :num_points, num_points:] = affine
    system[:, num_points:, :num_points] = affine.transpose(1, 2)
    right = torch.cat([source.expand(num, -1, -1), source.new_zeros(num, 3, 2)], 1)
    coefficients = torch.linalg.solve(system, right)
    coarse = _grid(size // 4).view(1, -1, 2)
    basis = torch.cat([_kernel(coarse.expand(num, -1, -1), target), _affine(coarse).expand(num, -1, -1)], -1)
    # what is enlarged is the way, which is smooth up to the rim, and not the grid, which ends there
    way = (basis @ coefficients - coarse).view(num, size // 4, size // 4, 2).permute(0, 3, 1, 2)
    way = F.interpolate(way, size=size, mode="bicubic", align_corners=False).permute(0, 2, 3, 1)
    return way + _grid(size)


def _grid(size: int) -> Tensor:
    """The centers of the pixels (1,size,size,2)."""
    return F.affine_grid(torch.eye(2, 3)[None], [1, 1, size, size], align_corners=False)


def _affine(points: Tensor) -> Tensor:
    return torch.cat([torch.ones_like(points[..., :1]), points], -1)


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    squared = (a[:, :, None] - b[:, None]).square().sum(-1)
    return 0.5 * squared * (squared + 1e-9).log()


@dataclass(frozen=True, eq=False)
class MorphSpace:
    """Pictures, their shapes and their shape-free textures; mirror images are the second half."""

    pictures: Tensor  # (N,3,S,S) float16 in [-1,1]
    textures: Tensor  # (N,3,S,S) float16: the pictures warped to the mean shape
    shapes: Tensor  # (N,P,2)

    @classmethod
    def build(cls, pictures: Tensor, landmarks: Tensor) -> MorphSpace:
        """A space of pictures (N,3,S,S) in [-1,1] with landmarks (N,68,2), and of their mirror images."""
        landmarks = torch.cat([landmarks, landmarks[:, MIRRORED] * torch.tensor([-1.0, 1.0])])
        pictures = torch.cat([pictures, pictures.flip(3)])
        eyes = landmarks[:, 36:48].mean(1)
        frame = torch.tensor([[x, y] for x in (-1.0, 0.0, 1.0) for y in (-1.0, 0.0, 1.0) if (x, y) != (0, 0)])
        shapes = torch.cat([landmarks, outline(pictures, eyes), frame.expand(len(landmarks), -1, -1)], 1)
        mean = shapes.mean(0, keepdim=True)
        textures = torch.cat(
            [
                _warp(p, spline_grid(mean.expand(len(s), -1, -1), s, pictures.shape[-1]))
                for p, s in zip(pictures.split(64), shapes.split(64), strict=True)
            ]
        )
        return cls(pictures.half(), textures.half(), shapes)

    def __len__(self) -> int:
        return len(self.pictures)

    def resized(self, size: int) -> MorphSpace:
        """The same space with pictures and textures of `size` pixels."""
        pictures, textures = (
            F.interpolate(x.float(), size=size, mode="area").half() for x in (self.pictures, self.textures)
        )
        return MorphSpace(pictures, textures, self.shapes)

    @cached_property
    def mean_texture(self) -> Tensor:
        """The texture (1,3,S,S) of the mean face, float32."""
        return self.textures.float().mean(0, keepdim=True)

    def mix(self, indices: Tensor, weights: Tensor, detail: float = 0.0) -> Tensor:
        """Morphs (B,3,S,S) of faces `indices` (B,m) with `weights` (B,m) that sum to one.

        Args:
            detail: how much of the strength of fine details is kept. A mean of m unlike details has 1/sqrt(m) of their
                strength, so that morphs of many faces look smooth: 0 leaves it so, 1 gives all of it back
        """
        shape = torch.einsum("bm,bmpc->bpc", weights, self.shapes[indices])
        texture = torch.einsum("bm,bmchw->bchw", weights, self.textures[indices].float())
        if detail:
            # what all faces share is in the mean texture and keeps its strength by itself
            own = _fine(texture - self.mean_texture)
            gain = weights.square().sum(1).pow(-0.5 * detail) - 1
            texture = (texture + gain[:, None, None, None] * own).clamp(-1, 1)
        mean = self.shapes.mean(0, keepdim=True)
        return _warp(texture, spline_grid(shape, mean, texture.shape[-1]))

    def codes(self, num_components: int) -> tuple[Tensor, Tensor]:
        """Whitened principal components (N, num_components) of shape and texture together, and their deviations.

        The deviations (num_components,) are relative: their mean square is one.
        """
        texture = F.avg_pool2d(self.textures.float(), 2).flatten(1)
        texture, shape = texture - texture.mean(0), (self.shapes - self.shapes.mean(0)).flatten(1)
        # both parts weigh the same in the components
        data = torch.cat([texture / texture.square().sum().sqrt(), shape / shape.square().sum().sqrt()], 1)
        values, vectors = torch.linalg.eigh(data @ data.T)
        if num_components > len(data) - 1:
            raise ValueError(f"codes: {num_components} components asked of {len(data)} pictures; need more pictures")
        deviations = values[-num_components:].flip(0).sqrt()
        codes = vectors[:, -num_components:].flip(1) * math.sqrt(len(data))
        return codes, deviations / deviations.square().mean().sqrt()


def _fine(texture: Tensor) -> Tensor:
    """What is lost in a picture of an eighth of the size."""
    size = texture.shape[-1]
    coarse = F.interpolate(texture, size=size // 8, mode="area")
    return texture - F.interpolate(coarse, size=size, mode="bicubic", align_corners=False)


def _warp(picture: Tensor, grid: Tensor) -> Tensor:
    return F.grid_sample(picture, grid, mode="bilinear", padding_mode="border", align_corners=False)
