"""The settings of an encoder's training: a dataclass for each section of its recipe, and whether they fit together."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from voicestyle.config import EncoderConfig, LogMelConfig, from_dict
from voicestyle.train.encoder.augment import FaceAugmentation, VoiceAugmentation
from voicestyle.train.recipe import defaults_of

LOG_MELS = {"cmpc": LogMelConfig.cmpc, "cmpc2": LogMelConfig.cmpc2, "ge2e": LogMelConfig.ge2e,
    "ge2e+fbank": LogMelConfig.ge2e_fbank}  # fmt: skip
MAX_SEED = 2**29  # a step's seed must fit into 64 bits
REQUIRED = (
    "seed", "name", "license", "manifest", "cache", "voice_weights", "face_weights", "save_every", "log_every",
    "encoder", "views", "start", "objective", "schedule",
)  # fmt: skip
# off where a recipe lacks them
OPTIONAL = (
    "tensorboard", "validation", "supervision", "augment", "more_manifests", "second_voice_weights",
    "second_face_weights", "int8",
)  # fmt: skip
LEAST = {"seed": 0, "save_every": 1, "log_every": 1}  # whole numbers


@dataclass(frozen=True)
class ViewConfig:
    """The section ``[views]``: what the networks see of an item, see `views` and `batches`."""

    num_windows: int  # evenly spaced windows of `log_mel.num_frames`, each voice; 0: the whole of it (features only)
    windows_per_view: int  # features of so many random windows are averaged to one view (features only)
    wild: bool  # also the face in the wild, aligned by its box, beside the frontal picture
    # features: what frozen backbones say of each view, computed once; inputs: the views themselves, computed once and
    # kept in memory; items: read and augmented anew at every step. Default: features where there are ..._weights
    read: Literal["", "features", "inputs", "items"] = ""
    num_workers: int = 0  # processes that read items
    # items: folder of cached log-mels (`data.shards`); empty: they are made in the recipe's cache. Recordings are read
    # all the same for noise and reverberation, and for held-out voices
    shards: str = ""


@dataclass(frozen=True)
class StartConfig:
    """The section ``[start]``: see `start.canonical_start`, and `cohort.cohort_start` for cohort bridges."""

    ridge: float  # 0: bridges start at random; cohort bridges: of the voices, in units of their total variance
    power: float
    face_ridge: float = 0.0  # cohort bridges: of the faces, in units of their total variance
    voice_scales: tuple[float, ...] = (1.0,)  # cohort bridges: of the features of each kind; see `blocks` of a backbone
    face_scales: tuple[float, ...] = (1.0,)
    more_weight: float = 1.0  # cohort bridges: how much a pair of `more_manifests` counts


@dataclass(frozen=True)
class ObjectiveConfig:
    """The section ``[objective]``: see `losses.cmpc_loss`."""

    temperature: float
    prototypes: tuple[int, ...]  # k-means granularities; none: instance contrast alone (CID)
    prototype_weight: float
    cluster_after: int  # steps
    cluster_every: int  # steps
    memory_momentum: float  # weight of the old entry of the memory bank
    recalibration: bool = True
    variant: Literal["paper", "reference"] = "paper"  # reference: `losses.cmpc_loss_reference`
    forget_prototypes: bool = False  # use them at the one step after a clustering, as the authors' training loop does


@dataclass(frozen=True)
class ScheduleConfig:
    """The section ``[schedule]``: warm-up and cosine, and how a step is made."""

    steps: int
    batch: int  # pairs, over all processes
    lr: float
    min_lr: float
    warmup: int  # steps
    weight_decay: float
    ema: float  # decay of the average of the weights, which is what training returns
    optimizer: Literal["adamw", "adam"] = "adamw"  # adam: weight decay is part of the gradient, as in the paper
    micro_batch: int = 0  # pairs that go through the networks at a time, each process; 0: all
    clip_norm: float = 0.0  # of all gradients together; 0: no clipping
    precision: Literal["float32", "bfloat16", "float16"] = "float32"  # of the networks; the loss is float32
    compile: bool = False  # the towers, by torch.compile: a minute or two at the start
    unfreeze: tuple[str, ...] = ()  # parts of frozen backbones that are trained, e.g. "face_backbone.blocks.13"
    backbone_lr: float = 1.0  # their learning rate, in units of `lr`


@dataclass(frozen=True)
class ValidationConfig:
    """The section ``[validation]``: train identities that are held out and choose the best weights."""

    fraction: float = 0.0  # of the identities; 0: none, the last weights are returned
    every: int = 50  # steps
    patience: int = 0  # validations without a better AUC before training stops; 0: never


@dataclass(frozen=True)
class SupervisionConfig:
    """The section ``[supervision]``: see `supervision`."""

    voices: str = ""  # manifest with voices and genders; empty: none
    faces: str = ""  # manifest with faces, genders and ages; empty: none
    batch: int = 64  # of each, a step, over all processes
    sex_weight: float = 0.0
    age_weight: float = 0.0
    lr: float = 1e-2  # of the heads


@dataclass(frozen=True)
class Settings:
    """A whole recipe."""

    seed: int
    encoder: EncoderConfig
    views: ViewConfig
    start: StartConfig
    objective: ObjectiveConfig
    schedule: ScheduleConfig
    validation: ValidationConfig
    supervision: SupervisionConfig
    augment_voice: VoiceAugmentation
    augment_face: FaceAugmentation
    pretrained: bool  # backbones start from published weights, and stay so but for `schedule.unfreeze`
    int8: tuple[str, ...] = ()  # networks whose published weights are rounded, see `int8.rounded`

    @property
    def are_features(self) -> bool:
        """Whether the towers see features, so that they are bridges alone."""
        return self.views.read == "features"


def defaults() -> dict[str, Any]:
    """What a recipe may leave out, and what holds then, nested as in a recipe."""
    sections = {
        "encoder": EncoderConfig, "views": ViewConfig, "objective": ObjectiveConfig, "schedule": ScheduleConfig,
        "validation": ValidationConfig, "supervision": SupervisionConfig,
    }  # fmt: skip
    augment = {"voice": defaults_of(VoiceAugmentation), "face": defaults_of(FaceAugmentation)}
    plain = {
        "tensorboard": False, "more_manifests": [], "second_voice_weights": "", "second_face_weights": "", "int8": [],
    }  # fmt: skip
    return {**plain, "augment": augment, **{name: defaults_of(cls) for name, cls in sections.items()}}


def read_settings(recipe: dict[str, Any]) -> Settings:
    """The settings of a recipe; sections that it lacks are off.

    Raises:
        ValueError: unknown, missing or contradicting settings
    """
    if unknown := sorted(set(recipe) - {*REQUIRED, *OPTIONAL}):
        raise ValueError(f"recipe: unknown settings {unknown}; known: {sorted((*REQUIRED, *OPTIONAL))}")
    if missing := sorted(set(REQUIRED) - set(recipe)):
        raise ValueError(f"recipe: missing {missing}")
    _check_plain(recipe)
    encoder = dict(recipe["encoder"])
    if encoder.get("log_mel") not in LOG_MELS:
        raise ValueError(f"recipe: encoder.log_mel: got {encoder.get('log_mel')!r}, expected one of {sorted(LOG_MELS)}")
    encoder["log_mel"] = LOG_MELS[encoder["log_mel"]]()
    if "num_frames" in encoder:  # shorter crops than the front end's own make training cheaper
        frames = encoder.pop("num_frames")
        if isinstance(frames, bool) or not isinstance(frames, int) or frames < 1:
            raise ValueError(f"recipe: encoder.num_frames: got {frames!r}, expected a whole number of 1 or more")
        encoder["log_mel"] = dataclasses.replace(encoder["log_mel"], num_frames=frames)
    weights = recipe["voice_weights"], recipe["face_weights"]
    if bool(weights[0]) != bool(weights[1]):
        raise ValueError(f"recipe: voice_weights and face_weights: got {weights}, expected both (frozen) or neither")
    augment = recipe.get("augment", {})
    views = _section(ViewConfig, recipe["views"], "views")
    if not views.read:
        views = dataclasses.replace(views, read="features" if weights[0] else "inputs")
    settings = Settings(
        recipe["seed"],
        from_dict(EncoderConfig, encoder, "recipe: [encoder]"),
        views,
        _section(StartConfig, recipe["start"], "start"),
        _section(ObjectiveConfig, recipe["objective"], "objective"),
        _section(ScheduleConfig, recipe["schedule"], "schedule"),
        _section(ValidationConfig, recipe.get("validation", {}), "validation"),
        _section(SupervisionConfig, recipe.get("supervision", {}), "supervision"),
        _section(VoiceAugmentation, augment.get("voice", {}), "augment.voice"),
        _section(FaceAugmentation, augment.get("face", {}), "augment.face"),
        pretrained=bool(weights[0]),
        int8=tuple(recipe.get("int8", ())),
    )
    _check(settings)
    return settings


def _check_plain(recipe: dict[str, Any]) -> None:
    """Raise ValueError for settings outside of the sections that are of another type or too small."""
    for name, value in recipe.items():
        if name in LEAST and (isinstance(value, bool) or not isinstance(value, int) or value < LEAST[name]):
            raise ValueError(f"recipe: {name}: got {value!r}, expected a whole number of {LEAST[name]} or more")
        if name in REQUIRED and name not in LEAST and not isinstance(value, (str, dict)):
            raise ValueError(f"recipe: {name}: got {value!r}, expected text in quotes")


def _section(cls: type, values: dict[str, Any], name: str) -> Any:
    """A section as its dataclass, with the types that it declares."""
    made = from_dict(cls, values, f"recipe: [{name}]")
    for field, hint in get_type_hints(cls).items():
        value = getattr(made, field)
        if get_origin(hint) is Literal and value not in get_args(hint):
            choices = [choice for choice in get_args(hint) if choice]
            raise ValueError(f"recipe: {name}.{field}: got {value!r}, expected one of {choices}")
        if hint in (int, float) and (isinstance(value, bool) or not isinstance(value, (int, hint)) or value < 0):
            raise ValueError(f"recipe: {name}.{field}: got {value!r}, expected a number of 0 or more")
        if hint in (bool, str) and not isinstance(value, hint):
            expected = "true or false" if hint is bool else "text in quotes"
            raise ValueError(f"recipe: {name}.{field}: got {value!r}, expected {expected}")
    return made


def _check(settings: Settings) -> None:
    """Raise ValueError for settings that contradict each other."""
    views, schedule = settings.views, settings.schedule
    if not 0 <= settings.seed < MAX_SEED:
        raise ValueError(f"recipe: seed: got {settings.seed}, expected 0 to {MAX_SEED - 1}")
    if not settings.pretrained:
        needs = {
            "start.ridge > 0": settings.start.ridge,
            "views.windows_per_view > 1": views.windows_per_view != 1,
            "views.read = 'features'": settings.are_features,
            "schedule.unfreeze": schedule.unfreeze,
        }
        if asked := [name for name, is_set in needs.items() if is_set]:
            raise ValueError(f"recipe: {' and '.join(asked)} need frozen backbones (..._weights)")
    if views.windows_per_view != 1 and not settings.are_features:
        raise ValueError("recipe: views.windows_per_view > 1 averages features: set views.read = 'features'")
    if "+" in settings.encoder.voice_backbone + settings.encoder.face_backbone and not settings.are_features:
        raise ValueError("recipe: two backbones a tower are frozen: set views.read = 'features'")
    if settings.are_features and schedule.unfreeze:
        raise ValueError("recipe: schedule.unfreeze: cached features would not change; set views.read = 'inputs'")
    if views.read != "items":
        asked = [
            name for name, part in (("voice", settings.augment_voice), ("face", settings.augment_face)) if part.is_on
        ]
        if asked or views.shards:
            raise ValueError(
                f"recipe: augment.{' and augment.'.join(asked) or 'voice'} and views.shards need views.read = 'items'"
            )
    if views.shards and settings.augment_voice.changes_waveform:
        raise ValueError("recipe: augment.voice: noise and reverberation need audio, not views.shards")
    if not views.num_windows and not settings.are_features:
        raise ValueError("recipe: views.num_windows: got 0 (whole voices), which needs views.read = 'features'")
    if schedule.batch < 2 or not (schedule.steps or settings.start.ridge) or not schedule.lr:
        raise ValueError(
            f"recipe: schedule: got batch {schedule.batch}, steps {schedule.steps}, lr {schedule.lr}; expected a batch "
            "of 2 or more, one step or more (with start.ridge > 0 none is enough), and a rate above 0"
        )
    objective = settings.objective
    if not objective.temperature:
        raise ValueError("recipe: objective.temperature: got 0, expected a number above 0")
    if any(isinstance(k, bool) or not isinstance(k, int) or k < 1 for k in objective.prototypes):
        raise ValueError(
            f"recipe: objective.prototypes: got {[*objective.prototypes]}, expected whole numbers of 1 or more"
        )
    if objective.prototypes and not objective.cluster_every:
        raise ValueError("recipe: objective.cluster_every: got 0 steps, expected 1 or more")
    told = settings.supervision
    if (told.sex_weight or told.age_weight) and not (told.voices or told.faces):
        raise ValueError("recipe: supervision: weights above 0 need the manifest `voices` or `faces`")
    if not 0 <= settings.validation.fraction < 1 or settings.validation.every < 1:
        raise ValueError("recipe: validation: expected a fraction from 0 to below 1, and 1 step or more between two")
