"""One step of a generator's training, and everything that a step changes.

A batch has three kinds of pictures: training faces and means of faces, which have targets, and random samples, which
have none. What it is taught with are weights of losses: a decoder has no discriminator, a plain GAN nothing else.
Every random choice is a function of the seed, the step and, in a part of a batch, its number in the whole, whichever
process computes it. What a training knows of itself (means, norms) moves once a step.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from voicestyle.config import GeneratorConfig
from voicestyle.latent import lr_ramp
from voicestyle.seeds import mixed_rng, seeded
from voicestyle.train.distributed import Precision, World
from voicestyle.train.generator.ada import Changes
from voicestyle.train.generator.adversary import Adversary, adam_moments, lazy_adam, take_moments
from voicestyle.train.generator.codes import FaceCodes
from voicestyle.train.generator.draws import Draws, draw_batch
from voicestyle.train.generator.grow import grow
from voicestyle.train.generator.losses import Judge, mix_styles, path_lengths, reconstruction_losses
from voicestyle.train.generator.means import StepMean
from voicestyle.train.generator.settings import GeneratorRecipe, Stage
from voicestyle.train.pictures import PictureStream

PATH_DECAY = 0.01  # of the mean path length, a step of its regularization (StyleGAN2, appendix B)
PATH_SHRINK = 2  # part of the samples that it looks at (StyleGAN2, appendix B: a half)
BALANCE_DECAY = 0.02  # a step, of the norms that weigh the discriminator
W_DECAY = 0.02  # a step, of the mean of w
STATE = ("generator", "average", "optimizer", "scaler", "adversary", "faces")  # what a resumed run restores
NO_CHANGES = Changes()


@dataclass(frozen=True, eq=False)
class Part:
    """What this process draws for one of the parts that a batch is cut into."""

    number: int  # of the part in the whole batch, over all processes
    draws: Draws
    # changes of pictures before the discriminator sees them: when it teaches the generator, and when it learns itself
    taught: Changes = NO_CHANGES
    real: Changes = NO_CHANGES
    fake: Changes = NO_CHANGES

    @property
    def num_targets(self) -> int:
        """Faces and means, which come first in a part."""
        return len(self.draws.faces) + len(self.draws.members)


class GeneratorTrainer:
    """The networks of the present stage with their optimizers. A saved state goes on as the same training."""

    def __init__(
        self,
        settings: GeneratorRecipe,
        world: World,
        stream: PictureStream | None,  # real pictures; None: those that have codes
        faces: FaceCodes | None = None,
        judge: Judge | None = None,
        start: dict[str, Any] | None = None,  # state of a run to go on from
    ) -> None:
        self.settings, self.world, self.stream, self.faces, self.judge = settings, world, stream, faces, judge
        self.precision = Precision(settings.precision, world.device)
        self.stages = list(settings.stages.values())
        for stage in self.stages:
            for num in (stage.faces, stage.means, stage.samples):
                world.share(num // stage.accumulate, "faces, means and samples of a part")
        self.step = 0
        # of the gradients of the losses with targets, and of the discriminator
        self.norms = StepMean(torch.zeros(2), BALANCE_DECAY, world, is_begun=False)
        self.path_mean = StepMean(torch.zeros(()), PATH_DECAY, world, is_begun=True)
        self.scaler = self.precision.scaler()
        self.goes_on = start is not None
        self.resting = _resting(start)  # a discriminator that the present stage has no use for
        if start is not None and faces is not None and start.get("faces"):
            faces.start_from(start["faces"])
        self._begin(start)

    # ------------------------------------------------------------------------------------------------------- the step

    def train_step(self) -> dict[str, float]:
        """One step; the losses of this process.

        Raises:
            ValueError: a loss is not finite
        """
        stage, first = self.stage_at(self.step)
        if stage is not self.entered:
            self.enter()
        rate = _ramp((self.step - first) / stage.steps, stage)
        parts = self._draw(stage)
        losses, made = self._teach_generator(parts, rate, is_judged=self.step - first >= stage.adversary.after)
        losses |= self._regularize_paths(parts)
        losses |= self._teach_adversary(parts, made, rate)
        self._update_average()
        self.step += 1
        if not all(torch.isfinite(torch.tensor(v)) for v in losses.values()):
            raise ValueError(f"training diverged at step {self.step}: losses {losses}; lower lr in {stage}")
        return losses

    def _draw(self, stage: Stage) -> list[Part]:
        """This process' parts of the batch of this step."""
        rng = mixed_rng(self.settings.seed, "batch", self.step)
        num_faces = 0 if self.faces is None else len(self.faces)
        drawn = draw_batch(stage, num_faces, self.settings.generator.z_dim, self.generator.num_ws, rng)
        num_parts = self.world.world_size * stage.accumulate
        per = stage.batch // num_parts
        mine = range(self.world.rank * stage.accumulate, (self.world.rank + 1) * stage.accumulate)
        if self.adversary is None:
            return [Part(i, drawn.part(i, num_parts)) for i in mine]
        kinds = [self.adversary.draw_changes(stage.batch, stage.size, rng).to(self.world.device) for _ in range(3)]
        return [Part(i, drawn.part(i, num_parts), *(kind[i * per : (i + 1) * per] for kind in kinds)) for i in mine]

    def _teach_generator(
        self, parts: Sequence[Part], rate: float, is_judged: bool
    ) -> tuple[dict[str, float], list[Tensor]]:
        """Reconstruction and adversary: the mean losses of the parts, and the pictures that they were made with.

        Each part goes back to the weights by itself, by way of the gradient of its pictures.
        """
        _set_rate(self.optimizer, self._full_lr * rate)
        self.optimizer.zero_grad(set_to_none=True)
        of_parts: list[dict[str, Tensor]] = []
        made, owns = [], []
        for part in parts:
            with self.precision.autocast():
                w, own = self._latents(part)
                image = self._render(w, part, self.render).float()
            leaf = image.detach().requires_grad_()
            gradient, losses = self._picture_gradient(leaf, part, is_judged)
            image.backward(self.scaler.scale(gradient / len(parts)))
            of_parts.append(losses)
            made.append(leaf.detach())
            owns += [] if own is None else [own.grad]
        self.center.move()
        self.norms.move()
        scale = self.scaler.get_scale()  # the step may change it
        self.precision.step(self.optimizer, self.scaler, self.world)
        self._move_latents(parts, owns, scale, rate)
        return {name: torch.stack([losses[name] for losses in of_parts]).mean().item() for name in of_parts[0]}, made

    def _regularize_paths(self, parts: Sequence[Part]) -> dict[str, float]:
        """One step of path length regularization on a part of the samples, in float32, where it is due; the penalty."""
        config = self.entered.regularizers
        if not config.path or self.step % config.path_every:
            return {}
        self.optimizer.zero_grad(set_to_none=True)
        penalties = []
        for part in parts:
            z = part.draws.z[: max(1, len(part.draws.z) // PATH_SHRINK), 0].to(self.world.device)
            w = self.generator.mapping(z)[:, None].repeat(1, self.generator.num_ws, 1)
            # not what `torch.compile` made, which knows no gradients of gradients
            image = self._render(w, part, self.generator.synthesis)
            lengths = path_lengths(image, w, self._part_rng("path noise", part))
            penalty = (lengths - self.path_mean.see(lengths.mean())).square().mean()
            penalties.append(penalty.detach())
            self.scaler.scale(config.path * config.path_every * penalty / len(parts)).backward()
        self.precision.step(self.optimizer, self.scaler, self.world)
        self.path_mean.move()
        return {"path": torch.stack(penalties).mean().item()}

    def _teach_adversary(self, parts: Sequence[Part], made: Sequence[Tensor], rate: float) -> dict[str, float]:
        """The losses of the discriminator, which has learnt from real pictures and from those that were made."""
        if self.adversary is None:
            return {}
        _set_rate(self.adversary.optimizer, self.adversary.lr * rate)
        reals = self._real_pictures().to(self.world.device).chunk(len(parts))
        return self.adversary.learn(reals, made, [(part.real, part.fake) for part in parts], self.step)

    @torch.no_grad()
    def _update_average(self) -> None:
        """Let the average follow; its half-life in pictures is shorter at the start of a training from nothing."""
        batch, half_life = self.entered.batch, self.settings.ema_pictures
        if not self.settings.start:  # Karras et al. (NeurIPS 2020), appendix C
            half_life = min(half_life, 0.05 * (self.step + 1) * batch)
        for mean, value in zip(self.average.parameters(), self.generator.parameters(), strict=True):
            mean.lerp_(value, 1 - 0.5 ** (batch / half_life))
        self.average.w_avg.copy_(self.generator.w_avg)

    # ---------------------------------------------------------------------------------------------- pictures and losses

    def _latents(self, part: Part) -> tuple[Tensor, Tensor | None]:
        """Latents of a part, (N,w_dim) or, with mixed styles, (N,num_ws,w_dim); and the own parts of its faces."""
        draws, config = part.draws, self.entered.regularizers
        taught, own = [], None
        if self.faces is not None:
            w, own = self.faces.latents(self.generator.mapping, draws.faces, draws.members, draws.weights)
            taught = [w]
        z = draws.z.flatten(0, 1).to(self.world.device)
        mapped = self.generator.mapping(z).float()  # autocast may give half precision, in which means do not move
        w, other = mapped.view(len(draws.z), 2, self.generator.config.w_dim).unbind(1)
        center = self.center.see(torch.cat([*taught, w]).mean(0))
        if config.psi_min < 1:
            w, other = (center.lerp(x, draws.psi.to(w)) for x in (w, other))
        if not config.mixing:
            return torch.cat([*taught, w]), own
        num_ws = self.generator.num_ws
        mixed = mix_styles(w, other, draws.crossover.to(w.device), num_ws)
        return torch.cat([*(t[:, None].expand(-1, num_ws, -1) for t in taught), mixed]), own

    def _render(self, w: Tensor, part: Part, synthesis: Callable[..., Tensor]) -> Tensor:
        if not self.entered.noise:
            return synthesis(w, "none")
        return synthesis(w, "random", rng=self._part_rng("noise maps", part, self.world.device))

    def _picture_gradient(self, image: Tensor, part: Part, is_judged: bool) -> tuple[Tensor, dict[str, Tensor]]:
        """What all losses ask of generated pictures (N,3,S,S), a leaf: a gradient of that shape; and the losses.

        That of the discriminator is weighed against the others here, where both are gradients of pictures.
        """
        num, stage = part.num_targets, self.entered
        target, losses, weighted = None, {}, []
        if num and self.faces is not None:
            draws = part.draws
            target = self.faces.targets(draws.faces, draws.members, draws.weights, stage.reconstruction.detail)
            losses = reconstruction_losses(image, target, stage.reconstruction, self.judge)
            weighted = [getattr(stage.reconstruction, name) * loss for name, loss in losses.items()]
        if is_judged and self.adversary is not None:
            matched = target if stage.adversary.feature else None
            losses["adversarial"], feature = self.adversary.teach(image, part.taught, matched)
            if stage.adversary.feature:
                losses["feature"] = feature
                weighted.append(stage.adversary.feature * feature)
        gradient = torch.zeros_like(image)
        if weighted:
            (gradient,) = torch.autograd.grad(torch.stack(weighted).sum(), image, retain_graph="adversarial" in losses)
        if stage.adversary.weight and "adversarial" in losses:
            (pull,) = torch.autograd.grad(losses["adversarial"], image)
            gradient = gradient + self._weight(gradient[:num], pull) * pull
        return gradient, {name: loss.detach() for name, loss in losses.items()}

    def _weight(self, gradient: Tensor, pull: Tensor) -> float:
        """The weight of the discriminator: `weight` itself, or so that it pulls a picture that much as hard."""
        config = self.entered.adversary
        if not len(gradient):
            return config.weight
        # root mean squares over pictures: what the losses with targets, and the discriminator, ask of one
        asked, pulled = self.norms.see(torch.stack([x.norm() / len(x) ** 0.5 for x in (gradient, pull)])).tolist()
        return min(config.weight * asked / max(pulled, 1e-12), config.weight_max)

    def _move_latents(self, parts: Sequence[Part], owns: Sequence[Tensor], scale: float, rate: float) -> None:
        """Let the own parts of the faces' latents follow their gradients, which are `scale` times too large."""
        lr = self.entered.reconstruction.latent_lr
        if lr and self.faces is not None:
            rows = self.world.gather(torch.cat([part.draws.faces for part in parts]).to(self.world.device)).cpu()
            gradient = self.world.gather(torch.cat([*owns])) / (scale * self.world.world_size)
            self.faces.learn(rows, gradient.nan_to_num(0, 0, 0), lr * rate)  # float16 may overflow

    def _real_pictures(self) -> Tensor:
        """Those of this step; those of the next are read meanwhile."""
        now, then = (self._real_rows(step) for step in (self.step, self.step + 1))
        if self.stream is not None:
            return self.stream.batch(now, self.entered.size, then)
        assert self.faces is not None
        return self.faces.pictures(now)

    def _real_rows(self, step: int) -> Tensor:
        (stage, _), held = self.stage_at(step), self.faces if self.stream is None else self.stream
        assert held is not None
        rng = mixed_rng(self.settings.seed, "real pictures", step)
        return torch.randint(len(held), (stage.batch,), generator=rng)[self.world.share(stage.batch)]

    def _part_rng(self, purpose: str, part: Part, device: torch.device | str = "cpu") -> torch.Generator:
        """Random numbers of a part: other ones than those of all other parts, in whichever process."""
        return mixed_rng(self.settings.seed, purpose, self.step, part.number, device=device)

    # ---------------------------------------------------------------------------------------------------------- stages

    @property
    def total(self) -> int:
        """Steps of all stages."""
        return sum(stage.steps for stage in self.stages)

    def stage_at(self, step: int) -> tuple[Stage, int]:
        """The stage of a step, and its first step."""
        first = 0
        for stage in self.stages:
            if step < first + stage.steps:
                return stage, first
            first += stage.steps
        return self.stages[-1], first - self.stages[-1].steps

    def _begin(self, start: dict[str, Any] | None) -> None:
        """Build the networks of the first stage."""
        stage, _ = self.stage_at(0)
        config = self._config(stage)
        with seeded(self.settings.seed):  # of fresh layers
            self.generator = grow({} if start is None else start["average"], config)
            if start is None and self.faces is not None:
                # components start with the weight that they have in the pictures, or a long time goes into finding it
                self.generator.mapping.layers[0].weight.data *= self.faces.deviations
            self.average = copy.deepcopy(self.generator)
            self.adversary = self._adversary(stage)
        self._enter(stage, moments={})

    def enter(self) -> None:
        """Build the networks of the stage of this step out of those of the last one."""
        stage, _ = self.stage_at(self.step)
        config, moments = self._config(stage), adam_moments(self.generator, self.optimizer)
        with seeded(self.settings.seed):
            self.generator = grow(self.generator.state_dict(), config)
            self.average = grow(self.average.state_dict(), config, fresh=self.generator)
            if self.adversary is None or not stage.has_discriminator or self.entered.size != stage.size:
                self.resting = self.resting if self.adversary is None else self.adversary.rest()
                self.adversary = self._adversary(stage)
        self._enter(stage, moments)

    def _config(self, stage: Stage) -> GeneratorConfig:
        return replace(self.settings.generator, size=stage.size)

    def _adversary(self, stage: Stage) -> Adversary | None:
        """That of a stage, which goes on from the last one that there was, however many stages ago."""
        if not stage.has_discriminator:
            return None
        old, self.resting = self.resting, None
        return Adversary(self.settings.discriminator, self._config(stage), self.precision, self.world, old)

    def _enter(self, stage: Stage, moments: dict[str, dict[str, Tensor]]) -> None:
        """Prepare the networks that are there for a stage."""
        for network in (self.generator, self.average):
            network.to(self.world.device, memory_format=torch.channels_last)
        self.average.requires_grad_(False)
        self.render = torch.compile(self.generator.synthesis) if self.settings.compile else self.generator.synthesis
        every = stage.regularizers.path_every if stage.regularizers.path else None
        self.optimizer = lazy_adam(self.generator.parameters(), stage.lr, stage.momentum, every)
        take_moments(self.generator, self.optimizer, moments)
        self._full_lr = self.optimizer.param_groups[0]["lr"]
        self.center = StepMean(self.generator.w_avg, W_DECAY, self.world, is_begun=self.step > 0 or self.goes_on)
        if self.faces is not None:
            self.faces.enter(stage.size)
        self.entered = stage

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs."""
        held = {part: getattr(self, part).state_dict() for part in STATE if getattr(self, part) is not None}
        means = {"norms": self.norms.value, "path_mean": self.path_mean.value}
        return {"step": self.step, "resting": self.resting, **means, **held}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.step = max(state["step"] - 1, 0)  # the stage that the last step was made in
        self.enter()
        self.step, self.resting = state["step"], state.get("resting")  # older states have none
        self.norms.value.copy_(state["norms"])
        self.path_mean.value.copy_(state["path_mean"])
        self.norms.is_begun, self.center.is_begun = bool(state["norms"].any()), True
        for part in STATE:
            if getattr(self, part) is not None:
                getattr(self, part).load_state_dict(state[part])


def _set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr


def _resting(start: dict[str, Any] | None) -> dict[str, Any] | None:
    """The discriminator that the run to start from has trained last, or None: its weights, not how far it had come."""
    held = (start or {}).get("adversary") or (start or {}).get("resting")
    return {"network": held["network"]} if held else None


def _ramp(t: float, stage: Stage) -> float:
    """Factor of the learning rate at progress t of a stage."""
    if stage.cool_down:
        return lr_ramp(t, max(stage.warm_up, 1e-9), stage.cool_down)
    return min(1.0, t / stage.warm_up) if stage.warm_up else 1.0
