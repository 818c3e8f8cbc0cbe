"""Faces out of photographs: the geometry of FFHQ's frame, what fails and why, and going on after a stop."""

from __future__ import annotations

import csv
import importlib.util
import json
import math
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from miniature import write_face
from voicestyle.cli import main
from voicestyle.data import boxes, faces
from voicestyle.data.boxes import write_boxes
from voicestyle.data.faces import (
    FaceSettings,
    cut_square,
    ffhq_square,
    head_turn,
    outside_share,
    prepare_faces,
    sharpness,
)
from voicestyle.data.manifest import Item, Manifest

# -------------------------------------------------------------------------------------------------------- geometry


def landmarks(mouth_y: float = 2.0, nose_x: float = 0.0) -> np.ndarray:
    """Eyes at (-1, 0) and (1, 0), each a small ring; the corners of a mouth of width 1; the tip of a nose."""
    points = np.zeros((68, 2))
    ring = 0.2 * np.stack([np.cos(np.arange(6) * np.pi / 3), np.sin(np.arange(6) * np.pi / 3)], 1)
    points[36:42], points[42:48] = ring - (1, 0), ring + (1, 0)
    points[48], points[54], points[30] = (-0.5, mouth_y), (0.5, mouth_y), (nose_x, mouth_y / 2)
    return points


def test_the_frame_of_ffhq_around_known_points() -> None:
    center, half = ffhq_square(landmarks(mouth_y=2.0))
    np.testing.assert_allclose([*center, *half], [0, 0.2, 4, 0], atol=1e-12)  # two distances of the eyes
    center, half = ffhq_square(landmarks(mouth_y=3.0))
    np.testing.assert_allclose([*center, *half], [0, 0.3, 5.4, 0], atol=1e-12)  # 1.8 of eyes to mouth


@settings(deadline=None)
@given(st.floats(-3, 3), st.floats(0.1, 50), st.tuples(st.floats(-99, 99), st.floats(-99, 99)), st.floats(1, 4))
def test_the_frame_turns_and_grows_with_the_face(angle, scale, shift, mouth_y) -> None:
    turn = scale * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    center, half = ffhq_square(landmarks(mouth_y))
    moved_center, moved_half = ffhq_square(landmarks(mouth_y) @ turn.T + shift)
    np.testing.assert_allclose(moved_center, turn @ center + shift, atol=1e-9 * (1 + scale))
    np.testing.assert_allclose(moved_half, turn @ half, atol=1e-9 * (1 + scale))


def smooth(width: int, height: int, seed: int = 0) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def difference(a: Image.Image, b: Image.Image) -> float:
    return float(np.abs(np.asarray(a, float) - np.asarray(b, float)).mean())


def test_a_square_is_cut_where_it_lies() -> None:
    photo = smooth(100, 80)
    same = cut_square(photo, np.array([[50, 40], [20, 0]]), 40)
    assert difference(same, photo.crop((30, 20, 70, 60))) < 0.5
    turned = cut_square(photo, np.array([[50, 40], [0, 20]]), 40)
    assert difference(turned, photo.crop((30, 20, 70, 60)).transpose(Image.Transpose.ROTATE_90)) < 0.5
    assert difference(turned, same) > 10


@pytest.mark.parametrize("factor", [2, 5, 23])
def test_large_photographs_are_made_small_without_aliases(factor: int) -> None:
    photo = smooth(32 * factor, 32 * factor)
    noisy = np.asarray(photo, float) + 60 * (np.indices((32 * factor, 32 * factor)).sum(0) % 2 * 2 - 1)[..., None]
    square = 16.0 * factor * np.array([[1, 1], [1, 0]])
    cut = cut_square(Image.fromarray(noisy.clip(0, 255).astype(np.uint8)), square, 32)
    assert difference(cut, photo.resize((32, 32), Image.Resampling.LANCZOS)) < 8


def test_beyond_the_photograph_is_its_mirror_image() -> None:
    photo = smooth(60, 60)
    cut = cut_square(photo, np.array([[15, 30], [30, 0]]), 60)  # a quarter lies outside, on the left
    assert difference(cut.crop((17, 0, 60, 60)), photo.crop((2, 0, 45, 60))) < 1.0
    mirrored = photo.crop((0, 0, 15, 60)).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    assert difference(cut.crop((0, 0, 15, 60)), mirrored) < 12 < difference(photo.crop((45, 0, 60, 60)), mirrored)
    plain = cut_square(Image.new("RGB", (20, 20), (9, 99, 199)), np.array([[10, 10], [30, 5]]), 32)
    assert np.abs(np.asarray(plain, int) - (9, 99, 199)).max() <= 1


