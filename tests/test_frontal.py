"""Which picture stands for a VoxCeleb video, and how the members of a catalogue get theirs."""

from __future__ import annotations

import dataclasses
import shutil
import sys
import types
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

import voicestyle
from tiny import VOICE, save_tiny
from voicestyle import inversion
from voicestyle.build import members as building
from voicestyle.build.members import build_members, find_members
from voicestyle.checkpoint import load_model, save_model
from voicestyle.data.frontal import (
    CLIP_HUB,
    MostSimilar,
    clip_embedder,
    clip_weights,
    face_embedder,
    frame_of,
    frontals_of,
    load_square,
)
from voicestyle.image import load_image
from voicestyle.inversion import LinearInverter
from voicestyle.prototypes import PrototypeBank


def picture(path: Path, color: tuple[int, int, int], size: tuple[int, int] = (24, 24), seed: int = 0) -> Path:
    """A noisy picture of one color."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(-10, 10, (size[1], size[0], 3))
    Image.fromarray((np.asarray(color) + noise).clip(0, 255).astype(np.uint8)).save(path)
    return path


def mean_color(paths) -> Tensor:
    return torch.stack([load_image(path).mean((0, 2, 3)) for path in paths])


# ----------------------------------------------------------------------------------------------------- one picture


def test_the_middle_frame_stands_for_a_video(tmp_path: Path) -> None:
    for name in ("0000100.jpg", "0000025.jpg", "0000075.jpg", "notes.txt"):
        picture(tmp_path / "Ada" / "1.6" / "abc" / "x.jpg", (1, 2, 3)).rename(tmp_path / "Ada" / "1.6" / "abc" / name)
    assert frame_of(tmp_path, "Ada/abc").name == "0000075.jpg"
    assert frame_of(tmp_path, "Ada/xyz") is None and frame_of(tmp_path, "Bob/abc") is None


def test_the_middle_square_is_resampled_as_pillow_does_it(tmp_path: Path) -> None:
    path = tmp_path / "wide.png"
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    with Image.open(path) as pil:
        expected = np.asarray(pil.crop((10, 0, 50, 40)).resize((64, 64), Image.Resampling.BILINEAR), np.float32)
    made = load_square(path, 64)[0].permute(1, 2, 0).numpy() * 127.5 + 127.5
    assert np.abs(made - expected).max() <= 1.01  # Pillow rounds twice
    assert load_square(path).shape == (1, 3, 40, 40)


def test_the_most_similar_picture_is_that_of_a_plain_loop(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    colors = rng.integers(20, 230, (6, 3))
    for i, color in enumerate(colors):
        picture(tmp_path / "Ada" / f"{i}.jpg", tuple(color), seed=i)
    frames = [picture(tmp_path / f"frame{i}.png", tuple(rng.integers(20, 230, 3)), seed=i) for i in range(5)]
    for metric in ("cosine", "dot"):
        choose = MostSimilar(tmp_path, mean_color, metric)
        for frame in frames:
            scores = {}
            for path in frontals_of(tmp_path, "Ada/video"):
                a, b = mean_color([frame])[0], mean_color([path])[0]
                scores[path] = float(a @ b / (a.norm() * b.norm() if metric == "cosine" else 1))
            assert choose("Ada/video", frame) == max(scores, key=scores.get)


def test_a_person_is_embedded_once(tmp_path: Path) -> None:
    for i in range(20):
        picture(tmp_path / "Ada" / f"{i}.jpg", (9 * i, 80, 80))
    frame, seen = picture(tmp_path / "frame.png", (90, 80, 80)), Counter()

    def embed(paths) -> Tensor:
        seen.update(paths)
        return mean_color(paths)

    choose = MostSimilar(tmp_path, embed)
    assert choose("Ada/a", frame) == choose("Ada/b", frame)
    assert all(seen[path] == 1 for path in frontals_of(tmp_path, "Ada/a")) and seen[frame] == 2
    with pytest.raises(FileNotFoundError, match="Bob: no frontal pictures"):
        choose("Bob/a", frame)


def test_face_embeddings_do_not_depend_on_what_is_embedded_with_a_picture(tmp_path: Path) -> None:
    paths = [picture(tmp_path / f"{i}.png", (60 * i, 90, 30), size, i) for i, size in enumerate([(24, 24), (30, 24)])]
    embed = face_embedder(lambda image: torch.nn.functional.adaptive_avg_pool2d(image, 2).flatten(1), "cpu")
    together = embed(paths)
    assert torch.allclose(together, torch.cat([embed([path]) for path in paths]), atol=1e-5)
    assert torch.allclose(embed([paths[0], paths[0]])[1], together[0], atol=1e-5)


# ------------------------------------------------------------------------------------------------------------- CLIP


def test_without_open_clip_there_is_no_clip(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(ImportError, match=r"needs open_clip .*voicestyle\[clip\].*or use the similarity 'face'"):
        clip_embedder(torch.device("cpu"))


def test_without_weights_nothing_is_downloaded(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", types.ModuleType("open_clip"))  # any use of it would fail
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"none are downloaded; fetch them once with .*similarity 'face'"):
        clip_embedder(torch.device("cpu"))


def test_clip_is_loaded_from_the_hubs_cache(monkeypatch, tmp_path: Path) -> None:
    weights = tmp_path / CLIP_HUB / "snapshots" / "abc" / "open_clip_model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.touch()
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    asked = []

    class Clip(torch.nn.Module):
        def encode_image(self, image: Tensor) -> Tensor:
            assert not self.training
            return image.mean((2, 3))

    def create(name: str, pretrained: str, device: torch.device) -> tuple:
        asked.append((name, pretrained))
        return Clip(), None, lambda pil: torch.from_numpy(np.asarray(pil, np.float32)).permute(2, 0, 1)

    fake = types.ModuleType("open_clip")
    fake.create_model_and_transforms = create
    monkeypatch.setitem(sys.modules, "open_clip", fake)
    path = picture(tmp_path / "a.png", (200, 100, 50))
    emb = clip_embedder(torch.device("cpu"))([path, path])
    assert asked == [("ViT-B-32-quickgelu", str(weights))] and clip_weights() == weights
    assert emb.shape == (2, 3) and torch.allclose(emb[0], torch.tensor([200.0, 100.0, 50.0]), atol=5)


# ---------------------------------------------------------------------------------------------- members of a catalogue

NUM_MEMBERS = 40  # of the tiny bank: persons p0 to p9, four videos each; p9 has no frontal pictures, v3 no frames


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("voxceleb")
    for i in range(NUM_MEMBERS):
        color = (25 * (i // 4), 60 * (i % 4), 120)
        if i % 4 < 3:
            picture(root / "faces" / f"p{i // 4}" / "1.6" / f"v{i % 4}" / "0000001.jpg", color, (30, 26), i)
        if i // 4 < 9:
            picture(root / "frontal" / f"p{i // 4}" / f"{i % 4}.jpg", color, (20, 20), i + 100)
    return root / "faces", root / "frontal"


@pytest.fixture(scope="module")
def converted(tmp_path_factory) -> Path:
    """A model folder whose bank is a catalogue, as the conversion of the authors' files makes it."""
    root = tmp_path_factory.mktemp("models")
    model = load_model(save_tiny(root / "tiny"))
    keys = [f"p{i // 4}/v{i % 4}" for i in range(NUM_MEMBERS)]
    bank = dataclasses.replace(
        model.bank, member_emb=None, member_w=None, generator_fingerprint="", member_keys=keys,
        member_identity=torch.arange(NUM_MEMBERS) // 4,
    )  # fmt: skip
    return save_model(root / "converted", model.config, model.encoder, model.generator, bank, {"sources": {}})


