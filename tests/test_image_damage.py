"""Pictures whose pixels are sound though something else is not, and pictures of many pixels."""

from __future__ import annotations

import io
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import voicestyle.image
from voicestyle.image import from_pil, load_image, open_image, to_pil

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 16, 3), dtype=np.uint8)
BAD_EXIF = {
    "header": b"Exif\0\0not a TIFF file",
    "cut": b"Exif\0\0II*\0\x08\0\0\0\x02",
    "offset": b"Exif\0\0II*\0\xff\xff\xff\x7f",
    "types": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x04\xff\xff\xff\xff\0\0\0\0",
    "empty": b"Exif\0\0",
}


@pytest.mark.parametrize("exif", BAD_EXIF.values(), ids=BAD_EXIF)
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_bad_exif_is_no_reason_to_refuse_pixels(tmp_path: Path, exif: bytes, suffix: str) -> None:
    kinds = {"png": exif.removeprefix(b"Exif\0\0"), "tif": b""}  # a TIFF is its EXIF
    Image.fromarray(PIXELS).save(path := tmp_path / f"a.{suffix}", exif=kinds.get(suffix, exif))
    Image.fromarray(PIXELS).save(sound := tmp_path / f"sound.{suffix}")
    assert torch.equal(load_image(path), load_image(sound))


def test_a_picture_is_turned_once(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PIXELS).save(tmp_path / "a.png", exif=exif)
    turned = open_image(tmp_path / "a.png")
    assert turned.size == (24, 16) and torch.equal(from_pil(turned), load_image(tmp_path / "a.png"))


def test_long_text_beside_the_pixels(tmp_path: Path) -> None:
    for compressed in (False, True):  # Pillow takes up to 1 MB, once unpacked
        info = PngInfo()
        info.add_text("prompt", "a" * 3_000_000, zip=compressed)
        Image.fromarray(PIXELS).save(path := tmp_path / "a.png", pnginfo=info)
        assert np.array_equal(np.asarray(open_image(path)), PIXELS)
        assert np.array_equal(np.asarray(open_image(io.BytesIO(path.read_bytes()), "upload")), PIXELS)


@pytest.mark.parametrize("kind", [b"gAMA", b"pHYs", b"sRGB", b"cHRM", b"iCCP", b"tEXt", b"zTXt", b"iTXt", b"acTL"])
@pytest.mark.parametrize("data", [b"", b"\0", b"\xff" * 3], ids=["empty", "short", "bytes"])
def test_damage_beside_the_pixels_of_a_png(tmp_path: Path, kind: bytes, data: bytes) -> None:
    Image.fromarray(PIXELS).save(sound := tmp_path / "sound.png")
    png = sound.read_bytes()
    for number, checksum in enumerate((zlib.crc32(kind + data), 0)):
        chunk = len(data).to_bytes(4, "big") + kind + data + checksum.to_bytes(4, "big")
        (path := tmp_path / f"{number}.png").write_bytes(png[:33] + chunk + png[33:])
        assert torch.equal(load_image(path), load_image(sound))


def test_pixels_without_a_known_range(tmp_path: Path) -> None:
    Image.fromarray(PIXELS[..., 0].astype(np.float32)).save(path := tmp_path / "float.tif")
    with pytest.raises(ValueError, match=r"float.tif: floating-point pixels have no known range; save .* 16 bits$"):
        load_image(path)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "I;16"])
@pytest.mark.parametrize("suffix", ["png", "tif", "jpg"])
def test_huge_pictures_are_shrunk_by_a_whole_number(tmp_path: Path, monkeypatch, mode: str, suffix: str) -> None:
    monkeypatch.setattr(voicestyle.image, "MAX_PIXELS", 10_000)
    y, x = np.mgrid[:200, :300]
    smooth = Image.fromarray(np.stack([x * 255 // 299, y * 255 // 199, (x + y) // 2], -1).astype(np.uint8))
    if mode == "I;16":
        smooth = Image.fromarray(np.asarray(smooth.convert("L")).astype(np.uint16) * 257)
    else:
        smooth = smooth.convert(mode)
    try:
        smooth.save(path := tmp_path / f"a.{suffix}")
    except OSError:
        pytest.skip("there is no such file")
    image = load_image(path)
    assert image.shape == (1, 3, 67, 100)
    assert open_image(path).size == (300, 200)  # boxes of faces are in pixels of the whole picture
    if mode == "1":
        return  # its dots have another mean than their edges
    small = np.asarray(open_image(path).resize((100, 67), Image.Resampling.BOX)).astype(float)
    assert np.abs(np.asarray(to_pil(image)[0]).astype(float) - small).mean() < 4


def test_more_pixels_than_the_limit(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(voicestyle.image, "LIMIT", 383)
    Image.fromarray(PIXELS).save(path := tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a.png: more than 0 megapixels; make the picture smaller first"):
        load_image(path)


MEMORY = """
import resource, sys
from voicestyle.image import load_image
load_image(sys.argv[1])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "linux" else 1e9))
"""


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["1", "P", "RGBA", "I;16", "CMYK"])
def test_the_largest_picture_fits_into_memory(tmp_path: Path, mode: str) -> None:
    size, suffix = (9400, 9400), "tif" if mode == "CMYK" else "png"
    Image.new(mode, size).save(path := tmp_path / f"large.{suffix}", compress_level=1)
    done = subprocess.run([sys.executable, "-c", MEMORY, str(path)], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 1.5
