"""Steps of the encoder's training: batches, precision, augmentation, what is trained, and when it stops."""

# ruff: noqa: F811 (fixtures that come from another file)

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from fill import inp
from test_train_encoder import RESNET_READERS, frozen_recipe, recipe, toy, weights  # noqa: F401, the fixture
from voicestyle.clustering import kmeans
from voicestyle.data.manifest import Manifest
from voicestyle.seeds import mixed_seed
from voicestyle.train.distributed import World
from voicestyle.train.encoder import job as train
from voicestyle.train.encoder import start
from voicestyle.train.encoder.batches import Items, batches, rows_of_step, step_seed
from voicestyle.train.encoder.objective import Objective
from voicestyle.train.encoder.settings import ObjectiveConfig, ScheduleConfig, read_settings
from voicestyle.train.encoder.trainer import lr_of_step

SOURCE = Path(__file__).resolve().parents[1] / "src"
TESTS = Path(__file__).resolve().parent
ITEMS = {"views": {"read": "items"}, "augment": {"voice": {"crop": True}, "face": {"flip": True, "brightness": 0.1}}}


@pytest.fixture
def frozen(toy, tmp_path, monkeypatch):
    """A recipe of bridges over frozen backbones."""
    monkeypatch.setattr(start, "READERS", RESNET_READERS)
    return frozen_recipe(toy, tmp_path)


def merged(base: dict, **sections) -> dict:
    """A recipe with other settings in some of its sections."""
    return {**base, **{name: {**base.get(name, {}), **values} for name, values in sections.items()}}


def fit(settings: dict, out: Path, resume: bool = False) -> torch.Tensor:
    """All weights of the encoder that a recipe gives."""
    return weights(train.train_encoder(settings, out, resume, progress=False, device="cpu"))


def make_trainer(settings: dict):
    """A trainer at its first step, its settings, and what it reads."""
    read = read_settings(settings)
    job = train._Job(read, World(), progress=False)
    data = job.load(train.usable_items(Manifest.read(settings["manifest"]).split("train")))
    return job.trainer(data), read, data


# --------------------------------------------------------------------------------------------------------- regression


def test_training_gives_the_similarities_that_it_always_gave(float64, frozen, tmp_path):
    """In float64, where the order of sums does not matter, and with the signs of the start settled.

    The numbers are of the batches that the seed gives by `mixed_seed`.
    """
    settings = merged(frozen, schedule={"steps": 12})
    encoder = train.train_encoder(settings, tmp_path / "run", progress=False, device="cpu")
    face = encoder.encode_face(inp("regression face", (2, 3, 32, 32), lo=-1).double())
    voice = encoder.encode_voice(inp("regression voice", (2, 1, 64, 800)).double())
    expected = torch.tensor([[-0.70730110, -0.39100629], [-0.23563191, -0.22857438]])
    torch.testing.assert_close(face @ voice.T, expected, rtol=0, atol=1e-6)


# ------------------------------------------------------------------------------------------------------------ batches


def test_each_epoch_sees_its_rows_once_in_an_order_of_its_own():
    epochs = [torch.cat([rows_of_step(10, 3, 0, step) for step in range(3 * e, 3 * e + 3)]).tolist() for e in (0, 1)]
    assert all(len(set(rows)) == 9 for rows in epochs) and epochs[0] != epochs[1]
    assert rows_of_step(10, 3, 0, 4).tolist() == rows_of_step(10, 3, 0, 4).tolist()
    assert len(rows_of_step(2, 3, 0, 7)) == 2  # fewer rows than a batch
    orders = {tuple(rows_of_step(10, 10, seed, 0).tolist()) for seed in range(5)}
    assert len(orders) == 5  # an order of each seed


def test_seeds_of_steps_streams_and_processes_differ():
    seeds = {step_seed(s, step, i, rank) for s in (0, 1) for step in (0, 1) for i in range(4) for rank in (0, 1, 2)}
    # PyTorch's generator on CPUs looks at the lower half alone
    assert len({seed % 2**32 for seed in seeds}) == 48 and all(0 <= seed < 2**64 for seed in seeds)


def test_processes_share_a_batch(frozen):
    _, settings, views = make_trainer(frozen)
    whole = next(batches(views, settings, World()))
    shares = [next(batches(views, settings, World(rank=rank, world_size=2))) for rank in (0, 1)]
    for name in ("voice", "face"):
        torch.testing.assert_close(torch.cat([getattr(s, name) for s in shares]), getattr(whole, name))
    assert all(torch.equal(share.rows, whole.rows) for share in shares)


