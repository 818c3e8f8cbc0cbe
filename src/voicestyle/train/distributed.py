"""Processes that train together, as torchrun starts them: who each is, what they exchange, in what precision.

With one process nothing is started, and every exchange returns what it was given. A training computes the same global
loss in all processes from `World.gather`, calls ``backward``, then `World.mean_gradients`: the gradient is that of one
process with the whole batch.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

TIMEOUT_S = 600.0  # how long a process waits for the others before it ends; saving a state must take less
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
ENVIRONMENT = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # what torchrun sets


@dataclass(frozen=True)
class World:
    """One of `world_size` processes that train together."""

    device: torch.device = torch.device("cpu")
    rank: int = 0
    world_size: int = 1
    local_rank: int = 0  # on its host

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def share(self, num: int, what: str = "batch") -> slice:
        """This process' part of `num` rows; the parts of all ranks in order make up the whole.

        Raises:
            ValueError: the rows cannot be shared out evenly
        """
        if num % self.world_size:
            raise ValueError(f"{what}: got {num} rows for {self.world_size} processes, expected a multiple of them")
        size = num // self.world_size
        return slice(self.rank * size, (self.rank + 1) * size)

    def gather(self, tensor: Tensor) -> Tensor:
        """Rows (world_size * N, ...) of the tensors (N, ...) of all ranks, in order, on every rank.

        Gradients flow back to the rank that a row came from, summed over the losses of all ranks: where all compute
        the same loss, they are `world_size` times too large, which `mean_gradients` sets right.
        """
        return tensor if self.world_size == 1 else _Gather.apply(tensor, self.share(len(tensor) * self.world_size))

    @torch.no_grad()
    def mean_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace the gradients of `parameters` by their means over all ranks; every rank has the same ones set."""
        if self.world_size == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        for dtype in dict.fromkeys(g.dtype for g in gradients):
            held = [g for g in gradients if g.dtype == dtype]
            flat = torch.cat([g.flatten() for g in held])  # one message instead of hundreds
            dist.all_reduce(flat)
            parts = (flat / self.world_size).split([g.numel() for g in held])
            for gradient, part in zip(held, parts, strict=True):
                gradient.copy_(part.view_as(gradient))

    @torch.no_grad()
    def broadcast(self, *tensors: Tensor) -> None:
        """Overwrite the tensors with those of the main process."""
        if self.world_size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, src=0)

    def agree(self, value: float) -> float:
        """The value that the main process has: decisions that rest on it are the same everywhere."""
        held = torch.tensor(value, dtype=torch.float64, device=self.device)
        self.broadcast(held)
        return held.item()

    def barrier(self) -> None:
        """Wait until all processes are here."""
        if self.world_size > 1:
            dist.barrier()

    def make_once(self, path: Path, make: Callable[[], object]) -> None:
        """See that `path` exists: the first process of each host makes it, however long it takes, the others wait."""
        if not path.exists() and self.local_rank == 0:
            make()
        while not path.exists():
            time.sleep(0.1)

    def synchronize_norms(self, module: nn.Module) -> nn.Module:
        """The module with batch statistics taken over all ranks, which see equally many rows."""
        if self.world_size == 1:
            return module
        if self.device.type == "cuda":
            return nn.SyncBatchNorm.convert_sync_batchnorm(module)
        for held in module.modules():
            if type(held) in (nn.BatchNorm1d, nn.BatchNorm2d):
                held.__class__ = _SharedNorm  # parameters and buffers stay where they are
        return module


@dataclass(frozen=True)
class Precision:
    """The data type of convolutions; weights, losses, and gradients of gradients stay in float32."""

    name: str
    device: torch.device

    def autocast(self) -> AbstractContextManager[None]:
        """The context in which networks run."""
        mixed = self.name != "float32"
        return torch.autocast(self.device.type, DTYPES[self.name] if mixed else None, enabled=mixed)

    def scaler(self) -> torch.amp.GradScaler:
        """Scales losses, so that small gradients survive in float16; does nothing otherwise."""
        return torch.amp.GradScaler(self.device.type, enabled=self.name == "float16")

    @staticmethod
    def step(optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, world: World) -> None:
        """One step on the mean of the gradients of all processes; none where float16 overflowed."""
        world.mean_gradients(p for group in optimizer.param_groups for p in group["params"])
        scaler.step(optimizer)
        scaler.update()


