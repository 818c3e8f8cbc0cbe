"""Many inputs by many workers: each result once, none lost, a bad one never in the way."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from tiny import VOICE, save_tiny
from voicestyle import cli
from voicestyle.bulk import results as results_module
from voicestyle.bulk.items import Input, count, is_many, items
from voicestyle.bulk.results import Results
from voicestyle.bulk.run import run
from voicestyle.bulk.work import Job, Row
from voicestyle.bulk.workers import Here, Workers, cluster, processes
from voicestyle.locks import let_go

parquet = pytest.importorskip("pyarrow.parquet")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    """Seven clips, of which one is no recording and two are the same."""
    folder = tmp_path_factory.mktemp("clips")
    samples, rate = soundfile.read(VOICE)
    for i in range(5):
        soundfile.write(folder / f"{i}.wav", np.roll(samples, 3000 * i)[: 2 * rate], rate)
    (folder / "5.wav").write_bytes((folder / "0.wav").read_bytes())
    (folder / "bad.wav").write_text("not a recording")
    return folder


def table(folder: Path) -> list[dict]:
    rows = [row for shard in sorted(folder.glob("part-*.parquet")) for row in parquet.read_table(shard).to_pylist()]
    return sorted(rows, key=lambda row: row["key"])


def values(folder: Path) -> list[tuple]:
    """What must not depend on who did the work."""
    rows = sorted(table(folder), key=lambda row: row["input"])
    return [(row["input"], row["error"] is None, np.round(row["embedding"] or [], 3).tolist()) for row in rows]


def embedding(model: Path) -> Job:
    return Job("embed", "voice", str(model), "cpu", options={"vad": None})


def embed(model: Path, clips: Path, out: Path, workers: Workers):
    return run(items([clips], "voice"), embedding(model), out, workers, {"encoder": "x"}, batch=2)


# ---------------------------------------------------------------------------------------------------------- inputs


def test_inputs_come_out_of_folders_tables_and_tars(clips: Path, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(f"key,voice\na,{clips / '1.wav'}\nb,{clips / '2.wav'}\nc,\n")
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        for name in ("x.wav", "x.json"):
            member = tarfile.TarInfo(name)
            member.size = 3
            tar.addfile(member, io.BytesIO(b"abc"))
    assert [item.name for item in items([clips], "voice")] == [str(clips / f"{i}.wav") for i in [*range(6), "bad"]]
    assert [item.content for item in items([tmp_path / "list.csv"], "voice")] == [clips / "1.wav", clips / "2.wav"]
    (member,) = items([tmp_path / "shard.tar"], "voice")
    assert member.content == b"abc" and member.suffix == ".wav"
    assert count([clips, tmp_path / "shard.tar"], "voice") == 8
    assert is_many([str(clips)]) and not is_many([str(clips / "0.wav")])


def test_folders_give_whatever_can_be_read_and_say_what_is_left_out(clips: Path, tmp_path: Path) -> None:
    (folder := tmp_path / "many").mkdir()
    for name in ("a.caf", "b.AMR", "c.oga", "d.mka", "e.3gp", "f.wv", "x.txt", "README", ".hidden.wav"):
        (folder / name).touch()
    (folder / "linked").symlink_to(clips)
    with pytest.warns(UserWarning, match=r"many: left out, no voices by their names: 1 of .txt, 1 of no suffix"):
        found = [item.name for item in items([folder], "voice")]
    assert found[:6] == [str(folder / name) for name in ("a.caf", "b.AMR", "c.oga", "d.mka", "e.3gp", "f.wv")]
    assert len(found) == 6 + 7 == count([folder], "voice")


@pytest.mark.parametrize("wrong", ["missing.wav", "empty", "columns.csv", "broken.tar"])
def test_a_source_that_is_none_is_told(wrong: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "columns.csv").write_text("a,b\n1,2\n")
    (tmp_path / "broken.tar").write_bytes(b"nothing")
    with pytest.raises((ValueError, FileNotFoundError), match=wrong):
        list(items([tmp_path / wrong], "voice"))


# --------------------------------------------------------------------------------------------------------- results


def test_rows_are_kept_once_and_survive_a_kill(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(results_module, "ROWS", 3)
    killed = Results(tmp_path / "out", {"what": "x"})
    assert all(killed.write(Row(f"{i:032x}", f"{i}", {"embedding": [0.5], "picture": b"png"})) for i in range(4))
    assert not killed.write(Row(f"{0:032x}", "again", {}))
    killed.journal.write('{"key": "ha')  # in the middle of a line
    killed.journal.close()
    let_go(killed.lock)
    with Results(tmp_path / "out", {"what": "x"}) as again:
        assert again.keys == {f"{i:032x}" for i in range(4)}
        again.write(Row(f"{9:032x}", "9", {"error": "bad"}))
    assert [row["input"] for row in table(tmp_path / "out")] == ["0", "1", "2", "3", "9"]
    assert len(list((tmp_path / "out").rglob("*.png"))) == 4


def test_a_folder_belongs_to_one_job_and_one_process(tmp_path: Path) -> None:
    code = f"from voicestyle.bulk.results import Results; Results({str(tmp_path / 'out')!r}, {{}})"
    with Results(tmp_path / "out", {"what": "x"}):
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert other.returncode == 1 and "another process" in other.stderr
    with pytest.raises(ValueError, match="what differ"):
        Results(tmp_path / "out", {"what": "y"})


# ------------------------------------------------------------------------------------------------------------ runs


def test_a_bad_item_is_a_row_and_the_others_are_done(model: Path, clips: Path, tmp_path: Path) -> None:
    summary = embed(model, clips, tmp_path / "out", processes(1))
    assert (summary.num_done, summary.num_there) == (6, 1)  # two of seven are the same
    assert list(summary.failed) == [str(clips / "bad.wav")]
    rows = table(tmp_path / "out")
    assert len(rows) == 6 and sum(row["error"] is not None for row in rows) == 1
    assert all(np.linalg.norm(row["embedding"]) == pytest.approx(1, abs=1e-4) for row in rows if not row["error"])
    again = embed(model, clips, tmp_path / "out", processes(1))
    assert (again.num_done, again.num_there) == (0, 7) and table(tmp_path / "out") == rows


class Deadly(Here):
    """Loses whatever has a certain item, as a pool does whose process is killed."""

    def submit(self, fn, /, *args, **kwargs):
        from concurrent.futures import Future
        from concurrent.futures.process import BrokenProcessPool

        future = super().submit(fn, *args, **kwargs)
        if any("3.wav" in item.name for _, item in args[0]):
            future = Future()
            future.set_exception(BrokenProcessPool("killed"))
        return future


def test_an_item_that_kills_its_workers_is_given_up_and_no_other_with_it(model, clips, tmp_path: Path) -> None:
    summary = embed(model, clips, tmp_path / "out", Workers(Deadly, 2))
    assert sorted(Path(name).name for name in summary.failed) == ["3.wav", "bad.wav"]
    assert summary.num_done == 6 and "workers died" in summary.failed[str(clips / "3.wav")]


def test_an_error_of_the_program_is_no_result(model: Path, clips: Path, tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        run(
            items([clips], "voice"),
            Job("generate", "voice", str(model), "cpu", options={"guidance": {"no": 1}}),
            tmp_path / "out",
            processes(1),
            {},
        )
    assert table(tmp_path / "out") == []


def test_a_file_that_is_gone_fails_alone(model: Path, clips: Path, tmp_path: Path) -> None:
    some = [Input("gone", tmp_path / "gone.wav"), Input("here", clips / "1.wav")]
    summary = run(iter(some), embedding(model), tmp_path / "out", processes(1), {})
    assert summary.num_done == 1 and list(summary.failed) == ["gone"]


def test_faces_of_a_batch_are_those_made_one_by_one(model: Path, clips: Path, tmp_path: Path) -> None:
    found = CliRunner().invoke(cli.main, ["generate", str(clips), "-o", str(tmp_path / "out"), "--model", str(model)])
    assert found.exit_code == 1 and "bad.wav" in found.output, found.output
    import voicestyle

    vs = voicestyle.load(model, device="cpu")
    for row in table(tmp_path / "out"):
        if row["error"] is None:
            made = vs.generate(row["input"])
            assert np.allclose(row["w"], made.w[0], atol=1e-3) and (tmp_path / "out" / row["picture"]).is_file()
            assert row["similarity"] == pytest.approx(made.similarity.item(), abs=1e-3)


def test_pictures_are_inverted_in_bulk(model: Path, tmp_path: Path) -> None:
    import torch

    from voicestyle.image import save_png

    (tmp_path / "faces").mkdir()
    for i in range(3):
        save_png(torch.full((1, 3, 32, 32), i / 3), tmp_path / "faces" / f"{i}.png")
    ask = [
        "invert",
        str(tmp_path / "faces"),
        "-o",
        str(tmp_path / "out"),
        "--model",
        str(model),
        "--steps",
        "2",
        "--json",
    ]
    found = CliRunner().invoke(cli.main, [*ask, "--perceptual", "pixel"])
    assert found.exit_code == 0 and '"done": 3' in found.output, found.output
    assert all(row["w"] and row["loss"] >= 0 for row in table(tmp_path / "out"))


@pytest.mark.parametrize(
    ("extra", "told"), [(["--jobs", "2", "--cluster", "local:2"], "one of them"), (["--sheet"], "many inputs")]
)
def test_what_does_not_go_together_is_told(clips: Path, tmp_path: Path, extra: list[str], told: str) -> None:
    found = CliRunner().invoke(cli.main, ["generate", str(clips), "-o", str(tmp_path / "out"), *extra])
    assert found.exit_code == 2 and told in found.output


def test_an_address_that_is_none_is_told() -> None:
    pytest.importorskip("distributed")
    with pytest.raises(ValueError, match="tcp://"):
        cluster("somewhere")


# ----------------------------------------------------------------------------------------------------- many processes


@pytest.mark.slow
def test_two_processes_find_what_one_finds(model: Path, clips: Path, tmp_path: Path) -> None:
    embed(model, clips, tmp_path / "one", processes(1))
    summary = embed(model, clips, tmp_path / "two", processes(2))
    assert summary.num_done == 6 and values(tmp_path / "one") == values(tmp_path / "two")


def started(model: Path, clips: Path, out: Path, where: str) -> subprocess.Popen:
    ask = ["embed", "voice", str(clips), "-o", str(out), "--cluster", where, "--model", str(model), "--device", "cpu"]
    return subprocess.Popen([sys.executable, "-m", "voicestyle", *ask], stderr=subprocess.PIPE, text=True)


def wait_for(condition, seconds: float = 600) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def many(clips: Path, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    samples, rate = soundfile.read(VOICE)
    for i in range(120):
        soundfile.write(folder / f"{i:03d}.wav", np.roll(samples, 211 * i)[: 2 * rate], rate)
    return folder


def journal_rows(out: Path) -> int:
    journal = out / "journal.jsonl"
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


@pytest.mark.slow
def test_a_cluster_that_loses_workers_and_its_client_leaves_the_same_results(model, many, tmp_path: Path) -> None:
    """Four workers, one killed midway, then the client; a second client ends it."""
    pytest.importorskip("distributed")
    embed(model, many, tmp_path / "one", processes(1))
    client = started(model, many, tmp_path / "four", "local:4")
    wait_for(lambda: journal_rows(tmp_path / "four") > 8)
    children = subprocess.run(["pgrep", "-P", str(client.pid)], capture_output=True, text=True).stdout.split()
    os.kill(int(children[-1]), signal.SIGKILL)
    wait_for(lambda: journal_rows(tmp_path / "four") > 40)
    client.kill()
    client.communicate()
    assert 40 < journal_rows(tmp_path / "four") < 120
    last = started(model, many, tmp_path / "four", "local:4")
    _, told = last.communicate(timeout=900)
    assert last.returncode == 0, told
    rows = table(tmp_path / "four")
    assert len({row["key"] for row in rows}) == len(rows) == 120
    assert values(tmp_path / "four") == values(tmp_path / "one")
