"""Retrieval: rank all faces for a voice, and all voices for a face."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voicestyle.evaluate.embeddings import Embeddings, unit
from voicestyle.evaluate.lists import STRATA, Direction, RetrievalList, source
from voicestyle.evaluate.matching import TASKS
from voicestyle.evaluate.report import Ranks, Report, Scored
from voicestyle.metrics import (
    Ranking,
    bootstrap_interval,
    bootstrap_weights,
    median_ranks,
    percentiles,
    rank,
    settled,
)

RANKS = (1, 5, 10)  # K of R@K
BLOCK = 256  # queries whose similarities are in memory together: 20 MB with a gallery of 20,000


def score_retrieval(trial_list: RetrievalList, voices: Embeddings, faces: Embeddings, seed: int = 0) -> list[Scored]:
    """Mean average precision, R@K and the median rank of the first relevant item: for voices, then for faces.

    Items of the query's person are relevant. Items without an embedding are missing from the gallery; queries without
    one, or without a relevant item, are left out and counted.

    Args:
        trial_list: names of voices and faces
        voices: by name
        faces: by name
        seed: of the bootstrap
    """
    voice_side, face_side = (voices, trial_list.voices), (faces, trial_list.faces)
    return [
        _score("v2f", *voice_side, *face_side, seed, source(trial_list)),
        _score("f2v", *face_side, *voice_side, seed, source(trial_list)),
    ]


def _score(
    direction: Direction,
    queries: Embeddings,
    query_people: Mapping[str, str],
    gallery: Embeddings,
    gallery_people: Mapping[str, str],
    seed: int,
    file: str,
) -> Scored:
    there = [name for name in gallery_people if name in gallery.rows]
    relevant = _columns([gallery_people[name] for name in there])
    usable = [name for name, person in query_people.items() if name in queries.rows and person in relevant]
    if not usable:
        raise ValueError(f"retrieval: no query of {len(query_people)} has a usable item of its person to find")
    people = [query_people[name] for name in usable]
    columns = [relevant[person] for person in people]
    ranking = rank_all(queries.emb[queries.find(usable)], gallery.emb[gallery.find(there)], columns)
    num_relevant = np.array([len(found) for found in columns])
    about = {"task": f"retrieval, {TASKS[direction]}", "trials": file, "num_left_out": len(query_people) - len(usable)}
    reports = _reports(ranking, num_relevant, len(there), np.array(people), seed, about)
    return Scored(reports, Ranks(ranking.first_rank, num_relevant, len(there)))


def rank_all(
    query: NDArray[np.float32], gallery: NDArray[np.float32], relevant: Sequence[NDArray[np.int64]], block: int = BLOCK
) -> Ranking:
    """The rankings of Q queries (Q, D) over a gallery (G, D) by cosine, with `block` x G similarities at a time.

    Equal gallery items tie exactly: the similarity of each distinct vector is computed once, for a matrix product may
    round the same numbers differently from column to column.
    """
    distinct, place = np.unique(gallery, axis=0, return_inverse=True)
    columns = place.reshape(-1)
    if len(distinct) == len(gallery):
        distinct, columns = gallery, np.arange(len(gallery))
    query, distinct = unit(query), unit(distinct)
    parts = [
        rank(settled(query[start : start + block] @ distinct.T)[:, columns], relevant[start : start + block])
        for start in range(0, len(query), block)
    ]
    fields = ("average_precision", "above", "tied", "hits")
    return Ranking(*(np.concatenate([getattr(part, field) for part in parts]) for field in fields))


def _columns(people: Sequence[str]) -> dict[str, NDArray[np.int64]]:
    """The places of each person's items."""
    found: dict[str, list[int]] = {}
    for column, person in enumerate(people):
        found.setdefault(person, []).append(column)
    return {person: np.array(columns) for person, columns in found.items()}


def _reports(
    ranking: Ranking,
    num_relevant: NDArray[np.int64],  # (Q,)
    num_candidates: int,
    people: NDArray,  # (Q,) who asks
    seed: int,
    about: dict[str, Any],
) -> tuple[Report, ...]:
    """All scores of one direction; chance is what equal similarities give.

    Intervals are over the people who ask: with others in the gallery all would have to be ranked again.
    """
    counts, which = np.unique(num_relevant, return_inverse=True)
    equal = rank(np.zeros((len(counts), num_candidates)), [np.arange(count) for count in counts])
    means = [("mAP", ranking.average_precision, equal.average_precision)]
    means += [(f"R@{k}", ranking.hit_at(k), equal.hit_at(k)) for k in RANKS if k < num_candidates]
    rows = [
        (metric, float(values.mean()), float(chance[which].mean()), bootstrap_interval(values, people, seed))
        for metric, values, chance in means
    ]
    [median], [chance] = median_ranks(ranking, [np.ones(len(people))]), median_ranks(equal, [np.bincount(which)])
    interval = percentiles(median_ranks(ranking, bootstrap_weights(people, seed)))
    rows.append(("median rank", float(median), float(chance), interval))
    return tuple(
        Report(
            metric=metric,
            stratum=STRATA["U"],
            score=score,
            chance=chance,
            interval=interval,
            num_trials=len(people),
            num_identities=len(set(people.tolist())),
            seed=seed,
            **about,
        )
        for metric, score, chance, interval in rows
    )
