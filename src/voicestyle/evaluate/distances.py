"""How far two sets of pictures are apart, given their features: Frechet, kernel distance, precision and recall."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from voicestyle.seeds import mixed_seed

Array = NDArray[np.float64]

NEIGHBORS = 3  # k of precision and recall (Kynkaanniemi et al., NeurIPS 2019, section 3)
SUBSET_SIZE, NUM_SUBSETS = 1000, 100  # of the kernel distance (KID: Binkowski et al., ICLR 2018)
NUM_DRAWS = 10  # of halves, for the spread and the floor
BLOCK = 2048  # rows of a table of distances that are held at a time
NAMES = ("Frechet distance", "kernel distance", "precision", "recall")


def frechet_distance(real: ArrayLike, generated: ArrayLike) -> float:
    """The squared Frechet distance of the normal distributions fitted to features (N,D) and (M,D); 0 for equal sets.

    The squared way between the means, and tr(A + B - 2 (A B)^(1/2)) of the covariances A and B (Heusel et al., NeurIPS
    2017). With few pictures it comes out too large, and with fewer than dimensions the covariances are singular:
    compare it only with values from as many pictures.
    """
    real, generated = _checked(real, generated, 2)
    # tr((A B)^(1/2)) is the sum of the singular values of A^(1/2) B^(1/2), where any square roots will do: those of a
    # QR decomposition keep the precision that eigenvalues near zero would lose
    roots = [np.linalg.qr(x - x.mean(0), mode="r") / np.sqrt(len(x) - 1) for x in (real, generated)]
    traces = sum(np.square(root).sum() for root in roots)
    overlap = np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum()
    return float(np.square(real.mean(0) - generated.mean(0)).sum() + max(0.0, traces - 2 * overlap))


def kernel_distance(
    real: ArrayLike,
    generated: ArrayLike,
    *,
    subset_size: int = SUBSET_SIZE,
    num_subsets: int = NUM_SUBSETS,
    seed: int = 0,
) -> tuple[float, float]:
    """Mean and deviation over subsets of the squared maximum mean discrepancy of features (N,D) and (M,D).

    Unbiased, so that it may be negative and does not depend on the number of pictures; the kernel is (x y / D + 1)^3
    (Binkowski et al., ICLR 2018). Subsets are drawn without replacement; sets that are no larger than one are used
    whole, once, without a deviation (0).
    """
    real, generated = _checked(real, generated, 2)
    size = min(subset_size, len(real), len(generated))
    if size < 2 or num_subsets < 1:
        raise ValueError(f"{num_subsets} subsets of {size}: expected 1 or more of 2 or more pictures")
    if size == len(real) == len(generated):
        return _squared_mmd(real, generated), 0.0
    rng = np.random.default_rng(mixed_seed(seed, "subsets"))
    found = [
        _squared_mmd(*(x[rng.choice(len(x), size, replace=False)] for x in (real, generated)))
        for _ in range(num_subsets)
    ]
    return float(np.mean(found)), float(np.std(found))


def precision_recall(real: ArrayLike, generated: ArrayLike, k: int = NEIGHBORS) -> tuple[float, float]:
    """The share of generated pictures among the real ones, and of real ones among the generated, both in [0,1].

    A picture is among others if it is no farther from one of them than that one's k-th nearest neighbor of its own kind
    (Kynkaanniemi et al., NeurIPS 2019). Precision says that pictures look real, recall that no kind is missing.
    """
    checked = _checked(real, generated, k + 1)
    center = np.concatenate(checked).mean(0)  # distances are differences of squares: keep those small
    x, y = (features - center for features in checked)
    slack = 1e-10 * max(np.square(x).sum(1).max(), np.square(y).sum(1).max())  # rounding: a copy is at distance 0
    reach_x, reach_y = _kth_distance(x, k) + slack, _kth_distance(y, k) + slack
    precision = [(block <= reach_x).any(1) for block in _squared_distances(y, x)]
    recall = [(block <= reach_y).any(1) for block in _squared_distances(x, y)]
    return float(np.concatenate(precision).mean()), float(np.concatenate(recall).mean())


@dataclass(frozen=True)
class Measure:
    """One distance, and what it would be for a generator that is as good as the real pictures."""

    name: str  # one of NAMES
    value: float  # of all pictures of both sides
    half: tuple[float, float]  # mean and deviation over draws of `Comparison.half_size` pictures of each side
    floor: tuple[float, float]  # the same between two halves of the real pictures


@dataclass(frozen=True)
class Comparison:
    """All distances of two sets. `value` depends on the numbers of pictures; `half` and `floor` have the same ones."""

    measures: tuple[Measure, ...]
    num_real: int
    num_generated: int
    num_features: int
    half_size: int
    num_draws: int
    seed: int
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready values."""
        return dataclasses.asdict(self)


