"""Spherical k-means: the prototypes of a set of embeddings."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

SMOOTHING = 10.0  # added to a cluster's size in phi = mean distance / ln(n + 10) (PCL, section 3.3)
SAMPLE = 1000  # rows a cluster that it is found from; where there are more, a random part, and then all are assigned
CLIP = (0.1, 0.9)  # quantiles that concentrations are clipped to (upstream PCL, `run_kmeans`)


@dataclass(frozen=True)
class Clusters:
    """K prototypes of N embeddings; none is empty, every number is finite."""

    centroids: Tensor  # (K, D) unit norm
    assignments: Tensor  # (N,) int64, the cluster of each row
    concentrations: Tensor  # (K,) > 0, the temperature of each prototype

    def take(self, rows: Tensor) -> Clusters:
        """The same prototypes with the assignments of some rows (M,), as a batch needs them."""
        return Clusters(self.centroids, self.assignments[rows], self.concentrations)


def kmeans(x: Tensor, k: int, seed: int, num_iters: int = 20, temperature: float = 0.03) -> Clusters:
    """K clusters of the directions of `x`, the same for the same seed.

    Args:
        x: (N, D) embeddings, normalized here; those on a GPU are clustered there if faiss-gpu is installed
        k: number of clusters, 1 to N
        seed: of the random start
        num_iters: Lloyd iterations (20 in CMPC)
        temperature: mean of the concentrations

    Raises:
        ValueError: more clusters than rows, a row of zeros, or a number that is not finite
    """
    rows = x.detach().float().cpu()
    if not 1 <= k <= len(rows):
        raise ValueError(
            f"k-means: got k = {k} for {len(rows)} embeddings, expected 1 to {len(rows)}; choose fewer clusters"
        )
    if not torch.isfinite(rows).all() or (rows.abs().amax(1) == 0).any():
        raise ValueError("k-means: got an embedding that is zero, infinite or NaN, expected finite directions")
    rows = F.normalize(rows, dim=1)
    centroids, assignments = _lloyd(rows.contiguous().numpy(), k, seed, num_iters, on_gpu=x.is_cuda)
    assignments = _fill_empty(rows, centroids, assignments, k)
    centroids = _means(rows, assignments, k)
    phi = concentrations(rows, centroids, assignments, temperature)
    return Clusters(centroids.to(x.device), assignments.to(x.device), phi.to(x.device))


def _lloyd(rows: np.ndarray, k: int, seed: int, num_iters: int, on_gpu: bool) -> tuple[Tensor, Tensor]:
    import faiss  # slow to load, and needed by training and bank building only

    num_gpus = min(1, getattr(faiss, "get_num_gpus", int)()) if on_gpu else 0  # faiss-cpu may lack the question
    solver = faiss.Kmeans(
        rows.shape[1],
        k,
        niter=num_iters,
        seed=seed,
        spherical=True,
        min_points_per_centroid=1,
        max_points_per_centroid=SAMPLE,  # does not warn
        gpu=num_gpus,
    )
    solver.train(rows)
    _, nearest = solver.index.search(rows, 1)
    return torch.from_numpy(np.array(solver.centroids)), torch.from_numpy(nearest[:, 0].copy())


def _fill_empty(rows: Tensor, centroids: Tensor, assignments: Tensor, k: int) -> Tensor:
    """Give each empty cluster the row that fits its own cluster worst, never the last row of a cluster."""
    counts = torch.bincount(assignments, minlength=k)
    similarity = (rows * centroids[assignments]).sum(1)
    order = iter(similarity.argsort(stable=True).tolist())
    for empty in (counts == 0).nonzero()[:, 0].tolist():
        row = next(i for i in order if counts[assignments[i]] > 1)
        counts[assignments[row]] -= 1
        assignments[row] = empty
    return assignments


def _means(rows: Tensor, assignments: Tensor, k: int) -> Tensor:
    total = torch.zeros(k, rows.shape[1]).index_add_(0, assignments, rows)
    # members that cancel out have no mean direction; any of them is as good a center
    first = torch.full((k,), len(rows)).scatter_reduce_(0, assignments, torch.arange(len(rows)), "amin")
    total = torch.where(total.norm(dim=1, keepdim=True) > 1e-6, total, rows[first])
    return F.normalize(total, dim=1)


def concentrations(x: Tensor, centroids: Tensor, assignments: Tensor, temperature: float = 0.03) -> Tensor:
    """(K,) phi = mean distance to the centroid / ln(n + 10), clipped to the 10th-90th percentile, scaled to a mean.

    A cluster without extent (one member) tells nothing of its density and counts as the loosest one.

    Source: PCL (Li et al., 2021), equation 12 and upstream `run_kmeans`; CMPC takes it over.
    """
    k = len(centroids)
    distance = (x - centroids[assignments]).norm(dim=1)
    counts = torch.bincount(assignments, minlength=k)
    mean = torch.zeros(k, device=x.device).index_add_(0, assignments, distance) / counts
    phi = mean / torch.log(counts + SMOOTHING)
    extended = mean > 1e-6
    if not extended.any():
        return torch.full((k,), temperature, device=x.device)
    phi = torch.where(extended, phi, phi.max())
    low, high = (torch.quantile(phi, q).item() for q in CLIP)
    phi = phi.clamp(low, high)
    scale = temperature / phi.mean()
    if not math.isfinite(scale):
        raise ValueError("k-means: concentrations are not finite")
    return phi * scale
