"""rosinality's StyleGAN2 (`550000.pt`, and NVIDIA's files after its `convert_weight.py`) <-> ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from voicestyle.config import GeneratorConfig
from voicestyle.convert.keys import filled, layout, rename
from voicestyle.convert.torch_file import read_torch_file
from voicestyle.latent import w_statistics
from voicestyle.nn.ops import blur_kernel
from voicestyle.nn.stylegan2 import Generator

MAX_WIDTH = 4096  # of a layer; StyleGAN2 has 512, and a damaged file must not ask for terabytes
# foreign tail -> ours, for one styled convolution and one RGB layer
_STYLED = {
    "conv.weight": "conv.weight",
    "conv.modulation.weight": "conv.affine.weight",
    "conv.modulation.bias": "conv.affine.bias",
    "noise.weight": "noise_strength",
    "activate.bias": "bias",
}
_RGB = {
    "conv.weight": "conv.weight",
    "conv.modulation.weight": "conv.affine.weight",
    "conv.modulation.bias": "conv.affine.bias",
    "bias": "bias",
}


def generator_keys(config: GeneratorConfig) -> dict[str, str]:
    """Foreign key -> ours, for every tensor of a generator that carries weights (blur filters are constants)."""
    table = {"input.input": "synthesis.const"}
    for i in range(config.num_mapping_layers):
        for leaf in ("weight", "bias"):
            table[f"style.{i + 1}.{leaf}"] = f"mapping.layers.{i}.{leaf}"
    num_rgb = config.size.bit_length() - 2
    for i in range(2 * num_rgb - 1):
        foreign = "conv1" if i == 0 else f"convs.{i - 1}"
        table |= {f"{foreign}.{a}": f"synthesis.convs.{i}.{b}" for a, b in _STYLED.items()}
        table[f"noises.noise_{i}"] = f"synthesis.convs.{i}.noise_const"
    for i in range(num_rgb):
        foreign = "to_rgb1" if i == 0 else f"to_rgbs.{i - 1}"
        table |= {f"{foreign}.{a}": f"synthesis.to_rgbs.{i}.{b}" for a, b in _RGB.items()}
    return table


def read_generator(path: str | Path, seed: int = 0) -> tuple[Generator, dict[str, str]]:
    """The generator `g_ema` of a checkpoint, or of a bare state dict, in evaluation mode and frozen; and what was made.

    Its settings are read off the shapes. What the file lacks is made with `seed`: noise maps, and the mean of w unless
    `latent_avg` is there; the spread of w is in no file. The second value says how, under "w_avg", "w_std" and
    "noise maps".

    Raises:
        FileNotFoundError: no such file
        ValueError: no generator of this layout (keys, shapes, blur filters), or values that are not finite
    """
    state, latent_avg = _read(path)
    try:
        config = generator_config(state)
        return _completed(config, _weights(state, config), latent_avg, seed)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def read_state(path: str | Path) -> dict[str, Tensor]:
    """The state dict of the generator of a checkpoint under rosinality's names, not looked at.

    Raises:
        FileNotFoundError, ValueError: see `read_torch_file`; no entry 'g_ema', and no state dict either
    """
    return _read(path)[0]


def generator_config(state: Mapping[str, Tensor]) -> GeneratorConfig:
    """Size, widths and number of mapping layers of a foreign generator, from its keys and shapes.

    Raises:
        ValueError: no generator, or one whose size or channels we do not have
    """
    num_doublings = sum(bool(re.fullmatch(r"to_rgbs\.\d+\.bias", key)) for key in state)
    num_layers = sum(bool(re.fullmatch(r"style\.\d+\.weight", key)) for key in state)
    # the second of the two layers of each resolution
    convs = ["conv1.conv.weight", *(f"convs.{2 * i + 1}.conv.weight" for i in range(num_doublings))]
    if not num_doublings or not {"style.1.weight", *convs} <= state.keys():
        what = "a discriminator" if "final_conv.0.weight" in state else f"keys like {sorted(state)[:3]}"
        raise ValueError(f"holds {what}, expected a StyleGAN2 generator of rosinality's layout")
    if any(state[key].ndim != 5 for key in convs) or state["style.1.weight"].ndim != 2:
        raise ValueError("holds layers of other shapes than a StyleGAN2 generator of rosinality's layout")
    size = 4 * 2**num_doublings
    channels = [state[key].shape[1] for key in convs]
    multiplier = channels[-1] * size / 16384
    config = GeneratorConfig(
        size,
        z_dim=state["style.1.weight"].shape[1],
        w_dim=state["style.1.weight"].shape[0],
        num_mapping_layers=num_layers,
        # where even the last resolution has all channels, the multiplier may be any that is large enough
        channel_multiplier=multiplier if channels[-1] < max(channels) else max(2.0, multiplier),
        channel_max=max(channels),
    )
    expected = [config.num_channels(4 * 2**i) for i in range(len(channels))]
    if channels != expected or max(*channels, config.z_dim, config.w_dim) > MAX_WIDTH:
        raise ValueError(f"a generator with {channels} channels from 4 px up, expected {expected}; not supported")
    return config


def _read(path: str | Path) -> tuple[dict[str, Tensor], Tensor | None]:
    """The state dict of the generator and, where there is one, the mean of w."""
    checkpoint = read_torch_file(path)
    state = checkpoint.get("g_ema", checkpoint) if isinstance(checkpoint, dict) else None
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        found = sorted(map(str, checkpoint))[:6] if isinstance(checkpoint, dict) else type(checkpoint).__name__
        raise ValueError(f"{path}: holds {found}, expected a StyleGAN2 checkpoint with the entry 'g_ema'")
    return state, checkpoint.get("latent_avg")


def _weights(state: dict[str, Tensor], config: GeneratorConfig) -> dict[str, Tensor]:
    """Our state dict, as far as the file has it: keys, shapes, values and blur filters are looked at."""
    weights = from_rosinality(state, generator_keys(config), "generator")
    weights = rename(weights, {key: key for key in weights}, layout(lambda: Generator(config)), "StyleGAN2 generator")
    kernel = 4 * blur_kernel()  # every filter of a generator follows an upsampling by two, and makes up for its zeros
    for key, value in state.items():
        if key.endswith(".kernel") and not (value.shape == kernel.shape and torch.allclose(value.float(), kernel)):
            raise ValueError(f"StyleGAN2 generator: {key} is another blur filter than [1, 3, 3, 1]; not supported")
    return weights


def _completed(
    config: GeneratorConfig, weights: dict[str, Tensor], latent_avg: Tensor | None, seed: int
) -> tuple[Generator, dict[str, str]]:
    """The generator with what its file lacked."""
    computed = {}
    expected = layout(lambda: Generator(config))
    missing = [key for key in expected if key.endswith("noise_const") and key not in weights]
    if missing:
        rng = torch.Generator().manual_seed(seed)
        weights |= {key: torch.randn(expected[key].shape, generator=rng) for key in missing}
        computed["noise maps"] = f"drawn with seed {seed}"
    statistics = {"w_avg": torch.zeros(config.w_dim), "w_std": torch.ones(())}
    generator = filled(lambda: Generator(config), weights | statistics).requires_grad_(False)
    w_avg, generator.w_std = w_statistics(generator, seed=seed)
    computed["w_std"] = f"from 10,000 samples with seed {seed}"
    if latent_avg is None:
        computed["w_avg"] = computed["w_std"]
    generator.w_avg = w_avg if latent_avg is None else _mean_of_w(latent_avg, config.w_dim)
    return generator, computed


def _mean_of_w(latent_avg: Tensor, w_dim: int) -> Tensor:
    """The mean of w (w_dim,), which `mean_latent` of rosinality's code gives as (1, w_dim), others once a layer."""
    shape = tuple(getattr(latent_avg, "shape", ()))
    is_number = isinstance(latent_avg, Tensor) and latent_avg.is_floating_point() and latent_avg.numel() > 0
    if not is_number or shape[-1:] != (w_dim,) or not torch.isfinite(latent_avg).all():
        raise ValueError(f"latent_avg: got {shape or type(latent_avg).__name__}, expected {w_dim} finite numbers")
    rows = latent_avg.float().reshape(-1, w_dim)
    if not (rows == rows[0]).all():
        raise ValueError(f"latent_avg: {len(rows)} rows that differ, expected one mean of w; save their mean")
    return rows[0].clone()


