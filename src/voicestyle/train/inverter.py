"""Train a one-shot inverter: what the latent of a picture is, learnt from samples of the generator and real pictures.

Of samples, the latent is known. Of real pictures it is not, but the generator says how well an estimate looks. The
samples are rendered once, before training, and the linear part of the inverter is found from them in closed form.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from voicestyle.checkpoint import Model, load_model, save_changed
from voicestyle.config import InverterConfig
from voicestyle.inversion import ReconstructionObjective, identity_features, psnr
from voicestyle.latent import lr_ramp
from voicestyle.nn.inverter import Inverter
from voicestyle.sampling import mean_latents
from voicestyle.schema import Count, NonNegative, Positive, SettingError, Share, Whole, to_dict
from voicestyle.seeds import seeded
from voicestyle.train.pictures import DataConfig, PictureStream, list_pictures
from voicestyle.train.recipe import named, settings_of
from voicestyle.train.run import Run, rng_state, set_rng_state

BATCH = 32  # pictures that are rendered together without gradients


@dataclass(frozen=True)
class NetworkConfig:
    """The section ``[inverter]``: an `InverterConfig`, whose w_dim is the generator's."""

    size: Count = InverterConfig.size
    linear_size: Count = InverterConfig.linear_size
    depth: Literal[10, 18, 34] = InverterConfig.depth
    width: Count = InverterConfig.width


@dataclass(frozen=True)
class SampleConfig:
    """The section ``[samples]``."""

    num: Count = 4000
    max_mean: Count = 8  # latents are means of up to so many, for pictures lie nearer to w_avg than samples do
    # of the linear part, in units of the mean variance of its inputs: the one that draws the pictures which were left
    # out best is taken. What samples alone would choose is too small, since real pictures differ from all of them
    ridge: tuple[Positive, ...] = (0.03, 0.1, 0.3)

    def __post_init__(self) -> None:
        if not self.ridge:
            raise SettingError("ridge", "got [], expected one or more numbers")


@dataclass(frozen=True)
class ScheduleConfig:
    """The section ``[schedule]``. A batch is `samples` + `pictures`."""

    steps: Count
    lr: Positive
    samples: Count  # of the generator
    rendered: Whole = 0  # estimates of samples that are rendered and compared too, besides all those of pictures
    pictures: Whole = 0  # real ones
    linear_lr: NonNegative = 0.01  # of the linear part, which has thousands of inputs, in units of `lr`
    warm_up: Share = 0.05  # part of the steps in which the learning rate rises
    cool_down: Share = 0.5  # part in which it falls

    def __post_init__(self) -> None:
        if self.rendered > self.samples:
            raise SettingError("rendered", f"got {self.rendered}, expected no more than the {self.samples} samples")


@dataclass(frozen=True)
class LossConfig:
    """The section ``[losses]``: their weights."""

    latent: NonNegative = 1.0  # squared distance to the known latent, in units of w_std
    pixel: NonNegative = 1.0  # see `ReconstructionObjective`
    identity: NonNegative = 0.5


@dataclass(frozen=True)
class InverterRecipe:
    """A whole recipe."""

    seed: Whole
    model: str  # name or folder; its generator is inverted
    log_every: Count  # steps
    save_every: Count  # steps; the state is saved and the average scored
    ema_pictures: Positive  # half-life of the weight average
    schedule: ScheduleConfig
    inverter: NetworkConfig = NetworkConfig()
    samples: SampleConfig = SampleConfig()
    losses: LossConfig = LossConfig()
    data: DataConfig | None = None  # real pictures
    num_validation: Count = 64  # pictures that are left out of the training: real ones, or else samples
    tensorboard: bool = False

    def __post_init__(self) -> None:
        if self.schedule.pictures and self.data is None:
            raise SettingError("schedule.pictures", "real pictures need the section [data]")


def read_settings(recipe: Mapping[str, Any]) -> InverterRecipe:
    """The settings of a recipe; a ValueError that says file, line and key where one does not fit."""
    return settings_of(recipe, InverterRecipe)


def train_inverter(
    recipe: Mapping[str, Any], out: str | Path, resume: bool = False, progress: bool = True, device: str | None = None
) -> Inverter:
    """The inverter that `recipe` describes: the averaged weights that score best on pictures that were left out.

    Arguments are as for `train.generator.train_generator`. The run folder `out` gets the log, the state (every
    ``save_every`` steps) and, at the end, ``model``: the recipe's model with this inverter.

    Raises:
        FileNotFoundError, ValueError: a file of the recipe is missing, or a setting does not fit
    """
    settings = read_settings(recipe)
    if settings.data is not None:
        list_pictures(settings.data)  # a path that is wrong must not leave a run folder behind
    model = load_model(settings.model, device or ("cuda" if torch.cuda.is_available() else "cpu"))
    with named(recipe), Run.start(out, recipe, resume) as run:
        trainer = InverterTrainer(settings, model, progress)
        if (state := run.load_state()) is not None:
            run.restore(trainer.load_state_dict, state)
        _train(trainer, run, progress)
        inverter = trainer.best()
        config = dataclasses.replace(model.config, inverter=inverter.config)
        save_changed(model, run.folder / "model", config=config, inverter=inverter)
        return inverter


