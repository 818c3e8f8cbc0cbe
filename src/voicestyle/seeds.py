"""Seeds for the many draws of one run, made from the one seed that its user gives.

A seed that is shifted by a step (``seed * 2**32 + step``) is no other seed: PyTorch's generator on CPUs, a Mersenne
Twister, takes the lower 32 bits alone. Here seed, purpose and numbers are hashed together, as NumPy does for parallel
streams: other arguments give unrelated draws.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def mixed_seed(seed: int, purpose: str, *numbers: int) -> int:
    """A seed (0 to 2**64 - 1, its lower 32 bits as good as all) for `purpose` in a run of `seed`.

    Args:
        seed: the user's; any integer
        purpose: what is drawn, such as "dropout"
        numbers: 0 or more each: step, process, part ...
    """
    key = (zlib.crc32(purpose.encode()), *numbers)
    return int(np.random.SeedSequence(seed % 2**64, spawn_key=key).generate_state(1, np.uint64)[0])


def mixed_rng(seed: int, purpose: str, *numbers: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator of random numbers that starts from `mixed_seed`."""
    return torch.Generator(device).manual_seed(mixed_seed(seed, purpose, *numbers))


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Seeds what draws from the global generators (dropout, initial weights) and leaves them as they were."""
    devices = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
