"""What both parts of sharpening have: networks, material, an optimizer, a judge, an average that follows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from voicestyle.latent import lr_ramp
from voicestyle.nn.efficientnet import EfficientNet
from voicestyle.nn.stylegan2 import Generator
from voicestyle.train.sharpen.fakes import Codes, Gallery
from voicestyle.train.sharpen.judge import Judge
from voicestyle.train.sharpen.settings import SharpenRecipe

AVERAGED = 0.01  # part of the weights that enters the average at a step
WARM = 50  # steps until the learning rate is whole
LIMIT = 20.0  # of the norm of the generator's gradient
RAMP = 150  # steps in which the adversary's weight grows


class Part:
    """Some layers of the generator learn; the average follows them."""

    def __init__(
        self,
        settings: SharpenRecipe,
        features: EfficientNet,
        gallery: Gallery,
        codes: Codes,
        generator: Generator,
        average: Generator,
        base: int,  # pixels of the old pictures
        rng: torch.Generator,
    ) -> None:
        self.settings, self.features, self.gallery, self.codes = settings, features, gallery, codes
        self.generator, self.average, self.base, self.rng = generator, average, base, rng
        self.judge = Judge(settings.rates.discriminator)
        self.optimizer = torch.optim.Adam([p for _, p in self.layers()], self.rate, betas=(0.9, 0.99))

    rate: float

    def layers(self) -> Iterable[tuple[str, nn.Parameter]]:
        """Names and values of what learns, of the generator's synthesis."""
        raise NotImplementedError

    def losses(self, step: int) -> tuple[dict[str, Tensor], dict[str, float]]:
        """What the step's pictures lack, and what else there is to tell."""
        raise NotImplementedError

    def train_step(self, step: int, num: int) -> dict[str, float]:
        """One step of `num`: the losses."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * lr_ramp(step / num, min(WARM, num) / num, 0.6)
        learnt = {id(p) for _, p in self.layers()}
        for parameter in self.generator.parameters():
            parameter.requires_grad_(id(parameter) in learnt)
        losses, told = self.losses(step)
        self.optimizer.zero_grad(set_to_none=True)
        torch.stack([*losses.values()]).sum().backward()
        torch.nn.utils.clip_grad_norm_([p for _, p in self.layers()], LIMIT)
        self.optimizer.step()
        self._follow()
        return {name: loss.item() for name, loss in losses.items()} | told

    def heard(self, step: int) -> float:
        """How much of the adversary's weight counts at a step."""
        return min(1.0, max(0.0, (step - self.settings.steps.alone + 1) / RAMP))

    @torch.no_grad()
    def _follow(self) -> None:
        slow = dict(self.average.synthesis.named_parameters())
        for name, fast in self.layers():
            slow[name].lerp_(fast, AVERAGED)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs of this part."""
        return {"judge": self.judge.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.judge.load_state_dict(state["judge"])
        self.optimizer.load_state_dict(state["optimizer"])


def is_new(name: str, generator: Generator) -> bool:
    """Whether a parameter of the synthesis is of the block that doubles the size."""
    layers, last = generator.synthesis, len(generator.synthesis.convs)
    new = (f"convs.{last - 2}.", f"convs.{last - 1}.", f"to_rgbs.{len(layers.to_rgbs) - 1}.")
    return name.startswith(new)
