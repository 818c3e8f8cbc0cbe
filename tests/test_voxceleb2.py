"""VoxCeleb2: a made tree of its layout becomes a manifest, whatever its metadata are spaced like."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from click.testing import CliRunner

from miniature import write_face
from test_audio import write_ffmpeg
from tiny import VOICE
from voicestyle.audio import load_audio
from voicestyle.cli import main
from voicestyle.data.manifest import Manifest
from voicestyle.data.voxceleb2 import import_voxceleb2, read_meta, write_frames
from voicestyle.image import load_image

META = (
    "VoxCeleb2 ID ,VGGFace2 ID ,Gender ,Set \nid00012 ,n000012 ,m ,dev \nid00015 ,n000015 ,f ,dev \n"
    "id00017 ,n000017 ,m ,test \n"
)
CLIPS = ["dev/aac/id00012/aaaaaaaaaaa/00001", "dev/aac/id00012/aaaaaaaaaaa/00002", "dev/aac/id00012/bbbbbbbbbbb/00001",
         "dev/aac/id00015/ccccccccccc/00010", "test/aac/id00017/ddddddddddd/00003"]  # fmt: skip


@pytest.fixture
def vox2(tmp_path: Path) -> Path:
    clip = write_ffmpeg(tmp_path / "clip.m4a", load_audio(VOICE)[None, :24000].numpy(), 16000, "aac").read_bytes()
    for name in CLIPS:
        path = tmp_path / "vox2" / f"{name}.m4a"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(clip)
    (tmp_path / "vox2_meta.csv").write_text(META)
    return tmp_path / "vox2"


def write_film(path: Path, levels: list[int]) -> None:
    """A film of gray pictures."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as film:
        stream = film.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = 32, 32, "yuv420p", 1
        for level in levels:
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), level, np.uint8), format="rgb24")
            film.mux(stream.encode(frame))
        film.mux(stream.encode(None))


def test_an_item_a_clip(vox2: Path) -> None:
    manifest = import_voxceleb2([vox2], vox2.parent / "vox2_meta.csv")
    assert [item.key for item in manifest] == [name.split("aac/")[1] for name in CLIPS]
    assert [item.split for item in manifest] == 4 * ["train"] + ["test"]
    assert [item.gender for item in manifest] == ["m", "m", "m", "f", "m"]
    assert manifest.items[0].identity == "id00012/n000012" and manifest.items[0].video == "aaaaaaaaaaa"
    assert not any(item.face for item in manifest) and len(load_audio(manifest.items[4].voice)) > 16000
    manifest.check_files()
    few = import_voxceleb2([vox2 / "dev" / "aac", vox2 / "test"], vox2.parent / "vox2_meta.csv", num_clips=1)
    assert [item.key for item in few] == [name.split("aac/")[1] for name in (CLIPS[1], *CLIPS[2:])]


@pytest.mark.parametrize(
    "text",
    [
        META.replace(" ,", ",").replace(" \n", "\n"),
        "\ufeff" + META.replace("\n", "\r\n"),
        META.replace(" ,", "\t").replace(" \n", "\n"),
        "Name\tVoxCeleb2 ID\tVGGFace2 ID\tGender\tSet\nA. B\tid00012\tn000012\tm\tdev\nC\tid00015\tn000015\tf\tdev\n"
        "D\tid00017\tn000017\tm\ttest\n",
        META.replace("id00012 ,n000012 ,m", '"id00012 ","n000012",  " m "'),
    ],
    ids=["plain", "mark", "tabs", "names", "quoted"],
)
def test_metadata_of_any_spacing(tmp_path: Path, text: str) -> None:
    (tmp_path / "vox2_meta.csv").write_bytes(text.encode())
    people = read_meta(tmp_path / "vox2_meta.csv")
    assert [(p.voxceleb_id, p.name, p.gender, p.set) for p in people.values()] == [
        ("id00012", "n000012", "m", "dev"), ("id00015", "n000015", "f", "dev"), ("id00017", "n000017", "m", "test"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("id00015 ", "15", r"line 3: .*expected e.g. id00012, n000012, m, dev"),
        ("id00015", "id00012", "line 3: id00012 for the second time"),
        ("Gender", "Sex", r"missing columns \['Gender'\]"),
        ("test", "eval", "id00017: Set 'eval', expected dev or test"),
    ],
)
def test_bad_metadata_names_the_line(vox2: Path, old: str, new: str, message: str) -> None:
    (vox2.parent / "vox2_meta.csv").write_text(META.replace(old, new))
    with pytest.raises(ValueError, match=message):
        import_voxceleb2([vox2], vox2.parent / "vox2_meta.csv")


