"""Whole evaluations: published lists over a miniature VoxCeleb1, manifests, leaks, and the commands."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner, Result
from PIL import Image

import voicestyle
from tiny import VOICE, save_tiny
from voicestyle import metrics
from voicestyle.cli import main
from voicestyle.data.manifest import Item, Manifest
from voicestyle.evaluate.association import evaluate_protocol
from voicestyle.evaluate.embeddings import Averaging
from voicestyle.evaluate.figures import save_plots
from voicestyle.evaluate.protocol import NOT_MADE, leak_check, manifest_protocol, published_protocol

PEOPLE = {1: "A.J._Buckley", 2: "A.R._Rahman", 3: "Aamir_Khan"}
VIDEO = "gaQqIoV_aL{}"
TASKS = ("matching", "verification", "retrieval")


@pytest.fixture(autouse=True, scope="module")
def few_resamples():
    """Intervals are tested elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "NUM_RESAMPLES", 20)
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def vs(model: Path) -> voicestyle.VoiceStyle:
    return voicestyle.load(model, "cpu")


@pytest.fixture(scope="module")
def voxceleb(tmp_path_factory) -> Path:
    """Three people, a recording and a picture each, as VoxCeleb1 keeps them, and lists over them."""
    root, rng = tmp_path_factory.mktemp("voxceleb"), np.random.default_rng(0)
    waveform, rate = soundfile.read(VOICE)
    voices, faces = {}, {}
    for number, name in PEOPLE.items():
        voices[number] = f"id1{number:04d}/{VIDEO.format(number)}/00001.wav"
        faces[number] = f"{name}/1.6/{VIDEO.format(number)}/0000025.jpg"
        wav, jpg = root / "wav" / voices[number], root / "faces" / faces[number]
        wav.parent.mkdir(parents=True), jpg.parent.mkdir(parents=True)
        soundfile.write(wav, waveform[: 2 * rate] * rng.uniform(0.2, 1) + rng.normal(size=2 * rate) * 0.01, rate)
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), np.uint8)).save(jpg)
    trials = [(1, 2), (2, 3), (3, 1), (1, 3)]
    for folder in ("matching", "veriflist", "retrieval"):
        (root / "lists" / folder).mkdir(parents=True)
    lists = root / "lists"
    (lists / "matching" / "matching_v2f_U.csv").write_text(
        "".join(f"{voices[a]} {faces[a]} {faces[b]}\n" for a, b in trials)
    )
    (lists / "matching" / "matching_f2v_G.csv").write_text(
        "".join(f"{faces[a]} {voices[a]} {voices[b]}\n" for a, b in trials)
    )
    pairs = [(a, b) for trial in trials for a, b in ((trial[0], trial[0]), trial)]
    (lists / "veriflist" / "veriflist_test_random_unseenunheard.txt").write_text(
        "id,voice-speaker-id,face-speaker-id,label,voice-path,face-path\n"
        + "".join(
            f"{i},{a},{b},{int(a == b)},{PEOPLE[a]}/{VIDEO.format(a)}_0000001.wav,{faces[b].replace('/1.6', '')}\n"
            for i, (a, b) in enumerate(pairs)
        )
    )
    for kind, names in (("wav", voices), ("jpg", faces)):
        rows = "".join(f"id1{number:04d}\t{name}\n" for number, name in names.items())
        (lists / "retrieval" / f"{kind}_20k.csv").write_text(f"VoxCeleb1 ID\t{kind}\n{rows}")
    return root


def published(voxceleb: Path, task: str):
    return published_protocol([voxceleb / "lists"], task, voxceleb / "wav", voxceleb / "faces")


