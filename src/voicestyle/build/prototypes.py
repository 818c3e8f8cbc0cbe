"""Build a prototype bank: every member's picture is embedded and projected once, when the bank is made."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from voicestyle.checkpoint import Model, check_replaceable, save_changed
from voicestyle.data.manifest import Manifest
from voicestyle.files import kept, sha256_of
from voicestyle.image import load_image
from voicestyle.inversion import LinearInverter, Perceptual, Start, identity_features, invert, psnr
from voicestyle.likely import LikelyInverter
from voicestyle.locks import alone_with
from voicestyle.prototypes import PrototypeBank

BATCH = 8  # pictures that are projected together; also how often a build leaves something behind to go on from
Refuse = Callable[[str, str], Any]  # told which picture is left out, and why
Pictures = tuple[list[Tensor], Tensor]  # each (1,3,H,W) as it is, and all (N,3,size,size) as the generator draws them


def build_prototypes(
    model: Model,
    manifests: Sequence[str | Path],
    out: str | Path,  # NAME.safetensors: the bank alone; else a model folder: the model with this bank
    *,
    k: int,
    split: str = "train",
    seed: int = 0,
    refuse: Refuse = lambda picture, why: None,
    **projection: Any,  # of `Projector`
) -> PrototypeBank:
    """The bank of the frontal pictures of manifests, written to `out`.

    Finished latents lie in ``OUT.part`` until the bank is written: a build that was stopped goes on from there.
    Pictures that are missing or damaged are left out, and told to `refuse`.

    Raises:
        FileNotFoundError: a manifest is missing
        ValueError: no frontal pictures, fewer than k, or a model without generator
        BlockingIOError: another process is building this bank
    """
    part = check_out(Path(out))
    items = [item for path in manifests for item in Manifest.read(path).split(split) if item.frontal]
    if len(items) < k:
        raise ValueError(f"{manifests[0]}: {len(items)} frontal pictures in split {split!r}, expected k = {k} or more")
    pictures, identities = [item.frontal for item in items], [item.identity for item in items]
    with alone_with(out):
        bank = build_bank(model, pictures, identities, k, seed, refuse=refuse, cache=part, **projection)
        write_bank(Path(out), model, bank, model.metadata)
    return bank


def build_bank(
    model: Model,
    pictures: Sequence[Path | Tensor],  # files, or (1,3,H,W) in [-1,1]; in the canonical frame, one a member
    identities: Sequence[str],  # who it is; kept as numbers only
    k: int,
    seed: int = 0,
    *,
    refuse: Refuse = lambda picture, why: None,
    **projection: Any,  # of `Projector`
) -> PrototypeBank:
    """A bank of k prototypes of these faces, with a latent for each; see `build_prototypes` for those left out."""
    project = Projector(model, seed=seed, **projection)
    members: list[str] = []  # who is left

    def read(some: Sequence[tuple[Path | Tensor, str]]) -> Iterator[tuple[Tensor, Tensor]]:
        for picture, identity in some:
            try:
                native = picture if isinstance(picture, Tensor) else load_image(picture)
                small = picture if isinstance(picture, Tensor) else load_image(picture, project.generator.config.size)
            except (ValueError, OSError) as error:
                refuse(str(picture), str(error))
            else:
                members.append(identity)
                yield native, small

    def batches() -> Iterator[tuple[bytes, Callable[[], Pictures]]]:
        for some in chunks(list(zip(pictures, identities, strict=True)), project.batch):
            if held := list(read(some)):
                yield _loaded(([native for native, _ in held], torch.cat([small for _, small in held])))

    found = project(batches())
    return PrototypeBank.build(
        found["emb"],
        found["w"],
        members,
        k,
        seed,
        psnr=found["psnr"],
        encoder_fingerprint=model.encoder_fingerprint,
        generator_fingerprint=project.generator_fingerprint,
    )


def _loaded(pictures: Pictures) -> tuple[bytes, Callable[[], Pictures]]:
    """A batch of pictures that are there: their content is its name."""
    return pictures[1].numpy().tobytes(), lambda: pictures


class Projector:
    """Face embeddings and latents of pictures, and how well these draw them; by batches, which a cache may hold."""

    def __init__(
        self,
        model: Model,
        *,
        start: Start = "w_avg",
        steps: int = 300,  # 0: the start itself is the latent
        batch: int = BATCH,
        seed: int = 0,
        perceptual: Perceptual | None = None,  # None: pixels
        cache: Path | None = None,  # folder for what is done
        depends_on: str = "",  # whatever else the results of a batch depend on
        progress: Callable[[int], None] | None = None,  # told how many more pictures are done
        **settings: Any,  # of `inversion.invert`
    ) -> None:
        self.generator = model.needed_generator
        self.model, self.batch, self.cache, self.progress = model, batch, cache, progress
        self.perceptual, self.invert_settings = perceptual, {"steps": steps, "batch": batch, "seed": seed, **settings}
        self.inverter = model.needed_inverter if start == "inverter" else None
        self.settings = {
            "start": start,
            "perceptual": "pixel" if perceptual is None else perceptual.name.lower(),
            "identity": "encoder" if model.identity is None else "ir_se50",
            **{name: str(value) for name, value in self.invert_settings.items()},
        }
        self.generator_fingerprint = model.generator_fingerprint or ""  # there is one, as there is a generator
        prints: list[str | None] = [self.generator_fingerprint, model.encoder_fingerprint]
        prints += [] if self.inverter is None else [model.inverter_fingerprint]
        self.depends_on = f"emb, w, psnr {' '.join(map(str, prints))} {depends_on} {sorted(self.settings.items())}"

    def __call__(self, batches: Iterator[tuple[bytes, Callable[[], Pictures]]]) -> dict[str, Tensor]:
        """``emb`` (M,D), ``w`` (M,w_dim) and ``psnr`` (M,), dB, of batches: each a name and what loads its pictures."""
        done = []
        for name, load in batches:
            done.append(self._cached(name, load))
            if self.progress is not None:
                self.progress(len(done[-1]["w"]))
        if not done:
            raise ValueError("none of the pictures can be read; see what is said of each, or look where they lie")
        return {name: torch.cat([d[name] for d in done]) for name in ("emb", "w", "psnr")}

    def _cached(self, name: bytes, load: Callable[[], Pictures]) -> Mapping[str, Tensor]:
        digest = sha256_of(self.depends_on.encode() + name)[:32]
        path = None if self.cache is None else self.cache / f"{digest}.safetensors"
        return kept(path, lambda: self._project(*load()))

    @cached_property
    def _estimate(self) -> Callable[[Tensor], Tensor] | None:
        """What says where the projections start; None: they start from w_avg."""
        if self.settings["start"] not in ("linear", "likely"):
            return self.inverter
        how = {
            "seed": self.invert_settings["seed"],
            "cache": self.cache,
            "fingerprint": self.generator_fingerprint,
            "progress": self.progress is not None,
        }
        if self.settings["start"] == "linear":
            return LinearInverter.learn(self.generator, **how)
        identity = identity_features(self.model.encoder, self.model.identity)
        how["fingerprint"] = sha256_of(f"{self.generator_fingerprint} {self.model.encoder_fingerprint}".encode())
        return LikelyInverter.learn(self.generator, identity, **how)

    def _project(self, native: list[Tensor], target: Tensor) -> dict[str, Tensor]:
        generator, encoder = self.generator, self.model.encoder
        is_missing = target.flatten(1).isnan().any(1)  # pictures that could not be read: their PSNR stays NaN
        native, target = [picture.nan_to_num() for picture in native], target.nan_to_num().to(generator.w_avg)
        with torch.no_grad():
            emb = torch.cat([encoder.encode_face(picture.to(target)) for picture in native])
            w = None if self._estimate is None else self._estimate(target)
        if w is None or self.invert_settings["steps"] > 0:
            identity = identity_features(encoder, self.model.identity)
            start = None if w is None else self._not_worse_than_the_mean(w, target)
            w = invert(generator, target, identity, self.perceptual, w_init=start, **self.invert_settings).w
        psnr_db = self._psnr(w, target)
        return {"emb": emb, "w": w, "psnr": psnr_db.masked_fill(is_missing.to(psnr_db.device), torch.nan)}

    def _not_worse_than_the_mean(self, w: Tensor, target: Tensor) -> Tensor:
        """The estimates (N,w_dim), less those that draw their picture worse than the mean face does.

        Of an estimate far outside of the faces, few steps lead back: two members of a bank of a thousand were lost so.
        """
        mean = self.generator.w_avg.expand_as(w)
        return torch.where((self._psnr(w, target) > self._psnr(mean, target))[:, None], w, mean)

    @torch.no_grad()
    def _psnr(self, w: Tensor, target: Tensor) -> Tensor:
        return psnr(self.generator.synthesis(w.to(target)).clamp(-1, 1), target)


def chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """The items, `size` at a time."""
    return (items[i : i + size] for i in range(0, len(items), size))


def check_out(out: Path) -> Path:
    """The folder where a build leaves what is done, after making sure that it can end in `out`."""
    if out.suffix != ".safetensors":
        check_replaceable(out)
    return out.with_name(f"{out.name}.part")


def write_bank(out: Path, model: Model, bank: PrototypeBank, metadata: Mapping[str, Any]) -> None:
    """Write the bank, alone or in a model folder, and remove what the build had left behind."""
    if out.suffix == ".safetensors":
        bank.save(out)
    else:
        save_changed(model, out, bank=bank, metadata=metadata)
    shutil.rmtree(out.with_name(f"{out.name}.part"))
