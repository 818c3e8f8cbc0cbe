"""VoxCeleb1: its folders and lists become a manifest, in an order of their own, and bad lines are named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from miniature import COMPLETE, PEOPLE, SHARED, Miniature, make_miniature, write_face
from voicestyle.data.folders import deal
from voicestyle.data.manifest import Manifest
from voicestyle.data.pictures import wild_picture
from voicestyle.data.voxceleb import import_voxceleb1, read_meta, read_splits, read_training_list
from voicestyle.image import load_image


@pytest.fixture(scope="module")
def mini(tmp_path_factory) -> Miniature:
    return make_miniature(tmp_path_factory.mktemp("vox"))


def load(mini: Miniature, **options) -> Manifest:
    return import_voxceleb1([mini.wav], mini.faces, mini.meta, mini.splits, **options)


def test_items_are_clips_in_the_order_of_identity_video_and_clip(mini: Miniature) -> None:
    manifest = load(mini)
    assert [item.key for item in manifest] == [
        "id10001/aaaaaaaaaaa/00001", "id10001/aaaaaaaaaaa/00002", "id10001/aaaaaaaaaaa/00003",
        f"id10001/{SHARED}/00001", f"id10002/{SHARED}/00001", f"id10002/{SHARED}/00002",
        "id10003/bbb-bbb_bbb/00001", "id10270/ddddddddddd/00001", "id10270/ddddddddddd/00002",
        "id10271/eeeeeeeeeee/00001",
    ]  # fmt: skip
    assert len(manifest) == COMPLETE
    manifest.check_files()
    for item in manifest:
        voxceleb_id, name = item.identity.split("/")
        assert item.voice.parts[-3:] == (voxceleb_id, item.video, item.key.split("/")[2] + ".wav")
        assert item.face.parts[-4:-1] == (name, "1.6", item.video) and item.frontal is None
        assert (name, item.gender, item.nationality) == PEOPLE[voxceleb_id][:3]
    assert {item.identity for item in manifest if item.video == SHARED} == {"id10001/Ann_Able", "id10002/B.B._Baker"}
    assert [item.face.stem for item in manifest][:3] == ["0000025", "0000075", "0000125"]  # evenly of five


def test_a_frame_is_taken_as_it_is(mini: Miniature, tmp_path) -> None:
    for item in load(mini):
        assert torch.equal(wild_picture(item), load_image(item.face, 256))
    (tmp_path / "wav/id10001/v").mkdir(parents=True)
    (tmp_path / "wav/id10001/v/00001.wav").touch()
    faces = tmp_path / "faces/Ann_Able/1.6/v"
    write_face(faces / "1.jpg", 0, size=50)
    Image.open(faces / "1.jpg").crop((0, 0, 50, 47)).save(faces / "1.jpg")
    (item,) = import_voxceleb1([tmp_path / "wav"], tmp_path / "faces", mini.meta, mini.splits)
    assert torch.equal(wild_picture(item), load_image(item.face, 256))
    (faces / "1.jpg").write_text("no picture")
    (item,) = import_voxceleb1([tmp_path / "wav"], tmp_path / "faces", mini.meta, mini.splits)
    assert item.face_box == ()


def test_splits_follow_the_list_or_the_metadata(mini: Miniature) -> None:
    def splits(manifest: Manifest) -> dict[str, str]:
        return {item.identity.split("/")[0]: item.split for item in manifest}

    train, val, test = ["id10001", "id10002"], ["id10003"], ["id10270", "id10271"]
    wanted = dict.fromkeys(train, "train") | dict.fromkeys(test, "test")
    assert splits(load(mini)) == wanted | dict.fromkeys(val, "val")
    assert splits(load(mini, merge_val=True)) == wanted | dict.fromkeys(val, "train")
    assert splits(import_voxceleb1([mini.wav], mini.faces, mini.meta)) == wanted | dict.fromkeys(val, "train")


def test_the_order_of_the_file_system_does_not_matter(mini: Miniature, monkeypatch) -> None:
    as_it_is = load(mini, frontal=mini.frontal)
    iterdir, walk = Path.iterdir, os.walk
    monkeypatch.setattr(Path, "iterdir", lambda self: iter(sorted(iterdir(self), reverse=True)))

    def backwards(top, **options):
        return ((root, dirs, sorted(names, reverse=True)) for root, dirs, names in walk(top, **options))

    monkeypatch.setattr(os, "walk", backwards)
    assert load(mini, frontal=mini.frontal) == as_it_is


def test_what_is_incomplete_is_left_out_and_told(mini: Miniature, tmp_path) -> None:
    told = []
    load(mini, refuse=lambda who, why: told.append((who, why)))
    assert told == [
        ("id10003/Cy_Cole_Jr./without_wav", "no clips"), ("id10271/Eve_E./without_jpg", "no frames")
    ]  # fmt: skip
    told.clear()
    only_ann = tmp_path / "splits.txt"
    only_ann.write_text("Ann_Able train\n")
    manifest = import_voxceleb1(
        [mini.wav], mini.faces, mini.meta, only_ann, refuse=lambda who, why: told.append((who, why))
    )
    assert len(manifest) == 4 and [who for who, _ in told] == [
        f"{voxceleb_id}/{PEOPLE[voxceleb_id][0]}" for voxceleb_id in PEOPLE if voxceleb_id != "id10001"
    ]


def test_wavs_may_lie_in_two_folders_and_clips_be_few(mini: Miniature, tmp_path) -> None:
    dev, test = tmp_path / "dev", tmp_path / "test"
    for root, people in ((dev, ("id10001", "id10002", "id10003")), (test, ("id10270", "id10271"))):
        root.mkdir()
        for person in people:
            (root / person).symlink_to(mini.wav / person)
    both = import_voxceleb1([test, dev], mini.faces, mini.meta, mini.splits)
    assert [item.key for item in both] == [item.key for item in load(mini)]
    one = load(mini, num_clips=1)
    assert len({(item.identity, item.video) for item in one}) == len(one) == 6
    assert one.items[0].key == "id10001/aaaaaaaaaaa/00002"  # the middle one


def test_frontal_pictures_are_dealt_out_to_a_person(mini: Miniature) -> None:
    items = [item for item in load(mini, frontal=mini.frontal) if item.identity == "id10001/Ann_Able"]
    assert [item.frontal.relative_to(mini.frontal).as_posix() for item in items] == [
        f"Ann_Able/{number:08d}.jpg" for number in (1, 1, 2, 2)
    ]


def test_a_name_without_its_last_dot_is_found(mini: Miniature, tmp_path) -> None:
    faces = tmp_path / "faces"
    faces.mkdir()
    for _, (name, *_) in PEOPLE.items():
        (faces / name.rstrip(".")).symlink_to(mini.faces / name)
    manifest = import_voxceleb1([mini.wav], faces, mini.meta, mini.splits)
    assert len(manifest) == COMPLETE and {"id10003/Cy_Cole_Jr.", "id10271/Eve_E."} < {i.identity for i in manifest}


def test_empty_or_missing_folders(mini: Miniature, tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing: no such folder"):
        import_voxceleb1([mini.wav], tmp_path / "nothing", mini.meta, mini.splits)
    with pytest.raises(ValueError, match=r"no video with both voice and face; expected id10001/VIDEO/00001\.wav there"):
        import_voxceleb1([tmp_path], mini.faces, mini.meta, mini.splits)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Ann_Able 1\nNobody 1\n", r"splits.txt: line 2: nobody of the name 'Nobody'"),
        ("Ann_Able 1\n\nDee 5 \n", r"line 3: set '5', expected 1 or train"),
        ("Dee 3\n", r"line 1: set '3'.*clips of people who are trained on"),
        ("Dee\n", r"line 1: 'Dee', expected NAME SET"),
        ("Dee 1 2\n", r"line 1: 'Dee 1 2', expected NAME SET"),
        ("Dee 1\nid10270 4\n", r"line 2: id10270 is in split train already"),
        ("3 id10003/na8-QEFmj44/00003.wav\n", r"line 1: .*is of iden_split.txt, which has everybody in each"),
        ("", "empty; expected lines of NAME SET"),
        ("name,split\nDee,1\n", "no column 'VGGFace1 ID'"),
    ],
)
def test_bad_lists_of_splits_name_the_line(mini: Miniature, tmp_path, text: str, message: str) -> None:
    (tmp_path / "splits.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_splits(tmp_path / "splits.txt", read_meta(mini.meta))


@pytest.mark.parametrize(
    "text",
    [
        "Ann_Able 1 \nDee 4 \n",
        "id10001 train\nid10270/Dee test\n",
        "Ann_Able,1\nDee,4\n",
        "\ufeffAnn_Able\t1\n\nDee\ttest\n",
        "VGGFace1 ID,split,VoxCeleb1 ID\nAnn_Able,1,id10001\nAnn_Able,1,id10001\nDee,4,id10270\n",
    ],
    ids=["names", "ids", "commas", "tabs", "training.csv"],
)
def test_lists_of_splits_have_several_forms(mini: Miniature, tmp_path, text: str) -> None:
    (tmp_path / "splits.txt").write_text(text)
    assert read_splits(tmp_path / "splits.txt", read_meta(mini.meta)) == {"id10001": "train", "id10270": "test"}


def test_metadata_may_have_commas(mini: Miniature, tmp_path) -> None:
    (tmp_path / "meta.csv").write_text(mini.meta.read_text().replace("\t", ","))
    assert read_meta(tmp_path / "meta.csv") == read_meta(mini.meta)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("id1\tX\tm\tUSA\tdev", r"line 7: \['id1', 'X', 'm', 'USA', 'dev'\], expected e.g. id10001"),
        ("id10009\tX\tmale\tUSA\tdev", "line 7"),
        ("id10001\tX\tm\tUSA\tdev", "line 7: id10001 for the second time"),
        ("id10009\tX\tm", "line 7 has another number of cells"),
    ],
)
def test_bad_metadata_names_the_line(mini: Miniature, tmp_path, line: str, message: str) -> None:
    (tmp_path / "meta.csv").write_text(mini.meta.read_text() + line + "\n")
    with pytest.raises(ValueError, match=message):
        read_meta(tmp_path / "meta.csv")


def test_metadata_of_another_form(mini: Miniature, tmp_path) -> None:
    (tmp_path / "meta.csv").write_text("VoxCeleb2 ID,VGGFace2 ID,Gender,Set\nid00012,n000012,m,dev\n")
    with pytest.raises(ValueError, match=r"missing columns \['Nationality', 'VGGFace1 ID', 'VoxCeleb1 ID'\]"):
        read_meta(tmp_path / "meta.csv")
    (tmp_path / "meta.csv").write_text(mini.meta.read_text().replace("test", "eval"))
    with pytest.raises(ValueError, match="id10270: Set 'eval', expected dev or test"):
        import_voxceleb1([mini.wav], mini.faces, tmp_path / "meta.csv")


def test_the_training_list_of_cmpc2(tmp_path) -> None:
    (tmp_path / "training.csv").write_text(
        "VGGFace1 ID,split,VoxCeleb1 ID,Gender,Nationality,Set,video_id\n"
        "Ann_Able,1,id10001,f,Ireland,dev,aaaaaaaaaaa\nAnn_Able,1,id10001,f,Ireland,dev,shared_vid0\n"
        "Dee,4,id10270,f,USA,test,shared_vid0\n"
    )
    manifest = read_training_list(tmp_path / "training.csv")
    manifest.write(tmp_path / "m.csv")
    items = Manifest.read(tmp_path / "m.csv").items
    assert [item.key for item in items] == ["id10001/aaaaaaaaaaa", "id10001/shared_vid0", "id10270/shared_vid0"]
    assert {item.split for item in items} == {"train"} and items[2].identity == "id10270/Dee"
    assert items[2].face == tmp_path / "unzippedFaces" / "Dee" / "1.6" / "shared_vid0"


def test_things_are_dealt_out_evenly() -> None:
    for num_things in range(1, 9):
        for num in range(1, 20):
            dealt = deal(range(num_things), num)
            assert len(dealt) == num and dealt == sorted(dealt)
            counts = [dealt.count(thing) for thing in range(num_things)]
            assert max(counts) - min(counts) <= 1
            middle = [num_things - 1 - thing for thing in reversed(dealt)]  # the same from either end, but for halves
            assert all(abs(a - b) <= 1 for a, b in zip(dealt, middle, strict=True))
    assert deal("abc", 3) == ["a", "b", "c"]
