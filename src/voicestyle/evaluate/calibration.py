"""Fit what a voice suggests by itself, on people that no training saw, and score how far that can be believed."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from voicestyle.calibration import (
    Array,
    Familiarity,
    balanced_weights,
    brier_score,
    conformal_margin,
    expected_calibration_error,
    fit_logistic,
    fit_ridge,
    folds_of,
    log_loss,
    person_weights,
    risk_coverage,
    sigmoid,
    threshold_for_risk,
)
from voicestyle.data.manifest import Item, Manifest
from voicestyle.data.shards import whole_log_mel
from voicestyle.files import kept, sha256_of
from voicestyle.metrics import bootstrap_interval
from voicestyle.schema import to_dict
from voicestyle.suggestion import Suggestion
from voicestyle.weights import fingerprint

if TYPE_CHECKING:
    from voicestyle.pipeline import VoiceStyle

NUM_FOLDS = 10
RIDGES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # of features of unit norm; the best on people kept apart is taken
NUM_DIRECTIONS = 24  # of `Familiarity`
MAX_RISK = 0.02  # error that is allowed among the answers of a calibrated sex
AGE_COVERAGE = 0.9
MIN_SPEECH_S = 2.0  # seconds; shorter clips were in no calibration


@dataclass(frozen=True, eq=False)
class Voices:
    """Voices of people: features of the frozen networks, and labels where there are any."""

    features: Array  # (N,F) unit norm
    people: NDArray[np.str_]  # (N,)
    woman: Array  # (N,) 1 or 0; NaN where it is not known
    age: Array  # (N,) years; NaN where it is not known

    def __getitem__(self, rows: Any) -> Voices:
        return Voices(self.features[rows], self.people[rows], self.woman[rows], self.age[rows])

    @property
    def weights(self) -> Array:
        """Each person counts once."""
        return person_weights(self.people)

    @property
    def num_people(self) -> int:
        return len(np.unique(self.people))


def read_apparent(path: str | Path) -> dict[str, tuple[float, float]]:
    """Key -> apparent sex (1: woman) and age, of a CSV with columns key, predicted_gender and predicted_age."""
    with Path(path).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    needed = {"key", "predicted_gender", "predicted_age"}
    if not rows or not needed <= set(rows[0]):
        raise ValueError(f"{path}: expected a table with columns {sorted(needed)}")
    sexes = {"female": 1.0, "f": 1.0, "male": 0.0, "m": 0.0}
    return {
        row["key"]: (sexes.get(row["predicted_gender"], np.nan), float(row["predicted_age"] or "nan")) for row in rows
    }


@torch.no_grad()
def hear_voices(
    vs: VoiceStyle,
    items: Sequence[Item],
    apparent: dict[str, tuple[float, float]],
    cache: Path | None = None,
    refuse: Callable[[Item, Exception], None] = lambda item, error: None,
    progress: Callable[[int], object] = lambda count: None,
) -> Voices:
    """The voices of items. A label of the manifest counts before an apparent one; items that cannot be used go."""

    def make() -> dict[str, Tensor]:
        rows, features = [], []
        for row, item in enumerate(items):
            try:
                log_mel = whole_log_mel(item.voice or "", vs.config.encoder.log_mel)[None].to(vs.device)
                features.append(F.normalize(vs.encoder.voice_features(log_mel), dim=1)[0].float())
                rows.append(row)
            except (ValueError, OSError) as error:
                refuse(item, error)
            progress(1)
        return {"rows": torch.tensor(rows), "features": torch.stack(features)}

    names = "\n".join(str(item.voice and item.voice.resolve()) for item in items)
    front_end = json.dumps(to_dict(vs.config.encoder.log_mel), sort_keys=True)
    # the frozen networks alone: another bridge changes nothing here
    stem = f"voices-{fingerprint(vs.encoder.voice_backbone)[:16]}-{sha256_of(f'{front_end}{names}'.encode())[:16]}"
    found = kept(cache and cache / f"{stem}.safetensors", make)
    used = [items[row] for row in found["rows"].tolist()]
    unknown = (np.nan, np.nan)
    woman = [{"f": 1.0, "m": 0.0}.get(item.gender, apparent.get(item.key, unknown)[0]) for item in used]
    age = [apparent.get(item.key, unknown)[1] if item.age is None else item.age for item in used]
    features = found["features"].double().numpy()
    return Voices(features, np.array([item.identity for item in used]), np.array(woman), np.array(age))


def fit_suggestion(apparent: Voices, labeled: Voices, encoder_fingerprint: str, seed: int = 0) -> Suggestion:
    """Maps fitted on both kinds of people, calibrated on what they say of people kept apart.

    Args:
        apparent: with the sex and age that a classifier of faces sees; they teach the maps, and the age's interval
        labeled: with a sex that is known, in neither training; they calibrate the sex
        encoder_fingerprint: of the encoder whose features they are
        seed: of the folds
    """
    known = apparent[np.isfinite(apparent.woman)]
    x = np.concatenate([known.features, labeled.features])
    sex, p, ridge = _fit_sex(known, labeled, seed)
    wrong = (p > 0.5) != (labeled.woman > 0.5)
    familiarity = Familiarity.fit(x, NUM_DIRECTIONS)
    distance = familiarity.distance(labeled.features)
    risk = max(MAX_RISK, float(np.average(wrong, weights=labeled.weights)))
    farthest = -threshold_for_risk(-distance, wrong, labeled.weights, risk)
    return Suggestion(
        **sex,
        **_fit_age(apparent[np.isfinite(apparent.age)], seed),
        age_coverage=AGE_COVERAGE,
        familiarity=familiarity,
        max_distance=min(farthest, float(familiarity.distance(x).max())),
        min_confidence=threshold_for_risk(np.maximum(p, 1 - p), wrong, labeled.weights, MAX_RISK),
        min_speech_s=MIN_SPEECH_S,
        encoder_fingerprint=encoder_fingerprint,
        about={
            "apparent_people": known.num_people,
            "labeled_people": labeled.num_people,
            "ridge": ridge,
            "seed": seed,
            "max_risk": MAX_RISK,
        },
    )


def _fit_sex(known: Voices, labeled: Voices, seed: int) -> tuple[dict[str, Any], Array, float]:
    """The map to the log odds of a woman's voice; what it says of each labeled voice, kept apart; and its ridge."""
    x = np.concatenate([known.features, labeled.features])
    woman = np.concatenate([known.woman, labeled.woman])
    people = np.concatenate([known.people, labeled.people])
    weights = person_weights(people)
    is_labeled = np.arange(len(x)) >= len(known.features)
    folds = folds_of(people, NUM_FOLDS, seed)

    def apart(ridge: float) -> Array:
        return _apart(lambda fit: fit_logistic(x[fit], woman[fit], weights[fit], ridge), x, folds)[is_labeled]

    counts = balanced_weights(labeled.weights, labeled.woman)
    scores = {ridge: apart(ridge) for ridge in RIDGES}
    platts = {ridge: fit_logistic(z[:, None], labeled.woman, counts) for ridge, z in scores.items()}
    said = {r: sigmoid(platts[r][0][0] * z + platts[r][1]) for r, z in scores.items()}
    ridge = min(RIDGES, key=lambda r: log_loss(said[r], labeled.woman, counts))
    coefficients, bias = fit_logistic(x, woman, weights, ridge)
    (scale,), offset = platts[ridge]
    found = {"sex": coefficients, "sex_bias": bias, "sex_scale": float(scale), "sex_offset": float(offset)}
    return found, said[ridge], ridge


