"""Scores of voice-face association. Ties count one half, NaN is an error, constant scores give the level of chance."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from voicestyle.seeds import mixed_seed

Array = NDArray[np.float64]
Interval = tuple[float, float]

NUM_RESAMPLES = 1000  # of a bootstrap
LEVEL = 0.95  # coverage of an interval
# of a cosine: embeddings come in float32, so what lies beyond is rounding, which would rank things that are alike
DECIMALS = 6


def settled(cosines: NDArray[np.floating]) -> NDArray[np.floating]:
    """Cosines without what rounding made of them: those of equal embeddings tie, whatever computed them."""
    return np.round(cosines, DECIMALS)


def _finite(values: ArrayLike, what: str, dtype: type | None = np.float64) -> Array:
    array = np.asarray(values, dtype=dtype)
    if not array.size or not np.isfinite(array).all():
        bad = int((~np.isfinite(array)).sum())
        raise ValueError(f"{what}: {bad} of {array.size} values are NaN or infinite, expected at least one, all finite")
    return array


# ------------------------------------------------------------------------------------------------------- verification


def _places(scores: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The place of each score among the distinct ones, ascending, and the labels, both checked."""
    scores = _finite(scores, "scores")
    labels = np.asarray(labels).astype(bool)
    if scores.ndim != 1 or scores.shape != labels.shape or labels.all() or not labels.any():
        raise ValueError(
            f"scores {scores.shape} and labels {labels.shape} with {int(labels.sum())} positives: "
            "expected two vectors of one length, with at least one positive and one negative"
        )
    return np.unique(scores, return_inverse=True)[1], labels


def _counts(
    place: NDArray[np.int64], labels: NDArray[np.bool_], weights: ArrayLike | None = None
) -> tuple[Array, Array]:
    """Numbers of positives and negatives at each distinct score, where a trial counts `weights` times."""
    counts = np.ones(len(place)) if weights is None else np.asarray(weights, np.float64)
    positives, negatives = np.bincount(place, labels * counts), np.bincount(place, ~labels * counts)
    return positives.astype(np.float64), negatives.astype(np.float64)


def _auc(positives: Array, negatives: Array) -> float:
    below = np.cumsum(negatives) - negatives / 2
    return float(positives @ below / (positives.sum() * negatives.sum()))


def _eer(positives: Array, negatives: Array) -> float:
    miss = np.concatenate([[0.0], np.cumsum(positives) / positives.sum()])  # threshold above the i lowest scores
    alarm = np.concatenate([[1.0], 1 - np.cumsum(negatives) / negatives.sum()])
    after = int(np.argmax(miss >= alarm))
    gap = alarm - miss
    part = gap[after - 1] / (gap[after - 1] - gap[after])
    return float(miss[after - 1] + part * (miss[after] - miss[after - 1]))


def roc_auc(scores: ArrayLike, labels: ArrayLike) -> float:
    """The chance in [0, 1] that a positive scores above a negative.

    Args:
        scores: (T,) higher means more alike
        labels: (T,) true or 1 for positives; at least one of each kind
    """
    return _auc(*_counts(*_places(scores, labels)))


def equal_error_rate(scores: ArrayLike, labels: ArrayLike) -> float:
    """The error in [0, 1] where misses are as frequent as false alarms, interpolated between thresholds."""
    return _eer(*_counts(*_places(scores, labels)))


def roc_intervals(scores: ArrayLike, labels: ArrayLike, groups: ArrayLike, seed: int) -> tuple[Interval, Interval]:
    """What `bootstrap_interval` gives for `roc_auc` and for `equal_error_rate`, without sorting each resample.

    Resamples that lack positives or negatives have neither score and are left out. `groups` are the owners of voice
    and face (T, 2): a face that scores high with everybody does so as an impostor too.
    """
    place, labels = _places(scores, labels)
    found = []
    for weights in bootstrap_weights(groups, seed):
        positives, negatives = _counts(place, labels, weights)
        if positives.sum() > 0 and negatives.sum() > 0:
            found.append(np.clip((_auc(positives, negatives), _eer(positives, negatives)), 0, 1))
    auc, eer = zip(*found, strict=True)
    return percentiles(auc), percentiles(eer)


