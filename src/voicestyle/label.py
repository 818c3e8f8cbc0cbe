"""The visible mark that says what a picture is, where its metadata is not looked at."""

from __future__ import annotations

from PIL import Image, ImageDraw, ImageFont, ImageOps

TEXT = "AI-generated"


def labelled(pil: Image.Image, least: int = 0) -> Image.Image:
    """A copy of a picture with "AI-generated" in its lower left corner, white on a dark ground.

    One whose shorter side has fewer than `least` pixels is enlarged first, so that the words can be read.
    """
    if min(pil.size) < least:
        pil = ImageOps.scale(pil, least / min(pil.size), Image.Resampling.LANCZOS)
    side = min(pil.size)
    font = ImageFont.load_default(max(8, side / 20))
    pad = max(2, side // 64)
    left, top, right, bottom = font.getbbox(TEXT)
    width, height = round(right - left) + 4 * pad, round(bottom - top) + 2 * pad
    made = pil.convert("RGB")
    x, y = 2 * pad, made.height - height - 2 * pad
    ground = Image.new("L", made.size)
    ImageDraw.Draw(ground).rounded_rectangle((x, y, x + width, y + height), height / 2, fill=190)
    made.paste("#111114", mask=ground)
    ImageDraw.Draw(made).text((x + 2 * pad - left, y + pad - top), TEXT, "#ffffff", font)
    return made