@pytest.mark.parametrize("voice", [{}, {"noise_probability": 1.0, "reverb_probability": 0.5}])
def test_items_are_read_alike_by_any_process(toy, voice):
    base = merged(recipe(toy), **ITEMS)
    settings = {**base, "augment": {**base["augment"], "voice": voice}}
    trainer, read, items = make_trainer(settings)
    assert isinstance(items, Items) and len(items) == 12
    first = next(batches(items, read, World()))
    shares = [next(batches(items, read, World(rank=rank, world_size=2))) for rank in (0, 1)]
    assert torch.equal(torch.cat([s.voice for s in shares]), first.voice)
    assert torch.equal(torch.cat([s.face for s in shares]), first.face)
    second = [batch for batch, _ in zip(batches(items, read, World()), range(2), strict=False)][1]
    assert torch.equal(next(batches(items, read, World(), first_step=1)).face, second.face)
    plain = items.log_mels[items.items[0].key]
    heard = items.voice(items.items[0], torch.Generator().manual_seed(0))
    assert heard.shape == (1, 64, 800) and torch.isfinite(heard).all()
    assert torch.allclose(heard, plain[:, :, :800], atol=0.05) == (not voice)


def test_worker_processes_change_nothing(toy, tmp_path):
    base = merged(recipe(toy), **ITEMS, schedule={"steps": 2})
    _, settings, items = make_trainer(base)
    alone = [*batches(items, settings, World())]
    helped = [*batches(items, replace(settings, views=replace(settings.views, num_workers=1)), World())]
    assert len(alone) == len(helped) == 2
    for a, b in zip(alone, helped, strict=True):
        assert torch.equal(a.rows, b.rows) and torch.equal(a.voice, b.voice) and torch.equal(a.face, b.face)


# -------------------------------------------------------------------------------------------------------------- steps


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_low_precision_learns_and_resumes(frozen, tmp_path, precision):
    settings = merged(frozen, schedule={"precision": precision, "steps": 6, "lr": 0.003}) | {"save_every": 3}
    whole = fit(settings, tmp_path / "whole")
    assert torch.isfinite(whole).all()
    plain = fit(merged(settings, schedule={"precision": "float32"}), tmp_path / "plain")
    assert not torch.equal(whole, plain)
    torch.testing.assert_close(whole, plain, rtol=0.1, atol=0.05)
    state = torch.load(tmp_path / "whole" / "state" / "last.pt", weights_only=True)
    assert ("scale" in state["scaler"]) == (precision == "float16")


def test_gradients_are_clipped_together(frozen, monkeypatch):
    trainer, settings, views = make_trainer(merged(frozen, schedule={"clip_norm": 1e-3}))
    seen = []
    monkeypatch.setattr(trainer.optimizer, "step", lambda: seen.extend(p.grad.norm() for p in trainer.parameters))
    trainer.train_step(next(batches(views, settings, World())))
    assert torch.stack(seen).norm() == pytest.approx(1e-3, rel=1e-3)


def test_the_learning_rate_warms_up_and_falls_as_a_cosine():
    schedule = ScheduleConfig(steps=25, batch=2, lr=1.0, min_lr=0.1, warmup=5, weight_decay=0.0, ema=0.9)
    rates = [lr_of_step(schedule, step) for step in range(25)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[15] == pytest.approx(0.55) and rates[5] == 1.0
    assert all(a >= b for a, b in zip(rates[4:], rates[5:], strict=False)) and rates[-1] < 0.13


def test_training_that_diverges_says_so_and_saves_nothing(toy, tmp_path):
    settings = merged(recipe(toy), schedule={"lr": 1e30, "warmup": 0})
    with pytest.raises(ValueError, match="training diverged at step .*lower schedule.lr"):
        fit(settings, tmp_path / "run")
    assert not (tmp_path / "run" / "state" / "last.pt").exists()


# -------------------------------------------------------------------------------------------------- what is trained


def test_parts_of_frozen_backbones_are_trained(frozen, tmp_path):
    parts = ["face_backbone.layer4.1", "voice_backbone.layer4.1.conv2"]
    settings = merged(frozen, schedule={"unfreeze": parts, "steps": 2}, views={"read": "inputs", "windows_per_view": 1})
    encoder = train.train_encoder(settings, tmp_path / "run", progress=False, device="cpu")
    for side in ("voice", "face"):
        donated = torch.load(tmp_path / f"{side}.pt", weights_only=True)
        state = getattr(encoder, f"{side}_backbone").state_dict()
        changed = {name for name, value in state.items() if not torch.equal(value, donated[name])}
        expected = {"layer4.1.conv2.weight"}
        if side == "face":
            expected = {f"layer4.1.{n}" for n in ("conv1.weight", "conv2.weight", "bn1.weight", "bn1.bias",
                                                  "bn2.weight", "bn2.bias")}  # fmt: skip
        assert changed == expected  # statistics of normalization stay too


def test_unfrozen_parts_have_a_learning_rate_of_their_own(frozen):
    settings = merged(frozen, schedule={"unfreeze": ["face_backbone.layer4"], "backbone_lr": 0.1}, start={"ridge": 1.0},
                      views={"read": "inputs", "windows_per_view": 1})  # fmt: skip
    trainer, read, views = make_trainer(settings)
    trainer.train_step(next(batches(views, read, World())))
    rates = [group["lr"] for group in trainer.optimizer.param_groups]
    assert rates == pytest.approx([read.schedule.lr / 5, read.schedule.lr / 50])  # the first of 5 steps of warm-up


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"schedule": {"unfreeze": ["face_backbone"]}}, "cached features would not change; set views.read = 'inputs'"),
        ({"schedule": {"unfreeze": ["face"]}, "views": {"read": "inputs", "windows_per_view": 1}}, "no part 'face'"),
        ({"views": {"read": "inputs"}}, "windows_per_view: above 1, it averages features"),
    ],
)
def test_settings_that_contradict_each_other(frozen, tmp_path, sections, message):
    with pytest.raises(ValueError, match=f"^recipe: .*{message}"):
        fit(merged(frozen, **sections), tmp_path / "run")