def test_members_without_pictures_are_left_out_and_counted(converted: Path, folders) -> None:
    bank = load_model(converted).bank
    found = find_members(bank, *folders)
    expected = [key for key in bank.member_keys if not key.endswith("v3") and not key.startswith("p9")]
    assert found.bank.member_keys == expected and len(found) == 27
    assert (found.num_listed, found.num_without_frames, found.num_without_frontal) == (40, 10, 3)
    assert "27 of 40 members" in found.summary() and "10 members without frames, 3 without frontal" in found.summary()
    assert len(find_members(bank, folders[0])) == 30


@given(groups=st.lists(st.integers(0, 6), min_size=1, max_size=40), num=st.integers(1, 45), seed=st.integers(0, 5))
def test_a_sample_is_spread_over_the_prototypes(groups: list[int], num: int, seed: int) -> None:
    chosen = building._spread(groups, num, seed)
    assert chosen == sorted(set(chosen)) and len(chosen) == min(num, len(groups))
    taken, there = Counter(groups[i] for i in chosen), Counter(groups)
    most = max(taken.values())
    assert all(taken[group] >= min(there[group], most - 1) for group in there)  # none is passed over
    assert chosen == building._spread(groups, num, seed)


def test_a_limit_keeps_the_order_of_the_catalogue(converted: Path, folders) -> None:
    bank = load_model(converted).bank
    few = find_members(bank, *folders, limit=7, seed=1)
    places = [bank.member_keys.index(key) for key in few.bank.member_keys]
    assert len(few) == 7 and places == sorted(places)
    assert len(few.bank.centroids) == min(7, len(find_members(bank, *folders).bank.centroids))


