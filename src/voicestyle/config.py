"""Every setting of the method as frozen dataclasses. Data only: imports no torch.

A config travels with the weights it belongs to (``config.json`` of a model folder), so that a front end, a
network and its weights can never be combined wrongly.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated, Literal

from voicestyle.schema import Count, NonNegative, Positive, Range, SettingError, Share, Whole, check

# a model of a stranger must not ask for any amount of memory: these are far beyond any front end and any picture
Rate = Annotated[int, Range(1000, 192_000)]
Window = Annotated[int, Range(1, 1 << 16)]
Bands = Annotated[int, Range(1, 1 << 10)]
Frames = Annotated[int, Range(1, 100_000)]
Pixels = Annotated[int, Range(1, 2048)]

Side = Literal["voice", "face"]  # the two towers, and what each of them takes
SIDES: tuple[Side, Side] = ("voice", "face")
CmpcSize = Literal[224, 256]  # pixels of the faces that the authors' releases take
FrontEnd = Literal["cmpc", "cmpc2", "ge2e", "ge2e+fbank"]
VoiceBackbone = Literal["ge2e", "ge2e+campplus", "resnet10", "resnet18", "resnet34"]
FaceBackbone = Literal["dlib_resnet", "dlib_resnet+faceres", "resnet10", "resnet18", "resnet34"]


@dataclass(frozen=True)
class LogMelConfig:
    """The audio front end that an encoder was trained with."""

    front_end: FrontEnd  # selects the formulation in `audio.log_mel`
    sample_rate: Rate  # Hz
    n_fft: Window  # samples
    win_length: Window  # samples
    hop_length: Window  # samples
    n_mels: Bands  # bands
    f_min_hz: NonNegative
    f_max_hz: Positive
    num_frames: Frames  # frames: fixed length (cmpc), shortest length (cmpc2), window of one partial (ge2e...)
    vad: bool  # remove silence first
    min_speech_s: NonNegative = 1.0  # shorter clips are refused, counted after silence removal

    @classmethod
    def cmpc(cls) -> LogMelConfig:
        """The 224-px CMPC release: librosa-style dB mel, no silence removal."""
        return cls("cmpc", 16000, 1600, 1600, 160, 64, 0.0, 8000.0, num_frames=500, vad=False)

    @classmethod
    def cmpc2(cls) -> LogMelConfig:
        """The 256-px VoiceStyle release: Sphinx-style mel after WebRTC silence removal."""
        return cls("cmpc2", 16000, 1024, 400, 160, 64, 20.0, 7200.0, num_frames=800, vad=True)

    @classmethod
    def ge2e(cls) -> LogMelConfig:
        """The GE2E speaker encoder of resemblyzer: linear-power mel, 1.6 s partials."""
        return cls("ge2e", 16000, 400, 400, 160, 40, 0.0, 8000.0, num_frames=160, vad=True)

    @classmethod
    def ge2e_fbank(cls) -> LogMelConfig:
        """GE2E's mel, and below it Kaldi's 80 log mel energies of the same speech."""
        return dataclasses.replace(cls.ge2e(), front_end="ge2e+fbank", n_mels=120)


@dataclass(frozen=True)
class ImageConfig:
    """What a face backbone takes, as a part of the canonical (generator) frame."""

    size: Pixels  # square
    # left, top, right, bottom of the face crop as fractions of the canonical frame; may reach outside of [0, 1]
    crop: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        left, top, right, bottom = self.crop
        if not (left < right and top < bottom):
            raise SettingError("crop", f"got {list(self.crop)}, expected left < right and top < bottom")


@dataclass(frozen=True)
class EncoderConfig:
    """The two towers of CMPC: backbones, bridges and their front ends."""

    voice_backbone: VoiceBackbone
    face_backbone: FaceBackbone
    log_mel: LogMelConfig
    image: ImageConfig
    embed_dim: Count  # D of the joint space
    bridge_hidden: Whole = 0  # width of the bridge MLPs; 0: no bridge, the backbones already end in embed_dim
    backbone_width: Count = 64  # channels of the first ResNet stage
    # of the bridges' hidden units, while they are trained: a bridge learns from a thousand pairs what its backbones
    # learnt from millions of pictures and hours of speech, and would learn those pairs by heart
    bridge_dropout: Share = 0.5
    second_image: ImageConfig | None = None  # what the second of two face backbones takes
    bridge: Literal["mlp", "cohort"] = "mlp"  # cohort: a linear map, scaled by the other side's people (nn/cohort.py)
    tells_age: bool = False  # a voice's embedding tells the age that its face seems to have; needs the backbone faceres
    num_chances: Whole = 0  # entries of the table of similarities of random voices and faces

    @property
    def identity_backbone(self) -> str:
        """The face backbone whose features tell people apart: the only one, or the first of two."""
        return self.face_backbone.split("+")[0]

    @classmethod
    def cmpc(cls, size: CmpcSize = 256) -> EncoderConfig:
        """The authors' ResNet-34 pair (224 px: CMPC release, 256 px: VoiceStyle)."""
        log_mel = LogMelConfig.cmpc() if size == 224 else LogMelConfig.cmpc2()
        return cls("resnet34", "resnet34", log_mel, ImageConfig(size), embed_dim=512)

    @classmethod
    def tiny(cls) -> EncoderConfig:
        """Seconds on one core: for tests."""
        return cls(
            "resnet18",
            "resnet18",
            LogMelConfig.cmpc2(),
            ImageConfig(32),
            embed_dim=32,
            bridge_hidden=32,
            backbone_width=8,
        )


