"""Training runs: recipes, run folders, and the two towers at toy size, killed and resumed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torch.nn.functional as F
from PIL import Image

from fill import inp
from voicestyle.checkpoint import load_model
from voicestyle.config import EncoderConfig, LogMelConfig
from voicestyle.data.manifest import Item, Manifest
from voicestyle.nn.encoder import VoiceFaceEncoder
from voicestyle.train.encoder import job as train
from voicestyle.train.encoder import start, trainer
from voicestyle.train.encoder import views as view_module
from voicestyle.train.encoder.settings import EncoderRecipe, ViewConfig
from voicestyle.train.recipe import load_recipe

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
NUM_PEOPLE = 6


def make_toy(folder: Path) -> Path:
    """A manifest of people whose buzz has the pitch that the color of their face says."""
    rng = np.random.default_rng(0)
    time = np.arange(2 * 16000) / 16000
    items = []
    for i in range(2 * NUM_PEOPLE):
        person = i % NUM_PEOPLE
        pitch = 90 * 1.25**person
        buzz = sum(np.sin(2 * np.pi * pitch * k * time + rng.uniform(0, 6)) / k for k in range(1, 20))
        syllables = 0.55 + 0.45 * np.sin(2 * np.pi * 4 * time)
        soundfile.write(folder / f"{i}.wav", 0.1 * buzz * syllables + 0.003 * rng.normal(size=len(time)), 16000)
        color = np.full((40, 40, 3), [40 * person, 255 - 40 * person, 128]) + rng.normal(0, 8, (40, 40, 3))
        Image.fromarray(color.clip(0, 255).astype(np.uint8)).save(folder / f"{i}.png")
        item = Item(str(i), "train", str(person), voice=folder / f"{i}.wav", frontal=folder / f"{i}.png")
        items.append(replace(item, gender="mf"[person % 2]))
    Manifest(tuple(items)).write(folder / "toy.csv")
    return folder


@pytest.fixture(scope="session")
def toy(tmp_path_factory) -> Path:
    """See `make_toy`."""
    return make_toy(tmp_path_factory.mktemp("toy"))


def recipe(toy: Path, *overrides: str) -> dict:
    places = [f"manifest={toy / 'toy.csv'}", f"cache={toy / 'cache'}"]
    return load_recipe(RECIPES / "toy_encoder.toml", EncoderRecipe, [*places, *overrides])


def load_views(toy: Path, manifest: Manifest, **changes) -> view_module.Views:
    config = ViewConfig(**{"num_windows": 1, "windows_per_view": 1, "wild": False, **changes})
    encoder = VoiceFaceEncoder(EncoderConfig.tiny())
    items = view_module.usable_items(manifest)
    return view_module.load_views(items, encoder, config, toy / "cache", are_features=False, progress=False)


def weights(encoder: torch.nn.Module) -> torch.Tensor:
    return torch.cat([value.flatten().double() for value in encoder.state_dict().values()])


def test_towers_learn_who_sounds_like_what(toy, tmp_path):
    encoder = train.train_encoder(recipe(toy, "schedule.steps=40"), tmp_path / "run", progress=False)
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 40 and lines[-1]["clusters"] == 2
    assert np.mean([x["loss"] for x in lines[:3]]) > 1.3 * np.mean([x["loss"] for x in lines[-3:]])
    model = load_model(tmp_path / "run" / "model")
    assert model.config.encoder == EncoderConfig.tiny()
    image = inp("toy image", (2, 3, 40, 40), lo=-1)
    torch.testing.assert_close(model.encoder.encode_face(image), encoder.encode_face(image), rtol=0, atol=0.01)


def test_a_killed_run_resumes_to_the_same_weights(toy, tmp_path, monkeypatch):
    settings = recipe(toy, "schedule.steps=12")
    whole = train.train_encoder(settings, tmp_path / "whole", progress=False)
    step = trainer.Trainer.train_step

    def killed_in_step_8(its, batch):
        if its.step == 8:
            raise KeyboardInterrupt
        return step(its, batch)

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "train_step", killed_in_step_8)
        with pytest.raises(KeyboardInterrupt):
            train.train_encoder(settings, tmp_path / "killed", progress=False)
    resumed = train.train_encoder(settings, tmp_path / "killed", resume=True, progress=False)
    assert torch.equal(weights(whole), weights(resumed))
    assert (tmp_path / "whole" / "log.jsonl").read_text() == (tmp_path / "killed" / "log.jsonl").read_text()


def test_a_seed_says_it_all_and_touches_no_other_generator(toy, tmp_path):
    before = torch.get_rng_state()
    short = [recipe(toy, "schedule.steps=3", f"seed={seed}") for seed in (0, 0, 1)]
    first, again, other = [
        weights(train.train_encoder(r, tmp_path / str(i), progress=False)) for i, r in enumerate(short)
    ]
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(before, torch.get_rng_state())


def test_views_are_computed_once(toy, monkeypatch):
    manifest = Manifest.read(toy / "toy.csv")
    made = load_views(toy, manifest)
    assert made.voice.shape == (12, 1, 1, 64, 800) and made.face.shape == (12, 2, 3, 32, 32)
    torch.testing.assert_close(made.face[:, 1], made.face[:, 0].flip(3))
    assert made.identities.tolist() == [*range(6), *range(6)]
    monkeypatch.setattr(view_module, "_all_views", None)
    again = load_views(toy, manifest)
    assert torch.equal(made.voice, again.voice) and torch.equal(made.face, again.face)


def test_items_that_a_front_end_refuses_are_left_out(toy, tmp_path):
    soundfile.write(tmp_path / "silence.wav", np.zeros(32000), 16000)
    first, *rest = Manifest.read(toy / "toy.csv").items
    manifest = Manifest(
        (Item("mute", "train", "mute", voice=tmp_path / "silence.wav", frontal=first.frontal), first, *rest)
    )
    with pytest.warns(UserWarning, match=r"1 of 13 items left out of training, e.g. .*silence.wav: silence"):
        views = load_views(toy, manifest)
    assert views.identities.tolist() == [*range(6), *range(6)] and len(views.voice) == 12
    with pytest.raises(ValueError, match="all 1 items are refused"):
        load_views(toy, Manifest(manifest.items[:1]))


def test_items_are_used_for_what_they_have(toy):
    first = Manifest.read(toy / "toy.csv").items[0]
    boxless = replace(first, key="b", frontal=None, face=first.frontal)
    items = first, boxless, replace(boxless, key="c", face_box=(1, 1, 9, 9)), replace(first, key="d", voice=None)
    manifest = Manifest(items)
    found = {sides: [i.key for i in view_module.usable_items(manifest, sides)] for sides in (("voice",), ("face",))}
    assert found == {("voice",): ["0", "b", "c"], ("face",): ["0", "c", "d"]}
    assert [item.key for item in view_module.usable_items(manifest)] == ["0", "c"]
    with pytest.raises(ValueError, match="no item has a voice and a frontal picture or a face with its box"):
        view_module.usable_items(Manifest((boxless,)))


def test_short_clips_have_silence_on_both_sides_for_cmpc(toy):
    config = replace(EncoderConfig.tiny(), log_mel=LogMelConfig.cmpc(), voice_backbone="resnet10", backbone_width=2)
    encoder = VoiceFaceEncoder(replace(config, face_backbone="resnet10"))
    items = view_module.usable_items(Manifest.read(toy / "toy.csv"))[:1]
    views = view_module.load_views(
        items, encoder, ViewConfig(2, 1, False), toy / "cache", are_features=False, sides=["voice"], progress=False
    )
    assert views.voice.shape == (1, 2, 1, 64, 500) and views.face.shape == (1, 0)
    frames = views.voice[0, 0, 0].ne(0).any(0)
    assert frames[150:350].all() and not frames[:149].any() and not frames[351:].any()  # 201 frames of 2 s


def test_a_face_in_the_wild_is_aligned_by_its_box(toy, tmp_path):
    item = Manifest.read(toy / "toy.csv").items[0]
    picture = Image.new("RGB", (100, 100), "red")
    picture.paste("blue", (50, 50, 90, 90))
    picture.save(tmp_path / "wild.png")
    boxed = replace(item, face=tmp_path / "wild.png", face_box=(55, 60, 75, 80))
    items = boxed, replace(boxed, key="alone", frontal=None), replace(item, key="no box", face=boxed.face)
    views = load_views(toy, Manifest(items), wild=True)
    blue, frontal = torch.tensor([-1.0, -1.0, 1.0]), views.face[0, 0].float()
    for face in (views.face[0, 2], views.face[1, 0], views.face[1, 2]):
        torch.testing.assert_close(face[:, 16, 16].float(), blue, rtol=0, atol=0.02)
    torch.testing.assert_close(views.face[2, [0, 2]].float(), torch.stack([frontal, frontal]))


def test_identities_are_left_out_whole(toy):
    found = train.cross_validate(recipe(toy, "schedule.steps=1"), num_folds=2, progress=False)
    assert [*found["auc"]] == ["any", "same gender"] and found["num_folds"] == 2
    for auc in found["auc"].values():
        assert len(auc["folds"]) == 2 and all(0 <= fold <= 1 for fold in auc["folds"])
        assert auc["mean"] == pytest.approx(sum(auc["folds"]) / 2)


def bridges() -> tuple[torch.nn.Sequential, torch.nn.Sequential]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = VoiceFaceEncoder(
            EncoderConfig("resnet18", "resnet18", EncoderConfig.tiny().log_mel, EncoderConfig.tiny().image, 4, 20, 2)
        )
    return encoder.voice_bridge.eval(), encoder.face_bridge.eval()


def test_canonical_start_is_the_textbook_analysis():
    from sklearn.cross_decomposition import CCA

    shared = inp("shared", (400, 2))
    voice = shared @ inp("vm", (2, 16)) + 0.5 * inp("vn", (400, 16))
    face = shared @ inp("fm", (2, 16)) + 0.5 * inp("fn", (400, 16))
    pair = bridges()
    start.canonical_start(*pair, voice, face[:, None], ridge=0.0, power=0.0)
    ours = [bridge(x).detach().numpy() for bridge, x in zip(pair, (voice, face), strict=True)]
    normed = [bridge[0](x).detach().numpy()[:, :15] for bridge, x in zip(pair, (voice, face), strict=True)]  # rank 15
    theirs = CCA(n_components=2, tol=1e-9, max_iter=5000).fit_transform(*normed)
    for k in range(2):
        corr = [np.corrcoef(a[:, k], b[:, k])[0, 1] for a, b in (ours, theirs)]
        assert corr[0] == pytest.approx(corr[1], abs=1e-3)
        assert abs(np.corrcoef(ours[0][:, k], theirs[0][:, k])[0, 1]) > 0.999


def test_canonical_start_does_not_rest_on_the_signs_of_a_decomposition(monkeypatch):
    voice, face, svd = inp("sv", (60, 16)), inp("sf", (60, 16)), torch.linalg.svd
    made = []
    for sign in (1.0, -1.0):
        signs = torch.tensor([sign, 1.0] * 8, dtype=torch.float64)

        def flipped(matrix, signs=signs):
            u, values, vh = svd(matrix)
            return u * signs, values, vh * signs[:, None]

        monkeypatch.setattr(torch.linalg, "svd", flipped)
        pair = bridges()
        start.canonical_start(*pair, voice, face[:, None], ridge=1.0, power=1.0)
        made.append(torch.cat([weights(bridge) for bridge in pair]))
    assert torch.equal(*made)


def test_canonical_start_needs_room():
    small = torch.nn.Sequential(torch.nn.LayerNorm(3), torch.nn.Linear(3, 5), torch.nn.GELU(), torch.nn.Linear(5, 3))
    x = inp("room", (9, 3))
    with pytest.raises(ValueError, match="bridge_hidden: got 5, but start.ridge needs at least twice"):
        start.canonical_start(small, small, x, x[:, None], 1.0, 1.0)


def test_more_prototypes_than_pairs_are_refused(toy, tmp_path):
    with pytest.raises(ValueError, match=r"toy_encoder\.toml:\d+: objective.prototypes: got 99, for 12 pairs"):
        train.train_encoder(recipe(toy, "objective.prototypes=[99]"), tmp_path / "run", progress=False)


RESNET_READERS = {"resnet18": lambda path: torch.load(path, weights_only=True)}


def frozen_recipe(toy: Path, folder: Path, *overrides: str) -> dict:
    """Bridges over frozen backbones; the published weights are stood in for by ResNets (see `RESNET_READERS`)."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        donor = VoiceFaceEncoder(EncoderConfig.tiny()).eval()
    torch.save(donor.voice_backbone.state_dict(), folder / "voice.pt")
    torch.save(donor.face_backbone.state_dict(), folder / "face.pt")
    frozen = [
        f"voice_weights={folder / 'voice.pt'}", f"face_weights={folder / 'face.pt'}", "views.num_windows=3",
        "views.windows_per_view=2", "start.ridge=1", "encoder.embed_dim=8", "schedule.steps=3",
    ]  # fmt: skip
    return recipe(toy, *frozen, *overrides)


