"""Manifests of folders and of tables that other people made."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from miniature import make_miniature, write_face, write_voice
from voicestyle.cli import main
from voicestyle.data.folders import draw_splits, import_folders, import_table
from voicestyle.data.manifest import Manifest


@pytest.fixture(scope="module")
def people(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("people")
    for name, num_voices, num_faces in (("Ann", 3, 2), ("Bo", 1, 3), ("Cy", 0, 2), ("Di", 2, 0)):
        for i in range(num_voices):
            write_voice(root / "voices" / name / f"day{i % 2}" / f"{i}.wav", i)
        for i in range(num_faces):
            write_face(root / "faces" / name / f"{i}.png", i)
    (root / "faces" / "Ann" / "notes.txt").write_text("no picture")
    (root / "faces" / ".hidden").mkdir()
    return root


def test_people_in_folders(people: Path) -> None:
    manifest = import_folders(people / "voices", people / "faces", shares=(0.0, 0.0))
    rows = [
        (item.key, item.identity, item.video, item.voice and item.voice.name, item.face and item.face.name)
        for item in manifest
    ]
    assert rows == [
        ("Ann/day0/0.wav", "Ann", "Ann/day0", "0.wav", "0.png"),
        ("Ann/day0/2.wav", "Ann", "Ann/day0", "2.wav", "1.png"),
        ("Ann/day1/1.wav", "Ann", "Ann/day1", "1.wav", "1.png"),
        ("Bo/day0/0.wav", "Bo", "Bo/day0", "0.wav", "1.png"),
        ("Cy/0.png", "Cy", "", None, "0.png"),
        ("Cy/1.png", "Cy", "", None, "1.png"),
        ("Di/day0/0.wav", "Di", "Di/day0", "0.wav", None),
        ("Di/day1/1.wav", "Di", "Di/day1", "1.wav", None),
    ]
    manifest.check_files()


def test_splits_are_drawn_by_the_seed() -> None:
    people = [f"p{i}" for i in range(40)]
    draws = {seed: draw_splits(people, (0.25, 0.1), seed) for seed in (0, 1)}
    assert draws[0] == draw_splits(people[::-1], (0.25, 0.1), 0) and draws[0] != draws[1]
    for split_of in draws.values():
        splits = list(split_of.values())
        assert (splits.count("train"), splits.count("val"), splits.count("test")) == (26, 10, 4)
    with pytest.raises(ValueError, match="nobody would be left to train on"):
        draw_splits(people, (0.5, 0.5), 0)


def test_bad_folders(people: Path, tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="one folder a person"):
        import_folders(tmp_path / "nothing", None)
    with pytest.raises(ValueError, match="expected a folder for each person with files .wav"):
        import_folders(people / "faces", None)


def table(folder: Path, text: str, name: str = "t.csv") -> Path:
    (folder / name).write_text(text)
    return folder / name


def test_a_table_of_voices_and_one_of_faces(tmp_path) -> None:
    speech = table(tmp_path, "file,speaker,gender,seconds\nv/1.ogg,19,f,2.0\nv/2.ogg,19,F,3.0\nv/3.ogg,26,male,3.0\n")
    items = import_table(speech, {"voice": "file", "identity": "speaker"}).items
    assert [(i.key, i.identity, i.gender, i.voice, i.face) for i in items] == [
        ("v/1.ogg", "19", "f", tmp_path / "v/1.ogg", None),
        ("v/2.ogg", "19", "f", tmp_path / "v/2.ogg", None),
        ("v/3.ogg", "26", "m", tmp_path / "v/3.ogg", None),
    ]
    faces = table(tmp_path, "file\tage\tgender\na.jpg\t18\tm\nb.jpg\t\tfemale\n", "t.tsv")
    items = import_table(faces, {"face": "file"}, split="val").items
    assert [(i.key, i.identity, i.split, i.age, i.gender) for i in items] == [
        ("a.jpg", "a.jpg", "val", 18.0, "m"), ("b.jpg", "b.jpg", "val", None, "f")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        ("file,age\na.jpg,18\n", {"face": "picture"}, r"no columns \['picture'\]; it has \['file', 'age'\]"),
        ("file,age\na.jpg,18\n", {"picture": "file"}, r"unknown columns \['picture'\] of a manifest"),
        ("file,age\na.jpg,18\n", {}, "say which of its columns"),
        ("file,age\na.jpg,20-29\n", {"face": "file"}, "line 2: age '20-29', expected years"),
        ("file,gender\na.jpg,x\n", {"face": "file"}, "line 2: gender 'x', expected one of"),
    ],
)
def test_bad_tables(tmp_path, text: str, columns: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        import_table(table(tmp_path, text), columns)


def test_the_research_data_can_be_used_unpaired(shared_dir) -> None:
    speech = import_table(shared_dir / "data/librispeech/voices.csv", {"voice": "file", "identity": "speaker"})
    faces = import_table(shared_dir / "data/utkface_adults/faces.csv", {"face": "file"})
    speech.check_files()
    assert len({item.identity for item in speech}) == 261 and {item.gender for item in speech} == {"f", "m"}
    assert len(faces) == 12922 and (min(i.age for i in faces), max(i.age for i in faces)) == (18, 90)


def run(*arguments: object):
    return CliRunner().invoke(main, ["data", "prepare", *map(str, arguments)])


def test_the_commands(people: Path, tmp_path) -> None:
    mini = make_miniature(tmp_path / "vox")
    lists = ("--wav", mini.wav, "--faces", mini.faces, "--meta", mini.meta, "--splits", mini.splits)
    done = run("voxceleb1", *lists, "--frontal", mini.frontal, "-o", tmp_path / "vox1.csv")
    assert done.exit_code == 0 and done.stdout == f"{tmp_path / 'vox1.csv'}\t5 identities\t6 train\t1 val\t3 test\n"
    assert done.stderr.splitlines()[0] == "left out: id10003/Cy_Cole_Jr./without_wav: no clips"
    done = run("voxceleb1", *lists, "--merge-val", "--clips", 1, "-o", tmp_path / "vox1.parquet")
    assert done.stdout.endswith("5 identities\t4 train\t2 test\n")
    folders = ("--voices", people / "voices", "--faces", people / "faces", "--val", 0.25, "--test", 0)
    done = run("folders", *folders, "-o", tmp_path / "people.csv")
    assert done.exit_code == 0 and len(Manifest.read(tmp_path / "people.csv")) == 8
    speech = table(tmp_path, "file,speaker\nv/1.ogg,19\n")
    done = run("table", speech, "--column", "voice=file", "--column", "identity=speaker", "-o", tmp_path / "v.csv")
    assert done.exit_code == 0 and Manifest.read(tmp_path / "v.csv").items[0].identity == "19"


def test_wrong_usage(tmp_path) -> None:
    speech = table(tmp_path, "file,speaker\nv/1.ogg,19\n")
    for arguments, message in (
        (("table", speech, "--column", "file", "-o", tmp_path / "v.csv"), "expected OURS=THEIRS"),
        (("table", speech, "--column", "voice=file", "-o", tmp_path / "v.txt"), "ends in .csv or .parquet"),
        (("folders", "-o", tmp_path / "v.csv"), "name --voices"),
    ):
        done = run(*arguments)
        assert done.exit_code == 2 and message in done.stderr
    done = run("pairs", tmp_path, "-o", tmp_path / "v.csv")
    assert done.exit_code == 1 and "pairs.csv: no such file" in done.stderr


def test_every_kind_of_file_and_linked_folders_are_taken(tmp_path):
    voices, elsewhere = tmp_path / "voices", tmp_path / "elsewhere" / "vid1"
    names = ["0.wav", "1.AIFF", "2.caf", "3.amr", "4.oga", "5.mka", "6.3gp"]
    (voices / "p1").mkdir(parents=True)
    elsewhere.mkdir(parents=True)
    for name in names:
        (voices / "p1" / name).touch()
    (elsewhere / "7.wav").touch()
    (voices / "p1" / "vid1").symlink_to(elsewhere)
    (elsewhere / "loop").symlink_to(voices / "p1")
    for name in ("notes.txt", "0.lab", "1.lab", "README"):
        (voices / "p1" / name).touch()
    told = {}
    manifest = import_folders(voices, None, shares=(0, 0), refuse=told.__setitem__)
    assert [item.key for item in manifest] == [*(f"p1/{name}" for name in names), "p1/vid1/7.wav"]
    assert told == {str(voices / "p1"): "no voice by their names: 2 of .lab, 1 of .txt, 1 of no suffix"}


def test_names_in_decomposed_unicode_are_those_of_the_same_person(tmp_path):
    for root, person in (("voices", "Zoe\u0308"), ("faces", "Zo\u00eb")):
        (tmp_path / root / person).mkdir(parents=True)
        (tmp_path / root / person / ("a.wav" if root == "voices" else "a.jpg")).touch()
    (item,) = import_folders(tmp_path / "voices", tmp_path / "faces", shares=(0, 0))
    assert item.identity == "Zo\u00eb" and item.key == "Zo\u00eb/a.wav" and item.voice.is_file() and item.face.is_file()
