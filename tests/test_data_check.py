"""What `data check` finds, in one manifest and across several, and its exit codes."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from miniature import SHARED, make_miniature, write_face, write_voice
from voicestyle.cli import main
from voicestyle.data.check import Finding, check_manifests
from voicestyle.data.manifest import Item, Manifest
from voicestyle.data.voxceleb import import_voxceleb1
from voicestyle.data.workers import in_order


@pytest.fixture(scope="module")
def vox1(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("vox")
    mini = make_miniature(root)
    import_voxceleb1([mini.wav], mini.faces, mini.meta, mini.splits).write(root / "vox1.csv")
    return root / "vox1.csv"


def kinds(findings: tuple[Finding, ...]) -> dict[str, int]:
    return dict(Counter(finding.kind for finding in findings))


def test_the_miniature_has_one_unreadable_file_and_one_duplicate(vox1: Path) -> None:
    started, seen = [], []
    report = check_manifests([vox1], start=started.append, progress=seen.append)
    assert [(f.kind, f.key) for f in report.findings] == [
        ("unreadable", "id10270/ddddddddddd/00002"), ("duplicate file", "id10001/aaaaaaaaaaa/00001")
    ]  # fmt: skip
    assert "aaaaaaaaaaa/00001.wav" in report.findings[1].detail and "00002.wav" in report.findings[1].detail
    assert not report.is_sound and started == [20 - 1] and sum(seen) == 19  # one frame stands for two clips
    train, val, test = report.counts
    assert train == {
        "manifest": str(vox1), "split": "train", "items": 6, "identities": 2, "female": 1, "male": 1, "videos": 3,
        "voices": 6, "hours": round(6 * 1.6 / 3600, 3), "faces": 5, "frontal": 0,
    }  # fmt: skip
    assert (val["split"], val["items"], test["split"], test["items"], test["female"]) == ("val", 1, "test", 3, 2)


@pytest.fixture
def good(tmp_path) -> list[Item]:
    for number in range(4):
        write_voice(tmp_path / f"{number}.wav", number)
        write_face(tmp_path / f"{number}.jpg", number)
    files = [(tmp_path / f"{number}.wav", tmp_path / f"{number}.jpg") for number in range(4)]
    return [
        Item(f"k{n}", "train" if n < 3 else "val", f"p{n}", f"v{n}", voice, face, gender="fm"[n % 2])
        for n, (voice, face) in enumerate(files)
    ]


def written(path: Path, items: list[Item]) -> Path:
    Manifest(tuple(items)).write(path)
    return path


def test_a_sound_manifest(good: list[Item], tmp_path) -> None:
    report = check_manifests([written(tmp_path / "m.csv", good), written(tmp_path / "m.parquet", good)])
    assert report.findings == () and report.is_sound and len(report.counts) == 4  # in two files, but nothing twice


def test_each_bad_file_has_its_reason(good: list[Item], tmp_path) -> None:
    soundfile.write(tmp_path / "0.wav", 1e-4 * np.random.default_rng(0).standard_normal(32000), 16000)
    soundfile.write(tmp_path / "1.wav", 0.1 * np.random.default_rng(0).standard_normal(8000), 16000)
    (tmp_path / "2.wav").write_bytes((tmp_path / "2.wav").read_bytes()[:9000])
    (tmp_path / "3.wav").unlink()
    (tmp_path / "0.jpg").write_text("<html>")
    (tmp_path / "1.jpg").write_bytes((tmp_path / "1.jpg").read_bytes()[:300])
    report = check_manifests([written(tmp_path / "m.csv", good)])
    assert [(f.kind, f.key) for f in report.findings] == [
        ("silent", "k0"), ("unreadable", "k0"), ("too short", "k1"), ("unreadable", "k1"), ("unreadable", "k2"),
        ("missing", "k3"),
    ]  # fmt: skip
    texts = ("2.0 s, the loudest sample", "not a picture", "0.50 s, at least 1.0 s", "damaged", "truncated", "no such")
    for finding, text in zip(report.findings, texts, strict=True):
        assert text in finding.detail
    assert kinds(check_manifests([tmp_path / "m.csv"], min_speech_s=0.4).findings)["unreadable"] == 3
    assert "too short" not in kinds(check_manifests([tmp_path / "m.csv"], min_speech_s=0.4).findings)


def test_leaks_within_and_across_manifests(good: list[Item], tmp_path) -> None:
    shutil.copy(tmp_path / "0.jpg", tmp_path / "copy.jpg")
    other = [
        replace(good[0], key="x0", split="test", identity="P0", voice=None, face=tmp_path / "new.jpg", video=""),
        replace(good[1], key="x1", split="test", identity="q", voice=None, face=tmp_path / "copy.jpg", video=""),
        replace(good[2], key="x2", split="test", identity="r", voice=good[2].voice, face=None, video=""),
        replace(good[3], key="x3", split="val", identity="s", voice=None, face=tmp_path / "newer.jpg", video="v1"),
    ]
    write_face(tmp_path / "new.jpg", 10)
    write_face(tmp_path / "newer.jpg", 11)
    report = check_manifests([written(tmp_path / "a.csv", good), written(tmp_path / "b.csv", other)])
    assert kinds(report.findings) == {"leak of a file": 2, "leak of a person": 1, "video in two splits": 1}
    person = next(finding for finding in report.findings if finding.kind == "leak of a person")
    assert person.detail.startswith("p0: test (item 'x0' of ") and "train (item 'k0' of " in person.detail
    files = [finding for finding in report.findings if finding.kind == "leak of a file"]
    assert "0.jpg" in files[0].detail and "copy.jpg" in files[0].detail and "in splits test, train" in files[0].detail


def test_a_shared_video_is_a_note(good: list[Item], tmp_path) -> None:
    shared = [replace(item, video=SHARED) for item in good]
    report = check_manifests([written(tmp_path / "m.csv", shared)])
    assert kinds(report.findings) == {"video in two splits": 1} and report.is_sound


def test_items_that_a_manifest_refuses_are_all_listed(good: list[Item], tmp_path) -> None:
    path = written(tmp_path / "m.csv", good)
    lines = path.read_text().splitlines()
    lines += [lines[1], "k9,dev,p9,,,,,,,,", ",train,,,0.wav,,,,,,"]
    lines += [lines[4].replace("k3", "k4").replace(",val,", ",test,")]
    path.write_text("\n".join(lines) + "\n")
    report = check_manifests([path, tmp_path / "none.csv"])
    found = {(finding.kind, finding.key): finding.detail for finding in report.findings}
    assert found[("manifest", "")].endswith("none.csv: no such manifest")
    assert found[("duplicate key", "k0")] == "used 2 times"
    assert found[("incomplete", "k9")] == (
        "no split (it is 'dev', expected one of train, val, test), no voice, face or frontal"
    )
    assert found[("incomplete", "")] == "no key, no identity"
    assert ("leak of a person", "k3") in found and [row["split"] for row in report.counts][-1] == "dev"


def test_the_command(vox1: Path, good: list[Item], tmp_path) -> None:
    done = CliRunner().invoke(main, ["data", "check", str(vox1), "--workers", "1"])
    assert done.exit_code == 1 and done.stdout.splitlines()[0].startswith("manifest\tsplit\titems\tidentities")
    assert "unreadable\t" in done.stdout and "duplicate file\t" in done.stdout
    sound = str(written(tmp_path / "m.csv", good))
    done = CliRunner().invoke(main, ["data", "check", sound, "--workers", "1", "--json"])
    record = json.loads(done.stdout)
    assert done.exit_code == 0 and record["sound"] and record["counts"][0]["items"] == 3 and not record["findings"]
    (tmp_path / "bad.csv").write_text("key,split\n")
    done = CliRunner().invoke(main, ["data", "check", str(tmp_path / "bad.csv"), "--workers", "1"])
    assert done.exit_code == 1 and "missing columns ['identity']" in done.stdout


def test_a_killed_worker_is_an_error() -> None:
    with pytest.raises(ChildProcessError, match="a worker process was killed"):
        list(in_order(os._exit, [1, 1], 2))
