"""rosinality's StyleGAN2 state dicts <-> ours: the key tables."""

from __future__ import annotations

from torch import Tensor

from voicestyle.config import GeneratorConfig

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
    # modulated weights carry a leading 1, the noise strength is (1,) there and a scalar here, the RGB bias (1,3,1,1)
    return {table[k]: _reshape(table[k], v) for k, v in named.items()}


def _reshape(key: str, value: Tensor) -> Tensor:
    if key.endswith("noise_strength"):
        return value.reshape(())
    if key.endswith("conv.weight") and value.ndim == 5:
        return value[0]
    if ".to_rgbs." in key and key.endswith(".bias") and value.ndim == 4:
        return value.reshape(-1)
    return value
