"""Wrong, damaged and hostile files: each is refused with the reason, and none is run."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from official import (
    COLUMNS,
    LAYOUTS,
    TINY_KS,
    TINY_ROWS,
    complete,
    generator_state,
    memory,
    stylegan_checkpoint,
    write_index,
)
from voicestyle.convert import cmpc, ir_se50, torch_file
from voicestyle.convert.cmpc import read_encoder
from voicestyle.convert.ir_se50 import read_identity
from voicestyle.convert.memory import read_catalogue, read_index
from voicestyle.convert.stylegan2 import read_generator
from voicestyle.convert.torch_file import read_torch_file

HTML = b"\n<!DOCTYPE html><html><title>Google Drive - Quota exceeded</title></html>"
AGAIN = "download the file again"


class Hostile:
    """Unpickling it would make a folder."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.marker),)


def half(path: Path, content: Any) -> None:
    torch.save(content, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


# what is written to a path -> why it is refused
FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "html": (lambda p: p.write_bytes(HTML), "an HTML page, not a checkpoint"),
    "empty": (lambda p: p.touch(), r"empty \(0 bytes\)"),
    "text": (lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\n"), "a text file.*git-lfs"),
    "csv": (lambda p: write_index(p, 3), "a text file"),
    "safetensors": (lambda p: save_file({"w": torch.zeros(3)}, p), "a safetensors file"),
    "truncated zip": (lambda p: half(p, {"model": torch.zeros(5000)}), f"truncated, or not.*{AGAIN}"),
    "head of a zip": (lambda p: p.write_bytes(b"PK\x03\x04"), "truncated, or not"),
    "no pickle": (lambda p: p.write_bytes(b"\x80\x02\xff\xfe not a pickle"), "truncated, or not"),
    "noise": (lambda p: p.write_bytes(bytes(range(256)) * 9), "truncated, or not"),
    "folder": (lambda p: p.mkdir(), "a folder, expected a file"),
    "nothing": (lambda p: None, "no such file"),
}


@pytest.mark.parametrize("kind", FILES)
def test_files_that_are_no_checkpoint(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth.tar"
    write, message = FILES[kind]
    write(path)
    expected = FileNotFoundError if kind in ("folder", "nothing") else ValueError
    for read in (read_torch_file, read_generator, read_identity):
        with pytest.raises(expected, match=rf"checkpoint\.pth\.tar: {message}"):
            read(path)


@pytest.mark.parametrize("is_legacy", [False, True])
@pytest.mark.parametrize("place", ["value", "key", "bare", "beside tensors"])
def test_a_pickle_that_would_run_code_is_refused_without_running_it(
    tmp_path: Path, place: str, is_legacy: bool
) -> None:
    marker, path = tmp_path / "marker", tmp_path / "checkpoint.pth.tar"
    hostile = Hostile(marker)
    content = {
        "value": {"model": hostile},
        "key": {"model": {hostile: torch.zeros(1)}},
        "bare": hostile,
        "beside tensors": {"model": complete("", {"a": [2]}), "optimizer": [hostile]},
    }[place]
    torch.save(content, path, _use_new_zipfile_serialization=not is_legacy)
    for read in (read_torch_file, lambda p: read_encoder(p, 256), read_generator, read_identity):
        with pytest.raises(ValueError, match=r"holds Python objects \(\w+\.mkdir\).*was not loaded"):
            read(path)
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists()  # so it is with a loader that trusts files


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_plain_pickle_is_refused_without_running_it(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "checkpoint.pkl"
    path.write_bytes(pickle.dumps({"model": Hostile(tmp_path / "marker")}, protocol))
    with pytest.raises(ValueError, match=r"checkpoint\.pkl: "):
        read_torch_file(path)
    assert not (tmp_path / "marker").exists()


# -------------------------------------------------------------------------------------------------------- state dicts


@pytest.fixture(autouse=True)
def expansion(monkeypatch: pytest.MonkeyPatch) -> None:
    """The files here have shapes of real ones and take no room, which is else refused."""
    monkeypatch.setattr(torch_file, "EXPANSION", 10**9)


def layout(name: str) -> dict[str, Tensor]:
    """A state dict of the right names and shapes that takes no room."""
    dtype = {True: torch.int64, False: torch.float32}
    return {
        key: torch.zeros((), dtype=dtype[key.endswith("tracked")]).expand(shape) for key, shape in LAYOUTS[name].items()
    }


CHANGES: dict[str, tuple[Callable[[dict[str, Any], str], object], str]] = {
    "missing": (lambda state, key: state.pop(key), "1 keys missing, e.g. .*{key}"),
    "unknown": (lambda state, key: state.update({"surprise": torch.zeros(1)}), "1 keys unknown, e.g. .*surprise"),
    "shape": (
        lambda state, key: state.update({key: torch.zeros(1)}),
        r"1 keys of another shape \(got \(1,\), expected",
    ),
    "no tensor": (lambda state, key: state.update({key: "tensor"}), r"1 keys of another shape \(got no tensor"),
    "nan": (lambda state, key: state.update({key: torch.full_like(state[key], torch.nan)}), "1 keys with values that"),
    "infinity": (lambda state, key: state.update({key: torch.full_like(state[key], torch.inf)}), "1 keys with values"),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ["cmpc", "ir_se50"])
def test_state_dicts_of_another_layout(name: str, change: str, tmp_path: Path) -> None:
    key = {"cmpc": "voice_subnet.layer1.0.conv1.weight", "ir_se50": "body.3.shortcut_layer.0.weight"}[name]
    alter, message = CHANGES[change]
    state = layout(name)
    alter(state, key)
    path = tmp_path / "model.pth"
    torch.save({"model": state} if name == "cmpc" else state, path)
    read, table = {
        "cmpc": (lambda p: read_encoder(p, 256), cmpc.key_table),
        "ir_se50": (read_identity, ir_se50.key_table),
    }[name]
    named = "" if change in ("unknown", "missing") else table()[key]
    with pytest.raises(ValueError, match=rf"model\.pth: .*{message.format(key=key)}.*{named}"):
        read(path)


GENERATORS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "missing": (lambda s: s.pop("convs.1.noise.weight"), "missing .*convs.1.noise.weight"),
    "unknown": (lambda s: s.update({"surprise": torch.zeros(1)}), "unknown keys .*surprise"),
    "shape": (lambda s: s.update({"to_rgb1.bias": torch.zeros(1, 4, 1, 1)}), "1 keys of another shape"),
    "nan": (lambda s: s["convs.2.conv.weight"].fill_(torch.nan), "1 keys with values that are not finite"),
    "blur": (lambda s: s["convs.0.conv.blur.kernel"].mul_(2), r"convs\.0\.conv\.blur\.kernel is another blur filter"),
    "channels": (lambda s: s.update({"convs.3.conv.weight": torch.zeros(1, 24, 24, 3, 3)}), r"24, 32, 32\] channels"),
    "flat": (lambda s: s.update({"convs.3.conv.weight": torch.zeros(32)}), "layers of other shapes"),
    "two weights": (lambda s: s.update({"conv1.conv.weight": torch.zeros(2, 32, 32, 3, 3)}), "1 keys of another shape"),
    "two noises": (lambda s: s.update({"conv1.noise.weight": torch.zeros(2)}), "1 keys of another shape"),
    "huge": (lambda s: s.update({"style.1.weight": torch.zeros(1).expand(2**20, 2**20)}), "not supported"),
    "numbers as keys": (lambda s: s.update({1: torch.zeros(1)}), "expected a StyleGAN2 checkpoint"),
    "no tensors": (lambda s: s.update({"style.1.weight": [1.0]}), "expected a StyleGAN2 checkpoint"),
}  # fmt: skip


@pytest.mark.parametrize("change", GENERATORS)
def test_generators_of_another_layout(change: str, tmp_path: Path) -> None:
    state = generator_state(64, 32)
    alter, message = GENERATORS[change]
    alter(state)
    path = tmp_path / "550000.pt"
    torch.save(stylegan_checkpoint(state, noises=True), path)
    with pytest.raises(ValueError, match=rf"550000\.pt: .*{message}"):
        read_generator(path)


def test_what_is_no_generator(tmp_path: Path) -> None:
    path = tmp_path / "550000.pt"
    discriminator = layout("discriminator_64")
    for content in ({"g_ema": discriminator}, discriminator):
        torch.save(content, path)
        with pytest.raises(ValueError, match=r"550000\.pt: holds a discriminator, expected a StyleGAN2 generator"):
            read_generator(path)
    torch.save({"model": layout("cmpc")}, path)
    with pytest.raises(ValueError, match=r"holds \['model'\], expected a StyleGAN2 checkpoint with the entry 'g_ema'"):
        read_generator(path)
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match="holds list, expected a StyleGAN2 checkpoint"):
        read_generator(path)


@pytest.mark.parametrize("num_doublings", [2, 9])
def test_a_generator_of_a_size_that_we_do_not_have(num_doublings: int, tmp_path: Path) -> None:
    state = {"style.1.weight": torch.zeros(8, 8), "conv1.conv.weight": torch.zeros(1, 8, 8, 3, 3)}
    for i in range(num_doublings):
        state |= {f"convs.{2 * i + 1}.conv.weight": torch.zeros(1, 8, 8, 3, 3), f"to_rgbs.{i}.bias": torch.zeros(1)}
    torch.save({"g_ema": state}, tmp_path / "g.pt")
    size = 4 * 2**num_doublings
    with pytest.raises(ValueError, match=rf"g\.pt: size: got {size}, expected one of 32, 64, 128, 256, 512, 1024"):
        read_generator(tmp_path / "g.pt")


# --------------------------------------------------------------------------------------------------- memory and index


def damaged(change: Callable[[dict[str, Any]], object]) -> Callable[[], Any]:
    def make() -> dict[str, Any]:
        content: dict[str, Any] = memory(TINY_ROWS, TINY_KS)
        change(content)
        return content

    return make


MEMORIES: dict[str, tuple[Callable[[], Any], str]] = {
    "no such K": (lambda: memory(TINY_ROWS, (5, 15)), r"has prototypes for K = \[5, 15\], not for 10"),
    "no lists": (lambda: {"centroids": torch.zeros(10, 512)}, "expected a frame memory with lists"),
    "an encoder": (lambda: {"epoch": 1, "model": {}}, r"holds \['epoch', 'model'\], expected a frame memory"),
    "no dict": (lambda: [torch.zeros(2)], "holds list, expected a frame memory"),
    "other rows": (lambda: memory(TINY_ROWS + 1, TINY_KS), f"{TINY_ROWS} rows, but .* assigns {TINY_ROWS + 1} videos"),
    "out of range": (damaged(lambda m: m["inst2cluster"][1].fill_(10)), "assignments outside of the 10 prototypes"),
    "negative": (damaged(lambda m: m["inst2cluster"][1].fill_(-1)), "assignments outside of the 10 prototypes"),
    "no integers": (damaged(lambda m: m["inst2cluster"].__setitem__(1, torch.zeros(60))), "torch.float32 assignments"),
    "other width": (damaged(lambda m: m["centroids"].__setitem__(1, torch.ones(10, 128))), r"expected .*\(10, 512\)"),
    "strings": (damaged(lambda m: m["centroids"].__setitem__(1, "centroids")), "expected a frame memory with lists"),
    "all NaN": (damaged(lambda m: m["centroids"][1].fill_(torch.nan)), "none of the 10 prototypes"),
    "fewer lists": (damaged(lambda m: m["inst2cluster"].pop()), "has prototypes for K"),
}  # fmt: skip


@pytest.mark.parametrize("kind", MEMORIES)
def test_memories_of_another_layout(kind: str, tmp_path: Path) -> None:
    make, message = MEMORIES[kind]
    torch.save(make(), tmp_path / "memory.pth.tar")
    index = write_index(tmp_path / "training.csv", TINY_ROWS)
    with pytest.raises(ValueError, match=message):
        read_catalogue(tmp_path / "memory.pth.tar", index, 10, "")


HEAD = ",".join(COLUMNS)
INDICES = {
    "other columns": (b"name,video\na,b\n", r"columns \['name', 'video'\], expected 'VGGFace1 ID' and 'video_id'"),
    "tab separated": (HEAD.replace(",", "\t").encode(), "columns .*expected"),
    "empty": (b"", r"columns \[\], expected"),
    "html": (HTML, "not the authors' training.csv"),
    "binary": (bytes(range(128, 256)), "not the authors' training.csv"),
    "a short row": (f"{HEAD}\nAn_Other,1\n".encode(), r"row 1 has \('An_Other', None\), expected the names"),
    "no name": (f"{HEAD}\n,1,id1,m,X,dev,v\n".encode(), r"row 1 has \('', 'v'\)"),
    "a way out": (f"{HEAD}\nA,1,id1,m,X,dev,v\n..,1,id1,m,X,dev,v\n".encode(), r"row 2 has \('\.\.', 'v'\)"),
    "a path": (f"{HEAD}\nA,1,id1,m,X,dev,../../etc/v\n".encode(), r"row 1 has \('A', '\.\./\.\./etc/v'\)"),
}  # fmt: skip


@pytest.mark.parametrize("kind", INDICES)
def test_indices_of_another_layout(kind: str, tmp_path: Path) -> None:
    data, message = INDICES[kind]
    path = tmp_path / "training.csv"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=rf"training\.csv: .*{message}"):
        read_index(path)
    with pytest.raises(FileNotFoundError, match="expected the authors' training.csv"):
        read_index(tmp_path / "other.csv")
