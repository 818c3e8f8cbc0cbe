"""How weights follow a gradient: Adam with warm-up and cosine."""

from __future__ import annotations

import math

import torch
from torch import nn

from voicestyle.train.encoder.settings import ScheduleConfig


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
