"""ROC, CMC and the distribution of similarities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from voicestyle.metrics import roc_auc
from voicestyle.plots.figure import GRAY, colors, extent, legend_above, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NUM_BINS = 32
MAX_PAIRS = 4_000_000  # of voices and faces in one histogram: 32 MB of similarities

Array = NDArray[np.float64]


def roc_plot(curves: Mapping[str, tuple[ArrayLike, ArrayLike]], title: str = "Verification") -> Figure:
    """Receiver operating characteristics, each with its AUC and number of trials, and the line of chance.

    Args:
        curves: name -> (scores (T,), labels (T,)); labels are true where one person, as in `metrics.roc_auc`
        title: what was tested

    Raises:
        ValueError: no curves, scores that are not finite, or one kind of label only
    """
    from sklearn.metrics import roc_curve

    counts = [np.size(labels) for _, labels in curves.values()]
    figure, (axes,) = new_figure(f"{title}: ROC, n = {extent(counts)} trials", (5.6, 5.8 + 0.1 * len(curves)))
    entries = {"chance: AUC 0.500": axes.plot([0, 1], [0, 1], color=GRAY, linestyle="--", linewidth=1)[0]}
    for color, (name, (scores, labels)) in zip(colors(len(curves)), curves.items(), strict=True):
        auc = roc_auc(scores, labels)  # looks at the values as well
        alarms, hits, _ = roc_curve(np.asarray(labels).astype(bool), np.asarray(scores, np.float64))
        (line,) = axes.plot(alarms, hits, color=color, linewidth=1.8)
        entries[f"{name}: AUC {auc:.3f}, n = {np.size(labels):,}"] = line
    axes.set(xlabel="false alarms: share of other people accepted", ylabel="hits: share of the same person accepted")
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    legend_above(axes, entries)
    return figure


def cmc_plot(
    curves: Mapping[str, ArrayLike], num_candidates: int, num_relevant: ArrayLike = 1, title: str = "Retrieval"
) -> Figure:
    """Cumulative match characteristics: the share of probes whose own candidate is among the first k, and chance.

    Args:
        curves: name -> ranks (T,) of the best candidate of the right identity, 1 for the first; a rank between two
            places (ties) counts from the next place on
        num_candidates: gallery size of every curve
        num_relevant: candidates of the right identity, one number for all probes or one a probe. Chance is the mean
            over them of having one or more among k drawn candidates: k / num_candidates where there is one
        title: what was tested

    Raises:
        ValueError: no curves, or ranks outside of 1 .. num_candidates
    """
    counts = [np.size(ranks) for ranks in curves.values()]
    figure, (axes,) = new_figure(f"{title}: CMC, n = {extent(counts)} probes")
    places = np.arange(1, num_candidates + 1)
    chance = _chance_of_match(num_candidates, num_relevant)
    (line,) = axes.plot(places, chance, color=GRAY, linestyle="--", linewidth=1)
    entries = {f"chance: rank 1 {100 * chance[0]:.1f} %": line}
    for color, (name, given) in zip(colors(len(curves)), curves.items(), strict=True):
        ranks = _vector(given, name)
        if ranks.min() < 1 or ranks.max() > num_candidates:
            raise ValueError(f"{name}: ranks {ranks.min():g} to {ranks.max():g}, expected 1 to {num_candidates}")
        share = np.searchsorted(np.sort(ranks), places, side="right") / len(ranks)
        (line,) = axes.plot(places, share, color=color, linewidth=1.8, drawstyle="steps-post")
        entries[f"{name}: rank 1 {100 * share[0]:.1f} %, n = {len(ranks):,}"] = line
    axes.set(xlabel=f"k (of {num_candidates:,} candidates)", ylabel="share of probes with a match within the first k")
    axes.set(ylim=(-0.01, 1.01), xlim=(1, max(num_candidates, 2)))
    if num_candidates > 20:
        axes.set_xscale("log")
        axes.set_xticks([t for t in (1, 2, 5, 10, 20, 50, 100, 1000, 10_000, 100_000) if t <= num_candidates])
        axes.minorticks_off()
    axes.xaxis.set_major_formatter("{x:,.0f}")
    legend_above(axes, entries)
    return figure


def similarity_histogram(groups: Mapping[str, ArrayLike], title: str = "Similarity of voice and face") -> Figure:
    """The distribution of cosine similarities in each group of pairs, each as shares that add up to 100 %.

    Args:
        groups: name -> similarities (T,), e.g. {"same person": ..., "other people": ..., "other people, same
            gender": ...}. The first group is what the others are compared with: the legend says with which AUC it lies
            above each (chance 0.5)
        title: what was compared

    Raises:
        ValueError: no groups, an empty one, or values that are not finite
    """
    values = {name: _vector(scores, name) for name, scores in groups.items()}
    figure, (axes,) = new_figure(f"{title}, n = {extent([len(scores) for scores in values.values()])} pairs a group")
    first, *_ = values
    entries = {}
    edges = np.histogram_bin_edges(np.concatenate(list(values.values())), NUM_BINS)
    for color, (name, scores) in zip(colors(len(values)), values.items(), strict=True):
        shares = 100 * np.histogram(scores, edges)[0] / len(scores)
        outline = axes.stairs(shares, edges, color=color, linewidth=1.8)
        label = f"{name}, n = {len(scores):,}"
        if name == first:
            axes.stairs(shares, edges, color=color, alpha=0.15, fill=True)
        else:
            both = np.concatenate([values[first], scores])
            label += f"; AUC {roc_auc(both, np.arange(len(both)) < len(values[first])):.3f} (chance 0.5)"
        entries[label] = outline
    width = edges[1] - edges[0]
    axes.set(xlabel="cosine similarity of voice and face", ylabel=f"share of pairs (% per bin of {width:.2g})")
    axes.set_ylim(bottom=0)
    legend_above(axes, entries)
    return figure


def similarity_groups(
    voice_emb: ArrayLike, face_emb: ArrayLike, identities: Sequence[str], genders: Sequence[str], seed: int = 0
) -> dict[str, Array]:
    """Cosines of all voices with all faces, for `similarity_histogram`: same person, other people, same gender.

    Args:
        voice_emb: (N, D) unit norm
        face_emb: (N, D) unit norm, of the same items
        identities: (N,)
        genders: (N,) empty where not known; without any there is no third group
        seed: of the voices that are drawn where there are more than `MAX_PAIRS` pairs
    """
    voice_emb, face_emb = np.asarray(voice_emb, np.float64), np.asarray(face_emb, np.float64)
    people, gender = np.asarray(identities), np.asarray(genders)
    num_items = len(people)
    rows = np.arange(num_items)
    if num_items**2 > MAX_PAIRS:
        rows = np.sort(np.random.default_rng(seed).choice(num_items, max(1, MAX_PAIRS // num_items), replace=False))
    scores = voice_emb[rows] @ face_emb.T
    same = people[rows, None] == people
    same_gender = ~same & (gender[rows, None] == gender) & (gender != "")
    groups = {"same person": scores[same], "other people": scores[~same]}
    return {**groups, "other people, same gender": scores[same_gender]} if same_gender.any() else groups


def _vector(values: ArrayLike, name: str) -> Array:
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or not values.size or not np.isfinite(values).all():
        raise ValueError(f"{name}: got values of shape {values.shape}, expected a vector of finite ones, at least one")
    return values


def _chance_of_match(num_candidates: int, num_relevant: ArrayLike) -> Array:
    """(G,) the chance that one or more of the relevant candidates are among k = 1 .. G drawn without replacement."""
    relevant, counts = np.unique(np.ravel(num_relevant), return_counts=True)
    if not relevant.size or relevant.min() < 1 or relevant.max() > num_candidates:
        raise ValueError(f"relevant candidates: got {relevant}, expected 1 .. {num_candidates}")
    left = num_candidates - np.arange(num_candidates)[:, None]  # candidates before each draw
    missed = np.cumprod(np.maximum(left - relevant, 0) / left, axis=0)
    return (1 - missed) @ counts / counts.sum()
