"""Files from strangers: the documented error, soon, without running, allocating or overwriting what they ask for."""

from __future__ import annotations

import json
import os
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tiny import save_tiny
from voicestyle.checkpoint import load_model, save_model
from voicestyle.cli import main
from voicestyle.convert import torch_file
from voicestyle.convert.torch_file import read_torch_file
from voicestyle.files import written_whole
from voicestyle.train.run import Run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_tiny(tmp_path / "model")


# ---------------------------------------------------------------------------------------------------- foreign weights


def test_an_older_torch_reads_no_foreign_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"w": torch.zeros(3)}, tmp_path / "x.pt")
    for version in ("2.9.1", "2.5.0+cu124"):
        monkeypatch.setattr(torch, "__version__", version)
        with pytest.raises(ImportError, match=r"CVE-2026-24747.*pip install 'torch>=2.10'"):
            read_torch_file(tmp_path / "x.pt")
    monkeypatch.setattr(torch, "__version__", "2.10.0a0+git1234")
    assert read_torch_file(tmp_path / "x.pt")["w"].shape == (3,)


def test_a_packed_file_is_not_unpacked(tmp_path: Path) -> None:
    """200 MB of zeros in 0.2 MB."""
    torch.save({"w": torch.zeros(50_000_000, dtype=torch.float32)}, tmp_path / "plain.pt")
    path = tmp_path / "packed.pt"
    with zipfile.ZipFile(tmp_path / "plain.pt") as plain, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for part in plain.infolist():
            packed.writestr(part.filename, plain.read(part))
    (tmp_path / "plain.pt").unlink()
    assert path.stat().st_size < 1_000_000
    with pytest.raises(ValueError, match=r"packed.pt: expands to 200,0.* bytes, expected at most"):
        read_torch_file(path)


def test_a_tensor_that_declares_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    """Of 1.5 kB, a million times a million."""
    torch.save({"w": [torch.zeros(1).expand(10**6, 10**6)]}, tmp_path / "wide.pt")
    with pytest.raises(ValueError, match=r"wide.pt: expands to 4,000,000,000,000 bytes"):
        read_torch_file(tmp_path / "wide.pt")


def test_shared_tensors_are_no_expansion(tmp_path: Path) -> None:
    shared = torch.randn(400_000)
    torch.save({str(i): shared for i in range(20)}, tmp_path / "shared.pt")
    assert len(read_torch_file(tmp_path / "shared.pt")) == 20


class Runs:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.marker),)


def test_the_advice_to_read_unsafely_reaches_nobody(tmp_path: Path) -> None:
    """Of PyTorch: "re-running `torch.load` with `weights_only` set to `False`", wherever a file is read."""
    evil = tmp_path / "evil.pt"
    torch.save({"step": 1, "w": Runs(tmp_path / "ran")}, evil)
    said = []
    with pytest.raises(ValueError) as caught:
        read_torch_file(evil)
    said.append(str(caught.value))
    run = Run.start(tmp_path / "run", {"seed": 0})
    (run.folder / "state" / "last.pt").write_bytes(evil.read_bytes())
    with pytest.raises(ValueError) as caught:
        run.load_state()
    said.append(str(caught.value))
    said.append(CliRunner().invoke(main, ["models", "convert", "--cmpc", str(evil), "-o", str(tmp_path / "o")]).output)
    assert not (tmp_path / "ran").exists()
    assert all("weights_only" not in text and "arbitrary code" not in text for text in said), said


def test_only_one_place_reads_pickles_of_others() -> None:
    """Every other `torch.load` reads what this package has written, and all are `weights_only`."""
    source = Path(torch_file.__file__).parents[1]
    lines = {
        path.relative_to(source).as_posix(): line
        for path in source.rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if "torch.load(" in line or "pickle.load" in line
    }
    assert set(lines) == {"convert/torch_file.py", "train/run.py"}, lines
    assert all("weights_only=True" in line for line in lines.values())


# ------------------------------------------------------------------------------------------------------ model folders


