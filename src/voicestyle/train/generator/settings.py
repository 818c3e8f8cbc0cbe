"""The settings of a generator's training: a dataclass for each section of its recipe, and whether they fit together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from voicestyle.config import GeneratorConfig
from voicestyle.schema import Count, NonNegative, Positive, SettingError, Share, Whole
from voicestyle.train.generator.ada import COLORS, WARPS
from voicestyle.train.pictures import DataConfig
from voicestyle.train.recipe import settings_of

Change = Literal[
    "flip", "quarter_turn", "shift", "scale", "rotate", "stretch", "rotate_again", "offset",
    "brightness", "contrast", "luma_flip", "hue", "saturation",
]  # fmt: skip


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
    changes: tuple[Change, ...] = (*WARPS, *COLORS)  # what augmentation may do; () for none
    p: Share = 0.0  # probability of each change, at the start
    p_target: Share = 0.6  # mean sign of real logits that p holds; 0: p stays
    p_pictures: Count = 500_000  # that may take p from 0 to 1


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
    detail: NonNegative = 0.0  # of the targets of means, see `MorphSpace.mix`
    accumulate: Count = 1  # parts that a batch is cut into, one after the other
    momentum: Share = 0.0  # Adam's beta1; a decoder wants 0.9, a GAN none
    warm_up: Share = 0.0  # part of the steps in which the learning rate rises
    cool_down: Share = 0.0  # part in which it falls
    latent_lr: NonNegative = 0.0  # of each picture's own part of its latent, see `codes`; 0: it stays as it is
    noise: bool = False  # random noise maps (StyleGAN, section 2); without them the network has none
    # weights of losses
    pixel: NonNegative = 1.0
    texture: NonNegative = 0.0
    identity: NonNegative = 0.0
    identity_faces: Whole = 0  # on so many of the faces; 0: on all faces and means
    feature: NonNegative = 0.0
    # of the discriminator. With faces or means: in units of the gradient of the losses above, so that neither drowns
    # the other, and never above `adversarial_max`
    adversarial: NonNegative = 0.0
    adversarial_max: NonNegative = 1.0
    adversarial_after: Whole = 0  # steps in which the discriminator alone learns from the other
    path: NonNegative = 0.0  # path length regularization (StyleGAN2, section 3.2)
    path_every: Count = 4
    mixing: Share = 0.0  # part of the samples that have two codes (StyleGAN, section 3.1)
    psi_min: Share = 1.0  # samples are truncated by a random factor between this and 1

    @property
    def batch(self) -> int:
        """Pictures of a step."""
        return self.faces + self.means + self.samples

    @property
    def has_discriminator(self) -> bool:
        """Whether a discriminator is trained."""
        return bool(self.adversarial or self.feature)


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
    if stage.identity and settings.identity is None:
        yield "identity", "it needs the section [identity]"
    if stage.samples and not stage.adversarial:
        yield "samples", "they have no target, and need adversarial above 0"
    for name in ("texture", "identity", "feature", "latent_lr"):
        if getattr(stage, name) and not taught:
            yield name, "it is for faces and means, of which there are none"
    for name in ("path", "mixing"):
        if getattr(stage, name) and not stage.samples:
            yield name, "it is for samples, of which there are none"
    if stage.feature and settings.discriminator.kind != "patch":
        yield "feature", "it needs a discriminator of kind 'patch'"
    for name in ("faces", "means", "samples"):
        if getattr(stage, name) % stage.accumulate:
            yield name, f"got {getattr(stage, name)}, which cannot be cut into {stage.accumulate} parts (accumulate)"
