"""The latents of a decoder of codes: whitened, and a mapping network that is exactly their Gaussian."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor

from voicestyle.nn.inverter import Inverter
from voicestyle.nn.ops import SQRT2
from voicestyle.nn.stylegan2 import Generator, ModulatedConv2d

FAR = 9.0  # deviations that stay where the leaky ReLUs are linear
MIDDLE = 8.0  # added to z between the layers
RIDGE = 0.01  # of the mean variance: directions in which latents vary less than a tenth of the usual stay smaller


def with_gaussian(generator: Generator, mean: Tensor, root: Tensor) -> tuple[Generator, Tensor]:
    """A generator of the same pictures whose random w have this mean (D,) and covariance root @ root.T; a shift (D,).

    Leaky ReLUs are linear above zero: w is shifted to where all of it is positive, and the affine layers take the shift
    back. A latent of the old generator is one of the new when the shift is added. All layers of the mapping but the
    first two do nothing.

    Raises:
        ValueError: z and w differ in size, or the mapping has fewer than two layers
    """
    config = generator.config
    size = config.w_dim
    if config.z_dim != size or config.num_mapping_layers < 2:
        raise ValueError(
            f"mapping of z_dim {config.z_dim}, w_dim {size} and {config.num_mapping_layers} layers: expected equal "
            "sizes and at least two layers"
        )
    new = copy.deepcopy(generator)
    covariance = (root @ root.T).double()
    shift = (FAR * covariance.diagonal().sqrt().to(mean) - mean).clamp_min(0) + 0.5
    values, vectors = torch.linalg.eigh(covariance)
    symmetric = ((vectors * values.clamp_min(0).sqrt()) @ vectors.T).to(mean)  # near the identity, if anything is
    eye, ones = torch.eye(size).to(mean), torch.ones(size).to(mean)
    first, last = MIDDLE * SQRT2 * ones, mean + shift
    layers = [(eye, ones * 0, first), (symmetric, first, last)]  # each: a matrix of x - from, to
    layers += [(eye, last, last)] * (config.num_mapping_layers - 2)
    with torch.no_grad():
        for layer, (matrix, before, after) in zip(new.mapping.layers, layers, strict=True):
            layer.weight.copy_(matrix / SQRT2 / layer.scale)
            layer.bias.copy_((after - matrix @ before) / SQRT2 / layer.lr_multiplier)
        for module in new.synthesis.modules():
            if isinstance(module, ModulatedConv2d):
                affine = module.affine
                affine.bias -= affine.weight @ shift / math.sqrt(size)
    return new, shift


def whitened(
    generator: Generator, inverter: Inverter, mean: Tensor, root: Tensor
) -> tuple[Generator, Inverter, Tensor]:
    """Generator and inverter of the same pictures for latents of mean 0 that vary alike; the root of their covariance.

    A search takes steps and noise of one size in all coordinates. Where latents hardly vary in a direction, such a step
    leaves the faces behind: guided women got mustaches, and the independent judge took four of 40 faces for the other
    sex, two after whitening. The affine layers take the change of coordinates back.
    """
    new, other = copy.deepcopy(generator), copy.deepcopy(inverter)
    covariance = (root @ root.T).double()
    ridge = RIDGE * covariance.diagonal().mean() * torch.eye(len(covariance)).to(covariance)
    values, vectors = torch.linalg.eigh(covariance + ridge)
    forth, back = ((vectors * v) @ vectors.T for v in (values.sqrt(), values.rsqrt()))
    with torch.no_grad():
        for module in new.synthesis.modules():
            if isinstance(module, ModulatedConv2d):
                affine = module.affine
                affine.bias += affine.weight @ mean / math.sqrt(len(mean))
                affine.weight.copy_(affine.weight.double() @ forth)
        for layer in (other.linear, other.head):
            layer.weight.copy_(back @ layer.weight.double())
            layer.bias.copy_(back @ layer.bias.double())
        other.linear.bias -= (back @ mean.double()).to(mean)
    return new, other, (back @ root.double()).to(root)
