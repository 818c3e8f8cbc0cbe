"""Trials made from a manifest with a seed: probes, their own partners, and impostors; as rows and as lists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from voicestyle.data.manifest import Item
from voicestyle.evaluate.lists import STRATA, MatchingList, RetrievalList, Task, TrialList, VerificationList

MADE = ("U", "G", "N", "GN")  # the strata that a manifest has labels for


@dataclass(frozen=True)
class Trials:
    """Probes with their candidates, as row numbers."""

    probe: NDArray[np.int64]  # (T,)
    positive: NDArray[np.int64]  # (T,)
    negatives: NDArray[np.int64]  # (T, N - 1)
    num_unlabeled: int = 0  # items that are in no trial: no label, or too few people share it


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
        strata: (N,) labels that impostors share with the probe. Items with an empty label, or with one that fewer than
            `num_candidates` people have, are left out
        num_candidates: N of 1:N
        repeats: trials a probe

    Raises:
        ValueError: no trial can be made
    """
    rng = np.random.default_rng(seed)
    labels = ["all"] * len(identities) if strata is None else list(strata)
    rows_of: dict[str, dict[str, list[int]]] = {}
    for row, (identity, label) in enumerate(zip(identities, labels, strict=True)):
        if label:
            rows_of.setdefault(label, {}).setdefault(identity, []).append(row)
    probes, negatives = [], []
    for people in rows_of.values():
        names = list(people)
        if len(names) < num_candidates:
            continue
        for me, identity in enumerate(names):
            for probe in people[identity] * repeats:
                others = rng.choice(len(names) - 1, num_candidates - 1, replace=False)
                drawn = [people[names[i + (i >= me)]] for i in others]
                probes.append(probe)
                negatives.append([clips[rng.integers(len(clips))] for clips in drawn])
    if not probes:
        most = max(map(len, rows_of.values()), default=0)
        raise ValueError(
            f"trials: no stratum has {num_candidates} identities (the largest has {most}; {labels.count('')} of "
            f"{len(labels)} items have no label); add labels or people, or ask for fewer candidates"
        )
    rows = np.array(probes)
    return Trials(rows, rows, np.array(negatives), len(identities) - len(np.unique(rows)))


def make_lists(
    items: Sequence[Item],
    task: Task,
    split: str,
    seed: int,
    strata: Sequence[str] | None = None,
    candidates: Sequence[int] = (2,),
) -> list[TrialList]:
    """Lists of the items' keys; the impostors of a trial are of the probe's stratum.

    Args:
        items: with a voice and a picture each
        task: which lists
        split: names the files
        seed: of `make_trials`
        strata: some of MADE; default: U, and those that the items have labels for. Retrieval knows U alone
        candidates: N of each 1:N matching

    Raises:
        ValueError: no trial can be made for a stratum that was asked for, or for U
    """
    if task == "retrieval":
        people = {item.key: item.identity for item in items}
        return [RetrievalList(f"wav_{split}.csv", people, people)]
    made: list[TrialList] = []
    for number in candidates if task == "matching" else (2,):
        for stratum in strata or MADE:
            try:
                trials = make_trials(
                    [item.identity for item in items], seed, strata=_labels(items, stratum), num_candidates=number
                )
            except ValueError as error:
                if strata or stratum == "U":
                    raise ValueError(f"{STRATA[stratum]}, 1:{number}: {error}") from None
                continue  # it was not asked for, and there are no labels for it
            made += (_verification if task == "verification" else _matching)(items, trials, stratum, split)
    return made


def _verification(items: Sequence[Item], trials: Trials, stratum: str, split: str) -> list[TrialList]:
    """Each voice of the trials with its own face, then with that of each impostor."""
    keys, people = [item.key for item in items], {item.key: item.identity for item in items}
    pairs = zip(trials.probe.tolist(), trials.negatives[:, 0].tolist(), strict=True)
    own = [(keys[row], keys[row], True) for row in dict.fromkeys(trials.probe.tolist())]
    other = [(keys[voice], keys[face], False) for voice, face in pairs]
    file = f"veriflist_test_{'random' if stratum == 'U' else stratum}_{split}.txt"
    return [VerificationList(file, stratum, (*own, *other), people, num_unlabeled=trials.num_unlabeled)]


def _matching(items: Sequence[Item], trials: Trials, stratum: str, split: str) -> list[TrialList]:
    """The same trials in both directions."""
    keys, people = [item.key for item in items], {item.key: item.identity for item in items}
    rows = np.column_stack([trials.probe, trials.positive, trials.negatives]).tolist()
    named = tuple(tuple(keys[i] for i in row) for row in rows)
    suffix = "" if len(named[0]) == 3 else f"_{len(named[0]) - 1}"
    return [
        MatchingList(
            f"matching_{direction}_{stratum}{suffix}.csv",
            direction,
            stratum,
            named,
            people,
            num_unlabeled=trials.num_unlabeled,
        )
        for direction in ("v2f", "f2v")
    ]


def _labels(items: Sequence[Item], stratum: str) -> list[str] | None:
    """What the impostors share with each item; empty where it is not known."""
    if stratum == "U":
        return None
    columns = [{"G": "gender", "N": "nationality"}[letter] for letter in stratum]
    rows = [[getattr(item, column) for column in columns] for item in items]
    return ["\n".join(row) if all(row) else "" for row in rows]
