"""What an inversion study inverts: faces, photographs as they were taken, and poor copies of them."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from voicestyle.align import align_box, detect_face
from voicestyle.data.manifest import Item
from voicestyle.evaluate.pictures import Refuse, face_picture, usable
from voicestyle.image import from_pil, open_image, to_pil

SHRINK, JPEG = (2.0, 6.0), (5, 30)  # of low-quality copies, drawn from: by how much smaller, and JPEG quality


@dataclass(frozen=True, eq=False)
class Targets:
    """N pictures to invert, and the faces that their inversions should show."""

    names: tuple[str, ...]
    target: Tensor  # (N,3,size,size) in [-1,1]: what is inverted
    original: Tensor  # (N,3,size,size): the face in the generator's frame, at its best
    boxes: tuple[tuple[float, ...], ...] = ()  # of the faces in `target`, in pixels; empty: it is in that frame

    def __len__(self) -> int:
        return len(self.names)

    def faces(self, images: Tensor, rows: slice) -> Tensor:
        """The faces of pictures that are framed as `target[rows]`, in the generator's frame."""
        if not self.boxes:
            return images
        cut = zip(to_pil(images), self.boxes[rows], strict=True)
        return torch.cat([from_pil(align_box(pil, box, pil.width)) for pil, box in cut]).to(images)


def aligned_targets(items: Iterable[Item], size: int, refuse: Refuse) -> Targets:
    """Targets of faces that are in the generator's frame, or come there by their box.

    Raises:
        ValueError: none that can be used
    """
    found = list(usable(items, lambda item: face_picture(item, size), refuse))
    images = torch.cat([image for _, image in _some(found)])
    return Targets(tuple(item.key for item, _ in found), images, images)


def photograph_targets(items: Iterable[Item], size: int, refuse: Refuse) -> dict[str, Targets]:
    """Photographs `aligned`, and the same ones `as taken`: their central squares.

    Those without a face in that square are left out of both.

    Raises:
        ValueError: none that can be used
    """
    found = _some(list(usable(items, lambda item: _photograph(item, size), refuse)))
    names = tuple(item.key for item, _ in found)
    taken, aligned = (torch.cat([values[i] for _, values in found]) for i in (0, 1))
    boxes = tuple(values[2] for _, values in found)
    return {"aligned": Targets(names, aligned, aligned), "as taken": Targets(names, taken, aligned, boxes)}


def _some(found: list[Any]) -> list[Any]:
    if not found:
        raise ValueError("no picture could be used; expected one or more with a face")
    return found


def _photograph(item: Item, size: int) -> tuple[Tensor, Tensor, tuple[float, ...]]:
    """The central square of a photograph, its aligned face, and the box of the face in that square."""
    pil = open_image(item.file("face"))
    box = item.face_box or detect_face(pil)
    if box is None:
        raise ValueError("no face found")
    side = min(pil.size)
    left, top = (pil.width - side) / 2, (pil.height - side) / 2
    square = pil.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
    moved = tuple((edge - offset) * size / side for edge, offset in zip(box, (left, top) * 2, strict=True))
    align_box(square, moved, size)  # refuses a face outside of the square
    return from_pil(square), from_pil(align_box(pil, box, size)), moved


def low_quality(targets: Targets, seed: int = 0) -> Targets:
    """Copies that were made smaller by a factor of `SHRINK`, compressed as JPEG, and enlarged; drawn with the seed."""
    copies = []
    for i, pil in enumerate(to_pil(targets.target)):
        rng = np.random.default_rng([seed, i])
        small = max(1, round(pil.width / rng.uniform(*SHRINK)))
        data = io.BytesIO()
        pil.resize((small, small), Image.Resampling.BICUBIC).save(data, "JPEG", quality=int(rng.integers(*JPEG)))
        copies.append(from_pil(open_image(data, "JPEG"), pil.width))
    return dataclasses.replace(targets, target=torch.cat(copies))


def smaller(targets: Targets, factor: int) -> Targets:
    """Copies that were made smaller by a factor, and enlarged again."""
    size = targets.target.shape[-1]
    small = to_pil(F.interpolate(targets.target, size // factor, mode="bicubic", antialias=True, align_corners=False))
    return dataclasses.replace(targets, target=torch.cat([from_pil(pil, size) for pil in small]))
