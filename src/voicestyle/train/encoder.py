"""Train the two towers of CMPC on a manifest: small bridges over frozen backbones, or ResNets from scratch.

Every random choice is a function of the seed and the step, so that a resumed run continues as if it had never stopped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from voicestyle.checkpoint import save_model
from voicestyle.clustering import Clusters, kmeans
from voicestyle.config import EncoderConfig, LogMelConfig, VoiceStyleConfig, from_dict
from voicestyle.convert.dlib import read_state
from voicestyle.convert.ge2e import from_resemblyzer
from voicestyle.data.manifest import Manifest
from voicestyle.losses import cmpc_loss
from voicestyle.metrics import roc_auc
from voicestyle.nn.encoder import VoiceFaceEncoder
from voicestyle.train.run import Run
from voicestyle.train.views import ViewConfig, Views, average_windows, load_views

LOG_MELS = {"cmpc": LogMelConfig.cmpc, "cmpc2": LogMelConfig.cmpc2, "ge2e": LogMelConfig.ge2e}
READERS = {"ge2e": from_resemblyzer, "dlib_resnet": read_state}  # of the published weights of frozen backbones


@dataclass(frozen=True)
class StartConfig:
    """The section ``[start]``: see `canonical_start`."""

    ridge: float  # 0: bridges start at random
    power: float


@dataclass(frozen=True)
class ObjectiveConfig:
    """The section ``[objective]``: see `losses.cmpc_loss`."""

    temperature: float
    prototypes: tuple[int, ...]  # k-means granularities; none: instance contrast alone (CID)
    prototype_weight: float
    cluster_after: int  # steps
    cluster_every: int  # steps
    memory_momentum: float  # weight of the old entry of the memory bank


@dataclass(frozen=True)
class ScheduleConfig:
    """The section ``[schedule]``: AdamW with warm-up and cosine."""

    steps: int
    batch: int
    lr: float
    min_lr: float
    warmup: int  # steps
    weight_decay: float
    ema: float  # decay of the average of the weights, which is what training returns


@dataclass(frozen=True)
class _Settings:
    seed: int
    encoder: EncoderConfig
    frozen: bool
    views: ViewConfig
    start: StartConfig
    objective: ObjectiveConfig
    schedule: ScheduleConfig


def train_encoder(
    recipe: dict[str, Any], out: str | Path, resume: bool = False, progress: bool = True
) -> VoiceFaceEncoder:
    """The encoder that `recipe` describes, trained on the ``train`` split of its manifest, in evaluation mode.

    The run folder `out` gets the log, the state (every ``save_every`` steps) and the model folder ``model``.

    Raises:
        FileNotFoundError, ValueError: a file of the recipe is missing, or a setting does not fit
    """
    settings = _settings(recipe)
    manifest = Manifest.read(recipe["manifest"]).split("train")
    run = Run.start(out, recipe, resume)
    encoder = _start_encoder(settings, recipe)
    trainer = _Trainer(settings, encoder, _views(settings, encoder, manifest, recipe, progress))
    if (state := run.load_state()) is not None:
        trainer.load_state_dict(state)
    steps = settings.schedule.steps
    with tqdm(total=steps, initial=trainer.step, unit="step", disable=not progress, desc="encoder") as bar:
        while trainer.step < steps:
            loss = trainer.train_step()
            bar.update()
            if trainer.step % recipe["log_every"] == 0:
                run.log(trainer.step, loss=loss, lr=trainer.lr, clusters=len(trainer.clusters))
            if trainer.step % recipe["save_every"] == 0 or trainer.step == steps:
                run.save_state(trainer.state_dict())
    encoder = trainer.averaged()
    config = VoiceStyleConfig(recipe["name"], settings.encoder, license=recipe["license"])
    save_model(run.folder / "model", config, encoder, metadata=_provenance(recipe, len(trainer.memory[0])))
    return encoder


def cross_validate(recipe: dict[str, Any], num_folds: int = 5, progress: bool = True) -> float:
    """The mean verification AUC on train identities that were left out of training, to choose settings by.

    Identities are dealt to folds with the recipe's seed; each left-out voice is scored against every left-out face.
    """
    settings = _settings(recipe)
    manifest = Manifest.read(recipe["manifest"]).split("train")
    views = _views(settings, _start_encoder(settings, recipe), manifest, recipe, progress)
    rng = torch.Generator().manual_seed(settings.seed)
    fold_of = torch.randperm(int(views.identities.max()) + 1, generator=rng) % num_folds
    scores = []
    for fold in tqdm(range(num_folds), disable=not progress, desc="folds"):
        left_out = fold_of[views.identities] == fold
        trainer = _Trainer(settings, _start_encoder(settings, recipe), views.take(~left_out))
        while trainer.step < settings.schedule.steps:
            trainer.train_step()
        scores.append(_auc(trainer.averaged(), settings, views.take(left_out)))
    return sum(scores) / num_folds


@torch.no_grad()
def _auc(encoder: VoiceFaceEncoder, settings: _Settings, views: Views) -> float:
    towers = _towers(encoder, settings.frozen)
    voice = F.normalize(towers[0](average_windows(views.voice.float(), settings.frozen)), dim=1)
    face = F.normalize(towers[1](views.face[:, 0].float()), dim=1)
    same = views.identities[:, None] == views.identities
    used = ~same | torch.eye(len(same), dtype=torch.bool)
    return roc_auc((voice @ face.T)[used].numpy(), same[used].numpy())


# ---------------------------------------------------------------------------------------------------------- recipe


def _settings(recipe: dict[str, Any]) -> _Settings:
    values = dict(recipe["encoder"])
    if values.get("log_mel") not in LOG_MELS:
        raise ValueError(f"recipe: encoder.log_mel: got {values.get('log_mel')!r}, expected one of {sorted(LOG_MELS)}")
    values["log_mel"] = LOG_MELS[values["log_mel"]]()
    encoder = from_dict(EncoderConfig, values, "recipe: [encoder]")
    weights = recipe["voice_weights"], recipe["face_weights"]
    if bool(weights[0]) != bool(weights[1]):
        raise ValueError(f"recipe: voice_weights and face_weights: got {weights}, expected both (frozen) or neither")
    settings = _Settings(
        recipe["seed"], encoder, bool(weights[0]),
        from_dict(ViewConfig, recipe["views"], "recipe: [views]"),
        from_dict(StartConfig, recipe["start"], "recipe: [start]"),
        from_dict(ObjectiveConfig, recipe["objective"], "recipe: [objective]"),
        from_dict(ScheduleConfig, recipe["schedule"], "recipe: [schedule]"),
    )  # fmt: skip
    if not settings.frozen and (settings.start.ridge or settings.views.windows_per_view != 1):
        raise ValueError("recipe: start.ridge > 0 and views.windows_per_view > 1 need frozen backbones (..._weights)")
    return settings


def _start_encoder(settings: _Settings, recipe: dict[str, Any]) -> VoiceFaceEncoder:
    """The encoder before training: published backbones, the rest at random from the seed."""
    with _seeded(settings.seed):
        encoder = VoiceFaceEncoder(settings.encoder)
    if settings.frozen:
        for side in ("voice", "face"):
            name = getattr(settings.encoder, f"{side}_backbone")
            if name not in READERS:
                raise ValueError(
                    f"recipe: {side}_weights: no published weights of {name!r} are known, only {[*READERS]}"
                )
            backbone = getattr(encoder, f"{side}_backbone")
            backbone.load_state_dict(READERS[name](recipe[f"{side}_weights"]))
            backbone.requires_grad_(False).eval()
    return encoder


def _views(
    settings: _Settings, encoder: VoiceFaceEncoder, manifest: Manifest, recipe: dict[str, Any], progress: bool
) -> Views:
    return load_views(manifest, encoder, settings.views, recipe["cache"], frozen=settings.frozen, progress=progress)


def _provenance(recipe: dict[str, Any], num_pairs: int) -> dict[str, Any]:
    sources = {}
    for side in ("voice_weights", "face_weights"):
        if recipe[side]:
            path = Path(recipe[side])
            sources[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return {"sources": sources, "num_pairs": num_pairs, "seed": recipe["seed"]}


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seeds what draws from the global generator (dropout, initial weights) and leaves that as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


# --------------------------------------------------------------------------------------------------------- trainer


def _towers(encoder: VoiceFaceEncoder, frozen: bool) -> nn.ModuleList:
    """What is trained, voice first: bridges alone, or backbones with their bridges."""
    sides = [(encoder.voice_backbone, encoder.voice_bridge), (encoder.face_backbone, encoder.face_bridge)]
    return nn.ModuleList([bridge if frozen else nn.Sequential(backbone, bridge) for backbone, bridge in sides])


class _Trainer:
    """Towers, their average, optimizer, memory banks and prototypes; `step` steps done."""

    def __init__(self, settings: _Settings, encoder: VoiceFaceEncoder, views: Views) -> None:
        self.settings, self.encoder, self.views, self.step = settings, encoder, views, 0
        self.towers = _towers(encoder, settings.frozen).train()
        if settings.start.ridge:
            features = average_windows(views.voice.float(), frozen=True), views.face.float()
            canonical_start(*self.towers, *features, settings.start.ridge, settings.start.power)
        schedule = settings.schedule
        self.average = AveragedModel(self.towers, multi_avg_fn=get_ema_multi_avg_fn(schedule.ema), use_buffers=True)
        self.optimizer = torch.optim.AdamW(self.towers.parameters(), schedule.lr, weight_decay=schedule.weight_decay)
        shape = 2, len(views.identities), settings.encoder.embed_dim
        self.memory = F.normalize(torch.randn(shape, generator=torch.Generator().manual_seed(settings.seed)), dim=2)
        self.clusters: list[tuple[Clusters, Clusters]] = []  # voice and face, a pair each granularity

    @property
    def lr(self) -> float:
        """Learning rate of the next step: linear warm-up, then cosine."""
        s = self.settings.schedule
        if self.step < s.warmup:
            return s.lr * (self.step + 1) / s.warmup
        done = torch.tensor((self.step - s.warmup) / max(1, s.steps - s.warmup) * torch.pi)
        return s.min_lr + (s.lr - s.min_lr) * (1 + done.cos().item()) / 2

    def train_step(self) -> float:
        """The loss of one batch, whose gradient has been followed."""
        objective = self.settings.objective
        rows, voice, face = self._batch()
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr
        with _seeded(self._seed(1)):
            voice_emb, face_emb = (F.normalize(t(x), dim=1) for t, x in zip(self.towers, (voice, face), strict=True))
        identities = self.views.identities[rows]
        loss = cmpc_loss(
            voice_emb, face_emb,
            [voice.take(rows) for voice, _ in self.clusters], [face.take(rows) for _, face in self.clusters],
            temperature=objective.temperature, same=identities[:, None] == identities,
            prototype_weight=objective.prototype_weight,
        )  # fmt: skip
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.average.update_parameters(self.towers)
        new = torch.stack([voice_emb, face_emb]).detach()
        momentum = objective.memory_momentum
        self.memory[:, rows] = F.normalize(momentum * self.memory[:, rows] + (1 - momentum) * new, dim=2)
        self.step += 1
        since = self.step - objective.cluster_after
        if objective.prototypes and since >= 0 and since % objective.cluster_every == 0:
            self._cluster()
        return loss.item()

    def _seed(self, stream: int) -> int:
        """A seed of this step, another one for each stream of random numbers."""
        return (self.settings.seed * 2**32 + self.step) * 4 + stream

    def _batch(self) -> tuple[Tensor, Tensor, Tensor]:
        """Rows (B,) of this step's part of the epoch, and a random view of each voice and face."""
        num_rows, batch = len(self.views.identities), self.settings.schedule.batch
        epoch, part = divmod(self.step, max(1, num_rows // batch))
        order = torch.randperm(num_rows, generator=torch.Generator().manual_seed(self.settings.seed * 2**32 + epoch))
        rows = order[part * batch : (part + 1) * batch]
        rng = torch.Generator().manual_seed(self._seed(0))

        def draw(views: Tensor, count: int) -> Tensor:
            chosen = torch.randint(views.shape[1], (len(rows), count), generator=rng)
            return views[rows[:, None], chosen].float()

        voice = average_windows(draw(self.views.voice, self.settings.views.windows_per_view), self.settings.frozen)
        return rows, voice, draw(self.views.face, 1)[:, 0]

    def _cluster(self) -> None:
        objective, seed = self.settings.objective, self.settings.seed

        def clusters(memory: Tensor, k: int) -> Clusters:
            return kmeans(memory, k, seed + self.step, temperature=objective.temperature)

        self.clusters = [(clusters(self.memory[0], k), clusters(self.memory[1], k)) for k in objective.prototypes]

    def averaged(self) -> VoiceFaceEncoder:
        """The encoder with the averaged weights, in evaluation mode."""
        self.towers.load_state_dict(self.average.module.state_dict())
        return self.encoder.eval().requires_grad_(False)

    def state_dict(self) -> dict[str, Any]:
        """Everything that later steps depend on."""
        return {
            "step": self.step, "towers": self.towers.state_dict(), "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(), "memory": self.memory,
            "clusters": [[vars(side) for side in pair] for pair in self.clusters],
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        self.step, self.memory = state["step"], state["memory"]
        for name in ("towers", "average", "optimizer"):
            getattr(self, name).load_state_dict(state[name])
        self.clusters = [(Clusters(**voice), Clusters(**face)) for voice, face in state["clusters"]]


@torch.no_grad()
def canonical_start(
    voice_bridge: nn.Sequential, face_bridge: nn.Sequential, voice: Tensor, face: Tensor, ridge: float, power: float
) -> None:
    """Set two bridges to the regularized canonical correlation analysis (CCA) of their features.

    A thousand pairs say little about a bridge of a hundred thousand weights, but the few directions that correlate
    most across the modalities have a closed form. A bridge (norm, linear, GELU, dropout, linear) holds a linear map
    exactly by hidden units in pairs, since gelu(x) - gelu(-x) = x; training goes on from there.

    Args:
        voice_bridge, face_bridge: as `VoiceFaceEncoder` makes them, hidden at least twice the embedding
        voice: (N, F) features
        face: (N, P, F') features of P pictures each
        ridge: added to both covariances, in units of their mean variance
        power: directions are weighted by their correlation to this power
    """
    x = voice_bridge[0](voice).double()
    y = face_bridge[0](face).double()
    x, y, pictures = x - x.mean(0), y.mean(1) - y.mean((0, 1)), (y - y.mean((0, 1))).flatten(0, 1)
    whiten_x, whiten_y = _inverse_root(x, ridge), _inverse_root(pictures, ridge)
    u, correlation, vh = torch.linalg.svd(whiten_x @ (x.T @ y / len(x)) @ whiten_y)
    for bridge, whiten, directions, features in (
        (voice_bridge, whiten_x, u, voice), (face_bridge, whiten_y, vh.T, face.flatten(0, 1)),
    ):  # fmt: skip
        dim = bridge[-1].out_features
        weight = (whiten @ directions[:, :dim] * correlation[:dim] ** power).T
        _set_linear(bridge, weight.float(), bridge[0](features).mean(0))


def _inverse_root(x: Tensor, ridge: float) -> Tensor:
    covariance = x.T @ x / len(x)
    values, vectors = torch.linalg.eigh(covariance)
    return vectors / (values + ridge * values.mean()).sqrt() @ vectors.T


def _set_linear(bridge: nn.Sequential, weight: Tensor, mean: Tensor) -> None:
    """Make the bridge compute weight @ (x - mean), by as many copies of its paired units as there is room for."""
    first, last = bridge[1], bridge[-1]
    copies = first.out_features // (2 * last.out_features)
    if not copies:
        raise ValueError(
            f"recipe: encoder.bridge_hidden {first.out_features}: start.ridge > 0 needs at least twice the embed_dim"
        )
    used = copies * 2 * last.out_features
    signs = torch.tensor([1.0, -1.0]).repeat(copies).repeat_interleave(last.out_features)
    first.weight[:used] = signs[:, None] * weight.repeat(2 * copies, 1)
    first.bias[:used] = -first.weight[:used] @ mean
    last.weight.zero_()
    last.weight[:, :used] = torch.eye(last.out_features).repeat(1, 2 * copies) * signs / copies
    last.bias.zero_()
