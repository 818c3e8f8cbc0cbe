"""StyleGAN2: parity with the reference implementation, and properties of the networks."""

from __future__ import annotations

import dataclasses
import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fill import fill, inp
from parity import EXACT, SINGLE, difference, double
from voicestyle.config import GeneratorConfig
from voicestyle.convert.stylegan2 import from_rosinality, generator_keys
from voicestyle.nn.stylegan2 import Discriminator, Generator

LAYOUTS = json.loads((Path(__file__).parent / "assets/golden/state_dict_layouts.json").read_text())


@cache
def reference_generator(size: int) -> Generator:
    generator = Generator(GeneratorConfig(size))
    state = from_rosinality(fill(LAYOUTS[f"generator_{size}"], stylegan=True), generator_keys(generator.config))
    state |= {"w_avg": generator.w_avg, "w_std": generator.w_std}
    generator.load_state_dict(state)
    return generator.requires_grad_(False)


@pytest.mark.parametrize("size", [64, 256])
def test_generator_equals_reference(size: int, golden_dir: Path) -> None:
    golden = np.load(golden_dir / f"stylegan2_generator_{size}.npz")
    single = reference_generator(size)
    generator = double(single)
    step = 8 if size == 256 else 1
    w = generator.mapping(inp("z", (2, 512)).double())
    noise = [inp(f"noise{i}", s).double() for i, s in enumerate(generator.synthesis.noise_shapes)]
    images = {
        "image_w": generator.synthesis(w),
        "image_w_plus": generator.synthesis(inp("w_plus", (1, generator.num_ws, 512)).double()),
        "image_noise": generator.synthesis(w[:1], noise=noise),
    }
    assert difference(w, golden["w"]) < EXACT
    for name, image in images.items():
        assert difference(image[..., ::step, ::step], golden[name]) < EXACT, name
    if "stats" in golden:
        assert (
            difference(torch.stack([torch.stack([i.mean(), i.std()]) for i in images.values()]), golden["stats"])
            < EXACT
        )
    assert difference(single(inp("z", (2, 512)))[:1], images["image_w"][:1]) < SINGLE


def test_gradients_equal_reference(golden_dir: Path) -> None:
    golden = np.load(golden_dir / "stylegan2_generator_64.npz")

    def gradients(generator: Generator) -> list[Tensor]:
        dtype = generator.w_avg.dtype
        w = generator.mapping(inp("z", (2, 512)).to(dtype)).requires_grad_()
        noise = [inp(f"noise{i}", s).to(dtype).requires_grad_() for i, s in enumerate(generator.synthesis.noise_shapes)]
        image = generator.synthesis(w, noise=noise)
        return [*torch.autograd.grad((image * inp("cot", tuple(image.shape)).to(dtype)).sum(), [w, *noise])]

    single = reference_generator(64)
    for i, (exact, rounded) in enumerate(zip(gradients(double(single)), gradients(single), strict=True)):
        assert difference(exact, golden[f"grad_noise{i - 1}" if i else "grad_w"]) < EXACT, i
        # rounding moves features across the kink of the leaky ReLU, each a jump of the gradient
        assert torch.cosine_similarity(rounded.double().flatten(), exact.flatten(), dim=0) > 0.999, i


def discriminator_keys(config: GeneratorConfig) -> dict[str, str]:
    """Foreign key -> ours, for every tensor of a discriminator that carries weights."""
    table = {"convs.0.0.weight": "from_rgb.weight", "convs.0.1.bias": "from_rgb.bias"}
    for i in range(config.size.bit_length() - 3):
        foreign, ours = f"convs.{i + 1}", f"blocks.{i}"
        table[f"{foreign}.conv1.0.weight"] = f"{ours}.conv1.weight"
        table[f"{foreign}.conv1.1.bias"] = f"{ours}.conv1.bias"
        table[f"{foreign}.conv2.1.weight"] = f"{ours}.conv2.weight"
        table[f"{foreign}.conv2.2.bias"] = f"{ours}.conv2.bias"
        table[f"{foreign}.skip.1.weight"] = f"{ours}.skip.weight"
    for leaf in ("weight", "bias"):
        table[f"final_linear.0.{leaf}"] = f"final_linear.{leaf}"
        table[f"final_linear.1.{leaf}"] = f"logit.{leaf}"
    return table | {"final_conv.0.weight": "final_conv.weight", "final_conv.1.bias": "final_conv.bias"}


