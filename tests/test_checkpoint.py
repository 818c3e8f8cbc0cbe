"""Model folders: round trip, fingerprints, atomic writes, and every folder that is no model."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tiny import CONFIG, parts, save_tiny, tiny_bank, tiny_encoder, tiny_generator
from voicestyle.checkpoint import Model, load_model, save_model
from voicestyle.config import GuidanceConfig
from voicestyle.nn.encoder import VoiceFaceEncoder
from voicestyle.nn.stylegan2 import Generator
from voicestyle.weights import fingerprint, stored


def networks(seed: int = 0) -> tuple[VoiceFaceEncoder, Generator]:
    return tiny_encoder(seed), tiny_generator(seed)


@pytest.fixture
def folder(tmp_path) -> Path:
    return save_tiny(tmp_path / "model")


def test_a_model_comes_back_as_it_was_stored(folder: Path) -> None:
    encoder, generator = networks()
    model = load_model(folder)
    assert isinstance(model, Model) and model.config == CONFIG
    for mine, loaded in ((encoder, model.encoder), (generator, model.generator)):
        for name, value in stored(mine.state_dict()).items():
            assert torch.equal(loaded.state_dict()[name], value.to(loaded.state_dict()[name].dtype))
        assert all(p.dtype == torch.float32 and not p.requires_grad for p in loaded.parameters())
        assert not loaded.training
    z = torch.randn(1, 16, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(model.generator(z), generator(z), atol=0.05)
    assert model.metadata["sources"] == {"upstream.bin": "0" * 64}
    assert sorted(p.name for p in folder.iterdir()) == [
        "README.md", "config.json", "encoder.safetensors", "generator.safetensors", "prototypes.safetensors",
    ]  # fmt: skip
    assert [p.name for p in folder.parent.iterdir()] == ["model"]


def test_matrices_are_stored_as_float16_and_vectors_as_they_are(folder: Path) -> None:
    for value in load_file(folder / "generator.safetensors").values():
        assert value.dtype == (torch.float16 if value.ndim >= 2 else torch.float32)
    big = stored({"w": torch.full((2, 2), 1e6)})["w"]
    assert big.dtype == torch.float32 and big[0, 0] == 1e6


def test_the_fingerprint_survives_the_round_trip_and_tells_weights_apart(folder: Path) -> None:
    encoder, generator = networks()
    model = load_model(folder)
    assert model.encoder_fingerprint == fingerprint(encoder) == fingerprint(model.encoder)
    assert model.generator_fingerprint == fingerprint(generator) == fingerprint(model.generator)
    assert fingerprint(networks(1)[0]) != fingerprint(encoder)
    with torch.no_grad():
        next(generator.parameters()).view(-1)[0] += 1
    assert fingerprint(generator) != model.generator_fingerprint


def test_saving_what_was_loaded_writes_the_same_bytes(folder: Path, tmp_path) -> None:
    model = load_model(folder)
    again = save_model(
        tmp_path / "again",
        model.config,
        model.encoder,
        model.generator,
        model.bank,
        {"sources": model.metadata["sources"]},
    )
    for path in folder.iterdir():
        assert (again / path.name).read_bytes() == path.read_bytes()


def test_loading_draws_no_random_numbers(folder: Path) -> None:
    before = torch.get_rng_state()
    load_model(folder)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_config_reads_back(folder: Path, tmp_path) -> None:
    config = dataclasses.replace(CONFIG, guidance=GuidanceConfig(k=2, steps=7), license="CC0")
    encoder, generator = networks()
    assert load_model(save_model(tmp_path / "other", config, encoder, generator)).config == config


def test_optional_parts_may_be_absent(folder: Path, tmp_path) -> None:
    (folder / "generator.safetensors").unlink()
    (folder / "prototypes.safetensors").unlink()
    model = load_model(folder)
    assert model.generator is None and model.bank is None
    assert load_model(save_model(tmp_path / "encoder-only", CONFIG, networks()[0])).generator is None


# -------------------------------------------------------------------------------------------------------- writing


def test_a_model_replaces_a_model_and_nothing_else(folder: Path, tmp_path) -> None:
    encoder, generator = networks(1)
    save_model(folder, CONFIG, encoder, generator)
    assert load_model(folder).encoder_fingerprint == fingerprint(encoder)
    assert [p.name for p in folder.parent.iterdir()] == ["model"]
    (folder / "thesis.txt").write_text("keep me")
    with pytest.raises(ValueError, match=r"thesis\.txt"):
        save_model(folder, CONFIG, encoder, generator)
    assert (folder / "thesis.txt").read_text() == "keep me"
    with pytest.raises(ValueError, match="is a file"):
        save_model(folder / "thesis.txt", CONFIG, encoder)


def test_a_write_that_fails_leaves_the_old_model_and_no_rubbish(folder: Path, monkeypatch) -> None:
    def full(*args, **kwargs):
        raise OSError("no space left on device")

    before = load_model(folder).encoder_fingerprint
    monkeypatch.setattr("voicestyle.checkpoint.save_file", full)
    with pytest.raises(OSError, match="no space"):
        save_model(folder, CONFIG, *networks(1))
    monkeypatch.undo()
    assert load_model(folder).encoder_fingerprint == before
    assert [p.name for p in folder.parent.iterdir()] == ["model"]


def test_a_bank_of_other_networks_is_not_saved(tmp_path) -> None:
    bank = tiny_bank(*networks(0))
    with pytest.raises(ValueError, match="prototypes build"):
        save_model(tmp_path / "model", CONFIG, *networks(1), bank)
    assert list(tmp_path.iterdir()) == []


# -------------------------------------------------------------------------------------------------------- reading


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_names_that_are_no_model(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no such model; expected a folder with config\.json"):
        load_model(tmp_path / "nothing")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    with pytest.raises(FileNotFoundError, match=r"no config\.json in this folder \(it holds \['cat\.jpg'\]\)"):
        load_model(tmp_path / "photos")
    with pytest.raises(ValueError, match="addresses are not supported"):
        load_model("s3://someone/something")


def test_a_missing_encoder_names_what_is_there(folder: Path) -> None:
    (folder / "encoder.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"encoder\.safetensors: missing.*generator\.safetensors"):
        load_model(folder)


@pytest.mark.parametrize("part", ["encoder", "generator", "prototypes"])
def test_a_truncated_or_foreign_part_is_named(folder: Path, part: str) -> None:
    path = folder / f"{part}.safetensors"
    whole = path.read_bytes()
    for data in (b"", b"<html>quota exceeded</html>", whole[: len(whole) // 2], b"\xff" * 100):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=rf"{part}\.safetensors: truncated or not a safetensors file"):
            load_model(folder)
    save_file({"weight": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match=rf"{part}\.safetensors: not a"):
        load_model(folder)


def test_a_part_in_the_place_of_another_is_an_error(folder: Path) -> None:
    (folder / "generator.safetensors").write_bytes((folder / "encoder.safetensors").read_bytes())
    with pytest.raises(ValueError, match="not a voicestyle generator"):
        load_model(folder)


@pytest.mark.parametrize("part", ["encoder", "generator"])
def test_a_part_of_another_model_does_not_fit_the_bank(folder: Path, tmp_path, part: str) -> None:
    other = save_model(tmp_path / "other", CONFIG, *networks(1))
    (folder / f"{part}.safetensors").write_bytes((other / f"{part}.safetensors").read_bytes())
    with pytest.raises(ValueError, match=rf"prototypes\.safetensors: built with {part} .*prototypes build"):
        load_model(folder)


def test_weights_that_do_not_fit_the_config_are_named(folder: Path) -> None:
    generator = json.loads((folder / "config.json").read_text())["generator"]
    edit(folder / "config.json", generator={**generator, "size": 64})
    with pytest.raises(ValueError, match=r"generator\.safetensors: does not fit config\.json: \d+ tensors missing"):
        load_model(folder)
    edit(folder / "config.json", generator={**generator, "z_dim": 8})
    with pytest.raises(ValueError, match=r"has shape \(16, 16\), config\.json expects \(16, 8\)"):
        load_model(folder)
    edit(folder / "config.json", generator={**generator, "w_dim": 10**9})  # must not be allocated
    with pytest.raises(ValueError, match=r"config\.json: .*much larger than the weights"):
        load_model(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a JSON file"),
        ("[]", "got a list"),
        ("{}", "name: missing, expected text"),
        ('{"format_version": 9}', "version 9"),
    ],
)
def test_a_config_that_is_none_is_an_error(folder: Path, text: str, message: str) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(ValueError, match=rf"config\.json: .*{message}"):
        load_model(folder)


def test_unknown_and_wrong_settings_are_errors(folder: Path) -> None:
    encoder = json.loads((folder / "config.json").read_text())["encoder"]
    edit(folder / "config.json", encoder={**encoder, "heads": 8})
    with pytest.raises(ValueError, match=r"encoder\.heads: \[encoder\] has no setting 'heads'"):
        load_model(folder)
    for bad in ({"face_backbone": "vit"}, {"embed_dim": "many"}, {"backbone_width": -1}):
        edit(folder / "config.json", encoder={**encoder, **bad})
        with pytest.raises(ValueError, match=rf"config\.json: encoder\.{[*bad][0]}: got .*, expected"):
            load_model(folder)


def test_other_weights_than_were_written_are_refused(tmp_path):
    folder = save_tiny(tmp_path / "model")
    path = folder / "encoder.safetensors"
    data = bytearray(path.read_bytes())
    data[-40] ^= 0x20  # a bit of a weight
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"encoder.safetensors: other weights than its header says \(fingerprint "):
        load_model(folder)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path, bad):
    encoder, generator, bank = parts()
    broken = copy.deepcopy(generator)
    next(broken.parameters()).data.view(-1)[3] = bad
    folder = save_model(tmp_path / "model", CONFIG, encoder, broken)
    with pytest.raises(ValueError, match=r"generator.safetensors: .* holds NaN or infinite values"):
        load_model(folder)


@pytest.mark.parametrize("part", ["generator", "prototypes", "encoder"])
def test_a_link_that_leads_nowhere_is_no_lack(tmp_path, part):
    folder = save_tiny(tmp_path / "model")
    (folder / f"{part}.safetensors").unlink()
    (folder / f"{part}.safetensors").symlink_to(tmp_path / "moved")
    with pytest.raises(FileNotFoundError, match=rf"{part}.safetensors: (a link that leads nowhere|missing from)"):
        load_model(folder)
