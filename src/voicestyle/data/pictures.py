"""The pictures of an item, in the canonical frame."""

from __future__ import annotations

from torch import Tensor

from voicestyle.align import CANONICAL_FACE_BOX, align_box, align_face
from voicestyle.data.manifest import Item
from voicestyle.image import from_pil, load_image, open_image

ALIGNED_SIZE = 256  # pixels of a picture in the wild once aligned; front ends take a part of it


def frontal_picture(item: Item) -> Tensor | None:
    """The frontal picture (1,3,H,W) of an item, or None where it has none."""
    return load_image(item.frontal) if item.frontal else None


def canonical_picture(item: Item) -> Tensor | None:
    """The frontal picture of an item, or where it has none, the one in the wild; see there for what it may raise."""
    picture = frontal_picture(item)
    return wild_picture(item) if picture is None else picture


def wild_picture(item: Item) -> Tensor | None:
    """The face in the wild (1,3,256,256), aligned by its box or, without one, by a detector; None without a face.

    With the box of the whole frame, the picture is resized as it is, whatever its shape, as the reference does.

    Raises:
        ImportError: no box, and dlib-bin is not installed
        ValueError: no face found
    """
    if item.face is None:
        return None
    pil = open_image(item.face)
    box = item.face_box
    if box == whole_frame_box(pil.size):
        return from_pil(pil, ALIGNED_SIZE)
    try:
        return from_pil(align_box(pil, box, ALIGNED_SIZE) if box else align_face(pil, ALIGNED_SIZE))
    except ValueError as error:
        raise ValueError(f"{item.face}: {error}") from None


def whole_frame_box(size: tuple[int, int]) -> tuple[float, ...]:
    """The face box that says of a picture of `size` (width, height) pixels: take it as it is, it was cut already."""
    return tuple(round(part * length, 3) for part, length in zip(CANONICAL_FACE_BOX, size * 2, strict=True))
