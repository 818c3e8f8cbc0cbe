"""Pictures as NCHW float32 in [-1, 1], RGB: reading, writing, cropping."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from voicestyle.faults import fault_of
from voicestyle.files import written_whole

WHITE = (255, 255, 255)
_TURNED = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")  # where Pillow looks for the orientation
_PNG_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf")  # pixels, and which side is up

MAX_PIXELS = 1 << 24  # a picture that goes to a network is shrunk to so many as soon as it is decoded
LIMIT = 89_000_000  # pixels of the largest picture that is opened: about what Pillow takes without a warning

# What is read, by Pillow's names. Others have no place here, and some (EPS) would start another program.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")


def load_image(path: str | Path, size: int | None = None) -> Tensor:
    """Picture (1, 3, H, W) in [-1, 1], of any of `FORMATS` and any mode; see `from_pil`.

    A picture of more than `MAX_PIXELS` is shrunk by a whole number first.

    Raises:
        FileNotFoundError: no such file
        ValueError: not a picture, truncated, of pixels without a known range, or of more than `LIMIT` pixels
    """
    return from_pil(open_image(path, max_pixels=MAX_PIXELS), size)


def open_image(source: str | Path | BinaryIO, name: str = "", *, max_pixels: int = LIMIT) -> Image.Image:
    """Decoded picture as 8-bit RGB, upright by its EXIF orientation, from a file of one of `FORMATS`.

    Args:
        source: path, or open file
        name: of an open file, for errors
        max_pixels: a larger picture is shrunk by a whole number to fewer than that

    Raises:
        as `load_image`
    """
    with _opened(source, name) as pil:
        return to_rgb(pil, max_pixels)


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
            with Image.open(_without_rest(source), formats=FORMATS) as pil:
                if pil.width * pil.height > LIMIT:
                    raise Image.DecompressionBombError
                yield pil
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ValueError(f"{name}: more than {LIMIT // 10**6} megapixels; make the picture smaller first") from error
    except UnsuitableError as error:
        raise ValueError(f"{name}: {error}") from None
    except Image.UnidentifiedImageError as error:
        raise ValueError(f"{name}: not a picture, or of another format; expected {', '.join(FORMATS)}") from error
    except Exception as error:  # decoders raise nearly anything on a damaged file
        if fault_of(error):
            raise
        raise ValueError(f"{name}: damaged or truncated picture ({error}); get the file again") from error


class UnsuitableError(ValueError):
    """A picture that is sound, but says nothing that could be used."""


def _without_rest(source: Path | BinaryIO) -> Path | BinaryIO:
    """A PNG without the chunks that nobody here reads, which Pillow refuses where they are long or damaged."""
    with source.open("rb") if isinstance(source, Path) else nullcontext(source) as file:
        start = file.tell()
        head = file.read(8)
        chunks, has_rest = [head], False
        while head == b"\x89PNG\r\n\x1a\n" and len(begin := file.read(8)) == 8:
            length, is_rest = int.from_bytes(begin[:4], "big") + 4, begin[4:] not in _PNG_CHUNKS
            has_rest |= is_rest
            if is_rest:
                file.seek(length, 1)
            else:
                chunks += [begin, file.read(length)]
        file.seek(start)
    return io.BytesIO(b"".join(chunks)) if has_rest else source


def from_pil(pil: Image.Image, size: int | None = None) -> Tensor:
    """Picture (1, 3, H, W) float32 in [-1, 1]: (x - 127.5) / 127.5.

    Args:
        pil: any mode; EXIF orientation is applied, transparency is composited on white; shrunk to `MAX_PIXELS`
        size: pixels; resized (bicubic, as the reference does) to this square where given
    """
    pil = to_rgb(pil, MAX_PIXELS)
    if size is not None and pil.size != (size, size):
        pil = pil.resize((size, size), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(pil)).permute(2, 0, 1)[None]
    return (pixels.float() - 127.5) / 127.5


def to_rgb(pil: Image.Image, max_pixels: int = LIMIT) -> Image.Image:
    """8-bit RGB, upright, transparency on white; shrunk by a whole number to `max_pixels` where it has more.

    Raises:
        UnsuitableError: floating-point pixels, whose range nobody knows
    """
    if pil.mode == "F":
        raise UnsuitableError("floating-point pixels have no known range; save the picture with 8 or 16 bits")
    pil = _upright(_shrunk(pil, max_pixels))
    if pil.has_transparency_data:
        rgba = pil.convert("RGBA")
        pil = Image.new("RGB", rgba.size, WHITE)
        pil.paste(rgba, mask=rgba)
    return pil.convert("RGB")


def _shrunk(pil: Image.Image, max_pixels: int) -> Image.Image:
    """At most `max_pixels`, 8 bits each: means of squares of pixels where there are more."""
    factor = math.ceil(math.sqrt(pil.width * pil.height / max_pixels))
    if pil.mode.startswith("I"):
        pil = _eight_bits(pil)
    if factor > 1:
        if pil.mode in ("1", "P"):  # their values are no brightness that has a mean
            pil = pil.convert("RGBA" if pil.has_transparency_data else "L" if pil.mode == "1" else "RGB")
        info, pil = pil.info, pil.reduce(factor)
        pil.info = info
    return pil


def _eight_bits(pil: Image.Image) -> Image.Image:
    """A picture of 16 bits a pixel, which `convert` would clip to 8 instead of scaling."""
    depth = np.asarray(pil)
    unit, gray = 257 if depth.max() > 255 else 1, np.empty(depth.shape, np.uint8)
    for row, line in enumerate(depth):
        gray[row] = (line / unit).round().clip(0, 255)
    made = Image.fromarray(gray)
    made.info = {name: value for name, value in pil.info.items() if name != "transparency"}
    return made


def _upright(pil: Image.Image) -> Image.Image:
    """Turned as its EXIF says, which is done with then; as it is where that is damaged, for the pixels are sound."""
    try:
        turned = ImageOps.exif_transpose(pil)
    except Exception:  # the parser raises nearly anything
        turned = pil.copy()
    turned.info = {name: value for name, value in turned.info.items() if name not in _TURNED}
    return turned


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
