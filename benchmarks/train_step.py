"""Pairs a second of an encoder's training step against a plain one, alternating in one run.

    python benchmarks/train_step.py [--recipe recipes/pairs_resnet10_encoder.toml] [--batch 32] [--rounds 3] \
        [--set schedule.precision=bfloat16] [--compile] [--device cpu] [--threads 1]

The plain step is what one would write first: two ResNets in eager float32, NCHW, the loss of a batch, backward, Adam.
Ours is the recipe's step with all that belongs to it (autocast, memory format, bank, recalibration, averages). Both see
the same random inputs, so that reading is not timed. Prints medians, ratios, and how far the first losses are apart.
On one thread of a CPU the time is the processor's own, whatever else the machine does.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F

from voicestyle.losses import cmpc_loss
from voicestyle.nn.encoder import VoiceFaceEncoder
from voicestyle.train.distributed import World
from voicestyle.train.encoder.batches import Batch
from voicestyle.train.encoder.settings import EncoderRecipe, read_settings
from voicestyle.train.encoder.start import start_encoder
from voicestyle.train.encoder.trainer import Trainer
from voicestyle.train.recipe import load_recipe

RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "pairs_resnet10_encoder.toml"


class PlainStep:
    """Eager float32: two towers, cosine, cross entropy, Adam."""

    def __init__(self, encoder: VoiceFaceEncoder, settings: EncoderRecipe, device: torch.device) -> None:
        self.encoder, self.temperature, self.device = encoder.to(device).train(), settings.objective.temperature, device
        self.optimizer = torch.optim.Adam(encoder.parameters(), settings.schedule.lr)

    def __call__(self, batch: Batch) -> torch.Tensor:
        voice = self.encoder.voice_bridge(self.encoder.voice_backbone(batch.voice.to(self.device)))
        face = self.encoder.face_bridge(self.encoder.face_backbone(batch.face.to(self.device)))
        loss = cmpc_loss(F.normalize(voice, dim=1), F.normalize(face, dim=1), temperature=self.temperature)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()


def timed(step: Callable[[Batch], torch.Tensor], batch: Batch, device: torch.device, threads: int) -> float:
    clock = time.process_time if device.type == "cpu" and threads == 1 else time.perf_counter
    start = clock()
    step(batch)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    parser.add_argument("--compile", action="store_true", help="our towers by torch.compile")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    recipe = load_recipe(args.recipe, EncoderRecipe, args.overrides)
    settings = read_settings(recipe)
    settings = replace(settings, schedule=replace(settings.schedule, compile=args.compile, batch=args.batch, warmup=0))
    world, front_end = World(torch.device(args.device)), settings.encoder.config.log_mel
    rng = torch.Generator().manual_seed(0)
    voice = torch.randn(args.batch, 1, front_end.n_mels, front_end.num_frames, generator=rng)
    size = settings.encoder.image.size
    batch = Batch(torch.arange(args.batch), voice, torch.rand(args.batch, 3, size, size, generator=rng) * 2 - 1)
    encoder = start_encoder(settings)
    trainer = Trainer(settings, copy.deepcopy(encoder), torch.arange(4 * args.batch), world=world)
    plain = PlainStep(encoder, settings, world.device)
    steps = {"plain": plain, "ours": lambda batch: trainer.train_step(batch)["loss"]}
    first = {name: step(batch).item() for name, step in steps.items()}  # warms up too
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(args.rounds):
        for name, step in steps.items():
            times[name].append(timed(step, batch, world.device, args.threads))
    rates = {name: args.batch / median(spent) for name, spent in times.items()}
    for name, rate in rates.items():
        print(f"{name}: {rate:.1f} pairs/s, first loss {first[name]:.4f}")
    schedule = settings.schedule
    print(
        f"ratio {rates['ours'] / rates['plain']:.2f} ({schedule.precision}{', compiled' if schedule.compile else ''})"
    )


if __name__ == "__main__":
    main()
