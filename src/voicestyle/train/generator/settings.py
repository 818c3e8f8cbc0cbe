"""The settings of a generator's training: a dataclass for each section of its recipe, and whether they fit together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from voicestyle.config import GeneratorConfig, from_dict
from voicestyle.train.generator.ada import COLORS, WARPS
from voicestyle.train.recipe import defaults_of

SIZES = (32, 64, 128, 256, 512, 1024)  # pixels: those that `GeneratorConfig` takes
PLACES = ("seed", "save_every", "log_every", "ema_pictures", "precision", "compile", "tensorboard")


@dataclass(frozen=True)
class DataConfig:
    """The section ``[data]``: one of the three, see `train.pictures`."""

    manifest: str = ""  # frontal pictures of its `train` split
    folder: str = ""  # all pictures in it, at any depth
    shards: str = ""  # WebDataset .tar files: a pattern such as "faces/*.tar"
    mirror: bool = True  # mirror images too
    in_memory: bool = True  # decode once; needed where there are codes
    num_workers: int = 4  # threads that decode, where not in memory

    def __post_init__(self) -> None:
        if sum(map(bool, (self.manifest, self.folder, self.shards))) != 1:
            raise ValueError("recipe: [data]: give one of manifest, folder and shards")


@dataclass(frozen=True)
class CodeConfig:
    """The section ``[codes]``: a code for each picture, see `train.generator.codes`; without it, all are random."""

    landmarks: str  # dlib's shape_predictor_68_face_landmarks.dat


@dataclass(frozen=True)
class IdentityConfig:
    """The section ``[identity]``: the network that compares faces."""

    weights: str  # dlib_face_recognition_resnet_model_v1.dat
    crop: tuple[float, ...]  # of the canonical frame; see EncoderConfig.image.crop


@dataclass(frozen=True)
class DiscriminatorConfig:
    """The section ``[discriminator]``: defaults are StyleGAN2's, appendix B."""

    kind: Literal["stylegan2", "patch"] = "stylegan2"
    channels: int = 32  # patch: feature maps after the first halving; stylegan2 has those of the generator
    lr: float = 0.002
    r1_gamma: float = 10.0
    r1_every: int = 16  # section 3.1: lazy regularization
    changes: tuple[str, ...] = (*WARPS, *COLORS)  # what augmentation may do; () for none
    p: float = 0.0  # probability of each change, at the start
    p_target: float = 0.6  # mean sign of real logits that p holds; 0: p stays
    p_pictures: int = 500_000  # that may take p from 0 to 1


@dataclass(frozen=True)
class Stage:
    """One part of the schedule, a section ``[stages.NAME]``.

    A batch is `faces` + `means` + `samples` pictures. The first two have targets; samples have the discriminator alone.
    """

    size: int  # pixels
    steps: int
    lr: float  # of equalized layers: about 0.03 of it reaches a weight
    faces: int = 0  # codes of training pictures
    means: int = 0  # means of the latents of two to eight
    samples: int = 0  # random codes
    detail: float = 0.0  # of the targets of means, see `MorphSpace.mix`
    accumulate: int = 1  # parts that a batch is cut into, one after the other
    momentum: float = 0.0  # Adam's beta1; a decoder wants 0.9, a GAN none
    warm_up: float = 0.0  # part of the steps in which the learning rate rises
    cool_down: float = 0.0  # part in which it falls
    latent_lr: float = 0.0  # of each picture's own part of its latent, see `codes`; 0: it stays as it is
    noise: bool = False  # random noise maps (StyleGAN, section 2); without them the network has none
    # weights of losses
    pixel: float = 1.0
    texture: float = 0.0
    identity: float = 0.0
    identity_faces: int = 0  # on so many of the faces; 0: on all faces and means
    feature: float = 0.0
    # of the discriminator. With faces or means: in units of the gradient of the losses above, so that neither drowns
    # the other, and never above `adversarial_max`
    adversarial: float = 0.0
    adversarial_max: float = 1.0
    adversarial_after: int = 0  # steps in which the discriminator alone learns from the other
    path: float = 0.0  # path length regularization (StyleGAN2, section 3.2)
    path_every: int = 4
    mixing: float = 0.0  # part of the samples that have two codes (StyleGAN, section 3.1)
    psi_min: float = 1.0  # samples are truncated by a random factor between this and 1

    @property
    def batch(self) -> int:
        """Pictures of a step."""
        return self.faces + self.means + self.samples

    @property
    def has_discriminator(self) -> bool:
        """Whether a discriminator is trained."""
        return bool(self.adversarial or self.feature)


