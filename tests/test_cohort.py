"""Cohort bridges: the analysis that they start from, and embeddings whose cosine is the normalized score."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from fill import inp
from voicestyle.config import EncoderConfig, ImageConfig, LogMelConfig
from voicestyle.nn.cohort import LIMIT, RIDGE, CohortBridge
from voicestyle.nn.encoder import VoiceFaceEncoder
from voicestyle.train.encoder.cohort import cohort_start, set_age, set_chances
from voicestyle.train.encoder.settings import StartConfig

DIM = 5
BLOCKS = {"voice": (6, 3), "face": (4, 7, 1)}
CONFIG = StartConfig(0.02, 0.5, 0.03, (1.0, 0.6), (1.0, 0.5, 0.3))


class Stub(torch.nn.Module):
    """An encoder as the closed form sees it: bridges, and backbones that say which features are of one kind."""

    def __init__(self) -> None:
        super().__init__()
        for side, blocks in BLOCKS.items():
            backbone = torch.nn.Identity()
            backbone.blocks = blocks
            setattr(self, f"{side}_backbone", backbone)
            setattr(self, f"{side}_bridge", CohortBridge(sum(blocks), DIM + 2, side))
        self.chances = torch.nn.Parameter(torch.zeros(4), requires_grad=False)


@pytest.fixture
def pairs() -> tuple[Tensor, Tensor]:
    """Features of 60 people who show in voices (60, 9) and in faces (60, 2, 12)."""
    shared = inp("shared", (60, 3))
    voice = shared @ inp("to voice", (3, 9)) + 0.5 * inp("voice noise", (60, 9)) + 4
    face = (shared @ inp("to face", (3, 12)))[:, None] + 0.5 * inp("face noise", (60, 2, 12))
    face[..., -1] = 40 + 9 * face[..., -1]
    return voice.double(), face.double()


def naive_scores(voice: np.ndarray, face: np.ndarray) -> np.ndarray:
    """(N, N, P) normalized scores, written as the definition has it: blocks, analysis, cohort, each in turn."""

    def blocks(x: np.ndarray, sizes: tuple[int, ...], scales: tuple[float, ...]) -> np.ndarray:
        parts = np.split(x - x.mean(0), np.cumsum(sizes)[:-1], axis=1)
        return np.hstack([s * p / np.sqrt((p**2).sum(1).mean()) for s, p in zip(scales, parts, strict=True)])

    num, pictures = face.shape[:2]
    x = blocks(voice, BLOCKS["voice"], CONFIG.voice_scales)
    y = blocks(face.reshape(num * pictures, -1), BLOCKS["face"], CONFIG.face_scales)
    cx, cy = x.T @ x / num, y.T @ y / len(y)
    cx += CONFIG.ridge * np.trace(cx) * np.eye(len(cx))
    cy += CONFIG.face_ridge * np.trace(cy) * np.eye(len(cy))
    cxy = sum(np.outer(x[i], y[i * pictures + p]) for i in range(num) for p in range(pictures)) / (num * pictures)
    # directions of voices: eigenvectors of Cx^-1 Cxy Cy^-1 Cyx, with a' Cx a = 1; those of faces follow
    values, a = np.linalg.eig(np.linalg.solve(cx, cxy) @ np.linalg.solve(cy, cxy.T))
    order = np.argsort(-values.real)[:DIM]
    c, a = np.sqrt(values.real[order]), a.real[:, order]
    a /= np.sqrt(np.einsum("fd,fg,gd->d", a, cx, a))
    b = np.linalg.solve(cy, cxy.T @ a) / c
    zx, zy = x @ a * c**CONFIG.power, y @ b * c**CONFIG.power
    ux, uy = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (zx, zy))
    rms_x = np.sqrt(((zx @ uy.T) ** 2).mean(1) + RIDGE * (zx**2).sum(1))  # of its scores with all faces
    rms_y = np.sqrt(((zy @ ux.T) ** 2).mean(1) + RIDGE * (zy**2).sum(1))
    return (zx / rms_x[:, None] @ (zy / rms_y[:, None]).T).reshape(num, num, pictures)


def test_cosines_are_the_normalized_scores(pairs: tuple[Tensor, Tensor]) -> None:
    voice, face = pairs
    encoder = Stub().double()
    cohort_start(encoder, voice, face, CONFIG)
    v, f = encoder.voice_bridge(voice), encoder.face_bridge(face.flatten(0, 1))
    for emb in (v, f):
        torch.testing.assert_close(emb.norm(dim=1), torch.ones(len(emb)).double())
    scores = (v @ f.T).view(60, 60, 2) * LIMIT**2
    np.testing.assert_allclose(scores.detach().numpy(), naive_scores(voice.numpy(), face.numpy()), atol=1e-10)
    own = scores[torch.arange(60), torch.arange(60)].mean()
    assert own > scores.mean() + 1  # a root mean square of about one, so own pairs stand out


def test_random_scores_have_one_scale(pairs: tuple[Tensor, Tensor]) -> None:
    encoder = Stub().double()
    cohort_start(encoder, *pairs, CONFIG)
    scores = encoder.voice_bridge(pairs[0]) @ encoder.face_bridge(pairs[1][:, 0]).T * LIMIT**2
    rms = scores.square().mean(1).sqrt()
    assert rms.min() > 0.5 and rms.max() < 2.5


def test_signs_do_not_depend_on_the_library(pairs: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = Stub().double(), Stub().double()
    cohort_start(first, *pairs, CONFIG)
    svd = torch.linalg.svd

    def flipped(x: Tensor, **how: bool) -> tuple[Tensor, Tensor, Tensor]:
        u, s, vh = svd(x, **how)
        signs = torch.tensor([-1.0, 1.0] * 9)[: len(s)].to(u)
        return u * signs, s, vh * signs[:, None]

    monkeypatch.setattr(torch.linalg, "svd", flipped)
    cohort_start(second, *pairs, CONFIG)
    for name, value in first.state_dict().items():
        torch.testing.assert_close(second.state_dict()[name], value)


def test_scales_have_to_fit_the_features(pairs: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(ValueError, match=r"2 scales, expected 3: one for each of \[4, 7, 1\]"):
        cohort_start(Stub().double(), *pairs, StartConfig(0.02, 0.5, 0.03, (1.0, 0.6), (1.0, 0.5)))


def test_bridge_takes_gradients_everywhere_and_needs_room() -> None:
    bridge = CohortBridge(4, 7, "face")
    features = torch.cat([torch.zeros(1, 4), 1e6 * torch.ones(1, 4)]).requires_grad_()
    bridge(features).sum().backward()
    assert features.grad is not None and features.grad.isfinite().all()
    with pytest.raises(ValueError, match="embed_dim: got 2, expected more than 2"):
        CohortBridge(4, 2, "face")


def test_percentiles_count_random_pairs() -> None:
    config = EncoderConfig(
        "resnet18", "resnet18", LogMelConfig.cmpc2(), ImageConfig(32), 12, backbone_width=2, bridge="cohort",
        num_chances=50,
    )  # fmt: skip
    encoder = VoiceFaceEncoder(config)
    emb = [torch.nn.functional.normalize(inp(side, (40, 12)), dim=1) for side in ("voice", "face")]
    people = torch.arange(40) // 2
    set_chances(encoder, *emb, people)
    strangers = (emb[0] @ emb[1].T)[people[:, None] != people]
    assert encoder.chances.shape == (50,) and encoder.chances.diff().min() >= 0
    for similarity in (-0.3, 0.0, 0.2):
        share = (strangers < similarity).float().mean().item()
        assert encoder.percentile(torch.tensor([similarity])).item() == pytest.approx(share, abs=0.03)
    assert encoder.percentile(torch.tensor([[-1.0, 1.0]])).tolist() == [[0.0, 1.0]]
    assert VoiceFaceEncoder(EncoderConfig.tiny()).percentile(torch.zeros(1)) is None


def test_voices_tell_ages_by_ridge_regression() -> None:
    from sklearn.linear_model import Ridge

    encoder = torch.nn.Module()
    encoder.age = torch.nn.Linear(5, 1).double()
    emb, weight = inp("emb", (80, 5)).double(), inp("weight", (80,)).double().abs()
    age = 40 + 9 * emb[:, 0] - 3 * emb[:, 2] + inp("noise", (80,)).double()
    set_age(encoder, emb, age, 0.1, weight)
    w = weight / weight.sum()
    variance = (w @ (emb - w @ emb).square()).sum().item()
    expected = Ridge(alpha=0.1 * variance).fit(emb.numpy(), age.numpy(), sample_weight=w.numpy()).predict(emb.numpy())
    np.testing.assert_allclose(encoder.age(emb)[:, 0].detach().numpy(), expected, atol=1e-9)
