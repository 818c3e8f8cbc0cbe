"""Are generated pictures like real ones? Distances of the two sets on face embeddings, or on Inception features."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from voicestyle.data.folders import PICTURES, files_in
from voicestyle.data.manifest import Item, Manifest
from voicestyle.data.pictures import canonical_picture
from voicestyle.evaluate.distances import Comparison, compare
from voicestyle.evaluate.protocol import NOT_MADE, check_leaks
from voicestyle.extras import needed
from voicestyle.files import sha256_of
from voicestyle.image import from_pil, open_image, to_pil
from voicestyle.sampling import random_latents
from voicestyle.seeds import mixed_seed

if TYPE_CHECKING:
    from voicestyle.pipeline import VoiceStyle

Features = Callable[[Tensor], Tensor]  # pictures (N,3,H,W) in [-1,1] -> (N,D)
Refuse = Callable[[str, Exception], object]  # told of a picture that cannot be used, and why

BATCH = 32  # pictures that are rendered and embedded together
# the Inception of FID (TensorFlow's of 2015-12-05), as torch-fidelity and, under another name, pytorch-fid publish it
INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
INCEPTION_NAMES = {"Frechet distance": "FID", "kernel distance": "KID"}


@dataclass(frozen=True)
class PicturesReport:
    """How far generated pictures are from real ones."""

    model: str
    real: str  # which pictures
    generated: str
    features: str  # of which network
    is_inception: bool  # whether these are FID and KID proper
    size: int  # pixels of both sides
    comparison: Comparison
    left_out: dict[str, str]  # real pictures that could not be used, and why
    leak_check: str = NOT_MADE

    def name(self, measure: str) -> str:
        """What a measure on these features is called."""
        return INCEPTION_NAMES.get(measure, measure) if self.is_inception else f"face-embedding {measure}"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready values."""
        return {**dataclasses.asdict(self), "names": {m.name: self.name(m.name) for m in self.comparison.measures}}

    def to_markdown(self) -> str:
        """The context and a table, one measure a line."""
        c = self.comparison
        lines = [
            f"- generated: {self.generated}, {c.num_generated:,} pictures",
            f"- real: {self.real}, {c.num_real:,} pictures, {len(self.left_out)} left out",
            f"- {self.leak_check}",
            f"- features: {self.features}, {c.num_features} dimensions; pictures of {self.size} px; seed {c.seed}",
            *(f"- warning: {warning}" for warning in c.warnings),
            "",
            f"| measure | all pictures | {c.half_size} a side | floor: {c.half_size} real against {c.half_size} real |",
            "|---|---|---|---|",
        ]
        for m in c.measures:
            at_half, floor = (f"{mean:.4g} ± {deviation:.2g}" for mean, deviation in (m.half, m.floor))
            lines.append(f"| {self.name(m.name)} | {m.value:.4g} | {at_half} | {floor} |")
        return "\n".join(lines) + "\n"


def evaluate_pictures(
    vs: VoiceStyle,
    real: str | Path,  # folder or manifest
    *,
    generated: str | Path | None = None,  # folder; default: samples of the model's generator
    num: int = 1000,  # samples
    truncation_psi: float = 1.0,
    split: str = "val",  # of a manifest
    num_real: int | None = None,  # drawn with the seed; default: all
    align: bool = False,  # real pictures are photographs: cut out the face first
    features: Features | None = None,  # e.g. of `inception_features`; default: the encoder's face backbone
    seed: int = 0,  # of the samples and of all draws
    trained_on: Iterable[str | Path] = (),  # training manifests: nobody in their split "train" may be tested
    allow_leaks: bool = False,  # mark a leak instead of refusing
    refuse: Refuse = lambda name, error: None,
    progress: Callable[[int], object] = lambda num_pictures: None,
) -> PicturesReport:
    """How far the pictures that a generator makes, or those of a folder, are from real ones.

    All pictures are brought to the size of the generator's, or of the first one in the folder. The default features are
    the face backbone's, below its bridge, of pictures in the canonical frame. They see the face alone: hair, background
    and sharpness hardly count, so these distances are no FID.

    Raises:
        FileNotFoundError: no such folder or manifest
        ValueError: too few pictures, generated ones that cannot be used, or a leak
    """
    left_out: dict[str, str] = {}

    def note(name: str, error: Exception) -> None:
        left_out[name] = str(error)
        refuse(name, error)

    items = picture_items(real, split, num_real, seed, photographs=align)
    leaks = check_leaks(items, trained_on, allow_leaks)
    size: int
    if generated is None:
        made, size = samples(vs, num, truncation_psi, seed), vs.generator.config.size
        source = f"{vs.config.name}, psi {truncation_psi:g}"
    else:
        files = picture_items(generated)
        size, source = open_image(files[0].file("frontal")).width, str(generated)
        made = (face_picture(item, size) for item in files)
    faces = (picture for _, picture in usable(items, lambda item: face_picture(item, size), note))
    embed = features or vs.encoder.identity_features
    tables = [_embedded(embed, pictures, vs.device, progress) for pictures in (faces, made)]
    return PicturesReport(
        model=vs.config.name,
        real=f"{real}" + (f", split {split}" if Path(real).is_file() else ""),
        generated=source,
        features="Inception v3 of FID" if features else f"{vs.config.encoder.identity_backbone} of {vs.config.name}",
        is_inception=features is not None,
        size=size,
        comparison=compare(*tables, seed=seed),
        left_out=left_out,
        leak_check=leaks,
    )


