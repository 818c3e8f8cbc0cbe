"""The closed form of two cohort bridges: what correlates most between the features of voices and of faces."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from voicestyle.nn.cohort import RIDGE, CohortBridge
from voicestyle.nn.encoder import VoiceFaceEncoder
from voicestyle.schema import SettingError
from voicestyle.train.encoder.settings import StartConfig


@torch.no_grad()
def cohort_start(
    encoder: VoiceFaceEncoder, voice: Tensor, face: Tensor, config: StartConfig, weight: Tensor | None = None
) -> None:
    """Set the bridges of an encoder to the regularized canonical correlation analysis (CCA) of pairs of features.

    Features of one kind (a block: those of one network, an age, ...) are centered and divided by the root of their
    total variance over what the recipe gives them as a scale. All of it is one linear map, which the bridge holds.

    Args:
        encoder: with cohort bridges, and the blocks of its backbones
        voice: (N, F) features of the voices
        face: (N, P, F') of P pictures each
        config: scales, ridges and power
        weight: (N,) how much each pair counts; None: all the same
    """
    voices, faces = voice.double(), face.double()
    w = torch.ones(len(voice)).to(voices) if weight is None else weight.to(voices)
    w = w / w.sum()  # of a pair
    w_pictures = (w / face.shape[1]).repeat_interleave(face.shape[1])
    x, scale_x, mean_x = _standardized(voices, w, _blocks(encoder, "voice"), config.voice_scales)
    y, scale_y, mean_y = _standardized(faces.flatten(0, 1), w_pictures, _blocks(encoder, "face"), config.face_scales)
    whiten_x, whiten_y = _inverse_root(x, w, config.ridge), _inverse_root(y, w_pictures, config.face_ridge)
    mean_face = y.unflatten(0, faces.shape[:2]).mean(1)
    u, correlation, vh = torch.linalg.svd(whiten_x @ ((w * x.T) @ mean_face) @ whiten_y, full_matrices=False)
    dim = encoder.voice_bridge.linear.out_features
    u, v = _signed(u[:, :dim], vh[:dim].T)
    maps = []
    for bridge, whiten, directions, scale, mean in (
        (encoder.voice_bridge, whiten_x, u, scale_x, mean_x),
        (encoder.face_bridge, whiten_y, v, scale_y, mean_y),
    ):
        weight = (scale[:, None] * (whiten @ directions) * correlation[:dim] ** config.power).T
        bridge.linear.weight.copy_(weight)
        bridge.linear.bias.copy_(-weight @ mean)
        maps.append(weight)
    _set_cohort(encoder.voice_bridge, (faces.flatten(0, 1) - mean_y) @ maps[1].T, w_pictures)
    _set_cohort(encoder.face_bridge, (voices - mean_x) @ maps[0].T, w)


def _set_cohort(bridge: CohortBridge, others: Tensor, w: Tensor) -> None:
    """Normalize a side by the people of the other one, given as the linear maps (N, D) of their features."""
    others = F.normalize(others, dim=1)
    bridge.cohort.copy_((w * others.T) @ others + RIDGE * torch.eye(others.shape[1]).to(others))


@torch.no_grad()
def set_chances(encoder: VoiceFaceEncoder, voice_emb: Tensor, face_emb: Tensor, identities: Tensor) -> None:
    """Keep the quantiles of the similarities of voices and faces (N, D) of different people with the encoder."""
    similarity = voice_emb.double() @ face_emb.double().T
    of_strangers = similarity[identities[:, None] != identities].numpy()
    parts = (torch.arange(len(encoder.chances), dtype=torch.float64) + 0.5) / len(encoder.chances)
    ordered = torch.from_numpy(of_strangers).sort().values
    encoder.chances.copy_(ordered[(parts * len(ordered)).long()])


@torch.no_grad()
def set_age(encoder: VoiceFaceEncoder, voice_emb: Tensor, age: Tensor, ridge: float, weight: Tensor) -> None:
    """Let voices tell ages, by ridge regression from their embeddings.

    Args:
        encoder: with `tells_age`
        voice_emb: (N, D)
        age: (N,) years that the faces of these people seem to have
        ridge: in units of the total variance of the embeddings
        weight: (N,) how much each counts
    """
    w = weight.double() / weight.sum()
    x, y = voice_emb.double(), age.double()
    mean, mean_age = w @ x, w @ y
    x = x - mean
    covariance = (w * x.T) @ x
    covariance += ridge * covariance.trace() * torch.eye(len(covariance)).to(covariance)
    direction = torch.linalg.solve(covariance, (w * x.T) @ (y - mean_age))
    encoder.age.weight.copy_(direction[None])
    encoder.age.bias.copy_(mean_age - direction @ mean)


def _blocks(encoder: VoiceFaceEncoder, side: str) -> Sequence[int]:
    """The sizes of the blocks of a side's features; those of a single backbone are all of one kind."""
    bridge: CohortBridge = getattr(encoder, f"{side}_bridge")
    return getattr(getattr(encoder, f"{side}_backbone"), "blocks", (bridge.linear.in_features,))


def _standardized(
    x: Tensor, w: Tensor, blocks: Sequence[int], scales: Sequence[float]
) -> tuple[Tensor, Tensor, Tensor]:
    """Features (N, F) as the analysis sees them, the scale (F,) and the mean (F,) that made them so."""
    if len(scales) != len(blocks):
        raise SettingError("start", f"{len(scales)} scales, expected {len(blocks)}: one for each of {list(blocks)}")
    mean = w @ x
    variance = w @ (x - mean).square()
    per_block = zip(scales, variance.split(list(blocks)), strict=True)
    scale = torch.cat([factor / part.sum().sqrt().expand(len(part)) for factor, part in per_block])
    return (x - mean) * scale, scale, mean


def _inverse_root(x: Tensor, w: Tensor, ridge: float) -> Tensor:
    """(C + ridge trace(C))^-1/2 of the covariance C of centered rows (N, F)."""
    values, vectors = torch.linalg.eigh((w * x.T) @ x)
    return vectors / (values.clamp_min(0) + ridge * values.sum()).sqrt() @ vectors.T


def _signed(u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Singular vectors whose largest entry on the side of the voices is positive: else signs are the library's whim."""
    largest = u.gather(0, u.abs().argmax(0, keepdim=True))
    return u * largest.sign(), v * largest.sign()
