"""The front ends against golden numbers and naive formulations."""

from __future__ import annotations

import math

import av
import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from test_ge2e import synthetic_voice
from voicestyle.audio import load_audio, log_mel, normalize_volume, remove_silence, voice_input
from voicestyle.config import LogMelConfig

CMPC, CMPC2, GE2E = LogMelConfig.cmpc(), LogMelConfig.cmpc2(), LogMelConfig.ge2e()
CONFIGS = pytest.mark.parametrize("config", [CMPC, CMPC2, GE2E], ids=lambda c: c.front_end)
VOICE = synthetic_voice()
CLIPS = {"DP5gCFoWgGI": "id10724/DP5gCFoWgGI/00001.wav", "0RsOMTn-DSM": "id10845/0RsOMTn-DSM/00001.wav"}


def write(path, samples=VOICE, rate=16000, **options):
    soundfile.write(path, samples, rate, **options)
    return path


def write_ffmpeg(path, samples, rate, codec, layout="mono", container=None, options=None):
    """Encoded by FFmpeg; `samples` (channels, n)."""
    with av.open(str(path), "w", format=container, options=options or {}) as output:
        stream = output.add_stream(codec, rate=rate, layout=layout)
        frame = av.AudioFrame.from_ndarray(samples.astype(np.float32), format="fltp", layout=layout)
        frame.sample_rate = rate
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            output.mux(packet)
    return path


# ------------------------------------------------------------------------------------------------------- golden


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-4), (torch.float32, 1e-2)])
@pytest.mark.parametrize("clip", CLIPS)
def test_cmpc2_golden(shared_dir, golden_dir, clip, dtype, tolerance):
    """Measured: 8e-6 in float64, 2e-5 in float32 (units of one standard deviation)."""
    waveform = load_audio(shared_dir / "data/reference_example/wav" / CLIPS[clip])
    made = log_mel(remove_silence(waveform, CMPC2), CMPC2, dtype)
    expected = torch.from_numpy(np.load(golden_dir / "fbank.npz")[f"{clip}_00001.wav"])
    torch.testing.assert_close(made, expected.to(dtype), rtol=0, atol=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-4), (torch.float32, 1e-2)])
@pytest.mark.parametrize("clip", CLIPS)
def test_cmpc_golden(shared_dir, golden_dir, clip, dtype, tolerance):
    """Measured: 9e-6 dB in float64, 1.6e-4 dB in float32."""
    waveform = load_audio(shared_dir / "data/reference_example/wav" / CLIPS[clip])
    expected = torch.from_numpy(np.load(golden_dir / "logmel_cmpc.npz")[clip])
    torch.testing.assert_close(log_mel(waveform, CMPC, dtype)[0], expected.to(dtype), rtol=0, atol=tolerance)


def test_voice_input_is_the_whole_front_end(shared_dir, golden_dir):
    path = shared_dir / "data/reference_example/wav" / CLIPS["DP5gCFoWgGI"]
    expected = torch.from_numpy(np.load(golden_dir / "fbank.npz")["DP5gCFoWgGI_00001.wav"])
    torch.testing.assert_close(voice_input(path, CMPC2)[0], expected, rtol=0, atol=1e-2)  # in float32


@pytest.mark.parametrize(("config", "tolerance"), [(CMPC, 1e-2), (CMPC2, 1e-2), (GE2E, 1e-6)])
def test_float32_is_near_float64(config, tolerance):
    """Measured: 8e-5 dB, 1.7e-4 standard deviations, 3e-9 of power."""
    waveform = torch.from_numpy(VOICE)
    difference = log_mel(waveform, config).double() - log_mel(waveform, config, torch.float64)
    assert difference.abs().max() < tolerance


# ------------------------------------------------------------------------------------------------ naive oracles


