"""The settings of the authors' code against plain loops, written from what that code does.

The loops know nothing of `optimize_latent`, its objectives or its regularizers: they have the networks alone, and the
random numbers that our loop draws (first the noise maps, then the latent noise of each step).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import voicestyle
from parity import EXACT, difference, in_float64
from tiny import VOICE, save_tiny, tiny_encoder, tiny_generator
from voicestyle.config import GuidanceConfig
from voicestyle.guidance import guide
from voicestyle.inversion import REFERENCE, ReconstructionObjective, invert
from voicestyle.nn.stylegan2 import Generator
from voicestyle.show import generation_sheet

SEED = 11
LOOPS = 1e-9  # the difference of two loops in float64, after some steps from one of 1e-15


@pytest.fixture(scope="module")
def loaded(tmp_path_factory) -> voicestyle.VoiceStyle:
    return voicestyle.load(save_tiny(tmp_path_factory.mktemp("models") / "tiny"), device="cpu")


@pytest.fixture(scope="module", autouse=True)
def exact(loaded: voicestyle.VoiceStyle) -> Iterator[None]:
    """Everything here is computed in float64, but for the making of a model, which other tests have too."""
    with in_float64():
        yield


def lively(generator: Generator) -> Generator:
    """Its noise maps show, and its pictures reach beyond [-1, 1], so that clamping shows too."""
    for conv in generator.synthesis.convs:
        conv.noise_strength.fill_(0.1)
    for to_rgb in generator.synthesis.to_rgbs:
        to_rgb.bias.add_(0.2)
    image = generator.synthesis(generator.w_avg[None])
    assert 0.02 < (image.abs() > 1).float().mean() < 0.9
    return generator


@pytest.fixture(scope="module")
def generator() -> Generator:
    return lively(tiny_generator())


@pytest.fixture(scope="module")
def encoder() -> nn.Module:
    return tiny_encoder()


def rand(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------------------------------------- the plain loops


def learning_rate(step: int, num_steps: int, lr: float) -> float:
    """Up over the first 5 %, down by half a cosine over the last 25 %."""
    t = step / num_steps
    down = 0.5 - 0.5 * math.cos(math.pi * min(1, (1 - t) / 0.25))
    return lr * down * min(1, t / 0.05)


def noise_strength(step: int, num_steps: int) -> float:
    return 0.05 * max(0, 1 - step / num_steps / 0.75) ** 2


def autocorrelation(maps: list[Tensor]) -> Tensor:
    """Of maps (N,1,r,r), over the whole batch, at each size down to 8 px."""
    total = torch.zeros(())
    for x in maps:
        while True:
            left = torch.cat([x[..., -1:], x[..., :-1]], 3)
            up = torch.cat([x[..., -1:, :], x[..., :-1, :]], 2)
            total = total + (x * left).mean() ** 2 + (x * up).mean() ** 2
            if x.shape[2] <= 8:
                break
            x = (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4
    return total


def normalize(maps: list[Tensor]) -> None:
    with torch.no_grad():
        for x in maps:
            mean, std = x.mean(), x.std()
            x.copy_((x - mean) / std)


def draws(generator: Generator, num: int, num_steps: int, seed: int) -> tuple[list[Tensor], list[Tensor]]:
    """Noise maps of `num` samples, and the latent noise of each step, as our loop draws them."""
    rng = torch.Generator().manual_seed(seed)
    maps = [torch.randn(num, *shape[1:], generator=rng) for shape in generator.synthesis.noise_shapes]
    steps = [i for i in range(num_steps) if noise_strength(i, num_steps) > 0]
    return maps, [torch.randn(num, 16, generator=rng) for _ in steps] + [torch.zeros(num, 16)] * num_steps


def reference_guidance(
    generator: Generator, encoder: nn.Module, voice_emb: Tensor, start: Tensor, num_steps: int, seed: int
) -> tuple[Tensor, list[Tensor]]:
    """What the reference does with one voice and the mean of its members' latents (1,w_dim)."""
    maps, latent_noise = draws(generator, 1, num_steps, seed)
    w = start.clone().requires_grad_()
    maps = [m.requires_grad_() for m in maps]
    adam = torch.optim.Adam([w, *maps], lr=0.01)
    for step in range(num_steps):
        adam.param_groups[0]["lr"] = learning_rate(step, num_steps, 0.01)
        noisy = w + latent_noise[step] * (generator.w_std * noise_strength(step, num_steps)).item()
        image = generator.synthesis(noisy, noise=maps).clamp_(min=-1, max=1)
        face = encoder.face_features(image)
        if encoder.config.bridge_hidden:
            face = encoder.face_bridge(face)
        cosine = (voice_emb * face).sum(1) / (voice_emb.norm(dim=1) * face.norm(dim=1))
        loss = 1 - cosine + 1e5 * autocorrelation(maps) + 0.001 * ((w - noisy) ** 2).sum()
        adam.zero_grad()
        loss.backward()
        adam.step()
        normalize(maps)
    return w.detach(), [m.detach() for m in maps]


