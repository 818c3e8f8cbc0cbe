"""Matching 1:N: which of N faces belongs to the voice, or which of N voices to the face."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from voicestyle.evaluate.embeddings import Embeddings
from voicestyle.evaluate.lists import STRATA, Direction, MatchingList, num_repeated, source
from voicestyle.evaluate.report import Pairs, Report, Scored
from voicestyle.evaluate.trials import make_trials
from voicestyle.metrics import bootstrap_interval, matching_correct

TASKS = {"v2f": "voice to face", "f2v": "face to voice"}


def matching(
    voice_emb: Tensor,
    face_emb: Tensor,
    identities: Sequence[str],
    seed: int = 0,
    *,
    direction: Direction = "v2f",
    strata: Sequence[str] | None = None,
    stratum: str = "any",
    num_candidates: int = 2,
) -> Report:
    """Accuracy of 1:N matching over trials made with a seed.

    Args:
        voice_emb: (N, D) unit norm
        face_emb: (N, D) unit norm, of the same items
        identities: (N,)
        seed: of the trials and the bootstrap
        direction: the probe is a voice ("v2f") or a face ("f2v")
        strata: (N,) labels that impostors share with the probe, e.g. genders
        stratum: the name of these strata in the report
        num_candidates: N of 1:N
    """
    if voice_emb.ndim != 2 or voice_emb.shape != face_emb.shape or len(voice_emb) != len(identities):
        raise ValueError(
            f"embeddings: got voices {tuple(voice_emb.shape)}, faces {tuple(face_emb.shape)}, {len(identities)} "
            "identities; expected (N, D), (N, D) and N"
        )
    trials = make_trials(identities, seed, strata=strata, num_candidates=num_candidates)
    sides = [Embeddings(emb.detach().double().cpu().numpy(), {}) for emb in (voice_emb, face_emb)]
    probe, gallery = sides if direction == "v2f" else sides[::-1]
    similarities = _similarities(probe, gallery, trials.probe, np.column_stack([trials.positive, trials.negatives]))
    people = np.asarray(identities)[np.column_stack([trials.probe, trials.negatives])]
    return _report(similarities, people, seed, direction, stratum, num_unlabeled=trials.num_unlabeled)


def score_matching(trial_list: MatchingList, voices: Embeddings, faces: Embeddings, seed: int = 0) -> Scored:
    """Accuracy on a list; trials of an item that has no embedding are left out and counted.

    Args:
        trial_list: names of probes and candidates
        voices: by name
        faces: by name
        seed: of the bootstrap

    Raises:
        ValueError: no trial is left
    """
    probe, gallery = (voices, faces) if trial_list.direction == "v2f" else (faces, voices)
    rows = np.column_stack(
        [probe.find(trial[0] for trial in trial_list.trials)]
        + [gallery.find(names) for names in list(zip(*trial_list.trials, strict=True))[1:]]
    )
    usable = (rows >= 0).all(1)
    if not usable.any():
        raise ValueError(f"{trial_list.file}: none of {len(rows)} trials is left, for lack of usable items")
    people = np.array([[trial_list.people[name] for name in trial] for trial in trial_list.trials])[usable]
    rows = rows[usable]
    similarities = _similarities(probe, gallery, rows[:, 0], rows[:, 1:])
    report = _report(
        similarities,
        people,
        seed,
        trial_list.direction,
        STRATA[trial_list.stratum],
        trials=source(trial_list),
        num_left_out=int((~usable).sum()),
        num_unlabeled=trial_list.num_unlabeled,
        num_repeated=num_repeated(trial_list),
    )
    own = np.broadcast_to(np.arange(similarities.shape[1]) == 0, similarities.shape)
    return Scored((report,), Pairs(similarities.ravel(), own.ravel()))


def _similarities(
    probe: Embeddings, gallery: Embeddings, rows: NDArray[np.int64], candidates: NDArray[np.int64]
) -> NDArray[np.float64]:
    """(T, N) of each probe to its candidates, the positive first."""
    return np.column_stack([probe.cosines(rows, gallery, column) for column in candidates.T])


def _report(
    similarities: NDArray[np.float64],
    people: NDArray,  # (T, P) of the probe, and of the candidates
    seed: int,
    direction: Direction,
    stratum: str,
    **about: Any,  # further fields of the report
) -> Report:
    correct = matching_correct(similarities[:, 0], similarities[:, 1:])
    return Report(
        task=f"matching 1:{similarities.shape[1]}, {TASKS[direction]}",
        stratum=stratum,
        metric="accuracy",
        score=float(correct.mean()),
        chance=1 / similarities.shape[1],
        interval=bootstrap_interval(correct, people, seed),
        num_trials=len(correct),
        num_identities=len(set(people[:, 0].tolist())),
        seed=seed,
        **about,
    )
