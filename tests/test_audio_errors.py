"""Every bad recording against its error."""

from __future__ import annotations

import math

import av
import numpy as np
import pytest
import torch

from test_audio import CONFIGS, GE2E, VOICE, write, write_ffmpeg
from voicestyle.audio import load_audio, log_mel, voice_input


def cut(path, new_path, fraction=0.5):
    data = path.read_bytes()
    new_path.write_bytes(data[: int(fraction * len(data))])
    return new_path


def test_missing_directory_and_empty(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none.wav: no such file, expected a recording; check the path"):
        load_audio(tmp_path / "none.wav")
    with pytest.raises(ValueError, match=r": a directory, expected a recording; name one file of it"):
        load_audio(tmp_path)
    (tmp_path / "empty.wav").touch()
    with pytest.raises(ValueError, match=r"empty.wav: empty file \(0 bytes\)"):
        load_audio(tmp_path / "empty.wav")
    with pytest.raises(ValueError, match=r"zero.wav: no samples in it"):
        load_audio(write(tmp_path / "zero.wav", VOICE[:0]))


@pytest.mark.parametrize(
    "content",
    [b"these are words\n" * 99, b"<!DOCTYPE html><html></html>", bytes(5000), b"\x89PNG\r\n\x1a\n" + bytes(99), b"R"],
    ids=["text", "html", "zeros", "png", "byte"],
)
@pytest.mark.parametrize("suffix", ["wav", "m4a", "raw"])
def test_foreign_files(tmp_path, content, suffix):
    path = tmp_path / f"foreign.{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"foreign.{suffix}: not a recording that libsndfile or FFmpeg can decode"):
        load_audio(path)


def test_a_playlist_does_not_open_other_files(tmp_path):
    write(tmp_path / "secret.wav")
    (tmp_path / "list.m4a").write_text(f"#EXTM3U\n#EXTINF:10,\n{tmp_path}/secret.wav\n#EXT-X-ENDLIST\n")
    (tmp_path / "concat.m4a").write_text(f"ffconcat version 1.0\nfile {tmp_path}/secret.wav\n")
    for name in ("list.m4a", "concat.m4a"):
        with pytest.raises(ValueError, match="not a recording"):
            load_audio(tmp_path / name)


def test_a_picture_in_a_film_container_has_no_sound(tmp_path):
    with av.open(str(tmp_path / "film.mp4"), "w") as output:
        stream = output.add_stream("mpeg4", rate=5)
        stream.width = stream.height = 32
        frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            output.mux(packet)
    with pytest.raises(ValueError, match=r"film.mp4: no sound in this mov.* file, expected a recording"):
        load_audio(tmp_path / "film.mp4")


@pytest.mark.parametrize("suffix", ["wav", "aiff", "flac", "ogg", "caf", "w64", "au"])
def test_truncated_files(tmp_path, suffix):
    path = cut(write(tmp_path / f"whole.{suffix}"), tmp_path / f"cut.{suffix}")
    with pytest.raises(ValueError, match=rf"cut.{suffix}: (damaged or )?truncated.*; copy or export it again"):
        load_audio(path)


@pytest.mark.parametrize("options", [{}, {"movflags": "faststart"}])
def test_truncated_m4a(tmp_path, options):
    whole = write_ffmpeg(tmp_path / "whole.m4a", VOICE[None], 16000, "aac", options=options)
    with pytest.raises(ValueError, match=r"cut.m4a: ((damaged or )?truncated|not a recording)"):
        load_audio(cut(whole, tmp_path / "cut.m4a"))


def refuse(part):
    raise TypeError("a codec that libsndfile does not know, such as Speex")


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [("mkv", "aac"), ("avi", "pcm_s16le"), ("flv", "aac"), ("wma", "pcm_s16le"), ("opus", "libopus")],
)
def test_truncated_files_that_ffmpeg_reads(tmp_path, suffix, codec, monkeypatch):
    monkeypatch.setattr("voicestyle.decoding.soundfile.SoundFile", refuse)
    rate = {"flv": 44100, "opus": 48000}.get(suffix, 16000)
    whole = write_ffmpeg(tmp_path / f"whole.{suffix}", VOICE[None], rate, codec)
    assert len(load_audio(whole)) == pytest.approx(len(VOICE) * 16000 / rate, rel=0.1)
    with pytest.raises(ValueError, match=rf"cut.{suffix}: (damaged or )?truncated"):
        load_audio(cut(whole, tmp_path / f"cut.{suffix}"))


