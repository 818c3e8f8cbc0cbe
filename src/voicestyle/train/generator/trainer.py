"""One step of a generator's training, and everything that a step changes.

A batch has three kinds of pictures: training faces and means of faces, which have targets, and random samples, which
have none. What it is taught with are weights of losses: a decoder has no discriminator, a plain GAN nothing else.
Every random choice is a function of the seed, the step and, in a part of a batch, its number in the whole, whichever
process computes it. What a training knows of itself (means, norms) moves once a step.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from voicestyle.config import GeneratorConfig
from voicestyle.latent import lr_ramp
from voicestyle.nn.dlib_resnet import DlibResNet
from voicestyle.seeds import mixed_rng
from voicestyle.train.distributed import World
from voicestyle.train.generator.ada import Views
from voicestyle.train.generator.adversary import Adversary, adam_moments, lazy_adam, take_moments
from voicestyle.train.generator.batch import Batch, draw_batch
from voicestyle.train.generator.codes import FaceCodes
from voicestyle.train.generator.grow import grow
from voicestyle.train.generator.losses import identity_loss, mix_styles, path_lengths, pixel_loss, texture_loss
from voicestyle.train.generator.means import StepMean
from voicestyle.train.generator.settings import GeneratorRecipe, Stage
from voicestyle.train.pictures import PictureStream
from voicestyle.train.precision import Precision

PATH_DECAY = 0.01  # of the mean path length, a step of its regularization (StyleGAN2, appendix B)
PATH_SHRINK = 2  # part of the samples that it looks at (StyleGAN2, appendix B: a half)
BALANCE_DECAY = 0.02  # a step, of the norms that weigh the discriminator
W_DECAY = 0.02  # a step, of the mean of w


class GeneratorTrainer:
    """The networks of the present stage with their optimizers. A saved state goes on as the same training."""

    def __init__(
        self,
        settings: GeneratorRecipe,
        world: World,
        stream: PictureStream | None,  # real pictures; None: those that have codes
        faces: FaceCodes | None = None,
        judge: DlibResNet | None = None,
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
        self._start = start
        self.resting = _resting(start)  # a discriminator that the present stage has no use for
        if start is not None and faces is not None and start.get("faces"):
            faces.start_from(start["faces"])
        self.enter()

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

    def enter(self) -> None:
        """Build the networks of the stage of this step out of those of the last one."""
        stage, _ = self.stage_at(self.step)
        moments = adam_moments(self.generator, self.optimizer) if hasattr(self, "generator") else {}
        config: GeneratorConfig = replace(self.settings.generator, size=stage.size)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.settings.seed)  # fresh layers take their weights from the global generator
            self.generator, self.average = self._networks(config)
            self.adversary = self._adversary(config, stage)
        for network in (self.generator, self.average):
            network.to(self.world.device, memory_format=torch.channels_last)
        self.average.requires_grad_(False)
        self.render = torch.compile(self.generator.synthesis) if self.settings.compile else self.generator.synthesis
        every = stage.path_every if stage.path else None
        self.optimizer = lazy_adam(self.generator.parameters(), stage.lr, stage.momentum, every)
        take_moments(self.generator, self.optimizer, moments)
        self._full_lr = self.optimizer.param_groups[0]["lr"]
        is_begun = self.step > 0 or self._start is not None
        self.center = StepMean(self.generator.w_avg, W_DECAY, self.world, is_begun)
        if self.faces is not None:
            self.faces.enter(stage.size)
        self.entered = stage

    def _networks(self, config: GeneratorConfig) -> tuple[Any, Any]:
        if hasattr(self, "generator"):
            generator = grow(self.generator.state_dict(), config)
            return generator, grow(self.average.state_dict(), config, fresh=generator)
        generator = grow((self._start or {}).get("average", {}), config)
        if self._start is None and self.faces is not None:
            # components start with the weight that they have in the pictures, or a long time goes into finding it
            generator.mapping.layers[0].weight.data *= self.faces.deviations
        return generator, copy.deepcopy(generator)

    def _adversary(self, config: GeneratorConfig, stage: Stage) -> Adversary | None:
        """That of the stage, which goes on from the last one that there was, however many stages ago."""
        held = getattr(self, "adversary", None)
        if held is not None and stage.has_discriminator and self.entered.size == config.size:
            return held
        if held is not None:
            self.resting = held.rest()
        if not stage.has_discriminator:
            return None
        old, self.resting = self.resting, None
        return Adversary(self.settings.discriminator, config, self.precision, self.world, old)

    def train_step(self) -> dict[str, float]:
        """One step; the losses of this process.

        Raises:
            ValueError: a loss is not finite
        """
        stage, first = self.stage_at(self.step)
        if stage is not self.entered:
            self.enter()
        rate = _ramp((self.step - first) / stage.steps, stage)
        rng = mixed_rng(self.settings.seed, "batch", self.step)
        num_parts = self.world.world_size * stage.accumulate
        mine = range(self.world.rank * stage.accumulate, (self.world.rank + 1) * stage.accumulate)
        num_faces = len(self.faces) if self.faces is not None else 0
        drawn = draw_batch(stage, num_faces, self.settings.generator.z_dim, self.generator.num_ws, rng)
        parts = [drawn.part(i, num_parts) for i in mine]
        views = self._draw_views(stage, rng, num_parts)
        with_adversary = self.adversary is not None and self.step - first >= stage.adversarial_after
        for group in self.optimizer.param_groups:
            group["lr"] = self._full_lr * rate
        losses, fakes = self._train_generator(stage, parts, [views[0][i] for i in mine], with_adversary, rate)
        if stage.path and self.step % stage.path_every == 0:
            losses["path"] = self._regularize_paths(stage, parts)
        if self.adversary is not None:
            for group in self.adversary.optimizer.param_groups:
                group["lr"] = self.adversary.lr * rate
            reals = self._real_pictures(stage).to(self.world.device).chunk(stage.accumulate)
            both = [views[kind][i] for i in mine for kind in (1, 2)]
            losses |= self.adversary.learn(reals, fakes, both, self.step)
        self._update_average(stage)
        self.step += 1
        if not all(torch.isfinite(torch.tensor(v)) for v in losses.values()):
            raise ValueError(f"training diverged at step {self.step}: losses {losses}; lower lr in {stage}")
        return losses

    def _real_pictures(self, stage: Stage) -> Tensor:
        """Those of this step; those of the next are read meanwhile."""
        now, then = (self._real_rows(self.stage_at(step)[0], step) for step in (self.step, self.step + 1))
        return self.faces.pictures(now) if self.faces is not None else self.stream.batch(now, stage.size, then)

    def _real_rows(self, stage: Stage, step: int) -> Tensor:
        rng = mixed_rng(self.settings.seed, "real pictures", step)
        num = len(self.faces) if self.faces is not None else len(self.stream)
        return torch.randint(num, (stage.batch,), generator=rng)[self.world.share(stage.batch)]

    def _draw_views(self, stage: Stage, rng: torch.Generator, num: int) -> list[list[Views]]:
        """Changes that the generator learns through, of real pictures, and of generated ones: `num` parts of each."""
        if self.adversary is None:
            return [[Views()] * num] * 3
        per = stage.batch // num
        kinds = [self.adversary.draw_views(stage.batch, stage.size, rng).to(self.world.device) for _ in range(3)]
        return [[views[i * per : (i + 1) * per] for i in range(num)] for views in kinds]

    def _train_generator(
        self, stage: Stage, parts: list[Batch], views: list[Views], with_adversary: bool, rate: float
    ) -> tuple[dict[str, float], list[Tensor]]:
        """Losses of a step, and the pictures that it was made with."""
        self.optimizer.zero_grad(set_to_none=True)
        told: list[dict[str, Tensor]] = []
        fakes, owns = [], []
        for number, (part, view) in enumerate(zip(parts, views, strict=True)):
            with self.precision.autocast():
                w, own = self._latents(part, stage)
                image = self._render(w, stage, number, self.render).float()
            leaf = image.detach().requires_grad_()
            gradient, losses = self._picture_gradient(leaf, part, view, stage, with_adversary)
            image.backward(self.scaler.scale(gradient / len(parts)))
            told.append(losses)
            fakes.append(leaf.detach())
            owns += [] if own is None else [own.grad]
        self.center.move()
        self.norms.move()
        scale = self.scaler.get_scale()  # the step may change it
        self.precision.step(self.optimizer, self.scaler, self.world)
        if stage.latent_lr and self.faces is not None:
            rows = self.world.gather(torch.cat([part.faces for part in parts]).to(self.world.device)).cpu()
            gradient = self.world.gather(torch.cat(owns)) / (scale * self.world.world_size)
            self.faces.learn(rows, gradient.nan_to_num(0, 0, 0), stage.latent_lr * rate)  # float16 may overflow
        return {name: torch.stack([t[name] for t in told]).mean().item() for name in told[0]}, fakes

    def _latents(self, part: Batch, stage: Stage) -> tuple[Tensor, Tensor | None]:
        """Latents of a part, (N,w_dim) or, with mixed styles, (N,num_ws,w_dim); and the own parts of its faces."""
        taught, own = [], None
        if self.faces is not None:
            w, own = self.faces.latents(self.generator.mapping, part.faces, part.members, part.weights)
            taught = [w]
        z = part.z.flatten(0, 1).to(self.world.device)
        mapped = self.generator.mapping(z).float()  # autocast may give half precision, in which means do not move
        w, other = mapped.view(len(part.z), 2, self.generator.config.w_dim).unbind(1)
        center = self.center.see(torch.cat([*taught, w]).mean(0))
        if stage.psi_min < 1:
            w, other = (center.lerp(x, part.psi.to(w)) for x in (w, other))
        if not stage.mixing:
            return torch.cat([*taught, w]), own
        num_ws = self.generator.num_ws
        mixed = mix_styles(w, other, part.crossover.to(w.device), num_ws)
        return torch.cat([*(t[:, None].expand(-1, num_ws, -1) for t in taught), mixed]), own

    def _render(self, w: Tensor, stage: Stage, part: int, synthesis: Callable[..., Tensor]) -> Tensor:
        if not stage.noise:
            return synthesis(w, "none")
        return synthesis(w, "random", rng=self._part_rng("noise maps", stage, part, self.world.device))

    def _part_rng(self, purpose: str, stage: Stage, part: int, device: torch.device | str = "cpu") -> torch.Generator:
        """Random numbers of a part of this process' share of the batch: other ones than those of all other parts."""
        number = self.world.rank * stage.accumulate + part
        return mixed_rng(self.settings.seed, purpose, self.step, number, device=device)

    def _picture_gradient(
        self, image: Tensor, part: Batch, views: Views, stage: Stage, with_adversary: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What all losses ask of generated pictures (N,3,S,S), a leaf: a gradient of that shape; and the losses.

        That of the discriminator is weighed against the others here, where both are gradients of pictures.
        """
        num = len(part.faces) + len(part.members)
        target, losses = None, {}
        if num and self.faces is not None:
            target = self.faces.targets(part.faces, part.members, part.weights, stage.detail)
            losses["pixel"] = pixel_loss(image[:num], target)
            if stage.texture:
                losses["texture"] = texture_loss(image[:num], target)
            if stage.identity and self.judge is not None and self.settings.identity is not None:
                some = stage.identity_faces or num
                crop = self.settings.identity.crop
                losses["identity"] = identity_loss(self.judge, crop, image[:some], target[:some])
        if with_adversary and self.adversary is not None:
            losses["adversarial"], feature = self.adversary.teach(image, views, target if stage.feature else None)
            if stage.feature:
                losses["feature"] = feature
        taught = [getattr(stage, name) * loss for name, loss in losses.items() if name != "adversarial"]
        gradient = torch.zeros_like(image)
        if taught:
            (gradient,) = torch.autograd.grad(torch.stack(taught).sum(), image, retain_graph="adversarial" in losses)
        if stage.adversarial and "adversarial" in losses:
            (pull,) = torch.autograd.grad(losses["adversarial"], image)
            gradient = gradient + self._weight(gradient[:num], pull, stage) * pull
        return gradient, {name: loss.detach() for name, loss in losses.items()}

    def _weight(self, gradient: Tensor, pull: Tensor, stage: Stage) -> float:
        """The weight of the discriminator: `adversarial` itself, or so that it pulls a picture that much as hard."""
        if not len(gradient):
            return stage.adversarial
        # root mean squares over pictures: what the losses with targets, and the discriminator, ask of one
        taught, pulled = self.norms.see(torch.stack([x.norm() / len(x) ** 0.5 for x in (gradient, pull)])).tolist()
        return min(stage.adversarial * taught / max(pulled, 1e-12), stage.adversarial_max)

    def _regularize_paths(self, stage: Stage, parts: list[Batch]) -> float:
        """One step of path length regularization on a part of the samples, in float32; the penalty."""
        self.optimizer.zero_grad(set_to_none=True)
        penalties = []
        for number, part in enumerate(parts):
            z = part.z[: max(1, len(part.z) // PATH_SHRINK), 0].to(self.world.device)
            w = self.generator.mapping(z)[:, None].repeat(1, self.generator.num_ws, 1)
            # not what `torch.compile` made, which knows no gradients of gradients
            image = self._render(w, stage, number, self.generator.synthesis)
            lengths = path_lengths(image, w, self._part_rng("path noise", stage, number))
            penalty = (lengths - self.path_mean.see(lengths.mean())).square().mean()
            penalties.append(penalty.detach())
            self.scaler.scale(stage.path * stage.path_every * penalty / len(parts)).backward()
        self.precision.step(self.optimizer, self.scaler, self.world)
        self.path_mean.move()
        return torch.stack(penalties).mean().item()

    @torch.no_grad()
    def _update_average(self, stage: Stage) -> None:
        """Let the average follow; its half-life in pictures is shorter at the start of a training from nothing."""
        half_life = self.settings.ema_pictures
        if not self.settings.start:  # Karras et al. (NeurIPS 2020), appendix C
            half_life = min(half_life, 0.05 * (self.step + 1) * stage.batch)
        for mean, value in zip(self.average.parameters(), self.generator.parameters(), strict=True):
            mean.lerp_(value, 1 - 0.5 ** (stage.batch / half_life))
        self.average.w_avg.copy_(self.generator.w_avg)

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs."""
        parts = ("generator", "average", "optimizer", "scaler", "adversary", "faces")
        held = {part: getattr(self, part).state_dict() for part in parts if getattr(self, part) is not None}
        means = {"norms": self.norms.value, "path_mean": self.path_mean.value}
        return {"step": self.step, "resting": self.resting, **means, **held}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.step = max(state["step"] - 1, 0)  # the stage that the last step was made in
        self.enter()
        self.step, self.resting = state["step"], state["resting"]
        self.norms.value.copy_(state["norms"])
        self.path_mean.value.copy_(state["path_mean"])
        self.norms.is_begun, self.center.is_begun = bool(state["norms"].any()), True
        for part in ("generator", "average", "optimizer", "scaler", "adversary", "faces"):
            if getattr(self, part) is not None:
                getattr(self, part).load_state_dict(state[part])


def _resting(start: dict[str, Any] | None) -> dict[str, Any] | None:
    """The discriminator that the run to start from has trained last, or None: its weights, not how far it had come."""
    held = (start or {}).get("adversary") or (start or {}).get("resting")
    return {"network": held["network"]} if held else None


def _ramp(t: float, stage: Stage) -> float:
    """Factor of the learning rate at progress t of a stage."""
    if stage.cool_down:
        return lr_ramp(t, max(stage.warm_up, 1e-9), stage.cool_down)
    return min(1.0, t / stage.warm_up) if stage.warm_up else 1.0
