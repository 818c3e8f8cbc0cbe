"""When the encoder's training stops, what unpaired people teach it, kill -9, and its door."""

# ruff: noqa: F811 (fixtures that come from another file)

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner

from fill import inp
from test_train_encoder import RESNET_READERS, recipe, toy  # noqa: F401, the fixture
from test_train_encoder_steps import ITEMS, SOURCE, TESTS, fit, frozen, merged  # noqa: F401, the fixture
from together import at_once, threads
from voicestyle.cli import main
from voicestyle.data.manifest import Item, Manifest
from voicestyle.train.distributed import World
from voicestyle.train.encoder import job as train
from voicestyle.train.encoder import validation
from voicestyle.train.encoder.settings import SupervisionConfig
from voicestyle.train.encoder.supervision import AGE_SCALE, MEAN_AGE, SupervisionHeads, labels_of
from voicestyle.train.recipe import dump_recipe

# --------------------------------------------------------------------------------------------------------- validation


def test_the_best_weights_are_kept(frozen, tmp_path, monkeypatch):
    scores = iter([0.6, 0.9, 0.7, 0.8, 0.5, 0.4])
    monkeypatch.setattr(train, "association_auc", lambda voice, face, items: {"any": next(scores)})
    settings = merged(frozen, schedule={"steps": 6}, validation={"fraction": 0.4, "every": 1, "patience": 0})
    encoder = train.train_encoder(settings, tmp_path / "run", progress=False, device="cpu")
    state = torch.load(tmp_path / "run" / "state" / "last.pt", weights_only=True)
    assert (state["best"]["auc"], state["best"]["step"], state["best"]["num_worse"], state["step"]) == (0.9, 2, 4, 6)
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["auc"] for line in lines if "auc" in line] == [0.6, 0.9, 0.7, 0.8, 0.5, 0.4]
    kept = state["best"]["weights"]
    assert all(torch.equal(value, kept[f"0.{name}"]) for name, value in encoder.voice_bridge.state_dict().items())
    assert not torch.equal(kept["0.1.weight"], state["average"]["module.0.1.weight"])


def test_training_stops_when_waiting_is_in_vain_and_stays_stopped(frozen, tmp_path, monkeypatch):
    scores = [0.6, 0.9, 0.7, 0.8, 0.95, 0.4]
    asked = []

    def auc(voice, face, items):
        asked.append(len(items))
        return {"any": scores[len(asked) - 1]}

    monkeypatch.setattr(train, "association_auc", auc)
    settings = merged(frozen, schedule={"steps": 30}, validation={"fraction": 0.4, "every": 2, "patience": 2})
    first = fit(settings, tmp_path / "run")
    assert asked == [4] * 4  # two of six people
    assert torch.load(tmp_path / "run" / "state" / "last.pt", weights_only=True)["step"] == 8
    assert torch.equal(first, fit(settings, tmp_path / "run", resume=True)) and len(asked) == 4
    header = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert header["encoder"]["embed_dim"] == 8


def test_held_out_people_are_train_people_and_never_seen(frozen, monkeypatch):
    identities = torch.tensor([0, 0, 1, 2, 2, 3, 4, 5, 6, 7])
    held = validation.hold_out(identities, 0.3, seed=0)
    assert held[0] == held[1] and held[3] == held[4]
    assert len(set(identities[held].tolist())) == 2 and torch.equal(held, validation.hold_out(identities, 0.3, seed=0))
    assert not validation.hold_out(identities, 0.0, seed=0).any()
    assert {tuple(validation.hold_out(identities, 0.3, seed=s).tolist()) for s in range(9)} != {tuple(held.tolist())}
    with pytest.raises(ValueError, match="leaves no two of 8 identities"):
        validation.hold_out(identities, 0.9, seed=0)
    folds = validation.deal_identities(identities, 4, seed=1)
    assert folds[0] == folds[1] and sorted(set(folds.tolist())) == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="9 folds for 8 identities"):
        validation.deal_identities(identities, 9, seed=1)


