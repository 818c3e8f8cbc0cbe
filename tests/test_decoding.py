"""Recordings that decoders read half of, or not at all: joined streams, headers wrong about their length, odd tags."""

from __future__ import annotations

import struct
from array import array

import av
import numpy as np
import pytest
import soundfile
import torch

import voicestyle.audio
import voicestyle.decoding
from test_audio import CONFIGS, VOICE, write, write_ffmpeg
from voicestyle.audio import load_audio, voice_input
from voicestyle.riff import Part

SECONDS = len(VOICE) / 16000


def seconds(path) -> float:
    return len(load_audio(path)) / 16000


@pytest.mark.parametrize("suffix", ["ogg", "flac", "wav", "aiff", "caf", "au", "w64"])
def test_joined_streams_are_read_whole(tmp_path, suffix):
    first, second = write(tmp_path / f"1.{suffix}", VOICE[:40000]), write(tmp_path / f"2.{suffix}", VOICE[40000:])
    (both := tmp_path / f"both.{suffix}").write_bytes(first.read_bytes() + second.read_bytes())
    assert torch.equal(load_audio(both), torch.cat([load_audio(first), load_audio(second)]))


def test_joined_opus_mp3_and_films_are_read_whole(tmp_path):
    for name, codec in {
        "a.opus": "libopus", "a.mp3": "libmp3lame", "a.m4a": "aac", "a.mkv": "aac", "a.flv": "aac",
        "a.wma": "pcm_s16le", "a.tta": "tta", "a.aac": "aac", "a.avi": "pcm_s16le",
    }.items():  # fmt: skip
        rate = 44100 if name == "a.flv" else 48000
        one = write_ffmpeg(tmp_path / name, VOICE[None, :32000], rate, codec)
        (both := tmp_path / f"both-{name}").write_bytes(2 * one.read_bytes())
        assert seconds(both) == pytest.approx(2 * seconds(one), abs=0.05), name


def test_streams_of_several_rates_and_channels(tmp_path):
    first, second = tmp_path / "1.flac", tmp_path / "2.flac"
    soundfile.write(first, VOICE, 16000)
    soundfile.write(second, np.stack([VOICE, VOICE], 1), 44100)
    (both := tmp_path / "both.flac").write_bytes(first.read_bytes() + second.read_bytes())
    assert torch.equal(load_audio(both), torch.cat([load_audio(first), load_audio(second)]))


