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
# Real recordings pass, and noise and music do not (docs/results.md, "Warnings about inputs").
PROBABILITY = 0.5  # above it, a stretch of 32 ms counts as speech; Silero's default
MIN_SPEECH_S = 0.3  # seconds; less is none
MIN_SHARE = 0.25  # of the stretches that sound: less speech than that is little
SOUNDING = 0.1  # of the loudest twentieth; what is quieter is a pause
MIN_RANGE_DB = 6.0  # from quiet to loud stretches; less is speech that drowns: dev/LOG.md, 2026-11-29


def warn_unless_speech(name: str, waveform: Tensor) -> None:
    """Warn where `doubt` has something to say of a recording (num_samples,) at 16 kHz."""
    found = doubt(waveform)
    if found is None:
        return
    advice = "a face of it would say nothing, for noise and music get one too"
    if found.startswith("little"):
        advice = "give a clearer recording"
    warnings.warn(f"{name}: {found}; {advice}", stacklevel=2)


def doubt(waveform: Tensor) -> str | None:
    """Why a recording (num_samples,) at 16 kHz is not to be believed: no speech, or little and much else. None: it may.

    Its beginning and 30 s of it are listened to. Nothing is said of less than a stretch.
    """
    if len(waveform) < WINDOW:
        return None
    waveform = normalize_volume(waveform[: 30 * 16000].detach().cpu().to(torch.float32))
    with torch.no_grad():
        is_speech = detector()(waveform) > PROBABILITY
    speech_s, recorded_s = int(is_speech.sum()) * WINDOW / 16000, len(waveform) / 16000
    if speech_s < MIN_SPEECH_S:
        return f"no speech found in {recorded_s:.1f} s"
    if (share := share_of_speech(is_speech, waveform)) < MIN_SHARE:
        return f"little speech, much noise: {speech_s:.1f} s, {share:.0%} of what sounds"
    if (range_db := loudness_range_db(waveform)) < MIN_RANGE_DB:
        return f"little but noise: what is loud stands {range_db:.0f} dB above what is quiet"
    return None


def loudness_range_db(waveform: Tensor) -> float:
    """From the quiet tenth of the stretches to the loud one; stretches of zeros are no recording."""
    loudness = _stretches(waveform).square().mean(1).sqrt()
    quiet, loud = loudness[loudness > 0].quantile(loudness.new_tensor([0.1, 0.9]))
    return float(20 * (loud / quiet).log10())


def share_of_speech(is_speech: Tensor, waveform: Tensor) -> float:
    """The part of the stretches that sound in which there is speech."""
    stretches = _stretches(waveform)
    loudness = stretches.square().mean(1).sqrt()
    sounds = loudness > SOUNDING * loudness.quantile(0.95)
    is_speech = is_speech[: len(stretches)]
    return float((is_speech & sounds).sum() / sounds.sum().clamp(min=1))


def _stretches(waveform: Tensor) -> Tensor:
    return waveform[: len(waveform) // WINDOW * WINDOW].reshape(-1, WINDOW)


@lru_cache(maxsize=1)
def detector() -> SileroVAD:
    """The network, with the weights of the package."""
    network = SileroVAD().to(torch.float32)  # whatever the default type is: it is kept
    network.load_state_dict({name: value.to(torch.float32) for name, value in load_file(WEIGHTS).items()})
    return network.eval().requires_grad_(False)