def test_pictures_of_clips_videos_and_people(vox2: Path) -> None:
    frames, photographs = vox2.parent / "frames", vox2.parent / "vggface2"
    write_face(frames / "id00012/aaaaaaaaaaa/00001.jpg", 0)
    for number in range(3):
        write_face(frames / f"id00012/aaaaaaaaaaa/00002/{number}.jpg", number)
        write_face(frames / f"id00012/bbbbbbbbbbb/{number:07d}.jpg", number)
    for number in (1, 2):
        write_face(photographs / f"n000015/000{number}_01.jpg", number)
    told: list[str] = []
    manifest = import_voxceleb2(
        [vox2],
        vox2.parent / "vox2_meta.csv",
        [frames, photographs],
        refuse=lambda who, why: told.append(f"{who}: {why}"),
    )
    assert [item.face.relative_to(vox2.parent).as_posix() for item in manifest] == [
        "frames/id00012/aaaaaaaaaaa/00001.jpg", "frames/id00012/aaaaaaaaaaa/00002/1.jpg",
        "frames/id00012/bbbbbbbbbbb/0000001.jpg", "vggface2/n000015/0002_01.jpg",
    ]  # fmt: skip
    assert manifest.items[0].face_box and told == ["id00017/ddddddddddd/00003: no picture"]


def test_what_is_odd_is_told(vox2: Path) -> None:
    for name in (
        "dev/aac/id00099/xxxxxxxxxxx/1.m4a",
        "dev/aac/id00012/lonely.m4a",
        "test/aac/id00012/aaaaaaaaaaa/00001.wav",
    ):
        (vox2 / name).parent.mkdir(parents=True, exist_ok=True)
        (vox2 / name).touch()
    (vox2.parent / "splits.txt").write_text("id00012 train\nid00015 val\n")
    told: dict[str, str] = {}
    manifest = import_voxceleb2(
        [vox2], vox2.parent / "vox2_meta.csv", splits=vox2.parent / "splits.txt", refuse=told.__setitem__
    )
    assert [item.split for item in manifest] == 3 * ["train"] + ["val"]
    assert list(told) == ["id00099", "id00012/lonely.m4a", "id00012/aaaaaaaaaaa/00001", "id00017/n000017"]
    assert "not in" in told["id00099"] and "a clip of this name is taken" in told["id00012/aaaaaaaaaaa/00001"]
    with pytest.raises(ValueError, match="no folders of people, such as id00012"):
        import_voxceleb2([vox2.parent / "vox2" / "dev" / "aac" / "id00012"], vox2.parent / "vox2_meta.csv")
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        import_voxceleb2([vox2 / "nowhere"], vox2.parent / "vox2_meta.csv")


def test_from_films_to_a_manifest(vox2: Path) -> None:
    for name in CLIPS[1:]:
        write_film(vox2 / f"{name.replace('aac', 'mp4')}.mp4", [0, 60, 120, 180, 240])
    (broken := vox2 / "dev/mp4/id00012/aaaaaaaaaaa/00001.mp4").write_bytes(b"no film")
    frames = vox2.parent / "frames"
    command = ["data", "prepare", "frames", "--mp4", str(vox2), "-o", str(frames)]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 1 and done.stdout == f"{frames}\t4 frames\n" and str(broken) in done.stderr
    made = sorted(frames.rglob("*.png"))
    assert load_image(made[0]).mean().item() == pytest.approx((120 - 127.5) / 127.5, abs=0.1)
    broken.unlink()
    before = [path.stat().st_mtime_ns for path in made]
    assert write_frames([vox2], frames) == 4 and [path.stat().st_mtime_ns for path in made] == before
    out = vox2.parent / "vox2.csv"
    command = ["data", "prepare", "voxceleb2", "--aac", str(vox2), "--faces", str(frames), "-o", str(out)]
    done = CliRunner().invoke(main, [*command, "--meta", str(vox2.parent / "vox2_meta.csv")])
    assert done.exit_code == 0 and done.stdout == f"{out}\t3 identities\t3 train\t1 test\n"
    assert "left out: id00012/aaaaaaaaaaa/00001: no picture" in done.stderr
    assert [item.face for item in Manifest.read(out)] == made
