"""A one-shot inverter: from a picture to its latent in one pass."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from voicestyle.config import InverterConfig
from voicestyle.nn.resnet import ResNet


class Inverter(nn.Module):
    """Picture -> w: a linear map of the small picture, and a ResNet for what that misses.

    The linear part can be found in closed form (`solve_linear`) and places the face; the ResNet, which pools away where
    things are, begins with nothing and adds to it.
    """

    def __init__(self, config: InverterConfig) -> None:
        super().__init__()
        self.config = config
        self.linear = nn.Linear(3 * config.linear_size**2, config.w_dim)
        self.body = ResNet(config.depth, 3, config.width)
        self.head = nn.Linear(self.body.num_features, config.w_dim)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Latents (N,w_dim), float32, of pictures (N,3,H,W) in [-1,1] in the generator's frame."""
        detail = self.head(self.body(_at_most(images, self.config.size)))
        return self.linear(self.small(images)) + detail.float()

    def small(self, images: Tensor) -> Tensor:
        """What the linear part sees of pictures (N,3,H,W): (N, 3 * linear_size^2)."""
        return F.adaptive_avg_pool2d(images, self.config.linear_size).flatten(1)

    @torch.no_grad()
    def solve_linear(self, small: Tensor, w: Tensor, ridge: float) -> None:
        """Set the linear part to the ridge regression of latents (N,w_dim) on what it sees of their pictures.

        `ridge` is in units of the mean variance of the inputs.
        """
        weight, bias = ridge_regression(small, w, ridge)
        self.linear.weight.copy_(weight)
        self.linear.bias.copy_(bias)


def ridge_regression(x: Tensor, y: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """Weight (E,D) and bias (E,), float64, by which `F.linear` comes nearest to y (N,E) from x (N,D).

    `ridge`, the penalty on the weight, is in units of the mean variance of x.
    """
    x, y = x.double(), y.double()
    x_mean, y_mean = x.mean(0), y.mean(0)
    x = x - x_mean
    gram = x.T @ x
    gram.diagonal().add_(ridge * gram.diagonal().mean())
    weight = torch.linalg.solve(gram, x.T @ (y - y_mean)).T
    return weight, y_mean - weight @ x_mean


def _at_most(images: Tensor, size: int) -> Tensor:
    """The pictures, averaged down where they are larger than `size` pixels."""
    return F.adaptive_avg_pool2d(images, size) if images.shape[-1] > size else images
