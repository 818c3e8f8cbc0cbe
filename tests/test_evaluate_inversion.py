"""The study of inversion, and the comparison of generated with real pictures, at toy size."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner, Result
from PIL import Image
from torch import Tensor

import voicestyle
from tiny import save_tiny
from voicestyle.cli import main
from voicestyle.cli.evaluate_pictures import FACTORS as OFFERED
from voicestyle.data.manifest import Item, Manifest
from voicestyle.evaluate import inversion, pictures
from voicestyle.evaluate.inversion import FACTORS, StudySettings, psnr, study_conditions, study_inversion
from voicestyle.evaluate.pictures import evaluate_pictures, inception_features, picture_items, samples
from voicestyle.evaluate.targets import Targets, aligned_targets, low_quality, photograph_targets, smaller
from voicestyle.image import from_pil, to_pil
from voicestyle.pipeline import VoiceStyle

SETTINGS = StudySettings(steps=8, num_linear=100)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def vs(model: Path) -> VoiceStyle:
    return voicestyle.load(model, device="cpu")


@pytest.fixture(scope="module")
def latents(vs: VoiceStyle) -> Tensor:
    return vs.generator.mapping(torch.randn(10, 16, generator=torch.Generator().manual_seed(3)))


@pytest.fixture(scope="module")
def images(vs: VoiceStyle, latents: Tensor) -> Tensor:
    """The generator's own pictures: there are latents that show them."""
    return vs.synthesize(latents).clamp(-1, 1)


@pytest.fixture(scope="module")
def base(images: Tensor) -> Targets:
    return Targets(tuple(f"{i}.png" for i in range(5)), images[:5], images[:5])


@pytest.fixture(scope="module")
def folder(images: Tensor, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("faces")
    for i, pil in enumerate(to_pil(images)):
        pil.save(folder / f"{i}.png")
    return folder


def nobody(name: str, error: Exception) -> None:
    raise AssertionError(f"{name}: {error}")


# -------------------------------------------------------------------------------------------------------------- targets


def test_psnr_equals_the_formula_in_bytes() -> None:
    a, b = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8)
    error = np.square(a.numpy() * 127.5 - b.numpy() * 127.5).reshape(2, -1).mean(1)
    assert np.allclose(psnr(a, b), 10 * np.log10(255**2 / error), atol=1e-4)
    assert psnr(a, a).tolist() == [100, 100]


def test_low_quality_copies_are_drawn_with_the_seed_and_keep_the_original(base: Targets) -> None:
    copies = low_quality(base, 1)
    assert torch.equal(copies.target, low_quality(base, 1).target)
    assert not torch.equal(copies.target, low_quality(base, 2).target)
    assert copies.original is base.original and copies.names == base.names
    assert (psnr(copies.target, base.target) < 40).all()
    alone = dataclasses.replace(base, target=base.target[:1])
    assert torch.equal(low_quality(alone, 1).target, copies.target[:1])


def test_smaller_pictures_lose_detail_and_keep_their_means() -> None:
    image = torch.zeros(2, 3, 32, 32)
    image[0, :, :, ::2] = 0.8  # stripes of one pixel
    image[1] = 0.4
    targets = smaller(Targets(("a", "b"), image, image), 2)
    assert torch.allclose(targets.target[0, :, 4:-4, 4:-4], torch.tensor(0.4), atol=0.02)
    assert torch.allclose(targets.target[1], image[1], atol=0.01)
    assert targets.target.shape == image.shape


@pytest.fixture
def photos(tmp_path) -> list[Item]:
    """A wide and a tall photograph with a smooth "face" in a box, and one whose face is not in the central square."""
    y, x = np.mgrid[0:96, 0:160]
    wave = 127 + 100 * np.stack([np.sin(x / 30), np.cos(y / 20), np.sin((x + y) / 40)], 2)
    wide = Image.fromarray(wave.astype(np.uint8))
    boxes = {"wide": (60, 20, 100, 60), "tall": (20, 60, 60, 100), "aside": (2, 20, 20, 38)}
    items = []
    for name, box in boxes.items():
        (wide.transpose(Image.Transpose.TRANSPOSE) if name == "tall" else wide).save(tmp_path / f"{name}.png")
        items.append(Item(name, "test", name, face=tmp_path / f"{name}.png", face_box=box))
    return items