def test_published_lists_find_their_files_and_are_scored_as_by_hand(vs, voxceleb: Path) -> None:
    wav, jpg = (sorted((voxceleb / folder).rglob(f"*.{kind}")) for folder, kind in (("wav", "wav"), ("faces", "jpg")))
    table = np.array([[vs.similarity(vs.encode_voice(v), vs.encode_face(f)).item() for f in jpg] for v in wav])
    own, trials = np.diag(table), np.array([(0, 1), (1, 2), (2, 0), (0, 2)])
    v2f, f2v = (np.array([own[a] > m[a, b] for a, b in trials]).mean() for m in (table, table.T))
    found = {r.trials: r for r in evaluate_protocol(vs, published(voxceleb, "matching"))}
    assert found["matching_v2f_U.csv"].score == v2f and found["matching_f2v_G.csv"].score == f2v
    assert found["matching_f2v_G.csv"].stratum == "same gender"
    assert {r.num_identities for r in found.values()} == {3} and {r.num_trials for r in found.values()} == {4}
    wins = [own[a] > table[b, c] for a, _ in trials for b, c in trials]
    auc, eer = evaluate_protocol(vs, published(voxceleb, "verification"))
    assert auc.score == pytest.approx(np.mean(wins)) and auc.num_trials == 8 and eer.metric == "EER"
    maps = [r for r in evaluate_protocol(vs, published(voxceleb, "retrieval")) if r.metric == "mAP"]
    for report, scores in zip(maps, (table, table.T), strict=True):
        ranks = (scores > np.diag(scores)[:, None]).sum(1) + 1
        assert report.score == pytest.approx((1 / ranks).mean())


def test_files_that_are_missing_are_told_of_and_their_trials_counted(vs, voxceleb: Path, tmp_path) -> None:
    for folder in ("wav", "faces", "lists"):
        (tmp_path / folder).symlink_to(voxceleb / folder)
    (tmp_path / "wav").unlink()
    (tmp_path / "wav" / "id10001").mkdir(parents=True)
    for number in (2, 3):
        (tmp_path / "wav" / f"id1000{number}").symlink_to(voxceleb / "wav" / f"id1000{number}")
    for task, lost in (("matching", [3, 2]), ("verification", [4, 4])):
        told = []
        evaluation = evaluate_protocol(
            vs, published(tmp_path, task), refuse=lambda s, e, told=told: told.append(s.name)
        )
        assert len(told) == 1 and list(evaluation.refused) == [f"voice {told[0]}"]
        assert sorted(r.num_left_out for r in evaluation) == sorted(lost)
        assert "1 recordings or pictures could not be used" in "\n".join(evaluation.header())


def test_pictures_that_stand_in_for_others_are_named() -> None:
    def named(num_frontal: int, faces: str = "frontal") -> str:
        items = tuple(
            Item(
                f"{i}", "val", f"p{i}", voice=Path("v.wav"), face=Path("f.jpg"), frontal=Path("f.png") if full else None
            )
            for i, full in enumerate([True] * num_frontal + [False] * (4 - num_frontal))
        )
        return manifest_protocol(Manifest(items), "retrieval", faces=faces).pictures

    assert named(4) == "frontal renderings"
    assert named(0) == named(4, "wild") == "frames in the wild, aligned"
    assert named(3) == "frontal renderings, and frames in the wild, aligned, for 1 of 4 items"


def test_folders_that_are_missing_are_an_error(voxceleb: Path, tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="no such folder"):
        published_protocol([voxceleb / "lists"], "matching", tmp_path / "none", voxceleb / "faces")
    twice = [voxceleb / "lists", voxceleb / "lists"]
    with pytest.raises(ValueError, match="two lists have the name matching_f2v_G.csv"):
        published_protocol(twice, "matching", voxceleb / "wav", voxceleb / "faces")


# --------------------------------------------------------------------------------------------------------------- leaks


def training(tmp_path: Path, *identities: str, voice: Path = Path("elsewhere.wav"), video: str = "") -> Path:
    items = [Item(f"t{i}", "train", name, video, voice=voice) for i, name in enumerate(identities)]
    items.append(Item("v", "val", "id10002", voice=Path("held_out.wav")))
    Manifest(tuple(items)).write(tmp_path / "train.csv")
    return tmp_path / "train.csv"


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("identity", ["id10001", "A.J._Buckley", "id10001/A.J._Buckley"])
def test_people_that_were_trained_on_are_found_by_any_of_their_names(voxceleb, tmp_path, task, identity) -> None:
    protocol, path = published(voxceleb, task), training(tmp_path, identity, "somebody")
    with pytest.raises(ValueError, match=r"LEAK: 1 of 3 identities were trained on .*; test on people"):
        leak_check(protocol, [path])
    assert leak_check(protocol, [path], allow=True).startswith("LEAK: 1 of 3 identities were trained on (")


