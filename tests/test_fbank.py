"""Kaldi's filter bank against a plain loop after Kaldi's documentation, and the front end that it is a part of."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from fill import inp
from voicestyle.audio import log_mel
from voicestyle.config import LogMelConfig
from voicestyle.fbank import fbank


def voice(num_samples: int) -> Tensor:
    return inp("fbank", (num_samples,), lo=-0.3).double()


def naive_fbank(waveform: np.ndarray) -> np.ndarray:
    """compute-fbank-feats with 80 bands and no dither, frame by frame and band by band."""
    mel = lambda hz: 1127 * math.log(1 + hz / 700)  # noqa: E731
    window = [(0.5 - 0.5 * math.cos(2 * math.pi * n / 399)) ** 0.85 for n in range(400)]
    corners = [mel(20) + i * (mel(8000) - mel(20)) / 81 for i in range(82)]
    rows = []
    for start in range(0, len(waveform) - 399, 160):
        frame = waveform[start : start + 400] - waveform[start : start + 400].mean()
        emphasized = [frame[n] - 0.97 * frame[max(n - 1, 0)] for n in range(400)]
        power = np.abs(np.fft.rfft(np.array(emphasized) * window, 512)) ** 2
        row = []
        for left, center, right in zip(corners, corners[1:], corners[2:], strict=False):
            energy = 0.0
            for k in range(256):
                m = mel(k * 16000 / 512)
                if left < m < right:
                    energy += power[k] * (
                        (m - left) / (center - left) if m <= center else (right - m) / (right - center)
                    )
            row.append(math.log(max(energy, 2.0**-23)))
        rows.append(row)
    return np.array(rows).T


def test_fbank_is_kaldis() -> None:
    waveform = voice(400 + 160 * 3 + 59)
    expected = naive_fbank(waveform.numpy())
    assert expected.shape == (80, 4)
    np.testing.assert_allclose(fbank(waveform).numpy(), expected, atol=1e-9)
    np.testing.assert_allclose(fbank(waveform.float()).numpy(), expected, atol=1e-3)


def test_silence_stands_at_the_floor_and_less_than_a_frame_is_refused() -> None:
    assert torch.equal(fbank(torch.zeros(400)), torch.full((80, 1), math.log(2.0**-23)))
    with pytest.raises(ValueError, match=r"shape \(399,\), expected \(n,\) with n >= 400"):
        fbank(torch.zeros(399))


@pytest.mark.parametrize("seconds", [1.0, 1.7, 3.3])
def test_two_front_ends_stand_on_top_of_each_other(seconds: float) -> None:
    waveform = voice(int(16000 * seconds))
    both = log_mel(waveform, LogMelConfig.ge2e_fbank(), torch.float64)[0]
    mel, energies = log_mel(waveform, LogMelConfig.ge2e(), torch.float64)[0], fbank(waveform)
    assert both.shape == (120, max(mel.shape[1], energies.shape[1]))
    torch.testing.assert_close(both[:40, : mel.shape[1]], mel)
    assert not both[:40, mel.shape[1] :].any()
    torch.testing.assert_close(both[40:, : energies.shape[1]], energies)
    if both.shape[1] > energies.shape[1]:  # repeated from the beginning
        rest = both[40:, energies.shape[1] :]
        torch.testing.assert_close(rest, energies[:, : rest.shape[1]])
