"""What an evaluation says: a score is never without its chance level, its interval and its number of trials."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Report:
    """One score of one task."""

    task: str  # e.g. "verification, voice to face"
    stratum: str  # what the impostors share with the probe: "any", "same gender", ...
    metric: str  # "AUC", "EER", "accuracy", "mAP"
    score: float
    chance: float  # what constant embeddings score
    interval: tuple[float, float]  # 95 %, bootstrap over identities
    num_trials: int
    num_identities: int  # of the probes
    seed: int  # of the trials and of the bootstrap

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready values."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        low, high = self.interval
        return (
            f"{self.task} ({self.stratum}): {self.metric} {self.score:.3f} [{low:.3f}, {high:.3f}], "
            f"chance {self.chance:.3f}, {self.num_trials} trials, {self.num_identities} identities, seed {self.seed}"
        )


def check_disjoint(trained: Iterable[str], tested: Iterable[str]) -> None:
    """Raise ValueError, with a few names, where identities of the training are among those of a test."""
    shared = sorted(set(trained) & set(tested))
    if shared:
        raise ValueError(
            f"leak: {len(shared)} tested identities were trained on, e.g. {', '.join(shared[:3])}; "
            "test on identities that the model has never seen"
        )


def similarity(voice_emb: Tensor, face_emb: Tensor, identities: Sequence[str]) -> Tensor:
    """(N, N) float64 cosines on the CPU, voices in rows: of embeddings that belong to the same N items."""
    if voice_emb.ndim != 2 or voice_emb.shape != face_emb.shape or len(voice_emb) != len(identities):
        raise ValueError(
            f"embeddings: got voices {tuple(voice_emb.shape)}, faces {tuple(face_emb.shape)}, {len(identities)} "
            "identities; expected (N, D), (N, D) and N"
        )
    voice, face = (torch.nn.functional.normalize(emb.detach().double().cpu(), dim=1) for emb in (voice_emb, face_emb))
    return voice @ face.T