def test_the_face_is_found_again_in_the_photograph_as_taken(photos: list[Item]) -> None:
    refused = []
    found = photograph_targets(photos, 64, lambda name, error: refused.append(name))
    aligned, taken = found["aligned"], found["as taken"]
    assert aligned.names == taken.names == ("wide", "tall") and refused == ["aside"]
    assert torch.equal(aligned.target, aligned.original) and torch.equal(taken.original, aligned.original)
    assert (psnr(taken.target, aligned.target) < 25).all()  # other frames
    cut = taken.faces(taken.target, slice(0, 2))
    inside = slice(8, -8)
    assert (psnr(cut[:, :, inside, inside], aligned.target[:, :, inside, inside]) > 35).all()


def test_pictures_that_cannot_be_used_are_told_of(folder: Path, tmp_path) -> None:
    (tmp_path / "damaged.png").write_bytes(b"nothing")
    Image.new("RGB", (30, 20)).save(tmp_path / "wide.png")
    Image.open(folder / "3.png").save(tmp_path / "good.png")
    refused = {}
    targets = aligned_targets(picture_items(tmp_path), 32, lambda name, error: refused.update({name: str(error)}))
    assert targets.names == ("good.png",) and targets.target.shape == (1, 3, 32, 32)
    assert "30 x 20 px" in refused["wide.png"] and "not a picture" in refused["damaged.png"]
    (tmp_path / "good.png").unlink()
    with pytest.raises(ValueError, match="no picture could be used"):
        aligned_targets(picture_items(tmp_path), 32, lambda name, error: None)


