"""Verification: do this voice and this face belong to one person?"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from voicestyle.evaluate.embeddings import Embeddings
from voicestyle.evaluate.lists import STRATA, VerificationList, num_repeated, source
from voicestyle.evaluate.report import Pairs, Report, Scored
from voicestyle.metrics import equal_error_rate, roc_auc, roc_intervals


def score_verification(trial_list: VerificationList, voices: Embeddings, faces: Embeddings, seed: int = 0) -> Scored:
    """AUC and equal error rate on a list; trials of an item that has no embedding are left out and counted.

    Args:
        trial_list: names of voices and faces
        voices: by name
        faces: by name
        seed: of the bootstrap

    Raises:
        ValueError: no trial with one person is left, or none with two
    """
    names = list(zip(*trial_list.trials, strict=True))
    rows, columns, labels = voices.find(names[0]), faces.find(names[1]), np.array(names[2], bool)
    usable = (rows >= 0) & (columns >= 0)
    rows, columns, labels = rows[usable], columns[usable], labels[usable]
    if labels.all() or not labels.any():
        raise ValueError(
            f"{trial_list.file}: {labels.sum()} trials with one person and {(~labels).sum()} with two are left of "
            f"{len(usable)}, at least one of each needed"
        )
    similarities = voices.cosines(rows, faces, columns)
    people = np.array([[trial_list.people[name] for name in pair] for pair in zip(*names[:2], strict=True)])[usable]
    reports = score_pairs(
        similarities,
        labels,
        people,
        seed,
        STRATA[trial_list.stratum],
        trials=source(trial_list),
        num_left_out=int((~usable).sum()),
        num_unlabeled=trial_list.num_unlabeled,
        num_repeated=num_repeated(trial_list),
    )
    return Scored(tuple(reports), Pairs(similarities, labels))


def score_pairs(
    similarities: ArrayLike, labels: NDArray[np.bool_], people: NDArray, seed: int, stratum: str, **about: Any
) -> list[Report]:
    """AUC and equal error rate of pairs (T,), labeled true where one person; `people` (T, 2) own voice and face.

    The intervals are over people, on both sides; `about` is further fields of the reports.
    """
    auc, eer = roc_intervals(similarities, labels, people, seed)
    scores = (("AUC", roc_auc, auc), ("EER", equal_error_rate, eer))
    return [
        Report(
            task="verification",
            stratum=stratum,
            metric=metric,
            score=score(similarities, labels),
            chance=0.5,
            interval=interval,
            num_trials=len(labels),
            num_identities=len(set(people[:, 0].tolist())),
            seed=seed,
            **about,
        )
        for metric, score, interval in scores
    ]