def test_what_was_not_trained_on_is_no_leak(voxceleb, tmp_path) -> None:
    protocol = published(voxceleb, "matching")
    assert leak_check(protocol, []) == NOT_MADE
    said = leak_check(protocol, [training(tmp_path, "somebody")])  # id10002 is in its split val
    assert said.startswith("leak check: none of 3 identities were trained on (") and "videos" not in said
    said = leak_check(protocol, [training(tmp_path, "somebody", video=VIDEO.format(1))])
    assert said.endswith("; 1 videos of other people are in both")


def test_a_file_under_another_name_is_a_leak(tmp_path) -> None:
    (tmp_path / "a.wav").write_bytes(VOICE.read_bytes())
    items = [Item(f"k{i}", "val", f"p{i}", voice=tmp_path / f"{'ab'[i]}.wav", frontal=tmp_path / "f") for i in range(2)]
    protocol = manifest_protocol(Manifest(tuple(items)), "verification")
    path = training(tmp_path, "somebody", voice=VOICE)
    assert leak_check(protocol, [path], allow=True).endswith("; 1 files are the same")
    with pytest.raises(ValueError, match=r"LEAK: 0 of 2 identities .*a\.wav"):
        leak_check(protocol, [path])


# ----------------------------------------------------------------------------------------------- manifests and commands


@pytest.fixture(scope="module")
def pairs(voxceleb: Path) -> Path:
    """The same three people as a manifest, and one whose recording is missing."""
    items = [
        Item(
            f"key {n}", "val", name, VIDEO.format(n), gender="m",
            voice=voxceleb / "wav" / f"id1{n:04d}" / VIDEO.format(n) / "00001.wav",
            frontal=voxceleb / "faces" / name / "1.6" / VIDEO.format(n) / "0000025.jpg",
        )
        for n, name in PEOPLE.items()
    ]  # fmt: skip
    gone = Item("gone", "val", "nobody", voice=voxceleb / "gone.wav", frontal=items[0].frontal)
    Manifest((*items, gone)).write(voxceleb / "pairs.csv")
    return voxceleb / "pairs.csv"


@pytest.fixture
def run(model: Path):
    def run(*arguments: object) -> Result:
        command = [str(a) for a in arguments] + ["--model", str(model), "--device", "cpu"]
        return CliRunner().invoke(main, ["evaluate", *command])

    return run


def test_an_evaluation_is_a_sequence_of_reports_that_keep_their_context(vs, pairs) -> None:
    told = []
    protocol = manifest_protocol(Manifest.read(pairs), "verification", "val", seed=4)
    evaluation = evaluate_protocol(vs, protocol, seed=4, refuse=lambda source, error: told.append(source.name))
    assert told == ["gone"] and [r.metric for r in evaluation] == ["AUC", "EER"] * 2 and len(evaluation) == 4
    assert evaluation[0].seed == 4 and evaluation[0].num_left_out > 0 and evaluation[0].num_unlabeled == 0
    assert evaluation[2].num_unlabeled == 1
    for record, report in zip(evaluation.to_dicts(), evaluation, strict=True):
        assert record["score"] == report.score and record["leak_check"] == NOT_MADE
        assert record["voices"] == "whole recordings" and "split val, trials made with seed 4" in record["tested"]
    with pytest.raises(FileNotFoundError):
        evaluate_protocol(vs, protocol)


@pytest.mark.parametrize("task", TASKS)
def test_lists_that_were_written_give_the_same_scores(run, pairs, tmp_path, task) -> None:
    made = run(task, pairs, "--write-lists", tmp_path / "lists", "--cache", tmp_path / "cache", "--json")
    assert made.exit_code == 0, made.output
    again = run(task, pairs, "--lists", tmp_path / "lists", "--cache", tmp_path / "cache", "--json", "--seed", 0)
    assert again.exit_code == 0, again.output
    scores = [
        sorted((r["task"], r["stratum"], r["metric"], r["score"], r["num_trials"], *r["interval"]) for r in records)
        for records in ([json.loads(line) for line in result.stdout.splitlines()] for result in (made, again))
    ]
    assert scores[0] == scores[1]
    assert "lists read" in again.stdout and "left out: item 'gone'" in again.stderr