def test_pictures_of_folders_and_manifests(folder: Path, tmp_path) -> None:
    items = picture_items(folder, num=4, seed=1)
    assert items == picture_items(folder, num=4, seed=1) != picture_items(folder, num=4, seed=2)
    assert [item.key for item in items] == sorted(item.key for item in items)
    paths = sorted(folder.iterdir())
    rows = [Item("a", "val", "a", frontal=paths[0], face=paths[1]), Item("b", "val", "b", face=paths[2])]
    Manifest((*rows, Item("c", "val", "c", voice=paths[3]), Item("d", "train", "d", frontal=paths[4]))).write(
        tmp_path / "pairs.csv"
    )
    aligned, wild = (picture_items(tmp_path / "pairs.csv", photographs=taken) for taken in (False, True))
    assert [item.frontal and item.frontal.name for item in aligned] == [paths[0].name, None]
    assert [(item.frontal, item.face.name) for item in wild] == [(None, paths[1].name), (None, paths[2].name)]
    with pytest.raises(FileNotFoundError, match="no such folder or manifest"):
        picture_items(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no pictures"):
        picture_items(tmp_path / "empty")


# ---------------------------------------------------------------------------------------------------------------- study


def test_each_factor_has_its_rows(vs: VoiceStyle, base: Targets) -> None:
    rows = study_conditions(vs, base, {"others": base}, SETTINGS)
    assert [(c.factor, c.name) for c in rows] == [
        ("first row", "pixel + identity, W, 8 steps"), ("chance", "the mean face"),
        ("objective", "pixel"), ("objective", "identity"), ("space", "W+"),
        ("method", "linear estimate, 0 steps"), ("method", "linear estimate, 1 steps"),
        ("region", "the face"), ("region", "others, the face"), ("quality", "low"),
        ("resolution", "1/2"), ("resolution", "1/4"), ("set", "others"),
    ]  # fmt: skip
    few = study_conditions(vs, base, {"others": base}, SETTINGS, vary=["space"])
    assert [c.factor for c in few] == ["first row", "chance", "space"]
    assert OFFERED == FACTORS


def test_the_first_row_beats_chance_and_repeats(vs: VoiceStyle, base: Targets) -> None:
    conditions = study_conditions(vs, base, {}, SETTINGS, vary=["space", "quality"])
    study = study_inversion(vs, conditions, SETTINGS)
    first, chance, space, quality = (row.scores for row in study.rows)
    for name in ("PSNR (dB)", "identity", "PSNR to original (dB)", "identity to original"):
        assert np.mean(first[name]) > np.mean(chance[name])
        assert len(first[name]) == len(base)
    assert np.mean(first["face-embedding distance"]) < np.mean(chance["face-embedding distance"])
    assert first["PSNR (dB)"] == first["PSNR to original (dB)"] and first["PSNR (dB)"] != space["PSNR (dB)"]
    assert np.mean(quality["PSNR to original (dB)"]) < np.mean(first["PSNR to original (dB)"])
    again = study_inversion(vs, conditions[:1], SETTINGS)
    assert again.rows[0].scores == first


def test_where_the_face_alone_counts_the_rest_is_drawn_worse(vs: VoiceStyle, base: Targets) -> None:
    boxed = dataclasses.replace(base, boxes=((0.0, 0.0, 32.0, 32.0),) * len(base))
    conditions = study_conditions(vs, base, {"as taken": boxed}, SETTINGS, vary=["region"])
    assert [c.name for c in conditions[2:]] == ["the face"]
    first, _, face = study_inversion(vs, conditions, SETTINGS).rows
    assert np.mean(face.scores["PSNR (dB)"]) < np.mean(first.scores["PSNR (dB)"])


def test_scores_are_those_of_naive_formulas(vs: VoiceStyle, base: Targets, photos: list[Item]) -> None:
    run = inversion._Run(vs, SETTINGS, None, None)
    images = base.target.roll(1, 0)
    scores = run.scores(base, images)
    features = vs.encoder.face_features
    assert scores["identity"][2] == pytest.approx(
        F.cosine_similarity(features(images[2:3]), features(base.target[2:3])).item(), abs=1e-4
    )
    assert scores["face-embedding distance"][4] == pytest.approx(
        (features(images[4:]) - features(base.target[4:])).norm().item(), rel=1e-3
    )
    taken = photograph_targets(photos[:2], 32, nobody)["as taken"]
    same = run.scores(taken, taken.target)
    assert same["PSNR (dB)"] == [100, 100] and np.allclose(same["identity"], 1, atol=1e-5)
    assert max(same["PSNR to original (dB)"]) < 60  # the face was smaller there


def test_a_stopped_study_goes_on(vs: VoiceStyle, base: Targets, tmp_path, monkeypatch) -> None:
    conditions = study_conditions(vs, base, {}, SETTINGS, vary=["space", "method"])
    real, calls = inversion.invert, []

    def once(*arguments, **settings):
        calls.append(settings["space"])
        if settings["space"] == "w_plus":
            raise KeyboardInterrupt
        return real(*arguments, **settings)

    monkeypatch.setattr(inversion, "BATCH", 3)
    monkeypatch.setattr(inversion, "invert", once)
    with pytest.raises(KeyboardInterrupt):
        study_inversion(vs, conditions, SETTINGS, cache=tmp_path)
    assert calls == ["w", "w", "w_plus"] and len(list(tmp_path.iterdir())) == 2  # the first row's two batches; chance
    monkeypatch.setattr(inversion, "invert", real)
    study = study_inversion(vs, conditions, SETTINGS, cache=tmp_path)
    monkeypatch.setattr(inversion, "invert", nobody)
    done = []
    cached = study_inversion(vs, conditions, SETTINGS, cache=tmp_path, progress=done.append)
    assert cached.to_dict() == study.to_dict() and sum(done) == 5 * len(conditions)
    uncached = [row.scores for row in study_inversion(vs, conditions[1:2], SETTINGS).rows]
    assert uncached == [study.rows[1].scores]
    for other in (dataclasses.replace(SETTINGS, lr=0.2), dataclasses.replace(SETTINGS, seed=1)):
        with pytest.raises(TypeError):  # nothing is taken from the cache
            study_inversion(vs, conditions[:1], other, cache=tmp_path)


def test_the_linear_estimate_starts_nearer_than_the_mean_face(vs: VoiceStyle, base: Targets) -> None:
    settings = StudySettings(steps=20, num_linear=400)
    study = study_inversion(vs, study_conditions(vs, base, {}, settings, vary=["method"]), settings)
    _, chance, estimate, refined = (np.mean(row.scores["PSNR (dB)"]) for row in study.rows)
    assert chance < estimate < refined


def test_the_models_own_inverter_is_a_method(model: Path, base: Targets, latents: Tensor) -> None:
    vs = voicestyle.load(model, device="cpu")
    object.__setattr__(vs.model, "inverter", lambda target: latents[:5])  # as good as an inverter can be
    conditions = study_conditions(vs, base, {}, SETTINGS, vary=["method"])
    assert [c.name for c in conditions][4:] == ["the model's inverter, 0 steps", "the model's inverter, 1 steps"]
    study = study_inversion(vs, [conditions[0], conditions[4]], SETTINGS)
    assert min(study.rows[1].scores["PSNR (dB)"]) > 90  # it knows the latents
    assert "the model's inverter" not in study.left_out


class Look:
    """Stands for LPIPS: the mean difference of small pictures."""

    name = "LPIPS"

    def features(self, image: Tensor) -> list[Tensor]:
        return [F.adaptive_avg_pool2d(image, 4)]

    def distance(self, a: list[Tensor], b: list[Tensor]) -> Tensor:
        return (a[0] - b[0]).abs().mean((1, 2, 3))


def test_with_lpips_it_is_an_objective_and_a_score(vs: VoiceStyle, base: Targets) -> None:
    conditions = study_conditions(vs, base, {}, SETTINGS, Look(), vary=["objective"])
    assert [c.objective for c in conditions] == [
        ("perceptual", "identity"), ("perceptual", "identity"), ("perceptual",), ("perceptual", "pixel", "identity"),
        ("pixel", "identity"), ("pixel",), ("identity",),
    ]  # fmt: skip
    study = study_inversion(vs, [conditions[i] for i in (0, 1, 2, 6)], SETTINGS, Look())
    first, chance, look, identity = (np.mean(row.scores["LPIPS"]) for row in study.rows)
    assert look < chance and look < identity
    assert "face-embedding distance" not in study.rows[0].scores and "perceptual distance" not in study.left_out
    assert conditions[3].name == "LPIPS + pixel + identity"


def test_the_table_tells_what_the_record_holds(vs: VoiceStyle, base: Targets) -> None:
    others = Targets(base.names[:3], base.target[:3], base.original[:3])
    conditions = study_conditions(vs, base, {"others": others}, SETTINGS, vary=["resolution", "set"])
    study = study_inversion(vs, conditions, SETTINGS)
    record = json.loads(json.dumps(study.to_dict()))
    lines = [line for line in study.to_markdown().splitlines() if line.startswith("| ")]
    assert len(lines) == 1 + len(record["rows"]) and len({line.count("|") for line in lines}) == 1
    row = record["rows"][2]
    assert (row["varied"], row["condition"], len(row["pictures"])) == ("resolution", "1/2", 5)
    difference = np.subtract(row["scores"]["identity to original"], record["rows"][0]["scores"]["identity to original"])
    mean, low, high = row["identity_difference"]
    assert mean == pytest.approx(difference.mean()) and low <= mean <= high
    assert f"{mean:+.3f} ({low:+.3f} to {high:+.3f})" in lines[3]
    assert f"{np.mean(row['scores']['identity']):.3f} ± {np.std(row['scores']['identity']):.3f}" in lines[3]
    assert record["rows"][0]["identity_difference"] is None is record["rows"][-1]["identity_difference"]  # others
    assert record["rows"][0]["cost"] == 1 and set(record["left_out"]) == {"perceptual distance", "the model's inverter"}
    sheets = [dataclasses.replace(study, rows=study.rows[:num]).sheet() for num in (1, 2, 3)]
    heights = np.diff([sheet.height for sheet in sheets])
    assert heights[1] == 2 * heights[0]  # other pictures: a row of what was given before the row of inversions


# ------------------------------------------------------------------------------------------------------------- pictures


def test_samples_repeat_and_are_one_face_at_psi_0(vs: VoiceStyle) -> None:
    drawn = torch.cat(list(samples(vs, 40, seed=2)))
    assert torch.equal(drawn, torch.cat(list(samples(vs, 40, seed=2)))) and drawn.shape == (40, 3, 32, 32)
    assert not torch.equal(drawn, torch.cat(list(samples(vs, 40, seed=3))))
    mean = torch.cat(list(samples(vs, 3, 0.0)))
    assert torch.allclose(mean, vs.synthesize(vs.generator.w_avg[None]).expand(3, -1, -1, -1), atol=1e-4)


def test_a_generator_is_near_its_own_pictures(vs: VoiceStyle, tmp_path) -> None:
    for name, seed, shift in (("own", 9, 0.0), ("shifted", 9, 0.5)):
        (tmp_path / name).mkdir()
        for i, image in enumerate(samples(vs, 40, seed=seed)):
            to_pil(image * (1 - shift) + shift)[0].save(tmp_path / name / f"{i:02d}.png")
    own, shifted = (evaluate_pictures(vs, tmp_path / name, num=40) for name in ("own", "shifted"))
    for near, far in zip(own.comparison.measures[:2], shifted.comparison.measures[:2], strict=True):
        assert near.value < far.value and abs(near.half[0] - near.floor[0]) < abs(far.half[0] - far.floor[0])
    assert own.comparison.num_features == 64 and any("singular" in w for w in own.comparison.warnings)
    same = evaluate_pictures(vs, tmp_path / "own", generated=tmp_path / "own")
    assert [same.comparison.measures[i].value for i in (2, 3)] == [1, 1]
    assert same.comparison.measures[0].value == pytest.approx(0, abs=1e-6)


def test_pictures_that_were_trained_on_are_refused(vs: VoiceStyle, tmp_path) -> None:
    for i, image in enumerate(samples(vs, 16, seed=1)):
        to_pil(image)[0].save(tmp_path / f"{i:02d}.png")
    items = [Item(f"{i}", "train", f"p{i}", frontal=tmp_path / f"{i:02d}.png") for i in range(3)]
    Manifest(tuple(items)).write(tmp_path / "train.csv")
    with pytest.raises(ValueError, match="LEAK: .*3 files are the same"):
        evaluate_pictures(vs, tmp_path, num=16, trained_on=[tmp_path / "train.csv"])
    marked = evaluate_pictures(vs, tmp_path, num=16, trained_on=[tmp_path / "train.csv"], allow_leaks=True)
    assert "3 files are the same" in marked.to_markdown()


def test_the_report_names_the_features(vs: VoiceStyle, folder: Path) -> None:
    report = evaluate_pictures(vs, folder, num=16)
    text = report.to_markdown()
    assert "| face-embedding Frechet distance |" in text and "FID" not in text
    assert "warning: 10 real pictures" in text and "resnet18 of tiny" in text
    inception = dataclasses.replace(report, is_inception=True)
    assert "| FID |" in inception.to_markdown() and "| KID |" in inception.to_markdown()
    assert json.loads(json.dumps(report.to_dict()))["comparison"]["num_real"] == 10


def test_fid_needs_torch_fidelity_and_its_weights(monkeypatch, tmp_path) -> None:
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(ImportError, match=r"voicestyle\[fid\]"):
        inception_features()
    seen: list[Tensor] = []

    class Extractor(torch.nn.Module):
        """Stands for torch-fidelity's network: the mean color."""

        def __init__(self, name: str, features: list[str], feature_extractor_weights_path: str) -> None:
            super().__init__()
            assert (name, features) == ("inception-v3-compat", ["2048"]) and Path(feature_extractor_weights_path)

        def forward(self, image: Tensor) -> tuple[Tensor]:
            seen.append(image)
            return (image.float().mean((2, 3)),)

    module = ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    module.FeatureExtractorInceptionV3 = Extractor
    monkeypatch.setitem(sys.modules, "torch_fidelity", ModuleType("torch_fidelity"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"checkpoints/weights-inception-2015-12-05-6726825d\.pth: no such"):
        inception_features()
    weights = tmp_path / "mine.pth"
    weights.write_bytes(b"weights")
    with pytest.raises(ValueError, match="sha256"):
        inception_features(weights)
    monkeypatch.setattr(pictures, "INCEPTION_SHA256", hashlib.sha256(b"weights").hexdigest())
    image = torch.tensor([-1.0, 0.0, 2.0])[:, None, None].expand(2, 3, 4, 4)
    assert inception_features(weights)(image).tolist() == [[0, 128, 255]] * 2
    assert seen[0].dtype == torch.uint8 and seen[0].shape == (2, 3, 4, 4)


# ------------------------------------------------------------------------------------------------------------- commands


@pytest.fixture
def run(model: Path):
    def run(*arguments: object) -> Result:
        return CliRunner().invoke(main, ["evaluate", *map(str, arguments), "--model", str(model), "--device", "cpu"])

    return run


def test_the_study_is_a_command(run, folder: Path, tmp_path) -> None:
    command = ("inversion", "--images", folder, "--set", f"more={folder}", "-o", tmp_path / "out", "--num", 3)
    command += ("--steps", 3, "--vary", "space", "--vary", "set")
    result = run(*command)
    assert result.exit_code == 0, result.output
    assert "No LPIPS" in result.stderr and "| set | more | 3 |" in result.stdout
    out = tmp_path / "out"
    assert sorted(p.name for p in out.iterdir()) == ["cache", "inversion.json", "inversion.md", "inversion.png"]
    assert (out / "inversion.md").read_text() in result.stdout
    with Image.open(out / "inversion.png") as sheet:
        assert sheet.text["AI-generated"] == inversion.SHEET_NOTE and sheet.text["model"] == "tiny"
    written = {p.name: p.read_bytes() for p in out.iterdir() if p.is_file()}
    again = run(*command, "--json")
    assert json.loads(again.stdout) == json.loads(written["inversion.json"])
    assert {p.name: p.read_bytes() for p in out.iterdir() if p.is_file()} == written


def test_photographs_are_a_set_twice(run, photos: list[Item], folder: Path, tmp_path) -> None:
    Manifest(tuple(photos)).write(tmp_path / "wild.csv")
    result = run(
        "inversion", "--images", folder, "--photos", f"wild={tmp_path / 'wild.csv'}", "--split", "test", "--num", 9,
        "--steps", 1, "--vary", "set", "-o", tmp_path / "out", "--perceptual", "pixel",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "| set | wild, aligned | 2 |" in result.stdout and "| set | wild, as taken | 2 |" in result.stdout
    assert "left out: aside" in result.stderr and "No LPIPS" not in result.stderr


@pytest.mark.parametrize("value", ["folder", "=folder", "name="])
def test_a_set_without_a_name_is_wrong_usage(run, folder: Path, tmp_path, value: str) -> None:
    result = run("inversion", "--images", folder, "--set", value, "-o", tmp_path / "out")
    assert result.exit_code == 2 and "NAME=PATH" in result.stderr
    assert not (tmp_path / "out").exists()


def test_pictures_are_compared_by_a_command(run, folder: Path) -> None:
    text = run("pictures", "--real", folder, "--num", 12)
    assert text.exit_code == 0 and "face-embedding Frechet distance" in text.stdout
    same = run("pictures", "--real", folder, "--generated", folder, "--json")
    record = json.loads(same.stdout)
    assert record["names"]["precision"] == "face-embedding precision"
    assert [m["value"] for m in record["comparison"]["measures"]][2:] == [1, 1]


def test_a_measure_of_inception_is_never_replaced(run, folder: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    result = run("pictures", "--real", folder, "--features", "inception")
    assert result.exit_code == 1 and "voicestyle[fid]" in result.stderr and result.stdout == ""


def test_real_photographs_are_aligned_by_the_detector(shared_dir: Path) -> None:
    """A photograph in the wild and a half-length portrait of nobody, without boxes."""
    pytest.importorskip("dlib")
    items = picture_items(shared_dir / "data" / "synthetic_faces_256" / "images", num=1, photographs=True)
    found = photograph_targets(items, 64, nobody)
    cut = found["as taken"].faces(found["as taken"].target, slice(0, 1))
    assert psnr(cut, found["aligned"].target).item() > 25
    assert from_pil(to_pil(cut)[0]).shape == (1, 3, 64, 64)