@pytest.mark.parametrize(
    ("square", "share"),
    [([[50, 50], [20, 0]], 0), ([[0, 0], [10, 0]], 0.75), ([[50, 0], [0, 30]], 0.5), ([[-50, 0], [20, 0]], 1)],
)
def test_the_share_outside(square: list[list[float]], share: float) -> None:
    assert outside_share(np.array(square, float), (100, 100)) == pytest.approx(share, abs=0.02)


def test_quality() -> None:
    assert head_turn(landmarks()) == pytest.approx(0)
    assert head_turn(landmarks(nose_x=0.5)) == pytest.approx(0.25) == -head_turn(landmarks(nose_x=-0.5))
    photo = smooth(64, 64)
    assert sharpness(photo) > 2 * sharpness(photo.filter(ImageFilter.GaussianBlur(3))) > 0


# --------------------------------------------------------------------------------------------------------- folders


@pytest.fixture
def photographs(tmp_path, monkeypatch) -> Path:
    """Six files, and a detector that takes a face to lie in the middle of pictures of more than 40 px."""
    folder = tmp_path / "photographs"
    for number, size in enumerate((96, 128, 36, 160)):
        write_face(folder / f"sub{number % 2}" / f"{number}.png", number, size)
    (folder / "copy.png").write_bytes((folder / "sub0" / "0.png").read_bytes())
    (folder / "text.jpg").write_text("no picture")

    def detect(pil: Image.Image) -> tuple[float, ...] | None:
        side = pil.width
        return (side / 4, side / 4, 3 * side / 4, 3 * side / 4) if side > 40 else None

    monkeypatch.setattr(faces, "detect_face", detect)
    monkeypatch.setattr(boxes, "detect_face", detect)
    monkeypatch.setattr(
        faces, "find_landmarks", lambda pil, box, predictor: landmarks() * pil.width / 10 + pil.width / 2
    )
    return folder


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_faces_are_cut_and_failures_listed(photographs: Path, tmp_path) -> None:
    out, seen = tmp_path / "out", []
    settings_ = FaceSettings(frame="canonical", size=32, min_face_px=50)
    assert prepare_faces([photographs], out, settings_, progress=seen.append) == (2, 4)
    assert sum(seen) == 6
    (photographs / "sub0" / "a.HEIC").touch()
    with pytest.warns(UserWarning, match="photographs: left out, no pictures by their names: 1 of .heic"):
        assert prepare_faces([photographs], out, settings_) == (2, 4)
    made, failed = rows(out / "faces.csv"), rows(out / "failed.csv")
    assert [Path(row["source"]).name for row in made] == ["1.png", "3.png"]
    assert {row["file"] for row in made} == {f"images/{p.name}" for p in (out / "images").iterdir()}
    assert (made[0]["left"], made[0]["bottom"], made[0]["face_px"]) == ("32", "96", "64")
    assert made[0]["turn"] == made[0]["invented"] == "" and float(made[0]["sharpness"]) > 0
    with Image.open(out / made[0]["file"]) as face:
        assert face.size == (32, 32)
    assert [(Path(row["source"]).name, row["reason"].split(";")[0]) for row in failed] == [
        ("copy.png", "a face of 48 px, at least 50 px asked for"),
        ("0.png", "a face of 48 px, at least 50 px asked for"),
        ("2.png", "no face found"),
        ("text.jpg", "not a picture, or of another format"),
    ]


def test_the_same_picture_twice_is_taken_once(photographs: Path, tmp_path) -> None:
    assert prepare_faces([photographs], tmp_path / "out", FaceSettings("canonical", 16, min_face_px=0)) == (3, 3)
    reasons = [row["reason"] for row in rows(tmp_path / "out" / "failed.csv")]
    assert f"the same picture as {photographs / 'copy.png'}" in reasons


def test_the_frame_of_ffhq_needs_landmarks_and_room(photographs: Path, tmp_path, monkeypatch) -> None:
    predictor = tmp_path / "landmarks.dat"
    predictor.touch()
    settings_ = FaceSettings(size=16, min_face_px=0, format="jpg", max_invented=0.0)
    assert prepare_faces([photographs / "sub1"], tmp_path / "a", settings_, landmarks=predictor) == (2, 0)
    (row, _) = rows(tmp_path / "a" / "faces.csv")
    assert row["turn"] == "0" and row["invented"] == "0" and row["file"].endswith(".jpg")
    monkeypatch.setattr(
        faces, "find_landmarks", lambda pil, box, predictor: landmarks() * pil.width / 6 + pil.width / 2
    )
    assert prepare_faces([photographs / "sub1"], tmp_path / "b", settings_, landmarks=predictor) == (0, 2)
    assert rows(tmp_path / "b" / "failed.csv")[0]["reason"].endswith("would lie outside of the photograph")
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == "face_recognition_models" else real(n))
    with pytest.raises(ImportError, match=r"voicestyle\[faces\]"):
        prepare_faces([photographs], tmp_path / "c", settings_)
    with pytest.raises(FileNotFoundError, match="expected dlib's shape_predictor_68"):
        prepare_faces([photographs], tmp_path / "c", settings_, landmarks=tmp_path / "no.dat")


