"""The settings of sharpening, a dataclass for each section of its recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from voicestyle.schema import Count, NonNegative, Positive, SettingError, Whole
from voicestyle.train.recipe import settings_of


@dataclass(frozen=True)
class DataConfig:
    """The section ``[data]``: manifests whose `train` split has frontal pictures."""

    portraits: str  # sharp ones, which generated faces are to look like
    members: str  # soft ones, whose people are to stay: only their low frequencies are targets
    weights: dict[str, Positive]  # of a portrait to be drawn, by the part of its identity before "/"


@dataclass(frozen=True)
class BatchConfig:
    """The section ``[batch]``: pictures of a step."""

    portraits: Count = 6
    members: Count = 2
    unpaired: Count = 4  # between two codes, means of members, means of portraits, draws: in turn
    crops: Count = 4  # of the portraits, and as many of the others

    def __post_init__(self) -> None:
        if self.crops > min(self.portraits, self.members + self.unpaired):
            raise SettingError("crops", f"got {self.crops}, more than portraits, or than members and unpaired")


@dataclass(frozen=True)
class RateConfig:
    """The section ``[rates]``: learning rates at the start; the second half of the steps lets them fall to nothing."""

    generator: Positive = 0.002  # of equalized layers: about 0.03 of it reaches a weight
    inverter: Positive = 0.001
    linear: Positive = 0.0001  # of the inverter's linear part, which has thousands of inputs
    codes: Positive = 0.08  # of each picture's own part of its latent, in deviations of w, at each visit
    discriminator: Positive = 0.0002


@dataclass(frozen=True)
class WeightConfig:
    """The section ``[weights]`` of losses."""

    pixel: NonNegative = 2.0
    face: NonNegative = 3.0  # pixels inside the face, beside those everywhere
    perceptual: NonNegative = 1.0
    adversarial: NonNegative = 0.014  # of reconstructions; 0.03 skews mouths and noses within a hundred steps
    unpaired: NonNegative = 0.018  # of fakes that have no target
    crop: NonNegative = 0.015


@dataclass(frozen=True)
class SharpenRecipe:
    """A whole recipe."""

    seed: Whole
    model: str  # folder or name: its generator, of half the size, and its inverter are gone on from
    features: str  # EfficientNet-Lite1's weights, see `convert.efficientnet`
    steps: Count
    log_every: Count
    save_every: Count
    data: DataConfig
    channel_multiplier: Positive = 0.25  # at least the generator's own
    batch: BatchConfig = BatchConfig()
    rates: RateConfig = RateConfig()
    weights: WeightConfig = WeightConfig()
    adversarial_after: Whole = 150  # steps without discriminators
    tensorboard: bool = False


def read_settings(recipe: Mapping[str, Any]) -> SharpenRecipe:
    """The settings of a recipe; a ValueError that says file, line and key where one does not fit."""
    return settings_of(recipe, SharpenRecipe)
