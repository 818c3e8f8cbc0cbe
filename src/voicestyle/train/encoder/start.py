"""Where a training starts: published backbones, and bridges from a closed form."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from voicestyle.config import SIDES
from voicestyle.convert import dlib, faceres
from voicestyle.convert.campplus import from_3d_speaker
from voicestyle.convert.ge2e import from_resemblyzer
from voicestyle.int8 import rounded
from voicestyle.nn.encoder import VoiceFaceEncoder
from voicestyle.schema import SettingError
from voicestyle.seeds import seeded
from voicestyle.train.encoder.settings import EncoderRecipe

READERS = {  # of the published weights of frozen networks
    "ge2e": from_resemblyzer,
    "campplus": from_3d_speaker,
    "dlib_resnet": dlib.read_state,
    "faceres": faceres.read_state,
}


def start_encoder(settings: EncoderRecipe) -> VoiceFaceEncoder:
    """The encoder before training: published backbones, frozen but for what is to be trained; the rest from the seed.

    Raises:
        ValueError: no weights are known for a backbone, or a part to be trained does not exist
    """
    with seeded(settings.seed):
        encoder = VoiceFaceEncoder(settings.encoder.config)
    if not settings.pretrained:
        return encoder
    for side in SIDES:
        names = getattr(settings.encoder, f"{side}_backbone").split("+")
        backbone = getattr(encoder, f"{side}_backbone")
        networks = [backbone] if len(names) == 1 else [backbone.first, backbone.second]
        for name, network, path in zip(names, networks, weights_of(settings, side, len(names)), strict=True):
            if name not in READERS:
                known = ", ".join(map(repr, READERS))
                raise SettingError(f"{side}_weights", f"no published weights of {name!r} are known, only of {known}")
            state = READERS[name](path)
            network.load_state_dict({k: rounded(v) for k, v in state.items()} if name in settings.int8 else state)
        backbone.requires_grad_(False).eval()
    for part in settings.schedule.unfreeze:
        _unfreeze(encoder, part)
    return encoder


def weights_of(settings: EncoderRecipe, side: str, number: int) -> list[str]:
    """The files with the published weights of the networks of a side.

    Raises:
        ValueError: not as many as networks
    """
    names = [f"{side}_weights", f"second_{side}_weights"]
    given = [getattr(settings, name) for name in names]
    if len([path for path in given if path]) != number:
        raise SettingError(names[-1], f"got {' and '.join(names)} {given}, expected {number} file(s), one a network")
    return given[:number]


def _unfreeze(encoder: VoiceFaceEncoder, part: str) -> None:
    names = [name for name, _ in encoder.named_modules() if name.split(".")[0].endswith("backbone")]
    parameters = [name for name, _ in encoder.named_parameters() if name.split(".")[0].endswith("backbone")]
    if part not in names and part not in parameters:
        shown = [name for name in names if name.count(".") <= 2]
        raise SettingError("schedule.unfreeze", f"no part {part!r}; expected a name such as one of {shown}")
    for name, parameter in encoder.named_parameters():
        if f"{name}.".startswith(f"{part}."):
            parameter.requires_grad_(True)


def towers_of(encoder: VoiceFaceEncoder, settings: EncoderRecipe) -> nn.ModuleList:
    """What is trained, voice first: bridges alone, or backbones with their bridges."""
    sides = [(encoder.voice_backbone, encoder.voice_bridge), (encoder.face_backbone, encoder.face_bridge)]
    if settings.are_features:
        return nn.ModuleList([bridge for _, bridge in sides])
    return nn.ModuleList([nn.Sequential(backbone, bridge) for backbone, bridge in sides])


def train_mode(towers: nn.ModuleList, settings: EncoderRecipe) -> None:
    """Put the towers in training mode; published backbones keep the statistics of their normalization."""
    towers.train()
    if settings.pretrained and not settings.are_features:
        for tower in towers:
            for module in tower[0].modules():
                # the LSTM is no exception: cuDNN has gradients for it in training mode alone
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()


@torch.no_grad()
def canonical_start(
    voice_bridge: nn.Sequential, face_bridge: nn.Sequential, voice: Tensor, face: Tensor, ridge: float, power: float
) -> None:
    """Set two bridges to the regularized canonical correlation analysis (CCA) of their features.

    A thousand pairs say little about a bridge of a hundred thousand weights, but the few directions that correlate
    most across the modalities have a closed form. A bridge (norm, linear, GELU, dropout, linear) holds a linear map
    exactly by hidden units in pairs, since gelu(x) - gelu(-x) = x; training goes on from there.

    Args:
        voice_bridge, face_bridge: as `VoiceFaceEncoder` makes them, hidden at least twice the embedding
        voice: (N, F) features
        face: (N, P, F') features of P pictures each
        ridge: added to both covariances, in units of their mean variance
        power: directions are weighted by their correlation to this power
    """
    voice, face = voice.to(voice_bridge[1].weight), face.to(face_bridge[1].weight)
    x = voice_bridge[0](voice).double()
    y = face_bridge[0](face).double()
    x, y, pictures = x - x.mean(0), y.mean(1) - y.mean((0, 1)), (y - y.mean((0, 1))).flatten(0, 1)
    whiten_x, whiten_y = _inverse_root(x, ridge), _inverse_root(pictures, ridge)
    u, correlation, vh = torch.linalg.svd(whiten_x @ (x.T @ y / len(x)) @ whiten_y)
    # the sign of a pair of directions is the processor's choice, and matters to dropout: the largest number is above 0
    flip = u.gather(0, u.abs().argmax(0, keepdim=True)).sign()[0, : len(correlation)]
    u, vh = u[:, : len(correlation)] * flip, vh[: len(correlation)] * flip[:, None]
    for bridge, whiten, directions, features in (
        (voice_bridge, whiten_x, u, voice),
        (face_bridge, whiten_y, vh.T, face.flatten(0, 1)),
    ):
        dim = bridge[-1].out_features
        weight = (whiten @ directions[:, :dim] * correlation[:dim] ** power).T
        _set_linear(bridge, weight.float(), bridge[0](features).mean(0))


def _inverse_root(x: Tensor, ridge: float) -> Tensor:
    covariance = x.T @ x / len(x)
    values, vectors = torch.linalg.eigh(covariance)
    return vectors / (values + ridge * values.mean()).sqrt() @ vectors.T


def _set_linear(bridge: nn.Sequential, weight: Tensor, mean: Tensor) -> None:
    """Make the bridge compute weight @ (x - mean), by as many copies of its paired units as there is room for."""
    first, last = bridge[1], bridge[-1]
    copies = first.out_features // (2 * last.out_features)
    if not copies:
        raise SettingError(
            "encoder.bridge_hidden", f"got {first.out_features}, but start.ridge needs at least twice the embed_dim"
        )
    used = copies * 2 * last.out_features
    signs = weight.new_tensor([1.0, -1.0]).repeat(copies).repeat_interleave(last.out_features)
    first.weight[:used] = signs[:, None] * weight.repeat(2 * copies, 1)
    first.bias[:used] = -first.weight[:used] @ mean
    last.weight.zero_()
    last.weight[:, :used] = torch.eye(last.out_features).to(weight).repeat(1, 2 * copies) * signs / copies
    last.bias.zero_()
