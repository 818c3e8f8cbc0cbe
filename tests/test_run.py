"""Recipes, run folders, and what several processes may write."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from voicestyle.train import run as run_module
from voicestyle.train.distributed import World
from voicestyle.train.recipe import read_recipe
from voicestyle.train.run import Run, rng_state, set_rng_state


def test_a_run_that_fails_before_it_has_made_anything_leaves_its_folder_free(tmp_path):
    def fail(after):
        with pytest.raises(ValueError, match="no such thing"), Run.start(tmp_path / "run", {"seed": 1}) as run:
            after(run)
            raise ValueError("no such thing")

    fail(lambda run: None)
    assert not list((tmp_path / "run").iterdir())
    fail(lambda run: run.log(1, loss=2.0))
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"log.jsonl", "recipe.toml", "run.json", "state"}
    with pytest.raises(ValueError, match="not empty"):
        Run.start(tmp_path / "run", {"seed": 1})


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


def test_a_run_that_was_killed_as_it_began_is_none(tmp_path):
    folder = tmp_path / "run"
    (folder / "state").mkdir(parents=True)
    (folder / "run.json").write_text("{}")
    with pytest.raises(ValueError, match="not empty"):
        Run.start(folder, {"seed": 1})
    Run.start(folder, {"seed": 1}, resume=True)
    assert read_recipe(folder / "recipe.toml") == {"seed": 1}


def test_only_the_main_process_writes(tmp_path):
    main, other = World(world_size=1), World(rank=1)
    run = Run.start(tmp_path / "run", {}, world=main)
    again = Run.start(tmp_path / "run", {}, world=other)  # does not even look whether the folder is free
    again.log(1, loss=1.0)
    again.save_state({"step": 1})
    assert sorted(p.name for p in run.folder.iterdir()) == ["recipe.toml", "run.json", "state"]
    assert not [*(run.folder / "state").iterdir()]


def test_tensorboard_shows_the_log_and_no_steps_that_were_lost(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recipe = {"tensorboard": True}
    for resume, steps in ((False, range(1, 5)), (True, range(3, 6))):
        with Run.start(tmp_path / "run", recipe, resume) as run:
            run.load_state()
            for step in steps:
                run.log(step, loss=torch.tensor(step + 10.0 * resume), note="text is for the JSON lines alone")
                if step == 2:
                    run.save_state({"step": step})
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload().Scalars("loss")
    assert [(e.step, e.value) for e in events] == [(1, 1.0), (2, 2.0), (3, 13.0), (4, 14.0), (5, 15.0)]
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["loss"] for line in lines] == [1.0, 2.0, 13.0, 14.0, 15.0]


def test_tensorboard_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ImportError, match=r"pip install 'voicestyle\[log\]'"):
        Run.start(tmp_path / "run", {"tensorboard": True})
    assert not (tmp_path / "run").exists()
    Run.start(tmp_path / "run", {"tensorboard": False})


def test_provenance_tells_a_changed_checkout(tmp_path, monkeypatch):
    def git(*arguments):
        command = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    package = tmp_path / "src" / "voicestyle"
    (package / "train").mkdir(parents=True)
    source = package / "train" / "run.py"
    source.write_text("held = 1\n")
    monkeypatch.setattr(run_module, "__file__", str(source))
    git("init")
    assert run_module._git_state() == {"git_commit": None, "git_dirty": None}  # somebody else's repository
    git("add", ".")
    git("commit", "-m", "first")
    commit = git("rev-parse", "HEAD")
    (tmp_path / "notes.txt").touch()  # no part of the package
    assert run_module._git_state() == {"git_commit": commit, "git_dirty": False}
    source.write_text("held = 2\n")
    assert run_module._git_state() == {"git_commit": commit, "git_dirty": True}


def test_a_second_process_is_told_that_the_run_is_taken(tmp_path):
    run = Run.start(tmp_path / "run", {})
    code = f"from voicestyle.train.run import Run; Run.start({str(run.folder)!r}, {{}}, resume=True)"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "BlockingIOError" in other.stderr and "another process is at work there" in other.stderr
    with run:
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_run_goes_on_with_data_that_moved_and_not_with_other_data(tmp_path):
    def manifest(folder, identity="a"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.wav").write_bytes(b"sound")
        path = tmp_path / folder / "m.csv"
        path.write_text(f"key,split,identity,voice\nk,train,{identity},x.wav\n")
        return {"seed": 1, "manifest": str(path), "data": {"folder": str(path.parent)}}

    with Run.start(tmp_path / "run", manifest("here")):
        pass
    with Run.start(tmp_path / "run", manifest("there"), resume=True) as run:
        assert "there" in run.recipe["manifest"]
    with pytest.raises(ValueError, match=r"another recipe \(data.folder: .*, manifest: .*other"):
        Run.start(tmp_path / "run", manifest("other", "b"), resume=True)


@pytest.mark.parametrize("damage", [b"", b"no state", "half"], ids=["empty", "foreign", "half"])
def test_a_damaged_state_is_named(tmp_path, damage):
    run = Run.start(tmp_path / "run", {})
    run.save_state({"step": 1, "w": torch.arange(300)})
    path = run.folder / "state" / "last.pt"
    path.write_bytes(path.read_bytes()[:900] if damage == "half" else damage)
    with pytest.raises(ValueError, match=r"last.pt: damaged.*; restore it from a copy, or take the file away"):
        run.load_state()
    torch.save([1], path)
    with pytest.raises(ValueError, match=r"last.pt: not the state of a run"):
        run.load_state()
    torch.save({"step": 1}, path)
    with pytest.raises(ValueError, match=r"last.pt: not a state of this training \('w'\); restore it"):
        run.restore(lambda state: state["w"], run.load_state())


def test_a_damaged_line_of_the_log_is_named(tmp_path):
    run = Run.start(tmp_path / "run", {})
    run.save_state({"step": 1})
    (run.folder / "log.jsonl").write_bytes(b'{"step": 1}\n\xff{}\n')
    with pytest.raises(ValueError, match=r"log.jsonl: line 2 is damaged: .*; take this line out"):
        run.load_state()
