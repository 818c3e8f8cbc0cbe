"""What an evaluation says: a score is never without its chance level, its interval and its number of trials."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voicestyle.files import written_whole

COLUMNS = ("task", "within", "metric", "score", "95 % interval", "chance", "trials", "left out", "identities", "list")


@dataclass(frozen=True)
class Report:
    """One score of one task."""

    task: str  # e.g. "matching 1:2, voice to face"
    stratum: str  # what the impostors share with the probe: "any", "same gender", ...
    metric: str  # "AUC", "EER", "accuracy", "mAP", "R@1", "median rank"
    score: float
    chance: float  # what constant embeddings score
    interval: tuple[float, float]  # 95 %, bootstrap over identities
    num_trials: int
    num_identities: int  # of the probes
    seed: int  # of the trials, where they were made, and of the bootstrap
    trials: str = ""  # the file of the trials; empty: made with the seed
    num_left_out: int = 0  # trials or queries of an item that could not be used
    num_unlabeled: int = 0  # items that could not be in the stratum: no label, or too few people share it
    num_repeated: int = 0  # trials that a list has once more; each counts

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready values."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        low, high = self.interval
        text = (
            f"{self.task} ({self.stratum}): {self.metric} {self.score:.3f} [{low:.3f}, {high:.3f}], "
            f"chance {self.chance:.3f}, {self.num_trials} trials, {self.num_identities} identities, seed {self.seed}"
        )
        text += f", {self.num_left_out} trials left out" if self.num_left_out else ""
        text += f", {self.num_unlabeled} items left out (no label, or too few share it)" if self.num_unlabeled else ""
        text += f", {self.num_repeated} trials repeat others of the list" if self.num_repeated else ""
        return text + (f", {self.trials}" if self.trials else "")

    def cells(self) -> tuple[str, ...]:
        """The values of `COLUMNS`."""
        interval = f"{self.interval[0]:.3f} to {self.interval[1]:.3f}"
        left_out = f"{self.num_left_out} trials" + (f", {self.num_unlabeled} items" if self.num_unlabeled else "")
        left_out += f", {self.num_repeated} repeated" if self.num_repeated else ""
        return (
            self.task,
            self.stratum,
            self.metric,
            f"{self.score:.3f}",
            interval,
            f"{self.chance:.3f}",
            f"{self.num_trials:,}",
            left_out,
            str(self.num_identities),
            self.trials or f"seed {self.seed}",
        )


@dataclass(frozen=True, eq=False)
class Pairs:
    """How alike pairs (T,) of a voice and a face are."""

    similarities: NDArray[np.float64]
    same_person: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Ranks:
    """Where queries (Q,) find their first relevant item."""

    first: NDArray[np.float64]  # from 1
    num_relevant: NDArray[np.int64]
    num_candidates: int  # size of the gallery


@dataclass(frozen=True, eq=False)
class Scored:
    """What one list of trials gives: its scores, and what curves are drawn from."""

    reports: tuple[Report, ...]
    found: Pairs | Ranks


@dataclass(frozen=True, eq=False)
class Evaluation(Sequence[Report]):
    """The reports of one task, and how they came about."""

    model: str
    encoder_fingerprint: str
    tested: str  # manifest and split, or folder of lists
    voices: str  # what of a recording is embedded
    faces: str  # what of a picture is embedded
    leak_check: str
    scored: Mapping[str, Scored]  # name of the list -> its scores
    refused: Mapping[str, str] = field(default_factory=dict)  # items that could not be used, and why

    @property
    def reports(self) -> list[Report]:
        """All of them, list by list."""
        return [report for scored in self.scored.values() for report in scored.reports]

    def __len__(self) -> int:
        return len(self.reports)

    def __getitem__(self, index: Any) -> Any:
        return self.reports[index]

    def context(self) -> dict[str, Any]:
        """What every number of this evaluation has to be read with, as plain JSON-ready values."""
        names = ("model", "encoder_fingerprint", "tested", "voices", "faces", "leak_check")
        return {**{name: getattr(self, name) for name in names}, "num_refused": len(self.refused)}

    def to_dicts(self) -> list[dict[str, Any]]:
        """One JSON-ready record a score, each with the whole context."""
        return [{**report.to_dict(), **self.context()} for report in self.reports]

    def header(self) -> list[str]:
        """The context as lines for people."""
        lines = [
            f"model {self.model} (encoder {self.encoder_fingerprint[:12]}), {self.tested}",
            f"voices: {self.voices}; faces: {self.faces}",
            self.leak_check,
        ]
        if self.refused:
            lines.append(f"{len(self.refused)} recordings or pictures could not be used; their trials are left out")
        return lines

    def to_markdown(self) -> str:
        """The context and a table, one score a line."""
        rows = [COLUMNS, ["---"] * len(COLUMNS), *(report.cells() for report in self.reports)]
        table = [f"| {' | '.join(row)} |" for row in rows]
        return "\n".join([*(f"- {line}" for line in self.header()), "", *table]) + "\n"

    def write_markdown(self, path: str | Path) -> None:
        """Write `to_markdown` to a file, all or nothing."""
        with written_whole(path) as beside:
            beside.write_text(self.to_markdown(), encoding="utf-8")
