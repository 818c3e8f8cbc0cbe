"""Train the two towers of CMPC on a manifest: small bridges over frozen backbones, or ResNets from scratch.

Every random choice is a function of the seed and the step, so that a resumed run continues as if it had never stopped.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from voicestyle.checkpoint import save_model
from voicestyle.config import SIDES, VoiceStyleConfig
from voicestyle.data.manifest import Item, Manifest
from voicestyle.data.shards import LogMelShards, cache_log_mels, front_end_fingerprint
from voicestyle.files import sha256_of
from voicestyle.nn.encoder import VoiceFaceEncoder
from voicestyle.nn.faceres import AGE
from voicestyle.train.distributed import World, connect
from voicestyle.train.encoder.batches import Items, batches
from voicestyle.train.encoder.cohort import set_age, set_chances
from voicestyle.train.encoder.settings import EncoderRecipe, read_settings
from voicestyle.train.encoder.start import start_encoder, towers_of
from voicestyle.train.encoder.supervision import Supervision
from voicestyle.train.encoder.trainer import Trainer
from voicestyle.train.encoder.validation import association_auc, deal_identities, embed, hold_out
from voicestyle.train.encoder.views import Views, load_views, usable_items
from voicestyle.train.recipe import named
from voicestyle.train.run import Run, write_json


def train_encoder(
    recipe: Mapping[str, Any], out: str | Path, resume: bool = False, progress: bool = True, device: str | None = None
) -> VoiceFaceEncoder:
    """The encoder that `recipe` describes, trained on the ``train`` split of its manifest, in evaluation mode.

    The run folder `out` gets the log, the state (every ``save_every`` steps) and the model folder ``model``. Under
    torchrun, its processes train together; each returns the encoder.

    Args:
        recipe: as `recipe.load_recipe` returns it
        out: folder of the run
        resume: go on with the run that the folder holds
        progress: show bars
        device: "cpu", "cuda", ...; None: the GPU where there is one

    Raises:
        FileNotFoundError, ValueError: a file of the recipe is missing, or a setting does not fit
        ConnectionError: another process was lost
    """
    settings = read_settings(recipe)
    items = _train_items(settings)
    with named(recipe), connect(device) as world, Run.start(out, recipe, resume, world) as run:
        job = _Job(settings, world, progress and world.is_main)
        data = job.load(items)
        held = hold_out(data.identities, settings.validation.fraction, settings.seed)
        watched = job.views(data.take(held)) if held.any() else None
        used = data.take(~held) if held.any() else data
        trainer = job.trainer(used)
        if (state := run.load_state()) is not None:
            run.restore(trainer.load_state_dict, state)
        _train(trainer, used, watched, run, job.progress)
        encoder = trainer.averaged()
        job.finish(encoder, used)
        encoder = encoder.cpu()
        if world.is_main:
            config = VoiceStyleConfig(settings.name, settings.encoder.config, license=settings.license)
            save_model(run.folder / "model", config, encoder, metadata=_provenance(len(used.items), trainer))
        world.barrier()
    return encoder


def cross_validate(
    recipe: Mapping[str, Any],
    num_folds: int = 5,
    out: str | Path | None = None,
    progress: bool = True,
    device: str | None = None,
) -> dict[str, Any]:
    """How well a recipe does on train identities that were left out of training, to choose settings by.

    Identities are dealt to folds with the recipe's seed; each left-out voice is scored against every left-out face, by
    the weights after the last step. Of each stratum of `validation.association_auc`, ``auc`` has the ``mean``, the
    ``sd`` over folds and the ``folds`` themselves.

    Args:
        recipe: as `recipe.load_recipe` returns it
        num_folds: 2 or more
        out: folder for ``cross_validation.json``, which has the recipe too; None: nothing is written
        progress: show bars
        device: "cpu", "cuda", ...; None: the GPU where there is one
    """
    settings = read_settings(recipe)
    items = _train_items(settings)
    scores: dict[str, list[float]] = {}
    with named(recipe), connect(device) as world:
        job = _Job(settings, world, progress and world.is_main)
        data = job.load(items)
        fold_of = deal_identities(data.identities, num_folds, settings.seed)
        for fold in tqdm(range(num_folds), disable=None if job.progress else True, desc="folds"):
            used = data.take(fold_of != fold)
            trainer = job.trainer(used)
            for batch in batches(used, settings, world):
                trainer.train_step(batch)
            for stratum, auc in job.score(trainer.averaged(), data.take(fold_of == fold)).items():
                scores.setdefault(stratum, []).append(auc)
        of_folds = {name: {"mean": fmean(auc), "sd": pstdev(auc), "folds": auc} for name, auc in scores.items()}
        found = {"auc": of_folds, "seed": settings.seed, "num_folds": num_folds}
        if out is not None and world.is_main:
            write_json(Path(out) / "cross_validation.json", {**found, "recipe": recipe})
    return found


def score_split(
    recipe: Mapping[str, Any], encoder: VoiceFaceEncoder, split: str = "val", picture: int = 0, progress: bool = True
) -> dict[str, float]:
    """Verification AUC by stratum of a trained encoder on a split of its recipe's manifest.

    Args:
        recipe: of its training
        encoder: in evaluation mode
        split: of the manifest
        picture: 0 the first picture (frontal, if there is one), 2 the one in the wild where ``views.wild`` is set
        progress: show bars
    """
    settings = read_settings(recipe)
    job = _Job(settings, World(next(encoder.parameters()).device), progress)
    return job.score(encoder, job.load_views(usable_items(Manifest.read(settings.manifest).split(split))), picture)


def _train_items(settings: EncoderRecipe) -> list[Item]:
    """What a recipe trains on: the train split of its manifest, and of further ones, of other people."""
    manifests = [Manifest.read(path).split("train") for path in (settings.manifest, *settings.more_manifests)]
    items = tuple(item for manifest in manifests for item in manifest)
    return usable_items(Manifest(items, " and ".join(manifest.name for manifest in manifests)))


def _train(trainer: Trainer, data: Views | Items, held: Views | None, run: Run, progress: bool) -> None:
    """All steps that are left, with log, states and validation."""
    settings = trainer.settings
    steps, batch_size = settings.schedule.steps, min(settings.schedule.batch, len(data.items))
    shown: dict[str, str] = {}
    with tqdm(
        total=steps * batch_size,
        initial=trainer.step * batch_size,
        unit="pairs",
        unit_scale=True,
        desc="encoder",
        disable=None if progress else True,
    ) as bar:
        for batch in batches(data, settings, trainer.world, trainer.step):
            if trainer.best.is_final:
                break
            lr, losses = trainer.lr, trainer.train_step(batch)
            is_last = trainer.step == steps
            bar.update(batch_size)
            if held is not None and (trainer.step % settings.validation.every == 0 or is_last):
                auc = _validate(trainer, held)
                run.log(trainer.step, auc=auc, best_auc=trainer.best.auc)
                shown["auc"] = f"{auc:.3f} (best {trainer.best.auc:.3f})"
                if trainer.best.is_final:
                    bar.set_description("encoder, stopped early")
            is_final = is_last or trainer.best.is_final
            if trainer.step % settings.log_every == 0:
                values = _finite(losses, trainer.step)
                run.log(trainer.step, **values, lr=lr, clusters=len(trainer.objective.clusters))
                bar.set_postfix({"loss": f"{values['loss']:.3f}", **shown})
            if trainer.step % settings.save_every == 0 or is_final:
                _finite(losses, trainer.step)
                run.save_state(trainer.state_dict())


def _validate(trainer: Trainer, held: Views) -> float:
    """The AUC of the averaged weights on held-out identities, which may make them the best so far."""
    towers = trainer.average.module
    voice_emb, face_emb = embed(towers, held, trainer.settings.are_features)
    auc = trainer.world.agree(association_auc(voice_emb, face_emb, held.items)["any"])
    trainer.best.offer(auc, trainer.step, towers.state_dict)
    return auc


def _finite(losses: dict[str, Tensor], step: int) -> dict[str, float]:
    values = {name: loss.item() for name, loss in losses.items()}
    if not all(map(math.isfinite, values.values())):
        raise ValueError(f"training diverged at step {step}: {values}; lower schedule.lr, or set schedule.clip_norm")
    return values


class _Job:
    """A recipe in a world: what it reads, and the trainers that it makes."""

    def __init__(self, settings: EncoderRecipe, world: World, progress: bool) -> None:
        self.settings, self.world, self.progress = settings, world, progress

    def encoder(self) -> VoiceFaceEncoder:
        """The encoder before training, on its device."""
        return start_encoder(self.settings).to(self.world.device)

    def load(self, items: Sequence[Item]) -> Views | Items:
        """What batches are made of."""
        if self.settings.read != "items":
            return self.load_views(items)
        shards = self._shards(items)
        return Items(tuple(item for item in items if item.key in shards), shards, self.settings)

    def views(self, data: Views | Items) -> Views:
        """The same items as views, which need no augmentation."""
        return data if isinstance(data, Views) else self.load_views(data.items)

    def trainer(self, data: Views | Items) -> Trainer:
        """A trainer at its first step."""
        features = None
        if self.settings.start.ridge:
            features = data if self.settings.are_features else self.load_views(data.items, are_features=True)
        weight = None if features is None else self._weights(features.items)
        return Trainer(
            self.settings, self.encoder(), data.identities, features, weight, self._supervision(), self.world
        )

    def finish(self, encoder: VoiceFaceEncoder, data: Views | Items) -> None:
        """Find what the encoder tells besides its embeddings: ages of voices, similarities of strangers."""
        config = self.settings.encoder
        if not (config.num_chances or config.tells_age):
            return
        views = self.views(data)
        voice_emb, face_emb = embed(towers_of(encoder, self.settings).eval(), views, self.settings.are_features)
        if config.tells_age:
            age = views.face[..., AGE].float().mean(1)
            set_age(encoder, voice_emb, age, self.settings.start.age_ridge, self._weights(views.items))
        if config.num_chances:
            set_chances(encoder, voice_emb, face_emb, views.identities)

    def _weights(self, items: Sequence[Item]) -> Tensor:
        """(N,) how much each item counts in a closed form."""
        more = {item.key for path in self.settings.more_manifests for item in Manifest.read(path)}
        return torch.tensor([self.settings.start.more_weight if item.key in more else 1.0 for item in items])

    def score(self, encoder: VoiceFaceEncoder, data: Views | Items, picture: int = 0) -> dict[str, float]:
        """Verification AUC by stratum."""
        views = self.views(data)
        towers = towers_of(encoder, self.settings).eval()
        voice_emb, face_emb = embed(towers, views, self.settings.are_features, picture)
        return association_auc(voice_emb, face_emb, views.items)

    def load_views(
        self, items: Sequence[Item], are_features: bool | None = None, sides: Sequence[str] = SIDES
    ) -> Views:
        """Views of some items: features or inputs, by default what the towers see."""
        are_features = self.settings.are_features if are_features is None else are_features
        return load_views(
            items,
            self.encoder(),
            self.settings.views,
            self.settings.cache,
            are_features=are_features,
            sides=sides,
            world=self.world,
            progress=self.progress,
        )

    def _supervision(self) -> Supervision | None:
        config = self.settings.supervision
        if not (config.sex_weight or config.age_weight):
            return None

        def load(path: str, side: str) -> Views | None:
            if not path:
                return None
            items = usable_items(Manifest.read(path).split("train"), [side])
            return self.load_views(items, sides=[side])

        voices, faces = load(config.voices, "voice"), load(config.faces, "face")
        return Supervision(self.settings, voices, faces, self.world)

    def _shards(self, items: Sequence[Item]) -> LogMelShards:
        """Log-mels of the items: those that the recipe names, or new ones in its cache."""
        front_end, given = self.settings.encoder.config.log_mel, self.settings.views.shards
        if given:
            return LogMelShards(given, front_end)
        clips = [(item.key, item.voice.name, item.voice.stat().st_size) for item in items if item.voice]
        name = sha256_of(json.dumps([front_end_fingerprint(front_end), clips]).encode())[:16]
        folder = Path(self.settings.cache) / f"log_mels-{name}"

        def make() -> None:
            with tqdm(total=len(items), disable=None if self.progress else True, desc="log-mels") as bar:
                workers = max(1, self.settings.views.num_workers)
                cache_log_mels(Manifest(tuple(items)), front_end, folder, num_workers=workers, progress=bar.update)

        self.world.make_once(folder / "index.json", make)
        return LogMelShards(folder, front_end)


def _provenance(num_pairs: int, trainer: Trainer) -> dict[str, Any]:
    settings = trainer.settings
    sources = {}
    for name in ("voice_weights", "second_voice_weights", "face_weights", "second_face_weights"):
        if getattr(settings, name):
            path = Path(getattr(settings, name))
            for part in dict.fromkeys((path, path.with_suffix(".bin"))):  # a network of TensorFlow.js lies in two files
                if part.is_file():
                    sources[part.name] = sha256_of(part)
    found: dict[str, Any] = {"sources": sources, "num_pairs": num_pairs, "seed": settings.seed}
    if trainer.best.weights:
        found["validation"] = {"auc": trainer.best.auc, "step": trainer.best.step}
    return found
