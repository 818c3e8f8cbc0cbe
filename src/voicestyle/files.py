"""Results that take long, kept on disk: work that was stopped goes on from there."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor


def kept(path: Path | None, make: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """What `make` makes, on the CPU: read from `path` where it lies, else made, and left there whole or not at all.

    The name of the file has to tell all that the tensors depend on. Without a path they are made each time.
    """
    if path is not None and path.is_file():
        return load_file(path)
    made = {name: value.detach().cpu().contiguous() for name, value in make().items()}
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(f".{os.getpid()}.tmp")
        try:
            save_file(made, beside)
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)
    return made
