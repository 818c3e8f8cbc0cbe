"""The two towers of CMPC (Zhu et al., IJCAI 2022): voices and faces as unit vectors of one space."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from voicestyle.config import EncoderConfig, Side
from voicestyle.image import crop_resize
from voicestyle.nn import campplus, dlib_resnet, faceres
from voicestyle.nn.campplus import CAMPlusPlus
from voicestyle.nn.cohort import CohortBridge
from voicestyle.nn.dlib_resnet import DlibResNet
from voicestyle.nn.faceres import FaceRes
from voicestyle.nn.ge2e import GE2E
from voicestyle.nn.resnet import NUM_BLOCKS, ResNet

RESNETS = {f"resnet{depth}": depth for depth in NUM_BLOCKS}
PUBLISHED = {"voice": ("ge2e", "ge2e+campplus"), "face": ("dlib_resnet", "dlib_resnet+faceres")}  # with their weights


class VoiceFaceEncoder(nn.Module):
    """Log-mel or face -> backbone features -> bridge -> unit vector of the joint space.

    Two recipes fit it: the authors' two ResNet-34, trained from scratch, whose features are the embedding (no bridge),
    and backbones that already know speakers and faces, one or two a tower, kept as they are under two small bridges.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.voice_backbone, voice_dim = _backbone("voice", config)
        self.face_backbone, face_dim = _backbone("face", config)
        self.voice_bridge = _bridge("voice", voice_dim, config)
        self.face_bridge = _bridge("face", face_dim, config)
        if config.tells_age:
            if "faceres" not in config.face_backbone:
                raise ValueError(f"tells_age: {config.face_backbone!r} sees no age, expected 'dlib_resnet+faceres'")
            self.age = nn.Linear(config.embed_dim, 1)  # of a voice's embedding
        if config.num_chances:
            # similarities of random voices and faces, from the least to the greatest
            self.chances = nn.Parameter(torch.linspace(-1, 1, config.num_chances), requires_grad=False)

    def voice_features(self, log_mel: Tensor) -> Tensor:
        """Backbone output (N, F) of log-mels (N, 1, n_mels, num_frames)."""
        return self.voice_backbone(log_mel)

    def face_inputs(self, image: Tensor) -> list[Tensor]:
        """What each face backbone takes of images (N, 3, H, W) in [-1, 1], RGB, in the canonical frame, of any size."""
        frames = [frame for frame in (self.config.image, self.config.second_image) if frame is not None]
        return [crop_resize(image, frame.crop, frame.size) for frame in frames]

    def face_features(self, image: Tensor) -> Tensor:
        """Backbone output (N, F) of images as `face_inputs` takes them; of two backbones, one after the other."""
        return self.face_backbone(*self.face_inputs(image))

    def identity_features(self, image: Tensor) -> Tensor:
        """What tells people apart, (N, F), by cosine: the output of the only face backbone, or of the first of two."""
        backbone = self.face_backbone.first if isinstance(self.face_backbone, FacePair) else self.face_backbone
        return backbone(crop_resize(image, self.config.image.crop, self.config.image.size))

    def encode_voice(self, log_mel: Tensor) -> Tensor:
        """Unit embeddings (N, D) of log-mels (N, 1, n_mels, num_frames)."""
        return F.normalize(self.voice_bridge(self.voice_features(log_mel)), dim=1)

    def encode_face(self, image: Tensor) -> Tensor:
        """Unit embeddings (N, D) of images (N, 3, H, W) in [-1, 1], RGB, in the canonical frame, of any size."""
        return F.normalize(self.face_bridge(self.face_features(image)), dim=1)

    def encode_face_and_age(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """What `encode_face` gives, and the ages (N,) that the faces seem to have, years; None without `tells_age`."""
        features = self.face_features(image)
        emb = F.normalize(self.face_bridge(features), dim=1)
        return emb, features[:, faceres.AGE] if self.config.tells_age else None

    def voice_age(self, voice_emb: Tensor) -> Tensor:
        """The age (N,) in years that the face of a voice seems to have on average, of voice embeddings (N, D).

        Raises:
            ValueError: the encoder does not tell it
        """
        if not self.config.tells_age:
            raise ValueError("voice_age: this encoder does not tell ages (encoder.tells_age)")
        return self.age(voice_emb)[:, 0]

    def percentile(self, similarity: Tensor) -> Tensor | None:
        """The share in [0, 1] of random pairs of a voice and a face that are less similar; None where it is not known.

        Known where the config has `num_chances`.
        """
        if not self.config.num_chances:
            return None
        below = torch.searchsorted(self.chances, similarity.to(self.chances).contiguous())
        return below / len(self.chances)


class VoicePair(nn.Module):
    """GE2E and CAM++ beside each other, each on its own bands."""

    blocks = (256, campplus.EMBED_DIM)  # features of one kind

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = GE2E(), CAMPlusPlus()

    def forward(self, log_mel: Tensor) -> Tensor:
        """Features (N, 448) of unit norm, half of it each network's, of log-mels (N, 1, 40 + 80, num_frames)."""
        mel, energies = log_mel.split([log_mel.shape[2] - campplus.N_MELS, campplus.N_MELS], dim=2)
        return torch.cat([self.first(mel), F.normalize(self.second(energies), dim=1)], dim=1) * 0.5**0.5


class FacePair(nn.Module):
    """dlib's ResNet and HSE's MobileNet beside each other, each on its own part of the picture."""

    blocks = (dlib_resnet.EMBED_DIM, *faceres.BLOCK_SIZES)  # features of one kind

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = DlibResNet(), FaceRes()

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Features (N, 1410) of the pictures that each takes."""
        return torch.cat([self.first(first), self.second(second)], dim=1)


def _backbone(tower: Side, config: EncoderConfig) -> tuple[nn.Module, int]:
    """A backbone and the width of its output."""
    name = getattr(config, f"{tower}_backbone")
    if name in RESNETS:
        backbone = ResNet(RESNETS[name], 1 if tower == "voice" else 3, config.backbone_width)
        return backbone, backbone.num_features
    if name not in PUBLISHED[tower]:
        raise ValueError(f"{tower}_backbone: got {name!r}, expected one of {[*PUBLISHED[tower], *RESNETS]}")
    if "+" in name:
        if tower == "face" and config.second_image is None:
            raise ValueError(f"second_image: none given, expected what the second network of {name!r} takes")
        pair = VoicePair() if tower == "voice" else FacePair()
        return pair, sum(pair.blocks)
    if tower == "voice":
        ge2e = GE2E()
        return ge2e, ge2e.linear.out_features
    return DlibResNet(), dlib_resnet.EMBED_DIM


def _bridge(tower: Side, in_features: int, config: EncoderConfig) -> nn.Module:
    """The map from a backbone's features to the joint space.

    Features are standardised first, because scales differ between backbones (GE2E has unit norm, dlib about 1.4).
    """
    if config.bridge == "cohort":
        return CohortBridge(in_features, config.embed_dim, tower)
    if config.bridge_hidden:
        return nn.Sequential(
            nn.LayerNorm(in_features),
            nn.Linear(in_features, config.bridge_hidden),
            nn.GELU(),
            nn.Dropout(config.bridge_dropout),
            nn.Linear(config.bridge_hidden, config.embed_dim),
        )
    if in_features != config.embed_dim:
        raise ValueError(
            f"{tower} backbone: {in_features} features for embed_dim {config.embed_dim}; without a bridge "
            "(bridge_hidden 0) the two must be equal"
        )
    return nn.Identity()