def test_folders_without_pictures_are_errors_that_show_the_layout(converted: Path, folders, tmp_path: Path) -> None:
    bank = load_model(converted).bank
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        find_members(bank, tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"none of the model's 40 members, e\.g\. 'p0/v0'; expected FACES/NAME/1\.6"):
        find_members(bank, tmp_path)
    anonymous = dataclasses.replace(bank, member_keys=[f"m{i:05d}" for i in range(40)])
    with pytest.raises(ValueError, match="members are videos, as `voicestyle models convert`"):
        find_members(anonymous, *folders)


SETTINGS = {"steps": 2, "batch": 4}


@pytest.fixture(scope="module")
def built(converted: Path, folders, tmp_path_factory) -> tuple[Path, PrototypeBank]:
    out, model = tmp_path_factory.mktemp("built") / "model", load_model(converted)
    return out, build_members(model, find_members(model.bank, *folders), out, **SETTINGS)


def test_members_get_the_face_and_the_latent_of_their_frontal_picture(built, converted: Path, folders) -> None:
    out, bank = built
    vs = voicestyle.load(out, device="cpu")
    assert torch.equal(vs.bank.member_w, bank.member_w) and not out.with_name("model.part").exists()
    assert vs.model.metadata["members"]["similarity"] == "face" and vs.model.metadata["sources"] == {}
    for row in (0, 11, 26):
        name = bank.member_keys[row].split("/")[0]
        frame = vs.encode_face(load_square(frame_of(folders[0], bank.member_keys[row])))[0]
        candidates = [load_square(path) for path in frontals_of(folders[1], name)]
        best = max(candidates, key=lambda image: float(vs.encode_face(image)[0] @ frame))
        assert torch.allclose(bank.member_emb[row], vs.encode_face(best)[0], atol=1e-4)
    assert vs.generate(VOICE, steps=1).image.shape == (1, 3, 32, 32)


def test_without_frontal_pictures_the_frames_are_projected(
    converted: Path, folders, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(LinearInverter, "NUM_SAMPLES", 100)
    model = load_model(converted)
    found = find_members(model.bank, folders[0], limit=5)
    bank = build_members(model, found, tmp_path / "bank.safetensors", start="linear", steps=0)
    for row, frame in enumerate(found.frames):
        assert torch.allclose(bank.member_emb[row], model.encoder.encode_face(load_square(frame))[0], atol=1e-4)
    estimate = LinearInverter.learn(model.generator)
    images = torch.cat([load_square(frame, 32) for frame in found.frames])
    assert torch.allclose(bank.member_w, estimate(images), atol=1e-4)
    error = (model.generator.synthesis(bank.member_w).clamp(-1, 1) - images).square().mean((1, 2, 3))
    assert torch.allclose(bank.member_psnr, 10 * torch.log10(4 / error), atol=1e-3)
    loaded = PrototypeBank.load(tmp_path / "bank.safetensors")
    assert torch.equal(loaded.member_w, bank.member_w) and torch.equal(loaded.member_psnr, bank.member_psnr)
    assert loaded.summary()["reconstruction_psnr_db"]["least"] == round(bank.member_psnr.min().item(), 2)
    assert torch.equal(bank.subset(torch.tensor([1, 3])).member_psnr, bank.member_psnr[[1, 3]])


def test_a_model_may_be_replaced_by_itself_with_its_bank(converted: Path, folders, tmp_path: Path) -> None:
    folder = shutil.copytree(converted, tmp_path / "model")
    model = load_model(folder)
    build_members(model, find_members(model.bank, *folders, limit=3), folder, steps=0)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]
    assert load_model(folder).bank.latents.shape == (3, 16)


