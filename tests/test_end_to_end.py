"""The whole way at toy size: train both parts, assemble, build a bank, generate, evaluate; the same twice."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import voicestyle
from test_train_encoder import recipe as encoder_recipe
from test_train_encoder import toy  # noqa: F401, the fixture
from test_train_generator import RECIPE as GENERATOR_RECIPE
from voicestyle.build.assemble import assemble_model
from voicestyle.build.prototypes import build_prototypes
from voicestyle.checkpoint import load_model
from voicestyle.config import GuidanceConfig
from voicestyle.data.manifest import Manifest
from voicestyle.evaluate.association import evaluate_protocol
from voicestyle.evaluate.protocol import manifest_protocol
from voicestyle.schema import to_dict
from voicestyle.train.encoder.job import train_encoder
from voicestyle.train.generator import job as generator_training


def make(folder: Path, toy: Path) -> tuple[voicestyle.VoiceStyle, voicestyle.Generation]:  # noqa: F811
    train_encoder(encoder_recipe(toy, "schedule.steps=30"), folder / "encoder", progress=False)
    generator_training.train_generator(GENERATOR_RECIPE, folder / "generator", progress=False)
    (folder / "card.md").write_text("# Toy\n")
    model = {
        "name": "toy", "license": "none", "encoder": str(folder / "encoder" / "model"),
        "generator": str(folder / "generator"), "card": str(folder / "card.md"),
        "guidance": to_dict(GuidanceConfig(k=2, num_members=3, steps=6, num_views=2)),
    }  # fmt: skip
    assemble_model(model, folder / "networks")
    build_prototypes(load_model(folder / "networks"), [toy / "toy.csv"], folder / "model", k=4, start="linear", steps=3)
    vs = voicestyle.load(folder / "model", "cpu")
    return vs, vs.generate(toy / "0.wav", seed=3)


def test_from_recordings_and_pictures_to_a_face(toy: Path, tmp_path: Path, monkeypatch, face_set) -> None:  # noqa: F811
    monkeypatch.setattr(generator_training, "load_pictures", lambda recipe, size: face_set)
    vs, first = make(tmp_path / "a", toy)
    assert first.image.shape == (1, 3, 64, 64) and torch.isfinite(first.image).all()
    assert (
        first.similarity.item() >= first.history[0]["similarity"][0] - 0.1
    )  # the best is kept, the start is one of them
    assert len(vs.bank.centroids) == 4 and len(vs.bank.member_w) == 12
    reports = evaluate_protocol(vs, manifest_protocol(Manifest.read(toy / "toy.csv"), "verification", "train"))
    assert reports[0].score > 0.7  # it was trained on these: pitch and color go together
    _, again = make(tmp_path / "b", toy)
    assert torch.equal(first.image, again.image)
    assert first.similarity.item() == pytest.approx(again.similarity.item(), abs=1e-6)
