"""A figure in the style of the house, made without matplotlib's global state, and how it is written."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from voicestyle import __version__
from voicestyle.extras import needed
from voicestyle.files import written_whole

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito, "Color Universal Design" (2008): for color-blind eyes too; its yellow is left out, too pale on white
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
INK, GRAY, GRID = "#1c1c1e", "#6e6e73", "#e2e2e5"
FORMATS = (".png", ".svg", ".pdf")
DPI = 150


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure as PNG, SVG or PDF by its suffix, all or nothing; the same figure gives the same bytes.

    Raises:
        ValueError: another suffix
        FileNotFoundError: no such folder
    """
    from matplotlib import rc_context

    path = Path(path)
    software = f"voicestyle {__version__}"
    metadata = {
        ".png": {"Software": software},
        ".svg": {"Creator": software, "Date": None},
        ".pdf": {"Creator": software, "CreationDate": None},
    }.get(path.suffix.lower())
    if metadata is None:
        raise ValueError(f"{path}: figures are written as {', '.join(FORMATS)}; use a name that ends so")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent}: no such folder; create it first")
    with written_whole(path) as beside, rc_context({"svg.hashsalt": "voicestyle"}):  # else names of paths are random
        figure.savefig(beside, format=path.suffix[1:].lower(), dpi=DPI, metadata=metadata)


def new_figure(title: str, size: tuple[float, float] = (6.4, 4.8), num_panels: int = 1) -> tuple[Figure, list[Axes]]:
    """An empty figure (size in inches) on an Agg canvas, with panels one above the other."""
    FigureCanvasAgg = needed("matplotlib.backends.backend_agg", "a plot").FigureCanvasAgg
    Figure = needed("matplotlib.figure", "a plot").Figure
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)  # inches
    FigureCanvasAgg(figure)
    title = textwrap.fill(title, int(9.5 * size[0]))  # letters of an inch
    figure.suptitle(title, x=0.02, ha="left", fontsize=12, color=INK, parse_math=False)
    panels = figure.subplots(num_panels, 1, sharex=True, squeeze=False)[:, 0]
    for axes in panels:
        axes.grid(color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(GRAY)
        axes.tick_params(colors=GRAY, labelcolor=INK, labelsize=9)
        for axis in (axes.xaxis, axes.yaxis):
            axis.label.set(color=INK, fontsize=10)
    return figure, list(panels)


def legend_above(axes: Axes, entries: Mapping[str, Artist]) -> None:
    """A legend between title and axes, where it hides nothing, in as many columns as fit."""
    width = axes.figure.bbox.width / axes.figure.dpi  # inches
    room = 12.5 * width // (max(map(len, entries)) + 8)  # columns, of about so many letters an inch
    num_rows = math.ceil(len(entries) / min(4, max(1, room)))
    legend = axes.legend(
        list(entries.values()),
        [str(i) for i in range(len(entries))],
        ncols=math.ceil(len(entries) / num_rows),
        loc="lower left",
        bbox_to_anchor=(0, 1),
        borderaxespad=0.2,
        borderpad=0,
        fontsize=9,
        frameon=False,
        labelcolor=INK,
    )
    for text, name in zip(legend.get_texts(), entries, strict=True):
        text.set(text=name, parse_math=False)  # here, since a legend leaves out names that begin with "_"


def colors(number: int) -> list[str]:
    return [PALETTE[i % len(PALETTE)] for i in range(number)]


def extent(counts: Sequence[int]) -> str:
    """Counts as words: one number, or the smallest and the largest."""
    if not counts:
        raise ValueError("nothing to draw, expected one curve or more")
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