def _fit_age(voices: Voices, seed: int) -> dict[str, Any]:
    """The map to an age, its margin by people kept apart, and what a constant guess reaches."""
    x, age, weights = voices.features, voices.age, voices.weights
    folds = folds_of(voices.people, NUM_FOLDS, seed)

    def fit(rows: NDArray[np.bool_], ridge: float) -> tuple[Array, float]:
        return fit_ridge(x[rows], age[rows], weights[rows], ridge)

    apart = {ridge: _apart(partial(fit, ridge=ridge), x, folds) for ridge in RIDGES}
    ridge = min(RIDGES, key=lambda r: np.average(np.abs(age - apart[r]), weights=weights))
    coefficients, bias = fit_ridge(x, age, weights, ridge)
    constant = float(np.median(age))
    return {
        "age": coefficients,
        "age_bias": bias,
        "age_margin": conformal_margin(age - apart[ridge], AGE_COVERAGE),
        "age_constant": constant,
        "age_constant_margin": conformal_margin(age - constant, AGE_COVERAGE),
    }


def _apart(fit: Callable[[NDArray[np.bool_]], tuple[Array, float]], x: Array, folds: NDArray[np.int64]) -> Array:
    """What a linear map says of each row that was fitted without its fold."""
    said = np.zeros(len(x))
    for fold in np.unique(folds):
        coefficients, bias = fit(folds != fold)
        said[folds == fold] = x[folds == fold] @ coefficients + bias
    return said


