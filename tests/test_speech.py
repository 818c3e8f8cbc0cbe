"""Speech is told from noise and music."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from tiny import VOICE
from voicestyle.decoding import load_audio
from voicestyle.nn.silero import WINDOW, SileroVAD
from voicestyle.speech import share_of_speech, warn_unless_speech

RNG = np.random.default_rng(0)
TIME = np.arange(96000) / 16000
NOISE = {
    "white": 0.2 * RNG.standard_normal(96000),
    "brown": np.cumsum(RNG.standard_normal(96000)) * 1e-3,
    "hum": 0.3 * np.sign(np.sin(2 * np.pi * 50 * TIME)),
    "chord": 0.1 * sum(np.sin(2 * np.pi * hz * TIME) for hz in (220, 277.2, 329.6, 440)),
    "drums": 0.4 * RNG.standard_normal(96000) * np.exp(-(TIME % 0.4) * 20),
}


def said(waveform) -> str:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_unless_speech("clip.wav", torch.as_tensor(waveform).float())
    return " ".join(str(warning.message) for warning in caught)


@pytest.mark.parametrize("kind", NOISE)
def test_noise_and_music_are_no_speech(kind: str) -> None:
    assert said(NOISE[kind]).startswith("clip.wav: no speech found in 6.0 s; a face of it would say nothing")


def test_speech_passes_with_pauses_and_some_noise() -> None:
    voice = load_audio(VOICE)
    noisy = voice + 0.1 * voice.std() * torch.from_numpy(RNG.standard_normal(len(voice))).float()
    for waveform in (voice, noisy, torch.cat([torch.zeros(160000), voice, torch.zeros(160000)]), 1e-3 * voice):
        assert said(waveform) == ""


def test_little_speech_in_much_noise() -> None:
    voice = load_audio(VOICE)[16000:40000]
    waveform = torch.cat([voice, torch.from_numpy(0.1 * RNG.standard_normal(240000)).float()])
    assert said(waveform).startswith("clip.wav: little speech, much noise: 1.")


def test_speech_that_drowns_in_noise() -> None:
    voice = load_audio(VOICE)
    noise = voice.std() * torch.from_numpy(np.random.default_rng(1).standard_normal(len(voice))).float()
    assert said(voice + noise).startswith("clip.wav: little but noise: what is loud stands ")
    assert said(voice + 0.3 * noise) == ""


def test_the_network_takes_any_length_and_knows_no_future() -> None:
    torch.manual_seed(0)
    network, waveform = SileroVAD().eval(), torch.from_numpy(NOISE["white"]).float()
    with torch.no_grad():
        whole = network(waveform)
        assert len(whole) == -(-96000 // WINDOW) and ((whole > 0) & (whole < 1)).all()
        assert torch.allclose(network(waveform[: 40 * WINDOW]), whole[:40], atol=1e-6)


def test_pauses_do_not_count_as_noise() -> None:
    loud, quiet = torch.ones(10 * WINDOW), 1e-3 * torch.ones(30 * WINDOW)
    is_speech = torch.tensor([True] * 8 + [False] * 32)
    assert share_of_speech(is_speech, torch.cat([loud, quiet])) == pytest.approx(0.8)
