"""Means that a training keeps of itself."""

from __future__ import annotations

import torch
from torch import Tensor

from voicestyle.train.distributed import World


class StepMean:
    """A mean that moves once a step, by what all parts of the batch in all processes have, and is the same for each."""

    def __init__(self, value: Tensor, decay: float, world: World, is_begun: bool) -> None:
        """Args:
        value: the mean, which is changed in place
        decay: part of the way to what a step has seen
        world: the processes that train together
        is_begun: False: what the first step sees becomes the mean
        """
        self.value, self.decay, self.world, self.is_begun = value, decay, world, is_begun
        self._seen: list[Tensor] = []

    def see(self, value: Tensor) -> Tensor:
        """Note what a part of a batch has; the mean of the steps before, in the first one that of this part."""
        self._seen.append(value.detach().float())
        return self.value.to(value.device) if self.is_begun else self._gathered(self._seen[-1])

    def move(self) -> None:
        """End a step."""
        if self._seen:
            self.value.lerp_(self._gathered(torch.stack(self._seen).mean(0)).to(self.value), self._share)
            self._seen, self.is_begun = [], True

    @property
    def _share(self) -> float:
        return self.decay if self.is_begun else 1.0

    def _gathered(self, value: Tensor) -> Tensor:
        return self.world.gather(value[None]).mean(0)
