"""The numbers in the logs of training runs, against the step."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from voicestyle.plots.figure import GRAY, INK, PALETTE, colors, extent, legend_above, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

STYLES = ("-", "--", ":", "-.")  # of keys, where colors tell runs apart
ORDER = {"loss": 0, "AUC": 1, "learning rate": 3}  # of panels; others stand at 2
RUNNING_BEST = "best_auc"  # a key that only repeats the highest AUC so far

Array = NDArray[np.float64]
Log = dict[str, tuple[Array, Array]]  # key -> steps, values


def training_curves(runs: Sequence[str | Path]) -> Figure:
    """The numbers in the logs of training runs against the step: losses, AUCs and learning rates in a panel each.

    One run has a color a key; several have a color a run and a line style a key. A ring marks the best AUC of a run.
    What is 0 in all lines of all runs, such as the clusters of a recipe without prototypes, is left out.

    Args:
        runs: run folders with ``log.jsonl``

    Raises:
        FileNotFoundError: a folder without log
        ValueError: no runs, a log without numbers, or a damaged one
    """
    logs = {name: _read_log(Path(run)) for name, run in zip(_short_names(runs), runs, strict=True)}
    panels: dict[str, list[str]] = {}
    for key in dict.fromkeys(key for log in logs.values() for key in log):
        panels.setdefault(_panel_of(key), []).append(key)
    panels = {name: keys for name, keys in panels.items() if name in ORDER or _is_used(keys, logs.values())} or panels
    last = extent([max(int(steps[-1]) for steps, _ in log.values()) for log in logs.values()])
    title = f"Training of {next(iter(logs))}, {last} steps" if len(logs) == 1 else f"Training, n = {len(logs)} runs"
    figure, all_axes = new_figure(title, (6.8, 1.3 + 1.7 * len(panels)), len(panels))
    for axes, name in zip(all_axes, sorted(panels, key=lambda name: ORDER.get(name, 2)), strict=True):
        _draw_panel(axes, name, panels[name], list(logs.values()))
    all_axes[-1].set_xlabel("step")
    if len(logs) > 1:
        handles = [all_axes[0].plot([], [], color=color, linewidth=2)[0] for color in colors(len(logs))]
        legend_above(all_axes[0], dict(zip(logs, handles, strict=True)))
    return figure


def _draw_panel(axes: Axes, name: str, keys: Sequence[str], logs: Sequence[Log]) -> None:
    """The keys of one panel for all runs; where there are several keys, their names stand at the lines' ends."""
    labels: dict[str, tuple[float, str]] = {}
    for i, log in enumerate(logs):
        for j, key in enumerate(key for key in keys if key in log):
            steps, values = log[key]
            color = PALETTE[(i if len(logs) > 1 else j) % len(PALETTE)]
            style = STYLES[keys.index(key) % len(STYLES)] if len(logs) > 1 else "-"
            marker = "." if len(steps) < 30 else ""
            axes.plot(steps, values, color=color, linestyle=style, linewidth=1.4, marker=marker, markersize=5)
            labels.setdefault(key, (values[np.isfinite(values)][-1], INK if len(logs) > 1 else color))
            if name == "AUC":
                _mark_best(axes, steps, values, color, is_told=len(logs) == 1)
    if name == "AUC":
        axes.axhline(0.5, color=GRAY, linestyle="--", linewidth=1)
        labels["chance"] = (0.5, GRAY)
    if name == "learning rate" and _is_wide(axes.lines):
        axes.set_yscale("log")
    elif all((np.asarray(line.get_ydata(), np.float64) % 1 == 0).all() for line in axes.lines):
        axes.locator_params("y", integer=True, min_n_ticks=1)
    axes.set_ylabel(keys[0] if len(keys) == 1 and name != "learning rate" else name, parse_math=False)
    if len(labels) > 1:
        _label_ends(axes, labels)


def _mark_best(axes: Axes, steps: Array, values: Array, color: str, is_told: bool) -> None:
    """A ring around the highest value, which may be told in figures."""
    best = np.nanargmax(values)
    axes.scatter(steps[best], values[best], s=36, facecolors="none", edgecolors=color, linewidths=1.4, zorder=3)
    if is_told:
        axes.annotate(
            f"{values[best]:.3f}",
            (steps[best], values[best]),
            (0, -7),
            textcoords="offset points",
            color=color,
            fontsize=9,
            ha="center",
            va="top",
        )


def _is_used(keys: Sequence[str], logs: Collection[Log]) -> bool:
    """Whether a key ever has another value than 0."""
    return any(log[key][1].any() for log in logs for key in keys if key in log)


def _is_wide(lines: Sequence[Line2D]) -> bool:
    """Whether the values of lines are positive and a decade or more apart."""
    values = np.concatenate([line.get_ydata() for line in lines])
    return bool(values.min() > 0 and values.max() >= 10 * values.min())


def _label_ends(axes: Axes, labels: Mapping[str, tuple[float, str]]) -> None:
    """Names at the right edge, each at the height of its line's end and kept apart from its neighbors."""
    to_axes = axes.transData + axes.transAxes.inverted()
    x, _ = axes.get_xlim()[1], axes.get_ylim()  # which also settle what the transform needs
    heights = {name: float(to_axes.transform((x, value))[1]) for name, (value, _) in labels.items()}
    gap, below = 0.12, -math.inf  # of the panel's height: a line of text
    for name in sorted(heights, key=heights.__getitem__):
        below = max(heights[name], below + gap)
        axes.text(
            1.015,
            below,
            name,
            color=labels[name][1],
            fontsize=9,
            va="center",
            transform=axes.transAxes,
            parse_math=False,
        )


def _panel_of(key: str) -> str:
    """The panel that a key of a log belongs to: keys of one unit share it, others have one of their own."""
    words = set(key.lower().replace(".", "_").replace("/", "_").split("_"))
    for panel, names in {"loss": {"loss"}, "AUC": {"auc"}, "learning rate": {"lr"}}.items():
        if words & names:
            return panel
    return key


def _read_log(run: Path) -> Log:
    """Steps and values of each number in a run's log; a last line that is still being written is left out."""
    path = run / "log.jsonl"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such log; name the folder of a training run")
    points: dict[str, list[tuple[float, float]]] = {}
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    for number, line in enumerate((line for line in lines if line.endswith("\n")), start=1):
        try:
            row = json.loads(line)
            step = float(row.pop("step"))
        except (ValueError, KeyError, AttributeError, TypeError):
            raise ValueError(f"{path}: line {number} is not a JSON object with a step; the log is damaged") from None
        for key, value in row.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool) and key != RUNNING_BEST:
                points.setdefault(key, []).append((step, value))
    curves = {key: np.array(pairs, np.float64).T for key, pairs in points.items()}
    log = {key: (steps, values) for key, (steps, values) in curves.items() if np.isfinite(values).any()}
    if not log:
        raise ValueError(f"{path}: no numbers to draw; a run writes its first line after a few steps")
    return log


def _short_names(runs: Sequence[str | Path]) -> list[str]:
    """The folder names of runs, with as many parents as it takes to tell them apart."""
    if not runs:
        raise ValueError("training curves: no runs, expected one folder or more")
    paths = [Path(os.path.abspath(run)) for run in runs]
    if len(set(paths)) < len(paths):
        raise ValueError("training curves: a run is named twice; name each once")
    num_parts = 1
    while len(names := ["/".join(path.parts[-num_parts:]) for path in paths]) > len(set(names)):
        num_parts += 1
    return names
