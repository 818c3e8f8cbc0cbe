"""Where the faces lie in the pictures of a manifest, found once and written down: training reads boxes alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from voicestyle.align import detect_face
from voicestyle.data.journal import work_through
from voicestyle.data.manifest import Manifest
from voicestyle.files import named
from voicestyle.image import open_image


def write_boxes(
    manifest: Manifest,
    out: str | Path,
    *,
    num_workers: int = 1,
    progress: Callable[[int], Any] = lambda num_items: None,
) -> dict[str, str]:
    """Write the manifest with a `face_box` for each item that has a face and no box; keys of those without, and why.

    dlib's detector draws the boxes. A call that was stopped goes on where it was.

    Args:
        out: the new manifest
        progress: called with the number of items that are done since it was called last

    Raises:
        ValueError: every item with a face has its box
        ImportError: dlib is not installed
    """
    out = Path(out)
    faces = {item.key: item.face for item in manifest if item.face is not None and not item.face_box}
    if not faces:
        raise ValueError(f"{manifest.name}: no item has a face without a box")
    out.parent.mkdir(parents=True, exist_ok=True)
    journal = out.with_name(f"{out.name}.done.jsonl")
    files = {key: str(path) for key, path in faces.items()}
    found = work_through(journal, {"manifest": manifest.name}, files, find_box, num_workers, progress)
    boxes = {key: tuple(record["box"]) for key, record in found.items() if "box" in record}
    items = tuple(replace(item, face_box=boxes.get(item.key, item.face_box)) for item in manifest)
    Manifest(items, manifest.name).write(out)
    journal.unlink()
    return {key: record["reason"] for key, record in found.items() if "reason" in record}


def find_box(path: str) -> dict[str, Any]:
    """The box of the largest face of a picture, in pixels, or the reason why there is none."""
    try:
        with named(path):
            box = detect_face(open_image(path))
    except (ValueError, OSError) as error:
        return {"reason": str(error)}
    return {"box": [round(edge, 2) for edge in box]} if box else {"reason": f"{path}: no face found"}
