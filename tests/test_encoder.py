"""The two towers: golden numbers through the reference's key table, bridges, freezing, bad input."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fill import fill, inp
from parity import EXACT, SINGLE, difference, double
from voicestyle.config import EncoderConfig, ImageConfig, LogMelConfig
from voicestyle.convert.cmpc import from_reference, key_table, read_encoder, to_reference
from voicestyle.image import crop_resize
from voicestyle.nn.encoder import VoiceFaceEncoder
from voicestyle.nn.resnet import ResNet


@pytest.fixture(scope="module")
def layout(golden_dir: Path) -> dict[str, list[int]]:
    return json.loads((golden_dir / "state_dict_layouts.json").read_text())["cmpc"]


@pytest.fixture(scope="module")
def reference_state(layout: dict[str, list[int]]) -> dict[str, Tensor]:
    state = fill(layout)
    return state | {key: torch.tensor(0) for key in layout if key.endswith("num_batches_tracked")}


@pytest.fixture(scope="module")
def tiny() -> VoiceFaceEncoder:
    torch.manual_seed(0)
    return VoiceFaceEncoder(EncoderConfig.tiny()).eval()


def test_official_checkpoint_gives_the_golden_features(
    reference_state: dict[str, Tensor], golden_dir: Path, tmp_path: Path
) -> None:
    path = tmp_path / "model_best_256.pth.tar"
    torch.save({"epoch": 3, "model": reference_state, "args": argparse.Namespace(size=256)}, path)
    encoder = read_encoder(path, 256)
    assert not encoder.training and encoder.config == EncoderConfig.cmpc(256)
    golden = np.load(golden_dir / "cmpc_encoders.npz")
    exact = double(encoder).requires_grad_(False)
    for t in (500, 800):
        features = exact.voice_features(inp(f"voice{t}", (2, 1, 64, t)).double())
        assert difference(features, golden[f"voice_{t}"]) < EXACT, t
    for size in (224, 256):
        features = exact.face_backbone(inp(f"face{size}", (2, 3, size, size), lo=-1).double())
        assert difference(features, golden[f"face_{size}"]) < EXACT, size
    unit = golden["face_256"] / np.linalg.norm(golden["face_256"], axis=1, keepdims=True)
    face = inp("face256", (2, 3, 256, 256), lo=-1)
    # the whole frame is the crop, and there is no bridge
    assert difference(exact.encode_face(face.double()), unit) < EXACT
    assert difference(encoder.requires_grad_(False).encode_face(face), unit) < SINGLE


def test_key_table_is_complete_and_reversible(layout: dict[str, list[int]], reference_state: dict[str, Tensor]) -> None:
    table = key_table()
    assert table.keys() == layout.keys() and len(table) == len(set(table.values())) == 432
    back = to_reference(from_reference(reference_state))
    assert back.keys() == reference_state.keys()
    assert all(torch.equal(back[key], reference_state[key]) for key in back)


def test_conversion_is_strict(reference_state: dict[str, Tensor]) -> None:
    key = "voice_subnet.layer1.0.conv1.weight"
    with pytest.raises(ValueError, match=r"1 keys missing.*layer1\.0\.conv1"):
        from_reference({k: v for k, v in reference_state.items() if k != key})
    with pytest.raises(ValueError, match=r"1 keys unknown.*voice_fc"):
        from_reference(reference_state | {"voice_fc.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="1 keys of another shape"):
        from_reference(reference_state | {key: torch.zeros(64, 64, 1, 1)})
    with pytest.raises(ValueError, match="1 keys of another shape"):
        from_reference(reference_state | {key: "no tensor"})
    with pytest.raises(ValueError, match="1 keys unknown"):
        to_reference(from_reference(reference_state) | {"voice_bridge.0.weight": torch.zeros(1)})


def test_checkpoint_of_another_layout(tmp_path: Path) -> None:
    path = tmp_path / "model_best_256.pth.tar"
    torch.save({"model": {"conv1.weight": torch.zeros(1)}}, path)
    with pytest.raises(ValueError, match=r"model_best_256.*432 keys missing"):
        read_encoder(path, 256)
    torch.save({"g_ema": {}}, path)
    with pytest.raises(ValueError, match=r"holds \['g_ema'\], expected a CMPC checkpoint"):
        read_encoder(path, 256)


@pytest.mark.parametrize(("depth", "num_parameters"), [(18, 11_176_512), (34, 21_284_672)])
def test_resnet_has_the_published_size(depth: int, num_parameters: int) -> None:
    network = ResNet(depth, 3)  # torchvision's count, less the classifier
    assert sum(p.numel() for p in network.parameters()) == num_parameters


@pytest.mark.parametrize("shape", [(1, 1, 64, 500), (2, 1, 40, 161), (1, 1, 1, 1)])
def test_resnet_takes_any_size(shape: tuple[int, ...]) -> None:
    features = ResNet(18, 1, width=4).eval()(torch.zeros(shape))
    assert features.shape == (shape[0], 32) and (features >= 0).all()


def test_embeddings_are_unit_vectors_of_one_space(tiny: VoiceFaceEncoder) -> None:
    voice = tiny.encode_voice(inp("mel", (3, 1, 64, 100)))
    face = tiny.encode_face(inp("face", (2, 3, 48, 48), lo=-1))
    assert voice.shape == (3, 32) and face.shape == (2, 32)
    for embedding in (voice, face):
        torch.testing.assert_close(embedding.norm(dim=1), torch.ones(len(embedding)))


def test_samples_do_not_depend_on_their_batch(tiny: VoiceFaceEncoder) -> None:
    mels = inp("mel", (3, 1, 64, 100))
    one_by_one = torch.cat([tiny.encode_voice(mel[None]) for mel in mels])
    torch.testing.assert_close(tiny.encode_voice(mels), one_by_one, atol=1e-5, rtol=1e-5)


def test_face_backbone_sees_the_crop() -> None:
    config = replace(EncoderConfig.tiny(), image=ImageConfig(32, (0.25, 0.25, 0.75, 0.75)))
    encoder = VoiceFaceEncoder(config).eval()
    image = inp("face", (1, 3, 64, 64), lo=-1)
    expected = encoder.face_backbone(crop_resize(image, config.image.crop, 32))
    assert torch.equal(encoder.face_features(image), expected)
    outside = image.clone()
    outside[:, :, :8] = 1
    assert torch.equal(encoder.face_features(outside), expected)


def test_pretrained_backbones_under_bridges() -> None:
    config = EncoderConfig("ge2e", "dlib_resnet", LogMelConfig.ge2e(), ImageConfig(150), embed_dim=24, bridge_hidden=16)
    encoder = VoiceFaceEncoder(config).eval()
    assert encoder.encode_voice(inp("mel", (1, 1, 40, 160)).abs()).shape == (1, 24)
    assert encoder.encode_face(inp("face", (1, 3, 128, 128), lo=-1)).shape == (1, 24)


def test_frozen_encoder_gives_gradients_to_the_picture_alone(tiny: VoiceFaceEncoder) -> None:
    encoder = VoiceFaceEncoder(tiny.config).eval().requires_grad_(False)
    image = inp("face", (1, 3, 32, 32), lo=-1).requires_grad_()
    encoder.encode_face(image)[0, 0].backward()
    assert image.grad is not None and image.grad.abs().sum() > 0
    assert all(p.grad is None for p in encoder.parameters())


def test_no_bridge_is_the_identity() -> None:
    config = replace(EncoderConfig.tiny(), bridge_hidden=0, embed_dim=64)
    encoder = VoiceFaceEncoder(config)
    assert isinstance(encoder.voice_bridge, nn.Identity) and isinstance(encoder.face_bridge, nn.Identity)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bridge_hidden": 0}, "voice backbone: 64 features for embed_dim 32"),
        ({"voice_backbone": "dlib_resnet"}, r"voice_backbone: got 'dlib_resnet', expected one of \['ge2e'"),
        ({"face_backbone": "ge2e"}, r"face_backbone: got 'ge2e', expected one of \['dlib_resnet'"),
        ({"face_backbone": "resnet50"}, "face_backbone: got 'resnet50'"),
    ],
)
def test_impossible_configs(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VoiceFaceEncoder(replace(EncoderConfig.tiny(), **changes))


def test_unknown_depth() -> None:
    with pytest.raises(ValueError, match="ResNet depth: got 50"):
        ResNet(50, 3)  # type: ignore[arg-type]
