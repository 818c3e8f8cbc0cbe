"""People, videos and files that training and test share are found, whatever they are called."""

from __future__ import annotations

from pathlib import Path

import pytest

from miniature import make_miniature
from voicestyle.data.leaks import Leaks, find_leaks
from voicestyle.data.manifest import Item, Manifest
from voicestyle.data.voxceleb import import_voxceleb1, read_meta


def people(*identities: str, split: str = "train", video: str = "") -> list[Item]:
    return [Item(f"{n}", split, name, video, voice=Path(f"{n}.wav")) for n, name in enumerate(identities)]


@pytest.mark.parametrize(
    ("trained", "tested", "leaks"),
    [
        (["Ann", "Bo"], ["Cy"], []),
        (["Ann", "Bo"], ["Bo", "bo", "Cy"], ["Bo", "bo"]),
        (["a.j._buckley"], ["A.J. Buckley"], ["A.J. Buckley"]),
        (["id10001"], ["ID10001"], ["ID10001"]),
        (["id10001/A.J._Buckley"], ["id10001", "A.J._Buckley", "B"], ["A.J._Buckley", "id10001"]),
        (["A.J._Buckley"], ["id10001/A.J._Buckley"], ["id10001/A.J._Buckley"]),
        (["id10001"], ["id10001/A.J._Buckley", "id10002/A.R._Rahman"], ["id10001/A.J._Buckley"]),
        (["id10001"], ["A.J._Buckley"], []),  # nothing says that they are one
        (["id10003/Cy_Cole_Jr."], ["cy_cole_jr"], ["cy_cole_jr"]),
        (["a/b"], ["a", "b"], []),
    ],
)
def test_people(trained: list[str], tested: list[str], leaks: list[str]) -> None:
    found = find_leaks(people(*trained), people(*tested, split="test"))
    assert found.identities == tuple(leaks) and not found.videos and not found.files
    assert bool(found) == bool(leaks)


def test_ids_alone_and_names_alone_need_the_metadata(tmp_path) -> None:
    mini = make_miniature(tmp_path)
    names = {voxceleb_id: person.name for voxceleb_id, person in read_meta(mini.meta).items()}
    trained, tested = people("id10001", "id10002"), people("ann_able", "Dee", split="test")
    assert find_leaks(trained, tested, names=names).identities == ("ann_able",)


def test_the_paths_of_voxceleb_tell_who_is_who() -> None:
    item = Item(
        "k", "train", "id10001", voice=Path("wav/id10001/v/00001.wav"), face=Path("faces/Ann/1.6/v/0000025.jpg")
    )
    assert find_leaks([item], people("Ann", "Bo", split="test")).identities == ("Ann",)


def test_videos_and_files(tmp_path) -> None:
    for name, data in {"a.wav": b"1234", "b.wav": b"4321", "c.wav": b"1234", "d.wav": b"12345"}.items():
        (tmp_path / name).write_bytes(data)
    trained = [Item("a", "train", "Ann", "v1", tmp_path / "a.wav"), Item("b", "train", "Bo", "v2", tmp_path / "no.wav")]
    tested = [
        Item("b", "test", "Cy", "v2", tmp_path / "b.wav"), Item("c", "test", "Di", "v3", tmp_path / "c.wav"),
        Item("d", "test", "Ed", "", tmp_path / "d.wav"), Item("e", "test", "Fay", "", tmp_path / "a.wav"),
    ]  # fmt: skip
    found = find_leaks(trained, tested)
    assert found == Leaks((), ("v2",), (tmp_path / "a.wav", tmp_path / "c.wav"))
    assert str(found) == "0 identities, 1 videos, 2 files of the test were trained on"
    assert found.to_dict()["files"] == [str(tmp_path / "a.wav"), str(tmp_path / "c.wav")]
    assert find_leaks(trained, tested, files=False) == Leaks((), ("v2",))


def test_no_leak_between_the_splits_of_the_miniature(tmp_path) -> None:
    mini = make_miniature(tmp_path)
    manifest = import_voxceleb1([mini.wav], mini.faces, mini.meta, mini.splits, mini.frontal)
    train, val, test = (manifest.split(name) for name in ("train", "val", "test"))
    assert not find_leaks(train, val) and not find_leaks(train, test)
    assert len(find_leaks(train, manifest).identities) == 2


def test_no_leak_between_the_splits_of_pairs(shared_dir) -> None:
    from voicestyle.data.manifest import import_pairs

    manifest: Manifest = import_pairs(shared_dir / "data" / "pairs")
    assert not find_leaks(manifest.split("train"), manifest.split("val"))
