"""Pictures one after the other: GIF and MP4, with a comment that says what they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from PIL import Image
from torch import Tensor

from voicestyle.files import written_whole
from voicestyle.image import to_pil

FORMATS = (".gif", ".mp4")
FPS = 24
QUALITY = "18"  # of H.264 (CRF): visually lossless


def save_animation(
    frames: Tensor,  # (T,3,H,W) in [-1,1]
    path: str | Path,  # ends in .gif or .mp4; its folder exists
    metadata: Mapping[str, str] | None = None,  # keyword -> text; all of it goes into the file's comment
    fps: int = FPS,  # a GIF has its frame times in hundredths of a second, and so 25 for 24
) -> None:
    """Write a moving picture, all or nothing; a GIF is shown again and again.

    Raises:
        ValueError: another format, no frames, or an MP4 of an odd number of pixels a side
        FileNotFoundError: no such folder
    """
    path = Path(path)
    write = _writer(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent}: no such folder; create it first")
    if len(frames) == 0:
        raise ValueError(f"{path}: got no frames, expected one or more")
    height, width = frames.shape[2:]
    if path.suffix.lower() == ".mp4" and (width % 2 or height % 2):
        raise ValueError(f"{path}: {width} x {height} px, expected even numbers; write a .gif")
    lines = {keyword: text.removeprefix(f"{keyword}: ") for keyword, text in (metadata or {}).items()}
    comment = "; ".join(f"{keyword}: {text}" for keyword, text in lines.items())
    with written_whole(path) as beside:
        write(to_pil(frames), beside, comment, fps)


def _writer(path: Path) -> Callable[[list[Image.Image], Path, str, int], None]:
    writers = {".gif": _write_gif, ".mp4": _write_mp4}
    if path.suffix.lower() not in writers:
        raise ValueError(f"{path}: moving pictures are written as {' or '.join(FORMATS)}; change the name")
    return writers[path.suffix.lower()]


def _write_gif(frames: list[Image.Image], path: Path, comment: str, fps: int) -> None:
    duration = max(2, round(100 / fps)) * 10  # milliseconds; browsers slow down what is shorter than 20
    frames[0].save(
        path,
        format="GIF",
        save_all=True,
        append_images=frames[1:],
        duration=duration,
        loop=0,
        comment=comment.encode("ascii", "replace"),
    )


def _write_mp4(frames: list[Image.Image], path: Path, comment: str, fps: int) -> None:
    import av

    with av.open(str(path), "w", format="mp4") as file:
        file.metadata["comment"] = comment
        # a build of FFmpeg without GPL parts has no H.264 encoder
        codec, options = ("libx264", {"crf": QUALITY}) if "libx264" in av.codecs_available else ("mpeg4", {"b": "4M"})
        stream = file.add_stream(codec, rate=fps, options=options)
        stream.width, stream.height = frames[0].size
        stream.pix_fmt = "yuv420p"  # what every player shows
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_image(frame)))
        file.mux(stream.encode())
