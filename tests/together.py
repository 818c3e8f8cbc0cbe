"""Processes that train together, as threads of one: what they tell each other, without sockets."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Barrier
from typing import Any

import torch
from torch import Tensor

from voicestyle.train.distributed import World


@dataclass(frozen=True)
class Thread(World):
    """One of several processes; gradients do not flow between them."""

    barrier_of_all: Barrier = field(default_factory=lambda: Barrier(1))
    told: dict[int, Tensor] = field(default_factory=dict)

    def gather(self, tensor: Tensor) -> Tensor:
        self.told[self.rank] = tensor.detach()
        self.barrier_of_all.wait(60)
        rows = torch.cat([self.told[rank] for rank in range(self.world_size)])
        self.barrier_of_all.wait(60)
        return rows

    def mean_gradients(self, parameters: Any) -> None:
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.copy_(self.gather(parameter.grad[None]).mean(0))


def threads(num: int) -> list[World]:
    """The worlds of `num` processes."""
    barrier, told = Barrier(num), {}
    return [Thread(rank=rank, world_size=num, barrier_of_all=barrier, told=told) for rank in range(num)]


def at_once(*works: Callable[[], Any]) -> list[Any]:
    """What each process returns."""
    with ThreadPoolExecutor(len(works)) as pool:
        return [done.result() for done in [pool.submit(work) for work in works]]
