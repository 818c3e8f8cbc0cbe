"""Manifests: read, written, and refused where they would spoil a result."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from voicestyle.data.manifest import Item, Manifest, import_pairs


def items(folder: Path) -> tuple[Item, ...]:
    return (
        Item("a", "train", "Ann", "v1", folder / "a.wav", folder / "a.jpg", (1.5, 2.0, 30.0, 40.0), None, "f", "UK"),
        Item("b", "val", "Bo, B.", voice=folder / "sub" / "b.wav", frontal=folder / "b.png"),
    )


def test_what_is_written_is_read(tmp_path):
    manifest = Manifest(items(tmp_path / "data"))
    manifest.write(tmp_path / "lists" / "m.csv")
    text = (tmp_path / "lists" / "m.csv").read_text()
    assert str(tmp_path) not in text and "../data/a.wav" in text  # the folder can be moved as a whole
    read = Manifest.read(tmp_path / "lists" / "m.csv")
    resolved = [
        replace(i, **{c: p.resolve() for c in ("voice", "face", "frontal") if (p := getattr(i, c))}) for i in read
    ]
    assert tuple(resolved) == manifest.items


def test_split_and_missing_files(tmp_path):
    manifest = Manifest(items(tmp_path), "m.csv")
    assert [item.key for item in manifest.split("val")] == ["b"]
    with pytest.raises(ValueError, match=r"m.csv: no item of split 'test'; it has \['train', 'val'\]"):
        manifest.split("test")
    with pytest.raises(FileNotFoundError, match="m.csv: 4 of its files are missing"):
        manifest.check_files()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key": "a"}, "used twice"),
        ({"key": ""}, "key empty"),
        ({"split": "dev"}, "split 'dev'"),
        ({"identity": ""}, "no identity"),
        ({"identity": "Ann"}, "an identity belongs to one split"),
        ({"voice": None, "frontal": None}, "neither voice nor face"),
    ],
)
def test_bad_items_are_refused(tmp_path, change, message):
    first, second = items(tmp_path)
    with pytest.raises(ValueError, match=message):
        Manifest((first, replace(second, **change)))


def test_no_items_are_refused():
    with pytest.raises(ValueError, match="no items"):
        Manifest(())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("key,split,identity,gendr\n", r"unknown columns \['gendr'\]"),
        ("key,split\n", r"missing columns \['identity'\]"),
        ("key,split,identity,voice\na,train,Ann\n", "line 2 has another number of cells"),
        ("key,split,identity,voice\na,train,Ann,x.wav,y\n", "line 2 has another number of cells"),
        ("key,split,identity,face,face_box\na,train,Ann,x.jpg,1 2 3\n", "line 2: face_box '1 2 3', expected 'left top"),
        ("key,split,identity,face,face_box\na,train,Ann,x.jpg,1 2 3 x\n", "line 2: face_box"),
        ("", "missing columns"),
    ],
)
def test_files_of_another_form_are_refused(tmp_path, text, message):
    path = tmp_path / "m.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        Manifest.read(path)


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such manifest"):
        Manifest.read(tmp_path / "m.csv")
    with pytest.raises(FileNotFoundError, match=r"pairs\.csv: no such file"):
        import_pairs(tmp_path)


def test_pairs_are_imported(shared_dir):
    manifest = import_pairs(shared_dir / "data" / "pairs")
    manifest.check_files()
    assert (len(manifest.split("train")), len(manifest.split("val"))) == (968, 159)
    assert sum(bool(item.face_box) for item in manifest) == 1033
    assert {item.gender for item in manifest.split("val")} == {"f", "m"}
