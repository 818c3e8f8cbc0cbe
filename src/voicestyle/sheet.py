"""Contact sheets: rows of captioned pictures on white."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor

from voicestyle.image import WHITE, to_pil


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
        self.title_font = _font(max(13, tile // 8))
        self.caption_font = _font(max(10, tile // 11))
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


def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)  # as it is where a size is asked for
    return font


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
