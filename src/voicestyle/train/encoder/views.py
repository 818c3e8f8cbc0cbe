"""What the networks see of each item while they are trained: windows of its voice, its pictures, their mirror images.

Views are computed once, go through the backbones where those are frozen, and are kept in memory and in a cache file.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm

from voicestyle.config import SIDES
from voicestyle.data.manifest import Item, Manifest
from voicestyle.data.pictures import frontal_picture, wild_picture
from voicestyle.data.shards import whole_log_mel
from voicestyle.files import kept, sha256_of
from voicestyle.nn.encoder import VoiceFaceEncoder
from voicestyle.schema import to_dict
from voicestyle.train.distributed import World
from voicestyle.train.encoder.settings import ViewConfig
from voicestyle.weights import fingerprint


@dataclass(frozen=True)
class Views:
    """All views of N items: network inputs, or features where backbones are frozen; float16."""

    voice: Tensor  # (N, num_windows, ...); (N, 0) where voices were not asked for
    face: Tensor  # (N, num_pictures, ...), the frontal picture first; (N, 0) where faces were not asked for
    items: tuple[Item, ...]

    @property
    def identities(self) -> Tensor:
        """(N,) int64, numbered in the order in which they first come."""
        return number_identities(self.items)

    def take(self, rows: Tensor) -> Views:
        """The views of some items: their numbers, or one boolean an item."""
        chosen = torch.arange(len(self.items))[rows]
        return Views(self.voice[chosen], self.face[chosen], tuple(self.items[row] for row in chosen.tolist()))


def number_identities(items: Sequence[Item]) -> Tensor:
    """(N,) int64: a number for each identity, in the order in which they first come."""
    number: dict[str, int] = {}
    return torch.tensor([number.setdefault(item.identity, len(number)) for item in items])


def average_windows(windows: Tensor, are_features: bool) -> Tensor:
    """One view (N, ...) of windows (N, V, ...): the direction of their mean features, or the first of raw inputs."""
    return F.normalize(windows.mean(1), dim=1) if are_features else windows[:, 0]


def usable_items(manifest: Manifest, sides: Sequence[str] = SIDES) -> list[Item]:
    """The items with all of the sides asked for: a voice; a picture in (or a box for) the canonical frame.

    Raises:
        ValueError: there are none
    """
    has = {"voice": lambda item: item.voice, "face": lambda item: item.frontal or (item.face and item.face_box)}
    items = [item for item in manifest if all(has[side](item) for side in sides)]
    if not items:
        needed = {"voice": "a voice", "face": "a frontal picture or a face with its box"}
        raise ValueError(f"{manifest.name}: no item has {' and '.join(needed[side] for side in sides)}")
    return items


def load_views(
    items: Sequence[Item],
    encoder: VoiceFaceEncoder,
    config: ViewConfig,
    cache: str | Path,  # folder
    *,
    are_features: bool,  # of the encoder's backbones, which training will not change
    sides: Sequence[str] = SIDES,  # what to look at of each item
    world: World | None = None,  # the first process of each host computes what the others wait for
    progress: bool = True,
) -> Views:
    """The views of some items, cached or computed on the encoder's device.

    An item that a front end refuses (say, for less than a second of speech) is left out, with a warning.

    Raises:
        FileNotFoundError: files are missing
        ValueError: all items are refused
    """
    Manifest(tuple(items), "items to be trained on").check_files()
    name = _fingerprint(config, encoder, items, are_features, sides)
    cached = Path(cache) / f"views-{name}.safetensors"

    def make() -> None:
        kept(cached, lambda: _all_views(items, encoder, config, are_features, sides, progress))

    (world or World()).make_once(cached, make)
    views = load_file(cached)
    used = tuple(items[row] for row in views["rows"].tolist())
    nothing = torch.empty(len(used), 0)
    return Views(views.get("voice", nothing), views.get("face", nothing), used)


def _fingerprint(
    config: ViewConfig, encoder: VoiceFaceEncoder, items: Sequence[Item], are_features: bool, sides: Sequence[str]
) -> str:
    """Of everything that the views depend on: settings, frozen weights, files."""
    files = [path for item in items for path in (item.voice, item.face, item.frontal) if path]
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    front_ends = {name: to_dict(encoder.config)[name] for name in ("log_mel", "image", "second_image")}
    backbones = [fingerprint(m) for m in (encoder.voice_backbone, encoder.face_backbone)] if are_features else []
    depends_on = [stats, [item.face_box for item in items], front_ends, config.num_windows, config.wild, backbones]
    depends_on += [] if tuple(sides) == SIDES else [list(sides)]
    return sha256_of(json.dumps(depends_on).encode())[:16]


def _all_views(
    items: Sequence[Item],
    encoder: VoiceFaceEncoder,
    config: ViewConfig,
    are_features: bool,
    sides: Sequence[str],
    progress: bool,
) -> dict[str, Tensor]:
    """Views of the items that have any, and their rows."""
    see = {"voice": _voice_views, "face": _face_views}
    made, refused = {}, []
    was_training = encoder.training
    encoder.eval()
    for row, item in enumerate(tqdm(items, disable=None if progress else True, desc="views")):
        try:
            made[row] = [see[side](item, encoder, config, are_features) for side in sides]
        except ValueError as error:
            refused.append(str(error))
    encoder.train(was_training)
    if not made:
        raise ValueError(f"all {len(items)} items are refused, e.g. {refused[0]}")
    if refused:
        warnings.warn(f"{len(refused)} of {len(items)} items left out of training, e.g. {refused[0]}", stacklevel=5)
    views = {side: torch.stack(seen) for side, seen in zip(sides, zip(*made.values(), strict=True), strict=True)}
    return {**views, "rows": torch.tensor([*made])}


@torch.no_grad()
def _voice_views(item: Item, encoder: VoiceFaceEncoder, config: ViewConfig, are_features: bool) -> Tensor:
    front_end = encoder.config.log_mel
    log_mel = pad_frames(whole_log_mel(item.file("voice"), front_end), front_end.num_frames)
    if not config.num_windows:
        return _features(encoder.voice_backbone, log_mel[None])
    last = log_mel.shape[2] - front_end.num_frames
    starts = torch.linspace(0, last, config.num_windows).round().long().tolist()
    voice = torch.stack([log_mel[:, :, start : start + front_end.num_frames] for start in starts])
    return _features(encoder.voice_backbone, voice) if are_features else voice.half()


@torch.no_grad()
def _face_views(item: Item, encoder: VoiceFaceEncoder, config: ViewConfig, are_features: bool) -> Tensor:
    pictures = [encoder.face_inputs(picture) for picture in canonical_pictures(item, config.wild)]
    crops = [
        torch.cat([view for crop in of_one for view in (crop, crop.flip(3))]) for of_one in zip(*pictures, strict=True)
    ]
    return _features(encoder.face_backbone, *crops) if are_features else crops[0].half()


def _features(backbone: torch.nn.Module, *views: Tensor) -> Tensor:
    like = next(backbone.parameters())
    return backbone(*(view.to(like) for view in views)).half().cpu()


def pad_frames(log_mel: Tensor, num_frames: int) -> Tensor:
    """The log-mel (1, n_mels, T), with zeros on both sides where it is shorter than `num_frames`, as CMPC pads."""
    missing = max(0, num_frames - log_mel.shape[2])
    return F.pad(log_mel, ((missing + 1) // 2, missing // 2))


def canonical_pictures(item: Item, both: bool) -> list[Tensor]:
    """The frontal picture, or else the one in the wild; `both`: two pictures, either may stand in for the other."""
    frontal = frontal_picture(item)
    wild = wild_picture(item) if item.face_box and (both or frontal is None) else None
    pictures = [picture for picture in (frontal, wild) if picture is not None]
    return (pictures * 2)[: 1 + both]
