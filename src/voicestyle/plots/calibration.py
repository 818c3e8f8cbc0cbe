"""Whether probabilities mean what they say, and what waiting for surer answers gains."""

from __future__ import annotations

from typing import TYPE_CHECKING

from numpy.typing import ArrayLike

from voicestyle.calibration import reliability, risk_coverage
from voicestyle.plots.figure import GRAY, colors, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def calibration_plot(p: ArrayLike, labels: ArrayLike, wrong: ArrayLike, weights: ArrayLike, title: str) -> Figure:
    """A reliability diagram, its dots as large as the people in them, over a risk-coverage curve.

    Args:
        p: (N,) probabilities
        labels: (N,) what was so
        wrong: (N,) whether the likelier answer was wrong
        weights: (N,) of each clip, such that a person counts once
        title: what was tested, and on how many people
    """
    import numpy as np

    figure, (above, below) = new_figure(title, (5.6, 8.2), num_panels=2)
    (color, other), p = colors(2), np.asarray(p)
    said, was, weight = reliability(p, labels, weights)
    above.plot([0, 1], [0, 1], color=GRAY, linestyle="--", linewidth=1)
    above.scatter(said, was, 12 + 400 * weight / weight.sum(), color=color, alpha=0.8, zorder=3)
    above.set(
        xlabel="probability that was given", ylabel="share for which it was so", xlim=(-0.03, 1.03), ylim=(-0.03, 1.03)
    )
    coverage, risk = risk_coverage(np.maximum(p, 1 - p), wrong, weights)
    below.plot(coverage, risk, color=other, linewidth=1.8)
    below.set(xlabel="share that is answered, surest first", ylabel="error among them", xlim=(0, 1.01))
    below.set_ylim(bottom=0)
    return figure