# ----------------------------------------------------------------------------------------------------------- matching


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


# ---------------------------------------------------------------------------------------------------------- retrieval


@dataclass(frozen=True, eq=False)
class Ranking:
    """Where the relevant items of each of Q queries stand. Equal scores are in random order: values are means over it.

    The best relevant item shares its place with `tied - 1` others, `hits - 1` of which are relevant as well.
    """

    average_precision: Array  # (Q,)
    above: NDArray[np.int64]  # (Q,) items that score above the best relevant one
    tied: NDArray[np.int64]  # (Q,) items that score as it does, itself among them
    hits: NDArray[np.int64]  # (Q,) relevant ones among those

    @property
    def first_rank(self) -> Array:
        """(Q,) rank of the first relevant item, from 1."""
        return self.above + (self.tied + 1) / (self.hits + 1)

    def hit_at(self, k: int) -> Array:
        """(Q,) 1 where a relevant item is among the first k; with ties, its chance to be."""
        drawn = np.clip(k - self.above, 0, self.tied)  # of the tied ones, those within the first k
        miss = np.ones(len(self.above))
        for i in range(int(self.hits.max())):  # C(tied - hits, drawn) / C(tied, drawn)
            miss *= np.where(i < self.hits, np.clip(self.tied - drawn - i, 0, None) / np.maximum(self.tied - i, 1), 1)
        return 1 - miss


def median_ranks(ranking: Ranking, weights: Iterable[ArrayLike]) -> list[int]:
    """The median rank of the first relevant item, once for each weighting (Q,) of the queries.

    It is the least k for which half of the queries have a relevant item among the first k. (The median of mean ranks
    would be another number: random scores would beat constant ones.)
    """
    hit_at = cache(ranking.hit_at)
    last = int((ranking.above + ranking.tied).max())

    def median(weight: Array) -> int:
        half = weight.sum() / 2
        return 1 + bisect_left(range(1, last), True, key=lambda k: bool(weight @ hit_at(k) >= half - 1e-9))

    return [median(np.asarray(weight, np.float64)) for weight in weights]


def rank(scores: ArrayLike, relevant: Sequence[NDArray[np.int64]]) -> Ranking:
    """The ranking of G gallery items for each query.

    Args:
        scores: (Q, G) similarity of query and gallery item
        relevant: Q arrays with the columns of the relevant items, one or more each
    """
    scores = _finite(scores, "scores", None)
    if scores.ndim != 2 or len(scores) != len(relevant) or not all(map(len, relevant)):
        raise ValueError(
            f"scores {scores.shape} and the relevant items of {len(relevant)} queries: expected (Q, G) and Q, "
            "with at least one relevant item a query"
        )
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, scores.shape[1] + 1))])
    rows = [_rank(np.sort(row), row[columns], harmonic) for row, columns in zip(scores, relevant, strict=True)]
    precision, above, tied, hits = zip(*rows, strict=True)
    return Ranking(np.array(precision), np.array(above), np.array(tied), np.array(hits))


def _rank(ascending: Array, relevant: Array, harmonic: Array) -> tuple[float, int, int, int]:
    """The values of a `Ranking` for one query, from all its scores in order and those of its relevant items."""
    values, hits = np.unique(relevant, return_counts=True)
    end = np.searchsorted(ascending, values, side="right")
    tied = end - np.searchsorted(ascending, values, side="left")
    above = len(ascending) - end
    before = hits.sum() - np.cumsum(hits)  # relevant items that score above
    # Given a hit at place j of a group of equal scores, the group's other hits are spread evenly over its other places:
    # the precision there is (before + 1 + (j - 1) * slope) / (above + j), and its sum over j = 1 .. tied is
    slope = (hits - 1) / np.maximum(tied - 1, 1)
    total = (before + 1 - slope * (above + 1)) * (harmonic[above + tied] - harmonic[above]) + slope * tied
    return float((hits / tied) @ total / hits.sum()), int(above[-1]), int(tied[-1]), int(hits[-1])