def change_config(folder: Path, *keys: str, to: Any) -> None:
    values = json.loads((folder / "config.json").read_text())
    inner = values
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = to
    (folder / "config.json").write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        ("encoder.log_mel.hop_length", 0),
        ("encoder.log_mel.hop_length", -160),
        ("encoder.log_mel.n_fft", 2**34),
        ("encoder.log_mel.n_fft", "1024"),
        ("encoder.log_mel.n_mels", 10**9),
        ("encoder.log_mel.num_frames", 10**12),
        ("encoder.log_mel.sample_rate", 0),
        ("encoder.log_mel.sample_rate", True),
        ("encoder.log_mel.f_max_hz", float("nan")),
        ("encoder.image.size", 10**6),
        ("encoder.image.crop", [0, 0, 1]),
        ("encoder.embed_dim", 2**40),
        ("encoder.backbone_width", -8),
        ("generator.size", 2**20),
        ("generator.channel_max", 2**31),
        ("guidance.steps", "50"),
        ("guidance.lr", float("inf")),
        ("name", ["a", "list"]),
        ("name", None),
        ("license", {"of": "nobody"}),
        ("format_version", "1"),
    ],
)
def test_a_hostile_config_is_the_documented_error(folder: Path, keys: str, value: Any) -> None:
    change_config(folder, *keys.split("."), to=value)
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"config\.json"):
        load_model(folder)
    assert tracemalloc.get_traced_memory()[1] < 100_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000 + "1" + "}" * 100_000])
def test_json_that_is_nested_too_deep_is_no_crash(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config.json: not a JSON file, or one that is nested too deep"):
        load_model(folder)


def change_header(path: Path, changed: dict[str, Any] | str) -> None:
    """Write a part anew with other entries in its header, or another text for it."""
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["voicestyle"])
    text = changed if isinstance(changed, str) else json.dumps({**header, **changed})
    save_file(load_file(path), path, {"voicestyle": text})


@pytest.mark.parametrize("part", ["encoder", "generator"])
@pytest.mark.parametrize("value", [7, None, ["a"], {"a": 1}, "", "no hash"])
def test_a_fingerprint_of_another_type_is_an_error(folder: Path, part: str, value: Any) -> None:
    change_header(folder / f"{part}.safetensors", {"fingerprint": value})
    with pytest.raises(ValueError, match=f"{part}.safetensors: not a voicestyle {part}"):
        load_model(folder)


@pytest.mark.parametrize(
    "changed",
    [
        {"centroids": [[0.0]]},
        {"latents": "x"},
        {"__class__": "x"},
        {"member_keys": 7},
        {"member_keys": [1, 2]},
        {"encoder_fingerprint": 7},
        {"generator_fingerprint": ["a"]},
        "[]",
        "7",
        "[" * 100_000,
    ],
)
def test_the_header_of_a_bank_replaces_nothing(folder: Path, changed: dict[str, Any] | str) -> None:
    change_header(folder / "prototypes.safetensors", changed)
    with pytest.raises(ValueError, match=r"prototypes\.safetensors"):
        load_model(folder)


# -------------------------------------------------------------------------------------------------------- own results


@pytest.mark.skipif(os.name == "nt", reason="modes of POSIX")
@pytest.mark.parametrize("mask", [0o022, 0o077, 0o027])
def test_files_have_the_modes_that_the_user_wants(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        made = save_tiny(tmp_path / "model")
    finally:
        os.umask(before)
    for path in made.iterdir():
        assert path.stat().st_mode & 0o777 == 0o666 & ~mask, path.name
    assert made.stat().st_mode & 0o777 == 0o777 & ~mask


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege")
def test_what_is_saved_through_a_link_is_where_it_leads(folder: Path, tmp_path: Path) -> None:
    link = tmp_path / "current"
    link.symlink_to(folder, target_is_directory=True)
    model = load_model(folder)
    change_config(folder, "name", to="stale")
    save_model(link, model.config, model.encoder, model.generator, model.bank)
    assert link.is_symlink() and load_model(folder).config.name == load_model(link).config.name == model.config.name
    file, to_file = tmp_path / "list.txt", tmp_path / "link.txt"
    file.write_text("old")
    to_file.symlink_to(file)
    with written_whole(to_file) as beside:
        beside.write_text("new")
    assert to_file.is_symlink() and file.read_text() == "new"
