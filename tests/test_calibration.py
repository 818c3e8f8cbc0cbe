"""Probabilities and intervals: against naive oracles, and against what is known of made-up people."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from tiny import VOICE, save_tiny
from voicestyle import calibration, pipeline
from voicestyle.checkpoint import SUGGESTION
from voicestyle.evaluate.calibration import Voices, fit_suggestion, score_suggestion
from voicestyle.live import hear
from voicestyle.report import make_report
from voicestyle.report_page import report_html, save_report
from voicestyle.show import evidence, way_tiles
from voicestyle.suggestion import Suggestion


def test_logistic_regression_finds_what_torch_finds() -> None:
    rng = np.random.default_rng(0)
    x, weights = rng.standard_normal((60, 3)), rng.uniform(0.5, 2, 60)
    y = (rng.random(60) < calibration.sigmoid(x @ [1.0, -2.0, 0.5] + 0.3)).astype(float)
    coefficients, bias = calibration.fit_logistic(x, y, weights, ridge=0.7)
    beta = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    design = torch.from_numpy(np.column_stack([x, np.ones(60)]))
    optimizer = torch.optim.LBFGS([beta], max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-15)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        told = F.binary_cross_entropy_with_logits(design @ beta, torch.from_numpy(y), reduction="none")
        total = (torch.from_numpy(weights) * told).sum() + 0.35 * beta[:3].square().sum()
        total.backward()
        return total

    optimizer.step(loss)
    assert np.allclose([*coefficients, bias], beta.detach(), atol=1e-6)
    with pytest.raises(ValueError, match="both labels"):
        calibration.fit_logistic(x, np.ones(60), weights)


def test_separated_labels_do_not_break_it() -> None:
    coefficients, bias = calibration.fit_logistic(np.array([[-2.0], [-1.0], [1.0], [2.0]]), [0, 0, 1, 1], np.ones(4))
    assert np.isfinite([*coefficients, bias]).all() and coefficients[0] > 1


def test_ridge_regression_is_that_of_repeated_rows() -> None:
    rng = np.random.default_rng(1)
    x, y, counts = rng.standard_normal((20, 4)), rng.standard_normal(20), rng.integers(1, 4, 20)
    weighted = calibration.fit_ridge(x, y, counts, 0.5)
    repeated = calibration.fit_ridge(np.repeat(x, counts, 0), np.repeat(y, counts), np.ones(counts.sum()), 0.5)
    assert np.allclose(weighted[0], repeated[0]) and weighted[1] == pytest.approx(repeated[1])


def test_people_count_once_and_stay_in_one_fold() -> None:
    people = ["a", "a", "b", "c", "c", "c"]
    weights = calibration.person_weights(people)
    assert weights.tolist() == [0.5, 0.5, 1, 1 / 3, 1 / 3, 1 / 3]
    balanced = calibration.balanced_weights(weights, [1, 1, 0, 0, 0, 0])
    assert balanced[:2].sum() == pytest.approx(balanced[2:].sum())
    folds = calibration.folds_of(people, 2, seed=3)
    assert folds[0] == folds[1] and len(set(folds[3:])) == 1


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=30), st.floats(0.05, 0.95))
def test_the_conformal_margin_is_the_smallest_that_covers(residuals: list[float], coverage: float) -> None:
    margin = calibration.conformal_margin(residuals, coverage)
    needed = math.ceil((len(residuals) + 1) * coverage)
    if math.isinf(margin):
        assert needed > len(residuals)
    else:
        assert sum(abs(r) <= margin for r in residuals) >= needed
        assert sum(abs(r) < margin for r in residuals) < needed


def test_intervals_cover_new_people_as_often_as_they_say() -> None:
    rng = np.random.default_rng(2)
    covered = [
        np.abs(rng.standard_normal()) <= calibration.conformal_margin(rng.standard_normal(40), 0.9) for _ in range(2000)
    ]
    assert 0.88 < np.mean(covered) < 0.93


def test_scores_against_their_definitions() -> None:
    p, y, w = np.array([0.9, 0.2, 0.65, 0.05]), np.array([1, 0, 0, 0]), np.array([1.0, 2, 1, 1])
    assert calibration.brier_score(p, y, w) == pytest.approx((0.01 + 2 * 0.04 + 0.4225 + 0.0025) / 5)
    said = [0.9, 0.8, 0.35, 0.95]
    assert calibration.log_loss(p, y, w) == pytest.approx(
        -sum(v * math.log(s) for v, s in zip(w, said, strict=True)) / 5
    )
    assert calibration.expected_calibration_error([0.75] * 4, [1, 1, 1, 0], np.ones(4)) == pytest.approx(0)
    assert calibration.expected_calibration_error([1.0, 1.0], [1, 0], np.ones(2)) == pytest.approx(0.5)
    means, shares, weight = calibration.reliability([0.1, 0.12, 0.9], [0, 1, 1], np.ones(3))
    assert np.allclose(means, [0.11, 0.9]) and np.allclose(shares, [0.5, 1]) and weight.tolist() == [2, 1]


@given(
    st.lists(st.tuples(st.sampled_from([0.5, 0.6, 0.7, 0.9]), st.booleans()), min_size=1, max_size=12), st.floats(0, 1)
)
def test_the_threshold_answers_as_many_as_the_risk_allows(cases: list[tuple[float, bool]], max_risk: float) -> None:
    confidence, wrong = (np.array(v) for v in zip(*cases, strict=True))
    threshold = calibration.threshold_for_risk(confidence, wrong, np.ones(len(cases)), max_risk)
    allowed = [t for t in set(confidence) if wrong[confidence >= t].mean() <= max_risk + 1e-12]
    assert threshold == (min(allowed) if allowed else math.inf)
    coverage, risk = calibration.risk_coverage(confidence, wrong, np.ones(len(cases)))
    assert coverage[-1] == pytest.approx(1) and risk[-1] == pytest.approx(wrong.mean())


def test_what_is_like_the_rest_is_near_and_what_is_not_is_far() -> None:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((500, 10)) * np.linspace(1, 0.1, 10)
    known = calibration.Familiarity.fit(x, 4)
    assert np.sqrt(np.mean(known.distance(x) ** 2)) == pytest.approx(1)
    assert known.distance(x + 5)[0] > 3 * known.distance(x).max()


def people(num: int, noise: float, seed: int, start: int = 0) -> Voices:
    """Made-up voices of women and men, two clips a person, whose age shows in one coordinate."""
    rng = np.random.default_rng(seed)
    woman, age = rng.integers(0, 2, num).astype(float), rng.uniform(20, 70, num)
    centers = np.column_stack([2 * woman - 1, (age - 45) / 25, np.ones(num)])
    clips = np.repeat(centers, 2, 0) + noise * rng.standard_normal((2 * num, 3))
    names = np.repeat([f"p{start + i}" for i in range(num)], 2)
    return Voices(clips / np.linalg.norm(clips, axis=1, keepdims=True), names, np.repeat(woman, 2), np.repeat(age, 2))


def test_a_fitted_suggestion_keeps_what_it_promises(tmp_path: Path) -> None:
    made = fit_suggestion(people(300, 0.6, 0), people(200, 0.6, 1, 1000), "f" * 64)
    scores = score_suggestion(made, people(300, 0.6, 2, 2000))
    found = {what: (score, interval) for what, score, interval, _ in scores.rows}
    assert found["sex: expected calibration error"][0] < 0.06
    assert found["sex: error among the answered"][0] <= 0.05 < found["sex: error"][0] + 0.05
    (within,) = [score for what, (score, _) in found.items() if what.startswith("age: within")]
    assert 0.85 < within < 0.95
    assert "| sex: Brier score |" in scores.to_markdown()
    made.save(tmp_path / "s.safetensors")
    again = Suggestion.load(tmp_path / "s.safetensors", "f" * 64)
    x = people(1, 0.6, 4).features[0]
    assert again(x, 5.0) == made(x, 5.0)
    with pytest.raises(ValueError, match="fitted for encoder ffff"):
        Suggestion.load(tmp_path / "s.safetensors", "0" * 64)
    (tmp_path / "s.safetensors").write_bytes(b"x")
    with pytest.raises(ValueError, match="truncated or not a safetensors file"):
        Suggestion.load(tmp_path / "s.safetensors", "f" * 64)


def test_nothing_is_said_of_what_is_short_strange_or_unsure() -> None:
    made = fit_suggestion(people(300, 0.6, 0), people(200, 0.6, 1, 1000), "f" * 64)
    woman = np.array([1, 0, 1.0]) / math.sqrt(2)
    assert made(woman, 5.0)["sex"]["woman"] > 0.9
    assert "1.0 s of speech" in made(woman, 1.0)["sex"]["withheld"][0] and "years" not in made(woman, 1.0)["age"]
    strange = made(np.array([0, 0, -1.0]), 5.0)
    assert any("unlike" in why for why in strange["sex"]["withheld"])
    unsure = made(np.array([0, 0.1, 1.0]) / math.sqrt(1.01), 5.0)
    assert any("neither is likelier" in why for why in unsure["sex"]["withheld"]) and unsure["age"]["withheld"] == []


def test_a_doubt_withholds_all_and_is_told_first() -> None:
    made = fit_suggestion(people(300, 0.6, 0), people(200, 0.6, 1, 1000), "f" * 64)
    told = made(np.array([1, 0, 1.0]) / math.sqrt(2), 5.0, "no speech found in 5.0 s")
    assert (
        told["sex"]["withheld"] == told["age"]["withheld"] == ["no speech found in 5.0 s"]
        and "woman" not in told["sex"]
    )


def test_the_report_of_noise_says_that_it_is_noise(vs: pipeline.VoiceStyle, tmp_path: Path) -> None:
    noise = tmp_path / "noise.wav"
    soundfile.write(noise, 0.2 * np.random.default_rng(0).standard_normal(48000), 16000)
    voice = hear(vs, noise)
    report = make_report(vs, vs.generate_from(voice.voice_emb), voice)
    assert report["sections"][0]["lines"][0].startswith("Do not believe this face: no speech found in 3.0 s")


def test_an_age_that_the_voice_does_not_tell_is_not_told() -> None:
    apparent = people(100, 0.6, 0)
    shuffled = np.random.default_rng(0).permutation(np.unique(apparent.age))
    lost = Voices(apparent.features, apparent.people, apparent.woman, np.repeat(shuffled, 2))
    made = fit_suggestion(lost, people(100, 0.6, 1, 1000), "f" * 64)
    if made.age_margin >= made.age_constant_margin:
        assert "constant guess" in made(apparent.features[0], 5.0)["age"]["withheld"][0]
    assert made.age_margin > 0.9 * made.age_constant_margin


@pytest.fixture(scope="module")
def vs(tmp_path_factory: pytest.TempPathFactory) -> pipeline.VoiceStyle:
    return pipeline.load(save_tiny(tmp_path_factory.mktemp("models") / "tiny"))


def test_the_report_is_one_page_that_asks_for_nothing(vs: pipeline.VoiceStyle, tmp_path: Path) -> None:
    voice, made = hear(vs, VOICE), vs.generate(VOICE, num_faces=2)
    assert torch.allclose(voice.voice_emb, vs.encode_voice(VOICE), atol=1e-6)
    report = save_report(vs, made, voice, tmp_path / "report.html", "voicestyle generate <clip>")
    page = (tmp_path / "report.html").read_text()
    assert page.count('alt="AI-generated face') == 2 and "&lt;clip&gt;" in page
    shown = evidence(vs, made.prototypes)
    tiles = len(shown["members"]) + len(shown["prototypes"]) + 2 * len(way_tiles(vs, made, 0, 4))
    assert page.count("data:image/jpeg;base64,") - 2 == tiles == page.count("<figcaption>")
    for outside in ("http://", "https://", "<script", "url("):
        assert outside not in page, outside
    assert report["suggestion"] is None and "was not calibrated" in page
    assert report["halves"]["similarity"] <= 1 and 0 < report["voice"]["speech_s"] <= report["voice"]["seconds"]


def test_a_calibrated_model_says_what_the_voice_suggests(vs: pipeline.VoiceStyle) -> None:
    dim = hear(vs, VOICE).features.shape[1]
    rng = np.random.default_rng(0)

    def lifted(voices: Voices) -> Voices:
        wide = np.column_stack([voices.features, 0.1 * rng.standard_normal((len(voices.features), dim - 3))])
        return Voices(wide, voices.people, voices.woman, voices.age)

    made = fit_suggestion(lifted(people(60, 0.6, 0)), lifted(people(60, 0.6, 1, 100)), vs.model.encoder_fingerprint)
    path = vs.model.folder / SUGGESTION
    made.save(path)
    try:
        face = vs.generate(VOICE)
        report = make_report(vs, face, hear(vs, VOICE))
        assert {"sex", "age", "distance"} <= set(report["suggestion"])
        assert len(report["halves"]["woman"]) == 2
        page = report_html(vs, face, hear(vs, VOICE), report)
        assert "Sex: no answer" in page or "It sounds like a" in page
    finally:
        path.unlink()
