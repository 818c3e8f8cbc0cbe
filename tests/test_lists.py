"""Lists of trials: the published layouts, and that what is written is read again."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voicestyle.data.manifest import Item
from voicestyle.evaluate.lists import num_repeated, read_lists, with_people
from voicestyle.evaluate.trials import make_lists

HEADER = "id,voice-speaker-id,face-speaker-id,label,voice-path,face-path\n"


def test_published_matching_lists_are_read(tmp_path):
    (tmp_path / "matching_v2f_GN.csv").write_text(
        "id10002/eNc4LrrvV80/00005.wav A.R._Rahman/1.6/gaQqIoV_aLY/0003650.jpg Toby_Stephens/1.6/s_fUJ9gYz7k/1.jpg\n"
        "id11178/s_fUJ9gYz7k/00001.wav Toby_Stephens/1.6/s_fUJ9gYz7k/1.jpg Nick_Kroll/1.6/_D7NrP72v8E/0001450.jpg\n"
    )
    (tmp_path / "matching_f2v_U.csv").write_text(
        "A.R._Rahman/1.6/QanuGhOhb9A/0067975.jpg id10002/RLKKsYiCMvc/00001.wav id11130/NbELtjnkhYY/00003.wav\n"
    )
    f2v, v2f = read_lists(tmp_path, "matching")
    assert (f2v.direction, f2v.stratum, v2f.direction, v2f.stratum) == ("f2v", "U", "v2f", "GN")
    assert v2f.names("voice") == ["id10002/eNc4LrrvV80/00005.wav", "id11178/s_fUJ9gYz7k/00001.wav"]
    assert len(v2f.names("face")) == 3 and f2v.names("face") == ["A.R._Rahman/1.6/QanuGhOhb9A/0067975.jpg"]
    # a name belongs to the ID that it is the positive of; Nick_Kroll is nobody's positive here
    assert [v2f.owner(name, "face") for name in v2f.names("face")] == ["id10002", "id11178", "Nick_Kroll"]
    assert [f2v.owner(name, "voice") for name in f2v.names("voice")] == ["id10002", "id11130"]
    assert f2v.owner(f2v.trials[0][0], "face") == "id10002"


def test_published_verification_lists_are_read_from_folders_within(tmp_path):
    folder = tmp_path / "data" / "veriflist"
    folder.mkdir(parents=True)
    (folder / "README.txt").write_text("not a list")
    (folder / "veriflist_test_random_unseenunheard.txt").write_text(
        HEADER
        + "1,2,2,1,A.R._Rahman/gaQqIoV_aLY_0000001.wav,A.R._Rahman/QanuGhOhb9A/0035550.jpg\n"
        + "2,2,1249,0,A.R._Rahman/gaQqIoV_aLY_0000002.wav,Zack_Snyder/ZE54Jrjcj8I/0000850.jpg\n"
    )
    (folder / "veriflist_test_GNA_seenheard.txt").write_text(HEADER + "1,1,994,0,A/x_0000001.wav,R/y/1.jpg\n")
    gna, random = read_lists(tmp_path, "verification")
    assert (gna.stratum, random.stratum, random.read) == ("GNA", "U", True)
    assert random.trials[1] == (
        "A.R._Rahman/gaQqIoV_aLY_0000002.wav", "Zack_Snyder/ZE54Jrjcj8I/0000850.jpg", False,
    )  # fmt: skip
    assert [random.owner(name, "face") for name in random.names("face")] == ["id10002", "id11249"]
    [alone] = read_lists(folder / "veriflist_test_GNA_seenheard.txt", "verification")
    assert alone == gna


def test_published_retrieval_lists_are_read(tmp_path):
    (tmp_path / "wav_20k.csv").write_text("VoxCeleb1 ID\twav\nid10002\tid10002/0_laIeN-Q44/00001.wav\n")
    (tmp_path / "jpg_20k.csv").write_text(
        "VoxCeleb1 ID\tjpg\n"
        "id10002\tA.R._Rahman/1.6/6WO410QOeuo/0003800.jpg\nid10003\tAamir_Khan/1.6/5ablueV_1tw/0005375.jpg\n"
    )
    [found] = read_lists(tmp_path, "retrieval")
    assert found.voices == {"id10002/0_laIeN-Q44/00001.wav": "id10002"}
    assert list(found.faces.values()) == ["id10002", "id10003"] and found.names("face") == list(found.faces)
    (tmp_path / "jpg_20k.csv").unlink()
    with pytest.raises(FileNotFoundError, match="wav_20k.csv needs it beside it"):
        read_lists(tmp_path, "retrieval")


@pytest.mark.parametrize(
    ("task", "name", "text", "message"),
    [
        ("matching", "matching_v2f_U.csv", "a b c\na b\n", "lines of one length"),
        ("matching", "matching_v2f_U.csv", "a b\n", "lines of one length"),
        ("matching", "matching_v2f_U.csv", "", "lines of one length"),
        ("matching", "matching_1_3.csv", "a b c\n", "the name says no list of matching"),
        ("verification", "veriflist_test_G.txt", "a,b\n", "expected lines with id, voice-speaker-id"),
        ("verification", "veriflist_test_G.txt", HEADER, "expected lines with id"),
        ("verification", "veriflist_test_G.txt", HEADER + "1,2,2,yes,a,b\n", "expected 0 and 1"),
        ("verification", "veriflist_test_X.txt", HEADER, "the name says no list of verification"),
        ("retrieval", "wav_a.csv", "id,wav\n", "expected lines with VoxCeleb1 ID and wav"),
    ],
)
def test_other_layouts_are_an_error(tmp_path, task, name, text, message):
    (tmp_path / name).write_text(text)
    (tmp_path / name.replace("wav_", "jpg_")).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_lists(tmp_path, task)


def test_no_lists_are_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="no list of matching in it"):
        read_lists(tmp_path, "matching")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        read_lists(tmp_path / "none", "matching")
    (tmp_path / "matching_v2f_U.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="not a list of trials"):
        read_lists(tmp_path, "matching")


KEYS = st.lists(st.text(st.sampled_from("ab ,\t\"'/ü\n"), min_size=1, max_size=6), min_size=4, max_size=7, unique=True)


@settings(deadline=None, max_examples=40)
@given(KEYS, st.integers(0, 100), st.sampled_from(["matching", "verification", "retrieval"]))
def test_a_list_written_and_read_again_is_the_same(tmp_path_factory, keys, seed, task):
    folder = tmp_path_factory.mktemp("lists")
    items = [
        Item(key, "val", f"person {i // 2}", voice=Path("v"), frontal=Path("f"), gender="fm"[i % 2])
        for i, key in enumerate(keys)
    ]
    made = {found.file: found for found in make_lists(items, task, "val", seed)}
    for found in made.values():
        found.write(folder)
    people = {item.key: item.identity for item in items}
    again = {found.file: with_people(found, people) for found in read_lists(folder, task)}
    assert again.keys() == made.keys()
    for file, found in again.items():
        assert found.read and found.stratum == made[file].stratum
        for side in ("voice", "face"):
            assert found.names(side) == made[file].names(side)
            assert all(found.owner(n, side) == made[file].owner(n, side) for n in found.names(side))
        assert getattr(found, "trials", None) == getattr(made[file], "trials", None)
        found.write(folder / "again")
    for file in (folder / "again").iterdir():
        assert file.read_bytes() == (folder / file.name).read_bytes()


def test_names_that_are_not_in_the_manifest_are_told(tmp_path):
    (tmp_path / "matching_v2f_U.csv").write_text("k1 k1 k2\n")
    [found] = read_lists(tmp_path, "matching")
    with pytest.raises(ValueError, match="1 of its names are no items of the manifest .* e.g. k2"):
        with_people(found, {"k1": "a"})


def test_a_mark_at_the_beginning_is_no_part_of_a_name(tmp_path):
    text = HEADER + "1,2,2,1,A/x_0000001.wav,A/y/1.jpg\n2,2,3,0,A/x_0000001.wav,B/y/1.jpg\n"
    (tmp_path / "veriflist_test_random_a.txt").write_text(text, encoding="utf-8-sig")
    (tmp_path / "matching_v2f_U.csv").write_text("a b c\n", encoding="utf-8-sig")
    [verification] = read_lists(tmp_path, "verification")
    [matching] = read_lists(tmp_path, "matching")
    assert len(verification.trials) == 2 and matching.trials == (("a", "b", "c"),)


def test_lists_that_contradict_themselves(tmp_path):
    pair = "A/x_0000001.wav,A/y/1.jpg"
    (tmp_path / "veriflist_test_random_a.txt").write_text(HEADER + f"1,2,2,1,{pair}\n2,2,2,0,{pair}\n")
    with pytest.raises(ValueError, match=r"random_a.txt: A/x_0000001.wav and A/y/1.jpg: True in one line, Fal"):
        read_lists(tmp_path, "verification")
    (tmp_path / "matching_v2f_U.csv").write_text("a b c\na d d\n")
    with pytest.raises(ValueError, match=r"matching_v2f_U.csv: a d d: the second name, who it is, is also among those"):
        read_lists(tmp_path, "matching")
    (tmp_path / "wav_1.csv").write_text("VoxCeleb1 ID\twav\nid1\ta\nid2\ta\n")
    with pytest.raises(ValueError, match=r"wav_1.csv: a: 'id1' in one line, 'id2' in another; correct the list"):
        read_lists(tmp_path, "retrieval")


def test_repeated_trials_are_counted(tmp_path):
    (tmp_path / "veriflist_test_random_a.txt").write_text(
        HEADER + 3 * "1,2,2,1,A/x_0000001.wav,A/y/1.jpg\n" + "2,2,3,0,A/x_0000001.wav,B/y/1.jpg\n"
    )
    [read] = read_lists(tmp_path, "verification")
    assert num_repeated(read) == 2
