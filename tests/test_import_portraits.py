"""The manifest of a folder of portraits: what is left out, and who is held out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from voicestyle.data.portraits import haze, import_portraits

HEADER = "key,source,identity,yaw,ellipse,cut\n"


def draw(path: Path, gray: int = 255) -> None:
    """A dark figure on white, with `gray` beside it."""
    image = np.full((64, 64, 3), 255, np.uint8)
    image[:, :16] = gray
    image[16:, 24:40] = 40
    Image.fromarray(image).save(path, quality=95)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "image").mkdir()
    rows = [f"s{i},scut,s{i},0.1,0,0.0" for i in range(12)]
    rows += [f"m{i},studio,one,0.0,0,0.2" for i in range(7)]
    rows += ["oval,scut,oval,0.0,1,0.0", "turned,scut,turned,-0.5,0,0.0", "cut,scut,cut,0.0,0,1.2"]
    rows += ["hazy,scut,hazy,0.0,0,0.0"]
    for row in rows:
        key = row.split(",")[0]
        draw(tmp_path / "image" / f"{key}.jpg", 200 if key == "hazy" else 255)
    (tmp_path / "portraits.csv").write_text(HEADER + "\n".join(rows) + "\n")
    return tmp_path


def test_poor_pictures_and_many_of_one_person_are_left_out(folder: Path) -> None:
    manifest = import_portraits(folder, num_held_out=3)
    keys = {item.key for item in manifest}
    assert not keys & {"oval", "turned", "cut", "hazy"}
    assert sum(item.identity == "studio/one" for item in manifest) <= 4
    assert all(item.frontal is not None and item.frontal.is_file() for item in manifest)


def test_people_are_held_out_whole(folder: Path) -> None:
    for seed in range(5):
        manifest = import_portraits(folder, num_held_out=6, seed=seed)
        people = [{item.identity for item in manifest.split(split)} for split in ("train", "val")]
        assert not people[0] & people[1]
        assert len(manifest.split("val")) == 6
    assert import_portraits(folder, 6, seed=1) == import_portraits(folder, 6, seed=1)


def test_what_does_not_fit_is_named(folder: Path) -> None:
    with pytest.raises(ValueError, match="expected more than the 99 that are held out"):
        import_portraits(folder, num_held_out=99)
    (folder / "portraits.csv").write_text("key,source\na,b\n")
    with pytest.raises(ValueError, match=r"columns \['cut', 'ellipse', 'identity', 'yaw'\] are missing"):
        import_portraits(folder)


def test_haze_is_the_gray_at_the_sides(tmp_path: Path) -> None:
    draw(tmp_path / "clean.jpg")
    draw(tmp_path / "hazy.jpg", 200)
    assert haze(tmp_path / "clean.jpg") < 0.02
    assert haze(tmp_path / "hazy.jpg") == pytest.approx(0.5, abs=0.05)
