"""Pictures as NCHW float32 in [-1, 1], RGB: reading, writing, cropping, face alignment, contact sheets.

The only place where uint8 and PIL exist.
"""

from __future__ import annotations

import math
import unicodedata
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from voicestyle.files import written_whole

WHITE = (255, 255, 255)

# Where dlib's frontal face detector finds the face in the canonical frame, as fractions of it (right and bottom edges
# exclusive): between the medians for photographs in the wild and for frontal faces, both aligned by landmarks.
CANONICAL_FACE_BOX = (0.209, 0.292, 0.806, 0.889)

# The ellipse of brows, cheeks and chin in that frame, of our own: center, half axes, and the width of its soft edge in
# units of the half axes.
FACE_REGION = (0.5, 0.52, 0.30, 0.40, 0.15)

# The detector's smallest face has 80 px. Pictures are searched at these longest sides, then at twice as many pixels.
_MIN_SEARCH_SIDE, _MAX_SEARCH_SIDE = 450, 1024
# Its boxes come in sizes that are 1.2 apart (an image pyramid of 5/6); three searches in between divide that error.
_SEARCH_SCALES = (1.0, 1.2 ** (1 / 3), 1.2 ** (2 / 3))


def load_image(path: str | Path, size: int | None = None) -> Tensor:
    """Picture (1, 3, H, W) in [-1, 1], of any format and mode that Pillow reads; see `from_pil`.

    Raises:
        FileNotFoundError: no such file
        ValueError: not a picture, truncated, or too large to be decoded safely
    """
    return from_pil(open_image(path), size)