def test_a_stream_whose_length_is_unknown_is_whole(tmp_path):
    wav = bytearray(write(tmp_path / "a.wav").read_bytes())
    wav[4:8] = wav[40:44] = b"\xff\xff\xff\xff"  # what a writer to a pipe leaves
    (tmp_path / "stream.wav").write_bytes(wav)
    assert torch.equal(load_audio(tmp_path / "stream.wav"), torch.from_numpy(VOICE))
    flac = bytearray(write(tmp_path / "a.flac").read_bytes())
    flac[21] &= 0xF0
    flac[22:26] = bytes(4)  # total samples unknown
    flac[26:42] = bytes(16)  # no checksum
    (tmp_path / "stream.flac").write_bytes(flac)
    assert torch.equal(load_audio(tmp_path / "stream.flac"), torch.from_numpy(VOICE))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite(tmp_path, bad):
    samples = VOICE.copy()
    samples[24000] = bad
    message = "NaN or infinite samples from 1.50 s on, expected finite ones"
    with pytest.raises(ValueError, match=f"bad.wav: {message}"):
        load_audio(write(tmp_path / "bad.wav", samples, subtype="FLOAT"))
    with pytest.raises(ValueError, match=f"waveform: {message}"):
        voice_input(samples, GE2E, 16000)


def test_samples_of_another_scale(tmp_path):
    with pytest.raises(ValueError, match=r"loud.wav: a sample of .*, expected \[-1, 1\]; divide by the full scale"):
        load_audio(write(tmp_path / "loud.wav", VOICE * 32768, subtype="FLOAT"))
    overshoot = load_audio(write(tmp_path / "over.wav", VOICE / np.abs(VOICE).max() * 1.3, subtype="FLOAT"))
    assert overshoot.abs().max() == 1


@CONFIGS
def test_silence(tmp_path, config):
    with pytest.raises(ValueError, match=r"still.wav: silence, no sample of 3.0 s is other than zero; expected speech"):
        voice_input(write(tmp_path / "still.wav", np.zeros(48000)), config)
    opposite = np.stack([VOICE, -VOICE])
    with pytest.raises(ValueError, match=r"waveform: silence, no sample of 6.0 s is other than zero"):
        voice_input(opposite, config, 16000)


def test_noise_without_speech(tmp_path):
    path = write(tmp_path / "noise.wav", 1e-3 * np.random.default_rng(0).standard_normal(48000))
    with pytest.raises(
        ValueError,
        match=r"noise.wav: no speech found \(3.0 s recorded\), at least 1.0 s needed; give a recording of somebody",
    ):
        voice_input(path, GE2E)
    assert voice_input(path, GE2E, vad=False).isfinite().all()


def test_too_little_speech(tmp_path):
    path = write(tmp_path / "clip.wav", np.concatenate([VOICE[:9600], np.zeros(40000)]))
    with pytest.raises(
        ValueError,
        match=r"clip.wav: 0\.\d s of speech left after silence removal \(3.1 s recorded\), at least 1.0 s needed; "
        "try without silence removal",
    ):
        voice_input(path, GE2E)
    assert voice_input(path, GE2E, vad=False).isfinite().all()


@CONFIGS
def test_too_short(config):
    message = r"waveform: 0.9 s recorded, at least 1.0 s needed; give a longer recording"
    with pytest.raises(ValueError, match=message):
        voice_input(VOICE[:15999], config, 16000, vad=False)
    with pytest.raises(ValueError, match=r"\(0.9 s recorded\), at least 1.0 s needed; give a longer recording"):
        voice_input(VOICE[:15999], config, 16000, vad=True)
    assert voice_input(VOICE[:16000], config, 16000, vad=False).isfinite().all()


@pytest.mark.parametrize(
    ("samples", "rate", "message"),
    [
        (VOICE, None, "no sample rate given; pass sample_rate in Hz"),
        (VOICE, 0, "sample rate 0 Hz, expected 2000 to 768000 Hz"),
        (VOICE, math.nan, "sample rate nan Hz"),
        (VOICE[:, None], 16000, r"shape \(96000, 1\), expected \(num_samples,\) or \(channels, num_samples\)"),
        (VOICE[None, None], 16000, r"shape \(1, 1, 96000\)"),
        (VOICE > 0, 16000, "dtype bool, expected float"),
        (VOICE.astype(np.complex64), 16000, "dtype complex64"),
        (VOICE[:0], 16000, "no samples in it"),
    ],
)
def test_bad_arrays(samples, rate, message):
    with pytest.raises(ValueError, match=f"waveform: {message}"):
        voice_input(samples, GE2E, rate)


@CONFIGS
def test_log_mel_refuses_what_it_cannot_frame(config):
    for shape in ((0,), (1, 16000)):
        with pytest.raises(ValueError, match=r"log_mel: waveform of shape .*, expected \(n,\) with n >= "):
            log_mel(torch.ones(shape), config)
