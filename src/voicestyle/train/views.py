"""What the networks see of each item while they are trained: windows of its voice, its pictures, their mirror images.

Views are computed once, go through the backbones where those are frozen, and are kept in memory and in a cache file.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from voicestyle.audio import voice_input
from voicestyle.checkpoint import fingerprint
from voicestyle.config import to_dict
from voicestyle.data.manifest import Item, Manifest
from voicestyle.data.pictures import frontal_picture, wild_picture
from voicestyle.image import crop_resize
from voicestyle.nn.encoder import VoiceFaceEncoder


@dataclass(frozen=True)
class ViewConfig:
    """The section ``[views]`` of a recipe."""

    num_windows: int  # evenly spaced windows of `log_mel.num_frames`, each voice
    windows_per_view: int  # features of so many random windows are averaged to one view (frozen backbones only)
    wild: bool  # also the face in the wild, aligned by its box, beside the frontal picture


@dataclass(frozen=True)
class Views:
    """All views of N items: network inputs, or features where backbones are frozen; float16."""

    voice: Tensor  # (N, num_windows, ...)
    face: Tensor  # (N, num_pictures, ...), the frontal picture first
    identities: Tensor  # (N,) int64

    def take(self, rows: Tensor) -> Views:
        """The views of some items."""
        return Views(self.voice[rows], self.face[rows], self.identities[rows])


def average_windows(windows: Tensor, frozen: bool) -> Tensor:
    """One view (N, ...) of windows (N, V, ...): the direction of their mean features, or the first of raw inputs."""
    return F.normalize(windows.mean(1), dim=1) if frozen else windows[:, 0]


def load_views(
    manifest: Manifest,
    encoder: VoiceFaceEncoder,
    config: ViewConfig,
    cache: str | Path,  # folder
    *,
    frozen: bool,  # features of the encoder's backbones, which training will not change
    progress: bool = True,
) -> Views:
    """The views of the items with a voice and a picture in (or a box for) the canonical frame, cached or computed.

    An item that a front end refuses (say, for less than a second of speech) is left out, with a warning.
    """
    items = [item for item in manifest if item.voice and (item.frontal or item.face_box)]
    if not items:
        raise ValueError(
            f"{manifest.name}: no item of the split has a voice and a frontal picture or a face with its box"
        )
    manifest.check_files()
    cached = Path(cache) / f"views-{_fingerprint(config, encoder, items, frozen)}.safetensors"
    if not cached.is_file():
        made = _all_views(items, encoder, config, frozen, progress)
        cached.parent.mkdir(parents=True, exist_ok=True)
        beside = cached.with_suffix(".tmp")
        save_file(made, beside)
        os.replace(beside, cached)
    views = load_file(cached)
    number: dict[str, int] = {}
    identities = [number.setdefault(items[row].identity, len(number)) for row in views["rows"].tolist()]
    return Views(views["voice"], views["face"], torch.tensor(identities))


def _fingerprint(config: ViewConfig, encoder: VoiceFaceEncoder, items: list[Item], frozen: bool) -> str:
    """Of everything that the views depend on: settings, frozen weights, files."""
    files = [path for item in items for path in (item.voice, item.face, item.frontal) if path]
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    front_ends = {name: to_dict(encoder.config)[name] for name in ("log_mel", "image")}
    backbones = [fingerprint(m) for m in (encoder.voice_backbone, encoder.face_backbone)] if frozen else []
    told = [stats, [item.face_box for item in items], front_ends, config.num_windows, config.wild, backbones]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


def _all_views(
    items: list[Item], encoder: VoiceFaceEncoder, config: ViewConfig, frozen: bool, progress: bool
) -> dict[str, Tensor]:
    """Views of the items that have any, and their rows."""
    made, refused = {}, []
    was_training = encoder.training
    encoder.eval()
    for row, item in enumerate(tqdm(items, disable=not progress, desc="views")):
        try:
            made[row] = _item_views(item, encoder, config, frozen)
        except ValueError as error:
            refused.append(str(error))
    encoder.train(was_training)
    if not made:
        raise ValueError(f"all {len(items)} items are refused, e.g. {refused[0]}")
    if refused:
        warnings.warn(f"{len(refused)} of {len(items)} items left out of training, e.g. {refused[0]}", stacklevel=3)
    voices, faces = zip(*made.values(), strict=True)
    return {"voice": torch.stack(voices), "face": torch.stack(faces), "rows": torch.tensor([*made])}


@torch.no_grad()
def _item_views(item: Item, encoder: VoiceFaceEncoder, config: ViewConfig, frozen: bool) -> tuple[Tensor, Tensor]:
    front_end, frame = encoder.config.log_mel, encoder.config.image
    log_mel = voice_input(item.voice, front_end)[0]
    last = log_mel.shape[2] - front_end.num_frames
    starts = torch.linspace(0, last, config.num_windows).round().long().tolist()
    voice = torch.stack([log_mel[:, :, start : start + front_end.num_frames] for start in starts])
    pictures = [crop_resize(picture, frame.crop, frame.size) for picture in _pictures(item, config.wild)]
    face = torch.cat([view for picture in pictures for view in (picture, picture.flip(3))])
    if frozen:
        voice, face = encoder.voice_backbone(voice), encoder.face_backbone(face)
    return voice.half(), face.half()


def _pictures(item: Item, both: bool) -> list[Tensor]:
    """The frontal picture, or else the one in the wild; `both`: two pictures, either may stand in for the other."""
    frontal = frontal_picture(item)
    wild = wild_picture(item) if item.face_box and (both or frontal is None) else None
    pictures = [picture for picture in (frontal, wild) if picture is not None]
    return (pictures * 2)[: 1 + both]