def test_association_auc_is_the_naive_count():
    items = [
        Item(str(i), "train", "aabcde"[i], gender=["f", "f", "m", "f", "", "m"][i], voice=Path("x")) for i in range(6)
    ]
    voice, face = (F.normalize(inp(name, (6, 3)), dim=1) for name in "vf")
    found = validation.association_auc(voice, face, items)
    for stratum in ("any", "same gender"):
        won = []
        for i in range(6):
            for a in range(6):
                for b in range(6):
                    known = items[a].gender and items[a].gender == items[b].gender and items[i].gender
                    if items[a].identity != items[b].identity and (stratum == "any" or known):
                        own, other = float(voice[i] @ face[i]), float(voice[a] @ face[b])
                        won.append(1.0 if own > other else 0.5 if own == other else 0.0)
        assert found[stratum] == pytest.approx(sum(won) / len(won), abs=1e-6)
    assert [*validation.association_auc(voice, face, [replace(item, gender="") for item in items])] == ["any"]
    same = torch.ones(6, 3) / 3**0.5
    assert validation.association_auc(same, same, items)["any"] == 0.5


# -------------------------------------------------------------------------------------------------------- supervision


def test_supervision_is_the_mean_over_known_labels():
    heads = SupervisionHeads(4)
    emb = F.normalize(inp("sup", (3, 4)), dim=1)
    known = {"a": {"gender": "f", "age": 30.0}, "b": {"gender": "m"}, "c": {"age": 80.0}}
    people = [Item(key, "train", key, voice=Path("x"), **labels) for key, labels in known.items()]
    config = SupervisionConfig("", "", 3, sex_weight=2.0, age_weight=0.5, lr=0.1)
    logits, ages = heads.sex(emb)[:, 0].tolist(), heads.age(emb)[:, 0].tolist()
    by_sex = (math.log(1 + math.exp(logits[0])) + math.log(1 + math.exp(-logits[1]))) / 2
    errors = [ages[0] - (30 - MEAN_AGE) / AGE_SCALE, ages[2] - (80 - MEAN_AGE) / AGE_SCALE]
    by_age = sum(0.5 * e**2 if abs(e) < 1 else abs(e) - 0.5 for e in errors) / 2
    loss = heads.loss(emb, labels_of(people), config, World())
    assert loss.item() == pytest.approx(2.0 * by_sex + 0.5 * by_age, rel=1e-5)
    nobody = [replace(person, gender="", age=None) for person in people]
    assert heads.loss(emb, labels_of(nobody), config, World()).item() == 0


def test_labels_weigh_alike_in_whichever_process_they_are():
    """One known age in the first process, two in the second: a mean of means is not the mean of three."""
    torch.manual_seed(0)
    heads, config = SupervisionHeads(4), SupervisionConfig("", "", 3, sex_weight=2.0, age_weight=0.5, lr=0.1)
    emb = F.normalize(inp("unpaired", (6, 4)), dim=1)
    labels = torch.tensor([[0, 1.5], [1, math.nan], [math.nan, math.nan], [1, 4.0], [1, -9.0], [math.nan, math.nan]])
    whole = heads.loss(emb, labels, config, World())
    worlds = threads(2)
    shares = at_once(
        lambda: heads.loss(emb[:3], labels[:3], config, worlds[0]),
        lambda: heads.loss(emb[3:], labels[3:], config, worlds[1]),
    )
    assert sum(shares).item() / 2 == pytest.approx(whole.item(), rel=1e-5)


def test_unpaired_voices_and_faces_teach_sex(frozen, toy, tmp_path):
    items = Manifest.read(toy / "toy.csv").items
    Manifest(tuple(replace(item, frontal=None) for item in items)).write(tmp_path / "voices.csv")
    Manifest(tuple(replace(item, voice=None, age=20.0 + i) for i, item in enumerate(items))).write(
        tmp_path / "faces.csv"
    )
    told = {"voices": str(tmp_path / "voices.csv"), "faces": str(tmp_path / "faces.csv"), "batch": 8,
            "sex_weight": 1.0, "age_weight": 0.1, "lr": 0.3}  # fmt: skip
    frozen["encoder"]["bridge_dropout"] = 0.0
    settings = merged(frozen, schedule={"steps": 20, "lr": 0.003}, supervision=told) | {
        "log_every": 1,
        "save_every": 10,
    }
    before = torch.get_rng_state()
    fit(settings, tmp_path / "run")
    assert torch.equal(before, torch.get_rng_state())
    short = merged(settings, schedule={"steps": 2})
    assert torch.equal(fit(short, tmp_path / "short"), fit(short, tmp_path / "again"))
    losses = [json.loads(line)["supervision"] for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])
    state = torch.load(tmp_path / "run" / "state" / "last.pt", weights_only=True)
    assert set(state["heads"]) == {"sex.weight", "sex.bias", "age.weight", "age.bias"}
    without = merged(short, supervision={"sex_weight": 0.0, "age_weight": 0.0})
    assert not torch.equal(fit(short, tmp_path / "with"), fit(without, tmp_path / "without"))


