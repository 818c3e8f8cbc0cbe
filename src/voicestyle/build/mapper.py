"""Teach a model's mapper what guidance does, so that a face takes one pass: distillation of the guided steps."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from voicestyle.checkpoint import check_replaceable, save_changed
from voicestyle.config import MapperConfig
from voicestyle.data.manifest import Manifest
from voicestyle.guidance import VoiceObjective, seen_size
from voicestyle.latent import lr_ramp
from voicestyle.nn.mapper import Mapper
from voicestyle.pipeline import VoiceStyle

BETAS = (0.9, 0.99)  # a few hundred steps: the square has to settle within a hundred
MIXED = 0.5  # part of the voices of a step that lie between two voices: nearly as many as one likes


def distill(
    vs: VoiceStyle,
    manifests: Sequence[str | Path],
    out: str | Path,  # a model folder
    *,
    split: str = "train",
    limit: int = 400,  # voices that are heard, a tenth of a second each
    steps: int = 250,
    batch: int = 8,
    lr: float = 1e-2,
    hidden: int = 256,
    seed: int = 0,
    progress: Callable[[int], Any] = lambda num: None,  # told of each voice and each step
) -> tuple[Mapper, dict[str, Any]]:
    """The mapper, written to `out` in a model folder like that of `vs`; and how well it does on voices held back.

    Each step is one of guidance's, of a batch of voices: its objective, price of the way and random view included, and
    its gradient goes to the mapper instead of a latent. So what it learns is what guidance looks for, not where single
    runs of it ended. It sees starts with latent noise, as guidance does. A tenth of the voices is held back.

    Raises:
        ValueError: too few voices, or a model without generator or bank
    """
    check_replaceable(Path(out))
    rng = torch.Generator().manual_seed(seed)
    voices = _voices(vs, manifests, split, limit, rng, progress)
    held_back, voices = voices[: max(1, len(voices) // 10)], voices[max(1, len(voices) // 10) :]
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        mapper = Mapper(MapperConfig(vs.config.encoder.embed_dim, vs.generator.config.w_dim, hidden))
    mapper = mapper.to(vs.device)
    mapper.w_avg.copy_(vs.generator.w_avg)
    mapper.w_std.copy_(vs.generator.w_std)
    optimizer = torch.optim.Adam(mapper.parameters(), betas=BETAS)
    settings = dataclasses.replace(vs.config.guidance, num_views=1)
    until = seen_size(settings, vs.generator.config)
    for step in range(steps):
        emb = _some(voices, batch, rng)
        w_init = starts(vs, emb)
        w = mapper(emb, w_init + _noise(w_init, settings.latent_noise * vs.generator.w_std, rng))
        objective = VoiceObjective(vs.encoder, emb, w_init, settings, seed + step, vs.generator.w_std)
        loss = objective(vs.generator.synthesis(w, until=until).float(), w).mean()
        if not math.isfinite(loss.item()):
            raise ValueError(f"step {step}: the loss is not finite; lower the learning rate")
        optimizer.param_groups[0]["lr"] = lr * lr_ramp(step / steps)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        progress(1)
    mapper.eval().requires_grad_(False)
    report = _report(vs, mapper, held_back)
    config = dataclasses.replace(vs.model.config, mapper=mapper.config)
    save_changed(vs.model, out, config=config, mapper=mapper)
    return mapper, report


def starts(vs: VoiceStyle, voice_emb: Tensor) -> Tensor:
    """Where guidance of each voice (N,D) starts (N,w_dim)."""
    return torch.cat([vs.initial_latents(voice, vs.nearest_prototypes(voice)) for voice in voice_emb.split(1)])


def _voices(
    vs: VoiceStyle,
    manifests: Sequence[str | Path],
    split: str,
    limit: int,
    rng: torch.Generator,
    progress: Callable[[int], Any],
) -> Tensor:
    """Embeddings (N,D) of up to `limit` voices in random order, of as many people as there are."""
    listed = [item for path in manifests for item in Manifest.read(path).split(split) if item.voice]
    heard: Counter[str] = Counter()
    turns = []
    for place in torch.randperm(len(listed), generator=rng).tolist():  # one voice of each person, then a second, ...
        turns.append((heard[listed[place].identity], place))
        heard[listed[place].identity] += 1
    found: list[Tensor] = []
    for _, place in sorted(turns, key=lambda turn: turn[0]):
        if len(found) == limit:
            break
        try:
            found.append(vs.encode_voice(listed[place].file("voice")))
        except ValueError:  # too short, or silent: another takes its place
            continue
        progress(1)
    if len(found) < 10:
        raise ValueError(f"{manifests[0]}: {len(found)} usable voices in split {split!r}, expected at least 10")
    return torch.cat(found)[torch.randperm(len(found), generator=rng)]


def _some(voices: Tensor, num: int, rng: torch.Generator) -> Tensor:
    """A batch of voices, some of them on the way from one to another."""
    first, second = (voices[torch.randint(len(voices), (num,), generator=rng)] for _ in range(2))
    part = torch.rand(num, 1, generator=rng) * (torch.rand(num, 1, generator=rng) < MIXED)
    return F.normalize(first.lerp(second, part.to(first)), dim=1)


def _noise(like: Tensor, scale: Tensor, rng: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=rng).to(like) * scale * torch.rand(len(like), 1, generator=rng).to(like)


@torch.no_grad()
def _report(vs: VoiceStyle, mapper: Mapper, voices: Tensor) -> dict[str, Any]:
    """Similarity of voice and face of voices held back: of the start, of the mapper's latent; and how far it went."""
    w_init = starts(vs, voices)
    w = mapper(voices, w_init)
    similar = [(voices * vs.encode_face(vs.synthesize(latent))).sum(1).mean().item() for latent in (w_init, w)]
    way = ((w - w_init).norm(dim=1) / vs.generator.w_std).mean().item()
    return {"voices": len(voices), "similarity of the start": similar[0], "fast": similar[1], "way / w_std": way}