def test_a_build_that_was_stopped_goes_on(built, converted: Path, folders, tmp_path: Path, monkeypatch) -> None:
    model = load_model(converted)
    found, done = find_members(model.bank, *folders), []

    def stop(num: int) -> None:
        done.append(num)
        if len(done) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_members(model, found, tmp_path / "model", progress=stop, **SETTINGS)
    assert len(list((tmp_path / "model.part").iterdir())) == 3 and not (tmp_path / "model").exists()
    calls = []
    invert = building.Projector._project
    monkeypatch.setattr(
        building.Projector, "_project", lambda self, *pictures: calls.append(1) or invert(self, *pictures)
    )
    again = build_members(model, found, tmp_path / "model", **SETTINGS)
    assert len(calls) == 7 - 3
    assert torch.equal(again.member_w, built[1].member_w) and torch.equal(again.member_emb, built[1].member_emb)


@pytest.mark.parametrize("stop", ["while it learns", "while it projects"])
def test_a_build_from_a_linear_estimate_that_was_stopped_goes_on(
    converted: Path, folders, tmp_path: Path, monkeypatch, stop: str
) -> None:
    monkeypatch.setattr(LinearInverter, "NUM_SAMPLES", 120)
    model = load_model(converted)
    found = find_members(model.bank, *folders, limit=6)
    settings = {"start": "linear", "steps": 0, "batch": 2}
    whole = build_members(model, found, tmp_path / "whole.safetensors", **settings)
    calls = {"learn": 0, "project": 0}
    drawn, project = inversion.mean_latents, building.Projector._project

    def draws(*arguments: object) -> Tensor:
        calls["learn"] += 1
        if stop == "while it learns" and calls["learn"] == 2:
            raise KeyboardInterrupt
        return drawn(*arguments)

    def projects(*arguments: object) -> dict[str, Tensor]:
        calls["project"] += 1
        if stop == "while it projects" and calls["project"] == 2:
            raise KeyboardInterrupt
        return project(*arguments)

    monkeypatch.setattr(inversion, "mean_latents", draws)
    monkeypatch.setattr(building.Projector, "_project", projects)
    out = tmp_path / "bank.safetensors"
    with pytest.raises(KeyboardInterrupt):
        build_members(model, found, out, **settings)
    assert not out.exists()
    again = build_members(model, found, out, **settings)
    assert torch.equal(again.member_w, whole.member_w) and not out.with_name(f"{out.name}.part").exists()
    # 120 samples are drawn in three parts: what was learnt is not learnt again, and no batch is projected again
    assert calls == ({"learn": 5, "project": 4} if stop == "while it learns" else {"learn": 3, "project": 4})


def test_other_pictures_or_settings_are_done_anew(converted: Path, folders, tmp_path: Path) -> None:
    model = load_model(converted)
    frontal = shutil.copytree(folders[1], tmp_path / "frontal")
    members = find_members(model.bank, folders[0], frontal, limit=4)
    names = [building._names(dataclasses.replace(members, frontal=None), range(4)), building._names(members, range(4))]
    name = members.bank.member_keys[2].split("/")[0]
    picture(frontal / name / "new.jpg", (1, 2, 3))
    names.append(building._names(members, range(4)))
    picture(frontal / name / "new.jpg", (1, 2, 3), (40, 40))
    names.append(building._names(members, range(4)))
    assert len(set(names)) == 4 and names[3] == building._names(members, range(4))
    told = {
        building.Projector(model, steps=0, depends_on=similarity, **settings).depends_on
        for similarity in ("face", "clip")
        for settings in ({}, {"lr": 0.2}, {"perceptual": SimpleNamespace(name="LPIPS")})
    }  # fmt: skip
    assert len(told) == 6
