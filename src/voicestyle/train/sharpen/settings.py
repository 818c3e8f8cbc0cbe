"""The settings of sharpening, a dataclass for each section of its recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from voicestyle.schema import Count, NonNegative, Positive, Whole
from voicestyle.train.recipe import settings_of


@dataclass(frozen=True)
class DataConfig:
    """The section ``[data]``: a manifest whose `train` split has frontal pictures."""

    portraits: str  # sharp ones, which generated faces are to look like
    weights: dict[str, Positive]  # of a portrait to be drawn, by the part of its identity before "/"


@dataclass(frozen=True)
class StepConfig:
    """The section ``[steps]``: of the two parts, one after the other."""

    faces: Count  # at the old size
    detail: Count  # of the new block that doubles it
    alone: Whole = 100  # of each part, before its discriminators are listened to


@dataclass(frozen=True)
class BatchConfig:
    """The section ``[batch]``: pictures of a step."""

    portraits: Count = 7
    unpaired: Count = 5  # between two codes, draws near the mean, means of codes, draws: in turn


@dataclass(frozen=True)
class RateConfig:
    """The section ``[rates]``: learning rates at the start of a part; its second half lets them fall to nothing."""

    generator: Positive = 0.0015  # of equalized layers: about 0.03 of it reaches a weight
    detail: Positive = 0.002  # of the new block
    codes: Positive = 0.03  # of each picture's own part of its latent, in deviations of w, at each visit
    discriminator: Positive = 0.0002


@dataclass(frozen=True)
class WeightConfig:
    """The section ``[weights]`` of losses."""

    pixel: NonNegative = 2.0
    face: NonNegative = 3.0  # pixels inside the face, beside those everywhere
    perceptual: NonNegative = 1.0
    anchor: NonNegative = 0.4  # of fakes without a target, in the coarse: what the generator drew at the start
    adversarial: NonNegative = 0.0135  # of portraits; at four times as much draws turned to ink, with codes that moved
    unpaired: NonNegative = 0.02  # of fakes without a target
    ratio: NonNegative = 0.6  # in the second part, of the adversarial gradient to that of the likeness


@dataclass(frozen=True)
class SharpenRecipe:
    """A whole recipe."""

    seed: Whole
    model: str  # folder or name: its generator, of half the size, and its inverter are gone on from
    log_every: Count
    save_every: Count
    steps: StepConfig
    data: DataConfig
    channel_multiplier: Positive = 0.25  # at least the generator's own
    batch: BatchConfig = BatchConfig()
    rates: RateConfig = RateConfig()
    weights: WeightConfig = WeightConfig()
    features: str = ""  # a file of EfficientNet-Lite1's weights, for those that the extra ``perceptual`` brings
    tensorboard: bool = False


def read_settings(recipe: Mapping[str, Any]) -> SharpenRecipe:
    """The settings of a recipe; a ValueError that says file, line and key where one does not fit."""
    return settings_of(recipe, SharpenRecipe)
