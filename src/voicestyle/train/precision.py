"""What a training computes in: float32, or half precision where it is stable."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from voicestyle.train.distributed import World

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


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
