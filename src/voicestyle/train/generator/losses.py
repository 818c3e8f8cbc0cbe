"""What a generator is taught with: pictures against targets, and the smoothness of its latent space."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from voicestyle.image import crop_resize
from voicestyle.nn.dlib_resnet import INPUT_SIZE, DlibResNet
from voicestyle.train.generator.settings import Reconstruction

Judge = Callable[
    [Tensor, Tensor], Tensor
]  # pictures and their targets -> how unlike the people are, see `identity_loss`
NUM_BANDS = 3  # details of 2, 4 and 8 pixels


def reconstruction_losses(
    image: Tensor, target: Tensor, config: Reconstruction, judge: Judge | None
) -> dict[str, Tensor]:
    """How far the first M pictures (N,3,S,S) are from targets (M,3,S,S), by each loss with a weight; unweighted."""
    num = len(target)
    losses = {"pixel": pixel_loss(image[:num], target)}
    if config.texture:
        losses["texture"] = texture_loss(image[:num], target)
    if config.identity and judge is not None:
        some = config.identity_faces or num
        losses["identity"] = judge(image[:some], target[:some])
    return losses


def pixel_loss(image: Tensor, target: Tensor) -> Tensor:
    """L1 + squared error of pixels, and L1 of the differences between neighbors, which holds edges."""
    error = image - target
    across, down = error[..., 1:] - error[..., :-1], error[..., 1:, :] - error[..., :-1, :]
    return error.abs().mean() + error.square().mean() + across.abs().mean() + down.abs().mean()


def texture_loss(image: Tensor, target: Tensor) -> Tensor:
    """L1 between the local strengths of details, in bands of an octave.

    Where a decoder cannot know a detail, the best picture by pixels is a blurred one. Here it has to be as rough as its
    target is there, whatever the phase.
    """
    pairs = zip(_strengths(image), _strengths(target), strict=True)
    return torch.stack([(a - b).abs().mean() for a, b in pairs]).sum()


def _strengths(image: Tensor) -> list[Tensor]:
    """Root mean square of each band of the Laplacian pyramid, in windows of four of its pixels."""
    strengths = []
    for _ in range(NUM_BANDS):
        coarse = F.avg_pool2d(image, 2)
        band = image - F.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=False)
        # the constant keeps the gradient of the root finite on flat ground: 0.003, less than a step of 8 bits
        strengths.append((F.avg_pool2d(band.square().mean(1, keepdim=True), 4, stride=2) + 1e-5).sqrt())
        image = coarse
    return strengths


def identity_loss(judge: DlibResNet, crop: Sequence[float], image: Tensor, target: Tensor) -> Tensor:
    """Mean squared distance between the face embeddings of two batches of pictures in the canonical frame."""
    with torch.no_grad():
        wanted = judge(crop_resize(target, crop, INPUT_SIZE))
    return (judge(crop_resize(image, crop, INPUT_SIZE)) - wanted).square().sum(1).mean()


def path_lengths(image: Tensor, w: Tensor, rng: torch.Generator) -> Tensor:
    """How far each picture (N,3,S,S) moves per step of its latent w (N,num_ws,w_dim): (N,), differentiable.

    The norm of the gradient of a random projection of the picture (StyleGAN2, equation 4), whose scale does not depend
    on the resolution.
    """
    noise = torch.randn(image.shape, generator=rng).to(image) / math.sqrt(image.shape[2] * image.shape[3])
    (gradient,) = torch.autograd.grad((image * noise).sum(), w, create_graph=True)
    return gradient.square().sum(2).mean(1).sqrt()


def mix_styles(w: Tensor, other: Tensor, crossover: Tensor, num_ws: int) -> Tensor:
    """Latents (N,num_ws,w_dim): those of w (N,w_dim) below layer `crossover` (N,), of `other` from there on."""
    below = torch.arange(num_ws, device=w.device) < crossover[:, None]
    return torch.where(below[..., None], w[:, None], other[:, None])
