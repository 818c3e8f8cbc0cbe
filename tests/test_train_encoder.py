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
from voicestyle.config import EncoderConfig
from voicestyle.data.manifest import Item, Manifest
from voicestyle.nn.encoder import VoiceFaceEncoder
from voicestyle.train import encoder as train
from voicestyle.train import views as view_module
from voicestyle.train.run import Run, dump_recipe, load_recipe, rng_state, set_rng_state

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
NUM_PEOPLE = 6


@pytest.fixture(scope="session")
def toy(tmp_path_factory) -> Path:
    """A manifest of people whose buzz has the pitch that the color of their face says."""
    folder = tmp_path_factory.mktemp("toy")
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
        items.append(Item(str(i), "train", str(person), voice=folder / f"{i}.wav", frontal=folder / f"{i}.png"))
    Manifest(tuple(items)).write(folder / "toy.csv")
    return folder


def recipe(toy: Path, *overrides: str) -> dict:
    places = [f"manifest={toy / 'toy.csv'}", f"cache={toy / 'cache'}"]
    return load_recipe(RECIPES / "toy_encoder.toml", [*places, *overrides])


def load_views(toy: Path, manifest: Manifest, **changes) -> view_module.Views:
    config = view_module.ViewConfig(**{"num_windows": 1, "windows_per_view": 1, "wild": False, **changes})
    encoder = VoiceFaceEncoder(EncoderConfig.tiny())
    return view_module.load_views(manifest, encoder, config, toy / "cache", frozen=False, progress=False)


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
    step = train._Trainer.train_step

    def killed_in_step_8(trainer):
        if trainer.step == 8:
            raise KeyboardInterrupt
        return step(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(train._Trainer, "train_step", killed_in_step_8)
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
    monkeypatch.setattr(view_module, "_item_views", None)
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
    score = train.cross_validate(recipe(toy, "schedule.steps=1"), num_folds=2, progress=False)
    assert 0 <= score <= 1


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
    train.canonical_start(*pair, voice, face[:, None], ridge=0.0, power=0.0)
    ours = [bridge(x).detach().numpy() for bridge, x in zip(pair, (voice, face), strict=True)]
    normed = [bridge[0](x).detach().numpy()[:, :15] for bridge, x in zip(pair, (voice, face), strict=True)]  # rank 15
    theirs = CCA(n_components=2, tol=1e-9, max_iter=5000).fit_transform(*normed)
    for k in range(2):
        corr = [np.corrcoef(a[:, k], b[:, k])[0, 1] for a, b in (ours, theirs)]
        assert corr[0] == pytest.approx(corr[1], abs=1e-3)
        assert abs(np.corrcoef(ours[0][:, k], theirs[0][:, k])[0, 1]) > 0.999


def test_canonical_start_needs_room():
    small = torch.nn.Sequential(torch.nn.LayerNorm(3), torch.nn.Linear(3, 5), torch.nn.GELU(), torch.nn.Linear(5, 3))
    x = inp("room", (9, 3))
    with pytest.raises(ValueError, match="bridge_hidden 5: start.ridge > 0 needs at least twice"):
        train.canonical_start(small, small, x, x[:, None], 1.0, 1.0)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("encoder.log_mel=mfcc", "encoder.log_mel: got 'mfcc'"),
        ("voice_weights=x.pt", "expected both"),
        ("start.ridge=1", "need frozen backbones"),
        ("views.windows_per_view=2", "need frozen backbones"),
        ("encoder.voice_backbone=vgg", "voice_backbone: got 'vgg'"),
        ("objective.prototypes=[99]", "k = 99 for 12 embeddings"),
    ],
)
def test_settings_that_do_not_fit(toy, tmp_path, override, message):
    with pytest.raises(ValueError, match=message):
        train.train_encoder(recipe(toy, override), tmp_path / "run", progress=False)


def test_recipes_are_overridden_by_what_they_state(tmp_path):
    path = tmp_path / "r.toml"
    path.write_text('seed = 1\nname = "x"\n[a]\nlr = 0.1\nks = [5, 10]\n[a.b]\non = true\n')
    found = load_recipe(path, ["a.lr=1", "a.b.on=false", "name=3/4", "a.ks=[2]"])
    assert found == {"seed": 1, "name": "3/4", "a": {"lr": 1.0, "ks": [2], "b": {"on": False}}}
    bad = {
        "a.lrr=1": "no setting 'a.lrr'; it has .*'a.ks'", "a=1": "no setting 'a'", "x": "expected name=value",
        "a.lr=fast": "got str, expected float", "seed=true": "got bool, expected int",
    }  # fmt: skip
    for override, message in bad.items():
        with pytest.raises(ValueError, match=message):
            load_recipe(path, [override])


