"""The rule by which weights and inputs of the golden numbers were made: seeded by name, so no checkpoint is needed."""

from __future__ import annotations

import zlib

import numpy as np
import torch

SEED = 20240901


def _random_state(name: str) -> np.random.RandomState:
    return np.random.RandomState((zlib.crc32(name.encode()) ^ SEED) & 0xFFFFFFFF)


def inp(name: str, shape: tuple[int, ...], lo: float | None = None) -> torch.Tensor:
    """A named input: standard normal, or uniform in [lo, -lo] where `lo` is given."""
    rs = _random_state(name)
    values = rs.standard_normal(shape) if lo is None else rs.uniform(lo, -lo, shape)
    return torch.from_numpy(values.astype(np.float32))


def fill(layout: dict[str, list[int]], stylegan: bool = False) -> dict[str, torch.Tensor]:
    """A reference state dict filled by rule; blur kernels and batch counters are left out ("as built")."""
    state = {}
    for key, shape in layout.items():
        if key.endswith(("num_batches_tracked", ".kernel")):
            continue
        rs = _random_state(key)
        r = rs.standard_normal(tuple(shape))
        if key.endswith("running_var"):
            value = 0.5 + rs.random_sample(tuple(shape))
        elif key.endswith("running_mean") or "noise.weight" in key:
            value = 0.1 * r
        elif key.endswith("modulation.bias") or (len(shape) <= 1 and key.endswith("weight")):
            value = 1 + 0.1 * r
        elif len(shape) <= 1:
            value = 0.1 * r
        elif stylegan:
            value = 100 * r if key.startswith("style.") else r
        else:
            value = r * np.sqrt(2 / np.prod(shape[1:]))
        state[key] = torch.from_numpy(np.asarray(value, dtype=np.float32))
    return state
