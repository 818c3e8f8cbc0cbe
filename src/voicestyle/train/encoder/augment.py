"""Random changes to voices and faces that keep who speaks: each a function of its input and a generator.

Waveforms are (num_samples,) float32 in [-1, 1], log-mels (1, n_mels, num_frames), pictures (3, H, W) in [-1, 1]. With
its settings at zero, a function returns its input.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from voicestyle.schema import NonNegative, SettingError, Share, Whole

LUMA = (0.299, 0.587, 0.114)  # weights of red, green and blue in the gray of ITU-R BT.601
DECAY_60_DB = math.log(1000.0)  # an amplitude that has fallen by 60 dB is a thousandth


@dataclass(frozen=True)
class VoiceAugmentation:
    """The section ``[augment.voice]``; everything is off by default."""

    crop: bool = False  # a random window; else the one in the middle
    noise_probability: Share = 0.0
    snr_db: tuple[float, float] = (10.0, 30.0)  # from, to
    reverb_probability: Share = 0.0
    t60_s: tuple[float, float] = (0.1, 0.5)  # time in which the reverberation falls by 60 dB, from, to
    num_time_masks: Whole = 0  # SpecAugment (Park et al., Interspeech 2019)
    max_time_mask: Whole = 0  # frames
    num_band_masks: Whole = 0
    max_band_mask: Whole = 0  # mel bands

    def __post_init__(self) -> None:
        _check_range("snr_db", self.snr_db)
        _check_range("t60_s", self.t60_s, lowest=0)

    @property
    def changes_waveform(self) -> bool:
        """Whether it needs the recording itself and not its log-mel."""
        return bool(self.noise_probability or self.reverb_probability)

    @property
    def is_on(self) -> bool:
        """Whether anything is changed at all."""
        masks = self.num_time_masks * self.max_time_mask + self.num_band_masks * self.max_band_mask
        return self.crop or self.changes_waveform or masks > 0


@dataclass(frozen=True)
class FaceAugmentation:
    """The section ``[augment.face]``; everything is off by default."""

    crop_shift: NonNegative = 0.0  # of the crop's center, in units of its side, to either side
    crop_scale: Share = 0.0  # the side is changed by a factor of 1 - this to 1 + this
    flip: bool = False  # every second picture is mirrored
    brightness: NonNegative = 0.0  # added: -this to +this, in units of the range [0, 1]
    contrast: NonNegative = 0.0  # factor of 1 - this to 1 + this
    saturation: NonNegative = 0.0  # factor of 1 - this to 1 + this
    low_resolution_probability: Share = 0.0
    low_resolution_px: tuple[int, int] = (32, 96)  # from, to

    def __post_init__(self) -> None:
        _check_range("low_resolution_px", self.low_resolution_px, lowest=1)
        if self.crop_scale >= 1:
            raise SettingError("crop_scale", f"got {self.crop_scale}, expected less than 1")

    @property
    def is_on(self) -> bool:
        """Whether anything is changed at all."""
        return self != FaceAugmentation(low_resolution_px=self.low_resolution_px)


def _check_range(name: str, values: Sequence[float], lowest: float = -math.inf) -> None:
    if not lowest <= values[0] <= values[1]:
        raise SettingError(name, f"got {list(values)}, expected from, to with {lowest:g} <= from <= to")


@dataclass(frozen=True)
class Augmentation:
    """The section ``[augment]``."""

    voice: VoiceAugmentation = VoiceAugmentation()
    face: FaceAugmentation = FaceAugmentation()


def uniform(low: float, high: float, rng: Generator) -> float:
    """A number between the two."""
    return low + (high - low) * torch.rand((), generator=rng).item()


def happens(probability: float, rng: Generator) -> bool:
    """Whether something of this probability happens; one draw in any case."""
    return torch.rand((), generator=rng).item() < probability


def add_noise(waveform: Tensor, snr_db: float, rng: Generator) -> Tensor:
    """The waveform with white noise at a signal-to-noise ratio (power, dB), clipped to [-1, 1]."""
    noise = torch.randn(waveform.shape, generator=rng)
    noise -= noise.mean()
    power, noise_power = waveform.square().mean(), noise.square().mean().clamp_min(1e-12)
    return (waveform + noise * (power / noise_power * 10 ** (-snr_db / 10)).sqrt()).clamp(-1, 1)


def reverberate(waveform: Tensor, t60_s: float, sample_rate: int, rng: Generator) -> Tensor:
    """The waveform in a simple room, of the same length and power, clipped to [-1, 1].

    The impulse response is the direct sound and noise that decays exponentially (Polack, 1988), by 60 dB in `t60_s`,
    with as much energy as the direct sound.
    """
    length = int(t60_s * sample_rate)
    if length < 1:
        return waveform
    envelope = torch.exp(-DECAY_60_DB * torch.arange(1, length + 1) / length)
    tail = torch.randn(length, generator=rng) * envelope
    response = torch.cat([torch.ones(1), tail / tail.norm().clamp_min(1e-12)])
    size = len(waveform) + length
    wet = torch.fft.irfft(torch.fft.rfft(waveform, size) * torch.fft.rfft(response, size), size)[: len(waveform)]
    return (wet * (waveform.norm() / wet.norm().clamp_min(1e-12))).clamp(-1, 1)


def augment_waveform(waveform: Tensor, config: VoiceAugmentation, sample_rate: int, rng: Generator) -> Tensor:
    """The waveform in a room and in noise, each with the probability that `config` gives."""
    if happens(config.reverb_probability, rng):
        waveform = reverberate(waveform, uniform(*config.t60_s, rng), sample_rate, rng)
    if happens(config.noise_probability, rng):
        waveform = add_noise(waveform, uniform(*config.snr_db, rng), rng)
    return waveform


def window_start(num_frames: int, length: int, config: VoiceAugmentation, rng: Generator) -> int:
    """Where a window of `length` frames begins: anywhere with `config.crop`, else in the middle."""
    last = max(0, num_frames - length)
    return int(torch.randint(last + 1, (), generator=rng)) if config.crop else last // 2


def mask_log_mel(log_mel: Tensor, config: VoiceAugmentation, rng: Generator) -> Tensor:
    """The log-mel with some stretches of time and of bands at its mean (SpecAugment, without time warping)."""
    axes = ((2, config.num_time_masks, config.max_time_mask), (1, config.num_band_masks, config.max_band_mask))
    masked, mean = log_mel, log_mel.mean()
    for dim, count, longest in axes:
        size = log_mel.shape[dim]
        for _ in range(count if longest else 0):
            length = int(torch.randint(min(longest, size) + 1, (), generator=rng))
            start = int(torch.randint(size - length + 1, (), generator=rng))
            places = torch.arange(size)
            hidden = ((places >= start) & (places < start + length)).view([-1 if d == dim else 1 for d in range(3)])
            masked = torch.where(hidden, mean, masked)
    return masked


def jitter_crop(crop: Sequence[float], config: FaceAugmentation, rng: Generator) -> tuple[float, float, float, float]:
    """The crop (left, top, right, bottom), moved and scaled a little."""
    left, top, right, bottom = crop
    if not config.crop_shift and not config.crop_scale:
        return left, top, right, bottom
    scale = 1 + uniform(-config.crop_scale, config.crop_scale, rng)
    half_width, half_height = (right - left) / 2 * scale, (bottom - top) / 2 * scale
    x = (left + right) / 2 + uniform(-config.crop_shift, config.crop_shift, rng) * (right - left)
    y = (top + bottom) / 2 + uniform(-config.crop_shift, config.crop_shift, rng) * (bottom - top)
    return x - half_width, y - half_height, x + half_width, y + half_height


def augment_picture(image: Tensor, config: FaceAugmentation, rng: Generator) -> Tensor:
    """The picture mirrored, with other colors and at a lower resolution, as `config` says and as it happens."""
    if config.flip and happens(0.5, rng):
        image = image.flip(2)
    image = change_color(image, config, rng)
    if happens(config.low_resolution_probability, rng):
        low, high = config.low_resolution_px
        image = lower_resolution(image, int(torch.randint(low, high + 1, (), generator=rng)))
    return image


def change_color(image: Tensor, config: FaceAugmentation, rng: Generator) -> Tensor:
    """The picture with another brightness, contrast and saturation, clipped to [-1, 1]."""
    if not (config.brightness or config.contrast or config.saturation):
        return image
    contrast, saturation = (1 + uniform(-x, x, rng) for x in (config.contrast, config.saturation))
    brightness = 2 * uniform(-config.brightness, config.brightness, rng)  # the range [-1, 1] is two wide
    gray = torch.tensordot(torch.tensor(LUMA), image, 1)[None]
    image = gray + saturation * (image - gray)
    mean = gray.mean()
    return (mean + contrast * (image - mean) + brightness).clamp(-1, 1)


def lower_resolution(image: Tensor, size: int) -> Tensor:
    """The picture as it looks at `size` px, at its own size; unchanged where it has no more than that."""
    height, width = image.shape[1:]
    if size >= min(height, width):
        return image
    small = F.interpolate(image[None], (size, size), mode="area")
    return F.interpolate(small, (height, width), mode="bicubic", align_corners=False)[0].clamp(-1, 1)
