"""Retrieval: rank all faces for a voice, and all voices for a face."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from voicestyle.evaluate.matching import TASKS, Direction
from voicestyle.evaluate.report import Report, similarity
from voicestyle.metrics import average_precision, bootstrap_interval


def retrieval(
    voice_emb: Tensor, face_emb: Tensor, identities: Sequence[str], seed: int = 0, *, direction: Direction = "v2f"
) -> Report:
    """Mean average precision of ranking all items of the other modality; those of the same identity are relevant.

    Args:
        voice_emb: (N, D) unit norm
        face_emb: (N, D) unit norm, of the same items
        identities: (N,)
        seed: of the bootstrap
        direction: queries are voices ("v2f") or faces ("f2v")
    """
    scores = similarity(voice_emb, face_emb, identities).numpy()
    people = np.asarray(identities)
    relevant = people[:, None] == people
    precision = average_precision(scores if direction == "v2f" else scores.T, relevant)
    return Report(
        task=f"retrieval, {TASKS[direction]}", stratum="any", metric="mAP",
        score=float(precision.mean()), chance=float(average_precision(np.zeros_like(scores), relevant).mean()),
        interval=bootstrap_interval(precision, people, seed),
        num_trials=len(people), num_identities=len(set(people)), seed=seed,
    )  # fmt: skip
