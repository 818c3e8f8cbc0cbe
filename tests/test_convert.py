"""The authors' files become a model that computes what they compute: the command, generators, prototypes."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

from fill import inp
from official import (
    LAYOUTS,
    TINY_KS,
    TINY_ROWS,
    generator_state,
    make_official,
    memory,
    named_rows,
    stylegan_checkpoint,
    training_args,
    write_index,
)
from parity import EXACT, difference, double
from voicestyle.checkpoint import Model, load_model
from voicestyle.cli import main
from voicestyle.config import EncoderConfig, GeneratorConfig
from voicestyle.convert.check import check_generator
from voicestyle.convert.memory import read_catalogue
from voicestyle.convert.official import OfficialFiles, convert_official, guess_size
from voicestyle.convert.stylegan2 import (
    from_rosinality,
    generator_config,
    generator_keys,
    read_generator,
    read_state,
    to_rosinality,
)
from voicestyle.convert.torch_file import read_torch_file
from voicestyle.files import sha256_of
from voicestyle.latent import w_statistics
from voicestyle.prototypes import PrototypeBank
from voicestyle.weights import fingerprint

PARTS = ("cmpc", "memory", "index", "stylegan")


# --------------------------------------------------------------------------------------------------- the whole command


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The authors' files with a small generator and few videos."""
    return make_official(tmp_path_factory.mktemp("official"), tiny=True, parts=PARTS, names=[("Some_Body", "video-1")])


@pytest.fixture(scope="module")
def converted(official: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Model]:
    """What the command prints, and the model that it makes."""
    out = tmp_path_factory.mktemp("converted") / "model"
    options = [word for part in PARTS for word in (f"--{part}", str(official[part]))]
    options += ["--num-prototypes", "10", "--name", "theirs", "--license", "research", "--json"]
    run = CliRunner().invoke(main, ["models", "convert", *options, "-o", str(out)], catch_exceptions=False)
    assert run.exit_code == 0, run.output
    return json.loads(run.stdout), load_model(out)


