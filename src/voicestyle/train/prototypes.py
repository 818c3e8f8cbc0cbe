"""Build a prototype bank: every member's picture is embedded and projected once, when the bank is made."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from voicestyle.checkpoint import Model, check_replaceable, save_model
from voicestyle.data.manifest import Manifest
from voicestyle.image import load_image
from voicestyle.inversion import LinearInverter, invert
from voicestyle.prototypes import PrototypeBank

BATCH = 8  # pictures that are projected together; also how often a build leaves something behind to go on from


def build_prototypes(
    model: Model,
    manifests: Sequence[str | Path],
    out: str | Path,  # NAME.safetensors: the bank alone; else a model folder: the model with this bank
    *,
    k: int,
    split: str = "train",
    seed: int = 0,
    start: Literal["w_avg", "linear"] = "w_avg",
    progress: Callable[[int], None] | None = None,  # told how many more pictures are done
    **settings: Any,  # of `inversion.invert`
) -> PrototypeBank:
    """The bank of the frontal pictures of manifests, written to `out`.

    Finished latents lie in ``OUT.part`` until the bank is written: a build that was stopped goes on from there.

    Raises:
        FileNotFoundError: a manifest or a picture is missing
        ValueError: no frontal pictures, fewer than k, or a model without generator
    """
    out = Path(out)
    if out.suffix != ".safetensors":
        check_replaceable(out)
    items = [item for path in manifests for item in Manifest.read(path).split(split) if item.frontal]
    if len(items) < k:
        raise ValueError(f"{manifests[0]}: {len(items)} frontal pictures in split {split!r}, expected k = {k} or more")
    part = out.with_name(f"{out.name}.part")
    pictures, identities = [item.frontal for item in items], [item.identity for item in items]
    bank = build_bank(model, pictures, identities, k, seed, start=start, cache=part, progress=progress, **settings)
    if out.suffix == ".safetensors":
        bank.save(out)
    else:
        card = model.folder / "README.md"
        text = card.read_text(encoding="utf-8") if card.is_file() else None
        save_model(out, model.config, model.encoder, model.generator, bank, model.metadata, text)
    shutil.rmtree(part)
    return bank


def build_bank(
    model: Model,
    pictures: Sequence[Path | Tensor],  # files, or (1,3,H,W) in [-1,1]; in the canonical frame, one a member
    identities: Sequence[str],  # who it is; kept as numbers only
    k: int,
    seed: int = 0,
    *,
    start: Literal["w_avg", "linear"] = "w_avg",  # of each projection: the mean latent, or a one-shot estimate
    cache: Path | None = None,  # folder for finished latents
    progress: Callable[[int], None] | None = None,
    **settings: Any,  # of `inversion.invert`
) -> PrototypeBank:
    """A bank of k prototypes of these faces, with a latent for each."""
    if model.generator is None:
        raise ValueError(f"{model.folder}: this model has no generator to project pictures with; use another model")
    inverter = LinearInverter(model.generator, seed=seed) if start == "linear" else None
    project = partial(_project, model, inverter, settings)
    told = f"{model.generator_fingerprint} {model.encoder_fingerprint} {start} {seed} {sorted(settings.items())}"
    embeddings, latents = [], []
    for first in range(0, len(pictures), BATCH):
        some = pictures[first : first + BATCH]
        embeddings += [_face_emb(model, picture) for picture in some]
        size = model.generator.config.size
        images = torch.cat([_picture(picture, size) for picture in some])
        latents.append(_cached(project, images, cache, told))
        if progress is not None:
            progress(len(some))
    return PrototypeBank.build(
        torch.cat(embeddings), torch.cat(latents), identities, k, seed,
        encoder_fingerprint=model.encoder_fingerprint, generator_fingerprint=model.generator_fingerprint,
    )  # fmt: skip


def _picture(picture: Path | Tensor, size: int | None = None) -> Tensor:
    return picture if isinstance(picture, Tensor) else load_image(picture, size)


@torch.no_grad()
def _face_emb(model: Model, picture: Path | Tensor) -> Tensor:
    return model.encoder.encode_face(_picture(picture).to(model.generator.w_avg.device)).cpu()


def _project(model: Model, inverter: LinearInverter | None, settings: dict[str, Any], images: Tensor) -> Tensor:
    w_init = None if inverter is None else inverter(images)
    return invert(
        model.generator, images, model.encoder.face_features, w_init=w_init, batch=BATCH, **settings
    ).w.cpu()  # fmt: skip


def _cached(project: Callable[[Tensor], Tensor], images: Tensor, cache: Path | None, told: str) -> Tensor:
    """Latents (N,w_dim) of pictures, from the cache where it has them."""
    if cache is None:
        return project(images)
    path = cache / f"{hashlib.sha256(told.encode() + images.numpy().tobytes()).hexdigest()[:32]}.safetensors"
    if not path.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(".tmp")
        save_file({"w": project(images)}, beside)
        os.replace(beside, path)
    return load_file(path)["w"]