@pytest.mark.parametrize("size", [64, 256])
def test_discriminator_equals_reference(size: int, golden_dir: Path) -> None:
    discriminator = Discriminator(GeneratorConfig(size)).requires_grad_(False)
    table = discriminator_keys(GeneratorConfig(size))
    discriminator.load_state_dict(from_rosinality(fill(LAYOUTS[f"discriminator_{size}"], stylegan=True), table))
    images = inp("image", (4, 3, size, size), lo=-1)
    logits = double(discriminator)(images.double())
    assert difference(logits, np.load(golden_dir / f"stylegan2_discriminator_{size}.npz")["logits"]) < EXACT
    assert difference(discriminator(images), logits) < SINGLE


@pytest.mark.parametrize("size", [64, 256])
def test_key_tables_cover_both_sides(size: int) -> None:
    """Each foreign tensor with weights has one place of ours, and the other way round."""
    config = GeneratorConfig(size)
    for table, layout, module, own in (
        (generator_keys(config), LAYOUTS[f"generator_{size}"], Generator(config), {"w_avg", "w_std"}),
        (discriminator_keys(config), LAYOUTS[f"discriminator_{size}"], Discriminator(config), set()),
    ):
        assert set(table) == {k for k in layout if not k.endswith(".kernel")}
        assert set(table.values()) == set(module.state_dict()) - own
        assert len(set(table.values())) == len(table)


def test_official_size_has_the_published_parameters() -> None:
    generator = Generator(GeneratorConfig(256))
    assert sum(p.numel() for p in generator.parameters()) == 30_034_338  # Generator(256, 512, 8, channel_multiplier 2)
    assert generator.num_ws == 14
    assert len(generator.synthesis.noise_shapes) == 13


def test_foreign_layout_is_refused() -> None:
    state = fill(LAYOUTS["generator_64"], stylegan=True)
    table = generator_keys(GeneratorConfig(64))
    with pytest.raises(ValueError, match="unknown keys \\['surprise'\\]"):
        from_rosinality(state | {"surprise": torch.zeros(1)}, table, "file.pt")
    del state["input.input"]
    with pytest.raises(ValueError, match="file.pt: .*missing \\['input.input'\\]"):
        from_rosinality(state, table, "file.pt")


@pytest.fixture
def tiny() -> Generator:
    torch.manual_seed(0)
    generator = Generator(GeneratorConfig.tiny())
    for conv in generator.synthesis.convs:
        torch.nn.init.constant_(conv.noise_strength, 0.3)
    return generator.requires_grad_(False)


def test_w_is_w_plus_repeated(tiny: Generator) -> None:
    w = tiny.mapping(torch.randn(3, 16))
    assert torch.equal(tiny.synthesis(w), tiny.synthesis(w[:, None].repeat(1, tiny.num_ws, 1)))


def test_psi_zero_gives_one_face(tiny: Generator) -> None:
    images = tiny(torch.randn(4, 16), truncation_psi=0)
    assert (images - images[:1]).abs().max() < 1e-5
    assert (tiny(torch.randn(4, 16)).std(0).mean()) > 1e-3


def test_noise_modes(tiny: Generator) -> None:
    w = tiny.mapping(torch.randn(1, 16))
    draw = lambda seed: tiny.synthesis(w, "random", rng=torch.Generator().manual_seed(seed))  # noqa: E731
    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))
    assert not torch.equal(tiny.synthesis(w, "none"), tiny.synthesis(w, "const"))
    with pytest.raises(ValueError, match="noise_mode: got 'loud'"):
        tiny.synthesis(w, "loud")
    with pytest.raises(ValueError, match="got 2 maps, expected 7"):
        tiny.synthesis(w, noise=[torch.zeros(1, 1, 4, 4)] * 2)
    with pytest.raises(ValueError, match=r"w: got shape \(1, 3, 16\)"):
        tiny.synthesis(torch.zeros(1, 3, 16))


