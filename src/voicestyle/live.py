"""A generation that can be watched: each step of the method tells what it has to show, as soon as it is there."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from voicestyle.audio import load_audio, speech_frames
from voicestyle.image import to_pil
from voicestyle.show import prototype_latents, way_images

if TYPE_CHECKING:
    from voicestyle.generation import Generation
    from voicestyle.pipeline import VoiceStyle
    from voicestyle.prototypes import Nearest

# what happened, JSON-ready details, pictures by name; may raise to stop the work
Tell = Callable[[str, dict[str, Any], dict[str, PIL.Image.Image]], None]

NUM_PEAKS = 240  # of the outline of a recording
NUM_FRAMES = 25  # of the way from prototype to face
EVERY = 4  # steps from one picture on the way to the next


@dataclass(frozen=True, eq=False)
class Heard:
    """A voice that was listened to."""

    voice_emb: Tensor  # (1,D) unit norm
    outline: dict[str, Any]  # see `outline`


def hear(vs: VoiceStyle, clip: str | Path) -> Heard:
    """A recording's embedding, and how it is drawn.

    Raises:
        FileNotFoundError, ValueError: as `VoiceStyle.encode_voice`
    """
    rate = vs.config.encoder.log_mel.sample_rate
    waveform = load_audio(clip, rate)
    return Heard(vs.encode_voice(waveform, rate), outline(vs, waveform))


def watch_generation(
    vs: VoiceStyle,
    voice: Heard,
    tell: Tell,
    *,
    seed: int = 0,
    num_faces: int = 1,
    steps: int | None = None,  # this and the next: the model's own where None
    k: int | None = None,
) -> Generation:
    """The faces of a voice; told on the way: voice, prototypes, start, step (many), faces, way (one a face)."""
    own = vs.config.guidance
    settings = dataclasses.replace(own, steps=own.steps if steps is None else steps, k=own.k if k is None else k)
    voice_emb = voice.voice_emb
    tell("voice", voice.outline, {})
    nearest = vs.nearest_prototypes(voice_emb, settings.k, settings.num_members, settings.member_order)
    tell("prototypes", *prototypes(vs, nearest))
    start = vs.initial_latents(voice_emb, nearest, 1, seed, settings)
    tell("start", {}, {"start": to_pil(vs.synthesize(start))[0]})

    def observe(step: int, image: Tensor, w: Tensor, loss: Tensor) -> None:
        shown = image if step % EVERY == 0 else image[:0]
        pictures = {f"step-{step:03d}-{face + 1}": pil for face, pil in enumerate(to_pil(shown))}
        tell("step", {"step": step + 1, "of": settings.steps}, pictures)

    made = vs.generate_from(voice_emb, settings, seed, num_faces, observe)
    faces = {f"face-{face + 1}": pil for face, pil in enumerate(to_pil(made.image))}
    tell("faces", {"similarity": made.similarity.tolist()}, faces)
    for face in range(num_faces):
        frames = to_pil(way_images(vs, made, face, torch.linspace(0, 1, NUM_FRAMES)))
        tell("way", {"face": face + 1}, {f"way-{face + 1}-{i:02d}": frame for i, frame in enumerate(frames)})
    return made


def outline(vs: VoiceStyle, waveform: Tensor) -> dict[str, Any]:
    """A recording (n,) as it is drawn: seconds, its peaks in [0,1], and from where to where there is speech."""
    config = vs.config.encoder.log_mel
    samples = waveform.abs().numpy()
    peaks = [float(part.max(initial=0)) for part in np.array_split(samples, min(NUM_PEAKS, max(1, len(samples))))]
    top = max(peaks) or 1.0
    keep, length = speech_frames(waveform, config) if config.vad else (np.ones(1, bool), len(waveform))
    edges = np.flatnonzero(np.diff([False, *keep, False])).reshape(-1, 2) * (length / config.sample_rate)
    return {
        "seconds": round(len(waveform) / config.sample_rate, 2),
        "speech_s": round(float(keep.sum()) * length / config.sample_rate, 2),
        "peaks": [round(peak / top, 3) for peak in peaks],
        "speech": np.round(edges, 2).tolist(),
    }


def prototypes(vs: VoiceStyle, nearest: Nearest) -> tuple[dict[str, Any], dict[str, PIL.Image.Image]]:
    """The nearest prototypes with their members, JSON-ready, and a picture of each; rendered, never photographs."""
    bank = vs.bank
    images = to_pil(vs.synthesize(torch.cat([prototype_latents(vs, nearest), bank.latents[nearest.members]])))
    told = vs.describe(nearest)
    pictures = {}
    for kind, picture in zip([*told["prototypes"], *told["members"]], images, strict=True):
        name = f"member-{kind['member']}" if "member" in kind else f"prototype-{kind['prototype']}"
        kind["picture"] = name
        pictures[name] = picture
    for prototype in told["prototypes"]:
        prototype["size"] = int((bank.assignments == prototype["prototype"]).sum())
    return told, pictures


def compare(vs: VoiceStyle, voice_emb: Tensor, face_emb: Tensor) -> dict[str, Any]:
    """How similar a voice (1,D) and a face (1,D) are: the cosine, and its percentile among random people's faces.

    The random people are those of the bank: of 100 of them, so many are less similar to this voice.
    """
    similarity = vs.similarity(voice_emb, face_emb).item()
    others = vs.bank.member_emb
    if others is None:
        return {"similarity": similarity}
    below = (others @ voice_emb[0].to(others) < similarity).float().mean().item()
    return {"similarity": similarity, "percentile": round(100 * below, 1), "among": len(others)}