def test_the_command_says_what_it_did(converted: tuple[dict[str, Any], Model], official: dict[str, Path]) -> None:
    record, model = converted
    made = record["conversion"]
    assert record["model"] == str(model.folder)
    assert (made["cmpc_size"], made["front_end"], made["generator_size"]) == (256, "cmpc2", 64)
    assert made["largest_difference"] == {"voice": 0.0, "face": 0.0, "picture": 0.0}
    assert made["computed"].keys() == {"noise maps", "w_avg", "w_std"}
    assert made["num_prototypes"] == 7 and made["num_members"] == TINY_ROWS
    assert made["left_out"] == {
        "prototypes": 3, "prototypes_without_members": 3, "prototypes_without_direction": 3, "members": 0,
    }  # fmt: skip
    for part, path in official.items():
        source = record["sources"][part]
        assert source["file"] == path.name
        assert source["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest() == sha256_of(path)
        assert source["address"].startswith("https://")
    assert model.metadata == {"sources": record["sources"], "conversion": made}
    card = (model.folder / "README.md").read_text()
    assert all(source["sha256"] in card for source in record["sources"].values()) and "3 prototypes" in card


def test_the_model_is_theirs(converted: tuple[dict[str, Any], Model], golden_dir: Path) -> None:
    model = converted[1]
    assert (model.config.name, model.config.license) == ("theirs", "research")
    assert model.config.encoder == EncoderConfig.cmpc(256) and model.dtype == torch.float32
    golden = np.load(golden_dir / "cmpc_encoders.npz")
    encoder = double(model.encoder)
    assert difference(encoder.voice_features(inp("voice500", (2, 1, 64, 500)).double()), golden["voice_500"]) < EXACT
    face = inp("face256", (2, 3, 256, 256), lo=-1).double()
    assert difference(encoder.face_features(face), golden["face_256"]) < EXACT
    assert (model.identity, model.identity_fingerprint) == (None, None)


def test_the_catalogue_belongs_to_the_encoder(converted: tuple[dict[str, Any], Model]) -> None:
    model = converted[1]
    bank = model.bank
    assert isinstance(bank, PrototypeBank) and bank.member_w is None and bank.member_emb is None
    assert bank.encoder_fingerprint == model.encoder_fingerprint == fingerprint(model.encoder)
    assert bank.generator_fingerprint == ""
    assert bank.member_keys[0] == "Some_Body/video-1"


def test_memory_and_index_belong_together(official: dict[str, Path], tmp_path: Path) -> None:
    words = ["models", "convert", "--cmpc", str(official["cmpc"]), "--index", str(official["index"])]
    run = CliRunner().invoke(main, [*words, "-o", str(tmp_path / "model")])
    assert run.exit_code == 2 and "--memory and --index belong together" in run.output
    with pytest.raises(ValueError, match="prototypes need both the memory"):
        OfficialFiles(official["cmpc"], memory=official["memory"])


def test_a_conversion_that_fails_leaves_what_was_there(official: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.pt: no such file, expected the one for --stylegan"):
        OfficialFiles(official["cmpc"], stylegan=tmp_path / "nothing.pt")
    out = tmp_path / "model"
    with pytest.raises(ValueError, match="expected a CMPC checkpoint"):
        convert_official(OfficialFiles(official["stylegan"]), out)
    assert not out.exists()
    out.mkdir()
    (out / "thesis.txt").touch()
    with pytest.raises(ValueError, match=r"thesis\.txt"):  # before any work
        convert_official(OfficialFiles(official["stylegan"]), out)
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "thesis.txt"]


@pytest.mark.parametrize(
    ("name", "size"),
    [("checkpoint_CMPC.pth.tar", 224), ("checkpoint_CID.pth.tar", 224), ("model_best_256.pth.tar", 256), ("x.pt", 256)],
)
def test_the_release_of_cmpc_was_trained_at_224_pixels(name: str, size: int) -> None:
    assert guess_size(Path("somewhere") / name) == size


def test_a_release_at_224_pixels_has_its_own_front_end(
    official: dict[str, Path], golden_dir: Path, tmp_path: Path
) -> None:
    path = tmp_path / "checkpoint_CMPC.pth.tar"
    path.symlink_to(official["cmpc"])
    run = CliRunner().invoke(main, ["models", "convert", "--cmpc", str(path), "-o", str(tmp_path / "model")])
    said = dict(line.split("\t") for line in run.stdout.splitlines())
    assert said["conversion.front_end"] == "cmpc" and float(said["conversion.largest_difference.voice"]) == 0
    assert said["sources.cmpc.address"].endswith("v1.0.0/checkpoint_CMPC.pth.tar")
    model = load_model(tmp_path / "model")
    assert model.config.encoder == EncoderConfig.cmpc(224) and model.generator is None and model.bank is None
    golden = np.load(golden_dir / "cmpc_encoders.npz")
    face = inp("face224", (2, 3, 224, 224), lo=-1).double()
    assert difference(double(model.encoder).face_features(face), golden["face_224"]) < EXACT
    with torch.no_grad():  # pictures of a generator of 256 px are resampled for it
        assert model.encoder.encode_face(inp("face256", (1, 3, 256, 256), lo=-1)).shape == (1, 512)


@pytest.mark.slow
def test_golden_arrays_through_official_files_of_real_size(golden_dir: Path, tmp_path: Path) -> None:
    paths = make_official(tmp_path / "official", noises=True)
    convert_official(OfficialFiles(**paths), tmp_path / "model")
    model = load_model(tmp_path / "model")
    assert len(model.bank.member_keys) == 17_023 and len(model.bank.centroids) == 997
    encoders, pictures = (np.load(golden_dir / f"{n}.npz") for n in ("cmpc_encoders", "stylegan2_generator_256"))
    encoder, generator, identity = (double(part) for part in (model.encoder, model.generator, model.identity))
    noise = [inp(f"noise{i}", shape).double() for i, shape in enumerate(generator.synthesis.noise_shapes)]
    w, w_plus = generator.mapping(inp("z", (2, 512)).double()), inp("w_plus", (1, 14, 512)).double()
    voices = {t: inp(f"voice{t}", (2, 1, 64, t)).double() for t in (500, 800)}
    faces = {s: inp(f"face{s}", (2, 3, s, s), lo=-1).double() for s in (224, 256)}
    pairs = {
        "voice_800": (encoder.voice_features(voices[800]), encoders["voice_800"]),
        "voice_500": (encoder.voice_features(voices[500]), encoders["voice_500"]),
        "face_224": (encoder.face_backbone(faces[224]), encoders["face_224"]),
        "face_256": (encoder.face_features(faces[256]), encoders["face_256"]),
        "w": (w, pictures["w"]),
        "image_w": (generator.synthesis(w)[..., ::8, ::8], pictures["image_w"]),
        "image_w_plus": (generator.synthesis(w_plus)[..., ::8, ::8], pictures["image_w_plus"]),
        "image_noise": (generator.synthesis(w[:1], noise=noise)[..., ::8, ::8], pictures["image_noise"]),
        "ir_se50": (identity.identity_features(faces[256]), np.load(golden_dir / "ir_se50.npz")["embedding"]),
    }
    differences = {name: difference(got, want) for name, (got, want) in pairs.items()}
    assert max(differences.values()) < EXACT, differences


# ----------------------------------------------------------------------------------------------------------- generators


@pytest.fixture(scope="module")
def small() -> dict[str, Tensor]:
    """A generator of 64 px with 32 channels, as rosinality has it, with noise maps."""
    return generator_state(64, 32)


@pytest.mark.parametrize("size", [64, 256])
def test_settings_of_a_generator_are_read_off_its_shapes(size: int) -> None:
    assert generator_config({k: torch.empty(s) for k, s in LAYOUTS[f"generator_{size}"].items()}) == GeneratorConfig(
        size
    )


@pytest.mark.parametrize("multiplier", [1, 2])
def test_settings_of_other_widths(multiplier: int) -> None:
    """Channels as rosinality's `channel_multiplier` gives them, up to 1024 px."""
    channels = {r: min(512, 16384 * multiplier // r) for r in (4, 8, 16, 32, 64, 128, 256, 512, 1024)}
    state = {f"style.{i}.weight": torch.empty(512, 512) for i in (1, 2)}
    state["conv1.conv.weight"] = torch.empty(1, 512, 512, 3, 3)
    for i, resolution in enumerate(r for r in channels if r > 4):
        state[f"convs.{2 * i + 1}.conv.weight"] = torch.empty(1, channels[resolution], channels[resolution], 3, 3)
        state[f"to_rgbs.{i}.bias"] = torch.empty(1, 3, 1, 1)
        if resolution >= 64:  # below, both have all 512
            expected = GeneratorConfig(resolution, num_mapping_layers=2, channel_multiplier=multiplier)
            assert generator_config(state) == expected


def test_what_the_file_lacks_is_made_with_a_seed(small: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "550000.pt"
    torch.save(stylegan_checkpoint(small), path)
    (one, computed), (same, _), (other, _) = (read_generator(path, seed) for seed in (1, 1, 2))
    assert computed.keys() == {"w_avg", "w_std", "noise maps"} and "seed 1" in computed["w_std"]
    assert fingerprint(one) == fingerprint(same) != fingerprint(other)
    w_avg, w_std = w_statistics(one, 10_000, seed=1)
    assert torch.equal(one.w_avg, w_avg) and torch.equal(one.w_std, w_std)
    assert not one.training and not any(p.requires_grad for p in one.parameters())


def test_files_converted_from_nvidia_carry_their_mean_and_noise(small: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "stylegan2-ffhq.pt"
    torch.save({"g_ema": small, "latent_avg": inp("latent_avg", (32,))}, path)
    generator, computed = read_generator(path)
    assert computed.keys() == {"w_std"}
    assert torch.equal(generator.w_avg, inp("latent_avg", (32,)))
    for i, conv in enumerate(generator.synthesis.convs):
        assert torch.equal(conv.noise_const, small[f"noises.noise_{i}"])
    for shape in ((1, 32), (10, 32), (1, 10, 32)):  # as `mean_latent` gives it, and once a layer
        torch.save({"g_ema": small, "latent_avg": inp("latent_avg", (32,)).expand(shape).clone()}, path)
        assert torch.equal(read_generator(path)[0].w_avg, inp("latent_avg", (32,)))
    torch.save({"g_ema": small, "latent_avg": inp("latent_avg", (2, 32))}, path)
    with pytest.raises(ValueError, match="latent_avg: 2 rows that differ, expected one mean of w"):
        read_generator(path)
    torch.save({"g_ema": small, "latent_avg": torch.zeros(512)}, path)
    with pytest.raises(ValueError, match=r"latent_avg: got \(512,\), expected 32 finite numbers"):
        read_generator(path)


@pytest.mark.parametrize("is_legacy", [False, True])
def test_training_checkpoints_old_and_new(small: dict[str, Tensor], tmp_path: Path, is_legacy: bool) -> None:
    path = tmp_path / "150000.pt"
    checkpoint = stylegan_checkpoint(small, args=training_args(64), ada_aug_p=0.3)
    torch.save(checkpoint, path, _use_new_zipfile_serialization=not is_legacy)
    torch.save(small, tmp_path / "bare.pt")
    z = inp("z", (1, 32))
    noise = [inp(f"noise{i}", (1, 1, 2 ** ((i + 5) // 2), 2 ** ((i + 5) // 2))) for i in range(9)]
    one, bare = (read_generator(p)[0] for p in (path, tmp_path / "bare.pt"))
    assert torch.equal(*(g.synthesis(g.mapping(z), noise=noise) for g in (one, bare)))


def test_official_file_gives_the_golden_pictures(golden_dir: Path, tmp_path: Path) -> None:
    torch.save(stylegan_checkpoint(generator_state(64), noises=True), tmp_path / "g.pt")
    generator, _ = read_generator(tmp_path / "g.pt")
    golden = np.load(golden_dir / "stylegan2_generator_64.npz")
    generator = double(generator)
    w = generator.mapping(inp("z", (2, 512)).double())
    assert difference(w, golden["w"]) < EXACT
    assert difference(generator.synthesis(w), golden["image_w"]) < EXACT
    assert difference(generator.synthesis(inp("w_plus", (1, 10, 512)).double()), golden["image_w_plus"]) < EXACT


def test_a_conversion_that_differs_from_its_file_is_noticed(small: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(stylegan_checkpoint(small), tmp_path / "g.pt")
    generator, _ = read_generator(tmp_path / "g.pt")
    assert check_generator(generator, read_state(tmp_path / "g.pt")) == {"picture": 0.0}
    generator.synthesis.to_rgbs[0].bias.add_(1e-6)
    with pytest.raises(ValueError, match=r"conversion: 1 tensors differ from the file's, e\.g\. \['to_rgb1\.bias'\]"):
        check_generator(generator, read_state(tmp_path / "g.pt"))


def test_generators_go_there_and_back(small: dict[str, Tensor]) -> None:
    config = generator_config(small)
    back = to_rosinality(from_rosinality(small, generator_keys(config)), config)
    assert back.keys() == {key for key in small if not key.endswith(".kernel")}
    assert all(torch.equal(value, small[key]) for key, value in back.items())


# ----------------------------------------------------------------------------------------------------------- prototypes


def write_memory(folder: Path, content: dict[str, Any]) -> Path:
    torch.save(content, folder / "memory.pth.tar")
    return folder / "memory.pth.tar"


def test_a_catalogue_is_what_the_files_say(tmp_path: Path) -> None:
    """Row by row, by hand, with a prototype whose centroid is NaN but has members, and an empty one that is finite."""
    content = memory(TINY_ROWS, TINY_KS)
    index = write_index(tmp_path / "training.csv", TINY_ROWS, {7: ("An_Other", "_id-7")})
    assignments, centroids = content["inst2cluster"][1], content["centroids"][1]
    assignments[assignments == 4] = 5
    centroids[4], centroids[2] = 1.0, float("nan")
    bank, left_out = read_catalogue(write_memory(tmp_path, content), index, 10, "encoder")
    with index.open(newline="") as file:
        rows = [row for row, cluster in zip(csv.DictReader(file), assignments.tolist(), strict=True) if cluster != 2]
    kept = [0, 1, 3, 5, 6]
    assert left_out == {
        "prototypes": 5, "prototypes_without_members": 4, "prototypes_without_direction": 4,
        "members": int((assignments == 2).sum()),
    }  # fmt: skip
    assert bank.member_keys == [f"{row['VGGFace1 ID']}/{row['video_id']}" for row in rows]
    assert "An_Other/_id-7" in bank.member_keys
    assert [kept[i] for i in bank.assignments.tolist()] == [c for c in assignments.tolist() if c != 2]
    for mine, theirs in enumerate(kept):
        torch.testing.assert_close(bank.centroids[mine], centroids[theirs] / centroids[theirs].norm())
        assert bank.concentrations[mine] == content["density"][1][theirs]
    people = [row["VGGFace1 ID"] for row in rows]
    for i, identity in enumerate(bank.member_identity.tolist()):
        assert people[i] == people[bank.member_identity.tolist().index(identity)]
    assert len(bank.member_identity.unique()) == len(set(people))
    assert (bank.encoder_fingerprint, bank.generator_fingerprint) == ("encoder", "")


def test_a_memory_without_densities_ranks_no_prototype_above_another(tmp_path: Path) -> None:
    content = memory(TINY_ROWS, TINY_KS)
    del content["density"], content["Dist"]
    index = write_index(tmp_path / "training.csv", TINY_ROWS)
    bank, _ = read_catalogue(write_memory(tmp_path, content), index, 15, "")
    assert torch.equal(bank.concentrations, torch.ones(12))


def test_a_memory_saved_on_a_gpu_is_read_without_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = memory(TINY_ROWS, TINY_KS)
    with monkeypatch.context() as patch:
        patch.setattr("torch.serialization.location_tag", lambda storage: "cuda:0")
        path = write_memory(tmp_path, content)
    assert b"cuda:0" in path.read_bytes()
    assert torch.equal(read_torch_file(path)["inst2cluster"][2], content["inst2cluster"][2])


def test_named_videos_are_near_the_voice_that_they_are_made_for(tmp_path: Path) -> None:
    """What the maker of these files promises to tests of the whole way."""
    names = [(f"Name_{i}", f"video{i}") for i in range(6)]
    voice = inp("voice_emb", (512,)).abs()
    paths = make_official(tmp_path, tiny=True, names=names, voice_emb=voice, parts=("memory", "index"))
    bank, _ = read_catalogue(paths["memory"], paths["index"], 15, "")
    similarity = bank.centroids @ (voice / voice.norm())
    nearest = set(similarity.topk(3).indices.tolist())
    assert {bank.assignments[bank.member_keys.index(f"{n}/{v}")].item() for n, v in names} == nearest
    assert similarity.topk(3).values.min() > 0.95 > 0.5 > similarity.sort().values[-4]
    assert named_rows(TINY_ROWS, 6) == [0, 10, 20, 30, 40, 50]