@dataclass(frozen=True, eq=False)
class Calibration:
    """How far a suggestion can be believed, on people that were in none of its fitting."""

    rows: list[tuple[str, float, tuple[float, float], str]]  # what, score, 95 % interval over people, chance
    woman: Array  # (N,) probabilities
    is_woman: NDArray[np.bool_]
    weights: Array
    distance: Array
    num_people: int
    num_voices: int

    @property
    def risk(self) -> tuple[Array, Array]:
        """Coverage and risk of the sex, the surest answers first."""
        return risk_coverage(np.maximum(self.woman, 1 - self.woman), (self.woman > 0.5) != self.is_woman, self.weights)

    def to_markdown(self) -> str:
        """A table."""
        head = f"{self.num_voices} voices of {self.num_people} people, each counts once; intervals over people.\n\n"
        lines = ["| | score | 95 % interval | constant guess |", "|---|---|---|---|"]
        for what, score, (low, high), chance in self.rows:
            lines.append(f"| {what} | {score:.3f} | {low:.3f} to {high:.3f} | {chance} |")
        return head + "\n".join(lines) + "\n"


def score_suggestion(made: Suggestion, test: Voices, seed: int = 0) -> Calibration:
    """Scores on people with a known sex; ages count where they are there."""
    test = test[np.isfinite(test.woman)]
    z = test.features @ made.sex + made.sex_bias
    p = sigmoid(made.sex_scale * z + made.sex_offset)
    is_woman = test.woman > 0.5
    table = np.column_stack([p, is_woman, test.weights])
    rows = []

    def add(what: str, statistic: Callable[[Array], float], values: Array, people: Any, chance: str) -> None:
        interval = bootstrap_interval(values, people, seed, statistic=statistic)
        rows.append((what, statistic(values), interval, chance))

    def of_table(score: Callable[[Array, Array, Array], float]) -> Callable[[Array], float]:
        return lambda t: score(t[:, 0], t[:, 1], t[:, 2])

    def error(t: Array) -> float:
        return float(np.average((t[:, 0] > 0.5) != (t[:, 1] > 0.5), weights=t[:, 2]))

    share = np.average(is_woman, weights=test.weights)
    add("sex: error", error, table, test.people, f"{min(share, 1 - share):.3f}")
    for name, score, chance in (
        ("Brier score", brier_score, "0.250"),
        ("log loss, nats", log_loss, "0.693"),
        ("expected calibration error", expected_calibration_error, "0 at best"),
    ):
        add(f"sex: {name}", of_table(score), table, test.people, chance)
    distance = made.familiarity.distance(test.features)
    answered = (np.maximum(p, 1 - p) >= made.min_confidence) & (distance <= made.max_distance)
    table = np.column_stack([answered, test.weights])
    add("sex: share answered", lambda t: float(np.average(t[:, 0], weights=t[:, 1])), table, test.people, "1")
    if answered.any():
        table = np.column_stack([p, is_woman, test.weights])[answered]
        add("sex: error among the answered", error, table, test.people[answered], "")
    _score_ages(made, test, add)
    return Calibration(rows, p, is_woman, test.weights, distance, test.num_people, len(test.people))


def _score_ages(made: Suggestion, test: Voices, add: Callable[..., None]) -> None:
    known = np.isfinite(test.age)
    for sex, rows in (("", known), (", women", known & (test.woman > 0.5)), (", men", known & (test.woman < 0.5))):
        if not rows.any():
            continue
        off = np.abs(test.features[rows] @ made.age + made.age_bias - test.age[rows])
        constant = np.abs(made.age_constant - test.age[rows])
        table, people = np.column_stack([off, test.weights[rows]]), test.people[rows]

        def mean(t: Array) -> float:
            return float(np.average(t[:, 0], weights=t[:, 1]))

        def within(t: Array) -> float:
            return float(np.average(t[:, 0] <= made.age_margin, weights=t[:, 1]))

        covered = np.average(constant <= made.age_constant_margin, weights=test.weights[rows])
        width = f"interval of {2 * made.age_margin:.0f} years"
        add(
            f"age{sex}: mean error, years",
            mean,
            table,
            people,
            f"{np.average(constant, weights=test.weights[rows]):.3f}",
        )
        chance = f"{covered:.3f}, {2 * made.age_constant_margin:.0f} years"
        add(f"age{sex}: within the {width}", within, table, people, chance)


def items_with_voices(path: str | Path, split: str | None) -> list[Item]:
    """The items of a manifest, or of one split of it, that have a recording."""
    manifest = Manifest.read(path)
    items = [item for item in (manifest.split(split) if split else manifest) if item.voice is not None]
    if not items:
        raise ValueError(f"{path}: no recordings in it, expected some to calibrate on")
    return items
