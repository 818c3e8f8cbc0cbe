"""The authors' CMPC and VoiceStyle encoders (`checkpoint_CMPC.pth.tar`, `model_best_256.pth.tar`) <-> ours."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from torch import Tensor

from voicestyle.config import EncoderConfig
from voicestyle.convert.keys import filled, layout, rename, rename_back
from voicestyle.convert.torch_file import read_torch_file
from voicestyle.nn.encoder import VoiceFaceEncoder

# Reference -> ours. Below the prefix both sides have torchvision's names.
PREFIXES = {"voice_subnet.": "voice_backbone.", "face_subnet.": "face_backbone."}
WHAT = "CMPC encoder (two ResNet-34 towers)"


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
    return rename(state, key_table(), _layout(), WHAT)


def to_reference(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `from_reference`, as strict."""
    return rename_back(state, key_table(), _layout(), WHAT)


def read_encoder(path: str | Path, size: Literal[224, 256]) -> VoiceFaceEncoder:
    """The encoder of an official checkpoint, in evaluation mode.

    Args:
        path: `checkpoint_CMPC.pth.tar` or `checkpoint_CID.pth.tar` (224 px), `model_best_256.pth.tar` (256 px)
        size: pixels, which also selects the front end that the weights were trained with

    Raises:
        FileNotFoundError, ValueError: see `read_state` and `from_reference`
    """
    state = read_state(path)
    try:
        return filled(lambda: VoiceFaceEncoder(EncoderConfig.cmpc(size)), from_reference(state))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def read_state(path: str | Path) -> dict[str, Tensor]:
    """The state dict of an official checkpoint under the reference's names, not looked at.

    Raises:
        FileNotFoundError, ValueError: see `read_torch_file`; no entry 'model'
    """
    checkpoint = read_torch_file(path)
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("model"), dict):
        found = sorted(map(str, checkpoint))[:6] if isinstance(checkpoint, dict) else type(checkpoint).__name__
        raise ValueError(f"{path}: holds {found}, expected a CMPC checkpoint with the entry 'model'")
    return checkpoint["model"]


@functools.cache
def _layout() -> dict[str, Tensor]:
    """Every key and shape of ours."""
    return layout(lambda: VoiceFaceEncoder(EncoderConfig.cmpc()))
