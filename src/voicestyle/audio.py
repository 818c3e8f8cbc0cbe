"""From a recording to the input of a voice network: silence removal and three mel front ends.

A front end is part of the weights: the encoders were trained with the quirks below, so they are reproduced exactly
(docs/fidelity.md). Everything happens in memory; long recordings are transformed in blocks.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import webrtcvad
from torch import Tensor

from voicestyle.config import LogMelConfig
from voicestyle.decoding import load_audio, to_mono
from voicestyle.fbank import FRAME, N_MELS, fbank

PRE_EMPHASIS = 0.97  # cmpc2 mfcc.py
DB_RANGE = 80.0  # dB below the loudest bin; librosa power_to_db
TARGET_DBFS = -30.0  # resemblyzer hparams.py
PARTIAL_STEP = 77  # frames between the starts of two partials: 1.3 partials a second (resemblyzer embed_utterance)
PARTIAL_MIN_COVERAGE = 0.75  # a last partial with less sound in it is dropped (resemblyzer embed_utterance)

MAX_SPEECH_S = 600  # seconds that a voice network is given at most; a ResNet-34 needs about 1 MB for each
SILENCE = 2.0**-15  # of full scale: samples that differ by less are all the same at 16 bits

_BLOCK = 1 << 18  # samples a channel
_FRAME_BLOCK = 64  # frames; a block and its spectrum stay in the processor's cache


def _from_array(waveform: Tensor | np.ndarray, rate: float | None, sample_rate: int) -> Tensor:
    """What `load_audio` returns, of samples that are in memory: (n,) or (channels, n), float or signed integer."""
    if rate is None:
        raise ValueError("waveform: no sample rate given; pass sample_rate in Hz")
    if isinstance(waveform, Tensor):  # numpy has no bfloat16
        waveform = waveform.detach().cpu()
        waveform = (waveform.float() if waveform.is_floating_point() else waveform).numpy()
    samples = np.asarray(waveform)
    samples = samples[None] if samples.ndim == 1 else samples
    if samples.ndim != 2 or samples.shape[0] > samples.shape[1] > 0:
        raise ValueError(f"waveform: shape {np.shape(waveform)}, expected (num_samples,) or (channels, num_samples)")
    if samples.dtype.kind not in "if":
        raise ValueError(f"waveform: dtype {samples.dtype}, expected float in [-1, 1] or a signed integer type")
    full_scale = 2.0 ** (8 * samples.itemsize - 1) if samples.dtype.kind == "i" else 1.0
    starts = range(0, samples.shape[1], _BLOCK)
    blocks = (samples[:, i : i + _BLOCK].T / full_scale for i in starts)
    return torch.from_numpy(to_mono([(rate, blocks)], sample_rate, "waveform"))


def normalize_volume(waveform: Tensor, target_dbfs: float = TARGET_DBFS) -> Tensor:
    """The waveform raised to `target_dbfs` (RMS), or unchanged where it is louder or digital silence."""
    rms = torch.linalg.vector_norm(waveform, dtype=torch.float64).item() / math.sqrt(max(1, len(waveform)))
    gain = 10 ** (target_dbfs / 20) / rms if rms > 0 else 1.0
    return waveform * gain if gain > 1 else waveform


def remove_silence(waveform: Tensor, config: LogMelConfig, mode: int | webrtcvad.Vad = 2) -> Tensor:
    """The speech of a waveform (n,), found by WebRTC's detector and cut out as the front end was trained with.

    ``ge2e`` and ``ge2e+fbank`` shorten long silences only (resemblyzer); the others keep speech alone (cmpc2), which is
    what passes the detector at aggressiveness `mode`, 0 to 3, or the one given. Empty without speech.
    """
    keep, length = speech_frames(waveform, config, mode)
    frames = waveform[: len(keep) * length].reshape(-1, length)
    return frames[torch.from_numpy(keep)].reshape(-1)


def speech_frames(waveform: Tensor, config: LogMelConfig, mode: int | webrtcvad.Vad = 2) -> tuple[np.ndarray, int]:
    """Which frames of a waveform (n,) `remove_silence` keeps (num_frames,) bool, and the samples in each of them."""
    if config.front_end.startswith("ge2e"):
        length = 30 * config.sample_rate // 1000
        return _trim_long_silences(_pcm_frames(waveform, length, full_scale=32767), config.sample_rate), length
    length = 20 * config.sample_rate // 1000
    # a last frame that ends with the clip is never looked at: py-webrtcvad's example, which cmpc2 follows
    return _collect_speech(_pcm_frames(waveform[:-1], length, full_scale=32768), config.sample_rate, mode), length


def _pcm_frames(waveform: Tensor, length: int, full_scale: int) -> list[bytes]:
    """The whole frames of `length` samples as 16-bit PCM."""
    parts = waveform.split(_BLOCK // length * length)
    pcm = ((part * full_scale).round().clamp(-32768, 32767).to(torch.int16).numpy().tobytes() for part in parts)
    return [part[i : i + 2 * length] for part in pcm for i in range(0, len(part) - 2 * length + 1, 2 * length)]


def _collect_speech(frames: list[bytes], sample_rate: int, mode: int | webrtcvad.Vad) -> np.ndarray:
    """Whether cmpc2 keeps each frame: two frames of speech in a row open a segment, two without close it; all stay.

    The detector has a memory, and every frame in the ring is put to it anew with each frame that comes: so an answer
    depends on how often the frames before were asked about, and asking once each keeps other frames.
    """
    detector = webrtcvad.Vad(mode) if isinstance(mode, int) else mode
    keep = np.zeros(len(frames), bool)
    ring: list[int] = []  # 50 ms of padding hold two frames of 20 ms, and above 90 % of two is both
    speaking = False
    for i in range(len(frames)):
        keep[i] = speaking
        ring = [*ring[-1:], i]
        if sum(detector.is_speech(frames[j], sample_rate) != speaking for j in ring) == 2:
            keep[ring] = True
            speaking, ring = not speaking, []
    return keep


def _trim_long_silences(frames: list[bytes], sample_rate: int) -> np.ndarray:
    """Whether resemblyzer keeps each frame: a majority of 8 frames around is speech, or of one up to 3 frames away."""
    detector = webrtcvad.Vad(3)
    flags = [detector.is_speech(frame, sample_rate) for frame in frames]
    voiced = np.convolve([*flags, False], np.ones(8))[4 : 4 + len(flags)] > 4
    return np.convolve([*voiced, False], np.ones(7))[3 : 3 + len(flags)] > 0


def log_mel(waveform: Tensor, config: LogMelConfig, dtype: torch.dtype = torch.float32) -> Tensor:
    """The features (1, n_mels, num_frames) of a waveform (n,), computed in `dtype`.

    - ``cmpc``: dB, one frame a hop, not yet cut to `config.num_frames` (`voice_input` does it)
    - ``cmpc2``: natural log, normalized over time in each band, repeated up to `config.num_frames` where shorter
    - ``ge2e``: linear power, cut or zero-padded so that partials of 160 frames, 77 apart, fit exactly
    - ``ge2e+fbank``: the same in the first 40 bands, and in the next 80 Kaldi's log energies (`fbank`), repeated where
      they are shorter; so there are frames after the last partial where they are longer

    Silence removal and volume are the caller's (`voice_input`). Not differentiable.
    """
    shortest = {"cmpc": config.n_fft // 2 + 1, "ge2e+fbank": FRAME}.get(config.front_end, 1)  # cmpc: reflect padding
    if waveform.ndim != 1 or len(waveform) < shortest:
        raise ValueError(f"log_mel: waveform of shape {tuple(waveform.shape)}, expected (n,) with n >= {shortest}")
    front_end = {"cmpc": _cmpc, "cmpc2": _cmpc2, "ge2e": _ge2e, "ge2e+fbank": _ge2e_fbank}[config.front_end]
    return front_end(waveform.detach().to(dtype), config)[None]


def _cmpc(waveform: Tensor, config: LogMelConfig) -> Tensor:
    """librosa's melspectrogram and power_to_db with their defaults of 2021."""
    padded = F.pad(waveform[None], (config.n_fft // 2,) * 2, mode="reflect")[0]
    frames = padded.unfold(0, config.n_fft, config.hop_length)
    decibel = _mel_power(frames, config).clamp_(min=1e-10).log10_().mul_(10)
    return decibel.clamp(min=decibel.max().item() - DB_RANGE).T


def _cmpc2(waveform: Tensor, config: LogMelConfig) -> Tensor:
    """CMU Sphinx' log spectrum, normalized over time in each band and repeated up to `config.num_frames`."""
    log = sphinx_log_mel(waveform, config)
    log -= log.mean(dim=0)
    log /= log.square().mean(dim=0).sqrt() + torch.finfo(torch.float32).eps
    return log.T.repeat(1, -(-config.num_frames // len(log)))[:, : max(len(log), config.num_frames)]


def sphinx_log_mel(waveform: Tensor, config: LogMelConfig) -> Tensor:
    """CMU Sphinx' log spectrum (num_frames, n_mels) of a waveform (n,) on the 16-bit scale, as cmpc2 has it."""
    samples = (waveform * 32768).round_()
    win, hop, num_samples = config.win_length, config.hop_length, len(samples)
    num_frames = num_samples // hop + 1
    num_whole = max(0, (num_samples - win) // hop + 1)
    # the last frames repeat what is left of the clip until they are full; with nothing left they are zero
    rests = [samples[i * hop :] for i in range(num_whole, num_frames)]
    last = torch.stack([r.repeat(-(-win // len(r)))[:win] if len(r) else r.new_zeros(win) for r in rests])
    emphasized = samples.clone()
    emphasized[1:].sub_(samples[:-1], alpha=PRE_EMPHASIS)
    whole = emphasized.unfold(0, win, hop) if num_whole else emphasized.new_zeros(0, win)
    # the first sample of a frame is emphasized against the last one of the frame before
    priors = torch.cat([samples.new_zeros(1), samples[win - 1 :: hop][:num_whole], last[:-1, -1]])
    firsts = torch.cat([samples[: num_whole * hop : hop], last[:, 0]]) - PRE_EMPHASIS * priors
    last = F.pad(last[:, 1:] - PRE_EMPHASIS * last[:, :-1], (1, 0))
    power = [_mel_power(whole, config, firsts[:num_whole]), _mel_power(last, config, firsts[num_whole:])]
    return torch.cat(power).clamp_(min=1e-5).log_()


def _ge2e(waveform: Tensor, config: LogMelConfig) -> Tensor:
    """resemblyzer's mel of the frames that its partials cover."""
    hop = config.hop_length
    num_frames = -(-(len(waveform) + 1) // hop)
    num_partials = max(1, -(-(num_frames - config.num_frames + 1) // PARTIAL_STEP) + 1)
    covered = (len(waveform) / hop - (num_partials - 1) * PARTIAL_STEP) / config.num_frames
    if num_partials > 1 and covered < PARTIAL_MIN_COVERAGE:
        num_partials -= 1
    num_frames = config.num_frames + (num_partials - 1) * PARTIAL_STEP
    padded = F.pad(waveform, (config.n_fft // 2, max(0, num_frames * hop - len(waveform)) + config.n_fft // 2))
    return _mel_power(padded.unfold(0, config.n_fft, hop)[:num_frames], config).T


def _ge2e_fbank(waveform: Tensor, config: LogMelConfig) -> Tensor:
    """Two front ends on top of each other, as long as the longer one."""
    mel, energies = _ge2e(waveform, replace(config, n_mels=config.n_mels - N_MELS)), fbank(waveform)
    length = max(mel.shape[1], energies.shape[1])
    energies = energies.repeat(1, -(-length // energies.shape[1]))[:, :length]
    return torch.cat([F.pad(mel, (0, length - mel.shape[1])), energies])


def _mel_power(frames: Tensor, config: LogMelConfig, firsts: Tensor | None = None) -> Tensor:
    """Mel-weighted power (T, n_mels) of frames (T, win_length); `firsts` (T,) replaces the first sample of each."""
    window, filters = (t.to(frames) for t in _window_and_filters(config))
    padded = frames.new_zeros(_FRAME_BLOCK, config.n_fft)
    made = [frames.new_zeros(0, config.n_mels)]
    for i in range(0, len(frames), _FRAME_BLOCK):
        block = frames[i : i + _FRAME_BLOCK]
        padded = padded[: len(block)]
        torch.mul(block, window, out=padded[:, : config.win_length])
        if firsts is not None:
            padded[:, 0] = firsts[i : i + _FRAME_BLOCK] * window[0]
        spectrum = torch.fft.rfft(padded)
        made.append(spectrum.real.square().addcmul_(spectrum.imag, spectrum.imag) @ filters)
    return torch.cat(made)


@lru_cache(maxsize=8)
def _window_and_filters(config: LogMelConfig) -> tuple[Tensor, Tensor]:
    """Window (win_length,) and mel filters (n_fft // 2 + 1, n_mels), triangles of unit area over Hz, in float64."""
    sphinx = config.front_end == "cmpc2"
    window = torch.hamming_window if sphinx else torch.hann_window
    corners = _sphinx_corners(config) if sphinx else _slaney_corners(config)
    left, center, right = corners[:-2], corners[1:-1], corners[2:]
    hz = torch.arange(config.n_fft // 2 + 1, dtype=torch.float64)[:, None] * (config.sample_rate / config.n_fft)
    height = torch.minimum((hz - left) / (center - left), (right - hz) / (right - center)).clamp(min=0)
    return window(config.win_length, periodic=not sphinx, dtype=torch.float64), height * 2 / (right - left)


def _slaney_corners(config: LogMelConfig) -> Tensor:
    """n_mels + 2 corners in Hz on Slaney's scale (Auditory Toolbox, 1998): linear to 1 kHz, then logarithmic."""
    edges = (config.f_min_hz, config.f_max_hz)
    low, high = (f * 3 / 200 if f < 1000 else 15 + 27 * math.log(f / 1000, 6.4) for f in edges)
    mels = torch.linspace(low, high, config.n_mels + 2, dtype=torch.float64)
    return torch.where(mels < 15, mels * 200 / 3, 1000 * 6.4 ** ((mels - 15) / 27))


def _sphinx_corners(config: LogMelConfig) -> Tensor:
    """n_mels + 2 corners in Hz on the HTK mel scale, rounded to whole FFT bins as CMU Sphinx has them."""
    low, high = (2595 * math.log10(1 + f / 700) for f in (config.f_min_hz, config.f_max_hz))
    mels = torch.linspace(low, high, config.n_mels + 2, dtype=torch.float64)
    bin_hz = config.sample_rate / config.n_fft
    return (700 * (10 ** (mels / 2595) - 1) / bin_hz).round() * bin_hz


def voice_input(
    path_or_waveform: str | Path | Tensor | np.ndarray,
    config: LogMelConfig,
    sample_rate: float | None = None,
    vad: bool | None = None,
    seed: int = 0,
    max_speech_s: float = MAX_SPEECH_S,
    listen: Callable[[str, Tensor], None] = lambda name, waveform: None,
) -> Tensor:
    """The input (1, 1, n_mels, num_frames) of the voice network that `config` belongs to, float32.

    Args:
        path_or_waveform: a recording; or samples (n,) or (channels, n), float in [-1, 1] or signed integer
        config: the front end
        sample_rate: of the samples, Hz; not for a path
        vad: remove silence first; None: as the config says
        seed: of the random 500 frames that ``cmpc`` takes
        max_speech_s: of more speech the first seconds are taken, with a warning
        listen: told the name and the samples at `config.sample_rate`, before silence is removed

    Raises:
        FileNotFoundError: nothing at the path
        ValueError: no recording, silence, less than `config.min_speech_s` of speech
    """
    if isinstance(path_or_waveform, (str, Path)):
        name, waveform = str(path_or_waveform), load_audio(path_or_waveform, config.sample_rate)
    else:
        name, waveform = "waveform", _from_array(path_or_waveform, sample_rate, config.sample_rate)
    vad = config.vad if vad is None else vad
    recorded_s = len(waveform) / config.sample_rate
    _check_sound(name, waveform, recorded_s)
    listen(name, waveform)
    if config.front_end.startswith("ge2e"):
        waveform = normalize_volume(waveform)
    if vad:
        waveform = remove_silence(waveform, config)
    _check_length(name, len(waveform) / config.sample_rate, recorded_s, config.min_speech_s, vad)
    if len(waveform) > max_speech_s * config.sample_rate:
        warnings.warn(
            f"{name}: more than {max_speech_s / 60:g} min of speech; the first {max_speech_s / 60:g} are taken",
            stacklevel=2,
        )
        waveform = waveform[: int(max_speech_s * config.sample_rate)]
    features = log_mel(waveform, config)
    if config.front_end == "cmpc":
        features = _random_crop(features, config.num_frames, seed)
    return features[None]


def _check_sound(name: str, waveform: Tensor, recorded_s: float) -> None:
    """Raise where a front end would divide by nothing."""
    low, high = (0.0, 1.0) if not len(waveform) else torch.aminmax(waveform)
    if high - low < SILENCE:
        apart = f"differs by more than {high - low:.1e} from another" if waveform.any() else "is other than zero"
        raise ValueError(f"{name}: silence, no sample of {recorded_s:.1f} s {apart}; expected speech")


def _check_length(name: str, speech_s: float, recorded_s: float, needed_s: float, vad: bool) -> None:
    if speech_s >= needed_s:
        return
    speech, recorded = (f"{math.floor(10 * s) / 10:.1f} s" for s in (speech_s, recorded_s))  # 0.96 is not 1.0
    advice = "try without silence removal (--no-vad)" if speech_s else "give a recording of somebody who speaks"
    if recorded_s < needed_s:
        advice = "give a longer recording"
    found = f"{recorded} recorded"
    if vad:
        found = f"{speech} of speech left after silence removal" if speech_s else "no speech found"
        found += f" ({recorded} recorded)"
    raise ValueError(f"{name}: {found}, at least {needed_s:.1f} s needed; {advice}")


def _random_crop(features: Tensor, num_frames: int, seed: int) -> Tensor:
    """`num_frames` frames at a random place; a short clip gets zeros (0 dB, as CMPC pads) on both sides first."""
    missing = num_frames - features.shape[-1]
    if missing > 0:
        features = F.pad(features, ((missing + 1) // 2,) * 2)
    rng = torch.Generator().manual_seed(seed)
    start = int(torch.randint(features.shape[-1] - num_frames + 1, (), generator=rng))
    return features[..., start : start + num_frames]