@dataclass(frozen=True)
class GeneratorConfig:
    """StyleGAN2 (Karras et al., CVPR 2020)."""

    size: Literal[32, 64, 128, 256, 512, 1024]  # pixels
    z_dim: Count = 512
    w_dim: Count = 512
    num_mapping_layers: Count = 8
    mapping_lr_multiplier: Positive = 0.01
    channel_multiplier: Positive = 2.0  # channels at resolution r: min(channel_max, 16384 * channel_multiplier / r)
    channel_max: Count = 512

    def __post_init__(self) -> None:
        check(self)

    @property
    def num_ws(self) -> int:
        """Style inputs of the synthesis network: two a resolution, less one at 4 px (14 at 256 px)."""
        return 2 * (self.size.bit_length() - 1) - 2

    def num_channels(self, resolution: int) -> int:
        """Feature maps at `resolution` pixels."""
        return min(self.channel_max, int(16384 * self.channel_multiplier) // resolution)

    @classmethod
    def tiny(cls) -> GeneratorConfig:
        """Seconds on one core: for tests."""
        return cls(32, z_dim=16, w_dim=16, num_mapping_layers=2, channel_multiplier=0.03125, channel_max=16)


@dataclass(frozen=True)
class InverterConfig:
    """A one-shot inverter: a ResNet and, beside it, a linear map of the small picture."""

    w_dim: Count  # the generator's
    size: Count = 128  # pixels that the ResNet sees; larger pictures are averaged down
    linear_size: Count = 32  # pixels that the linear map sees
    depth: Literal[10, 18, 34] = 10
    width: Count = 24  # channels of the first ResNet stage

    @classmethod
    def tiny(cls) -> InverterConfig:
        """Seconds on one core: for tests."""
        return cls(GeneratorConfig.tiny().w_dim, size=32, linear_size=8, width=4)


@dataclass(frozen=True)
class MapperConfig:
    """What takes the place of the guided steps: an MLP of two hidden layers."""

    embed_dim: Count  # of voices
    w_dim: Count  # the generator's
    hidden: Count = 256


@dataclass(frozen=True)
class GuidanceConfig:
    """Steps 4 to 7 of the method: from prototypes to a guided face."""

    k: Count = 3  # nearest prototypes
    num_members: Count = 8  # member latents that are averaged into the initial latent
    steps: Whole = 100
    lr: Positive = 0.01
    latent_noise: NonNegative = 0.05  # in units of w_std, ramped to zero over the first 75 % of the steps
    latent_weight: NonNegative = 1e-3  # weight of ||w - w_init||^2 / w_std^2
    # weight of the squared distance, in decades, between the age that the face seems to have and the one that the voice
    # tells; 0: none, and where the encoder tells no age
    age_weight: NonNegative = 0.0
    num_views: Whole = 4  # augmented views that the face encoder sees at each step; 0: the picture itself
    member_order: Literal["similarity", "dataset"] = "similarity"  # which members come first
    optimize_noise: bool = False  # the generator's noise maps too
    clamp: bool = False  # the picture to [-1, 1] before the loss: no gradient beyond
    keep: Literal["best", "last"] = "best"  # which latent of the way is the result
    diversity: NonNegative = 1.0  # of several faces for a voice; 0: all alike, 1: as unlike as people with such a voice
    truncation_psi: NonNegative = 1.0  # of the latents that guidance starts from; 0: the mean face
    fast: bool = False  # the model's mapper in the place of all guided steps
    size: Whole = 0  # pixels at which the steps look at faces (StyleGAN2's skips give smaller ones); 0: as they are

    def __post_init__(self) -> None:
        check(self)

    @classmethod
    def reference(cls) -> GuidanceConfig:
        """The settings of the authors' code, step by step; docs/fidelity.md compares them with the paper's and ours.

        Its regularizer of the latent (weight 1e-3) has a gradient of zero, so there is none here.
        """
        return cls(
            k=3,
            num_members=8,
            steps=100,
            lr=0.01,
            latent_noise=0.05,
            latent_weight=0.0,
            num_views=0,
            member_order="dataset",
            optimize_noise=True,
            clamp=True,
            keep="last",
        )

    @property
    def is_reference(self) -> bool:
        """Whether these are the settings of `reference`, with perhaps another k or number of steps."""
        return dataclasses.replace(self, k=3, steps=100) == self.reference()


@dataclass(frozen=True)
class VoiceStyleConfig:
    """One model folder."""

    name: str
    encoder: EncoderConfig
    generator: GeneratorConfig | None = None
    guidance: GuidanceConfig = field(default_factory=GuidanceConfig)
    license: str = "unspecified"
    format_version: int = 1
    inverter: InverterConfig | None = None
    mapper: MapperConfig | None = None

    @classmethod
    def tiny(cls) -> VoiceStyleConfig:
        """A whole model for tests."""
        return cls("tiny", EncoderConfig.tiny(), GeneratorConfig.tiny(), GuidanceConfig(steps=4, num_views=1))
