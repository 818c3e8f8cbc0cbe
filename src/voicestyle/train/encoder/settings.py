"""The settings of an encoder's training: a dataclass for each section of its recipe, and whether they fit together."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from voicestyle.config import EncoderConfig, FaceBackbone, FrontEnd, ImageConfig, LogMelConfig, VoiceBackbone
from voicestyle.schema import Count, NonNegative, Positive, Range, SettingError, Share, Whole
from voicestyle.train.encoder.augment import Augmentation
from voicestyle.train.recipe import settings_of

LOG_MELS = {
    "cmpc": LogMelConfig.cmpc,
    "cmpc2": LogMelConfig.cmpc2,
    "ge2e": LogMelConfig.ge2e,
    "ge2e+fbank": LogMelConfig.ge2e_fbank,
}


@dataclass(frozen=True)
class TowerConfig:
    """The section ``[encoder]``: an `EncoderConfig`, whose front end of voices has a name."""

    voice_backbone: VoiceBackbone
    face_backbone: FaceBackbone
    log_mel: FrontEnd
    image: ImageConfig
    embed_dim: Count
    bridge_hidden: Whole = EncoderConfig.bridge_hidden
    backbone_width: Count = EncoderConfig.backbone_width
    bridge_dropout: Share = EncoderConfig.bridge_dropout
    second_image: ImageConfig | None = None
    bridge: Literal["mlp", "cohort"] = "mlp"
    tells_age: bool = False
    num_chances: Whole = 0
    num_frames: Count | None = None  # shorter crops than the front end's own make training cheaper

    @property
    def config(self) -> EncoderConfig:
        """What is stored with the weights."""
        front_end = LOG_MELS[self.log_mel]()
        if self.num_frames:
            front_end = dataclasses.replace(front_end, num_frames=self.num_frames)
        return EncoderConfig(
            self.voice_backbone,
            self.face_backbone,
            front_end,
            self.image,
            self.embed_dim,
            self.bridge_hidden,
            self.backbone_width,
            self.bridge_dropout,
            self.second_image,
            self.bridge,
            self.tells_age,
            self.num_chances,
        )


@dataclass(frozen=True)
class ViewConfig:
    """The section ``[views]``: what the networks see of an item, see `views` and `batches`."""

    num_windows: Whole  # evenly spaced windows of `log_mel.num_frames`, each voice; 0: the whole of it (features only)
    windows_per_view: Count  # features of so many random windows are averaged to one view (features only)
    wild: bool  # also the face in the wild, aligned by its box, beside the frontal picture
    # features: what frozen backbones say of each view, computed once; inputs: the views themselves, computed once and
    # kept in memory; items: read and augmented anew at every step. Default: features where there are ..._weights
    read: Literal["", "features", "inputs", "items"] = ""
    num_workers: Whole = 0  # processes that read items
    # items: folder of cached log-mels (`data.shards`); empty: they are made in the recipe's cache. Recordings are read
    # all the same for noise and reverberation, and for held-out voices
    shards: str = ""


@dataclass(frozen=True)
class StartConfig:
    """The section ``[start]``: see `start.canonical_start`, and `cohort.cohort_start` for cohort bridges."""

    ridge: NonNegative  # 0: bridges start at random; cohort bridges: of the voices, in units of their total variance
    power: NonNegative
    face_ridge: NonNegative = 0.0  # cohort bridges: of the faces, in units of their total variance
    voice_scales: tuple[float, ...] = (1.0,)  # cohort bridges: of the features of each kind; see `blocks` of a backbone
    face_scales: tuple[float, ...] = (1.0,)
    age_ridge: NonNegative = 1.0  # of the ages that voices tell, in units of the total variance of their embeddings
    more_weight: NonNegative = 1.0  # cohort bridges: how much a pair of `more_manifests` counts


@dataclass(frozen=True)
class ObjectiveConfig:
    """The section ``[objective]``: see `losses.cmpc_loss`."""

    temperature: Positive
    prototypes: tuple[Count, ...]  # k-means granularities; none: instance contrast alone (CID)
    prototype_weight: NonNegative
    cluster_after: Whole  # steps
    cluster_every: Count  # steps
    memory_momentum: Share  # weight of the old entry of the memory bank
    recalibration: bool = True
    variant: Literal["paper", "reference"] = "paper"  # reference: `losses.cmpc_loss_reference`
    forget_prototypes: bool = False  # use them at the one step after a clustering, as the authors' training loop does


@dataclass(frozen=True)
class ScheduleConfig:
    """The section ``[schedule]``: warm-up and cosine, and how a step is made."""

    steps: Whole  # 0: none, with start.ridge
    batch: Annotated[int, Range(2)]  # pairs, over all processes
    lr: Positive
    min_lr: NonNegative
    warmup: Whole  # steps
    weight_decay: NonNegative
    ema: Share  # decay of the average of the weights, which is what training returns
    optimizer: Literal["adamw", "adam"] = "adamw"  # adam: weight decay is part of the gradient, as in the paper
    clip_norm: NonNegative = 0.0  # of all gradients together; 0: no clipping
    precision: Literal["float32", "bfloat16", "float16"] = "float32"  # of the networks; the loss is float32
    compile: bool = False  # the towers, by torch.compile: a minute or two at the start
    unfreeze: tuple[str, ...] = ()  # parts of frozen backbones that are trained, e.g. "face_backbone.blocks.13"
    backbone_lr: NonNegative = 1.0  # their learning rate, in units of `lr`


@dataclass(frozen=True)
class ValidationConfig:
    """The section ``[validation]``: train identities that are held out and choose the best weights."""

    fraction: Share = 0.0  # of the identities; 0: none, the last weights are returned
    every: Count = 50  # steps
    patience: Whole = 0  # validations without a better AUC before training stops; 0: never

    def __post_init__(self) -> None:
        if self.fraction == 1:
            raise SettingError("fraction", "got 1, expected less: somebody has to be trained on")


@dataclass(frozen=True)
class SupervisionConfig:
    """The section ``[supervision]``: see `supervision`."""

    voices: str = ""  # manifest with voices and genders; empty: none
    faces: str = ""  # manifest with faces, genders and ages; empty: none
    batch: Count = 64  # of each, a step, over all processes
    sex_weight: NonNegative = 0.0
    age_weight: NonNegative = 0.0
    lr: Positive = 1e-2  # of the heads


@dataclass(frozen=True)
class EncoderRecipe:
    """A whole recipe; sections that it lacks are off."""

    seed: Whole
    name: str  # of the model
    license: str  # of the model
    manifest: str  # its split ``train`` is trained on
    cache: str  # folder for views and log-mels
    voice_weights: str  # published weights of frozen backbones, both or neither ("")
    face_weights: str
    save_every: Count  # steps
    log_every: Count  # steps
    encoder: TowerConfig
    views: ViewConfig
    start: StartConfig
    objective: ObjectiveConfig
    schedule: ScheduleConfig
    validation: ValidationConfig = ValidationConfig()
    supervision: SupervisionConfig = SupervisionConfig()
    augment: Augmentation = Augmentation()
    more_manifests: tuple[str, ...] = ()  # of other people, whose split ``train`` is trained on too
    second_voice_weights: str = ""  # of the second of two voice backbones
    second_face_weights: str = ""
    int8: tuple[str, ...] = ()  # networks whose published weights are rounded, see `int8.rounded`
    tensorboard: bool = False

    @property
    def pretrained(self) -> bool:
        """Whether backbones start from published weights, and stay so but for `schedule.unfreeze`."""
        return bool(self.voice_weights)

    @property
    def read(self) -> Literal["features", "inputs", "items"]:
        """What is read of each item, see `ViewConfig.read`."""
        return self.views.read or ("features" if self.pretrained else "inputs")

    @property
    def are_features(self) -> bool:
        """Whether the towers see features, so that they are bridges alone."""
        return self.read == "features"

    def __post_init__(self) -> None:
        """Raise `SettingError` for settings that contradict each other."""
        if bool(self.voice_weights) != bool(self.face_weights):
            missing = "face_weights" if self.voice_weights else "voice_weights"
            raise SettingError(missing, "got '', expected both voice_weights and face_weights (frozen) or neither")
        if not self.pretrained:
            self._check_from_scratch()
        if not self.are_features:
            self._check_inputs()
        elif self.schedule.unfreeze:
            raise SettingError("schedule.unfreeze", "cached features would not change; set views.read = 'inputs'")
        if not self.schedule.steps and not self.start.ridge:
            raise SettingError("schedule.steps", "got 0, expected 1 or more; none is enough with start.ridge above 0")
        for name in ("sex_weight", "age_weight"):
            if getattr(self.supervision, name) and not (self.supervision.voices or self.supervision.faces):
                raise SettingError(f"supervision.{name}", "above 0, it needs the manifest `voices` or `faces`")
        self._check_items()

    def _check_from_scratch(self) -> None:
        """What backbones that are trained from scratch cannot have."""
        asked = {
            "start.ridge": self.start.ridge,
            "views.windows_per_view": self.views.windows_per_view != 1,
            "views.read": self.are_features,
            "schedule.unfreeze": self.schedule.unfreeze,
        }
        for key, is_set in asked.items():
            if is_set:
                raise SettingError(key, "needs frozen backbones (voice_weights and face_weights)")

    def _check_inputs(self) -> None:
        """What only features can have."""
        asked = {
            "views.windows_per_view": self.views.windows_per_view != 1 and "above 1, it averages features",
            "views.num_windows": not self.views.num_windows and "0 (whole voices) is for features",
            "encoder.voice_backbone": "+" in self.encoder.voice_backbone and "two backbones are frozen",
            "encoder.face_backbone": "+" in self.encoder.face_backbone and "two backbones are frozen",
        }
        for key, problem in asked.items():
            if problem:
                raise SettingError(key, f"{problem}: set views.read = 'features'")

    def _check_items(self) -> None:
        """What only items that are read anew at every step can have."""
        asked = {
            "augment.voice": self.augment.voice.is_on,
            "augment.face": self.augment.face.is_on,
            "views.shards": self.views.shards,
        }
        for key, is_set in asked.items():
            if is_set and self.read != "items":
                raise SettingError(key, "needs views.read = 'items'")
        if self.views.shards and self.augment.voice.changes_waveform:
            raise SettingError("augment.voice", "noise and reverberation need recordings, not views.shards")


def read_settings(recipe: Mapping[str, Any]) -> EncoderRecipe:
    """The settings of a recipe; a ValueError that says file, line and key where one does not fit."""
    return settings_of(recipe, EncoderRecipe)