def from_rosinality(state: dict[str, Tensor], table: dict[str, str], where: str = "state dict") -> dict[str, Tensor]:
    """A foreign state dict under our keys, for ``load_state_dict(strict=...)``.

    Blur filters are skipped; noise maps may be absent (training checkpoints have none).

    Raises:
        ValueError: a key that the table does not know, or one of the table that the file lacks.
    """
    named = {k: v for k, v in state.items() if not k.endswith(".kernel")}
    unknown = sorted(set(named) - set(table))
    missing = sorted(k for k in set(table) - set(named) if not k.startswith("noises."))
    if unknown or missing:
        raise ValueError(f"{where}: not this StyleGAN2 layout; unknown keys {unknown[:3]}, missing {missing[:3]}")
    return {table[k]: _reshape(table[k], v) for k, v in named.items()}


def to_rosinality(state: Mapping[str, Tensor], config: GeneratorConfig) -> dict[str, Tensor]:
    """The inverse of `from_rosinality` for a generator: foreign keys and shapes, without blur filters."""
    return {theirs: _reshape_back(ours, state[ours]) for theirs, ours in generator_keys(config).items()}


def _reshape(key: str, value: Tensor) -> Tensor:
    """Modulated weights carry a leading 1 there, the noise strength is (1,), the RGB bias (1,3,1,1)."""
    if key.endswith("noise_strength") and value.shape == (1,):
        return value.reshape(())
    if key.endswith("conv.weight") and value.ndim == 5 and len(value) == 1:
        return value[0]
    if ".to_rgbs." in key and key.endswith(".bias") and value.shape == (1, 3, 1, 1):
        return value.reshape(3)
    return value


def _reshape_back(key: str, value: Tensor) -> Tensor:
    """The inverse, for a key of ours."""
    if key.endswith("noise_strength"):
        return value.reshape(1)
    if key.startswith("synthesis.") and key.endswith("conv.weight"):
        return value[None]
    if ".to_rgbs." in key and key.endswith(".bias") and ".affine." not in key:
        return value.reshape(1, -1, 1, 1)
    return value
