"""Kaldi's log mel filter bank, as speaker networks of 3D-Speaker and WeSpeaker take it."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

# kaldi feature-window.h and mel-computations.h with their defaults, 80 bands and no dither (3D-Speaker processor.py)
SAMPLE_RATE = 16000  # Hz
FRAME, HOP, N_FFT = 400, 160, 512  # samples
N_MELS = 80
F_MIN_HZ = 20.0
PRE_EMPHASIS = 0.97
POVEY = 0.85  # power of the Hann window
FLOOR = torch.finfo(torch.float32).eps  # of an energy, before the logarithm


def fbank(waveform: Tensor) -> Tensor:
    """Log mel energies (80, T) of a waveform (n,) at 16 kHz in [-1, 1], in its precision; T = 1 + (n - 400) // 160.

    Raises:
        ValueError: less than one frame
    """
    if waveform.ndim != 1 or len(waveform) < FRAME:
        raise ValueError(f"fbank: waveform of shape {tuple(waveform.shape)}, expected (n,) with n >= {FRAME}")
    window, filters = (t.to(waveform) for t in _window_and_filters())
    frames = waveform.unfold(0, FRAME, HOP)
    frames = frames - frames.mean(1, keepdim=True)
    before = torch.cat([frames[:, :1], frames[:, :-1]], dim=1)  # the first sample stands before itself
    spectrum = torch.fft.rfft((frames - PRE_EMPHASIS * before) * window, N_FFT)
    power = spectrum.real.square() + spectrum.imag.square()
    return (power @ filters).clamp_min(FLOOR).log().T


@lru_cache(maxsize=1)
def _window_and_filters() -> tuple[Tensor, Tensor]:
    """Window (400,) and filters (257, 80), triangles on the mel scale whose height is one, in float64."""
    window = torch.hann_window(FRAME, periodic=False, dtype=torch.float64) ** POVEY
    low, high = (1127 * math.log(1 + f / 700) for f in (F_MIN_HZ, SAMPLE_RATE / 2))
    corners = torch.linspace(low, high, N_MELS + 2, dtype=torch.float64)
    hz = torch.arange(N_FFT // 2 + 1, dtype=torch.float64) * (SAMPLE_RATE / N_FFT)
    mel = (1127 * (1 + hz / 700).log())[:, None]
    left, center, right = corners[:-2], corners[1:-1], corners[2:]
    return window, torch.minimum((mel - left) / (center - left), (right - mel) / (right - center)).clamp(min=0)