class _SharedNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalization over all ranks on CPUs, for which PyTorch has none."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        values = x.float()
        dims = [0, *range(2, x.ndim)]
        mean = _Mean.apply(values.mean(dims, keepdim=True))
        var = _Mean.apply((values - mean).square().mean(dims, keepdim=True))
        count = x.numel() / x.shape[1] * dist.get_world_size()
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean.flatten(), self.momentum)
            self.running_var.lerp_(var.flatten() * count / (count - 1), self.momentum)
        shape = mean.shape
        scale = self.weight.view(shape) * (var + self.eps).rsqrt()
        return ((values - mean) * scale + self.bias.view(shape)).to(x.dtype)


class _Mean(torch.autograd.Function):
    """The mean of a tensor over all ranks, on every rank."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return _mean_over_ranks(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _mean_over_ranks(gradient)


def _mean_over_ranks(tensor: Tensor) -> Tensor:
    total = tensor.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total / dist.get_world_size()


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, own: slice) -> Tensor:
        ctx.own = own
        parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)  # gloo has no reduce-scatter
        return total[ctx.own], None


@contextmanager
def connect(device: str | None = None, timeout_s: float = TIMEOUT_S) -> Iterator[World]:
    """The world that torchrun's environment describes, connected as long as the context lasts.

    NCCL between GPUs, gloo between CPUs. A process that loses another one raises within `timeout_s`, so that the whole
    job ends and can be started again.

    Args:
        device: "cpu", "cuda" or "cuda:1"; None: this rank's GPU where there is one
        timeout_s: how long a process waits for the others

    Raises:
        ConnectionError: another process was lost
        ValueError: the environment is incomplete, or there is no such device
    """
    environment = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
    if "RANK" not in environment and "WORLD_SIZE" not in environment:
        yield World(_device(device, 0))
        return
    if missing := [name for name in ENVIRONMENT if name not in environment]:
        raise ValueError(f"environment: {missing} not set, though {sorted(environment)} are; start with torchrun")
    rank, world_size, local_rank = (int(environment[name]) for name in ENVIRONMENT[:3])
    world = World(_device(device, local_rank), rank, world_size, local_rank)
    if world_size == 1:
        yield world
        return
    is_gpu = world.device.type == "cuda"
    if is_gpu:
        torch.cuda.set_device(world.device)
    lost = f"rank {rank} of {world_size}: lost contact with another process"
    advice = "see its own message, then start the job again with --resume"
    try:
        dist.init_process_group(
            "nccl" if is_gpu else "gloo",
            timeout=timedelta(seconds=timeout_s),
            device_id=world.device if is_gpu else None,
        )
        yield world
        dist.barrier()  # nobody leaves while another still waits for an answer
        dist.destroy_process_group()  # not after an error: NCCL would wait for those that are gone
    except RuntimeError as error:
        if _is_lost(error):
            raise ConnectionError(f"{lost} ({str(error).splitlines()[0]}); {advice}") from error
        raise


def _device(name: str | None, local_rank: int) -> torch.device:
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {name!r}: PyTorch sees no GPU; use cpu, or a build of PyTorch with CUDA")
    return torch.device("cuda", local_rank) if device == torch.device("cuda") else device


def _is_lost(error: RuntimeError) -> bool:
    """Whether a collective failed; gloo raises plain RuntimeErrors, which only their text tells apart."""
    known = "gloo", "Connection closed", "Connection reset", "Timed out", "NCCL", "TCPStore", "rendezvous"
    return isinstance(error, dist.DistError) or any(word in str(error) for word in known)