def test_recipes_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such recipe"):
        load_recipe(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("seed = = 1")
    with pytest.raises(ValueError, match=r"bad\.toml: not a TOML file"):
        load_recipe(tmp_path / "bad.toml")


def test_a_recipe_is_written_as_it_is_read(tmp_path):
    held = {
        "text": 'quote " back \\ line \n del \x7f é 😀',
        "n": [1, 2.5],
        "on": False,
        "a b": {"c.d": {"e": 1e-30}},
        "f": {},
    }
    (tmp_path / "r.toml").write_text(dump_recipe(held), encoding="utf-8")
    assert load_recipe(tmp_path / "r.toml") == held


def test_run_folders_are_not_overwritten_or_mixed(tmp_path):
    run = Run.start(tmp_path / "run", {"seed": 1, "a": {"lr": 0.1}})
    about = json.loads((run.folder / "run.json").read_text())
    assert about["seed"] == 1 and about["versions"]["torch"] == torch.__version__ and about["command"]
    with pytest.raises(ValueError, match="not empty; choose another folder, or continue its run with --resume"):
        Run.start(run.folder, run.recipe)
    with pytest.raises(ValueError, match=r"another recipe \(a.lr: 0.1 there, 0.2 asked\)"):
        Run.start(run.folder, {"seed": 1, "a": {"lr": 0.2}}, resume=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.doc").touch()
    with pytest.raises(ValueError, match="holds no run"):
        Run.start(tmp_path / "other", {}, resume=True)


def test_state_and_log_go_together(tmp_path):
    run = Run.start(tmp_path / "run", {})
    assert run.load_state() is None
    for step in range(1, 5):
        run.log(step, loss=torch.tensor(1.0 / step))
        if step == 2:
            run.save_state({"step": step, "w": torch.arange(3)})
    with (run.folder / "log.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')  # killed here
    state = Run.start(run.folder, {}, resume=True).load_state()
    assert state["step"] == 2 and torch.equal(state["w"], torch.arange(3))
    assert (run.folder / "log.jsonl").read_text() == '{"step": 1, "loss": 1.0}\n{"step": 2, "loss": 0.5}\n'
    with pytest.raises(ValueError, match="expected 'step'"):
        run.save_state({"w": torch.arange(3)})


def test_generators_continue_where_they_were():
    generators = {"a": torch.Generator().manual_seed(1), "b": torch.Generator().manual_seed(2)}
    state = rng_state(generators)
    first = [torch.rand(3, generator=g) for g in generators.values()]
    set_rng_state(generators, state)
    assert all(torch.equal(x, torch.rand(3, generator=g)) for x, g in zip(first, generators.values(), strict=True))
    with pytest.raises(ValueError, match="generator states"):
        set_rng_state(generators, {"a": state["a"]})


def test_frozen_backbones_keep_their_weights(toy, tmp_path, monkeypatch):
    """The published weights are stood in for by ResNets: what counts is that bridges alone are trained."""
    readers = {"resnet18": lambda path: torch.load(path, weights_only=True)}
    monkeypatch.setattr(train, "READERS", readers)
    donor = VoiceFaceEncoder(EncoderConfig.tiny()).eval()
    torch.save(donor.voice_backbone.state_dict(), tmp_path / "voice.pt")
    torch.save(donor.face_backbone.state_dict(), tmp_path / "face.pt")
    frozen = [
        f"voice_weights={tmp_path / 'voice.pt'}", f"face_weights={tmp_path / 'face.pt'}", "views.num_windows=3",
        "views.windows_per_view=2", "start.ridge=1", "encoder.embed_dim=8", "schedule.steps=3",
    ]  # fmt: skip
    encoder = train.train_encoder(recipe(toy, *frozen), tmp_path / "run", progress=False)
    image = inp("frozen", (2, 3, 32, 32), lo=-1)
    assert torch.equal(encoder.face_features(image), donor.face_features(image))
    assert not torch.isnan(encoder.encode_face(image)).any()
    assert F.cosine_similarity(*encoder.encode_face(image)[:, None]).abs() < 1