def open_image(path: str | Path) -> Image.Image:
    """Decoded picture as 8-bit RGB, upright by its EXIF orientation; errors are those of `load_image`."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such picture")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # such as damaged EXIF: the picture itself can be read
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as pil:
                return _to_rgb(pil)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        limit = (Image.MAX_IMAGE_PIXELS or 0) // 10**6
        raise ValueError(f"{path}: more than {limit} megapixels; make the picture smaller first") from error
    except Image.UnidentifiedImageError as error:
        raise ValueError(f"{path}: not a picture that Pillow reads; expected JPEG, PNG, WebP or the like") from error
    except Exception as error:  # decoders raise nearly anything on a damaged file
        raise ValueError(f"{path}: damaged or truncated picture ({error}); get the file again") from error


def from_pil(pil: Image.Image, size: int | None = None) -> Tensor:
    """Picture (1, 3, H, W) float32 in [-1, 1]: (x - 127.5) / 127.5.

    Args:
        pil: any mode; EXIF orientation is applied, transparency is composited on white
        size: pixels; resized (bicubic, as the reference does) to this square where given
    """
    pil = _to_rgb(pil)
    if size is not None and pil.size != (size, size):
        pil = pil.resize((size, size), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(pil)).permute(2, 0, 1)[None]
    return (pixels.float() - 127.5) / 127.5


def to_pil(image: Tensor) -> list[Image.Image]:
    """One 8-bit RGB picture a sample of image (N, 3, H, W); values are clamped to [-1, 1] and rounded.

    Raises:
        ValueError: another shape, or NaN
    """
    if image.ndim != 4 or image.shape[1] != 3:
        raise ValueError(f"image: got shape {tuple(image.shape)}, expected (N, 3, H, W)")
    image = image.detach().float()
    if image.isnan().any():
        raise ValueError("image: holds NaN, expected values in [-1, 1]")
    pixels = (image.clamp(-1, 1) * 127.5 + 127.5).round().to(torch.uint8)
    return [Image.fromarray(sample) for sample in pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy()]


def save_png(image: Tensor | Image.Image, path: str | Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write one picture as PNG with text chunks, all or nothing.

    Args:
        image: (1, 3, H, W) in [-1, 1], or a PIL picture
        path: ends in .png; its folder exists
        metadata: keyword -> text, e.g. what made the picture and that it is AI-generated
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"{path}: pictures are written as PNG; use a name that ends in .png")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent}: no such folder; create it first")
    if isinstance(image, Tensor):
        if len(image) != 1:
            raise ValueError(f"{path}: got {len(image)} pictures, expected one")
        (image,) = to_pil(image)
    info = PngInfo()
    for keyword, text in (metadata or {}).items():
        info.add_text(keyword, text)
    with written_whole(path) as beside:
        image.save(beside, format="PNG", pnginfo=info)


def crop_resize(image: Tensor, crop: Sequence[float], size: int) -> Tensor:
    """Part of a picture as (N, 3, size, size): antialiased, differentiable, with edges at fractions of a pixel.

    The triangle filter of Pillow's `resize(..., BILINEAR, box=...)`, as one matrix an axis. Where the crop reaches
    outside of the picture, there is white (+1).

    Args:
        image: (N, 3, H, W) in [-1, 1]
        crop: left, top, right, bottom as fractions of the picture
        size: pixels
    """
    left, top, right, bottom = crop
    if not (left < right and top < bottom) or size < 1:
        raise ValueError(
            f"crop {tuple(crop)} at {size} px: expected left < right, top < bottom and a size of 1 or more"
        )
    if image.ndim != 4:
        raise ValueError(f"image: got shape {tuple(image.shape)}, expected (N, 3, H, W)")
    height, width = image.shape[2:]
    rows = _resampling_matrix(height, top * height, bottom * height, size).to(image)
    columns = _resampling_matrix(width, left * width, right * width, size).to(image)
    return rows @ (image - 1) @ columns.T + 1


def align_face(pil: Image.Image, size: int) -> Image.Image:
    """The largest face of a picture in the canonical frame (size, size), found by dlib's detector.

    Raises:
        ImportError: dlib is not installed
        ValueError: no face found
    """
    pil = _to_rgb(pil)
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
    pil = _to_rgb(pil)
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


def contact_sheet(rows: Sequence[tuple[str, Sequence[tuple[Tensor | None, str]]]], tile: int = 128) -> Image.Image:
    """Rows of captioned pictures on white, each under its title.

    Args:
        rows: (title, [(image (3, H, W) or (1, 3, H, W) in [-1, 1], caption)]); None draws an empty tile; a caption may
            have several lines
        tile: pixels, side of a tile
    """
    if not rows:
        raise ValueError("contact sheet: got no rows, expected one or more")
    return _Sheet(tile).draw(rows)


class _Sheet:
    """Sizes and colors of a contact sheet."""

    ink, gray, empty, edge = "#1c1c1e", "#6e6e73", "#f2f2f4", "#e2e2e5"

    def __init__(self, tile: int) -> None:
        self.tile = tile
        self.margin, self.gap, self.radius = max(12, tile // 5), max(6, tile // 12), max(2, tile // 20)
        self.title_font = ImageFont.load_default(max(13, tile // 8))
        self.caption_font = ImageFont.load_default(max(10, tile // 11))
        self.title_height = round(self.title_font.size * 1.8)
        self.line_height = round(self.caption_font.size * 1.35)

    def draw(self, rows: Sequence[tuple[str, Sequence[tuple[Tensor | None, str]]]]) -> Image.Image:
        num_columns = max(2, *(len(tiles) for _, tiles in rows))  # two at least, so that titles have room
        inner = num_columns * (self.tile + self.gap) - self.gap
        titles = [_wrap(title, self.title_font, inner) for title, _ in rows]
        heights = [
            len(lines) * self.title_height + self._tiles_height(tiles)
            for lines, (_, tiles) in zip(titles, rows, strict=True)
        ]
        size = (inner + 2 * self.margin, sum(heights) + self.margin * (len(rows) + 1))
        sheet = Image.new("RGB", size, WHITE)
        draw = ImageDraw.Draw(sheet)
        top = self.margin
        for lines, (_, tiles), height in zip(titles, rows, heights, strict=True):
            for i, line in enumerate(lines):
                draw.text((self.margin, top + i * self.title_height), line, self.ink, self.title_font)
            for column, (image, caption) in enumerate(tiles):
                left = self.margin + column * (self.tile + self.gap)
                self._draw_tile(sheet, draw, (left, top + len(lines) * self.title_height), image, caption)
            top += height + self.margin
        return sheet

    def _tiles_height(self, tiles: Sequence[tuple[Tensor | None, str]]) -> int:
        num_lines = max((len(caption.splitlines()) for _, caption in tiles), default=0)
        return self.tile + self.gap // 2 + num_lines * self.line_height

    def _draw_tile(
        self, sheet: Image.Image, draw: ImageDraw.ImageDraw, corner: tuple[int, int], image: Tensor | None, caption: str
    ) -> None:
        left, top = corner
        frame = (left, top, left + self.tile - 1, top + self.tile - 1)
        if image is None:
            draw.rounded_rectangle(frame, self.radius, fill=self.empty)
        else:
            (picture,) = to_pil(image if image.ndim == 4 else image[None])
            picture = ImageOps.pad(picture, (self.tile, self.tile), Image.Resampling.LANCZOS, color=WHITE)
            sheet.paste(picture, corner, self._rounded_mask())
        draw.rounded_rectangle(frame, self.radius, outline=self.edge)  # keeps a white picture apart from the sheet
        for i, line in enumerate(caption.splitlines()):
            position = (left, top + self.tile + self.gap // 2 + i * self.line_height)
            draw.text(position, _fit_text(line, self.caption_font, self.tile), self.gray, self.caption_font)

    def _rounded_mask(self) -> Image.Image:
        large = Image.new("L", (4 * self.tile, 4 * self.tile))  # drawn four times as large: smooth corners
        ImageDraw.Draw(large).rounded_rectangle((0, 0, 4 * self.tile - 1, 4 * self.tile - 1), 4 * self.radius, fill=255)
        return large.resize((self.tile, self.tile), Image.Resampling.LANCZOS)


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """The text in lines of at most `width` pixels, none where it is empty."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(_ascii(longer)) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return [_fit_text(line, font, width) for line in lines]