def reference_projection(
    generator: Generator, images: Tensor, perceptual: nn.Module, identity: nn.Module, num_steps: int, seed: int
) -> Tensor:
    """What the reference does with a batch of pictures: one loss for all of them."""
    maps, latent_noise = draws(generator, len(images), num_steps, seed)
    w = generator.w_avg.detach().clone().unsqueeze(0).repeat(len(images), 1).requires_grad_()
    maps = [m.requires_grad_() for m in maps]
    adam = torch.optim.Adam([w, *maps], lr=0.1)
    who = identity(images)
    for step in range(num_steps):
        adam.param_groups[0]["lr"] = learning_rate(step, num_steps, 0.1)
        noisy = w + latent_noise[step] * (generator.w_std * noise_strength(step, num_steps)).item()
        image = generator.synthesis(noisy, noise=maps)
        identity_loss = 0
        for mine, theirs in zip(identity(image), who, strict=True):
            identity_loss = identity_loss + 1 - mine.dot(theirs)
        loss = perceptual(image, images).sum() + identity_loss / len(images) + 1e5 * autocorrelation(maps)
        adam.zero_grad()
        loss.backward()
        adam.step()
        normalize(maps)
    return w.detach()


# ---------------------------------------------------------------------------------------------------------- guidance


def reference_settings(num_steps: int = 12, **changes) -> GuidanceConfig:
    return dataclasses.replace(GuidanceConfig.reference(), steps=num_steps, **changes)


@pytest.fixture(scope="module")
def guided(generator: Generator, encoder: nn.Module) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """A voice, a start, and where the plain loop takes them."""
    voice_emb = torch.nn.functional.normalize(rand(1, 32), dim=1)
    start = generator.mapping(rand(8, 16)).mean(0, keepdim=True)
    return voice_emb, start, *reference_guidance(generator, encoder, voice_emb, start, 12, SEED)


def test_guided_steps_are_those_of_the_reference(generator: Generator, encoder: nn.Module, guided) -> None:
    voice_emb, start, w, maps = guided
    result = guide(generator, encoder, voice_emb, start, reference_settings(), SEED)
    assert (w - start).abs().max() > 0.02
    assert result.w.dtype == torch.float64 and difference(result.w, w) < LOOPS
    for mine, theirs in zip(result.noise, maps, strict=True):
        assert difference(mine, theirs) < LOOPS


@pytest.mark.parametrize(
    "change",
    [{"clamp": False}, {"optimize_noise": False}, {"num_views": 1}, {"latent_weight": 1.0}, {"latent_noise": 0.0},
     {"lr": 0.011}],
)  # fmt: skip
def test_each_setting_has_a_say(generator: Generator, encoder: nn.Module, guided, change) -> None:
    voice_emb, start, w, _ = guided
    result = guide(generator, encoder, voice_emb, start, reference_settings(**change), SEED)
    assert not torch.allclose(result.w, w, atol=1e-4)


def test_the_last_latent_is_kept_even_if_it_is_not_the_best(generator: Generator, encoder: nn.Module) -> None:
    image = generator.synthesis(generator.w_avg[None])
    voice_emb = encoder.encode_face(image.clamp(-1, 1))  # the start cannot be bettered, but by its noise maps
    settings = reference_settings(6, lr=0.5, optimize_noise=False)
    last = guide(generator, encoder, voice_emb, generator.w_avg[None], settings)
    best = guide(generator, encoder, voice_emb, generator.w_avg[None], dataclasses.replace(settings, keep="best"))
    assert torch.equal(best.w, generator.w_avg[None]) and not torch.allclose(last.w, best.w)
    assert last.loss > best.loss


def test_the_latent_regularizer_of_the_reference_has_no_gradient() -> None:
    w, noise = rand(1, 16).requires_grad_(), rand(1, 16, seed=2)
    ((w - (w + noise)) ** 2).sum().backward()
    assert (w.grad == 0).all() and GuidanceConfig.reference().latent_weight == 0


def test_clamping_stops_the_gradient_beyond_the_range(generator: Generator, encoder: nn.Module) -> None:
    from voicestyle.guidance import VoiceObjective

    image = (2 * rand(1, 3, 32, 32)).requires_grad_()
    voice_emb = torch.nn.functional.normalize(rand(1, 32), dim=1)
    VoiceObjective(encoder, voice_emb, torch.zeros(1, 16), reference_settings())(image, torch.zeros(1, 16)).backward()
    assert (image.grad[image.abs() > 1] == 0).all() and (image.grad[image.abs() < 1] != 0).any()