@dataclass(frozen=True)
class Settings:
    """A whole recipe."""

    seed: int
    save_every: int
    log_every: int
    ema_pictures: float  # half-life of the weight average
    data: DataConfig
    generator: GeneratorConfig
    stages: dict[str, Stage]
    discriminator: DiscriminatorConfig
    codes: CodeConfig | None = None
    identity: IdentityConfig | None = None
    start: str = ""  # run folder of a smaller or narrower generator to go on from
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    compile: bool = False  # the synthesis network; a minute at the start of each stage


def defaults() -> dict[str, Any]:
    """What a recipe may leave out, less its stages, and what holds then."""
    sections = {"data": DataConfig, "generator": GeneratorConfig, "discriminator": DiscriminatorConfig}
    plain = {"start": "", "precision": "float32", "compile": False, "tensorboard": False}
    return plain | {name: defaults_of(section) for name, section in sections.items()}


def read_settings(recipe: dict[str, Any]) -> Settings:
    """The settings of a recipe.

    Raises:
        ValueError: a section or a setting is unknown, missing, or does not fit the others
    """
    sections = {"data": DataConfig, "generator": GeneratorConfig, "discriminator": DiscriminatorConfig,
                "codes": CodeConfig, "identity": IdentityConfig}  # fmt: skip
    known = {*PLACES, *sections, "stages", "start"}
    if unknown := sorted(set(recipe) - known):
        raise ValueError(f"recipe: unknown settings {unknown}; known: {sorted(known)}")
    missing = [
        n for n in ("seed", "save_every", "log_every", "ema_pictures", "data", "generator", "stages") if n not in recipe
    ]
    if missing:
        raise ValueError(f"recipe: missing {missing}")
    values = {n: recipe[n] for n in (*PLACES, "start") if n in recipe and n != "tensorboard"}
    parts = {n: from_dict(cls, recipe[n], f"recipe: [{n}]") for n, cls in sections.items() if n in recipe}
    stages = {n: from_dict(Stage, held, f"recipe: [stages.{n}]") for n, held in recipe["stages"].items()}
    settings = Settings(**({"discriminator": DiscriminatorConfig()} | values | parts), stages=stages)
    for name in ("log_every", "save_every", "ema_pictures"):
        if (value := getattr(settings, name)) < 1:
            raise ValueError(f"recipe: {name}: got {value}, expected 1 or more")
    if not stages:
        raise ValueError("recipe: [stages]: got none, expected one or more sections such as [stages.first]")
    for name, stage in stages.items():
        if wrong := _misfit(stage, settings):
            raise ValueError(f"recipe: [stages.{name}]: {wrong}")
    return settings


def _misfit(stage: Stage, settings: Settings) -> str:
    """What does not fit in a stage; empty where all does."""
    taught = stage.faces + stage.means
    # what would otherwise show only when the stage begins, hours later
    if stage.size not in SIZES or stage.size > settings.generator.size:
        return f"size {stage.size}: expected one of {SIZES}, and no more than that of [generator]"
    if min(stage.steps, stage.accumulate, stage.path_every) < 1 or min(stage.faces, stage.means, stage.samples) < 0:
        return "steps, accumulate and path_every are 1 or more; faces, means and samples 0 or more"
    if not stage.batch:
        return "no pictures in a batch; give faces, means or samples"
    if taught and settings.codes is None:
        return "faces and means need the section [codes]"
    if stage.identity and settings.identity is None:
        return "identity needs the section [identity]"
    if stage.samples and not stage.adversarial:
        return "samples have no target; they need adversarial above 0"
    if (stage.feature or stage.identity or stage.texture or stage.latent_lr) and not taught:
        return "texture, identity, feature and latent_lr are for faces and means, of which there are none"
    if (stage.path or stage.mixing) and not stage.samples:
        return "path and mixing are for samples, of which there are none"
    if stage.feature and settings.discriminator.kind != "patch":
        return "feature needs a discriminator of kind 'patch'"
    if any(n % stage.accumulate for n in (stage.faces, stage.means, stage.samples)):
        return f"faces, means and samples cannot be cut into {stage.accumulate} parts each; change accumulate"
    if settings.precision not in ("float32", "bfloat16", "float16"):
        return f"precision {settings.precision!r}: expected float32, bfloat16 or float16"
    return ""
