"""Sharpen a model: its soft generator becomes one of twice the size that draws faces like photographs.

The generator goes on as a decoder of portraits. Projected discriminators (`nn.projected`) judge reconstructions, and
latents that no picture has. The model's members are projected anew afterwards, as the most likely latents (`likely`):
taught beside the portraits, their soft pictures made latents of their own, which judges carved into masks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from voicestyle.checkpoint import Model, load_model, save_changed
from voicestyle.convert.efficientnet import read_efficientnet
from voicestyle.image import save_png
from voicestyle.latent import w_statistics
from voicestyle.nn.inverter import Inverter
from voicestyle.nn.stylegan2 import Generator
from voicestyle.train.generator.gaussian import whitened, with_gaussian
from voicestyle.train.run import Run
from voicestyle.train.sharpen.settings import SharpenRecipe, read_settings
from voicestyle.train.sharpen.trainer import SharpenTrainer

COLUMNS = 8  # of the grids


def train_sharpen(
    recipe: Mapping[str, Any], out: str | Path, resume: bool = False, progress: bool = True, device: str | None = None
) -> Generator:
    """The generator that `recipe` describes, with averaged weights; random z give latents like those of the portraits.

    Arguments are as for `train.generator.train_generator`. The run folder `out` gets the log, the state, grids and, at
    the end, ``model``: the recipe's model with this generator and its inverter, and without prototypes.

    Raises:
        FileNotFoundError, ValueError: a file of the recipe is missing, or a setting does not fit
    """
    settings = read_settings(recipe)
    if device not in (None, "cpu"):
        raise ValueError(f"device: got {device!r}, expected cpu; codes and pictures are held there")
    model, features = load_model(settings.model), read_efficientnet(settings.features or None)
    with Run.start(out, recipe, resume) as run:
        trainer = SharpenTrainer(settings, model, features.to(memory_format=torch.channels_last))
        if (state := run.load_state()) is not None:
            trainer.load_state_dict(state)
        _train(trainer, run, progress)
        generator, inverter = finished(trainer)
        _save(run.folder / "model", model, generator, inverter)
        return generator


def _train(trainer: SharpenTrainer, run: Run, progress: bool) -> None:
    """All steps that are left."""
    settings: SharpenRecipe = trainer.settings
    total = settings.steps.faces + settings.steps.detail
    bar = tqdm(total=total, initial=trainer.step, unit="steps", desc="sharpen", disable=None if progress else True)
    with bar:
        while trainer.step < total:
            losses = trainer.train_step()
            bar.update()
            if trainer.step % settings.log_every == 0:
                bar.set_postfix({name: f"{value:.3f}" for name, value in losses.items()})
                run.log(trainer.step, **losses)
            if trainer.step % settings.save_every == 0 or trainer.step == total:
                run.save_state(trainer.state_dict())
                save_png(grid(trainer), run.folder / f"faces_{trainer.step:06d}.png")


def finished(trainer: SharpenTrainer) -> tuple[Generator, Inverter]:
    """The averages as a generator, with a mapping to the codes and the statistics of w, and its inverter."""
    codes = trainer.codes
    codes.measure()
    generator, inverter, root = whitened(trainer.average, trainer.inverter, codes.mean, codes.root)
    generator, shift = with_gaussian(generator, torch.zeros_like(codes.mean), root)
    inverter.linear.bias.data += shift
    generator.w_avg[:], generator.w_std[...] = w_statistics(generator, seed=trainer.settings.seed)
    return generator.eval().requires_grad_(False), inverter.eval().requires_grad_(False)


def _save(folder: Path, model: Model, generator: Generator, inverter: Inverter) -> None:
    guidance = replace(model.config.guidance, size=generator.config.size // 2)
    config = replace(model.config, generator=generator.config, inverter=inverter.config, mapper=None, guidance=guidance)
    save_changed(model, folder, config=config, generator=generator, inverter=inverter, mapper=None, bank=None)


@torch.no_grad()
def grid(trainer: SharpenTrainer) -> Tensor:
    """Rows of pictures (1,3,H,W): portraits, their rendering, means of eight, draws."""
    gallery, codes, synthesis = trainer.gallery, trainer.codes, trainer.average.synthesis
    rows = np.linspace(0, gallery.num_portraits - 1, COLUMNS).astype(int)
    z = torch.randn(COLUMNS, len(codes.mean), generator=torch.Generator().manual_seed(1))
    w = codes.known[: gallery.num_portraits]
    means = w[torch.arange(8 * COLUMNS) % len(w)].view(COLUMNS, 8, -1).mean(1)
    drawn = [synthesis(w) for w in (w[rows], means, codes.mean + z @ codes.root.T)]
    return torch.cat([torch.cat(list(row), 2) for row in (gallery.whole(rows), *drawn)], 1)[None]
