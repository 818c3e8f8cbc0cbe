"""Faces in photographs: where they are, their landmarks, and the canonical frame around them."""

from __future__ import annotations

import importlib.util
import math
import warnings
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from voicestyle.extras import needed
from voicestyle.image import MAX_PIXELS, WHITE, from_pil, open_image, to_rgb

Picture: TypeAlias = str | Path | Image.Image | Tensor  # a file, a picture, or (N,3,H,W) in [-1,1]

FRAME_SIZE = 224  # pixels of an aligned face before a network takes its part of it

# Where dlib's frontal face detector finds the face in the canonical frame, as fractions of it (right and bottom edges
# exclusive): between the medians for photographs in the wild and for frontal faces, both aligned by landmarks.
CANONICAL_FACE_BOX = (0.209, 0.292, 0.806, 0.889)

# The ellipse of brows, cheeks and chin in that frame, of our own: center, half axes, and the width of its soft edge in
# units of the half axes.
FACE_REGION = (0.5, 0.52, 0.30, 0.40, 0.15)

# The detector's smallest face has 80 px. Pictures are searched at these longest sides, then at twice as many pixels.
_MIN_SEARCH_SIDE, _MAX_SEARCH_SIDE = 450, 1024
# A quick look, and how far edges may lie from the canonical box. Pictures in the frame lie within 0.10 (99 % of each of
# two sets), photographs beyond 0.12 nine times in ten (docs/results.md, "Warnings about inputs").
_QUICK_SIDE, _ELSEWHERE = 400, 0.12
# Its boxes come in sizes that are 1.2 apart (an image pyramid of 5/6); three searches in between divide that error.
_SEARCH_SCALES = (1.0, 1.2 ** (1 / 3), 1.2 ** (2 / 3))


def in_frame(picture: Picture, size: int | None = None, align: bool = False) -> Tensor:
    """A picture (N,3,H,W) in the canonical frame, resized to `size` where given; `align` brings a photograph there.

    Raises:
        ImportError: to align, and dlib is not installed
        ValueError: no face found, or a picture that is not square, so not in that frame
    """
    if isinstance(picture, Tensor):
        return picture
    if isinstance(picture, Image.Image):
        pil, name = picture, "picture"
    else:
        pil, name = open_image(picture, max_pixels=MAX_PIXELS), str(picture)
    try:
        if align:
            return from_pil(align_face(pil, size or FRAME_SIZE))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    if pil.width != pil.height:
        raise ValueError(f"{name}: {pil.width} x {pil.height} px, expected a square aligned face; align it (--align)")
    if pil is not picture and lies_elsewhere(pil):
        warnings.warn(f"{name}: its face lies elsewhere than in aligned pictures; --align cuts it out", stacklevel=2)
    return from_pil(pil, size)


def align_face(pil: Image.Image, size: int) -> Image.Image:
    """The largest face of a picture in the canonical frame (size, size), found by dlib's detector.

    Raises:
        ImportError: dlib is not installed
        ValueError: no face found
    """
    pil = to_rgb(pil)
    box = detect_face(pil)
    if box is None:
        raise ValueError(
            f"no face found in a picture of {pil.width} x {pil.height} px; expected a frontal face, "
            "upright, not covered, and at least a tenth of the picture's longer side"
        )
    return align_box(pil, box, size)


def align_box(pil: Image.Image, box: Sequence[float], size: int) -> Image.Image:
    """The canonical frame (size, size) around a detected face; white where the picture does not reach.

    Args:
        pil: picture
        box: left, top, right, bottom (exclusive) of the face in pixels, as dlib's frontal face detector draws it
        size: pixels
    """
    left, top, right, bottom = box
    pil = to_rgb(pil)
    is_inside = left < pil.width and top < pil.height and right > 0 and bottom > 0
    is_sound = left < right and top < bottom and max(right - left, bottom - top) <= 2 * max(pil.size)
    if not (is_inside and is_sound):
        raise ValueError(
            f"face box {tuple(box)}: expected left < right and top < bottom, within {pil.width} x {pil.height} px"
        )
    face_left, face_top, face_right, face_bottom = CANONICAL_FACE_BOX
    side = (right - left + bottom - top) / (face_right - face_left + face_bottom - face_top)
    frame_left = (left + right - side * (face_left + face_right)) / 2
    frame_top = (top + bottom - side * (face_top + face_bottom)) / 2
    return _white_crop(pil, frame_left, frame_top, side, size)