def _fit_text(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """The text in ASCII, or as much of it as fits into `width` pixels with an ellipsis."""
    text = _ascii(text)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"


def _ascii(text: str) -> str:
    """The text in the letters that the built-in font has."""
    text = text.replace("–", "-").replace("—", "-")
    text = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return text.encode("ascii", "replace").decode()


def _to_rgb(pil: Image.Image) -> Image.Image:
    """8-bit RGB, upright, transparency on white."""
    pil = ImageOps.exif_transpose(pil)
    if pil.mode.startswith("I"):  # 16 bits a pixel; `convert` would clip them to 8 instead of scaling
        depth = np.asarray(pil).astype(np.int64)
        pil = Image.fromarray((depth / (257 if depth.max() > 255 else 1)).round().clip(0, 255).astype(np.uint8))
    elif pil.mode == "F":
        raise ValueError("floating-point pixels have no known range; save the picture with 8 or 16 bits")
    if pil.has_transparency_data:
        rgba = pil.convert("RGBA")
        pil = Image.alpha_composite(Image.new("RGBA", rgba.size, WHITE), rgba)
    return pil.convert("RGB")


def detect_face(pil: Image.Image) -> tuple[float, ...] | None:
    """Left, top, right, bottom (exclusive) in pixels of the largest face, the mean over the search scales."""
    try:
        import dlib
    except ImportError as error:
        raise ImportError("face alignment needs dlib: pip install dlib-bin") from error
    detect = dlib.get_frontal_face_detector()
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


def _white_crop(pil: Image.Image, left: float, top: float, side: float, size: int) -> Image.Image:
    """The square at (left, top) resized to (size, size), white outside of the picture."""
    column, row = math.floor(left), math.floor(top)
    canvas = Image.new("RGB", (math.ceil(left + side) - column, math.ceil(top + side) - row), WHITE)
    canvas.paste(pil, (-column, -row))
    inner = (left - column, top - row, left - column + side, top - row + side)
    return canvas.resize((size, size), Image.Resampling.BICUBIC, box=inner)


def _resampling_matrix(length: int, start: float, stop: float, size: int) -> Tensor:
    """Weights (size, length) float64 that resample pixels start..stop; a row sums to less than 1 where white shows."""
    scale = (stop - start) / size
    centers = start + (torch.arange(size, dtype=torch.float64) + 0.5) * scale
    first, last = min(0, math.floor(start)), max(length, math.ceil(stop))
    pixels = torch.arange(first, last, dtype=torch.float64) + 0.5
    weights = (1 - (pixels - centers[:, None]).abs() / max(scale, 1.0)).clamp(min=0)
    weights /= weights.sum(1, keepdim=True)
    return weights[:, -first : length - first]
