"""From a picture to its latent: the objective of reconstruction, and the projection into W or W+."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from voicestyle.files import kept
from voicestyle.latent import LatentResult, optimize_latent
from voicestyle.nn.inverter import ridge_regression
from voicestyle.sampling import mean_latents

# the mean latent, or an estimate: linear, by the model's inverter, or the most likely one (`likely`)
Start = Literal["w_avg", "linear", "inverter", "likely"]
Region = Literal["all", "face"]  # where the look of a picture counts; the face: `image.face_region`

NUM_SCALES = 4  # full size down to an eighth: coarse scales place the face, the finest draws it
PERCEPTUAL_SIZE = 256  # pixels: larger pictures are averaged down for LPIPS (StyleGAN2, appendix D)

# Settings of `invert` that repeat the authors' projector, given LPIPS and the identity network. It sums LPIPS over its
# batch of 8 and averages the identity loss, so that a sample feels an eighth of it.
REFERENCE: dict[str, Any] = {
    "steps": 300,
    "lr": 0.1,
    "batch": 8,
    "identity_weight": 1 / 8,
    "latent_noise": 0.05,
    "optimize_noise": True,
    "noise_weight": 1e5,
    "samples": "coupled",
    "keep": "last",
}


class Perceptual(Protocol):
    """What `nn.lpips.LPIPS` offers: a distance (N,) of pictures by features that are computed once for a target."""

    name: str

    def features(self, image: Tensor) -> list[Tensor]: ...
    def distance(self, a: list[Tensor], b: list[Tensor]) -> Tensor: ...


class ReconstructionObjective:
    """Distance (N,) of generated pictures to their targets: what they look like, and who they show.

    Either term alone is weaker than both together (the authors' inversion study): LPIPS, or pixels at several scales
    where there is no LPIPS, holds pose and color, the face features hold who it is. Every sample's loss is its own
    mean, so no term fades with the size of the batch.
    """

    def __init__(
        self,
        target: Tensor,  # (N,3,H,W) in [-1,1]
        face_features: Callable[[Tensor], Tensor] | None = None,  # (N,3,H,W) -> (N,D); frozen
        perceptual: Perceptual | None = None,  # frozen
        *,
        perceptual_weight: float = 1.0,
        pixel_weight: float | None = None,  # None: 0 with a perceptual distance, else 1
        identity_weight: float | None = None,  # None: 1 with a perceptual distance, else 0.5
        region: Tensor | None = None,  # (1,1,H,W) in [0,1]: where the look counts; None: everywhere
    ) -> None:
        has_perceptual = perceptual is not None
        self.target = target
        self.pyramid = _pyramid(target)
        self.region = None if region is None else region.to(target)
        self.face_features = face_features
        self.perceptual = perceptual
        self.perceptual_weight = perceptual_weight
        self.pixel_weight = (0.0 if has_perceptual else 1.0) if pixel_weight is None else pixel_weight
        self.identity_weight = (1.0 if has_perceptual else 0.5) if identity_weight is None else identity_weight
        with torch.no_grad():
            if face_features is not None:
                self.identity = F.normalize(face_features(target).float(), dim=1)
            if perceptual is not None:
                self.look = perceptual.features(_at_most(target, PERCEPTUAL_SIZE))

    def __call__(self, image: Tensor, w: Tensor) -> Tensor:
        loss = image.new_zeros(len(image))
        if self.pixel_weight:
            loss = loss + self.pixel_weight * self.pixel_distance(image)
        if self.perceptual is not None and self.perceptual_weight:
            loss = loss + self.perceptual_weight * self.perceptual_distance(image)
        if self.face_features is not None and self.identity_weight:
            loss = loss + self.identity_weight * self.identity_distance(image)
        return loss

    def pixel_distance(self, image: Tensor) -> Tensor:
        """Mean over scales of L1 + MSE (N,), a mean over the region."""
        total = image.new_zeros(image.shape[0])
        for mine, target in zip(_pyramid(self._in_region(image)), self.pyramid, strict=True):
            error = mine - target
            total = total + (error.abs() + error.square()).mean((1, 2, 3))
        area = 1 if self.region is None else self.region.mean()
        return total / len(self.pyramid) / area

    def perceptual_distance(self, image: Tensor) -> Tensor:
        """The perceptual distance (N,), >= 0; a ValueError without a perceptual distance."""
        if self.perceptual is None:
            raise ValueError("perceptual_distance: this objective was made without one")
        image = _at_most(self._in_region(image), PERCEPTUAL_SIZE)
        return self.perceptual.distance(self.perceptual.features(image), self.look)

    def _in_region(self, image: Tensor) -> Tensor:
        """The picture in the region, and the target elsewhere."""
        return image if self.region is None else torch.lerp(self.target, image, self.region)

    def identity_distance(self, image: Tensor) -> Tensor:
        """One minus the cosine of the face features (N,), in [0,2]; a ValueError without face features."""
        if self.face_features is None:
            raise ValueError("identity_distance: this objective was made without face features")
        return 1 - (F.normalize(self.face_features(image).float(), dim=1) * self.identity).sum(1)


def identity_features(encoder: nn.Module, identity: nn.Module | None) -> Callable[[Tensor], Tensor]:
    """What tells people apart: IR-SE50 where a model has it, as in the reference, else its own face backbone."""
    return encoder.identity_features if identity is None else identity.identity_features


class LinearInverter:
    """A one-shot estimate of latents: ridge regression from small pictures to w, learnt from the generator's samples.

    It knows nothing but the generator. Its estimate is a start that saves most of the steps that a projection from
    w_avg takes.
    """

    SIZE = 32  # pixels: what a linear map can use of a picture
    NUM_SAMPLES = 4000
    MEAN_OF = 8  # latents of samples are means of up to this many, for pictures lie nearer to w_avg than samples do
    DRAWN = 50  # samples together; those of a seed depend on it
    PIXELS = 50 * 128**2  # rendered together at most, which bounds memory

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.weight, self.bias = weight, bias  # float64, (w_dim, 3 * SIZE^2) and (w_dim,)

    @classmethod
    def learn(
        cls,
        generator: nn.Module,
        num_samples: int | None = None,  # default: NUM_SAMPLES
        ridge: float = 1e-3,
        seed: int = 0,
        *,
        cache: Path | None = None,  # folder where it is kept and found again; needs `fingerprint`
        fingerprint: str | None = None,  # of the generator's weights
        progress: bool = True,  # show a bar on a terminal
    ) -> LinearInverter:
        """The estimate for a generator. Rendering samples takes minutes: two at 128 px on a core, eight at 256 px."""
        num_samples = num_samples or cls.NUM_SAMPLES
        name = f"linear-{(fingerprint or '')[:16]}-{num_samples}-{ridge:g}-{seed}.safetensors"
        path = None if cache is None or fingerprint is None else cache / name

        def fit() -> dict[str, Tensor]:
            small, latents = cls._samples(generator, num_samples, seed, progress)
            weight, bias = ridge_regression(small, latents, ridge)
            return {"weight": weight, "bias": bias}

        found = kept(path, fit)
        return cls(*(found[part].to(generator.w_avg.device) for part in ("weight", "bias")))

    @classmethod
    @torch.no_grad()
    def _samples(cls, generator: nn.Module, num: int, seed: int, progress: bool) -> tuple[Tensor, Tensor]:
        """Small pictures (N, 3 * SIZE^2) of samples, and their latents (N,w_dim)."""
        rng = torch.Generator().manual_seed(seed)
        batch = max(1, cls.PIXELS // generator.config.size**2)
        small, latents = [], []
        with tqdm(total=num, desc="samples", unit="pictures", leave=False, disable=None if progress else True) as bar:
            for drawn in torch.arange(num).split(cls.DRAWN):
                w = mean_latents(generator, len(drawn), cls.MEAN_OF, rng)
                latents.append(w)
                for part in w.split(batch):
                    small.append(cls._small(generator.synthesis(part)))
                    bar.update(len(part))
        return torch.cat(small), torch.cat(latents)

    def __call__(self, images: Tensor) -> Tensor:
        """Latents (N,w_dim) of pictures (N,3,size,size) in [-1,1]."""
        small = self._small(images.to(self.weight.device)).double()
        return F.linear(small, self.weight, self.bias).to(images.dtype)

    @classmethod
    def _small(cls, images: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(images, cls.SIZE).flatten(1)


def psnr(image: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio (N,) in dB of pictures (N,3,H,W) in [-1,1]; at most 100, which equal pictures have."""
    return 10 * torch.log10(4 / (image - target).square().mean((1, 2, 3)).clamp_min(4e-10))


def _pyramid(image: Tensor) -> list[Tensor]:
    """The picture at `NUM_SCALES` sizes, each half the one before."""
    return [image if i == 0 else F.avg_pool2d(image, 2**i) for i in range(NUM_SCALES)]


def _at_most(image: Tensor, size: int) -> Tensor:
    """The picture, averaged down where it is larger than `size` pixels."""
    return F.avg_pool2d(image, image.shape[-1] // size) if image.shape[-1] > size else image


def invert(
    generator: nn.Module,  # frozen
    images: Tensor,  # (N,3,size,size) in [-1,1], in the generator's frame
    face_features: Callable[[Tensor], Tensor] | None = None,
    perceptual: Perceptual | None = None,
    *,
    space: Literal["w", "w_plus"] = "w",
    w_init: Tensor | None = None,  # (N,w_dim) or (N,num_ws,w_dim); default: w_avg
    steps: int = 300,
    lr: float = 0.1,
    batch: int = 8,
    perceptual_weight: float = 1.0,
    pixel_weight: float | None = None,
    identity_weight: float | None = None,
    region: Tensor | None = None,  # see `ReconstructionObjective`, e.g. `image.face_region`
    **settings: Any,  # further settings of `optimize_latent`
) -> LatentResult:
    """The latents whose pictures come nearest to `images`: w (N,w_dim), or (N,num_ws,w_dim) in W+.

    300 steps at lr 0.1 from w_avg are the settings of VoiceStyle (section 1 of the method); its terms are LPIPS and
    identity. What the weights are by default, `ReconstructionObjective` says. `batch` bounds memory and changes no
    result, unless samples are coupled (`REFERENCE`).

    Raises:
        ValueError: pictures of another size than the generator's, or not finite; an unknown space.
    """
    _check(generator, images, space)
    w = _start(generator, len(images), space, w_init)
    parts = []
    for picture, start in zip(images.split(batch), w.split(batch), strict=True):
        target = picture.to(w)
        objective = ReconstructionObjective(
            target,
            face_features,
            perceptual,
            perceptual_weight=perceptual_weight,
            pixel_weight=pixel_weight,
            identity_weight=identity_weight,
            region=region,
        )
        parts.append(optimize_latent(generator, start, objective, num_steps=steps, lr=lr, **settings))
    return _joined(parts)


def _check(generator: nn.Module, images: Tensor, space: str) -> None:
    size = generator.config.size
    if images.ndim != 4 or tuple(images.shape[1:]) != (3, size, size) or len(images) == 0:
        raise ValueError(f"images to invert: got shape {tuple(images.shape)}, expected (N, 3, {size}, {size})")
    if not torch.isfinite(images).all():
        raise ValueError("images to invert: got values that are not finite, expected numbers in [-1, 1]")
    if space not in ("w", "w_plus"):
        raise ValueError(f"space: got {space!r}, expected 'w' or 'w_plus'")


def _start(generator: nn.Module, num_images: int, space: str, w_init: Tensor | None) -> Tensor:
    w = generator.w_avg.expand(num_images, -1) if w_init is None else w_init.to(generator.w_avg)
    if space == "w_plus" and w.ndim == 2:
        w = w[:, None].expand(-1, generator.num_ws, -1)
    if len(w) != num_images or w.ndim != (2 if space == "w" else 3):
        raise ValueError(
            f"w_init: got shape {tuple(w.shape)}, expected one latent of space {space!r} for each of {num_images}"
        )
    return w


def _joined(parts: list[LatentResult]) -> LatentResult:
    """The results of several batches as one."""
    if len(parts) == 1:
        return parts[0]
    history = [
        {**entries[0], "loss": [value for entry in entries for value in entry["loss"]]}
        for entries in zip(*(part.history for part in parts), strict=False)  # an early stop shortens a batch's history
    ]
    noise = None
    if parts[0].noise is not None:
        noise = [torch.cat(maps) for maps in zip(*(part.noise for part in parts), strict=True)]
    return LatentResult(torch.cat([p.w for p in parts]), torch.cat([p.loss for p in parts]), history, noise)