def naive_cmpc2(samples: np.ndarray) -> np.ndarray:
    """cmpc2's features of int16-scale samples, a frame at a time, before the tiling."""

    def hz(mel):
        return 700 * (10 ** (mel / 2595) - 1)

    low, high = (2595 * math.log10(1 + f / 700) for f in (20, 7200))
    corners = [round(hz(m) / 15.625) for m in np.linspace(low, high, 66)]
    prior, rows = 0.0, []
    for i in range(len(samples) // 160 + 1):
        frame = np.resize(samples[i * 160 : i * 160 + 400], 400)
        emphasized = frame - 0.97 * np.concatenate([[prior], frame[:-1]])
        prior = frame[-1]
        power = np.abs(np.fft.rfft(emphasized * np.hamming(400), 1024)) ** 2
        row = []
        for left, center, right in zip(corners, corners[1:], corners[2:], strict=False):
            height = 2 / ((right - left) * 15.625)
            up = sum(power[k] * height * (k - left) / (center - left) for k in range(left, center))
            down = sum(power[k] * height * (right - k) / (right - center) for k in range(center, right))
            row.append(math.log(max(up + down, 1e-5)))
        rows.append(row)
    log = np.array(rows).T
    return (log - log.mean(1, keepdims=True)) / (log.std(1, keepdims=True) + np.finfo(np.float32).eps)


@pytest.mark.parametrize("num_samples", [399, 400, 401, 1600, 1700, 2001])
def test_cmpc2_equals_the_naive_formulation(num_samples):
    waveform = torch.from_numpy(VOICE[:num_samples]).double()
    expected = naive_cmpc2(np.round(waveform.numpy() * 32768))
    made = log_mel(waveform, CMPC2, torch.float64)[0].numpy()
    num_frames = expected.shape[1]
    np.testing.assert_allclose(made[:, :num_frames], expected, atol=1e-8)
    np.testing.assert_array_equal(made, np.tile(expected * 0 + made[:, :num_frames], 800 // num_frames + 1)[:, :800])


def test_a_tone_lands_in_its_band():
    tone = torch.sin(2 * torch.pi * 3000 * torch.arange(16000) / 16000)
    for config in (CMPC, GE2E):
        band = log_mel(tone, config)[0, :, 40].argmax().item()
        slaney = [15 + 27 * math.log(f / 1000, 6.4) for f in (3000, 8000)]
        assert abs(band + 1 - slaney[0] / slaney[1] * (config.n_mels + 1)) < 1


# --------------------------------------------------------------------------------------------------- properties


@settings(max_examples=40, deadline=None)
@given(num_samples=st.integers(801, 200000))
def test_number_of_frames(num_samples):
    waveform = torch.zeros(num_samples)
    waveform[::7] = 0.1
    assert log_mel(waveform, CMPC).shape == (1, 64, num_samples // 160 + 1)
    assert log_mel(waveform, CMPC2).shape == (1, 64, max(800, num_samples // 160 + 1))


@CONFIGS
@settings(max_examples=30, deadline=None)
@given(samples=hnp.arrays(np.float32, st.integers(801, 3000), elements=st.floats(-1, 1, width=32)))
def test_features_are_finite(config, samples):
    waveform = normalize_volume(torch.from_numpy(samples))
    assert log_mel(waveform, config).isfinite().all()
    assert len(remove_silence(waveform, config)) <= len(waveform)


@settings(max_examples=30, deadline=None)
@given(gain=st.floats(1e-3, 100))
def test_volume_is_raised_to_the_target_and_never_lowered(gain):
    waveform = torch.from_numpy(VOICE) * gain
    made = normalize_volume(waveform)
    rms = made.square().mean().sqrt().item()
    if waveform.square().mean().sqrt() > 10 ** (-30 / 20):
        assert made is waveform
    else:
        assert rms == pytest.approx(10 ** (-30 / 20), rel=1e-4)


def test_gain_changes_what_it_should():
    waveform = torch.from_numpy(VOICE).double()
    loud = log_mel(2 * waveform, CMPC, torch.float64) - log_mel(waveform, CMPC, torch.float64)
    assert loud.mean().item() == pytest.approx(20 * math.log10(2), abs=1e-6)
    same = log_mel(2 * waveform, CMPC2, torch.float64) - log_mel(waveform, CMPC2, torch.float64)
    assert same.abs().max() < 1e-6
    torch.testing.assert_close(log_mel(2 * waveform, GE2E), 4 * log_mel(waveform, GE2E))


def test_silence_removal_drops_silence_alone():
    padded = torch.from_numpy(np.concatenate([np.zeros(48000, np.float32), VOICE, np.zeros(48000, np.float32)]))
    for config in (CMPC2, GE2E):
        kept = remove_silence(padded, config)
        assert 0.5 * len(VOICE) < len(kept) < 1.1 * len(VOICE)
        assert len(remove_silence(torch.zeros(16000), config)) == 0
        assert len(remove_silence(torch.zeros(100), config)) == 0


@settings(max_examples=12, deadline=None)
@given(
    rate=st.sampled_from([8000, 11025, 22050, 32000, 44100, 48000, 96000, 192000]),
    seconds=st.floats(1.0, 3.0),
    channels=st.integers(1, 8),
)
def test_resampling_keeps_duration_pitch_and_level(rate, seconds, channels):
    num = int(seconds * rate)
    tone = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(num) / rate)
    features = voice_input(np.tile(tone, (channels, 1)), CMPC, sample_rate=rate)
    frames = features[0, 0][:, features[0, 0].ne(0).any(dim=0)]
    assert abs(frames.shape[1] - min(500, math.floor(num / rate * 100) + 1)) <= 1
    middle = frames[:, 20:-20].median(dim=1).values
    expected = log_mel(torch.sin(2 * torch.pi * 1000 * torch.arange(16000) / 16000) / 2, CMPC)[0, :, 50]
    assert middle.argmax() == expected.argmax()
    assert middle.max().item() == pytest.approx(expected.max().item(), abs=0.1)


def test_cmpc_takes_random_frames_by_seed():
    waveform = torch.from_numpy(np.tile(VOICE, 2))
    first, again, other = (voice_input(waveform, CMPC, 16000, seed=s) for s in (0, 0, 1))
    assert first.shape == (1, 1, 64, 500)
    assert torch.equal(first, again) and not torch.equal(first, other)
    whole = log_mel(waveform, CMPC)
    assert any(torch.equal(first[0], whole[..., i : i + 500]) for i in range(whole.shape[-1] - 499))


def test_cmpc_pads_short_clips_with_zeros_on_both_sides():
    made = voice_input(VOICE[:32000], CMPC, 16000)
    assert made.shape == (1, 1, 64, 500)
    whole = log_mel(torch.from_numpy(VOICE[:32000]), CMPC)  # 201 frames; 299 are missing
    left = int(made.ne(0).any(dim=2).flatten().nonzero()[0])
    assert left in (149, 150)
    assert torch.equal(made[0, :, :, left : left + 201], whole)


# -------------------------------------------------------------------------------------------------------- doors


@CONFIGS
def test_path_and_array_doors_agree(tmp_path, config):
    for rate, channels in ((16000, 1), (44100, 2)):
        samples = np.stack([VOICE * (1 - 0.3 * c) for c in range(channels)], axis=1)
        path = write(tmp_path / f"{rate}.wav", samples, rate, subtype="FLOAT")
        from_path = voice_input(path, config)
        assert torch.equal(from_path, voice_input(samples.T, config, sample_rate=rate))
        assert torch.equal(from_path, voice_input(torch.from_numpy(samples.T.copy()), config, sample_rate=rate))
        assert torch.equal(from_path, voice_input(str(path), config))


def test_integer_samples_have_their_full_scale(tmp_path):
    pcm = (VOICE * 32768).astype(np.int16)
    expected = voice_input(VOICE, GE2E, 16000)
    assert torch.equal(voice_input(pcm, GE2E, 16000), expected)
    assert torch.equal(voice_input(pcm.astype(np.int32) * 65536, GE2E, 16000), expected)
    assert torch.equal(torch.from_numpy(VOICE), load_audio(write(tmp_path / "pcm.wav", pcm)))


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3", "a.aiff", "a.au"])
def test_formats_of_libsndfile(tmp_path, name):
    made = load_audio(write(tmp_path / name)).numpy()
    assert abs(len(made) - len(VOICE)) <= 160
    assert np.corrcoef(made[: len(VOICE)], VOICE[: len(made)])[0, 1] > 0.95


@pytest.mark.parametrize(
    ("name", "codec", "container"), [("a.m4a", "aac", None), ("a.aac", "aac", "adts"), ("a.mkv", "aac", None)]
)
def test_formats_of_ffmpeg(tmp_path, name, codec, container):
    path = write_ffmpeg(tmp_path / name, np.stack([VOICE, 0.5 * VOICE]), 16000, codec, "stereo", container)
    made = load_audio(path).numpy()
    assert 0 <= len(made) - len(VOICE) <= 3072  # the encoder's delay and last frame
    lag = int(np.correlate(made[:20000], VOICE[4000:16000]).argmax()) - 4000
    assert np.corrcoef(made[lag : lag + len(VOICE)][:90000], 0.75 * VOICE[:90000])[0, 1] > 0.95


def test_long_recordings_are_resampled_in_blocks_without_a_seam():
    rate, num = 48000, 600000  # more than two blocks
    sweep = 0.5 * np.sin(2 * np.pi * (200 + 1e-3 * np.arange(num)) * np.arange(num) / rate)
    half = log_mel(torch.from_numpy(sweep[::3].copy()), GE2E)
    made = voice_input(sweep, GE2E, rate, vad=False)[0]
    torch.testing.assert_close(made[..., 5:-160], half[..., 5:-160], rtol=0.05, atol=1e-4)


def test_vad_none_means_what_the_config_says():
    gap = np.concatenate([VOICE[:32000], np.zeros(32000, np.float32), VOICE[60000:]])
    for config in (CMPC, CMPC2, GE2E):
        default = voice_input(gap, config, 16000)
        assert torch.equal(default, voice_input(gap, config, 16000, vad=config.vad))
        assert not torch.equal(default, voice_input(gap, config, 16000, vad=not config.vad))