def compare(real: ArrayLike, generated: ArrayLike, *, seed: int = 0, num_draws: int = NUM_DRAWS) -> Comparison:
    """All distances of features (N,D) and (M,D), their spread over random halves, and their floor.

    The floor compares the real pictures with themselves, half with half; it is too low where both halves show the same
    people.
    """
    real, generated = _checked(real, generated, 2 * (NEIGHBORS + 1))
    half = min(len(real), len(generated)) // 2
    rng = np.random.default_rng(mixed_seed(seed, "halves"))
    halves, floors = [], []
    for draw in range(num_draws):
        mine, others = np.split(rng.permutation(len(real))[: 2 * half], 2)
        some = rng.choice(len(generated), half, replace=False)
        halves.append(_all_distances(real[mine], generated[some], draw))
        floors.append(_all_distances(real[mine], real[others], draw))
    values = _all_distances(real, generated, seed)
    measures = tuple(
        Measure(name, value, _mean_and_deviation(at_half), _mean_and_deviation(floor))
        for name, value, at_half, floor in zip(NAMES, values, np.transpose(halves), np.transpose(floors), strict=True)
    )
    num_features = real.shape[1]
    return Comparison(
        measures,
        len(real),
        len(generated),
        num_features,
        half,
        num_draws,
        seed,
        tuple(_warnings(len(real), len(generated), half, num_features)),
    )


def _all_distances(real: Array, generated: Array, seed: int) -> tuple[float, ...]:
    """The values of NAMES."""
    kernel, _ = kernel_distance(real, generated, seed=seed)
    return frechet_distance(real, generated), kernel, *precision_recall(real, generated)


def _warnings(num_real: int, num_generated: int, half: int, num_features: int) -> Iterator[str]:
    for num, what in ((num_real, "real pictures"), (num_generated, "generated pictures"), (half, "pictures in a half")):
        if num <= num_features:
            yield (
                f"{num} {what} for {num_features} features: the covariance is singular, and the Frechet distance too "
                "large; compare it only with values from as many pictures"
            )


def _mean_and_deviation(values: Array) -> tuple[float, float]:
    return float(np.mean(values)), float(np.std(values))


def _squared_mmd(x: Array, y: Array) -> float:
    """The unbiased estimate from all pairs."""

    def kernel(a: Array, b: Array) -> Array:
        return (a @ b.T / a.shape[1] + 1) ** 3

    own = 0.0
    for a in (x, y):
        table = kernel(a, a)
        own += (table.sum() - table.trace()) / (len(a) * (len(a) - 1))
    return float(own - 2 * kernel(x, y).mean())


def _squared_distances(a: Array, b: Array) -> Iterator[Array]:
    """The squared distances (rows,M) of the rows of a, some at a time, to all M rows of b."""
    norms = np.square(b).sum(1)
    for start in range(0, len(a), BLOCK):
        block = a[start : start + BLOCK]
        yield np.square(block).sum(1)[:, None] + norms - 2 * block @ b.T


def _kth_distance(x: Array, k: int) -> Array:
    """(N,) the squared distance of each row to its k-th nearest other row."""
    # a row is its own nearest, so the k-th other one stands at place k
    return np.concatenate([np.partition(block, k, axis=1)[:, k] for block in _squared_distances(x, x)])


def _checked(real: ArrayLike, generated: ArrayLike, least: int) -> tuple[Array, Array]:
    """Both sets as float64.

    Raises:
        ValueError: not two tables of one width, too few rows, or values that are not finite
    """
    real, generated = np.asarray(real, np.float64), np.asarray(generated, np.float64)
    if real.ndim != 2 or generated.ndim != 2 or real.shape[1:] != generated.shape[1:] or not real.shape[1]:
        raise ValueError(f"features: got shapes {real.shape} and {generated.shape}, expected (N, D) and (M, D)")
    for name, x in (("real", real), ("generated", generated)):
        if len(x) < least:
            raise ValueError(f"features of {len(x)} {name} pictures: expected {least} or more")
        if not np.isfinite(x).all():
            rows = (~np.isfinite(x)).any(1).sum()
            raise ValueError(f"features of {rows} of {len(x)} {name} pictures are NaN or infinite, expected numbers")
    return real, generated
