"""From a voice to a face: the objective of voice similarity, and the guided steps on a latent."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from voicestyle.config import GeneratorConfig, GuidanceConfig
from voicestyle.latent import Callback, LatentResult, optimize_latent
from voicestyle.seeds import mixed_rng

# Ranges of the random views, each drawn uniformly from [-x, x]. Small: the view must stay a face in the canonical
# frame, but what a single view can be tricked by (texture at one pixel grid) must not survive the mean.
SHIFT = 0.03  # fraction of the picture's side
LOG_SCALE = 0.05
BRIGHTNESS = 0.05  # of the range [-1,1]
CONTRAST = 0.1
DECADE = 10.0  # years
PIXEL_NOISE = 0.02  # standard deviation, of the range [-1,1]


def random_view(image: Tensor, rng: torch.Generator) -> Tensor:
    """Pictures (N,3,H,W) moved, scaled, perhaps mirrored, recolored and grained a little, all in the same way."""
    u = torch.rand(6, generator=rng) * 2 - 1
    scale = torch.exp(LOG_SCALE * u[0])
    flip = torch.sign(u[1])
    zero = torch.zeros(())
    affine = torch.stack(
        [torch.stack([scale * flip, zero, 2 * SHIFT * u[2]]), torch.stack([zero, scale, 2 * SHIFT * u[3]])]
    )
    grid = F.affine_grid(affine.to(image).expand(len(image), 2, 3), list(image.shape), align_corners=False)
    view = F.grid_sample(image, grid, padding_mode="border", align_corners=False)
    grain = torch.randn(image.shape[-2:], generator=rng).to(image)
    return (1 + CONTRAST * float(u[4])) * view + BRIGHTNESS * float(u[5]) + PIXEL_NOISE * grain


class VoiceObjective:
    """One minus the similarity of voice and face (N,), plus the prices of another age and of leaving the start.

    The face is seen in `config.num_views` random views, new ones at each step, and the similarity is their mean: a
    latent that pleases the encoder in one view only is not rewarded. All samples see the same views. Without views, it
    is the picture itself that is seen.

    An age that the face seems to have (by a head of a face backbone) and that the voice does not tell costs
    `config.age_weight` times their squared distance in decades. Unlike the similarity, which a face can always raise a
    little by what only the encoder sees, this has an end: the voice tells an age, not the older the better.

    Leaving the start costs `config.latent_weight` * ||w - w_init||^2 / w_std^2. Divided by w_std (the root mean squared
    distance of w from its mean) it has no unit: 1 is a step as long as from the mean face to a typical one.
    """

    def __init__(
        self,
        encoder: nn.Module,  # frozen: encode_face
        voice_emb: Tensor,  # (N,D) or (1,D), unit norm
        w_init: Tensor,  # (N,w_dim) or (N,num_ws,w_dim)
        config: GuidanceConfig,
        seed: int = 0,
        w_std: Tensor | float = 1.0,
    ) -> None:
        self.encoder = encoder
        self.voice_emb = voice_emb.detach()
        self.w_init = w_init.detach()
        self.config = config
        self.rng = mixed_rng(seed, "views")  # others than those of the latent noise
        self.w_std = w_std
        self.similarity = torch.zeros(len(w_init))  # (N,) of the pictures that were judged last, the mean over views
        self.age: Tensor | None = None
        if config.age_weight and encoder.config.tells_age:
            self.age = encoder.voice_age(self.voice_emb).detach()

    def __call__(self, image: Tensor, w: Tensor) -> Tensor:
        views = [random_view(image, self.rng) for _ in range(self.config.num_views)] or [image]
        return self._loss(views, w)

    def plain(self, image: Tensor, w: Tensor) -> Tensor:
        """The same loss (N,) on the pictures as they are: without chance, so that steps can be compared."""
        return self._loss([image], w)

    def _loss(self, views: list[Tensor], w: Tensor) -> Tensor:
        """The loss (N,) of views (N,3,H,W) of pictures; their similarity is kept."""
        seen = torch.cat(views)
        seen = seen.clamp(-1, 1) if self.config.clamp else seen
        if self.age is None:
            face_emb, price = self.encoder.encode_face(seen), 0.0
        else:
            face_emb, age = self.encoder.encode_face_and_age(seen)
            distance = (age.view(len(views), -1) - self.age) / DECADE
            price = self.config.age_weight * distance.square().mean(0)
        similarity = (face_emb.unflatten(0, (len(views), -1)) * self.voice_emb.to(face_emb)).sum(2).mean(0)
        self.similarity = similarity.detach()
        return 1 - similarity + price + self.prior(w)

    def prior(self, w: Tensor) -> Tensor:
        """What the way from w_init costs (N,)."""
        distance = (w - self.w_init).square().sum(-1)  # W+: the mean over its latents
        distance = distance if w.ndim == 2 else distance.mean(1)
        return self.config.latent_weight * distance / self.w_std**2


def seen_size(config: GuidanceConfig, generator: GeneratorConfig) -> int | None:
    """Pixels that are rendered for a step to look at; None: the whole picture."""
    return config.size if 0 < config.size < generator.size else None


def guide(
    generator: nn.Module,  # frozen
    encoder: nn.Module,  # frozen
    voice_emb: Tensor,  # (N,D) or (1,D), unit norm
    w_init: Tensor,  # (N,w_dim) or (N,num_ws,w_dim)
    config: GuidanceConfig,
    seed: int = 0,
    *,
    callback: Callback | None = None,
    **settings: Any,  # further settings of `optimize_latent`
) -> LatentResult:
    """The latents near `w_init` whose faces fit the voice best: by default the best of all steps, not the last.

    Each history entry also has `similarity`, what the views of that step said of each sample. The voice is embedded
    once, by the caller. Noise maps stay fixed unless `config.optimize_noise`: they have room for texture that pleases
    the encoder and shows nothing.
    """
    objective = VoiceObjective(encoder, voice_emb, w_init, config, seed, generator.w_std)
    similarities: list[Tensor] = []

    def observe(step: int, image: Tensor, w: Tensor, loss: Tensor) -> None:
        similarities.append(objective.similarity.detach())
        if callback is not None:
            callback(step, image, w, loss)

    result = optimize_latent(
        generator,
        w_init,
        objective,
        num_steps=config.steps,
        lr=config.lr,
        latent_noise=config.latent_noise,
        keep=config.keep,
        optimize_noise=config.optimize_noise,
        score=objective.plain,
        seed=seed,
        callback=observe,
        until=seen_size(config, generator.config),
        **settings,
    )
    for entry, similarity in zip(result.history, similarities, strict=True):
        entry["similarity"] = similarity.tolist()
    return result
