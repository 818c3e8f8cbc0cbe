"""Augmentations: nothing by default, the same for the same seed, and each does what its name and unit say."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fill import inp
from voicestyle.train.encoder import augment
from voicestyle.train.encoder.augment import FaceAugmentation, VoiceAugmentation

RATE = 16000
EVERYTHING = {
    "voice": VoiceAugmentation(
        crop=True, noise_probability=1.0, reverb_probability=1.0,
        num_time_masks=2, max_time_mask=20, num_band_masks=2, max_band_mask=8,
    ),
    "face": FaceAugmentation(
        crop_shift=0.1, crop_scale=0.1, flip=True, brightness=0.2, contrast=0.2, saturation=0.2,
        low_resolution_probability=1.0, low_resolution_px=(8, 16),
    ),
}  # fmt: skip


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def speech(seconds: float = 1.0) -> torch.Tensor:
    time = torch.arange(int(seconds * RATE)) / RATE
    return 0.1 * torch.sin(2 * torch.pi * 220 * time) * (1 + torch.sin(2 * torch.pi * 4 * time))


def changed(seed: int, voice: VoiceAugmentation, face: FaceAugmentation) -> list[torch.Tensor]:
    """Everything that can be changed, changed."""
    rng = generator(seed)
    log_mel, image = inp("aug mel", (1, 40, 200)), inp("aug face", (3, 32, 40), lo=-1)
    return [
        augment.augment_waveform(speech(), voice, RATE, rng),
        augment.mask_log_mel(log_mel, voice, rng),
        torch.tensor(augment.window_start(200, 50, voice, rng)),
        torch.tensor(augment.jitter_crop((0.1, 0.2, 0.9, 1.0), face, rng)),
        augment.augment_picture(image, face, rng),
    ]


def test_everything_is_off_by_default():
    voice, face = VoiceAugmentation(), FaceAugmentation()
    assert not (voice.is_on or voice.changes_waveform or face.is_on)
    for seed in range(5):
        waveform, log_mel, start, crop, image = changed(seed, voice, face)
        assert torch.equal(waveform, speech())
        assert torch.equal(log_mel, inp("aug mel", (1, 40, 200)))
        assert start == 75 and crop.tolist() == pytest.approx([0.1, 0.2, 0.9, 1.0])
        assert torch.equal(image, inp("aug face", (3, 32, 40), lo=-1))


def test_a_seed_says_it_all_and_inputs_stay():
    before = torch.get_rng_state()
    first, again, other = (changed(seed, **EVERYTHING) for seed in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    assert torch.equal(before, torch.get_rng_state())
    assert EVERYTHING["voice"].is_on and EVERYTHING["voice"].changes_waveform and EVERYTHING["face"].is_on


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000))
def test_shapes_and_ranges_are_kept(seed):
    waveform, log_mel, start, crop, image = changed(seed, **EVERYTHING)
    assert waveform.shape == speech().shape and waveform.abs().max() <= 1
    assert log_mel.shape == (1, 40, 200) and image.shape == (3, 32, 40) and image.abs().max() <= 1
    assert 0 <= start <= 150 and torch.isfinite(torch.cat([waveform, log_mel.flatten()])).all()
    left, top, right, bottom = crop.tolist()
    assert 0.72 <= right - left <= 0.88 and right - left == pytest.approx(bottom - top)
    assert abs((left + right) / 2 - 0.5) <= 0.081 and abs((top + bottom) / 2 - 0.6) <= 0.081


@settings(deadline=None, max_examples=20)
@given(st.floats(0, 40), st.integers(0, 100))
def test_noise_has_the_ratio_that_was_asked_for(snr_db, seed):
    clean = speech()
    noise = augment.add_noise(clean, snr_db, generator(seed)) - clean
    assert 10 * math.log10(float(clean.square().mean() / noise.square().mean())) == pytest.approx(snr_db, abs=0.3)


def test_noise_is_clipped_and_silence_stays_silent():
    assert augment.add_noise(speech() * 5, -20, generator()).abs().max() == 1
    assert not augment.add_noise(torch.zeros(100), 10, generator()).any()


def test_reverberation_decays_by_60_db_in_its_time():
    click = torch.zeros(RATE)
    click[0] = 0.5
    wet = augment.reverberate(click, 0.3, RATE, generator())
    assert wet.norm() == pytest.approx(float(click.norm()), rel=1e-4)
    tail = wet[1:].square()
    early, late = tail[:480].mean(), tail[4320:4800].mean()  # 30 ms each, 0.27 s apart
    assert 10 * math.log10(float(early / late)) == pytest.approx(60 * 0.27 / 0.3, abs=2)
    assert tail[4801:].max() < 1e-9
    assert float(tail.sum()) == pytest.approx(float(wet[0].square()), rel=1e-3)  # as much energy as the direct sound
    assert torch.equal(augment.reverberate(click, 0.0, RATE, generator()), click)


def test_masks_hide_stretches_of_time_and_bands():
    log_mel = inp("mask", (1, 40, 200)) + 3
    config = VoiceAugmentation(num_time_masks=1, max_time_mask=30)
    for seed in range(8):
        hidden = (augment.mask_log_mel(log_mel, config, generator(seed)) - log_mel.mean()).abs() < 1e-6
        frames = hidden.all(1)[0]
        assert hidden.sum() == 40 * frames.sum() <= 40 * 30
        assert (frames.int().diff().abs().sum() <= 2).item()  # one stretch
    config = VoiceAugmentation(num_band_masks=3, max_band_mask=5)
    masked = augment.mask_log_mel(log_mel, config, generator(1))
    bands = (masked != log_mel).any(2)[0]
    assert 0 < bands.sum() <= 15 and torch.equal(masked[:, ~bands], log_mel[:, ~bands])
    short = inp("short", (1, 4, 3))
    assert augment.mask_log_mel(short, EVERYTHING["voice"], generator()).shape == short.shape


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 99))
def test_windows_lie_inside(num_frames, length, seed):
    start = augment.window_start(num_frames, length, VoiceAugmentation(crop=True), generator(seed))
    assert 0 <= start <= max(0, num_frames - length)


def test_every_place_is_drawn():
    crop = VoiceAugmentation(crop=True)
    assert {augment.window_start(12, 8, crop, generator(seed)) for seed in range(60)} == {0, 1, 2, 3, 4}


def test_every_second_picture_is_mirrored():
    image, flip = inp("flip", (3, 4, 6), lo=-1), FaceAugmentation(flip=True)
    made = [augment.augment_picture(image, flip, generator(seed)) for seed in range(100)]
    mirrored = [torch.equal(picture, image.flip(2)) for picture in made]
    assert 35 < sum(mirrored) < 65
    assert all(is_mirrored or torch.equal(x, image) for x, is_mirrored in zip(made, mirrored, strict=True))


def test_colors_change_as_named():
    image = 0.4 * inp("color", (3, 16, 16), lo=-1)
    brighter = [augment.change_color(image, FaceAugmentation(brightness=0.1), generator(s)) - image for s in range(20)]
    assert all(x.std() < 1e-6 and x.abs().max() <= 0.2 for x in brighter)
    assert max(x.mean() for x in brighter) > 0.1 and min(x.mean() for x in brighter) < -0.1
    contrast = augment.change_color(image, FaceAugmentation(contrast=0.5), generator())
    luma = torch.tensor(augment.LUMA)
    gray_levels = [float(torch.tensordot(luma, x, 1).mean()) for x in (contrast, image)]
    assert gray_levels[0] == pytest.approx(gray_levels[1], abs=1e-4)
    assert 0.5 <= contrast.std() / image.std() <= 1.5
    gray = image.mean(0).expand(3, -1, -1)
    saturated = augment.change_color(gray, FaceAugmentation(saturation=0.9), generator())
    torch.testing.assert_close(saturated, gray, rtol=0, atol=1e-5)  # gray has none


def test_low_resolution_loses_detail_alone():
    checkers = (torch.arange(32)[:, None] + torch.arange(32)) % 2 * 2.0 - 1
    image = checkers.expand(3, -1, -1)
    assert augment.lower_resolution(image, 8).abs().max() < 0.1
    flat = torch.full((3, 32, 32), 0.3)
    torch.testing.assert_close(augment.lower_resolution(flat, 8), flat)
    assert augment.lower_resolution(image, 32) is image


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VoiceAugmentation(snr_db=(30.0, 10.0)), r"snr_db: got \[30.0, 10.0\], expected from, to"),
        (lambda: VoiceAugmentation(t60_s=(-0.1, 0.2)), "t60_s"),
        (lambda: FaceAugmentation(low_resolution_px=(0, 8)), "low_resolution_px"),
        (lambda: FaceAugmentation(crop_scale=1.0), "crop_scale: got 1.0, expected less than 1"),
    ],
)
def test_settings_that_do_not_fit(make, message):
    with pytest.raises(ValueError, match=message):
        make()
