"""Train a StyleGAN2 generator: as a decoder of face codes, adversarially, or as both.

A plain GAN is a recipe whose batches are all random samples. With few pictures, codes of them
(`train.generator.codes`) teach a decoder first, and a discriminator then sharpens faces, means and samples alike.
Stages may start small and grow.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from voicestyle.convert.dlib import read_state
from voicestyle.files import written_whole
from voicestyle.image import from_pil, save_png
from voicestyle.latent import w_statistics
from voicestyle.nn.dlib_resnet import DlibResNet
from voicestyle.nn.stylegan2 import Generator
from voicestyle.train.distributed import World, connect
from voicestyle.train.generator.codes import FaceCodes
from voicestyle.train.generator.losses import Judge, identity_loss
from voicestyle.train.generator.morph import MorphSpace, landmarks_of
from voicestyle.train.generator.settings import GeneratorRecipe, IdentityConfig, read_settings
from voicestyle.train.generator.trainer import GeneratorTrainer
from voicestyle.train.pictures import PictureFile, PictureStream, list_pictures
from voicestyle.train.recipe import named
from voicestyle.train.run import Run, read_own

GRID_COLUMNS = 10


def train_generator(
    recipe: Mapping[str, Any], out: str | Path, resume: bool = False, progress: bool = True, device: str | None = None
) -> Generator:
    """The generator that `recipe` describes, with averaged weights and the statistics of w.

    The run folder `out` gets the log, the state (every ``save_every`` steps), grids of samples and, at the end,
    ``generator.pt``. Under torchrun, its processes train together; each returns the generator.

    Args:
        recipe: as `recipe.load_recipe` returns it
        out: folder of the run
        resume: go on with the run that the folder holds
        progress: show a bar
        device: "cpu", "cuda", ...; None: the GPU where there is one

    Raises:
        FileNotFoundError, ValueError: a file of the recipe is missing, or a setting does not fit
        ConnectionError: another process was lost
    """
    settings = read_settings(recipe)
    # listed here, for a path that is wrong must not leave a run folder behind
    files = list_pictures(settings.data) if settings.codes is None else []
    with named(recipe), connect(device) as world, Run.start(out, recipe, resume, world) as run:
        state = run.load_state()
        trainer = _make_trainer(settings, files, world, is_new=state is None)
        if state is not None:
            run.restore(trainer.load_state_dict, state)
        _train(trainer, run, progress and world.is_main)
        generator = trainer.average
        generator.w_avg[:], generator.w_std[...] = w_statistics(generator, seed=settings.seed)
        if world.is_main:
            with written_whole(run.folder / "generator.pt", durable=True) as beside, beside.open("wb") as file:
                torch.save(generator.state_dict(), file)
        return generator


def _train(trainer: GeneratorTrainer, run: Run, progress: bool) -> None:
    """All steps that are left; the bar counts pictures."""
    settings = trainer.settings
    batches = [stage.batch for stage in trainer.stages for _ in range(stage.steps)]
    bar = tqdm(
        total=sum(batches),
        initial=sum(batches[: trainer.step]),
        unit="pictures",
        desc="generator",
        disable=None if progress else True,
    )
    with bar:
        while trainer.step < trainer.total:
            losses = trainer.train_step()
            bar.update(batches[trainer.step - 1])
            if trainer.step % settings.log_every == 0:
                bar.set_postfix({name: f"{value:.3f}" for name, value in losses.items()})
                run.log(trainer.step, **losses)
            if trainer.step % settings.save_every == 0 or trainer.step == trainer.total:
                if trainer.world.is_main:  # before the state, which a resumed run goes on from: no picture is left out
                    save_png(sample_grid(trainer), run.folder / f"samples_{trainer.step:06d}.png")
                run.save_state(trainer.state_dict())


def _make_trainer(settings: GeneratorRecipe, files: list[PictureFile], world: World, is_new: bool) -> GeneratorTrainer:
    start = None
    if settings.start and is_new:
        path = Path(settings.start) / "state" / "last.pt"
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no saved state to start from; train that run first")
        start = read_own(path)
    judge = _judge(settings.identity, world.device) if settings.identity else None
    faces, stream = load_faces(settings, world), None
    if faces is None:
        data = settings.data
        stream = PictureStream(
            files, settings.generator.size, mirror=data.mirror, in_memory=data.in_memory, num_workers=data.num_workers
        )
    return GeneratorTrainer(settings, world, stream, faces, judge, start)


def load_faces(settings: GeneratorRecipe, world: World) -> FaceCodes | None:
    """Codes of the training pictures; None where the recipe has no section ``[codes]``."""
    if settings.codes is None:
        return None
    config = settings.generator
    space = MorphSpace.build(*load_pictures(settings, config.size))
    return FaceCodes(space, config.z_dim, config.w_dim, world.device)


def load_pictures(settings: GeneratorRecipe, size: int) -> tuple[Tensor, Tensor]:
    """The pictures (N,3,size,size) in which a face is found, and landmarks (N,68,2)."""
    assert settings.codes is not None
    pils = [file.open() for file in list_pictures(settings.data)]
    landmarks, found = landmarks_of(pils, settings.codes.landmarks)
    return torch.cat([from_pil(pils[i], size) for i in found]), landmarks


def _judge(config: IdentityConfig, device: torch.device) -> Judge:
    network = DlibResNet()
    network.load_state_dict(read_state(config.weights))
    network.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)
    return partial(identity_loss, network, config.crop)


@torch.no_grad()
def sample_grid(trainer: GeneratorTrainer) -> Tensor:
    """Rows of pictures (1,3,H,W): random samples, and the same truncated.

    Above them, where there are codes: training faces, their rendering, means of two and of eight.
    """
    average, faces, device = trainer.average, trainer.faces, trainer.world.device
    rng = torch.Generator().manual_seed(1)
    noise = "const" if trainer.entered.noise else "none"
    rows = []
    if faces is not None:
        chosen = torch.randint(len(faces), (GRID_COLUMNS * 8,), generator=rng)
        w = average.mapping(faces.codes[chosen].to(device)) + faces.own[chosen].to(device)
        w = w.view(GRID_COLUMNS, 8, -1)
        rows += [faces.pictures(chosen[::8]).to(device)]
        rows += [average.synthesis(w[:, :num].mean(1), noise) for num in (1, 2, 8)]
    for _ in range(1 if rows else 4):
        w = average.mapping(torch.randn(GRID_COLUMNS, average.config.z_dim, generator=rng).to(device))
        rows += [average.synthesis(w, noise), average.synthesis(average.w_avg.lerp(w, 0.7), noise)]
    return torch.cat([torch.cat(list(row), 2) for row in rows], 1)[None]
