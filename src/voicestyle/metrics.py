"""Scores of voice-face association. Ties count one half, NaN is an error, constant scores give the level of chance."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def _finite(values: ArrayLike, what: str) -> Array:
    array = np.asarray(values, dtype=np.float64)
    if not array.size or not np.isfinite(array).all():
        bad = int((~np.isfinite(array)).sum())
        raise ValueError(f"{what}: {bad} of {array.size} values are NaN or infinite, expected at least one, all finite")
    return array


def _counts(scores: ArrayLike, labels: ArrayLike) -> tuple[Array, Array]:
    """Numbers of positives and negatives at each distinct score, ascending."""
    scores = _finite(scores, "scores")
    labels = np.asarray(labels).astype(bool)
    if scores.ndim != 1 or scores.shape != labels.shape or labels.all() or not labels.any():
        raise ValueError(
            f"scores {scores.shape} and labels {labels.shape} with {int(labels.sum())} positives: "
            "expected two vectors of one length, with at least one positive and one negative"
        )
    _, place = np.unique(scores, return_inverse=True)
    return np.bincount(place, labels), np.bincount(place, ~labels)


def roc_auc(scores: ArrayLike, labels: ArrayLike) -> float:
    """The chance in [0, 1] that a positive scores above a negative.

    Args:
        scores: (T,) higher means more alike
        labels: (T,) true or 1 for positives; at least one of each kind
    """
    positives, negatives = _counts(scores, labels)
    below = np.cumsum(negatives) - negatives / 2
    return float(positives @ below / (positives.sum() * negatives.sum()))


def equal_error_rate(scores: ArrayLike, labels: ArrayLike) -> float:
    """The error in [0, 1] where misses are as frequent as false alarms, interpolated between thresholds."""
    positives, negatives = _counts(scores, labels)
    miss = np.concatenate([[0.0], np.cumsum(positives) / positives.sum()])  # threshold above the i lowest scores
    alarm = np.concatenate([[1.0], 1 - np.cumsum(negatives) / negatives.sum()])
    after = int(np.argmax(miss >= alarm))
    gap = alarm - miss
    part = gap[after - 1] / (gap[after - 1] - gap[after])
    return float(miss[after - 1] + part * (miss[after] - miss[after - 1]))


def matching_correct(positive: ArrayLike, negatives: ArrayLike) -> Array:
    """(T,) 1 where the positive beats every negative, 1/n where it shares the first place with n - 1, else 0.

    Args:
        positive: (T,) similarity of the probe to its own candidate
        negatives: (T,) or (T, N - 1) similarity to the impostors
    """
    positive = _finite(positive, "similarity to the positive")
    negatives = _finite(negatives, "similarity to the negatives").reshape(len(positive), -1)
    ties = (negatives == positive[:, None]).sum(1)
    return np.where((negatives > positive[:, None]).any(1), 0.0, 1.0 / (1 + ties))


def matching_accuracy(positive: ArrayLike, negatives: ArrayLike) -> float:
    """The mean of `matching_correct`; chance is 1 / N."""
    return float(matching_correct(positive, negatives).mean())


def average_precision(scores: ArrayLike, relevant: ArrayLike) -> Array:
    """(Q,) average precision of each query; among equal scores, its mean over all their orders.

    Args:
        scores: (Q, G) similarity of query and gallery item
        relevant: (Q, G) bool; a query without a relevant item is an error
    """
    scores, relevant = _finite(scores, "scores"), np.asarray(relevant, dtype=bool)
    if scores.ndim != 2 or scores.shape != relevant.shape or not relevant.any(1).all():
        raise ValueError(
            f"scores {scores.shape} and relevance {relevant.shape}: expected two (Q, G) arrays, "
            "with at least one relevant item a query"
        )
    return np.array([_average_precision(s, r) for s, r in zip(scores, relevant, strict=True)])


def _average_precision(scores: Array, relevant: NDArray[np.bool_]) -> float:
    _, place, sizes = np.unique(-scores, return_inverse=True, return_counts=True)
    hits = np.bincount(place, relevant)
    group = np.repeat(np.arange(len(sizes)), sizes)  # the group of equal scores at each rank
    rank = np.arange(1, len(scores) + 1)
    within = rank - (np.cumsum(sizes) - sizes)[group]  # 1 .. size
    before = (np.cumsum(hits) - hits)[group]
    # given a hit at this rank, the other hits of its group are spread evenly over the group's other ranks
    expected = before + 1 + (within - 1) * (hits[group] - 1) / np.maximum(sizes[group] - 1, 1)
    return float((hits / sizes)[group] @ (expected / rank) / hits.sum())


def mean_average_precision(scores: ArrayLike, relevant: ArrayLike) -> float:
    """The mean of `average_precision`; constant scores give what random ones give on average."""
    return float(average_precision(scores, relevant).mean())


def bootstrap_interval(
    values: ArrayLike,
    groups: ArrayLike,
    seed: int,
    *,
    statistic: Callable[[Array], float] = np.mean,
    num_resamples: int = 1000,
    level: float = 0.95,
) -> tuple[float, float]:
    """The percentile interval of a statistic when whole groups (identities) are drawn anew.

    Args:
        values: (T, ...) one row a trial
        groups: (T,) whom the trial belongs to: trials of one identity are not independent
        seed: of the resampling
        statistic: of the rows of a resample
        num_resamples: how many resamples
        level: coverage
    """
    values, groups = _finite(values, "values"), np.asarray(groups)
    if len(values) != len(groups):
        raise ValueError(f"bootstrap: got {len(values)} values and {len(groups)} groups, expected as many")
    _, place = np.unique(groups, return_inverse=True)
    members = np.split(np.argsort(place, kind="stable"), np.cumsum(np.bincount(place))[:-1])
    rng = np.random.default_rng(seed)
    found = [_resample(values, members, rng, statistic) for _ in range(num_resamples)]
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _resample(values: Array, members: list[NDArray], rng: np.random.Generator, statistic: Callable) -> float:
    drawn = rng.integers(len(members), size=len(members))
    return float(statistic(values[np.concatenate([members[i] for i in drawn])]))