# ------------------------------------------------------------------------------------------------------------- killed

KILLED = """
    import os, signal, sys
    from pathlib import Path
    from test_train_encoder import RESNET_READERS
    from voicestyle.cli import main
    from voicestyle.train.encoder import start
    from voicestyle.train.encoder import trainer

    start.READERS = RESNET_READERS
    step, whole_fsync, saved = trainer.Trainer.train_step, os.fsync, []

    def train_step(self, batch):
        if os.environ["KILL_AT"] == str(self.step):
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, batch)

    def fsync(file):
        saved.append(file)
        if os.environ["KILL_AT"] == f"save {len(saved)}":
            os.kill(os.getpid(), signal.SIGKILL)
        return whole_fsync(file)

    trainer.Trainer.train_step, os.fsync = train_step, fsync
    main(sys.argv[1:])
"""


@pytest.mark.parametrize(("kind", "kill_at"), [("frozen", "7"), ("items", "save 2")])
def test_a_run_that_is_killed_resumes_to_the_same_bits(frozen, toy, tmp_path, kind, kill_at):
    """SIGKILL between two steps, and between writing a state and renaming it."""
    if kind == "items":
        settings = merged(recipe(toy), **ITEMS, schedule={"steps": 6}) | {"save_every": 2}
    else:
        settings = merged(frozen, schedule={"steps": 11, "lr": 0.01}) | {"save_every": 3, "log_every": 2}
    settings["validation"] = {"fraction": 0.4, "every": 2, "patience": 3}
    settings["objective"] |= {"cluster_after": 2, "cluster_every": 2, "prototypes": [2]}
    whole = fit(settings, tmp_path / "whole")
    (tmp_path / "recipe.toml").write_text(dump_recipe(settings))
    (tmp_path / "killed.py").write_text(textwrap.dedent(KILLED))
    command = [tmp_path / "killed.py", "train", "encoder", tmp_path / "recipe.toml", "-o", tmp_path / "run"]
    environment = {**os.environ, "PYTHONPATH": f"{SOURCE}{os.pathsep}{TESTS}", "KILL_AT": kill_at}
    killed = subprocess.run(
        [sys.executable, *map(str, command), "--device", "cpu"], env=environment, capture_output=True
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "run" / "model").exists()
    assert torch.equal(whole, fit(settings, tmp_path / "run", resume=True))
    assert (tmp_path / "whole" / "log.jsonl").read_text() == (tmp_path / "run" / "log.jsonl").read_text()


# ---------------------------------------------------------------------------------------------------------- the door


def test_the_command_cross_validates(frozen, tmp_path):
    (tmp_path / "recipe.toml").write_text(dump_recipe(frozen))
    command = ["train", "encoder", str(tmp_path / "recipe.toml"), "-o", str(tmp_path / "cv"), "--cross-validate", "3"]
    result = CliRunner().invoke(main, [*command, "--set", "seed=2", "--device", "cpu"])
    assert result.exit_code == 0, result.output
    lines = [line.split("\t") for line in result.stdout.splitlines()]
    assert lines[0] == ["impostors", "AUC", "sd over folds"] and [line[0] for line in lines[1:]] == [
        "any",
        "same gender",
    ]
    written = json.loads((tmp_path / "cv" / "cross_validation.json").read_text())
    assert written["seed"] == written["recipe"]["seed"] == 2 and len(written["auc"]["any"]["folds"]) == 3
    assert f"{written['auc']['any']['mean']:.3f}" == lines[1][1]
    refused = CliRunner().invoke(main, ["train", "generator", *command[2:]])
    assert refused.exit_code == 2 and "--cross-validate is for the encoder" in refused.output


def test_the_command_trains(frozen, tmp_path):
    (tmp_path / "recipe.toml").write_text(dump_recipe(frozen))
    command = ["train", "encoder", str(tmp_path / "recipe.toml"), "-o", str(tmp_path / "run"), "--device", "cpu"]
    result = CliRunner().invoke(main, command)
    assert (result.exit_code, result.stdout) == (0, f"{tmp_path / 'run'}\n"), result.output
    assert train.score_split(
        frozen, train.train_encoder(frozen, tmp_path / "run", True, False), "train", progress=False
    )
