"""Weak supervision: sex and age of people whose voice or face alone is known, read off the joint space.

One linear head a label serves voices and faces alike: the direction that tells women's voices from men's must then tell
their faces too, so that unpaired material draws the two towers together. Off unless a recipe has ``[supervision]``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from voicestyle.data.manifest import Item
from voicestyle.seeds import mixed_rng, seeded
from voicestyle.train.distributed import Precision, World
from voicestyle.train.encoder.settings import EncoderRecipe, SupervisionConfig
from voicestyle.train.encoder.views import Views, average_windows

MEAN_AGE, AGE_SCALE = 45.0, 20.0  # years: about the middle and the spread of adults, so that targets are near one
SEXES = {"f": 0.0, "m": 1.0}


class SupervisionHeads(nn.Module):
    """Sex (a logit) and age (standardized) of unit embeddings (N, D)."""

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.sex = nn.Linear(embed_dim, 1)
        self.age = nn.Linear(embed_dim, 1)

    def loss(self, emb: Tensor, labels: Tensor, config: SupervisionConfig, world: World) -> Tensor:
        """The scalar loss: cross entropy of the sex and Huber loss of the age, each over those whose label is known.

        Of several processes each gets a part: their mean is the loss of all embeddings together.

        Args:
            emb: (N, D) unit norm
            labels: (N, 2) as `labels_of` makes them
            config: the weights
            world: the processes that train together
        """
        sex, age = labels.T
        by_sex = F.binary_cross_entropy_with_logits(self.sex(emb)[:, 0], sex.nan_to_num(), reduction="none")
        by_age = F.smooth_l1_loss(self.age(emb)[:, 0], age.nan_to_num(), reduction="none")
        parts = (config.sex_weight, by_sex, sex), (config.age_weight, by_age, age)
        return torch.stack([weight * _known_mean(losses, labels, world) for weight, losses, labels in parts]).sum()


def _known_mean(losses: Tensor, labels: Tensor, world: World) -> Tensor:
    """This process' part of the mean over all that are known in any: the mean of the parts is that mean."""
    known = ~labels.isnan()
    num = world.gather(known.sum()[None].to(losses)).sum()
    return (losses * known).sum() * world.world_size / num.clamp_min(1)


def labels_of(items: Sequence[Item]) -> Tensor:
    """(N, 2) sex (0: f, 1: m) and standardized age of items; NaN where it is not known."""
    rows = [
        (SEXES.get(item.gender, math.nan), math.nan if item.age is None else (item.age - MEAN_AGE) / AGE_SCALE)
        for item in items
    ]
    return torch.tensor(rows, dtype=torch.float32)


class Supervision:
    """Unpaired voices and faces with their heads, and the loss of a step's draw of them."""

    def __init__(self, settings: EncoderRecipe, voices: Views | None, faces: Views | None, world: World) -> None:
        self.settings, self.world = settings, world
        self.precision = Precision(settings.schedule.precision, world.device)
        with seeded(settings.seed):
            self.heads = SupervisionHeads(settings.encoder.embed_dim).to(world.device)
        self.sides = [(0, voices, "voice"), (1, faces, "face")]
        self.labels = [None if views is None else labels_of(views.items).to(world.device) for _, views, _ in self.sides]

    def loss(self, towers: nn.ModuleList, step: int) -> Tensor:
        """The scalar loss of this process' share of a step's unpaired voices and faces."""
        config = self.settings.supervision
        rng = mixed_rng(self.settings.seed, "unpaired", step)
        own = self.world.share(config.batch, "supervision.batch")
        losses = []
        for (number, views, side), labels in zip(self.sides, self.labels, strict=True):
            if views is None or labels is None:
                continue
            held = getattr(views, side)
            rows = torch.randint(len(held), (config.batch,), generator=rng)[own]
            if side == "voice":
                seen = average_windows(held[rows].float(), self.settings.are_features)
            else:
                seen = held[rows, torch.randint(held.shape[1], (config.batch,), generator=rng)[own]].float()
            with self.precision.autocast():
                output = towers[number](seen.to(self.world.device))
            losses.append(self.heads.loss(F.normalize(output.float(), dim=1), labels[rows], config, self.world))
        return torch.stack(losses).sum()