def test_reference_settings_are_known_by_name() -> None:
    assert reference_settings(7).is_reference and dataclasses.replace(reference_settings(), k=1).is_reference
    assert not GuidanceConfig().is_reference and not reference_settings(num_views=1).is_reference
    assert (GuidanceConfig.reference().k, GuidanceConfig.reference().steps) == (3, 100)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"member_order": "age"}, "member_order: got 'age'"), ({"keep": "first"}, "keep: got 'first'"),
     ({"num_members": 0}, "num_members: got 0"), ({"num_views": -1}, "num_views: got -1")],
)  # fmt: skip
def test_settings_that_are_none_are_errors(change, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GuidanceConfig(**change)


# -------------------------------------------------------------------------------------------------------- projection


class Look(nn.Module):
    """Stands for LPIPS: squared differences of a random convolution's outputs."""

    name = "LPIPS"

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernel", rand(4, 3, 3, 3, seed=3) / 5)

    def features(self, image: Tensor) -> list[Tensor]:
        return [torch.nn.functional.conv2d(image, self.kernel).relu()]

    def distance(self, a: list[Tensor], b: list[Tensor]) -> Tensor:
        return (a[0] - b[0]).square().mean((1, 2, 3))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.distance(self.features(a), self.features(b))


def who(image: Tensor) -> Tensor:
    """Stands for the identity network: unit features (N,12)."""
    features = torch.nn.functional.adaptive_avg_pool2d(image, 2).flatten(1)
    return features / features.norm(dim=1, keepdim=True)


@pytest.fixture(scope="module")
def images(generator: Generator) -> Tensor:
    return generator(rand(8, 16, seed=5)).clamp(-1, 1)


@pytest.fixture(scope="module")
def projected(generator: Generator, images: Tensor) -> Tensor:
    return reference_projection(generator, images, Look(), who, 8, SEED)


def test_projections_are_those_of_the_reference(generator: Generator, images: Tensor, projected: Tensor) -> None:
    result = invert(generator, images, who, Look(), **{**REFERENCE, "steps": 8}, seed=SEED)
    assert (projected - generator.w_avg).abs().max() > 0.2
    assert result.w.dtype == torch.float64 and difference(result.w, projected) < LOOPS


@pytest.mark.parametrize(
    "change",
    [{"identity_weight": 1.0}, {"samples": "independent"}, {"optimize_noise": False}, {"noise_weight": 1e4},
     {"perceptual_weight": 0.5}, {"pixel_weight": 0.1}, {"lr": 0.11}, {"latent_noise": 0.0}],
)  # fmt: skip
def test_each_setting_of_the_projection_has_a_say(generator, images, projected: Tensor, change) -> None:
    result = invert(generator, images, who, Look(), **{**REFERENCE, "steps": 8, **change}, seed=SEED)
    assert not torch.allclose(result.w, projected, atol=1e-3)


def test_identity_fades_by_the_batch_and_lpips_does_not(generator: Generator, images: Tensor) -> None:
    """The sum of our losses is the reference's loss of its batch of 8."""
    made = images.roll(1, 0)
    objective = ReconstructionObjective(images, who, Look(), identity_weight=REFERENCE["identity_weight"])
    expected = Look()(made, images).sum() + (1 - (who(made) * who(images)).sum(1)).mean()
    assert difference(objective(made, None).sum(), expected) < EXACT


# ------------------------------------------------------------------------------------------------------- the pipeline


@pytest.fixture(scope="module")
def vs(loaded: voicestyle.VoiceStyle) -> voicestyle.VoiceStyle:
    loaded.encoder.double()
    lively(loaded.generator.double())
    return loaded


def test_generate_starts_from_the_first_members_and_renders_with_its_noise(vs: voicestyle.VoiceStyle) -> None:
    out = vs.generate(VOICE, steps=6, seed=3, guidance=GuidanceConfig.reference())
    voice_emb = vs.encode_voice(VOICE)
    prototypes = (vs.bank.centroids.double() @ voice_emb[0]).topk(3).indices.tolist()
    members = [i for i in range(len(vs.bank.assignments)) if vs.bank.assignments[i] in prototypes][:8]
    assert out.prototypes.members.tolist() == members
    w_init = vs.bank.member_w[members].mean(0, keepdim=True)
    w, maps = reference_guidance(vs.generator, vs.encoder, voice_emb, w_init.double(), 6, 3)
    assert difference(out.w_init, w_init) < EXACT and difference(out.w, w) < LOOPS
    assert difference(out.image, vs.generator.synthesis(w, noise=maps)) < LOOPS
    assert not torch.allclose(out.image, vs.synthesize(out.w), atol=1e-2)


def test_results_say_whose_settings_they_have(vs: voicestyle.VoiceStyle, tmp_path: Path) -> None:
    names = []
    for guidance in (None, GuidanceConfig.reference(), dataclasses.replace(vs.config.guidance, lr=0.2)):
        out = vs.generate(VOICE, steps=1, guidance=guidance)
        out.save(tmp_path / "face.png")
        with Image.open(tmp_path / "face.png") as picture:
            assert picture.text["settings"] == out.summary()["settings"]
        names.append(out.summary()["settings"])
    assert names == ["model", "reference", "custom"]


def test_a_sheet_ends_in_the_picture(vs: voicestyle.VoiceStyle, monkeypatch) -> None:
    rows = []
    monkeypatch.setattr("voicestyle.show.contact_sheet", lambda got: rows.extend(got))
    out = vs.generate(VOICE, steps=2, num_faces=2, guidance=GuidanceConfig.reference())
    generation_sheet(vs, out)
    for face, (_, tiles) in enumerate(rows[-2:]):
        assert torch.allclose(tiles[-1][0], out.image[face : face + 1], atol=1e-4)
