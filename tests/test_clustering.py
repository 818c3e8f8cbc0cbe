"""k-means: never NaN, never empty, never worse with more iterations; concentrations as in the paper."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from fill import inp
from voicestyle.clustering import Clusters, concentrations, kmeans


def inertia(x: torch.Tensor, clusters: Clusters) -> float:
    rows = F.normalize(x, dim=1)
    return float((rows - clusters.centroids[clusters.assignments]).square().sum())


def assert_sound(clusters: Clusters, n: int, k: int) -> None:
    assert clusters.assignments.shape == (n,)
    assert torch.bincount(clusters.assignments, minlength=k).min() >= 1
    torch.testing.assert_close(clusters.centroids.norm(dim=1), torch.ones(k))
    assert torch.isfinite(clusters.concentrations).all() and (clusters.concentrations > 0).all()


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 40), st.data())
def test_every_cluster_has_members(n, data):
    k = data.draw(st.integers(1, n))
    num_distinct = data.draw(st.integers(1, n))  # duplicates are what makes clusters run empty
    x = inp("kmeans", (num_distinct, 5))[torch.arange(n) % num_distinct]
    assert_sound(kmeans(x, k, seed=0), n, k)


def test_opposite_rows_in_one_cluster_have_a_center():
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    assert_sound(kmeans(x, 1, seed=0), 2, 1)


def test_inertia_never_rises_with_iterations():
    x = inp("inertia", (300, 6))
    values = [inertia(x, kmeans(x, 8, seed=3, num_iters=i)) for i in range(1, 12)]
    assert all(later <= earlier + 1e-3 for earlier, later in zip(values, values[1:], strict=False))
    assert values[-1] < values[0]


def test_separate_bundles_are_found():
    centers = torch.eye(4, 6)
    labels = torch.arange(80) % 4
    x = centers[labels] + 0.05 * inp("bundle", (80, 6))
    found = kmeans(3 * x, 4, seed=0).assignments  # length does not matter
    pairs = {(int(a), int(b)) for a, b in zip(labels, found, strict=True)}
    assert len(pairs) == 4 and len({b for _, b in pairs}) == 4


def test_a_seed_says_it_all():
    x = inp("seeded", (120, 6))
    first, again, other = kmeans(x, 10, seed=1), kmeans(x, 10, seed=1), kmeans(x, 10, seed=2)
    assert torch.equal(first.centroids, again.centroids) and torch.equal(first.assignments, again.assignments)
    assert not torch.equal(first.assignments, other.assignments)


def test_concentrations_follow_the_formula():
    x = F.normalize(inp("phi", (60, 4)), dim=1)
    clusters = kmeans(x, 6, seed=0, temperature=0.05)
    phi = []
    for k in range(6):
        members = [row for row, a in zip(x, clusters.assignments.tolist(), strict=True) if a == k]
        distance = sum(math.dist(row, clusters.centroids[k]) for row in members) / len(members)
        phi.append(distance / math.log(len(members) + 10))
    phi = np.clip(phi, np.quantile(phi, 0.1), np.quantile(phi, 0.9))
    np.testing.assert_allclose(clusters.concentrations, phi * 0.05 / phi.mean(), rtol=1e-4)
    assert clusters.concentrations.mean().item() == pytest.approx(0.05)


def test_a_lone_member_counts_as_loose():
    x = F.normalize(torch.tensor([[1.0, 0.1], [1.0, -0.1], [0.0, 1.0], [0.3, -1.0], [-0.3, -1.0]]), dim=1)
    assignments = torch.tensor([0, 0, 1, 2, 2])
    centroids = F.normalize(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]), dim=1)
    phi = concentrations(x, centroids, assignments)
    assert phi[1] == phi.max() and phi[0] < phi[2]


def test_taking_rows_takes_their_assignments():
    clusters = kmeans(inp("take", (20, 4)), 3, seed=0)
    rows = torch.tensor([7, 0, 7])
    assert torch.equal(clusters.take(rows).assignments, clusters.assignments[rows])


@pytest.mark.parametrize("k", [0, 6])
def test_more_clusters_than_rows_is_an_error(k):
    with pytest.raises(ValueError, match=f"k = {k} for 5 embeddings"):
        kmeans(inp("few", (5, 3)), k, seed=0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0])
def test_rows_without_direction_are_an_error(value):
    x = inp("bad", (5, 3))
    x[2] = value
    with pytest.raises(ValueError, match="zero, infinite or NaN"):
        kmeans(x, 2, seed=0)