# ---------------------------------------------------------------------------------------------------------- intervals


def _draws(groups: ArrayLike, seed: int, num_resamples: int | None) -> tuple[NDArray[np.int64], Iterator[NDArray]]:
    """The group of each trial, by number, in the shape of `groups`, and the groups of each resample."""
    groups = np.asarray(groups)
    place = np.unique(groups, return_inverse=True)[1].reshape(groups.shape)
    num_groups, rng = int(place.max()) + 1, np.random.default_rng(mixed_seed(seed, "bootstrap"))
    return place, (rng.integers(num_groups, size=num_groups) for _ in range(num_resamples or NUM_RESAMPLES))


def bootstrap_weights(groups: ArrayLike, seed: int, num_resamples: int | None = None) -> Iterator[NDArray[np.int64]]:
    """How much each trial (T,) counts, resample after resample, when whole groups (identities) are drawn anew.

    A trial of one person (T,) counts as often as the person is drawn. One of several (T, P) counts one and, for each of
    its different people, the number of draws less one: the product of their numbers to first order. The product itself
    counts variance twice, and in a matching of ten it is nearly always zero. Such weights can be negative.
    """
    place, draws = _draws(groups, seed, num_resamples)
    if place.ndim == 1:
        return (np.bincount(drawn, minlength=len(drawn))[place] for drawn in draws)
    place = np.sort(place, axis=1)
    is_new = np.diff(place, axis=1, prepend=-1) > 0
    return (1 + ((np.bincount(drawn, minlength=len(drawn))[place] - 1) * is_new).sum(1) for drawn in draws)


def bootstrap_interval(
    values: ArrayLike,
    groups: ArrayLike,
    seed: int,
    *,
    statistic: Callable[[Array], float] = np.mean,
    num_resamples: int | None = None,
    level: float = LEVEL,
) -> Interval:
    """The percentile interval of a statistic when whole groups (identities) are drawn anew.

    Args:
        values: (T, ...) one row a trial
        groups: (T,) whom the trial belongs to: trials of one identity are not independent. (T, P) all whom it is about,
            for the mean alone; see `bootstrap_weights`
        seed: of the resampling
        statistic: of the rows of a resample
        num_resamples: default: NUM_RESAMPLES
        level: coverage
    """
    values, groups = _finite(values, "values"), np.asarray(groups)
    if len(values) != len(groups):
        raise ValueError(f"bootstrap: got {len(values)} values and {len(groups)} groups, expected as many")
    if groups.ndim == 2:
        if statistic is not np.mean or values.ndim > 1:
            raise ValueError("bootstrap: trials of several people have intervals of their mean alone")
        weights = bootstrap_weights(groups, seed, num_resamples)
        return percentiles([weight @ values / weight.sum() for weight in weights if weight.sum() > 0], level)
    if statistic is np.mean and values.ndim == 1:
        place, draws = _draws(groups, seed, num_resamples)
        sums, sizes = np.bincount(place, values), np.bincount(place)
        return percentiles([sums[drawn].sum() / sizes[drawn].sum() for drawn in draws], level)
    weights = bootstrap_weights(groups, seed, num_resamples)
    return percentiles([float(statistic(np.repeat(values, weight, axis=0))) for weight in weights], level)


def percentiles(found: ArrayLike, level: float = LEVEL) -> Interval:
    """The middle part of what the resamples of a bootstrap gave."""
    low, high = np.quantile(np.asarray(found, np.float64), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
