"""Pictures of what was measured and learned; matplotlib and scikit-learn are the extra `plot`."""

from __future__ import annotations

from voicestyle.plots.association import cmc_plot, roc_plot, similarity_groups, similarity_histogram
from voicestyle.plots.figure import FORMATS, save_figure
from voicestyle.plots.space import COLORS, labels_of, space_map
from voicestyle.plots.training import training_curves

__all__ = [
    "COLORS",
    "FORMATS",
    "cmc_plot",
    "labels_of",
    "roc_plot",
    "save_figure",
    "similarity_groups",
    "similarity_histogram",
    "space_map",
    "training_curves",
]
