"""The authors' CMPC and VoiceStyle encoders (`checkpoint_CMPC.pth.tar`, `model_best_256.pth.tar`) <-> ours."""

from __future__ import annotations

import argparse
import functools
import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from voicestyle.config import EncoderConfig
from voicestyle.nn.encoder import VoiceFaceEncoder

# Reference -> ours. Below the prefix both sides have torchvision's names.
PREFIXES = {"voice_subnet.": "voice_backbone.", "face_subnet.": "face_backbone."}


def key_table() -> dict[str, str]:
    """The 432 keys of the reference -> ours."""
    return {
        theirs + key.removeprefix(ours): key
        for theirs, ours in PREFIXES.items()
        for key in _layout()
        if key.startswith(ours)
    }


def from_reference(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict of `VoiceFaceEncoder(EncoderConfig.cmpc())` from that of the reference.

    Raises:
        ValueError: keys missing or unknown, or a shape that differs
    """
    return _rename(state, key_table(), _layout())


def to_reference(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `from_reference`, as strict."""
    table = key_table()
    layout = _layout()
    return _rename(
        state,
        {ours: theirs for theirs, ours in table.items()},
        {theirs: layout[ours] for theirs, ours in table.items()},
    )


def read_encoder(path: str | Path, size: Literal[224, 256]) -> VoiceFaceEncoder:
    """The encoder of an official checkpoint, in evaluation mode.

    Args:
        path: `checkpoint_CMPC.pth.tar` or `checkpoint_CID.pth.tar` (224 px), `model_best_256.pth.tar` (256 px)
        size: pixels, which also selects the front end that the weights were trained with

    Raises:
        FileNotFoundError, ValueError: see `read_torch_file` and `from_reference`
    """
    checkpoint = read_torch_file(path)
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("model"), dict):
        found = sorted(map(str, checkpoint)) if isinstance(checkpoint, dict) else type(checkpoint).__name__
        raise ValueError(f"{path}: holds {found}, expected a CMPC checkpoint with the entry 'model'")
    with torch.device("meta"):  # no storage: the checkpoint's own tensors are put in place
        encoder = VoiceFaceEncoder(EncoderConfig.cmpc(size))
    try:
        encoder.load_state_dict(from_reference(checkpoint["model"]), assign=True)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return encoder.eval()


def read_torch_file(path: str | Path) -> Any:
    """What a foreign `torch.save` file holds, on the CPU: plain containers, tensors and `argparse.Namespace` alone.

    Raises:
        FileNotFoundError: no such file
        ValueError: an HTML page (a download quota), a truncated file, or one that holds other classes
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    with path.open("rb") as file:
        if file.read(512).lstrip()[:1] == b"<":
            raise ValueError(f"{path}: an HTML page, not a checkpoint (a download quota?); download the file again")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"{path}: truncated, unsafe, or not a PyTorch checkpoint ({reason}); download it again"
        ) from error


@functools.cache
def _layout() -> dict[str, Tensor]:
    """Every key and shape of ours, without storage."""
    with torch.device("meta"):
        return VoiceFaceEncoder(EncoderConfig.cmpc()).state_dict()


def _rename(state: Mapping[str, Tensor], table: Mapping[str, str], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Values under their new keys, which must be those of the table, no more and no fewer, with the expected shapes."""
    _require("missing", table.keys() - state.keys())
    _require("unknown", state.keys() - table.keys())
    renamed = {table[key]: value for key, value in state.items()}
    shapes = {key: getattr(value, "shape", None) for key, value in renamed.items()}
    _require("of another shape", (key for key, shape in shapes.items() if shape != expected[key].shape))
    return {key: value.to(expected[key].dtype) for key, value in renamed.items()}


def _require(what: str, keys: Iterable[str]) -> None:
    names = sorted(map(str, keys))
    if names:
        raise ValueError(f"CMPC encoder: {len(names)} keys {what}, e.g. {names[:3]}; expected two ResNet-34 towers")
