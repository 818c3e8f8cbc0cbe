"""Is there speech in a recording at all? A network tells it from noise and music, which front ends let pass."""

from __future__ import annotations

import warnings
from functools import lru_cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from voicestyle.audio import normalize_volume
from voicestyle.nn.silero import WINDOW, SileroVAD

WEIGHTS = Path(__file__).parent / "models" / "silero_vad.safetensors"
# Chosen so that real recordings pass and noise and music do not: dev/LOG.md, 2026-11-29.
PROBABILITY = 0.5  # above it, a stretch of 32 ms counts as speech; Silero's default
MIN_SPEECH_S = 0.3  # seconds; less is none
MIN_SHARE = 0.25  # of the stretches that sound: less speech than that is little
SOUNDING = 0.1  # of the loudest twentieth; what is quieter is a pause


def warn_unless_speech(name: str, waveform: Tensor) -> None:
    """Warn where a recording (num_samples,) at 16 kHz holds no speech, or little speech and much else.

    Its beginning and 30 s of it are listened to. Nothing is said where the package has no weights of the detector.
    """
    network = detector()
    if network is None or len(waveform) < WINDOW:
        return
    waveform = normalize_volume(waveform[: 30 * 16000].detach().cpu().to(torch.float32))
    with torch.no_grad():
        is_speech = network(waveform) > PROBABILITY
    speech_s, recorded_s = int(is_speech.sum()) * WINDOW / 16000, len(waveform) / 16000
    if speech_s < MIN_SPEECH_S:
        warnings.warn(
            f"{name}: no speech found in {recorded_s:.1f} s; a face of it would say nothing, for noise and music get "
            "one too",
            stacklevel=2,
        )
    elif (share := share_of_speech(is_speech, waveform)) < MIN_SHARE:
        found = f"{speech_s:.1f} s, {share:.0%} of what sounds"
        warnings.warn(f"{name}: little speech, much noise: {found}; give a clearer recording", stacklevel=2)


def share_of_speech(is_speech: Tensor, waveform: Tensor) -> float:
    """The part of the stretches that sound in which there is speech."""
    stretches = waveform[: len(waveform) // WINDOW * WINDOW].reshape(-1, WINDOW)
    loudness = stretches.square().mean(1).sqrt()
    sounds = loudness > SOUNDING * loudness.quantile(0.95)
    is_speech = is_speech[: len(stretches)]
    return float((is_speech & sounds).sum() / sounds.sum().clamp(min=1))


@lru_cache(maxsize=1)
def detector() -> SileroVAD | None:
    """The network, or None where the package has no weights of it."""
    if not WEIGHTS.is_file():
        return None
    network = SileroVAD().to(torch.float32)  # whatever the default type is: it is kept
    network.load_state_dict({name: value.to(torch.float32) for name, value in load_file(WEIGHTS).items()})
    return network.eval().requires_grad_(False)
