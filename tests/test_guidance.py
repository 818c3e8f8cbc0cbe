"""From a voice to a face: the objective without the reference's traps, and the guided steps."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from parity import difference, double
from tiny import tiny_encoder, tiny_generator
from voicestyle.config import GuidanceConfig
from voicestyle.guidance import VoiceObjective, guide, random_view
from voicestyle.nn.stylegan2 import Generator

CONFIG = GuidanceConfig(steps=12, lr=0.05, num_views=2)


@pytest.fixture(scope="module")
def generator() -> Generator:
    return tiny_generator()


@pytest.fixture(scope="module")
def encoder() -> nn.Module:
    return tiny_encoder()


class Quarters(nn.Module):
    """A face encoder that can be reckoned by hand: the mean color of each quarter of the picture."""

    def encode_face(self, image: Tensor) -> Tensor:
        return F.normalize(F.adaptive_avg_pool2d(image, 2).flatten(1), dim=1)


@pytest.fixture(scope="module")
def voice_emb(generator: Generator) -> Tensor:
    return Quarters().encode_face(generator(rand(2, 16)))


def rand(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def start(generator: Generator, num: int = 2) -> Tensor:
    return generator.w_avg.repeat(num, 1)


def test_guiding_raises_the_similarity(generator: Generator, voice_emb: Tensor) -> None:
    w_init = start(generator)
    result = guide(generator, Quarters(), voice_emb, w_init, dataclasses.replace(CONFIG, steps=30))
    before, after = ((Quarters().encode_face(generator.synthesis(w)) * voice_emb).sum(1) for w in (w_init, result.w))
    assert (after > before + 0.02).all()
    assert [len(entry["similarity"]) for entry in result.history] == [2] * 30
    assert all(-1 <= s <= 1 for entry in result.history for s in entry["similarity"])


def test_the_loss_is_that_of_the_plain_picture_and_never_above_the_start(
    generator: Generator, encoder: nn.Module
) -> None:
    voice = F.normalize(rand(2, 32), dim=1)
    w_init = start(generator)
    result = guide(generator, encoder, voice, w_init, CONFIG, seed=4)
    similarity = (encoder.encode_face(generator.synthesis(result.w)) * voice).sum(1)
    distance = (result.w - w_init).square().sum(1) / generator.w_std**2
    assert torch.allclose(result.loss, 1 - similarity + CONFIG.latent_weight * distance, atol=1e-5)
    start_loss = 1 - (encoder.encode_face(generator.synthesis(w_init)) * voice).sum(1)
    assert (result.loss <= start_loss + 1e-6).all()


def test_the_prior_holds_the_latent_back(generator: Generator, voice_emb: Tensor) -> None:
    w_init = start(generator)
    distances = []
    for weight in (0.0, 1.0, 100.0):
        config = dataclasses.replace(CONFIG, latent_weight=weight, latent_noise=0.0)
        distances.append((guide(generator, Quarters(), voice_emb, w_init, config).w - w_init).norm().item())
    assert distances[0] > distances[1] > distances[2]


def test_the_prior_has_a_gradient_towards_the_start(generator: Generator, voice_emb: Tensor) -> None:
    """The reference compares w with itself plus noise, whose gradient is zero."""
    w_init = start(generator)
    objective = VoiceObjective(Quarters(), voice_emb, w_init, CONFIG, w_std=2.0)
    w = (w_init + 1).requires_grad_(True)
    objective.prior(w).sum().backward()
    assert torch.allclose(w.grad, torch.full_like(w, 2 * CONFIG.latent_weight / 4))
    w_plus = w.detach()[:, None].repeat(1, 8, 1)
    many = VoiceObjective(Quarters(), voice_emb, w_init[:, None].repeat(1, 8, 1), CONFIG, w_std=2.0)
    assert torch.allclose(many.prior(w_plus), objective.prior(w.detach()))


def test_values_outside_of_the_range_keep_their_gradient(voice_emb: Tensor) -> None:
    """The reference clamps the picture before the loss."""
    image = (3 * rand(2, 3, 32, 32)).requires_grad_(True)
    VoiceObjective(Quarters(), voice_emb, torch.zeros(2, 16), CONFIG)(image, torch.zeros(2, 16)).sum().backward()
    assert (image.grad[image.abs() > 2].abs() > 0).all()


def test_each_view_differs_and_a_seed_repeats_them() -> None:
    image = rand(2, 3, 32, 32)
    rng = torch.Generator().manual_seed(7)
    first, second = random_view(image, rng), random_view(image, rng)
    assert not torch.allclose(first, second, atol=0.1)
    assert torch.equal(random_view(image, torch.Generator().manual_seed(7)), first)


def test_a_view_is_the_same_for_every_sample_and_stays_near_the_picture() -> None:
    smooth = F.interpolate(rand(1, 3, 4, 4), 64, mode="bicubic")
    for seed in range(8):
        view = random_view(smooth.repeat(2, 1, 1, 1), torch.Generator().manual_seed(seed))
        assert torch.equal(view[0], view[1])
        assert min((view[0] - x).abs().mean() for x in (smooth[0], smooth[0].flip(2))) < 0.25


def test_a_face_does_not_depend_on_the_others_guided_with_it(float64, generator: Generator, encoder: nn.Module) -> None:
    generator, encoder = double(generator), double(encoder)
    voice = F.normalize(rand(1, 32), dim=1)
    w_init = torch.stack([generator.w_avg, generator.mapping(rand(1, 16))[0]])
    together = guide(generator, encoder, voice, w_init, CONFIG, seed=3)
    alone = guide(generator, encoder, voice, w_init[:1], CONFIG, seed=3)
    assert difference(together.w[0], alone.w[0]) < 1e-9  # twelve steps on from 1e-15


def test_the_callback_is_called_at_each_step(generator: Generator, voice_emb: Tensor) -> None:
    steps = []
    guide(generator, Quarters(), voice_emb, start(generator), CONFIG, callback=lambda step, *_: steps.append(step))
    assert steps == list(range(CONFIG.steps))


class Aged(Quarters):
    """A face whose brightness is its age, and a voice that tells an age of 30 years."""

    config = SimpleNamespace(tells_age=True)

    def encode_face_and_age(self, image: Tensor) -> tuple[Tensor, Tensor]:
        return self.encode_face(image), 40 + 20 * image.mean((1, 2, 3))

    def voice_age(self, voice_emb: Tensor) -> Tensor:
        return torch.full((len(voice_emb),), 30.0)


def test_another_age_than_the_voice_tells_has_a_price(voice_emb: Tensor) -> None:
    image, w = rand(2, 3, 32, 32), torch.zeros(2, 16)
    aged = dataclasses.replace(CONFIG, age_weight=0.7)
    objective = VoiceObjective(Aged(), voice_emb, w, aged)
    without = VoiceObjective(Aged(), voice_emb, w, CONFIG)
    years = 40 + 20 * image.mean((1, 2, 3)) - 30
    expected = without.plain(image, w) + 0.7 * (years / 10).square()
    torch.testing.assert_close(objective.plain(image, w), expected)
    similarity = (Quarters().encode_face(image) * voice_emb).sum(1)
    torch.testing.assert_close(objective.similarity, similarity)


def test_guiding_brings_the_age_that_the_voice_tells(generator: Generator, voice_emb: Tensor) -> None:
    w_init = start(generator)
    away = []
    for weight in (0.0, 5.0):
        config = dataclasses.replace(CONFIG, age_weight=weight, steps=30)
        result = guide(generator, Aged(), voice_emb, w_init, config)
        _, age = Aged().encode_face_and_age(generator.synthesis(result.w))
        away.append((age - 30).abs().max())
        assert all(-1 <= s <= 1 for entry in result.history for s in entry["similarity"])
    assert away[1] < 0.7 * away[0]


def test_steps_can_look_at_a_smaller_picture(generator: Generator, voice_emb: Tensor) -> None:
    seen = []
    config = dataclasses.replace(CONFIG, size=16)
    result = guide(
        generator, Quarters(), voice_emb, start(generator), config, callback=lambda *told: seen.append(told[1].shape)
    )
    assert set(seen) == {torch.Size([2, 3, 16, 16])}
    small = generator.synthesis(result.w, until=16)
    objective = VoiceObjective(Quarters(), voice_emb, start(generator), config, w_std=generator.w_std)
    torch.testing.assert_close(result.loss, objective.plain(small, result.w), rtol=1e-4, atol=1e-5)


def test_a_generator_that_draws_no_larger_is_looked_at_as_it_is(generator: Generator, voice_emb: Tensor) -> None:
    size = generator.config.size
    a, b = (
        guide(generator, Quarters(), voice_emb, start(generator), dataclasses.replace(CONFIG, size=s))
        for s in (0, 4 * size)
    )
    assert torch.equal(a.w, b.w)