# ---------------------------------------------------------------------------------------------------------- objective


def objective(**changes) -> Objective:
    config = {"temperature": 0.1, "prototypes": (2,), "prototype_weight": 1.0, "cluster_after": 2, "cluster_every": 2,
              "memory_momentum": 0.5, **changes}  # fmt: skip
    return Objective(ObjectiveConfig(**config), torch.arange(6), 4, seed=3, world=World())


def test_the_bank_blends_old_and_new_directions():
    ours = objective()
    before, rows = ours.memory.clone(), torch.tensor([4, 1])
    new = F.normalize(inp("bank", (2, 2, 4)), dim=2)
    ours.remember(new, rows, 1)
    for side in (0, 1):
        for i, row in enumerate(rows.tolist()):
            mixed = 0.5 * before[side, row] + 0.5 * new[side, i]
            torch.testing.assert_close(ours.memory[side, row], mixed / mixed.norm())
    untouched = [0, 2, 3, 5]
    assert torch.equal(ours.memory[:, untouched], before[:, untouched]) and not ours.clusters


def test_prototypes_are_found_in_the_bank_when_it_is_time():
    ours, new, rows = objective(), F.normalize(inp("bank", (2, 2, 4)), dim=2), torch.tensor([4, 1])
    for step in range(1, 6):
        ours.remember(new, rows, step)
        if step in (2, 4):
            seed = mixed_seed(3, "prototypes", step, 1) % 2**31
            expected = kmeans(ours.memory[1], 2, seed, temperature=0.1)
        if step >= 2:
            assert torch.equal(ours.clusters[0][1].centroids, expected.centroids)
    held = objective()
    held.load_state_dict(ours.state_dict())
    emb = F.normalize(inp("emb", (2, 2, 4)), dim=2)
    assert torch.equal(held.loss(*emb, rows), ours.loss(*emb, rows))


def test_forgotten_prototypes_act_in_one_step():
    ours, new, rows = (
        objective(forget_prototypes=True),
        F.normalize(inp("bank", (2, 2, 4)), dim=2),
        torch.tensor([4, 1]),
    )
    held = []
    for step in range(1, 6):
        ours.remember(new, rows, step)
        held.append(len(ours.clusters))
    assert held == [0, 1, 0, 1, 0]


def test_variants_differ_once_there_are_prototypes():
    emb, rows = F.normalize(inp("emb", (2, 3, 4)), dim=2), torch.tensor([0, 3, 5])
    found = {}
    variants = {"paper": {}, "plain": {"recalibration": False}, "reference": {"variant": "reference"}}
    for name, changes in {**variants, "cid": {"prototypes": ()}}.items():
        ours = objective(**changes)
        first = ours.loss(*emb, rows).item()
        ours.remember(emb, rows, 2)
        found[name] = first, ours.loss(*emb, rows).item()
    assert all(first == pytest.approx(found["cid"][0]) for first, _ in found.values())
    assert all(abs(a[1] - b[1]) > 1e-4 for a, b in itertools.combinations(found.values(), 2))
    assert found["cid"][0] == pytest.approx(found["cid"][1])
