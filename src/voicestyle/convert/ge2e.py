"""resemblyzer's GE2E checkpoint (``pretrained.pt``) as our state dict."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from voicestyle.convert.torch_file import read_torch_file
from voicestyle.nn.ge2e import GE2E

# scale and offset of the cosine in the training loss; the encoder does not use them
TRAINING_ONLY = {"similarity_weight", "similarity_bias"}


def from_resemblyzer(path: str | Path) -> dict[str, Tensor]:
    """The state dict of `GE2E` held by resemblyzer's checkpoint at `path`.

    Raises:
        FileNotFoundError: nothing at `path`
        ValueError: not that checkpoint: not safely loadable, or keys or shapes differ
    """
    checkpoint = read_torch_file(path)
    if not isinstance(checkpoint, dict) or "model_state" not in checkpoint:
        raise ValueError(f"{path}: no 'model_state' in it, expected resemblyzer's pretrained.pt")
    return translate(checkpoint["model_state"], str(path))


def translate(model_state: dict[str, Tensor], where: str = "model_state") -> dict[str, Tensor]:
    """resemblyzer's `model_state` under our keys, every key and shape checked (ValueError)."""
    expected = {key: tuple(value.shape) for key, value in GE2E().state_dict().items()}
    state = {key: value.float() for key, value in model_state.items() if key not in TRAINING_ONLY}
    found = {key: tuple(value.shape) for key, value in state.items()}
    wrong = sorted(key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key))
    if wrong:
        detail = "; ".join(
            f"{k}: got {found.get(k, 'nothing')}, expected {expected.get(k, 'nothing')}" for k in wrong[:4]
        )
        raise ValueError(f"{where}: {len(wrong)} keys differ from resemblyzer's GE2E encoder ({detail})")
    return state
