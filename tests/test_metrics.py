"""Scores against counting by hand; constants score chance; NaN is refused."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voicestyle.metrics import (
    bootstrap_interval,
    bootstrap_weights,
    equal_error_rate,
    matching_correct,
    median_ranks,
    rank,
    roc_auc,
    roc_intervals,
    settled,
)
from voicestyle.seeds import mixed_seed

scored = st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=30).filter(
    lambda rows: len({label for _, label in rows}) == 2
)


def split(rows):
    return np.array([float(s) for s, _ in rows]), np.array([label for _, label in rows])


def average_precision(scores, relevant):
    """Of one query."""
    return rank(scores[None], [np.flatnonzero(relevant)]).average_precision[0]


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


@settings(deadline=None, max_examples=60)
@given(scored)
def test_equal_error_rate_is_where_a_walk_over_all_thresholds_crosses(rows):
    scores, labels = split(rows)
    thresholds = [*sorted(set(scores)), np.inf]
    errors = [((scores[labels] < t).mean(), (scores[~labels] >= t).mean()) for t in thresholds]
    for (miss, alarm), (next_miss, next_alarm) in itertools.pairwise(errors):
        if next_miss >= next_alarm:  # a line from one point of the ROC to the next crosses miss = alarm
            steps = np.linspace(0, 1, 100_001)
            gap = np.abs((alarm - miss) * (1 - steps) + (next_alarm - next_miss) * steps)
            part = steps[gap.argmin()]
            break
    assert equal_error_rate(scores, labels) == pytest.approx(miss + part * (next_miss - miss), abs=2e-5)


@settings(deadline=None, max_examples=40)
@given(scored, st.randoms(use_true_random=False))
def test_the_order_of_trials_does_not_matter(rows, random):
    shuffled = random.sample(rows, len(rows))
    for score in (roc_auc, equal_error_rate):
        assert score(*split(rows)) == pytest.approx(score(*split(shuffled)))
    scores, labels = split(rows)
    again = split(shuffled)
    found, expected = (average_precision(s, x) for s, x in ((scores, labels), again))
    assert found == pytest.approx(expected)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 2), st.lists(st.integers(0, 2), min_size=3, max_size=3)), min_size=1))
def test_matching_is_the_mean_over_random_choices_among_the_best(trials):
    correct = matching_correct([p for p, _ in trials], [n for _, n in trials])
    for share, (positive, negatives) in zip(correct, trials, strict=True):
        best = [place for place, s in enumerate([positive, *negatives]) if s == max(positive, *negatives)]
        assert share == pytest.approx(np.mean([place == 0 for place in best]))


def test_matching_counts_shared_first_places_by_share():
    correct = matching_correct([0.5, 0.5, 0.5, 0.5], [[0.1, 0.2], [0.5, 0.2], [0.5, 0.5], [0.6, 0.5]])
    np.testing.assert_allclose(correct, [1, 1 / 2, 1 / 3, 0])


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
    assert average_precision(scores, relevant) == pytest.approx(np.mean(found))


def orders(rows):
    """Relevance in each order of the rows that falls in score."""
    for order in itertools.permutations(rows):
        if all(a >= b for (a, _), (b, _) in itertools.pairwise(order)):
            yield [x for _, x in order]


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=6).filter(
        lambda r: any(r_[1] for r_ in r)
    )
)
def test_the_first_relevant_rank_is_the_mean_over_all_orders_of_equal_scores(rows):
    scores, relevant = split(rows)
    ranking = rank(scores[None], [np.flatnonzero(relevant)])
    first = np.array([order.index(True) + 1 for order in orders(rows)])
    assert ranking.first_rank[0] == pytest.approx(first.mean())
    for k in range(1, len(rows) + 2):
        assert ranking.hit_at(k)[0] == pytest.approx((first <= k).mean())
    assert median_ranks(ranking, [[1]]) == [np.sort(first)[(len(first) - 1) // 2]]


def test_median_ranks_without_ties_are_lower_medians_of_weighted_ranks():
    rng = np.random.default_rng(0)
    scores, columns = rng.permuted(np.tile(np.arange(50.0), (31, 1)), axis=1), rng.integers(50, size=31)
    ranking = rank(scores, [np.array([c]) for c in columns])
    ranks = 50 - scores[np.arange(31), columns]
    assert np.array_equal(ranking.first_rank, ranks)
    weights = rng.integers(0, 4, (5, 31))
    expected = [np.quantile(np.repeat(ranks, w), 0.5, method="inverted_cdf") for w in weights]
    assert median_ranks(ranking, weights) == expected
    assert median_ranks(rank(np.zeros((3, 20)), [np.arange(2)] * 3), [np.ones(3)]) == [
        6
    ]  # 1 - C(18, 6) / C(20, 6) > .5


def test_constant_scores_are_chance():
    labels = np.arange(10) < 3
    assert roc_auc(np.zeros(10), labels) == 0.5
    assert equal_error_rate(np.zeros(10), labels) == 0.5
    assert matching_correct(np.zeros(4), np.zeros((4, 3))).mean() == 0.25
    random = [average_precision(np.random.default_rng(i).random(10), labels) for i in range(1000)]
    assert average_precision(np.zeros(10), labels) == pytest.approx(np.mean(random), abs=0.03)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_is_an_error(bad):
    scores, labels = np.array([0.1, bad, 0.3]), np.array([True, False, True])
    calls = [
        lambda: roc_auc(scores, labels),
        lambda: equal_error_rate(scores, labels),
        lambda: matching_correct(scores, np.zeros(3)),
        lambda: matching_correct(np.zeros(3), scores),
        lambda: average_precision(scores, labels),
        lambda: roc_intervals(scores, labels, labels, seed=0),
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
        rank(np.zeros((2, 2)), [np.array([0]), np.array([], int)])


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


@pytest.mark.parametrize("statistic", [np.mean, np.median])
def test_bootstrap_is_the_naive_one(statistic):
    rng = np.random.default_rng(3)
    people, values = rng.integers(7, size=40), rng.normal(size=40)
    names = sorted(set(people))
    draws, found = np.random.default_rng(mixed_seed(11, "bootstrap")), []
    for _ in range(50):
        drawn = [names[i] for i in draws.integers(len(names), size=len(names))]
        found.append(
            statistic([v for name in drawn for v, person in zip(values, people, strict=True) if person == name])
        )
    interval = bootstrap_interval(values, people, seed=11, statistic=statistic, num_resamples=50)
    np.testing.assert_allclose(interval, np.quantile(found, [0.025, 0.975]))


@settings(deadline=None, max_examples=5)
@given(st.integers(0, 1000))
def test_intervals_of_roc_are_those_of_sorting_each_resample(seed):
    rng = np.random.default_rng(seed)
    scores, labels, people = rng.integers(0, 6, 40).astype(float), np.arange(40) % 3 == 0, rng.integers(6, size=40)
    table = np.stack([scores, labels], axis=1)
    auc, eer = roc_intervals(scores, labels, people, seed)
    for found, score in ((auc, roc_auc), (eer, equal_error_rate)):
        naive = bootstrap_interval(table, people, seed, statistic=lambda t, score=score: score(t[:, 0], t[:, 1]))
        np.testing.assert_allclose(found, naive)


def test_resamples_of_one_kind_only_are_left_out():
    auc, eer = roc_intervals([0.9, 0.1], [True, False], ["a", "b"], seed=0)
    assert auc == (1, 1) and eer == (0, 0)


def test_bootstrap_covers():
    rng = np.random.default_rng(5)
    covered = 0
    for seed in range(40):
        values = rng.normal(size=60)
        low, high = bootstrap_interval(values, np.arange(60), seed=seed, num_resamples=200)
        covered += low <= 0 <= high
    assert 33 <= covered <= 40


def test_people_are_drawn_with_their_voices_and_their_faces():
    """A face that looks like everybody pulls its own trial and those where it is the impostor; that cancels out."""
    rng, truth, both, voices = np.random.default_rng(0), [], [], []
    for repeat in range(120):
        face, n = 2 * rng.normal(size=40), 40
        probe = np.repeat(np.arange(n), 10)
        other = (probe + rng.integers(1, n, size=len(probe))) % n
        owners = np.stack([np.concatenate([np.arange(n), probe]), np.concatenate([np.arange(n), other])], 1)
        labels = owners[:, 0] == owners[:, 1]
        scores = face[owners[:, 1]] + 0.8 * labels + rng.normal(size=len(labels))
        truth.append(roc_auc(scores, labels))
        if repeat < 4:
            both.append(np.diff(roc_intervals(scores, labels, owners, repeat)[0]) / 3.92)
            voices.append(np.diff(roc_intervals(scores, labels, owners[:, 0], repeat)[0]) / 3.92)
    assert np.mean(both) == pytest.approx(np.std(truth), rel=0.35)
    assert np.mean(voices) > 1.5 * np.std(truth)


def test_a_trial_of_several_people_counts_as_their_draws_to_first_order():
    groups = np.array([["a", "b"], ["a", "a"], ["b", "c"]])
    for weights, counts in zip(
        bootstrap_weights(groups, 3, 20), bootstrap_weights(["a", "b", "c"], 3, 20), strict=True
    ):
        a, b, c = counts
        assert weights.tolist() == [1 + (a - 1) + (b - 1), a, 1 + (b - 1) + (c - 1)]
    with pytest.raises(ValueError, match="mean alone"):
        bootstrap_interval([1.0, 2.0, 3.0], groups, 0, statistic=np.median)


def test_the_bootstrap_is_no_replay_of_the_trials():
    """Trials are drawn with the seed itself; resamples with the same numbers would be of the people drawn there."""
    replay = np.random.default_rng(0).integers(6, size=6)
    drawn = next(bootstrap_weights(np.arange(6), 0))
    assert drawn.tolist() != np.bincount(replay, minlength=6).tolist()


def test_what_rounding_makes_of_equal_embeddings_is_a_tie():
    rng = np.random.default_rng(0)
    one = rng.normal(size=512)
    voices, faces = np.tile(one / np.linalg.norm(one), (37, 1)), np.tile(one[::-1] / np.linalg.norm(one), (53, 1))
    faces = faces * (1 + 1e-8 * rng.normal(size=faces.shape))  # as batches of other sizes round
    assert len(np.unique(voices @ faces.T)) > 1 == len(np.unique(settled(voices @ faces.T)))