def test_samples_of_a_batch_do_not_touch_each_other(tiny: Generator) -> None:
    w = tiny.mapping(torch.randn(3, 16))
    assert torch.allclose(tiny.synthesis(w)[1:2], tiny.synthesis(w[1:2]), atol=1e-5)


def test_discriminator_refuses_a_broken_group() -> None:
    with pytest.raises(ValueError, match="batch of 6, expected a multiple of 4"):
        Discriminator(GeneratorConfig.tiny())(torch.zeros(6, 3, 32, 32))


@pytest.mark.parametrize("size", [31, 48, 2048, 0])
def test_sizes_are_checked(size: int) -> None:
    with pytest.raises(ValueError, match="expected one of 32, 64, 128, 256, 512, 1024"):
        GeneratorConfig(size)


def test_the_skips_give_the_smaller_pictures() -> None:
    torch.manual_seed(0)
    small, large = Generator(GeneratorConfig.tiny()), Generator(dataclasses.replace(GeneratorConfig.tiny(), size=64))
    kept = small.state_dict()
    large.load_state_dict({name: kept.get(name, value) for name, value in large.state_dict().items()})
    w = torch.randn(2, small.config.w_dim)
    assert torch.equal(large.synthesis(w, until=32), small.synthesis(w))
    assert torch.equal(large.synthesis(w, until=64), large.synthesis(w))
    assert large.synthesis(w, until=4).shape == (2, 3, 4, 4)


def test_a_resolution_that_a_network_lacks_is_refused() -> None:
    generator = Generator(GeneratorConfig.tiny())
    with pytest.raises(ValueError, match=r"until: got 48, expected one of \[4, 8, 16, 32\]"):
        generator.synthesis(generator.w_avg[None], until=48)


def test_a_block_is_local() -> None:
    torch.manual_seed(0)
    generator = Generator(dataclasses.replace(GeneratorConfig.tiny(), size=64)).double().requires_grad_(False)
    synthesis, w = generator.synthesis, torch.randn(1, generator.config.w_dim).double()
    whole = synthesis(w)
    features, image = synthesis.features(w, until=32)
    each = w[:, None].expand(-1, synthesis.num_ws, -1)
    noise = [conv.noise_const[..., 16:, :48] for conv in synthesis.convs[-2:]]
    _, crop = synthesis.block(4, features[..., 8:, :24], image[..., 8:, :24], each, noise)
    # cut edges are at the top and on the right
    assert (crop - whole[..., 16:, :48])[..., 8:, :-8].abs().max() < 1e-12
    assert (crop - whole[..., 16:, :48]).abs().max() > 1e-6


def test_what_is_kept_of_frozen_weights_follows_them(tiny: Generator) -> None:
    """What the convolutions prepare of frozen weights is found anew when these change, in place or by others."""
    generator = Generator(GeneratorConfig.tiny()).requires_grad_(False)
    generator.load_state_dict(tiny.state_dict())
    w = generator.mapping(inp("z", (2, generator.config.z_dim)))

    def picture(network: Generator) -> Tensor:
        fresh = Generator(network.config)
        fresh.load_state_dict(network.state_dict())
        expected = fresh.synthesis(w.to(network.w_avg)).detach()
        assert torch.equal(network.synthesis(w.to(network.w_avg)), expected)
        return expected

    before = picture(generator)
    generator.synthesis.convs[1].conv.weight.mul_(-0.5)
    after = picture(generator)
    assert not torch.equal(before, after)
    generator.load_state_dict(tiny.state_dict(), assign=True)
    assert torch.equal(picture(generator.requires_grad_(False)), before)
    assert generator.double().synthesis(w.double()).dtype == torch.float64
    assert difference(generator.synthesis(w.double()), before) < SINGLE
