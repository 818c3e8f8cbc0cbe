"""Manifests: read, written, and refused where they would spoil a result."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from voicestyle.data.manifest import Item, Manifest, import_pairs


def items(folder: Path) -> tuple[Item, ...]:
    return (
        Item("a", "train", "Ann", "v1", folder / "a.wav", folder / "a.jpg", (1.5, 2.0, 30.0, 40.0), None, "f", "UK"),
        Item("b", "val", "Bo, B.", voice=folder / "sub" / "b.wav", frontal=folder / "b.png"),
    )


def resolved(manifest: Manifest) -> tuple[Item, ...]:
    paths = ("voice", "face", "frontal")
    return tuple(replace(i, **{c: p.resolve() for c in paths if (p := getattr(i, c))}) for i in manifest)


@pytest.mark.parametrize("suffix", ["csv", "parquet", "PARQUET"])
def test_what_is_written_is_read(tmp_path, suffix):
    manifest = Manifest(items(tmp_path / "data"))
    path = tmp_path / "lists" / f"m.{suffix}"
    manifest.write(path)
    assert resolved(Manifest.read(path)) == manifest.items
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    if suffix == "csv":
        text = path.read_text()
        assert str(tmp_path) not in text and "../data/a.wav" in text  # the folder can be moved as a whole


names = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1, max_size=12)
paths = st.none() | st.lists(names.filter(lambda n: n not in (".", "..") and "/" not in n), min_size=1, max_size=3)
edges = st.tuples(*[st.floats(allow_nan=False, allow_infinity=False, width=64)] * 4)


@st.composite
def any_items(draw) -> list[dict]:
    keys = draw(st.lists(names, min_size=1, max_size=4, unique=True))
    people = draw(st.lists(names, min_size=len(keys), max_size=len(keys)))
    split_of = {person: draw(st.sampled_from(["train", "val", "test"])) for person in people}
    rows = []
    for key, person in zip(keys, people, strict=True):
        row = {"key": key, "split": split_of[person], "identity": person, "video": draw(st.just("") | names)}
        row |= {"voice": ["v.wav"], "face": draw(paths), "frontal": draw(paths)}
        row |= {"gender": draw(st.sampled_from(["", "f", "m"])), "nationality": draw(st.just("") | names)}
        row |= {"face_box": draw(st.just(()) | edges), "age": draw(st.none() | st.floats(0, 130))}
        rows.append(row)
    return rows


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=any_items(), suffix=st.sampled_from(["csv", "parquet"]))
def test_any_manifest_is_read_as_it_was_written(tmp_path, rows, suffix):
    for row in rows:
        row |= {name: row[name] and Path(tmp_path, *row[name]) for name in ("voice", "face", "frontal")}
    manifest = Manifest(tuple(Item(**row) for row in rows))
    manifest.write(tmp_path / f"m.{suffix}")
    assert Manifest.read(tmp_path / f"m.{suffix}").items == manifest.items


def test_parquet_of_others_is_read(tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = {
        "key": ["a", "b"], "split": ["train", "val"], "identity": [1, 2], "face": ["x.jpg", "y.jpg"],
        "gender": ["f", None], "age": [31, None], "face_box": [None, "1 2 3 4"],
    }  # fmt: skip
    parquet.write_table(pyarrow.table(columns), tmp_path / "m.parquet")
    first, second = Manifest.read(tmp_path / "m.parquet")
    assert (first.identity, first.age, first.face_box, first.gender) == ("1", 31.0, (), "f")
    assert (second.identity, second.age, second.face_box, second.gender) == ("2", None, (1.0, 2.0, 3.0, 4.0), "")
    (tmp_path / "m.parquet").write_text("key,split,identity\n")
    with pytest.raises(ValueError, match=r"m.parquet: not a Parquet file"):
        Manifest.read(tmp_path / "m.parquet")


def test_parquet_needs_pyarrow(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"pip install 'voicestyle\[parquet\]'; or use .csv"):
        Manifest(items(tmp_path)).write(tmp_path / "m.parquet")
    assert not list(tmp_path.iterdir())


def test_numbers_in_parquet_are_numbers(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    first, second = items(tmp_path)
    Manifest((replace(first, age=20.0), second)).write(tmp_path / "m.parquet")
    table = parquet.read_table(tmp_path / "m.parquet").to_pydict()
    assert table["age"] == [20.0, None] and table["face_box"] == [[1.5, 2.0, 30.0, 40.0], None]
    assert table["voice"] == ["a.wav", "sub/b.wav"] and table["face"] == ["a.jpg", ""]


def test_tables_of_spreadsheets_are_read(tmp_path):
    (tmp_path / "m.csv").write_bytes("\ufeffkey,split,identity,face,age\r\na,train,Ann,x.jpg,30\r\n\r\n".encode())
    (item,) = Manifest.read(tmp_path / "m.csv")
    assert (item.key, item.age, item.face) == ("a", 30.0, tmp_path / "x.jpg")


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
        ("key,split,identity,face,age\na,train,Ann,x.jpg,old\n", "line 2: age 'old', expected years from 0 to 130"),
        ("key,split,identity,face,age\na,train,Ann,x.jpg,-1\n", "line 2: age '-1'"),
        ('key,split,identity,face\na,train,"A\nB",x.jpg\nb,train,C\n', "line 4 has another number of cells"),
        ("key,split,identity,key\n", "a column twice"),
        ("", "missing columns"),
    ],
)
def test_files_of_another_form_are_refused(tmp_path, text, message):
    path = tmp_path / "m.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        Manifest.read(path)


def test_a_binary_file_is_refused(tmp_path):
    (tmp_path / "m.csv").write_bytes(b"PK\x03\x04\xff\xfe")
    with pytest.raises(ValueError, match="not a table of text"):
        Manifest.read(tmp_path / "m.csv")


def test_pairs_without_their_columns_are_refused(tmp_path):
    (tmp_path / "pairs.csv").write_text("key,split\na,train\n")
    with pytest.raises(ValueError, match=r"pairs.csv: missing columns \['face_bottom', 'face_left'"):
        import_pairs(tmp_path)


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


def test_an_item_says_which_file_it_lacks() -> None:
    item = Item("a", "train", "p", voice=Path("a.wav"))
    assert item.file("voice") == Path("a.wav")
    with pytest.raises(ValueError, match="item 'a': no frontal, expected a file"):
        item.file("frontal")
