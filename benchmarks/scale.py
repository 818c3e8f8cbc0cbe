"""Large banks: build time, size, latency and recall of the index, to 10^7 members, and where the prototypes come from.

    python benchmarks/scale.py [--members 100000 1000000] [--dim 32]

Random unit vectors around a thousand centers, whose eigenvalues fall as one over their rank, as those of real ones do.
One thread; processor time.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch


def embeddings(num: int, dim: int, seed: int = 0) -> np.ndarray:
    """Unit vectors (num,dim), float32, made in blocks."""
    rng = np.random.default_rng(0)
    scale = (1 / np.arange(1, dim + 1) ** 0.5).astype(np.float32)
    centers = rng.standard_normal((1000, dim), np.float32) * scale
    rng = np.random.default_rng([seed, num])
    x = np.empty((num, dim), np.float32)
    for start in range(0, num, 1 << 20):
        part = x[start : start + (1 << 20)]
        part[:] = centers[rng.integers(1000, size=len(part))] + rng.standard_normal(part.shape, np.float32) * scale
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return x


def index_of(x: np.ndarray, most: int = 1 << 20, seed: int = 0) -> tuple[Any, float]:
    """An inverted file with a byte a dimension (faiss IVF-SQ8), and the seconds that it took.

    Four times the root of the number in cells, as faiss advises, but not more than `most`, learnt from 40 vectors
    each; 32 are looked through.
    """
    import faiss

    start, dim = time.process_time(), x.shape[1]
    cells = min(most, 1 << max(4, round(np.log2(4 * len(x) ** 0.5))))
    kind = faiss.ScalarQuantizer.QT_8bit
    index = faiss.IndexIVFScalarQuantizer(faiss.IndexFlatIP(dim), dim, cells, kind, faiss.METRIC_INNER_PRODUCT)
    index.train(x[np.random.default_rng(seed).choice(len(x), min(len(x), 40 * cells), replace=False)])
    for first in range(0, len(x), 1 << 20):
        index.add(x[first : first + (1 << 20)])
    index.nprobe = min(32, cells)
    return index, time.process_time() - start


def bank_of(x: np.ndarray, k: int = 1000, seed: int = 0) -> tuple[Any, float]:
    """A bank of k prototypes, and the seconds that its clusters took; its latents are one number each."""
    from voicestyle.clustering import kmeans
    from voicestyle.prototypes import PrototypeBank

    rows = torch.from_numpy(x)
    start = time.process_time()
    found = kmeans(rows, k, seed)
    spent = time.process_time() - start
    bank = PrototypeBank(
        centroids=found.centroids, concentrations=found.concentrations, assignments=found.assignments, member_emb=rows,
        member_w=rows[:, :1], member_identity=torch.arange(len(rows)), member_keys=[""] * len(rows),
        encoder_fingerprint="e", generator_fingerprint="g",
    )  # fmt: skip
    return bank, spent


def recall(index: Any, x: np.ndarray, asked: np.ndarray, num: int = 10) -> float:
    """Part of the true nearest `num` that the index finds."""
    found = index.search(asked, num)[1]
    best = np.full((len(asked), num), -np.inf, np.float32)
    true = np.zeros((len(asked), num), np.int64)
    for start in range(0, len(x), 1 << 18):
        scores = np.concatenate([best, asked @ x[start : start + (1 << 18)].T], 1)
        rows = np.concatenate(
            [true, np.broadcast_to(np.arange(start, start + scores.shape[1] - num), scores[:, num:].shape)], 1
        )
        top = np.argpartition(-scores, num, axis=1)[:, :num]
        best, true = np.take_along_axis(scores, top, 1), np.take_along_axis(rows, top, 1)
    return float(np.mean([len(set(a) & set(b)) / num for a, b in zip(found.tolist(), true.tolist(), strict=True)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--members", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--dim", type=int, default=32)
    args = parser.parse_args()
    import faiss

    faiss.omp_set_num_threads(1)
    torch.set_num_threads(1)
    print("| members | way | built in | bytes a member | one query | recall@10 |\n|---|---|---|---|---|---|")
    for num in args.members:
        x, asked = embeddings(num, args.dim), embeddings(64, args.dim, seed=1)
        index, seconds = index_of(x)
        size = len(faiss.serialize_index(index)) / num
        spent = 1e3 * median_time(lambda one, index=index: index.search(one[None], 10), asked)
        print(f"| {num:,} | IVF-SQ8 | {seconds:.1f} s | {size:.0f} | {spent:.2f} ms | {recall(index, x, asked):.3f} |")
        exact = 1e3 * median_time(lambda one, x=x: np.argpartition(x @ one, -10)[-10:], asked[:16])
        print(f"| {num:,} | exact | | {4 * args.dim} | {exact:.2f} ms | 1 |", flush=True)
        del index
        bank, seconds = bank_of(x)
        spent = 1e3 * median_time(lambda one, bank=bank: bank.nearest(torch.from_numpy(one), 3, 10), asked)
        line = f"{spent:.2f} ms | its own: 3 of 1,000 prototypes"
        print(f"| {num:,} | a bank | {seconds:.1f} s | {4 * args.dim + 16} | {line} |", flush=True)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB")


def median_time(call: Callable[[np.ndarray], object], asked: np.ndarray) -> float:
    """Seconds a query, after one that does not count."""
    times = []
    for one in asked:
        start = time.process_time()
        call(one)
        times.append(time.process_time() - start)
    return float(np.median(times[1:]))


if __name__ == "__main__":
    main()