def test_frozen_backbones_keep_their_weights(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(start, "READERS", RESNET_READERS)
    encoder = train.train_encoder(frozen_recipe(toy, tmp_path), tmp_path / "run", progress=False)
    donated = torch.load(tmp_path / "face.pt", weights_only=True)
    assert all(torch.equal(value, donated[name]) for name, value in encoder.face_backbone.state_dict().items())
    image = inp("frozen", (2, 3, 32, 32), lo=-1)
    assert not torch.isnan(encoder.encode_face(image)).any()
    assert F.cosine_similarity(*encoder.encode_face(image)[:, None]).abs() < 1


def test_cohort_bridges_come_from_pairs_of_several_manifests_without_a_step(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(start, "READERS", RESNET_READERS)
    items = list(Manifest.read(toy / "toy.csv").split("train"))
    for name, some in (("some.csv", items[:-4]), ("more.csv", items[-4:])):
        Manifest(tuple(some)).write(tmp_path / name)
    cohort = [
        "encoder.bridge=cohort", "encoder.num_chances=9", "start.ridge=0.1", "start.face_ridge=0.1", "schedule.steps=0",
        "objective.prototypes=[]", "int8=['resnet18']", f"manifest={tmp_path / 'some.csv'}", "views.num_windows=0",
        "views.windows_per_view=1",
    ]  # fmt: skip
    more = f"more_manifests=['{tmp_path / 'more.csv'}']"
    made = {}
    for name, overrides in (("few", []), ("all", [more]), ("none", [more, "start.more_weight=0"])):
        described = frozen_recipe(toy, tmp_path, *cohort, *overrides)
        made[name] = train.train_encoder(described, tmp_path / name, progress=False)
    few, every, none = (made[name].voice_bridge.linear.weight for name in ("few", "all", "none"))
    torch.testing.assert_close(none, few)  # what counts for nothing changes nothing
    assert not torch.allclose(every, few)
    chances = made["all"].chances
    assert chances.shape == (9,) and chances.diff().min() >= 0 and -1 <= chances[0] <= chances[-1] <= 1
    image = inp("cohort", (2, 3, 32, 32), lo=-1)
    torch.testing.assert_close(made["all"].encode_face(image).norm(dim=1), torch.ones(2))
