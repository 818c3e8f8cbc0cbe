"""The other side of adversarial training: a discriminator, its augmentation and its regularization."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from voicestyle.config import GeneratorConfig
from voicestyle.nn.patch import PatchDiscriminator
from voicestyle.nn.stylegan2 import Discriminator
from voicestyle.train.distributed import Precision, World
from voicestyle.train.generator.ada import AdaptiveProbability, Changes, draw_changes
from voicestyle.train.generator.grow import grow_discriminator, keep_layers, rename
from voicestyle.train.generator.settings import DiscriminatorConfig


class Adversary:
    """Tells real from generated pictures, and teaches a generator by it."""

    def __init__(
        self,
        config: DiscriminatorConfig,
        generator: GeneratorConfig,
        precision: Precision,
        world: World,
        start: dict[str, Any] | None = None,  # what an earlier and smaller one left with `rest`; its "network" at least
    ) -> None:
        self.config, self.precision, self.world = config, precision, world
        weights = (start or {}).get("network", {})
        if config.kind == "stylegan2":
            network: nn.Module = grow_discriminator(weights, Discriminator(generator))
        else:
            network = keep_layers(weights, PatchDiscriminator(generator.size, config.channels))
        self.network = network.to(world.device, memory_format=torch.channels_last)
        every = config.r1_every if config.r1_gamma else None
        self.optimizer = lazy_adam(self.network.parameters(), config.lr, 0.0, every)
        self.lr = self.optimizer.param_groups[0]["lr"]
        self.scaler = precision.scaler()
        self.probability = AdaptiveProbability(config.p, config.p_target or None, config.p_pictures)
        if start and "moments" in start:
            moments = start["moments"]
            take_moments(network, self.optimizer, moments if config.kind == "patch" else rename(moments, network))
            self.scaler.load_state_dict(start["scaler"])
            self.probability.load_state_dict(start["probability"])

    def rest(self) -> dict[str, Any]:
        """Everything that a larger one goes on from: weights, what Adam remembers of them, how much is augmented."""
        parts = {part: getattr(self, part).state_dict() for part in ("network", "scaler", "probability")}
        return copy.deepcopy({**parts, "moments": adam_moments(self.network, self.optimizer)})

    def draw_changes(self, num: int, size: int, rng: torch.Generator) -> Changes:
        """Changes for `num` pictures, as likely as they now are."""
        return draw_changes(num, size, self.probability.p, rng, self.config.changes)

    def teach(self, image: Tensor, changes: Changes, target: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Two losses of generated pictures (N,3,S,S): not taken for real ones, and other features than their targets.

        The first is non-saturating (Goodfellow et al. 2014); the second (pix2pixHD, section 3.2) zero without `target`
        (M,3,S,S), M <= N, the pictures that the first M should be.
        """
        self.network.requires_grad_(False)
        with self.precision.autocast():
            maps = self._features(changes(image))
            logits = self._judge(maps)
        with torch.no_grad(), self.precision.autocast():
            wanted = [] if target is None else self._features(changes[: len(target)](target))
        self.network.requires_grad_(True)
        apart = [(a[: len(b)].float() - b.float()).abs().mean() for a, b in zip(maps, wanted, strict=False)]
        return F.softplus(-logits.float()).mean(), torch.stack(apart).mean() if apart else logits.new_zeros(())

    def learn(
        self, real: Sequence[Tensor], fake: Sequence[Tensor], changes: Sequence[tuple[Changes, Changes]], step: int
    ) -> dict[str, float]:
        """The losses of one step on parts of a batch: real and generated pictures, and the views of both in turn.

        Args:
            changes: of each part's real and generated pictures
            step: at each `r1_every`-th, R1 has a step of its own
        """
        self.optimizer.zero_grad(set_to_none=True)
        pairs = zip(real, fake, changes, strict=True)
        seen = [(of_true(true), of_made(made)) for true, made, (of_true, of_made) in pairs]
        verdicts = []
        for true, made in seen:
            with self.precision.autocast():
                real_logits, fake_logits = self.network(true).float(), self.network(made).float()
            loss = F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()
            verdicts.append(torch.stack([loss.detach(), real_logits.detach().sign().mean()]))
            self.scaler.scale(loss / len(seen)).backward()
        self.precision.step(self.optimizer, self.scaler, self.world)
        loss, sign = self.world.gather(torch.stack(verdicts)).mean(0).tolist()
        self.probability.update(sign, sum(map(len, real)) * self.world.world_size)
        values = {"discriminator": loss, "real_sign": sign, "p": self.probability.p}
        if self.config.r1_gamma and step % self.config.r1_every == 0:
            values["r1"] = self._regularize([true for true, _ in seen])
        return values

    def _regularize(self, real: Sequence[Tensor]) -> float:
        """One step of R1 on changed real pictures, as they are seen; the penalty."""
        self.optimizer.zero_grad(set_to_none=True)
        penalties = []
        for true in real:
            penalties.append(r1_penalty(self.network, true))
            loss = self.config.r1_gamma / 2 * self.config.r1_every * penalties[-1]
            self.scaler.scale(loss / len(real)).backward()
        self.precision.step(self.optimizer, self.scaler, self.world)
        return torch.stack(penalties).mean().item()

    def _features(self, image: Tensor) -> list[Tensor]:
        return self.network.features(image) if isinstance(self.network, PatchDiscriminator) else [image]

    def _judge(self, maps: list[Tensor]) -> Tensor:
        return self.network.judge(maps) if isinstance(self.network, PatchDiscriminator) else self.network(maps[0])

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs."""
        parts = ("network", "optimizer", "scaler", "probability")
        return {part: getattr(self, part).state_dict() for part in parts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        for part, held in state.items():
            getattr(self, part).load_state_dict(held)


def r1_penalty(discriminator: nn.Module, image: Tensor) -> Tensor:
    """Mean squared norm of the gradient of the mean logit of each picture (Mescheder et al., ICML 2018), in float32."""
    image = image.detach().float().requires_grad_()
    (gradient,) = torch.autograd.grad(discriminator(image).mean(1).sum(), image, create_graph=True)
    return gradient.square().sum((1, 2, 3)).mean()


def lazy_adam(parameters: Any, lr: float, momentum: float, every: int | None) -> torch.optim.Adam:
    """Adam (momentum, 0.99); where a regularizer comes at each `every`-th step, so that it acts as if it came in each.

    StyleGAN2, appendix B: the learning rate times c = k / (k + 1), the betas to the power c.
    """
    c = every / (every + 1) if every else 1.0
    return torch.optim.Adam(parameters, lr * c, (momentum**c, 0.99**c), eps=1e-8)


def adam_moments(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, dict[str, Tensor]]:
    """What Adam remembers of each parameter, by the parameter's name."""
    return {name: optimizer.state[p] for name, p in network.named_parameters() if p in optimizer.state}


def take_moments(network: nn.Module, optimizer: torch.optim.Optimizer, moments: dict[str, dict[str, Tensor]]) -> None:
    """Go on with `adam_moments` of an earlier network, where a parameter has kept its name and shape."""
    for name, parameter in network.named_parameters():
        if name in moments and moments[name]["exp_avg"].shape == parameter.shape:
            optimizer.state[parameter] = {kind: held.clone() for kind, held in moments[name].items()}
