"""A generation that can be watched: each step of the method tells what it has to show, as soon as it is there."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from torch import Tensor

from voicestyle.audio import load_audio, normalize_volume, speech_frames, voice_input
from voicestyle.image import to_pil
from voicestyle.show import evidence, way_images
from voicestyle.speech import doubt

if TYPE_CHECKING:
    from voicestyle.generation import Generation
    from voicestyle.pipeline import VoiceStyle
    from voicestyle.prototypes import Nearest

# what happened, JSON-ready details, pictures by name; may raise to stop the work
Tell = Callable[[str, dict[str, Any], dict[str, PIL.Image.Image]], None]

Load = Callable[[Path | str, int], Tensor]  # what `load_audio` does: a path, a rate in Hz

NUM_PEAKS = 240  # of the outline of a recording
NUM_FRAMES = 25  # of the way from prototype to face
EVERY = 4  # steps from one picture on the way to the next


@dataclass(frozen=True, eq=False)
class Heard:
    """A voice that was listened to."""

    voice_emb: Tensor  # (1,D) unit norm
    features: Tensor  # (1,F) unit norm: of the networks that the embedding is made from
    outline: dict[str, Any]  # see `outline`
    halves: tuple[Tensor, Tensor] | None  # (2,D) and (2,F): the same of both halves of the clip; None: too short
    doubt: str | None  # why it is perhaps no speech, see `speech.doubt`


def hear(
    vs: VoiceStyle, clip: str | Path, max_s: float = math.inf, vad: bool | None = None, load: Load = load_audio
) -> Heard:
    """A recording's embedding, and how it is drawn; `vad`: remove silence first, as the model was trained where None.

    Raises:
        FileNotFoundError, ValueError: as `VoiceStyle.encode_voice`; a recording of more than `max_s` seconds
    """
    rate = vs.config.encoder.log_mel.sample_rate
    waveform = load(clip, rate)
    if len(waveform) > max_s * rate:
        raise ValueError(f"{clip}: {len(waveform) / rate:.0f} s long, at most {max_s:g} s are taken; cut it")
    try:
        voice_emb, features = _embed(vs, waveform, vad)
    except ValueError as error:
        raise ValueError(str(error).replace("waveform:", f"{clip}:", 1)) from None
    try:
        first, second = (_embed(vs, half, vad) for half in waveform.tensor_split(2))
        halves = torch.cat([first[0], second[0]]), torch.cat([first[1], second[1]])
    except ValueError:  # less speech in one of them than an embedding needs
        halves = None
    told = outline(vs, waveform, vad)
    return Heard(voice_emb, features, told, halves, doubt(waveform) if rate == 16000 else None)


@torch.no_grad()
def _embed(vs: VoiceStyle, waveform: Tensor, vad: bool | None) -> tuple[Tensor, Tensor]:
    """Embedding (1,D) and features (1,F) of a waveform, in one pass."""
    encoder = vs.encoder
    config = encoder.config.log_mel
    log_mel = voice_input(waveform, config, config.sample_rate, vad).to(vs.device)
    features = encoder.voice_features(log_mel)
    return F.normalize(encoder.voice_bridge(features), dim=1), F.normalize(features, dim=1)


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
    """The faces of a voice; told on the way: voice, prototypes, start, step (many), faces."""
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
    return made


def watch_ways(vs: VoiceStyle, made: Generation, tell: Tell) -> None:
    """The way from prototype to face, told once for each face: way."""
    for face in range(len(made.w)):
        frames = to_pil(way_images(vs, made, face, torch.linspace(0, 1, NUM_FRAMES)))
        tell("way", {"face": face + 1}, {f"way-{face + 1}-{i:02d}": frame for i, frame in enumerate(frames)})


def outline(vs: VoiceStyle, waveform: Tensor, vad: bool | None = None) -> dict[str, Any]:
    """A recording (n,) as it is drawn: seconds, its peaks in [0,1], and from where to where there is speech."""
    config = vs.config.encoder.log_mel
    samples = waveform.abs().numpy()
    peaks = [float(part.max(initial=0)) for part in np.array_split(samples, min(NUM_PEAKS, max(1, len(samples))))]
    top = max(peaks) or 1.0
    keep, length = np.ones(1, bool), len(waveform)
    if config.vad if vad is None else vad:
        is_raised = config.front_end.startswith("ge2e")  # as `voice_input` does it
        keep, length = speech_frames(normalize_volume(waveform) if is_raised else waveform, config)
    edges = np.flatnonzero(np.diff([False, *keep, False])).reshape(-1, 2) * (length / config.sample_rate)
    return {
        "seconds": round(len(waveform) / config.sample_rate, 2),
        "speech_s": round(float(keep.sum()) * length / config.sample_rate, 2),
        "peaks": [round(peak / top, 3) for peak in peaks],
        "speech": np.round(edges, 2).tolist(),
    }


def outline_svg(told: dict[str, Any]) -> str:
    """The same as a picture; bars in which there is speech are of class "speech"."""
    peaks, bars = told["peaks"], []
    for i, peak in enumerate(peaks):
        at, height = (i + 0.5) / len(peaks) * told["seconds"], max(2.0, 58 * peak)
        is_speech = any(start <= at <= end for start, end in told["speech"])
        kind = ' class="speech"' if is_speech else ""
        bars.append(f'<rect{kind} x="{3 * i}" y="{30 - height / 2:.1f}" width="2" height="{height:.1f}"/>')
    title = f"{told['seconds']:.1f} s, of which {told['speech_s']:.1f} s of speech were kept"
    view = f'viewBox="0 0 {3 * len(peaks)} 60" preserveAspectRatio="none"'
    return f'<svg role="img" aria-label="{title}" {view}>{"".join(bars)}</svg>'


def prototypes(vs: VoiceStyle, nearest: Nearest) -> tuple[dict[str, Any], dict[str, PIL.Image.Image]]:
    """`show.evidence` JSON-ready, and its pictures by the names that it has for them; rendered, never photographs."""
    told = evidence(vs, nearest)
    pictures = {}
    for kind in ("prototype", "member"):
        for item in told[f"{kind}s"]:
            item["picture"] = f"{kind}-{item[kind]}"
            (pictures[item["picture"]],) = to_pil(item.pop("image"))
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
