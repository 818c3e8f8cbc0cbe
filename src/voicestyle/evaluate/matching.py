"""Matching 1:N: which of N faces belongs to the voice, or which of N voices to the face."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from voicestyle.evaluate.report import Report, similarity
from voicestyle.metrics import bootstrap_interval, matching_correct

Direction = Literal["v2f", "f2v"]
TASKS = {"v2f": "voice to face", "f2v": "face to voice"}


@dataclass(frozen=True)
class Trials:
    """Probes with their candidates, as row numbers."""

    probe: NDArray[np.int64]  # (T,)
    positive: NDArray[np.int64]  # (T,)
    negatives: NDArray[np.int64]  # (T, N - 1)


def make_trials(
    identities: Sequence[str],
    seed: int,
    *,
    strata: Sequence[str] | None = None,
    num_candidates: int = 2,
    repeats: int = 50,
) -> Trials:
    """Every item as a probe `repeats` times, its own partner as the positive, impostors of other identities.

    An impostor is drawn by identity first and by item second, so that a person with many clips counts once. The
    impostors of one trial are different people.

    Args:
        identities: (N,) whom each item belongs to
        seed: the same seed makes the same trials
        strata: (N,) labels; impostors share the probe's, and items with an empty label are left out
        num_candidates: N of 1:N
        repeats: trials a probe

    Raises:
        ValueError: an item has fewer than N - 1 possible impostors
    """
    rng = np.random.default_rng(seed)
    labels = ["all"] * len(identities) if strata is None else list(strata)
    rows_of: dict[str, dict[str, list[int]]] = {}
    for row, (identity, label) in enumerate(zip(identities, labels, strict=True)):
        if label:
            rows_of.setdefault(label, {}).setdefault(identity, []).append(row)
    probes, negatives = [], []
    for label, people in rows_of.items():
        names = list(people)
        if len(names) < num_candidates:
            raise ValueError(f"trials: {len(names)} identities of stratum {label!r}, at least {num_candidates} needed")
        for me, identity in enumerate(names):
            for probe in people[identity] * repeats:
                others = rng.choice(len(names) - 1, num_candidates - 1, replace=False)
                drawn = [people[names[i + (i >= me)]] for i in others]
                probes.append(probe)
                negatives.append([rows[rng.integers(len(rows))] for rows in drawn])
    if not probes:
        raise ValueError("trials: no item has a label of this stratum")
    probe = np.array(probes)
    return Trials(probe, probe, np.array(negatives))


def read_trials(path: str | Path, probes: Mapping[str, int], candidates: Mapping[str, int]) -> Trials:
    """The trials of a published list: lines of probe, positive and negatives, separated by spaces.

    Args:
        path: e.g. ``matching_v2f_G.csv`` of the CMPC release
        probes: the row of each probe's name
        candidates: the row of each candidate's name
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such list of trials")
    lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not lines or len(lines[0]) < 3 or any(len(line) != len(lines[0]) for line in lines):
        raise ValueError(f"{path}: expected lines of one length with a probe, a positive and negatives")
    missing = {line[0] for line in lines} - set(probes) | {name for line in lines for name in line[1:]} - set(
        candidates
    )
    if missing:
        raise ValueError(f"{path}: {len(missing)} files of the list are not there, e.g. {sorted(missing)[0]}")
    rows = np.array([[probes[line[0]], *(candidates[name] for name in line[1:])] for line in lines])
    return Trials(rows[:, 0], rows[:, 1], rows[:, 2:])


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
    scores = similarity(voice_emb, face_emb, identities).numpy()
    scores = scores if direction == "v2f" else scores.T
    trials = make_trials(identities, seed, strata=strata, num_candidates=num_candidates)
    correct = matching_correct(scores[trials.probe, trials.positive], scores[trials.probe[:, None], trials.negatives])
    people = np.asarray(identities)[trials.probe]
    return Report(
        task=f"matching 1:{num_candidates}, {TASKS[direction]}", stratum=stratum, metric="accuracy",
        score=float(correct.mean()), chance=1 / num_candidates,
        interval=bootstrap_interval(correct, people, seed),
        num_trials=len(correct), num_identities=len(set(people)), seed=seed,
    )  # fmt: skip