def test_published_lists_from_the_command_line(run, voxceleb, tmp_path) -> None:
    place = ("--lists", voxceleb / "lists", "--wav", voxceleb / "wav", "--faces", voxceleb / "faces")
    result = run("verification", *place, "--reference-protocol", "--markdown", tmp_path / "out" / "table.md")
    assert result.exit_code == 0, result.output
    text = (tmp_path / "out" / "table.md").read_text()
    assert "- leak check: not made" in text and "crop seeds 0 to 4, un-normalized mean" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 4 and len({row.count("|") for row in rows}) == 1
    assert "veriflist_test_random_unseenunheard.txt" in rows[-1]
    printed = run("retrieval", *place, "--markdown", "-")
    assert printed.stdout.count("| retrieval, ") == 6 and "wav_20k.csv" in printed.stdout
    path = training(tmp_path, "id10003")
    refused = run("matching", *place, "--trained-on", path)
    assert refused.exit_code == 1 and "LEAK: 1 of 3 identities" in refused.stderr
    marked = run("matching", *place, "--trained-on", path, "--allow-leaks", "--json")
    assert all(json.loads(line)["leak_check"].startswith("LEAK: 1 of 3") for line in marked.stdout.splitlines())


def test_matching_of_several_sizes_and_strata(run, pairs) -> None:
    result = run("matching", pairs, "--candidates", 2, "--candidates", 3, "--strata", "U", "--crops", 2, "--seed", 1)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert "2 random windows of 800 frames, crop seeds 2 to 3, mean of unit embeddings" in lines[1]
    assert [line.split(" (")[0] for line in lines if line.startswith("matching")] == [
        f"matching 1:{n}, {way}" for n in (2, 3) for way in ("voice to face", "face to voice")
    ]
    assert run("matching", pairs, "--strata", "N").exit_code == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["matching"], "name a MANIFEST, or published lists"),
        (["matching", "--lists", "x"], "name a MANIFEST, or published lists"),
        (["matching", "pairs.csv", "--wav", "x"], "--wav and --align go without one"),
        (["matching", "pairs.csv", "--faces", "x"], "--faces is frontal or wild"),
        (["verification", "pairs.csv", "--reference-protocol", "--crops", "2"], "leave out --crops"),
    ],
)
def test_wrong_usage_is_told(run, options, message) -> None:
    result = run(*options)
    assert result.exit_code == 2 and message in result.stderr


def test_curves_are_drawn(run, vs, pairs, voxceleb, tmp_path) -> None:
    pytest.importorskip("matplotlib"), pytest.importorskip("sklearn")
    result = run("verification", pairs, "--plots", tmp_path / "plots")
    assert result.exit_code == 0, result.output
    evaluation = evaluate_protocol(vs, published(voxceleb, "retrieval"), averaging=Averaging())
    save_plots(evaluation, tmp_path / "plots")
    names = ["cmc_wav_20k_f2v", "cmc_wav_20k_v2f", "roc"]
    names += [f"similarities_veriflist_test_{stratum}_val" for stratum in ("G", "random")]
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == [f"{name}.png" for name in names]
    for path in (tmp_path / "plots").iterdir():
        with Image.open(path) as picture:
            assert len(np.unique(np.asarray(picture.convert("L")))) > 5


def test_written_lists_have_the_published_layouts(run, pairs, tmp_path) -> None:
    for task in TASKS:
        assert run(task, pairs, "--write-lists", tmp_path).exit_code == 0
    with (tmp_path / "matching_v2f_U.csv").open(newline="") as file:
        assert all(len(row) == 3 for row in csv.reader(file, delimiter=" "))
    first = (tmp_path / "veriflist_test_random_val.txt").read_text().splitlines()[:2]
    assert first == [
        "id,voice-speaker-id,face-speaker-id,label,voice-path,face-path", "1,A.J._Buckley,A.J._Buckley,1,key 1,key 1",
    ]  # fmt: skip
    assert (tmp_path / "jpg_val.csv").read_text().startswith("VoxCeleb1 ID\tjpg\nA.J._Buckley\tkey 1\n")
