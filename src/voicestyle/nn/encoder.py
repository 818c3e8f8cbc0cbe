"""The two towers of CMPC (Zhu et al., IJCAI 2022): voices and faces as unit vectors of one space."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from voicestyle.config import EncoderConfig
from voicestyle.image import crop_resize
from voicestyle.nn import dlib_resnet
from voicestyle.nn.ge2e import GE2E
from voicestyle.nn.resnet import NUM_BLOCKS, ResNet

RESNETS = tuple(f"resnet{depth}" for depth in NUM_BLOCKS)


class VoiceFaceEncoder(nn.Module):
    """Log-mel or face -> backbone features -> bridge -> unit vector of the joint space.

    Two recipes fit it: the authors' two ResNet-34, trained from scratch, whose features are the embedding (no bridge),
    and backbones that already know speakers and faces (GE2E, dlib), kept as they are under two small bridges.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.voice_backbone, voice_dim = _backbone(config.voice_backbone, 1, config.backbone_width)
        self.face_backbone, face_dim = _backbone(config.face_backbone, 3, config.backbone_width)
        self.voice_bridge = _bridge("voice", voice_dim, config)
        self.face_bridge = _bridge("face", face_dim, config)

    def voice_features(self, log_mel: Tensor) -> Tensor:
        """Backbone output (N, F) of log-mels (N, 1, n_mels, num_frames)."""
        return self.voice_backbone(log_mel)

    def face_features(self, image: Tensor) -> Tensor:
        """Backbone output (N, F) of images (N, 3, H, W) in [-1, 1], RGB, in the canonical frame, of any size."""
        return self.face_backbone(crop_resize(image, self.config.image.crop, self.config.image.size))

    def encode_voice(self, log_mel: Tensor) -> Tensor:
        """Unit embeddings (N, D) of log-mels (N, 1, n_mels, num_frames)."""
        return F.normalize(self.voice_bridge(self.voice_features(log_mel)), dim=1)

    def encode_face(self, image: Tensor) -> Tensor:
        """Unit embeddings (N, D) of images (N, 3, H, W) in [-1, 1], RGB, in the canonical frame, of any size."""
        return F.normalize(self.face_bridge(self.face_features(image)), dim=1)


def _backbone(name: str, in_channels: int, width: int) -> tuple[nn.Module, int]:
    """A backbone and the width of its output."""
    if name == "ge2e" and in_channels == 1:
        backbone = GE2E()
        return backbone, backbone.linear.out_features
    if name == "dlib_resnet" and in_channels == 3:
        return dlib_resnet.DlibResNet(), dlib_resnet.EMBED_DIM
    if name in RESNETS:
        backbone = ResNet(int(name.removeprefix("resnet")), in_channels, width)
        return backbone, backbone.num_features
    tower, known = ("voice", "ge2e") if in_channels == 1 else ("face", "dlib_resnet")
    raise ValueError(f"{tower}_backbone: got {name!r}, expected one of {[known, *RESNETS]}")


def _bridge(tower: str, in_features: int, config: EncoderConfig) -> nn.Module:
    """The map from a backbone's features to the joint space.

    Features are standardised first, because scales differ between backbones (GE2E has unit norm, dlib about 1.4).
    """
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
