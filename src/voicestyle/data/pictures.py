"""The pictures of an item, in the canonical frame."""

from __future__ import annotations

from torch import Tensor

from voicestyle.data.manifest import Item
from voicestyle.image import align_box, align_face, from_pil, load_image, open_image

ALIGNED_SIZE = 256  # pixels of a picture in the wild once aligned; front ends take a part of it


def frontal_picture(item: Item) -> Tensor | None:
    """The frontal picture (1,3,H,W) of an item, or None where it has none."""
    return load_image(item.frontal) if item.frontal else None


def wild_picture(item: Item) -> Tensor | None:
    """The face in the wild (1,3,256,256), aligned by its box or, without one, by a detector; None without a face.

    Raises:
        ImportError: no box, and dlib-bin is not installed
        ValueError: no face found
    """
    if item.face is None:
        return None
    pil = open_image(item.face)
    box = item.face_box
    try:
        return from_pil(align_box(pil, box, ALIGNED_SIZE) if box else align_face(pil, ALIGNED_SIZE))
    except ValueError as error:
        raise ValueError(f"{item.face}: {error}") from None