def test_a_stopped_call_goes_on_where_it_was(photographs: Path, tmp_path, monkeypatch) -> None:
    settings_ = FaceSettings("canonical", 16, min_face_px=0)
    prepare_faces([photographs], tmp_path / "whole", settings_)
    real, done = faces.cut_face, []

    def stop_at_the_third(source, **options):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(source)
        return real(source, **options)

    monkeypatch.setattr(faces, "cut_face", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        prepare_faces([photographs], tmp_path / "out", settings_)
    assert not (tmp_path / "out" / "faces.csv").exists()
    with (tmp_path / "out" / "done.jsonl").open("a") as journal:
        journal.write('["half a li')  # killed while it wrote
    again = []
    monkeypatch.setattr(faces, "cut_face", lambda source, **options: again.append(source) or real(source, **options))
    prepare_faces([photographs], tmp_path / "out", settings_)
    assert len(again) == 4 and not set(again) & set(done)
    for name in ("faces.csv", "failed.csv", "done.jsonl"):
        assert (tmp_path / "out" / name).read_text() == (tmp_path / "whole" / name).read_text()
    json.loads((tmp_path / "out" / "done.jsonl").read_text().splitlines()[-1])
    with pytest.raises(ValueError, match="of work with other settings"):
        prepare_faces([photographs], tmp_path / "out", FaceSettings("canonical", 32, min_face_px=0))


def test_boxes_are_written_into_a_manifest(photographs: Path, tmp_path, monkeypatch) -> None:
    pictures = [photographs / "sub0" / "0.png", photographs / "sub0" / "2.png", photographs / "text.jpg"]
    items = [Item(path.name, "train", path.name, face=path) for path in pictures]
    items += [Item("boxed", "train", "x", face=pictures[0], face_box=(1.0, 2.0, 3.0, 4.0))]
    items += [Item("voice", "train", "y", voice=tmp_path / "y.wav")]
    manifest, out = Manifest(tuple(items)), tmp_path / "new" / "m.csv"
    real, done = boxes.find_box, []

    def stop_at_the_second(path: str):
        if len(done) == 1:
            raise KeyboardInterrupt
        done.append(path)
        return real(path)

    monkeypatch.setattr(boxes, "find_box", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        write_boxes(manifest, out)
    assert not out.exists()
    monkeypatch.setattr(boxes, "find_box", lambda path: done.append(path) or real(path))
    missing = write_boxes(manifest, out)
    assert done == [str(path) for path in pictures]  # each once
    assert list(missing) == ["2.png", "text.jpg"] and missing["2.png"].endswith("2.png: no face found")
    assert [item.face_box for item in Manifest.read(out)] == [(24, 24, 72, 72), (), (), (1, 2, 3, 4), ()]
    assert [path.name for path in out.parent.iterdir()] == ["m.csv"]
    with pytest.raises(ValueError, match="no item has a face without a box"):
        write_boxes(Manifest(tuple(items[3:])), out)
    command = ["data", "prepare", "boxes", str(out), "-o", str(tmp_path / "m.parquet"), "--workers", "1"]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 1 and done.stdout == f"{tmp_path / 'm.parquet'}\n" and "no box: 2.png: " in done.stderr


def test_bad_folders(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing: no such folder"):
        prepare_faces([tmp_path / "nothing"], tmp_path / "out", FaceSettings())
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no pictures in it"):
        prepare_faces([tmp_path / "empty"], tmp_path / "out", FaceSettings())
    with pytest.raises(ValueError, match="would be taken for photographs"):
        prepare_faces([tmp_path], tmp_path / "out", FaceSettings())


def test_the_command(photographs: Path, tmp_path) -> None:
    command = ["data", "prepare", "faces", str(photographs), "-o", str(tmp_path / "out"), "--frame", "canonical"]
    done = CliRunner().invoke(main, [*command, "--size", "16", "--min-face", "0", "--workers", "1"])
    assert done.exit_code == 1, done.output
    assert done.stdout == f"{tmp_path / 'out/faces.csv'}\t3 faces\n{tmp_path / 'out/failed.csv'}\t3 failed\n"


def test_faces_of_ffhq_stay_as_they_are(shared_dir: Path) -> None:
    """Pictures that were framed in this way already: the frame found anew is the whole picture."""
    pytest.importorskip("dlib")
    if importlib.util.find_spec("face_recognition_models") is None:
        pytest.skip("needs face-recognition-models")
    path = sorted((shared_dir / "data" / "synthetic_faces_256" / "images").glob("*.jpg"))[0]
    pil = faces.open_image(path)
    points = faces.find_landmarks(pil, faces.detect_face(pil), faces._predictor_file(None))
    np.testing.assert_allclose(ffhq_square(points), [[128, 128], [128, 0]], atol=4)
