"""The IR-SE50 face network of the identity loss (`model_ir_se50.pth`, from InsightFace_Pytorch) <-> ours."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from voicestyle.convert.keys import filled, layout, rename, rename_back
from voicestyle.convert.torch_file import read_torch_file
from voicestyle.nn.arcface import IRSE50

# Reference -> ours, outside of the blocks and within one
OUTER = {
    "input_layer.": "stem.",
    "output_layer.0.": "norm.",
    "output_layer.3.": "fc.",
    "output_layer.4.": "embed_norm.",
}
INNER = {
    "res_layer.0.": "norm1.",
    "res_layer.1.": "conv1.",
    "res_layer.2.": "prelu.",
    "res_layer.3.": "conv2.",
    "res_layer.4.": "norm2.",
    "res_layer.5.": "gate.",
    "shortcut_layer.": "shortcut.",
}
WHAT = "IR-SE50"


def key_table() -> dict[str, str]:
    """The 397 keys of the reference -> ours."""
    table = {}
    for key in _layout():
        if key.startswith("blocks."):
            _, i, tail = key.split(".", 2)
            table[f"body.{i}.{_foreign(tail, INNER)}"] = key
        else:
            table[_foreign(key, OUTER)] = key
    return table


def from_reference(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict of `IRSE50` from that of the reference.

    Raises:
        ValueError: keys missing or unknown, a shape that differs, values that are not finite
    """
    return rename(state, key_table(), _layout(), WHAT)


def to_reference(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `from_reference`, as strict."""
    return rename_back(state, key_table(), _layout(), WHAT)


def read_identity(path: str | Path) -> IRSE50:
    """The face network of `model_ir_se50.pth`, a bare state dict, in evaluation mode.

    Raises:
        FileNotFoundError, ValueError: see `read_state` and `from_reference`
    """
    state = read_state(path)
    try:
        return filled(IRSE50, from_reference(state))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def read_state(path: str | Path) -> dict[str, Tensor]:
    """The state dict of `model_ir_se50.pth` under the reference's names, not looked at.

    Raises:
        FileNotFoundError, ValueError: see `read_torch_file`; no dict
    """
    state = read_torch_file(path)
    if not isinstance(state, dict):
        raise ValueError(f"{path}: holds a {type(state).__name__}, expected the state dict of an IR-SE50")
    return state


def _foreign(key: str, table: Mapping[str, str]) -> str:
    """The reference's name of a key of ours, by its prefix."""
    theirs, ours = next((theirs, ours) for theirs, ours in table.items() if key.startswith(ours))
    return theirs + key.removeprefix(ours)


@functools.cache
def _layout() -> dict[str, Tensor]:
    """Every key and shape of ours."""
    return layout(IRSE50)