def samples(vs: VoiceStyle, num: int, truncation_psi: float = 1.0, seed: int = 0) -> Iterator[Tensor]:
    """Pictures (1,3,size,size) of random latents, one by one, rendered in batches."""
    for w in random_latents(vs.generator, num, seed, truncation_psi).split(BATCH):
        yield from vs.synthesize(w).split(1)


# ------------------------------------------------------------------------------------------------------ real pictures


def picture_items(
    source: str | Path,
    split: str = "val",  # of a manifest
    num: int | None = None,  # drawn with the seed, in the order of the source; default: all
    seed: int = 0,
    photographs: bool = False,
) -> list[Item]:
    """The pictures of a folder, with all below it, or of a manifest: `frontal` where they show a face in the canonical
    frame, `face` where they are `photographs` (of a manifest also where there is no frontal picture).

    Raises:
        FileNotFoundError: no such folder or manifest
        ValueError: no pictures in it
    """
    source = Path(source)
    if source.is_dir():
        names = {path: path.relative_to(source).as_posix() for path in files_in(source, PICTURES, recursive=True)}
        items = [Item(name, "test", name, face=path) for path, name in names.items()]
        items = items if photographs else [dataclasses.replace(item, face=None, frontal=item.face) for item in items]
    elif source.is_file():
        chosen = Manifest.read(source).split(split)
        items = [item for item in chosen if item.face or (item.frontal and not photographs)]
        items = [dataclasses.replace(item, frontal=None) for item in items] if photographs else items
    else:
        raise FileNotFoundError(f"{source}: no such folder or manifest")
    if not items:
        raise ValueError(f"{source}: no pictures in it")
    if num is None or num >= len(items):
        return items
    rng = np.random.default_rng(mixed_seed(seed, "pictures"))
    return [items[i] for i in sorted(rng.choice(len(items), num, replace=False))]


def face_picture(item: Item, size: int) -> Tensor:
    """The face (1,3,size,size) of an item in the canonical frame.

    Raises:
        ValueError: a picture in that frame that is not square, or a photograph without a face
        ImportError: a photograph without a box, and dlib-bin is not installed
    """
    picture = canonical_picture(item)
    if picture is None:
        raise ValueError("no picture of a face")
    height, width = picture.shape[2:]
    if height != width:
        raise ValueError(f"{width} x {height} px, expected a square picture of an aligned face; align it (--align)")
    return picture if width == size else from_pil(to_pil(picture)[0], size)


def usable(items: Iterable[Item], load: Callable[[Item], Any], refuse: Refuse) -> Iterator[tuple[Item, Any]]:
    """Each item with what `load` makes of it; those that it refuses are told of and left out."""
    for item in items:
        try:
            yield item, load(item)
        except (ValueError, FileNotFoundError) as error:
            refuse(item.key, error)


@torch.no_grad()
def _embedded(
    features: Features, pictures: Iterable[Tensor], device: torch.device, progress: Callable[[int], object]
) -> NDArray[np.float64]:
    """The features (N,D) of pictures that come one by one."""
    pictures, parts = iter(pictures), []
    while batch := list(itertools.islice(pictures, BATCH)):
        parts.append(features(torch.cat(batch).to(device)).double().cpu().numpy())
        progress(len(batch))
    if not parts:
        raise ValueError("no picture could be used, expected 8 or more on each side")
    return np.concatenate(parts)


# ---------------------------------------------------------------------------------------------------------- Inception


def inception_features(weights: str | Path | None = None, device: torch.device | str = "cpu") -> Features:
    """The 2,048 features of the Inception network that FID and KID are defined with, by torch-fidelity.

    Args:
        weights: the file; default: where torch-fidelity keeps it once it has downloaded it. Nothing is downloaded here

    Raises:
        ImportError: torch-fidelity is not installed
        FileNotFoundError: no such file
        ValueError: another file, whose distances would be no FID
    """
    instead = "or take the face embeddings (--features face), whose distances are others"
    extractor = needed("torch_fidelity.feature_extractor_inceptionv3", "FID and KID", instead)
    path = Path(weights) if weights else Path(torch.hub.get_dir(), "checkpoints", INCEPTION_FILE)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file; FID and KID need the Inception weights {INCEPTION_FILE} there, or named with "
            "--inception-weights (release v0.2.0 of toshas/torch-fidelity has them); nothing is downloaded"
        )
    found = sha256_of(path)
    if found != INCEPTION_SHA256:  # it is unpickled next: no other file may be
        raise ValueError(
            f"{path}: sha256 {found[:8]}..., expected {INCEPTION_SHA256[:8]}...: other weights, or a damaged file, "
            f"would not give FID; get {INCEPTION_FILE} again"
        )
    network = extractor.FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(path)
    ).to(device)

    def features(image: Tensor) -> Tensor:
        pixels = np.stack([np.asarray(picture) for picture in to_pil(image)])
        (found,) = network(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().to(device))
        return found

    return features
