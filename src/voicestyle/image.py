"""Pictures as NCHW float32 in [-1, 1], RGB: reading, writing, cropping."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from voicestyle.files import written_whole

WHITE = (255, 255, 255)

# What is read, by Pillow's names. Others have no place here, and some (EPS) would start another program.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")


def load_image(path: str | Path, size: int | None = None) -> Tensor:
    """Picture (1, 3, H, W) in [-1, 1], of any of `FORMATS` and any mode; see `from_pil`.

    Raises:
        FileNotFoundError: no such file
        ValueError: not a picture, truncated, or too large to be decoded safely
    """
    return from_pil(open_image(path), size)


def open_image(source: str | Path | BinaryIO, name: str = "") -> Image.Image:
    """Decoded picture as 8-bit RGB, upright by its EXIF orientation, from a file of one of `FORMATS`.

    Args:
        source: path, or open file
        name: of an open file, for errors

    Raises:
        as `load_image`
    """
    with _opened(source, name) as pil:
        return to_rgb(pil)


def picture_size(path: str | Path) -> tuple[int, int]:
    """Width and height in pixels as they are stored; of the file, the header alone is read. Raises as `load_image`."""
    with _opened(path) as pil:
        return pil.size


@contextmanager
def _opened(source: str | Path | BinaryIO, name: str = "") -> Iterator[Image.Image]:
    """The one door through which pictures come in; what is wrong with them is said with their name."""
    if isinstance(source, (str, Path)):
        source = Path(source)
        name = name or str(source)
        if not source.is_file():
            raise FileNotFoundError(f"{source}: no such picture")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # such as damaged EXIF: the picture itself can be read
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(source, formats=FORMATS) as pil:
                yield pil
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        limit = (Image.MAX_IMAGE_PIXELS or 0) // 10**6
        raise ValueError(f"{name}: more than {limit} megapixels; make the picture smaller first") from error
    except Image.UnidentifiedImageError as error:
        raise ValueError(f"{name}: not a picture, or of another format; expected {', '.join(FORMATS)}") from error
    except Exception as error:  # decoders raise nearly anything on a damaged file
        raise ValueError(f"{name}: damaged or truncated picture ({error}); get the file again") from error


def from_pil(pil: Image.Image, size: int | None = None) -> Tensor:
    """Picture (1, 3, H, W) float32 in [-1, 1]: (x - 127.5) / 127.5.

    Args:
        pil: any mode; EXIF orientation is applied, transparency is composited on white
        size: pixels; resized (bicubic, as the reference does) to this square where given
    """
    pil = to_rgb(pil)
    if size is not None and pil.size != (size, size):
        pil = pil.resize((size, size), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(pil)).permute(2, 0, 1)[None]
    return (pixels.float() - 127.5) / 127.5


def to_rgb(pil: Image.Image) -> Image.Image:
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


def _resampling_matrix(length: int, start: float, stop: float, size: int) -> Tensor:
    """Weights (size, length) float64 that resample pixels start..stop; a row sums to less than 1 where white shows."""
    scale = (stop - start) / size
    centers = start + (torch.arange(size, dtype=torch.float64) + 0.5) * scale
    first, last = min(0, math.floor(start)), max(length, math.ceil(stop))
    pixels = torch.arange(first, last, dtype=torch.float64) + 0.5
    weights = (1 - (pixels - centers[:, None]).abs() / max(scale, 1.0)).clamp(min=0)
    weights /= weights.sum(1, keepdim=True)
    return weights[:, -first : length - first]