@pytest.mark.parametrize("suffix", ["ogg", "flac", "wav"])
def test_a_truncated_second_stream_is_refused(tmp_path, suffix):
    data = write(tmp_path / f"a.{suffix}").read_bytes()
    (both := tmp_path / f"both.{suffix}").write_bytes(data + data[: len(data) // 2])
    with pytest.raises(ValueError, match=rf"both.{suffix}: (damaged or )?truncated"):
        load_audio(both)


def with_size(path, size: int):
    """The file with another length of its samples in the header."""
    data = bytearray(path.read_bytes())
    if path.suffix == ".aiff":
        at, text = data.index(b"SSND") + 4, struct.pack(">I", (size + 8) % 2**32)
        frames = data.index(b"COMM") + 10
        data[frames : frames + 4] = struct.pack(">I", size // 2)
    elif path.suffix == ".au":
        at, text = 8, struct.pack(">I", size)
    else:
        at, text = data.index(b"data") + 4, struct.pack("<I", size)
    data[at : at + 4] = text
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("suffix", ["wav", "aiff", "au"])
@pytest.mark.parametrize("change", [1, 16, 44, -1, -16, -90000, 1200], ids=str)
def test_a_length_that_is_off_does_not_matter(tmp_path, suffix, change):
    path = with_size(write(tmp_path / f"a.{suffix}", subtype="PCM_16"), 2 * len(VOICE) + change)
    assert seconds(path) == pytest.approx(SECONDS, abs=1e-4)


@pytest.mark.parametrize("suffix", ["wav", "aiff", "au"])
@pytest.mark.parametrize("size", [0, 0x3FFFFFFF, 2 * 10**9, 0x7FFFFFFF, 0xFFFFFFF0], ids=hex)
def test_a_length_that_was_left_open(tmp_path, suffix, size):
    path = with_size(write(tmp_path / f"a.{suffix}", subtype="PCM_16"), size)
    assert seconds(path) == SECONDS


@pytest.mark.parametrize("size", [0, 0xFFFFFFFFFFFFFFFF])
def test_an_open_length_of_64_bits(tmp_path, size):
    soundfile.write(path := tmp_path / "a.wav", VOICE, 16000, format="RF64", subtype="PCM_16")
    data = bytearray(path.read_bytes())
    at = data.index(b"ds64") + 16
    data[at : at + 8] = struct.pack("<Q", size)
    path.write_bytes(data)
    assert seconds(path) == SECONDS


@pytest.mark.parametrize("suffix", ["wav", "aiff", "au"])
def test_a_shortfall_that_matters(tmp_path, suffix):
    path = with_size(write(tmp_path / f"a.{suffix}", subtype="PCM_16"), 3 * len(VOICE))
    with pytest.raises(ValueError, match=rf"a.{suffix}: truncated after 6.0 s, more was expected"):
        load_audio(path)


@pytest.mark.parametrize("suffix", ["wav", "aiff", "au", "caf", "w64", "flac", "ogg"])
def test_files_that_end_within_their_header(tmp_path, suffix):
    data = write(tmp_path / f"a.{suffix}").read_bytes()
    for length in range(1, 100, 3):
        (path := tmp_path / f"cut.{suffix}").write_bytes(data[:length])
        with pytest.raises(ValueError, match=rf"cut.{suffix}: "):
            load_audio(path)


def test_what_stands_behind_the_samples_is_no_sound(tmp_path):
    data = write(tmp_path / "a.wav").read_bytes()
    for tail in (bytes(9000), b"ID3\x04" + 3000 * b"tag", b"LIST" + struct.pack("<I", 9000) + 3000 * b"abc"):
        (path := tmp_path / "tail.wav").write_bytes(data + tail)
        assert seconds(path) == SECONDS


def test_a_codec_without_a_decoder(tmp_path):
    data = bytearray(write(tmp_path / "a.wav", subtype="PCM_16").read_bytes())
    data[20:22] = b"\x23\x01"  # a format tag that nobody uses
    (path := tmp_path / "odd.wav").write_bytes(data)
    with pytest.raises(ValueError, match=r"odd.wav: sound of a codec that FFmpeg has no decoder for in this wav file"):
        load_audio(path)


@pytest.mark.parametrize("name", ["a.m4a", "a.mkv", "a.avi"])
def test_tags_that_are_not_utf8(tmp_path, name):
    with av.open(str(tmp_path / name), "w") as output:
        output.metadata["title"] = "Caf@ M@ller"
        stream = output.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(VOICE[None, :16000], format="fltp", layout="mono")
        frame.sample_rate = 16000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            output.mux(packet)
    data = (tmp_path / name).read_bytes()
    assert b"Caf@" in data
    (tmp_path / name).write_bytes(data.replace(b"Caf@ M@ller", b"Caf\xe9 M\xfcller"))
    assert seconds(tmp_path / name) == pytest.approx(1 if name[0] == "a" else SECONDS, abs=0.2)


@pytest.mark.parametrize("name", ["12:30.m4a", "12:30.wav", "http:a.m4a", "-a.m4a", "\udcff.m4a"])
def test_names_that_look_like_something_else(tmp_path, name):
    path = tmp_path / "plain" if name.endswith("wav") else write_ffmpeg(tmp_path / "a.m4a", VOICE[None], 16000, "aac")
    if name.endswith("wav"):
        write(path.with_suffix(".wav")).rename(path)
    path.rename(tmp_path / name)
    assert seconds(tmp_path / name) == pytest.approx(1 if name[0] == "a" else SECONDS, abs=0.2)


def test_a_broken_mp3_is_told_of_once(tmp_path, capfd):
    whole = write_ffmpeg(tmp_path / "a.mp3", VOICE[None], 16000, "libmp3lame").read_bytes()
    (path := tmp_path / "cut.mp3").write_bytes(whole[:60])
    with pytest.raises(ValueError, match=r"cut.mp3: "):
        load_audio(path)
    assert capfd.readouterr() == ("", "")


@CONFIGS
@pytest.mark.parametrize("rate", [192000, 16000])
def test_one_sample(tmp_path, config, rate):
    soundfile.write(path := tmp_path / "one.wav", np.array([0.5]), rate)
    for vad in (True, False):
        with pytest.raises(ValueError, match=r"one.wav: "):
            voice_input(path, config, vad=vad)


@CONFIGS
@pytest.mark.parametrize("vad", [True, False])
def test_samples_that_are_all_the_same(tmp_path, config, vad):
    denormal = np.random.default_rng(0).standard_normal(48000).astype(np.float32) * np.float32(1e-42)
    for samples in (denormal, np.full(48000, 0.25, np.float32), 0.25 + 1e-6 * VOICE):
        path = write(tmp_path / "flat.wav", samples, subtype="FLOAT")
        with pytest.raises(ValueError, match=r"flat.wav: silence, no sample of .* s differs by more than .*; expected"):
            voice_input(path, config, vad=vad)


@CONFIGS
def test_a_quiet_recording_is_none_of_these(tmp_path, config):
    path = write(tmp_path / "quiet.wav", VOICE * 1e-3, subtype="FLOAT")
    assert voice_input(path, config, vad=False).isfinite().all()


def test_long_recordings_are_cut_and_it_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(voicestyle.decoding, "MAX_RECORDING_S", 5)
    path = write(tmp_path / "long.wav")
    with pytest.warns(UserWarning, match=r"long.wav: longer than 0 min; the first 0 are taken"):
        assert len(load_audio(path)) == 5 * 16000
    assert len(load_audio(write(tmp_path / "fits.wav", VOICE[:80000]))) == 80000


def test_long_speech_is_cut_and_it_is_said():
    ge2e = voicestyle.audio.LogMelConfig.ge2e()
    whole = voice_input(VOICE, ge2e, 16000, vad=False)
    with pytest.warns(UserWarning, match=r"waveform: more than 0.05 min of speech; the first 0.05 are taken"):
        part = voice_input(VOICE, ge2e, 16000, vad=False, max_speech_s=3)
    assert part.shape[-1] < whole.shape[-1]


def test_a_part_fills_buffers_of_any_kind() -> None:
    words = array("h", [0, 0, 0])
    assert Part(b"__RIFF1234", 2, 10, "x").readinto(words) == 6 and words.tobytes() == b"RIFF12"
