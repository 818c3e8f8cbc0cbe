"""The joint space of voices and faces in two dimensions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from voicestyle.plots.figure import GRAY, PALETTE, legend_above, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from voicestyle.data.manifest import Item

MARKERS = {"voice": "o", "face": "^"}
Method = Literal["tsne", "pca"]  # how the dimensions are reduced
COLORS = ("gender", "split", "identity")  # the labels of an item that a map may show

Array = NDArray[np.float64]


def labels_of(items: Sequence[Item], color: str) -> list[str]:
    """The known labels of items by which a map is colored, empty where not known.

    Raises:
        ValueError: a label that is none of `COLORS`
    """
    if color not in COLORS:
        raise ValueError(f"color {color!r}: a map is colored by one of {', '.join(COLORS)}")
    return [getattr(item, color) for item in items]


def space_map(
    embeddings: ArrayLike,
    kinds: Sequence[str],
    labels: Sequence[str],
    *,
    color: str = "label",
    method: Method = "tsne",
    seed: int = 0,
) -> Figure:
    """The joint space in two dimensions: voices as circles, faces as triangles, in the colors of their labels.

    Beyond the most frequent labels the others share a gray; so do items whose label is empty.

    Args:
        embeddings: (N, D) unit norm, voices and faces together
        kinds: (N,) "voice" or "face"
        labels: (N,) empty where not known
        color: the name of the label
        method: t-SNE of the cosine distances (van der Maaten and Hinton 2008), or principal components
        seed: of t-SNE

    Raises:
        ValueError: fewer than 4 embeddings, other kinds, or another number of kinds or labels
    """
    embeddings = np.asarray(embeddings, np.float64)
    if embeddings.ndim != 2 or len(embeddings) < 4 or not len(embeddings) == len(kinds) == len(labels):
        raise ValueError(
            f"map: got embeddings {embeddings.shape}, {len(kinds)} kinds and {len(labels)} labels; expected (N, D) of "
            "4 or more, and N of each"
        )
    if not np.isfinite(embeddings).all() or not np.ptp(embeddings, axis=0).any():
        raise ValueError("map: the embeddings are all equal or not finite, expected unit vectors that differ")
    if unknown := set(kinds) - set(MARKERS):
        raise ValueError(f"map: kinds {sorted(unknown)}, expected 'voice' and 'face'")
    points, xlabel, ylabel = _project(embeddings, method, seed)
    counts = Counter(kinds)
    title = f"Joint space by {color}, n = {counts['voice']:,} voices and {counts['face']:,} faces"
    width, height = np.ptp(points, axis=0)
    figure, (axes,) = new_figure(title, (6.8, 1.2 + 6.4 * np.clip(height / width, 0.5, 1)))
    shown, area = _frequent(labels), np.clip(30_000 / len(points), 6, 26)  # square points: less where there are many
    for tint, members in reversed(shown.values()):  # gray below
        for kind, marker in MARKERS.items():
            x, y = points[members & (np.asarray(kinds) == kind)].T
            axes.scatter(x, y, s=area, marker=marker, color=tint, alpha=0.75, linewidths=0.4, edgecolors="white")
    axes.set(xlabel=xlabel, ylabel=ylabel, xticks=[], yticks=[])
    axes.set_aspect("equal", adjustable="datalim")
    axes.spines[:].set_visible(False)
    entries = {kind: axes.scatter([], [], s=40, marker=marker, color=GRAY) for kind, marker in MARKERS.items()}
    for name, (tint, members) in shown.items():
        entries[f"{name}, n = {members.sum():,}"] = axes.scatter([], [], s=40, marker="s", color=tint)
    legend_above(axes, entries)
    return figure


def _project(embeddings: Array, method: str, seed: int) -> tuple[Array, str, str]:
    """(N, 2) and what the axes are."""
    if method == "pca":
        from sklearn.decomposition import PCA

        pca = PCA(2, svd_solver="full")
        points = pca.fit_transform(embeddings)
        first, second = 100 * pca.explained_variance_ratio_
        return points, f"first component ({first:.0f} % of the variance)", f"second component ({second:.0f} %)"
    if method != "tsne":
        raise ValueError(f"method {method!r}: expected 'tsne' or 'pca'")
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(embeddings) - 1) / 3)
    tsne = TSNE(2, perplexity=perplexity, metric="cosine", init="pca", random_state=seed)
    what = f"t-SNE of cosine distances, perplexity {perplexity:.0f}"
    points = tsne.fit_transform(embeddings).astype(np.float64)
    wider_first = np.argsort(-np.ptp(points, axis=0), kind="stable")  # its axes mean nothing: lay the map down
    return points[:, wider_first], f"{what}; the axes have no unit", ""


def _frequent(labels: Sequence[str]) -> dict[str, tuple[str, NDArray[np.bool_]]]:
    """Label -> color and members: the most frequent labels, then the others and the unknown ones in gray."""
    given = np.asarray(labels, dtype=object)
    ranked = sorted(Counter(label for label in labels if label).items(), key=lambda pair: (-pair[1], pair[0]))
    most = len(PALETTE) if len(ranked) <= len(PALETTE) else len(PALETTE) - 1
    shown = {label: (PALETTE[i], given == label) for i, (label, _) in enumerate(ranked[:most])}
    others = [label for label, _ in ranked[most:]]
    if others:
        shown[f"{len(others)} others"] = ("#b0b0b5", np.isin(given, others))
    if (given == "").any():
        shown["not known"] = ("#d8d8dc", given == "")
    return shown
