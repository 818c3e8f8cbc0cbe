"""Probabilities and intervals that mean what they say: fitting them on people kept apart, and scoring them.

All in float64 on plain arrays; weights let each person count once, however many clips there are of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

EPSILON = 1e-6  # a probability is kept so far from 0 and 1 before its logarithm is taken
NUM_BINS = 10  # of a reliability diagram


def sigmoid(z: ArrayLike) -> Array:
    """Probabilities of log odds."""
    return 1 / (1 + np.exp(-np.clip(np.asarray(z, np.float64), -700, 700)))


def person_weights(people: ArrayLike) -> Array:
    """Weights (N,) of clips under which each person counts once; their sum is the number of people."""
    _, place, sizes = np.unique(np.asarray(people), return_inverse=True, return_counts=True)
    return 1 / sizes[place]


def balanced_weights(weights: ArrayLike, labels: ArrayLike) -> Array:
    """Weights under which both labels count as much: for a world with as many of one as of the other."""
    weights, labels = np.array(weights, np.float64), np.asarray(labels, bool)
    half = weights.sum() / 2
    for label in (False, True):
        weights[labels == label] *= half / weights[labels == label].sum()
    return weights


def fit_logistic(x: ArrayLike, labels: ArrayLike, weights: ArrayLike, ridge: float = 0.0) -> tuple[Array, float]:
    """Coefficients (F,) and bias of the logistic regression of labels (N,) on x (N,F), by Newton's method.

    `ridge` times the halved squared norm of the coefficients (not of the bias) is added to the weighted log loss. With
    one column and no ridge this is Platt's calibration (1999).

    Raises:
        ValueError: one label only
    """
    x, y, weights = (np.asarray(v, np.float64) for v in (x, labels, weights))
    if y.min() == y.max():
        raise ValueError("logistic regression: expected examples of both labels, got one alone")
    design = np.column_stack([x, np.ones(len(x))])
    penalty = np.full(design.shape[1], float(ridge))
    penalty[-1] = 0
    beta = np.zeros(design.shape[1])

    def loss(beta: Array) -> float:
        z = design @ beta
        return float(weights @ (np.logaddexp(0, z) - y * z) + penalty @ beta**2 / 2)

    for _ in range(100):
        p = sigmoid(design @ beta)
        gradient = design.T @ (weights * (p - y)) + penalty * beta
        hessian = (design.T * (weights * p * (1 - p))) @ design + np.diag(penalty + 1e-9)
        step, now = np.linalg.solve(hessian, gradient), loss(beta)
        rate = 1.0
        while loss(beta - rate * step) > now and rate > 1e-6:  # Newton overshoots where labels are separated
            rate /= 2
        beta = beta - rate * step
        if np.abs(rate * step).max() < 1e-9:
            break
    return beta[:-1], float(beta[-1])


def fit_ridge(x: ArrayLike, y: ArrayLike, weights: ArrayLike, ridge: float) -> tuple[Array, float]:
    """Coefficients (F,) and bias of the weighted linear regression of y (N,) on x (N,F); `ridge` as above."""
    x, y, weights = (np.asarray(v, np.float64) for v in (x, y, weights))
    total = weights.sum()
    x_mean, y_mean = weights @ x / total, weights @ y / total
    centered = x - x_mean
    gram = (centered.T * weights) @ centered + ridge * np.eye(x.shape[1])
    coefficients = np.linalg.solve(gram, centered.T @ (weights * (y - y_mean)))
    return coefficients, float(y_mean - x_mean @ coefficients)


def folds_of(people: ArrayLike, num_folds: int, seed: int) -> NDArray[np.int64]:
    """The fold (N,) of each clip; all clips of a person are in one."""
    names, place = np.unique(np.asarray(people), return_inverse=True)
    return (np.random.default_rng(seed).permutation(len(names)) % num_folds)[place]


def conformal_margin(residuals: ArrayLike, coverage: float) -> float:
    """How far from an estimate the truth lies in at least this share of cases, by residuals of people kept apart.

    Split conformal prediction (Vovk et al., 2005): the ceil((n + 1) coverage)-th smallest absolute residual; infinite
    where there are too few to say.
    """
    found = np.sort(np.abs(np.asarray(residuals, np.float64)))
    place = math.ceil((len(found) + 1) * coverage)
    return float(found[place - 1]) if place <= len(found) else math.inf


@dataclass(frozen=True, eq=False)
class Familiarity:
    """What the embeddings were like that something was fitted on: directions of most spread, and what is left."""

    mean: Array  # (F,)
    directions: Array  # (K,F) orthonormal
    scales: Array  # (K,) root mean square along each
    rest: float  # root mean square of what lies outside of them

    @classmethod
    def fit(cls, x: ArrayLike, num_directions: int) -> Familiarity:
        """Of embeddings (N,F): their principal components."""
        x = np.asarray(x, np.float64)
        mean = x.mean(0)
        _, values, rows = np.linalg.svd(x - mean, full_matrices=False)
        num = min(num_directions, len(values) - 1)
        scales = values[:num] / math.sqrt(len(x))
        rest = math.sqrt(max((values[num:] ** 2).sum() / len(x), 1e-18))
        return cls(mean, rows[:num], scales, rest)

    def distance(self, x: ArrayLike) -> Array:
        """How unlike them each of embeddings (N,F) is: 1 on average, root mean square over directions and the rest."""
        centered = np.asarray(x, np.float64) - self.mean
        along = centered @ self.directions.T
        left = (centered**2).sum(1) - (along**2).sum(1)
        squares = np.column_stack([(along / self.scales) ** 2, np.maximum(left, 0) / self.rest**2])
        return np.sqrt(squares.mean(1))


# ------------------------------------------------------------------------------------------------------------- scores


def brier_score(p: ArrayLike, labels: ArrayLike, weights: ArrayLike) -> float:
    """Mean squared distance of probabilities and labels: 0 is best, 0.25 what a constant 0.5 gets."""
    error = np.asarray(p) - np.asarray(labels, np.float64)
    return float(np.average(error**2, weights=np.asarray(weights)))


def log_loss(p: ArrayLike, labels: ArrayLike, weights: ArrayLike) -> float:
    """Mean negative log likelihood in nats: 0 is best, 0.693 what a constant 0.5 gets."""
    p, y = np.clip(np.asarray(p, np.float64), EPSILON, 1 - EPSILON), np.asarray(labels, bool)
    return float(np.average(-np.log(np.where(y, p, 1 - p)), weights=np.asarray(weights)))


def reliability(
    p: ArrayLike, labels: ArrayLike, weights: ArrayLike, num_bins: int = NUM_BINS
) -> tuple[Array, Array, Array]:
    """Mean probability, share of true labels and weight of each bin of equal width that holds anything."""
    said, true, counts = (np.asarray(v, np.float64) for v in (p, labels, weights))
    place = np.minimum((said * num_bins).astype(int), num_bins - 1)
    total = np.bincount(place, counts, num_bins).astype(np.float64)
    held = total > 0
    mean, share = (np.bincount(place, counts * v, num_bins)[held] / total[held] for v in (said, true))
    return mean, share, total[held]


def expected_calibration_error(p: ArrayLike, labels: ArrayLike, weights: ArrayLike) -> float:
    """Mean distance of what was said and what was so over the bins of `reliability` (Naeini et al., AAAI 2015).

    It is above 0 by chance alone, the more so the fewer people there are.
    """
    said, was, weight = reliability(p, labels, weights)
    return float(np.average(np.abs(said - was), weights=weight))


def risk_coverage(confidence: ArrayLike, wrong: ArrayLike, weights: ArrayLike) -> tuple[Array, Array]:
    """Shares answered, rising to 1, and the error among them, where the most confident are answered first."""
    confidence, wrong, weights = (np.asarray(v, np.float64) for v in (confidence, wrong, weights))
    order = np.argsort(-confidence, kind="stable")
    answered = np.cumsum(weights[order])
    return answered / answered[-1], np.cumsum((wrong * weights)[order]) / answered


def threshold_for_risk(confidence: ArrayLike, wrong: ArrayLike, weights: ArrayLike, max_risk: float) -> float:
    """The least confidence that is answered so that the error among the answered is at most `max_risk`; most coverage.

    Infinite where no threshold reaches it.
    """
    confidence = np.asarray(confidence, np.float64)
    _, risk = risk_coverage(confidence, wrong, weights)
    ordered = np.sort(confidence)[::-1]
    ends = np.append(ordered[1:] != ordered[:-1], True)  # the same confidence is answered as a whole
    good = np.flatnonzero((risk <= max_risk) & ends)
    return float(ordered[good[-1]]) if len(good) else math.inf
