"""The batches of a training: which items a step sees, and what of them.

All is a function of the seed and the step, so that a resumed run goes on with the batches that a whole one would have
seen, and of several processes each takes its share of the same batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from voicestyle.audio import load_audio, log_mel, normalize_volume, remove_silence
from voicestyle.data.manifest import Item
from voicestyle.data.shards import LogMelShards
from voicestyle.image import crop_resize
from voicestyle.seeds import mixed_rng, mixed_seed
from voicestyle.train.distributed import World
from voicestyle.train.encoder.augment import (
    augment_picture,
    augment_waveform,
    jitter_crop,
    mask_log_mel,
    window_start,
)
from voicestyle.train.encoder.settings import EncoderRecipe
from voicestyle.train.encoder.views import Views, average_windows, canonical_pictures, number_identities, pad_frames


@dataclass(frozen=True)
class Batch:
    """B pairs, of which this process has its share."""

    rows: Tensor  # (B,) of all processes
    voice: Tensor  # (B / world_size, ...)
    face: Tensor  # (B / world_size, ...)


def step_seed(seed: int, step: int, stream: int, rank: int = 0) -> int:
    """A seed of this step, another one for each stream of random numbers and each process."""
    return mixed_seed(seed, "step", step, stream, rank)


def rows_of_step(num_rows: int, batch: int, seed: int, step: int) -> Tensor:
    """(B,) the rows of a step: its part of the epoch, whose order is drawn from the seed. What is left over waits."""
    epoch, part = divmod(step, max(1, num_rows // batch))
    order = torch.randperm(num_rows, generator=mixed_rng(seed, "order of an epoch", epoch))
    return order[part * batch : (part + 1) * batch]


def view_batches(views: Views, settings: EncoderRecipe, world: World, first_step: int = 0) -> Iterator[Batch]:
    """Batches of cached views from a step on: a random view of each voice and face."""
    num_rows, size = len(views.items), settings.schedule.batch
    for step in range(first_step, settings.schedule.steps):
        rows = rows_of_step(num_rows, size, settings.seed, step)
        rng = torch.Generator().manual_seed(step_seed(settings.seed, step, 0))
        own = world.share(len(rows))

        def draw(held: Tensor, count: int, rows: Tensor = rows, rng: torch.Generator = rng, own: slice = own) -> Tensor:
            chosen = torch.randint(held.shape[1], (len(rows), count), generator=rng)
            return held[rows[own, None], chosen[own]].float()

        voice = average_windows(draw(views.voice, settings.views.windows_per_view), settings.are_features)
        yield Batch(rows, voice, draw(views.face, 1)[:, 0])


@dataclass(frozen=True)
class Items(Dataset):
    """Items that are read and augmented when they are asked for, by worker processes if there are any.

    An index is (row, seed); it gives (row, voice (1, n_mels, num_frames), face (3, S, S)), a function of the two.
    """

    items: tuple[Item, ...]
    log_mels: LogMelShards  # of all items
    settings: EncoderRecipe

    @property
    def identities(self) -> Tensor:
        """(N,) int64, numbered in the order in which they first come."""
        return number_identities(self.items)

    def __len__(self) -> int:
        return len(self.items)

    def take(self, rows: Tensor) -> Items:
        """Some of the items: their numbers, or one boolean an item."""
        chosen = torch.arange(len(self.items))[rows].tolist()
        return Items(tuple(self.items[row] for row in chosen), self.log_mels, self.settings)

    def __getitem__(self, index: tuple[int, int]) -> tuple[int, Tensor, Tensor]:
        row, seed = index
        rng = torch.Generator().manual_seed(seed)
        return row, self.voice(self.items[row], rng), self.face(self.items[row], rng)

    def voice(self, item: Item, rng: torch.Generator) -> Tensor:
        """A window (1, n_mels, num_frames) of the item's voice, augmented."""
        front_end, config = self.settings.encoder.config.log_mel, self.settings.augment.voice
        held = self._changed(item, rng) if config.changes_waveform else self.log_mels[item.key]
        held = pad_frames(held, front_end.num_frames)
        start = window_start(held.shape[2], front_end.num_frames, config, rng)
        return mask_log_mel(held[:, :, start : start + front_end.num_frames], config, rng)

    def _changed(self, item: Item, rng: torch.Generator) -> Tensor:
        """The log-mel of the recording in a room or in noise, its silence removed before."""
        front_end = self.settings.encoder.config.log_mel
        waveform = load_audio(item.file("voice"), front_end.sample_rate)
        if front_end.front_end.startswith("ge2e"):
            waveform = normalize_volume(waveform)
        if front_end.vad:
            waveform = remove_silence(waveform, front_end)
        waveform = augment_waveform(waveform, self.settings.augment.voice, front_end.sample_rate, rng)
        return log_mel(waveform, front_end)

    def face(self, item: Item, rng: torch.Generator) -> Tensor:
        """One of the item's pictures (3, S, S), augmented."""
        frame, config = self.settings.encoder.image, self.settings.augment.face
        pictures = canonical_pictures(item, self.settings.views.wild)
        picture = pictures[int(torch.randint(len(pictures), (), generator=rng))]
        return augment_picture(crop_resize(picture, jitter_crop(frame.crop, config, rng), frame.size)[0], config, rng)


def item_batches(items: Items, settings: EncoderRecipe, world: World, first_step: int = 0) -> Iterator[Batch]:
    """Batches of items that are read on the way, from a step on."""
    plan = _Plan(len(items), settings, world, first_step)
    workers = settings.views.num_workers
    loader = DataLoader(
        items,
        batch_sampler=plan,
        num_workers=workers,
        pin_memory=world.device.type == "cuda",
        generator=torch.Generator(),
        multiprocessing_context="spawn" if workers else None,
    )
    for step, (_, voice, face) in enumerate(loader, start=first_step):
        yield Batch(rows_of_step(len(items), settings.schedule.batch, settings.seed, step), voice, face)


@dataclass(frozen=True)
class _Plan:
    """For each step the (row, seed) of this process' share."""

    num_rows: int
    settings: EncoderRecipe
    world: World
    first_step: int

    def __len__(self) -> int:
        return self.settings.schedule.steps - self.first_step

    def __iter__(self) -> Iterator[Sequence[tuple[int, int]]]:
        for step in range(self.first_step, self.settings.schedule.steps):
            rows = rows_of_step(self.num_rows, self.settings.schedule.batch, self.settings.seed, step)
            rng = torch.Generator().manual_seed(step_seed(self.settings.seed, step, 0))
            seeds = torch.randint(2**62, (len(rows),), generator=rng)
            own = self.world.share(len(rows))
            yield list(zip(rows[own].tolist(), seeds[own].tolist(), strict=True))


def batches(data: Views | Items, settings: EncoderRecipe, world: World, first_step: int = 0) -> Iterator[Batch]:
    """The batches of either kind of data, from a step to the last."""
    if isinstance(data, Views):
        return view_batches(data, settings, world, first_step)
    return item_batches(data, settings, world, first_step)
