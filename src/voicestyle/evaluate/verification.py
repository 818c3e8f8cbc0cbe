"""Verification: do this voice and this face belong to one person?"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from voicestyle.evaluate.matching import make_trials
from voicestyle.evaluate.report import Report, similarity
from voicestyle.metrics import bootstrap_interval, equal_error_rate, roc_auc


def verification(
    voice_emb: Tensor,
    face_emb: Tensor,
    identities: Sequence[str],
    seed: int = 0,
    *,
    strata: Sequence[str] | None = None,
    stratum: str = "any",
) -> list[Report]:
    """AUC and equal error rate of each voice with its own face against the faces of impostors.

    Args:
        voice_emb: (N, D) unit norm
        face_emb: (N, D) unit norm, of the same items
        identities: (N,)
        seed: of the trials (the impostors of `matching.make_trials`) and the bootstrap
        strata: (N,) labels that impostors share with the voice, e.g. genders
        stratum: the name of these strata in the report
    """
    scores = similarity(voice_emb, face_emb, identities).numpy()
    trials = make_trials(identities, seed, strata=strata)
    own = np.unique(trials.probe)
    voice = np.concatenate([own, trials.probe])
    face = np.concatenate([own, trials.negatives[:, 0]])
    return score_pairs(scores[voice, face], voice == face, np.asarray(identities)[voice], seed, stratum)


def score_pairs(
    scores: NDArray[np.float64], labels: NDArray[np.bool_], people: NDArray, seed: int, stratum: str
) -> list[Report]:
    """AUC and equal error rate of pairs (T,), labeled true where one person; `people` (T,) own the voices."""
    table = np.stack([scores, labels], axis=1)
    return [
        Report(
            task="verification", stratum=stratum, metric=metric, score=score(scores, labels), chance=0.5,
            interval=bootstrap_interval(table, people, seed, statistic=lambda t, score=score: score(t[:, 0], t[:, 1])),
            num_trials=len(scores), num_identities=len(set(people)), seed=seed,
        )
        for metric, score in (("AUC", roc_auc), ("EER", equal_error_rate))
    ]  # fmt: skip


def read_pairs(
    path: str | Path, voices: Mapping[str, int], faces: Mapping[str, int]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Voice rows, face rows and labels (T,) of a published list, e.g. ``veriflist_test_G_unseenunheard.txt``.

    Args:
        path: a CSV with the columns label, voice-path and face-path
        voices: the row of each voice's name
        faces: the row of each face's name
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such list of trials")
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if not {"label", "voice-path", "face-path"} <= set(reader.fieldnames or ()):
            raise ValueError(
                f"{path}: columns {reader.fieldnames}, expected label, voice-path and face-path among them"
            )
        lines = list(reader)
    missing = {r["voice-path"] for r in lines} - set(voices) | {r["face-path"] for r in lines} - set(faces)
    if missing:
        raise ValueError(f"{path}: {len(missing)} files of the list are not there, e.g. {sorted(missing)[0]}")
    voice = np.array([voices[r["voice-path"]] for r in lines])
    face = np.array([faces[r["face-path"]] for r in lines])
    return voice, face, np.array([r["label"] == "1" for r in lines])