def face_region(size: int) -> Tensor:
    """Where the face lies in the canonical frame: (1, 1, size, size), 1 inside, 0 outside, a soft edge between."""
    x, y, half_width, half_height, edge = FACE_REGION
    place = (torch.arange(size) + 0.5) / size
    radius = (((place - x) / half_width).square() + ((place[:, None] - y) / half_height).square()).sqrt()
    return ((1 - radius) / edge + 0.5).clamp(0, 1)[None, None]


def lies_elsewhere(pil: Image.Image) -> bool:
    """Whether the face of a picture lies elsewhere than in the canonical frame: a photograph that is not aligned.

    A quick look at one scale; False where it finds no face, and without dlib.
    """
    if importlib.util.find_spec("dlib") is None:
        return False
    apart = edges_apart(pil)
    return apart is not None and apart > _ELSEWHERE


def edges_apart(pil: Image.Image) -> float | None:
    """How far an edge of the face lies from where the canonical frame has it, in sides of the picture; None: no face.

    The farthest edge, of the face whose farthest is nearest.
    """
    small = pil.resize((_QUICK_SIDE, _QUICK_SIDE), Image.Resampling.BILINEAR)
    boxes = np.array(detect_faces(small), float).reshape(-1, 4) / _QUICK_SIDE
    return float(np.abs(boxes - CANONICAL_FACE_BOX).max(1).min()) if len(boxes) else None


def detect_face(pil: Image.Image) -> tuple[float, ...] | None:
    """Left, top, right, bottom (exclusive) in pixels of the largest face, the mean over the search scales."""
    detect = _dlib().get_frontal_face_detector()
    side = min(max(*pil.size, _MIN_SEARCH_SIDE), _MAX_SEARCH_SIDE)
    for search_side in (side, 2 * side):
        boxes = []
        for scale in (search_side * step / max(pil.size) for step in _SEARCH_SCALES):
            scaled = pil.resize([max(1, round(length * scale)) for length in pil.size], Image.Resampling.BILINEAR)
            faces = detect(np.asarray(scaled))
            boxes += [np.array((f.left(), f.top(), f.right() + 1, f.bottom() + 1)) / scale for f in faces]
        if boxes:
            largest = max(boxes, key=lambda box: box[2] - box[0])
            width = largest[2] - largest[0]
            same_face = [box for box in boxes if np.abs(box - largest).max() < 0.3 * width]
            return tuple(np.mean(same_face, axis=0).tolist())
    return None


def detect_faces(pil: Image.Image) -> list[tuple[int, int, int, int]]:
    """Left, top, right, bottom in whole pixels of every face that dlib's detector finds at the picture's own size."""
    found = _dlib().get_frontal_face_detector()(np.asarray(pil))
    return [(f.left(), f.top(), f.right(), f.bottom()) for f in found]


def find_landmarks(pil: Image.Image, box: Sequence[float], predictor: str | Path) -> np.ndarray:
    """The 68 landmarks (68, 2) of the iBUG scheme, x and y in pixels, of the face in a box.

    Args:
        pil: RGB
        box: left, top, right, bottom in pixels, of dlib's detector
        predictor: dlib's ``shape_predictor_68_face_landmarks.dat``

    Raises:
        ImportError: dlib is not installed, or does not read the predictor
        ValueError: they are not those of an upright face
    """
    shape = _predictor(str(predictor))(np.asarray(pil), _dlib().rectangle(*(round(edge) for edge in box)))
    points = np.array([(point.x + 0.5, point.y + 0.5) for point in shape.parts()])
    across, down = face_axes(points)
    if across[0] <= 0 or across[0] * down[1] - across[1] * down[0] <= 0 or abs(across[1]) > 2 * across[0]:
        raise ValueError("the landmarks found are not those of an upright face")
    return points


def face_axes(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ways (x, y) from the left eye of the picture to the right one, and from between them to the mouth."""
    left, right, mouth = points[36:42].mean(0), points[42:48].mean(0), points[[48, 54]].mean(0)
    return right - left, mouth - (left + right) / 2


def _white_crop(pil: Image.Image, left: float, top: float, side: float, size: int) -> Image.Image:
    """The square at (left, top) resized to (size, size), white outside of the picture."""
    column, row = math.floor(left), math.floor(top)
    canvas = Image.new("RGB", (math.ceil(left + side) - column, math.ceil(top + side) - row), WHITE)
    canvas.paste(pil, (-column, -row))
    inner = (left - column, top - row, left - column + side, top - row + side)
    return canvas.resize((size, size), Image.Resampling.BICUBIC, box=inner)


@lru_cache(maxsize=1)
def _predictor(path: str) -> Any:
    try:
        return _dlib().shape_predictor(path)
    except RuntimeError as error:
        raise ImportError(f"{path}: not a predictor of landmarks that dlib reads ({error})") from None


def _dlib() -> Any:
    return needed("dlib", "finding faces")
