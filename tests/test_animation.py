"""Moving pictures: frames, times and marks come back from the files."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from voicestyle.animation import save_animation
from voicestyle.image import to_pil

MARK = {"AI-generated": "nobody's face", "seed": "1"}


@pytest.fixture
def frames() -> torch.Tensor:
    """A bright square that moves over a dark ground."""
    image = torch.full((6, 3, 32, 32), -0.8)
    for i in range(6):
        image[i, :, 8:24, 4 * i : 4 * i + 8] = 0.8
    return image


def decoded(path: Path) -> tuple[list[np.ndarray], dict[str, str], float]:
    """Frames, metadata and frames a second of a video."""
    with av.open(str(path)) as file:
        pictures = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
        return pictures, dict(file.metadata), float(file.streams.video[0].average_rate)


def test_a_gif_holds_its_frames_and_says_what_it_is(frames: torch.Tensor, tmp_path: Path) -> None:
    save_animation(frames, tmp_path / "way.gif", MARK)
    with Image.open(tmp_path / "way.gif") as gif:
        assert gif.n_frames == 6 and gif.info["loop"] == 0 and gif.info["duration"] == 40
        assert gif.info["comment"] == b"AI-generated: nobody's face; seed: 1"
        for i, expected in enumerate(to_pil(frames)):
            gif.seek(i)
            assert np.abs(np.asarray(gif.convert("RGB"), int) - np.asarray(expected, int)).max() <= 4
    assert [path.name for path in tmp_path.iterdir()] == ["way.gif"]


def test_a_video_holds_its_frames_and_says_what_it_is(frames: torch.Tensor, tmp_path: Path) -> None:
    save_animation(frames, tmp_path / "way.mp4", MARK, fps=24)
    pictures, metadata, fps = decoded(tmp_path / "way.mp4")
    assert len(pictures) == 6 and fps == 24
    assert metadata["comment"] == "AI-generated: nobody's face; seed: 1"
    for got, expected in zip(pictures, to_pil(frames), strict=True):
        assert np.abs(got.astype(int) - np.asarray(expected, int)).mean() < 6
    assert [path.name for path in tmp_path.iterdir()] == ["way.mp4"]


def test_a_text_that_begins_with_its_keyword_is_not_doubled(frames: torch.Tensor, tmp_path: Path) -> None:
    save_animation(frames, tmp_path / "way.gif", {"AI-generated": "AI-generated: nobody", "seed": "1"})
    with Image.open(tmp_path / "way.gif") as gif:
        assert gif.info["comment"] == b"AI-generated: nobody; seed: 1"


def test_without_h264_a_video_is_written_all_the_same(frames: torch.Tensor, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(av, "codecs_available", av.codecs_available - {"libx264"})
    save_animation(frames, tmp_path / "way.mp4")
    assert len(decoded(tmp_path / "way.mp4")[0]) == 6


@pytest.mark.parametrize(
    ("name", "num", "side", "message"),
    [
        ("way.avi", 2, 32, r"way\.avi: moving pictures are written as \.gif or \.mp4"),
        ("way.gif", 0, 32, "no frames"),
        ("way.mp4", 2, 33, "33 x 33 px, expected even"),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path: Path, name: str, num: int, side: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        save_animation(torch.zeros(num, 3, side, side), tmp_path / name)
    assert not [*tmp_path.iterdir()]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such folder"):
        save_animation(torch.zeros(1, 3, 8, 8), tmp_path / "missing" / "way.gif")
