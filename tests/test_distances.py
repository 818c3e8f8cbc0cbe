"""Distances of sets of features: against naive formulas, and what must hold of any distance."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from voicestyle.evaluate.distances import compare, frechet_distance, kernel_distance, precision_recall

SEEDS = st.integers(0, 2**32 - 1)


def features(seed: int, num: int, dim: int, mean: float = 0.0, scale: float = 1.0) -> NDArray[np.float64]:
    """Correlated features around a mean."""
    rng = np.random.default_rng(seed)
    return mean + scale * rng.normal(size=(num, dim)) @ rng.normal(size=(dim, dim))


# -------------------------------------------------------------------------------------------------------------- Frechet


def test_frechet_equals_the_formula() -> None:
    sqrtm = pytest.importorskip("scipy.linalg").sqrtm
    a, b = features(0, 50, 6), features(1, 40, 6, mean=0.5, scale=2.0)
    cov = [np.cov(x, rowvar=False) for x in (a, b)]
    expected = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(cov[0] + cov[1] - 2 * sqrtm(cov[0] @ cov[1]).real)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(2, 30), st.integers(2, 30), st.integers(1, 12))
def test_frechet_is_symmetric_and_zero_for_equal_sets(seed: int, num: int, other: int, dim: int) -> None:
    a, b = features(seed, num, dim), features(seed + 1, other, dim, mean=1.0)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-9, abs=1e-9)
    assert frechet_distance(a, b) > 0
    scale = np.square(a).sum()
    assert frechet_distance(a, a) <= 1e-12 * scale  # with fewer pictures than dimensions, too
    assert frechet_distance(a, a[::-1]) <= 1e-12 * scale


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.floats(-5, 5))
def test_a_shift_of_the_mean_is_its_squared_length(seed: int, shift: float) -> None:
    a = features(seed, 20, 4)
    assert frechet_distance(a, a + shift) == pytest.approx(4 * shift**2, rel=1e-8, abs=1e-8)


def test_frechet_of_one_dimension() -> None:
    a, b = np.array([[0.0], [2.0]]), np.array([[0.0], [4.0]])  # deviations sqrt 2 and sqrt 8, means 1 and 2
    assert frechet_distance(a, b) == pytest.approx(1 + (8**0.5 - 2**0.5) ** 2)


# --------------------------------------------------------------------------------------------------------------- kernel


def test_kernel_distance_equals_a_loop_over_pairs() -> None:
    a, b = features(0, 7, 3), features(1, 7, 3, mean=0.3)

    def kernel(x: NDArray, y: NDArray) -> float:
        return (x @ y / 3 + 1) ** 3

    own = [np.mean([kernel(x, y) for x, y in itertools.permutations(s, 2)]) for s in (a, b)]
    expected = sum(own) - 2 * np.mean([kernel(x, y) for x in a for y in b])
    assert kernel_distance(a, b) == (pytest.approx(expected), 0.0)
    assert kernel_distance(b, a)[0] == pytest.approx(expected)


def test_kernel_distance_is_unbiased() -> None:
    """Over many pairs of sets of one distribution its mean is zero, however small they are."""
    found = [
        kernel_distance(rng.normal(size=(6, 4)), rng.normal(size=(6, 4)))[0]
        for rng in map(np.random.default_rng, range(600))
    ]
    assert abs(np.mean(found)) < 3 * np.std(found) / 600**0.5
    assert min(found) < 0 < max(found)


def test_kernel_distance_of_equal_sets_is_about_zero_and_grows_with_a_shift() -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 300, 8))
    same = abs(kernel_distance(a, b)[0])
    assert same < 0.1 * kernel_distance(a, b + 1)[0] < 0.1 * kernel_distance(a, b + 2)[0]


def test_subsets_are_drawn_with_the_seed() -> None:
    a, b = features(0, 60, 4), features(1, 50, 4, mean=0.5)
    drawn = {"subset_size": 20, "num_subsets": 30}
    assert kernel_distance(a, b, seed=1, **drawn) == kernel_distance(a, b, seed=1, **drawn)
    assert kernel_distance(a, b, seed=1, **drawn) != kernel_distance(a, b, seed=2, **drawn)
    mean, deviation = kernel_distance(a, b, seed=1, **drawn)
    whole, _ = kernel_distance(a[:50], b)
    assert deviation > 0 and abs(mean - whole) < 2 * deviation


# ------------------------------------------------------------------------------------------------- precision and recall


def naive_precision(real: NDArray, generated: NDArray, k: int) -> float:
    """A loop over all pairs."""
    hits = 0
    for x in generated:
        for i, center in enumerate(real):
            others = np.sort([np.linalg.norm(center - y) for j, y in enumerate(real) if j != i])
            if np.linalg.norm(center - x) <= others[k - 1]:
                hits += 1
                break
    return hits / len(generated)


@settings(max_examples=15, deadline=None)
@given(SEEDS, st.integers(1, 4))
def test_precision_and_recall_equal_a_loop(seed: int, k: int) -> None:
    a, b = features(seed, 15, 2), features(seed + 1, 12, 2, mean=1.0)
    assert precision_recall(a, b, k) == (naive_precision(a, b, k), naive_precision(b, a, k))
    assert precision_recall(b, a, k) == precision_recall(a, b, k)[::-1]


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.integers(5, 40), st.integers(1, 64))
def test_equal_sets_have_precision_and_recall_one(seed: int, num: int, dim: int) -> None:
    a = features(seed, num, dim, mean=100.0)
    assert precision_recall(a, a) == (1.0, 1.0)
    assert precision_recall(a, a[::-1]) == (1.0, 1.0)


def test_collapse_costs_recall_and_noise_costs_precision() -> None:
    rng = np.random.default_rng(0)
    real = rng.normal(size=(200, 4))
    collapsed = np.repeat(real[:1], 200, axis=0)
    assert precision_recall(real, collapsed) == (1.0, 1 / 200)  # the one that it shows
    precision, recall = precision_recall(real, rng.normal(size=(200, 4)) * 10)
    assert precision < 0.1
    assert precision_recall(real, real + 1000) == (0.0, 0.0)


# ----------------------------------------------------------------------------------------------------------- comparison


def test_a_perfect_generator_is_at_the_floor_and_a_shifted_one_above() -> None:
    rng = np.random.default_rng(0)
    real, same, other = rng.normal(size=(200, 5)), rng.normal(size=(160, 5)), rng.normal(size=(160, 5)) + 2
    good, bad = compare(real, same), compare(real, other)
    assert [m.name for m in good.measures] == ["Frechet distance", "kernel distance", "precision", "recall"]
    for mine, worse in zip(good.measures, bad.measures, strict=True):
        near, far = (abs(m.half[0] - m.floor[0]) / (m.half[1] + m.floor[1]) for m in (mine, worse))
        assert near < 2 < 3 < far
    assert (good.num_real, good.num_generated, good.num_features, good.half_size) == (200, 160, 5, 80)
    assert good.warnings == ()
    assert good.measures[0].value == frechet_distance(real, same)


def test_a_comparison_repeats_and_says_where_samples_are_too_few() -> None:
    a, b = features(0, 30, 20), features(1, 24, 20)
    assert compare(a, b, seed=3) == compare(a, b, seed=3) != compare(a, b, seed=4)
    (warning,) = compare(a, b).warnings
    assert "12 pictures in a half for 20 features" in warning
    assert len(compare(a[:20], b[:20]).warnings) == 3


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance, precision_recall, compare])
def test_what_is_no_set_of_features_is_refused(distance) -> None:
    a = features(0, 10, 3)
    broken = a.copy()
    broken[4, 1] = np.nan
    for bad, message in (
        (broken, "1 of 10 generated pictures are NaN"), (a[:, :2], "expected"), (a[:1], "expected"), (a[0], "expected"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            distance(a, bad)
    with pytest.raises(ValueError, match="real pictures are NaN"):
        distance(broken, a)
