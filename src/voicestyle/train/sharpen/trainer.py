"""Sharpening in two parts: faces at the old size, then the block that doubles it. What both parts work with."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from voicestyle.checkpoint import Model
from voicestyle.config import GeneratorConfig
from voicestyle.nn.efficientnet import EfficientNet
from voicestyle.schema import read, to_dict
from voicestyle.train.generator.grow import grow, widen
from voicestyle.train.sharpen.detail import DetailPart
from voicestyle.train.sharpen.faces import FacePart
from voicestyle.train.sharpen.fakes import Codes, Gallery
from voicestyle.train.sharpen.settings import SharpenRecipe


class SharpenTrainer:
    """The generator with its average, the codes of all pictures, and the two parts. A saved state goes on the same."""

    def __init__(self, settings: SharpenRecipe, model: Model, features: EfficientNet) -> None:
        if model.generator is None or model.inverter is None:
            raise ValueError(f"{model.folder}: needs a generator and its inverter; train them first")
        self.settings, self.step = settings, 0
        self.base = model.generator.config.size
        self.inverter = copy.deepcopy(model.inverter).eval().requires_grad_(False)
        self.gallery = Gallery(settings.data, self.base, settings.seed)
        self.codes = Codes(self.gallery, self.inverter, settings.rates.codes)
        wider = replace(model.generator.config, channel_multiplier=settings.channel_multiplier)
        config = read(GeneratorConfig, {**to_dict(wider), "size": 2 * self.base})
        self.rng = torch.Generator().manual_seed(settings.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            wide = widen(model.generator.state_dict(), wider)
            self.generator = grow(wide.state_dict(), config).to(memory_format=torch.channels_last)
            self.average = copy.deepcopy(self.generator).eval().requires_grad_(False)
            shared = (settings, features, self.gallery, self.codes, self.generator, self.average, self.base, self.rng)
            self.faces, self.detail = FacePart(*shared), DetailPart(*shared)

    def train_step(self) -> dict[str, float]:
        """The losses of one step."""
        steps = self.settings.steps
        if self.step < steps.faces:
            losses = self.faces.train_step(self.step, steps.faces)
        else:
            if self.step == steps.faces:  # the new block stands on the average, which no longer moves
                self.generator.load_state_dict(self.average.state_dict())
            losses = self.detail.train_step(self.step - steps.faces, steps.detail)
        self.step += 1
        if not np.isfinite([*losses.values()]).all():
            raise ValueError(f"training diverged at step {self.step}: losses {losses}; lower the learning rates")
        return losses

    _STATES = ("generator", "average", "codes", "faces", "detail")

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs."""
        chance = {"torch": self.rng.get_state(), "numpy": self.gallery.rng.bit_generator.state}
        return {
            "step": self.step,
            "chance": chance,
            **{name: getattr(self, name).state_dict() for name in self._STATES},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.step = state["step"]
        for name in self._STATES:
            getattr(self, name).load_state_dict(state[name])
        self.rng.set_state(state["chance"]["torch"])
        self.gallery.rng.bit_generator.state = state["chance"]["numpy"]