def _train(trainer: InverterTrainer, run: Run, progress: bool) -> None:
    """All steps that are left; the bar counts pictures."""
    settings, batch, total = trainer.settings, trainer.batch, trainer.settings.schedule.steps
    shown: dict[str, str] = {}
    if trainer.step == 0:
        shown["PSNR"] = f"{trainer.validate():.2f}"
        run.log(0, psnr=trainer.best_psnr)
    bar = tqdm(
        total=total * batch,
        initial=trainer.step * batch,
        unit="pictures",
        disable=None if progress else True,
        desc="inverter",
    )
    with bar:
        while trainer.step < total:
            losses = trainer.train_step()
            bar.update(batch)
            is_saved = trainer.step % settings.save_every == 0 or trainer.step == total
            if is_saved:
                losses["psnr"] = trainer.validate()
                shown["PSNR"] = f"{losses['psnr']:.2f}"
            if is_saved or trainer.step % settings.log_every == 0:
                bar.set_postfix({name: f"{value:.3f}" for name, value in losses.items() if name != "psnr"} | shown)
                run.log(trainer.step, **losses)
            if is_saved:
                run.save_state(trainer.state_dict())


class InverterTrainer:
    """Everything that a step changes, so that a saved state resumes to the same run."""

    def __init__(self, settings: InverterRecipe, model: Model, progress: bool = False) -> None:
        if model.generator is None:
            raise ValueError(f"{model.folder}: this model has no generator to invert; use another model")
        self.settings, self.generator, self.step = settings, model.generator, 0
        self.face_features = identity_features(model.encoder, model.identity)
        self.rng = torch.Generator().manual_seed(settings.seed)
        self.samples_w, self.samples = self._render(settings.samples.num, progress)
        self.stream, self.train_rows, self.held_out = self._pictures()
        device = model.generator.w_avg.device
        with seeded(settings.seed):
            self.inverter = Inverter(InverterConfig(model.generator.config.w_dim, **to_dict(settings.inverter)))
        self.inverter.to(device)
        self._solve_linear()
        decay = 0.5 ** (self.batch / settings.ema_pictures)
        self.average = AveragedModel(self.inverter, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True).eval()
        groups = [
            {"params": [*self.inverter.body.parameters(), *self.inverter.head.parameters()], "factor": 1.0},
            {"params": [*self.inverter.linear.parameters()], "factor": settings.schedule.linear_lr},
        ]
        self.optimizer = torch.optim.Adam(groups, settings.schedule.lr)
        self.best_psnr = -1.0
        self.best_weights: dict[str, Tensor] = {}

    @property
    def batch(self) -> int:
        """Pictures of a step."""
        return self.settings.schedule.samples + self.settings.schedule.pictures

    @torch.no_grad()
    def _render(self, num: int, progress: bool) -> tuple[Tensor, Tensor]:
        """Latents (N,w_dim) and their pictures (N,3,size,size) float16, on the CPU."""
        w = mean_latents(self.generator, num, self.settings.samples.max_mean, self.rng)
        parts = tqdm(w.split(BATCH), desc="samples", unit="batch", disable=None if progress else True)
        pictures = [self.generator.synthesis(part).clamp(-1, 1).half().cpu() for part in parts]
        return w.cpu(), torch.cat(pictures)

    def _solve_linear(self) -> None:
        """Find the linear part of the inverter, by which alone it begins."""
        small = torch.cat([self.inverter.small(part.float()) for part in self.samples.split(BATCH)]).to(self.samples_w)
        found = []
        for ridge in self.settings.samples.ridge:
            self.inverter.solve_linear(small, self.samples_w, ridge)
            found.append((self.score(self.inverter), copy.deepcopy(self.inverter.linear.state_dict())))
        self.inverter.linear.load_state_dict(max(found, key=lambda f: f[0])[1])

    def _pictures(self) -> tuple[PictureStream | None, Tensor, Tensor]:
        """Real pictures, the rows to be trained on, and the others (V,3,size,size): samples where there are none."""
        settings = self.settings
        if settings.data is None:
            return None, torch.empty(0, dtype=torch.long), self._render(settings.num_validation, progress=False)[1]
        files, size = list_pictures(settings.data), self.generator.config.size
        if len(files) <= settings.num_validation:
            raise SettingError("num_validation", f"got {settings.num_validation}, of {len(files)} pictures")
        stream = PictureStream(
            files,
            size,
            mirror=settings.data.mirror,
            in_memory=settings.data.in_memory,
            num_workers=settings.data.num_workers,
        )
        order = torch.randperm(len(files), generator=self.rng)
        left_out, rows = order[: settings.num_validation], order[settings.num_validation :]
        if settings.data.mirror:
            rows = torch.cat([rows, rows + len(files)])
        return stream, rows, stream.batch(left_out, size)

    def train_step(self) -> dict[str, float]:
        """The losses of a batch, whose gradient has been followed."""
        schedule, weights = self.settings.schedule, self.settings.losses
        for group in self.optimizer.param_groups:
            ramp = lr_ramp(self.step / schedule.steps, schedule.warm_up, schedule.cool_down)
            group["lr"] = schedule.lr * group["factor"] * ramp
        w, images = self._draw()
        estimate = self.inverter.train()(images)
        latent = (estimate[: len(w)] - w).square().sum(1).mean() / self.generator.w_std**2
        losses = {"latent": weights.latent * latent}
        rows = [*range(schedule.rendered), *range(len(w), len(images))]
        if rows:
            losses |= self._compare(estimate[rows], images[rows])
        self.optimizer.zero_grad(set_to_none=True)
        torch.stack([*losses.values()]).sum().backward()
        self.optimizer.step()
        self.average.update_parameters(self.inverter)
        self.step += 1
        values = {name: loss.item() for name, loss in losses.items()}
        if not torch.isfinite(torch.tensor([*values.values()])).all():
            raise ValueError(f"training diverged at step {self.step}: losses {values}; lower lr in [schedule]")
        return values

    def _draw(self) -> tuple[Tensor, Tensor]:
        """Latents (S,w_dim) of samples, and pictures (S+P,3,size,size) of the samples and then real ones."""
        schedule, device = self.settings.schedule, self.generator.w_avg.device
        chosen = torch.randint(len(self.samples), (schedule.samples,), generator=self.rng)
        images = self.samples[chosen].float()
        if schedule.pictures and self.stream is not None:
            places = torch.randint(len(self.train_rows), (schedule.pictures,), generator=self.rng)
            images = torch.cat([images, self.stream.batch(self.train_rows[places], images.shape[-1])])
        return self.samples_w[chosen].to(device), images.to(device)

    def _compare(self, w: Tensor, target: Tensor) -> dict[str, Tensor]:
        """What rendered estimates lack of their pictures."""
        weights = self.settings.losses
        objective = ReconstructionObjective(target, self.face_features if weights.identity else None)
        image = self.generator.synthesis(w)
        losses = {"pixel": weights.pixel * objective.pixel_distance(image).mean()}
        if weights.identity:
            losses["identity"] = weights.identity * objective.identity_distance(image).mean()
        return losses

    @torch.no_grad()
    def score(self, inverter: nn.Module) -> float:
        """Mean PSNR (dB) of the pictures that were left out, rendered from what `inverter` makes of them."""
        scores, inverter = [], inverter.eval()
        for target in self.held_out.split(BATCH):
            target = target.to(self.generator.w_avg)
            image = self.generator.synthesis(inverter(target)).clamp(-1, 1)
            scores.append(psnr(image, target))
        return torch.cat(scores).mean().item()

    def validate(self) -> float:
        """The PSNR of the average, which is kept if it is the best so far."""
        found = self.score(self.average)
        if found > self.best_psnr:
            held = self.average.module.state_dict()
            self.best_psnr, self.best_weights = found, {name: value.clone() for name, value in held.items()}
        return found

    def best(self) -> Inverter:
        """The inverter with the averaged weights that scored best, in evaluation mode."""
        inverter = self.average.module
        inverter.load_state_dict(self.best_weights)
        return inverter.eval().requires_grad_(False)

    def state_dict(self) -> dict[str, Any]:
        """Everything that later steps depend on; the samples are rendered again from the seed."""
        parts = {part: getattr(self, part).state_dict() for part in ("inverter", "average", "optimizer")}
        best = {"best_psnr": self.best_psnr, "best_weights": self.best_weights}
        return {"step": self.step, "rng": rng_state({"rng": self.rng}), **parts, **best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        self.step, self.best_psnr, self.best_weights = state["step"], state["best_psnr"], state["best_weights"]
        set_rng_state({"rng": self.rng}, state["rng"])
        for part in ("inverter", "average", "optimizer"):
            getattr(self, part).load_state_dict(state[part])
