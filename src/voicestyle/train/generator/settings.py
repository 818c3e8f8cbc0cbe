"""The settings of a generator's training: a dataclass for each section of its recipe, and whether they fit together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from voicestyle.config import GeneratorConfig
from voicestyle.schema import Count, NonNegative, Positive, SettingError, Share, Whole
from voicestyle.train.pictures import DataConfig
from voicestyle.train.recipe import settings_of

TARGETED = ("texture", "identity", "latent_lr")  # of a reconstruction: nothing without faces or means
Change = Literal[
    "flip",
    "quarter_turn",
    "shift",
    "scale",
    "rotate",
    "stretch",
    "rotate_again",
    "offset",
    "brightness",
    "contrast",
    "luma_flip",
    "hue",
    "saturation",
]


@dataclass(frozen=True)
class CodeConfig:
    """The section ``[codes]``: a code for each picture, see `train.generator.codes`; without it, all are random."""

    landmarks: str  # dlib's shape_predictor_68_face_landmarks.dat


@dataclass(frozen=True)
class IdentityConfig:
    """The section ``[identity]``: the network that compares faces."""

    weights: str  # dlib_face_recognition_resnet_model_v1.dat
    crop: tuple[float, float, float, float]  # of the canonical frame; see EncoderConfig.image.crop


@dataclass(frozen=True)
class DiscriminatorConfig:
    """The section ``[discriminator]``: defaults are StyleGAN2's, appendix B."""

    kind: Literal["stylegan2", "patch"] = "stylegan2"
    channels: Count = 32  # patch: feature maps after the first halving; stylegan2 has those of the generator
    lr: Positive = 0.002
    r1_gamma: NonNegative = 10.0
    r1_every: Count = 16  # section 3.1: lazy regularization
    changes: tuple[Change, ...] = get_args(Change)  # what augmentation may do; () for none
    p: Share = 0.0  # probability of each change, at the start
    p_target: Share = 0.6  # mean sign of real logits that p holds; 0: p stays
    p_pictures: Count = 500_000  # that may take p from 0 to 1


@dataclass(frozen=True)
class Reconstruction:
    """The section ``[stages.NAME.reconstruction]``: faces and means beside their targets."""

    # weights of losses
    pixel: NonNegative = 1.0
    texture: NonNegative = 0.0
    identity: NonNegative = 0.0
    identity_faces: Whole = 0  # on so many of the faces; 0: on all faces and means
    detail: NonNegative = 0.0  # of the targets of means, see `MorphSpace.mix`
    latent_lr: NonNegative = 0.0  # of each picture's own part of its latent, see `codes`; 0: it stays as it is


@dataclass(frozen=True)
class Adversarial:
    """The section ``[stages.NAME.adversary]``: what a discriminator teaches; without it, none is trained."""

    # of its verdict. With faces or means: in units of the gradient of the losses with targets, so that neither drowns
    # the other, and never above `weight_max`
    weight: NonNegative = 0.0
    weight_max: NonNegative = 1.0
    feature: NonNegative = 0.0  # weight of the difference of its features from those of the targets
    after: Whole = 0  # steps in which the discriminator alone learns from the other


@dataclass(frozen=True)
class Regularizers:
    """The section ``[stages.NAME.regularizers]``: of random samples."""

    path: NonNegative = 0.0  # weight of path length regularization (StyleGAN2, section 3.2)
    path_every: Count = 4  # steps
    mixing: Share = 0.0  # part of the samples that have two codes (StyleGAN, section 3.1)
    psi_min: Share = 1.0  # samples are truncated by a random factor between this and 1


@dataclass(frozen=True)
class Stage:
    """One part of the schedule, a section ``[stages.NAME]``.

    A batch is `faces` + `means` + `samples` pictures. The first two have targets; samples have the discriminator alone.
    """

    size: Literal[32, 64, 128, 256, 512, 1024]  # pixels
    steps: Count
    lr: Positive  # of equalized layers: about 0.03 of it reaches a weight
    faces: Whole = 0  # codes of training pictures
    means: Whole = 0  # means of the latents of two to eight
    samples: Whole = 0  # random codes
    accumulate: Count = 1  # parts that a batch is cut into, one after the other
    momentum: Share = 0.0  # Adam's beta1; a decoder wants 0.9, a GAN none
    warm_up: Share = 0.0  # part of the steps in which the learning rate rises
    cool_down: Share = 0.0  # part in which it falls
    noise: bool = False  # random noise maps (StyleGAN, section 2); without them the network has none
    reconstruction: Reconstruction = Reconstruction()
    adversary: Adversarial = Adversarial()
    regularizers: Regularizers = Regularizers()

    @property
    def batch(self) -> int:
        """Pictures of a step."""
        return self.faces + self.means + self.samples

    @property
    def has_discriminator(self) -> bool:
        """Whether a discriminator is trained."""
        return bool(self.adversary.weight or self.adversary.feature)


@dataclass(frozen=True)
class GeneratorRecipe:
    """A whole recipe."""

    seed: Whole
    save_every: Count  # steps
    log_every: Count  # steps
    ema_pictures: Positive  # half-life of the weight average
    data: DataConfig
    generator: GeneratorConfig
    stages: dict[str, Stage]
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    codes: CodeConfig | None = None
    identity: IdentityConfig | None = None
    start: str = ""  # run folder of a smaller or narrower generator to go on from
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    compile: bool = False  # the synthesis network; a minute at the start of each stage
    tensorboard: bool = False

    def __post_init__(self) -> None:
        if not self.stages:
            raise SettingError("stages", "got none, expected one or more sections such as [stages.first]")
        for name, stage in self.stages.items():
            for key, problem in _misfits(stage, self):
                raise SettingError(f"stages.{name}.{key}", problem)


def read_settings(recipe: Mapping[str, Any]) -> GeneratorRecipe:
    """The settings of a recipe; a ValueError that says file, line and key where one does not fit."""
    return settings_of(recipe, GeneratorRecipe)


def _misfits(stage: Stage, settings: GeneratorRecipe) -> Iterator[tuple[str, str]]:
    """Settings of a stage that fit no others, which would else show only when it begins, hours later; and why."""
    taught = stage.faces + stage.means
    if stage.size > settings.generator.size:
        yield "size", f"got {stage.size}, expected no more than the {settings.generator.size} of [generator]"
    if not stage.batch:
        yield "faces", "no pictures in a batch; give faces, means or samples"
    for name in ("faces", "means"):
        if getattr(stage, name) and settings.codes is None:
            yield name, "pictures with targets need the section [codes]"
    if stage.reconstruction.identity and settings.identity is None:
        yield "reconstruction.identity", "it needs the section [identity]"
    if stage.samples and not stage.adversary.weight:
        yield "samples", "they have no target, and need adversary.weight above 0"
    targeted = {f"reconstruction.{name}": getattr(stage.reconstruction, name) for name in TARGETED}
    for key, weight in {**targeted, "adversary.feature": stage.adversary.feature}.items():
        if weight and not taught:
            yield key, "it is for faces and means, of which there are none"
    for name in ("path", "mixing"):
        if getattr(stage.regularizers, name) and not stage.samples:
            yield f"regularizers.{name}", "it is for samples, of which there are none"
    if stage.adversary.feature and settings.discriminator.kind != "patch":
        yield "adversary.feature", "it needs a discriminator of kind 'patch'"
    for name in ("faces", "means", "samples"):
        if getattr(stage, name) % stage.accumulate:
            yield name, f"got {getattr(stage, name)}, which cannot be cut into {stage.accumulate} parts (accumulate)"
