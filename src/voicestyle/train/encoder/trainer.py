"""One step of training two towers, and everything that it changes."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from voicestyle.nn.encoder import VoiceFaceEncoder
from voicestyle.seeds import seeded
from voicestyle.train.distributed import Precision, World
from voicestyle.train.encoder.batches import Batch, step_seed
from voicestyle.train.encoder.cohort import cohort_start
from voicestyle.train.encoder.objective import Objective
from voicestyle.train.encoder.settings import EncoderRecipe, ScheduleConfig
from voicestyle.train.encoder.start import canonical_start, towers_of, train_mode
from voicestyle.train.encoder.supervision import Supervision
from voicestyle.train.encoder.validation import BestWeights
from voicestyle.train.encoder.views import Views, average_windows

PARTS = ("towers", "average", "optimizer", "objective", "scaler", "best")  # what a resumed run restores


class Trainer:
    """Towers, their average, optimizer, memory bank and prototypes; `step` steps done.

    Args:
        settings: the recipe
        encoder: as `start.start_encoder` makes it; its towers are trained in place
        identities: (N,) of the items that batches speak of
        features: from which the closed-form start is computed, where there is one
        weight: (N,) of the items in that start; None: all the same
        supervision: unpaired material with its heads
        world: the processes that train together
    """

    def __init__(
        self,
        settings: EncoderRecipe,
        encoder: VoiceFaceEncoder,
        identities: Tensor,
        features: Views | None = None,
        weight: Tensor | None = None,
        supervision: Supervision | None = None,
        world: World | None = None,
    ) -> None:
        self.settings, self.encoder, self.world, self.step = settings, encoder, world or World(), 0
        self.towers = towers_of(encoder, settings).to(self.world.device)
        if settings.start.ridge and features is not None:
            voice = average_windows(features.voice.float(), are_features=True)
            if settings.encoder.bridge == "cohort":
                cohort_start(encoder, voice, features.face.float(), settings.start, weight)
            else:
                bridges = encoder.voice_bridge, encoder.face_bridge
                canonical_start(*bridges, voice, features.face.float(), settings.start.ridge, settings.start.power)
        self.world.broadcast(*self.towers.state_dict().values())
        self.towers = self.world.synchronize_norms(self.towers)
        if self.world.device.type == "cuda" or settings.schedule.precision != "float32":
            # what such kernels are made for; in float32 on CPUs, oneDNN crashes on some shapes
            self.towers.to(memory_format=torch.channels_last)
        self.average = AveragedModel(
            self.towers, multi_avg_fn=get_ema_multi_avg_fn(settings.schedule.ema), use_buffers=True
        ).eval()
        train_mode(self.towers, settings)
        self.supervision = supervision
        self.parameters = [p for p in self.towers.parameters() if p.requires_grad]
        self.heads = list(supervision.heads.parameters()) if supervision else []
        self.optimizer = self._optimizer()
        self.precision = Precision(settings.schedule.precision, self.world.device)
        self.scaler = self.precision.scaler()
        self.objective = Objective(
            settings.objective, identities, settings.encoder.embed_dim, settings.seed, self.world
        )
        self.best = BestWeights(settings.validation.patience)
        if settings.schedule.compile:
            for tower in self.towers:
                tower.compile()

    def _optimizer(self) -> torch.optim.Optimizer:
        published: set[int] = set()
        if self.settings.pretrained and not self.settings.are_features:
            published = {id(p) for tower in self.towers for p in tower[0].parameters()}
        networks = [p for p in self.parameters if id(p) not in published]
        backbones = [p for p in self.parameters if id(p) in published]
        return make_optimizer(self.settings.schedule, networks, backbones, self.heads, self.settings.supervision.lr)

    @property
    def lr(self) -> float:
        """Learning rate of the next step."""
        return lr_of_step(self.settings.schedule, self.step)

    def train_step(self, batch: Batch) -> dict[str, Tensor]:
        """The losses of a batch, whose gradient has been followed.

        Every process computes the loss of the whole batch from the embeddings of all.
        """
        self.optimizer.zero_grad()
        rows = batch.rows.to(self.world.device)
        with self._seeded():
            embeddings = self._embed(batch)
        voice_emb, face_emb = self.world.gather(embeddings).unbind(1)
        loss = self.objective.loss(voice_emb, face_emb, rows)
        self.scaler.scale(loss).backward()
        losses = {"loss": loss.detach()}
        if self.supervision is not None:
            with self._seeded(stream=3):
                supervised = self.supervision.loss(self.towers, self.step)
            self.scaler.scale(supervised).backward()
            losses["supervision"] = self.world.gather(supervised.detach()[None]).mean()
        self._follow()
        self.step += 1
        self.objective.remember(torch.stack([voice_emb, face_emb]).detach(), rows, self.step)
        return losses

    def _embed(self, batch: Batch) -> Tensor:
        """Unit embeddings (B, 2, D) of this process' share."""
        views = (view.to(self.world.device, non_blocking=True) for view in (batch.voice, batch.face))
        with self.precision.autocast():
            outputs = [tower(view) for tower, view in zip(self.towers, views, strict=True)]
        return torch.stack([F.normalize(output.float(), dim=1) for output in outputs], 1)

    def _seeded(self, stream: int = 1) -> AbstractContextManager[None]:
        """Dropout of this step and process: the same whenever it is entered."""
        seed = step_seed(self.settings.seed, self.step, stream, self.world.rank)
        return seeded(seed, self.world.device)

    def _follow(self) -> None:
        """One step of the optimizer along the mean gradient of all processes."""
        self.world.mean_gradients([*self.parameters, *self.heads])  # an overflow in one process is seen by all
        self.scaler.unscale_(self.optimizer)
        if self.settings.schedule.clip_norm:
            nn.utils.clip_grad_norm_([*self.parameters, *self.heads], self.settings.schedule.clip_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * group["factor"]
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.average.update_parameters(self.towers)

    def averaged(self) -> VoiceFaceEncoder:
        """The encoder with the averaged weights, the best ones where there was a validation, in evaluation mode."""
        self.towers.load_state_dict(self.best.weights or self.average.module.state_dict())
        return self.encoder.eval().requires_grad_(False)

    def state_dict(self) -> dict[str, Any]:
        """Everything that later steps depend on."""
        held = {"step": self.step, **{part: getattr(self, part).state_dict() for part in PARTS}}
        return held if self.supervision is None else {**held, "heads": self.supervision.heads.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        self.step = state["step"]
        for part in PARTS:
            getattr(self, part).load_state_dict(state[part])
        if self.supervision is not None:
            self.supervision.heads.load_state_dict(state["heads"])


def lr_of_step(schedule: ScheduleConfig, step: int) -> float:
    """Learning rate of a step: linear warm-up, then cosine."""
    if step < schedule.warmup:
        return schedule.lr * (step + 1) / schedule.warmup
    done = torch.tensor((step - schedule.warmup) / max(1, schedule.steps - schedule.warmup) * math.pi)
    return schedule.min_lr + (schedule.lr - schedule.min_lr) * (1 + done.cos().item()) / 2


def make_optimizer(
    schedule: ScheduleConfig,
    networks: list[nn.Parameter],
    backbones: list[nn.Parameter],
    heads: list[nn.Parameter],
    head_lr: float,
) -> torch.optim.Optimizer:
    """Adam or AdamW over groups whose learning rate is that of the schedule times their ``factor``.

    Args:
        schedule: section ``[schedule]``
        networks: parameters at the learning rate itself
        backbones: unfrozen parts of published networks
        heads: of the supervision
        head_lr: their learning rate at the top of the schedule
    """
    groups = [
        {"params": networks, "factor": 1.0},
        {"params": backbones, "factor": schedule.backbone_lr},
        {"params": heads, "factor": head_lr / schedule.lr},
    ]
    kind = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[schedule.optimizer]
    return kind([group for group in groups if group["params"]], schedule.lr, weight_decay=schedule.weight_decay)
