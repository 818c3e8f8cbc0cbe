"""Scores against counting by hand; constants score chance; NaN is refused."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voicestyle.metrics import (
    average_precision,
    bootstrap_interval,
    equal_error_rate,
    matching_accuracy,
    matching_correct,
    mean_average_precision,
    roc_auc,
)

scored = st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=30).filter(
    lambda rows: len({label for _, label in rows}) == 2
)


def split(rows):
    return np.array([float(s) for s, _ in rows]), np.array([label for _, label in rows])


@settings(deadline=None, max_examples=40)
@given(scored)
def test_auc_counts_pairs_and_halves_ties(rows):
    scores, labels = split(rows)
    pairs = list(itertools.product(scores[labels], scores[~labels]))
    assert roc_auc(scores, labels) == pytest.approx(sum((p > n) + 0.5 * (p == n) for p, n in pairs) / len(pairs))
    assert roc_auc(-scores, labels) == pytest.approx(1 - roc_auc(scores, labels))


@settings(deadline=None, max_examples=40)
@given(scored)
def test_equal_error_rate_lies_between_the_errors_of_neighboring_thresholds(rows):
    scores, labels = split(rows)
    rate = equal_error_rate(scores, labels)
    thresholds = [-np.inf, *sorted(set(scores)), np.inf]
    errors = [((scores[labels] < t).mean(), (scores[~labels] >= t).mean()) for t in thresholds]
    below = max(miss for miss, alarm in errors if miss <= alarm)
    above = min(miss for miss, alarm in errors if miss >= alarm)
    assert below - 1e-12 <= rate <= above + 1e-12
    assert equal_error_rate(-scores, labels) == pytest.approx(1 - rate)


def test_equal_error_rate_where_thresholds_meet_it():
    assert equal_error_rate([0.9, 0.8, 0.3, 0.7, 0.2, 0.1], [1, 1, 1, 0, 0, 0]) == pytest.approx(1 / 3)
    assert equal_error_rate([2.0, 1.0], [1, 0]) == 0


def test_matching_counts_shared_first_places_by_share():
    correct = matching_correct([0.5, 0.5, 0.5, 0.5], [[0.1, 0.2], [0.5, 0.2], [0.5, 0.5], [0.6, 0.5]])
    np.testing.assert_allclose(correct, [1, 1 / 2, 1 / 3, 0])
    assert matching_accuracy([1.0, 0.0], [0.0, 0.0]) == 0.75


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=6).filter(lambda r: any(x for _, x in r))
)
def test_average_precision_is_the_mean_over_all_orders_of_equal_scores(rows):
    found = []
    for order in itertools.permutations(rows):
        if [s for s, _ in order] == sorted((s for s, _ in rows), reverse=True):
            hits = np.cumsum([x for _, x in order])
            found.append(np.mean([hits[i] / (i + 1) for i, (_, x) in enumerate(order) if x]))
    scores, relevant = split(rows)
    assert average_precision(scores[None], relevant[None])[0] == pytest.approx(np.mean(found))


def test_constant_scores_are_chance():
    labels = np.arange(10) < 3
    assert roc_auc(np.zeros(10), labels) == 0.5
    assert equal_error_rate(np.zeros(10), labels) == 0.5
    assert matching_accuracy(np.zeros(4), np.zeros((4, 3))) == 0.25
    random = [mean_average_precision(np.random.default_rng(i).random((1, 10)), labels[None]) for i in range(1000)]
    assert mean_average_precision(np.zeros((1, 10)), labels[None]) == pytest.approx(np.mean(random), abs=0.03)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_is_an_error(bad):
    scores, labels = np.array([0.1, bad, 0.3]), np.array([True, False, True])
    calls = [
        lambda: roc_auc(scores, labels),
        lambda: equal_error_rate(scores, labels),
        lambda: matching_accuracy(scores, np.zeros(3)),
        lambda: matching_accuracy(np.zeros(3), scores),
        lambda: mean_average_precision(scores[None], labels[None]),
        lambda: bootstrap_interval(scores, labels, seed=0),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="1 of 3 values are NaN or infinite"):
            call()


@pytest.mark.parametrize("labels", [[1, 1, 1], [0, 0, 0], [1, 0]])
def test_labels_that_do_not_fit_are_an_error(labels):
    with pytest.raises(ValueError, match="at least one positive and one negative"):
        roc_auc([0.1, 0.2, 0.3], labels)


def test_a_query_without_an_answer_is_an_error():
    with pytest.raises(ValueError, match="at least one relevant item"):
        mean_average_precision(np.zeros((2, 2)), np.eye(2) * [[1], [0]])


def test_bootstrap_draws_whole_groups():
    rng = np.random.default_rng(0)
    people = np.repeat(np.arange(20), 50)
    values = rng.normal(size=20)[people]  # every trial of a person says the same
    low, high = bootstrap_interval(values, people, seed=1)
    alone = bootstrap_interval(values, np.arange(1000), seed=1)
    assert low < values.mean() < high
    assert high - low > 4 * (alone[1] - alone[0])
    assert (low, high) == bootstrap_interval(values, people, seed=1)
    assert bootstrap_interval(values, np.zeros(1000), seed=1) == pytest.approx((values.mean(), values.mean()))


def test_bootstrap_covers():
    rng = np.random.default_rng(5)
    covered = 0
    for seed in range(40):
        values = rng.normal(size=60)
        low, high = bootstrap_interval(values, np.arange(60), seed=seed, num_resamples=200)
        covered += low <= 0 <= high
    assert 33 <= covered <= 40
