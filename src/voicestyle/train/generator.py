"""Train a StyleGAN2 generator on a small set of aligned faces: first as a decoder of face codes, then adversarially.

A GAN needs days to find what a decoder learns in minutes. Each training picture has a code (shape and texture
components, see `morph`), and the generator learns to render it; weighted means of latents learn to render morphs. The
adversarial stages then sharpen samples, interpolations and means alike. Stages may start small and grow.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from voicestyle.config import GeneratorConfig, from_dict
from voicestyle.convert.dlib import read_state
from voicestyle.data.manifest import Manifest
from voicestyle.image import crop_resize, from_pil, open_image, save_png
from voicestyle.latent import lr_ramp, w_statistics
from voicestyle.nn.dlib_resnet import DlibResNet
from voicestyle.nn.stylegan2 import Discriminator, Generator
from voicestyle.train.morph import MorphSpace, find_landmarks
from voicestyle.train.run import Run, rng_state, set_rng_state

MAX_MIX = 8  # faces in one mean: as many as the method averages


@dataclass(frozen=True)
class Stage:
    """One part of the schedule, a section ``[stages.NAME]`` of the recipe."""

    size: int  # pixels
    steps: int
    batch: int
    lr: float
    identity_weight: float = 0.0  # of the distance of face embeddings
    adversarial_weight: float = 0.0
    r1_gamma: float = 1.0
    r1_every: int = 16  # StyleGAN2, section 3.1: lazy regularization


def train_generator(recipe: dict[str, Any], out: str | Path, resume: bool = False, progress: bool = True) -> Generator:
    """The generator that `recipe` describes, trained on the frontal pictures of a manifest's ``train`` split.

    The run folder `out` gets the log, the state (every ``save_every`` steps), grids of samples and, at the end,
    ``generator.pt`` with the averaged weights and the statistics of w.

    Raises:
        FileNotFoundError, ValueError: a file of the recipe is missing, or a setting does not fit
    """
    config = from_dict(GeneratorConfig, recipe["generator"], "recipe: [generator]")
    stages = [from_dict(Stage, values, f"recipe: [stages.{name}]") for name, values in recipe["stages"].items()]
    run = Run.start(out, recipe, resume)
    trainer = _Trainer(recipe, config, stages)
    if (state := run.load_state()) is not None:
        trainer.load_state_dict(state)
    total = sum(stage.steps for stage in stages)
    bar = tqdm(total=total, initial=trainer.step, unit="step", disable=not progress, desc="generator")
    while trainer.step < total:
        losses = trainer.train_step()
        bar.update()
        if trainer.step % recipe["log_every"] == 0:
            bar.set_postfix({k: f"{v:.3f}" for k, v in losses.items()})
            run.log(trainer.step, **losses)
        if trainer.step % recipe["save_every"] == 0 or trainer.step == total:
            run.save_state(trainer.state_dict())
            save_png(trainer.grid(), run.folder / f"samples_{trainer.step:06d}.png")
    bar.close()
    generator = trainer.average.requires_grad_(False)
    generator.w_avg[:], generator.w_std[...] = w_statistics(generator, seed=recipe["seed"])
    torch.save(generator.state_dict(), run.folder / "generator.pt")
    return generator


def grow(network: nn.Module, config: GeneratorConfig) -> Generator:
    """A generator of another size that keeps every layer of `network` which it has too."""
    grown = Generator(config)
    ours = grown.state_dict()
    kept = {k: v for k, v in network.state_dict().items() if k in ours and ours[k].shape == v.shape}
    grown.load_state_dict(ours | kept)
    return grown


def load_pictures(recipe: dict[str, Any], size: int) -> tuple[Tensor, Tensor]:
    """Frontal pictures (N,3,size,size) of the ``train`` split in which a face is found, and landmarks (N,68,2)."""
    items = [item for item in Manifest.read(recipe["manifest"]).split("train") if item.frontal is not None]
    if not items:
        raise ValueError(f"{recipe['manifest']}: no item of split 'train' has a frontal picture")
    pils = [open_image(item.frontal) for item in items if item.frontal is not None]
    landmarks, found = find_landmarks([np.array(pil) for pil in pils], recipe["landmarks"])
    return torch.cat([from_pil(pils[i], size) for i in found]), landmarks


class _Trainer:
    """Everything that a step changes, so that a saved state resumes to the same run."""

    def __init__(self, recipe: dict[str, Any], config: GeneratorConfig, stages: list[Stage]) -> None:
        self.config, self.stages, self.recipe = config, stages, recipe
        self.step = 0
        self.rng = torch.Generator().manual_seed(recipe["seed"])
        pictures, landmarks = load_pictures(recipe, config.size)
        self.full_space = MorphSpace.build(pictures, landmarks)
        self.codes, self.deviations = self.full_space.codes(config.z_dim)
        self.judge = _identity_network(recipe) if any(s.identity_weight for s in stages) else None
        self._enter(self.stage)

    @property
    def stage(self) -> Stage:
        done = 0
        for stage in self.stages:
            done += stage.steps
            if self.step < done:
                return stage
        return self.stages[-1]

    @property
    def _stage_progress(self) -> float:
        before = sum(s.steps for s in self.stages[: self.stages.index(self.stage)])
        return (self.step - before) / self.stage.steps

    def _enter(self, stage: Stage) -> None:
        """Build the networks of a stage out of those of the last one."""
        config = GeneratorConfig(**{**vars(self.config), "size": stage.size})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.recipe["seed"])  # fresh layers take their weights from the global generator
            old = getattr(self, "generator", None)
            self.generator = Generator(config) if old is None else grow(old, config)
            if old is None:
                # components start with the weight that they have in the pictures, or a long time goes into finding it
                self.generator.mapping.layers[0].weight.data *= self.deviations
            self.average = copy.deepcopy(self.generator) if old is None else grow(self.average, config)
            self.discriminator = Discriminator(config)
        for network in (self.generator, self.average, self.discriminator):
            network.to(memory_format=torch.channels_last)
        # a decoder wants momentum, a GAN none (targets of StyleGAN2: betas 0, 0.99)
        beta1 = 0.0 if stage.adversarial_weight else 0.9
        self.optimizer = torch.optim.Adam(self.generator.parameters(), stage.lr, (beta1, 0.99), eps=1e-8)
        self.d_optimizer = torch.optim.Adam(self.discriminator.parameters(), stage.lr, (0.0, 0.99), eps=1e-8)
        self.space = self.full_space.resized(max(stage.size, 64))  # a morph below 64 px would be blurred by its warp
        self.entered = stage

    def state_dict(self) -> dict[str, Any]:
        parts = ("generator", "average", "discriminator", "optimizer", "d_optimizer")
        # the codes too: another machine may find the same components with other signs
        plain = {"step": self.step, "rng": rng_state({"rng": self.rng}), "codes": self.codes}
        return plain | {p: getattr(self, p).state_dict() for p in parts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step = max(state["step"] - 1, 0)  # the stage that the last step was made in
        self._enter(self.stage)
        self.step, self.codes = state["step"], state["codes"]
        set_rng_state({"rng": self.rng}, state["rng"])
        for part in ("generator", "average", "discriminator", "optimizer", "d_optimizer"):
            getattr(self, part).load_state_dict(state[part])

    def train_step(self) -> dict[str, float]:
        stage = self.stage
        if stage is not self.entered:
            self._enter(stage)
        for group in (*self.optimizer.param_groups, *self.d_optimizer.param_groups):
            group["lr"] = stage.lr * lr_ramp(self._stage_progress, up=0.05, down=0.5)
        indices, weights = self.draw(stage.batch)
        target = self.render_target(indices, weights, stage.size)
        losses: dict[str, Tensor] = {}
        w = torch.einsum("bm,bmd->bd", weights, self.generator.mapping(self.codes[indices].flatten(0, 1)).view(
            stage.batch, MAX_MIX, -1))  # fmt: skip
        image = self.generator.synthesis(w, "none")
        losses["pixel"] = reconstruction_loss(image, target)
        if self.judge is not None and stage.identity_weight:
            losses["identity"] = stage.identity_weight * identity_loss(self.judge, self.recipe, image, target)
        if stage.adversarial_weight:
            losses["adversarial"] = stage.adversarial_weight * self._adversarial(image, stage)
        self.optimizer.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        self.optimizer.step()
        self._update_average(stage.batch)
        if stage.adversarial_weight:
            losses["discriminator"] = self._train_discriminator(stage)
        self.step += 1
        values = {name: loss.item() for name, loss in losses.items()}
        if not all(np.isfinite(v) for v in values.values()):
            raise ValueError(f"training diverged at step {self.step}: losses {values}; lower lr in {stage}")
        return values

    def draw(self, num: int) -> tuple[Tensor, Tensor]:
        """Faces (num, MAX_MIX) and their weights: half of the rows one face, half a mean of two to eight."""
        indices = torch.randint(len(self.space), (num, MAX_MIX), generator=self.rng)
        count = torch.randint(2, MAX_MIX + 1, (num,), generator=self.rng)
        count[: num // 2] = 1
        # exponential draws normalized to one are a uniform draw from the simplex
        share = -torch.rand(num, MAX_MIX, generator=self.rng).clamp(1e-6).log()
        share = share * (torch.arange(MAX_MIX) < count[:, None])
        return indices, share / share.sum(1, keepdim=True)

    def render_target(self, indices: Tensor, weights: Tensor, size: int) -> Tensor:
        """Pictures (B,3,size,size) that mixed latents should give: the picture itself, or the morph."""
        single = weights[:, 0] == 1
        target = torch.empty(len(indices), *self.space.pictures.shape[1:])
        target[single] = self.space.pictures[indices[single, 0]].float()
        target[~single] = self.space.mix(indices[~single], weights[~single])
        return F.interpolate(target, size=size, mode="area") if size != target.shape[-1] else target

    def _adversarial(self, image: Tensor, stage: Stage) -> Tensor:
        z = torch.randn(stage.batch, self.config.z_dim, generator=self.rng)
        fake = torch.cat([image, self.generator(z, noise_mode="none")])
        self.discriminator.requires_grad_(False)
        loss = F.softplus(-self.discriminator(augment(fake, self.rng))).mean()
        self.discriminator.requires_grad_(True)
        self.sampled = fake.detach()
        return loss

    def _train_discriminator(self, stage: Stage) -> Tensor:
        pick = torch.randint(len(self.space), (len(self.sampled),), generator=self.rng)
        real = F.interpolate(self.space.pictures[pick].float(), size=stage.size, mode="area")
        real = augment(real, self.rng).requires_grad_()
        real_logit = self.discriminator(real)
        fake_logit = self.discriminator(augment(self.sampled, self.rng))
        loss = F.softplus(-real_logit).mean() + F.softplus(fake_logit).mean()
        total = loss
        if self.step % stage.r1_every == 0:
            (grad,) = torch.autograd.grad(real_logit.sum(), real, create_graph=True)
            penalty = grad.square().sum((1, 2, 3)).mean()
            total = loss + stage.r1_gamma / 2 * stage.r1_every * penalty
        self.d_optimizer.zero_grad(set_to_none=True)
        total.backward()
        self.d_optimizer.step()
        return loss

    @torch.no_grad()
    def _update_average(self, batch: int) -> None:
        # half-life in pictures, shorter at the start as in Karras et al. (NeurIPS 2020)
        half_life = min(self.recipe["ema_pictures"], 0.05 * (self.step + 1) * batch)
        decay = 0.5 ** (batch / half_life)
        for mean, value in zip(self.average.parameters(), self.generator.parameters(), strict=True):
            mean.lerp_(value, 1 - decay)

    @torch.no_grad()
    def grid(self) -> Any:
        """Rows of pictures: training faces, their rendering, means of 2 and of 8, random samples."""
        size, num = self.entered.size, 10
        rng = torch.Generator().manual_seed(1)
        faces = torch.randint(len(self.space), (num, MAX_MIX), generator=rng)
        w = self.average.mapping(self.codes[faces].flatten(0, 1)).view(num, MAX_MIX, -1)
        z = torch.randn(num, self.config.z_dim, generator=rng)
        rows = [F.interpolate(self.space.pictures[faces[:, 0]].float(), size=size, mode="area")]
        rows += [self.average.synthesis(w[:, :m].mean(1), "none") for m in (1, 2, 8)]
        rows += [self.average(z, noise_mode="none"), self.average.synthesis(0.7 * self.average.mapping(z)
                 + 0.3 * w.mean((0, 1)), "none")]  # fmt: skip
        return torch.cat([torch.cat(list(row), 2) for row in rows], 1)[None]


def reconstruction_loss(image: Tensor, target: Tensor) -> Tensor:
    """L1 + squared error of pixels, and L1 of the differences between neighbors, which holds edges."""
    error = image - target
    across, down = error[..., 1:] - error[..., :-1], error[..., 1:, :] - error[..., :-1, :]
    return error.abs().mean() + error.square().mean() + across.abs().mean() + down.abs().mean()


def identity_loss(judge: DlibResNet, recipe: dict[str, Any], image: Tensor, target: Tensor) -> Tensor:
    """Mean squared distance between the face embeddings of two batches of pictures in the canonical frame."""
    crop = recipe["face_crop"]
    with torch.no_grad():
        wanted = judge(crop_resize(target, crop, 150))
    return (judge(crop_resize(image, crop, 150)) - wanted).square().sum(1).mean()


def _identity_network(recipe: dict[str, Any]) -> DlibResNet:
    network = DlibResNet()
    network.load_state_dict(read_state(recipe["face_weights"]))
    return network.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def augment(image: Tensor, rng: torch.Generator) -> Tensor:
    """Brightness, contrast and shifts at random, differentiable (Zhao et al., NeurIPS 2020), on a white ground."""
    num, _, size, _ = image.shape
    draw = lambda low, high: low + (high - low) * torch.rand(num, 1, 1, 1, generator=rng)  # noqa: E731
    mean = image.mean((1, 2, 3), keepdim=True)
    image = (image - mean) * draw(0.8, 1.2) + mean + draw(-0.2, 0.2)
    shift = torch.randint(-size // 16, size // 16 + 1, (num, 2), generator=rng).tolist()
    padded = F.pad(image - 1, [size // 16] * 4) + 1
    rows = [p[:, size // 16 + y :, size // 16 + x :][:, :size, :size] for p, (y, x) in zip(padded, shift, strict=True)]
    return torch.stack(rows)
