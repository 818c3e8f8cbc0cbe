"""How tests compare numbers so that they hold on any processor, with any number of threads.

Sums in float32 depend on the processor, the number of threads and the version of PyTorch. In float64 two ways to the
same numbers differ by about 1e-14, so `EXACT` leaves room for any order of sums and still finds every wrong constant:
even one that was rounded to float32 (6e-8). What float32 makes of a network is compared with float64, loosely.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import TypeVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from voicestyle.audio import log_mel

EXACT = 1e-10  # largest difference in float64, relative to the largest number
SINGLE = 1e-3  # of float32 and float64: a hundred layers that each add 100 roundings (6e-8) would stay below it
Module = TypeVar("Module", bound=nn.Module)


def double(module: Module) -> Module:
    """A copy that computes in float64, with the same weights."""
    return deepcopy(module).double()


def difference(got: Tensor, want: np.ndarray | Tensor) -> float:
    """Largest, relative to the largest number of `want`."""
    want = torch.as_tensor(want)
    assert got.shape == want.shape
    return float((got - want).abs().max() / want.abs().max())


@contextmanager
def in_float64() -> Iterator[None]:
    """What is float32 by default is float64: new tensors, log-mels, and what `Tensor.float` gives."""
    before = torch.get_default_dtype()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tensor, "float", Tensor.double)
        patch.setattr(log_mel, "__defaults__", (torch.float64,))
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(before)
