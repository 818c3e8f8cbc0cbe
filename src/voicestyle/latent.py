"""The latent space of a generator, and the one loop that searches it: inversion and guidance are its two uses."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# image (N,3,H,W), w (N,...) -> loss of each sample (N,)
Objective = Callable[[Tensor, Tensor], Tensor]
# step, image, w, loss (N,)
Callback = Callable[[int, Tensor, Tensor, Tensor], None]
Samples = Literal["independent", "coupled"]

NOISE_END = 0.75  # the latent noise is zero from this fraction of the steps on (StyleGAN2, appendix D)


@dataclass(frozen=True, eq=False)
class LatentResult:
    """What `optimize_latent` found, in float32, on the generator's device."""

    w: Tensor  # (N,w_dim) or (N,num_ws,w_dim)
    loss: Tensor  # (N,) the score of `w`, rendered in float32 without latent noise
    history: list[dict[str, Any]] = field(repr=False)  # one a step: step, lr, loss (a float for each sample)
    noise: list[Tensor] | None = field(default=None, repr=False)  # one map (N,1,r,r) a layer; None: the generator's own

    def sample(self, i: int) -> LatentResult:
        """What was found for sample i alone."""
        history = [{name: v[i : i + 1] if isinstance(v, list) else v for name, v in e.items()} for e in self.history]
        noise = None if self.noise is None else [m[i : i + 1] for m in self.noise]
        return LatentResult(self.w[i : i + 1], self.loss[i : i + 1], history, noise)


@torch.no_grad()
def w_statistics(generator: nn.Module, num_samples: int = 10_000, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Mean (w_dim,) and spread () of w under z ~ N(0, 1), as StyleGAN2's projector has them.

    The spread is the root mean squared *distance* from the mean, not a deviation per coordinate. 10,000 samples:
    StyleGAN2, appendix D.
    """
    device = generator.w_avg.device
    rng = torch.Generator().manual_seed(seed)
    z_dim = generator.config.z_dim
    chunks = torch.randn(num_samples, z_dim, generator=rng).split(1000)
    w = torch.cat([generator.mapping(z.to(device)) for z in chunks])
    w_avg = w.mean(0)
    return w_avg, (w - w_avg).square().sum(1).mean().sqrt()


def lr_ramp(t: float, up: float = 0.05, down: float = 0.25) -> float:
    """Factor of the learning rate at progress t in [0, 1]: linear up, flat, cosine down (StyleGAN2, appendix D)."""
    falling = 0.5 - 0.5 * math.cos(math.pi * min(1.0, (1.0 - t) / down))
    return falling * min(1.0, t / up)


def noise_ramp(t: float) -> float:
    """Factor of the latent noise at progress t in [0, 1]: squared, zero from `NOISE_END` on (StyleGAN2, appendix D)."""
    return max(0.0, 1.0 - t / NOISE_END) ** 2


def noise_regularizer(maps: list[Tensor]) -> Tensor:
    """Autocorrelation (N,) of noise maps (N,C,r,r) at a lag of one pixel, over a pyramid down to 8 px.

    It keeps a picture from being hidden in the noise (StyleGAN2, appendix D). Each sample has its own value.
    """
    total = maps[0].new_zeros(maps[0].shape[0])
    for noise in maps:
        while True:
            for axis in (2, 3):
                total = total + (noise * noise.roll(1, axis)).mean((1, 2, 3)).square()
            if noise.shape[-1] <= 8:
                break
            noise = F.avg_pool2d(noise, 2)
    return total


def normalize_noise(maps: list[Tensor]) -> list[Tensor]:
    """Noise maps (N,C,r,r) with zero mean and unit variance in each sample."""
    return [(n - n.mean((1, 2, 3), keepdim=True)) / n.std((1, 2, 3), keepdim=True) for n in maps]


def optimize_latent(
    generator: nn.Module,  # frozen: synthesis, w_std
    w_init: Tensor,  # (N, w_dim) or (N, num_ws, w_dim)
    objective: Objective,  # what is minimized
    *,
    num_steps: int,
    lr: float,
    latent_noise: float = 0.05,  # in units of w_std, at the first step
    keep: Literal["best", "last"] = "best",
    score: Objective | None = None,  # what "best" means, where the objective itself is random
    optimize_noise: bool = False,
    noise_weight: float = 1e5,  # of `noise_regularizer` (StyleGAN2, appendix D)
    samples: Samples = "independent",
    patience: int | None = None,  # noise-free steps without a better score after which a sample is left alone
    seed: int = 0,
    dtype: torch.dtype = torch.float32,  # bfloat16: autocast in the loop; the result is float32 all the same
    until: int | None = None,  # pixels that are rendered and judged; None: the whole picture
    callback: Callback | None = None,
) -> LatentResult:
    """The latent of each sample that minimizes its loss: Adam under a ramped learning rate and fading latent noise.

    Samples do not touch each other: losses are summed, Adam is elementwise, and all samples see the same noise, so
    that a result does not depend on the batch it was found in. Coupled samples draw noise of their own, and their noise
    maps are regularized and normalized over the whole batch, as in the projector that VoiceStyle took over
    (rosinality's stylegan2-pytorch).

    "Best" counts latents as they are, never with noise on them: the start, every step after the noise has faded (the
    last quarter), and the end. The result is therefore never worse than the start: in half precision, in which losses
    of neighbors cannot be told apart, both are scored again in float32.

    Raises:
        ValueError: a loss is not finite, or has another shape than (N,).
    """
    rng = torch.Generator().manual_seed(seed)
    w = w_init.detach().float().clone().requires_grad_(True)
    noise = _initial_noise(generator, w, rng, samples) if optimize_noise else None
    optimizer = _Adam([w, *(noise or [])])
    run = _Run(generator, w, noise, rng, dtype, samples, until)
    best = _Best(w, noise, patience)
    start = [*best.kept]
    judge = score or objective
    with torch.no_grad():
        best.update(run.loss(judge, run.render()))
    losses: list[Tensor] = []  # on their device: the loop never waits for a GPU
    for step in range(num_steps):
        t = step / num_steps
        rate = latent_noise * noise_ramp(t)
        image = run.render(rate)
        loss = run.loss(objective, image)
        losses.append(loss.detach())
        if callback is not None:
            callback(step, image.detach(), w.detach(), loss.detach())
        if rate == 0:
            with torch.no_grad():
                best.update(loss if score is None else run.loss(score, image.detach()))
            if best.all_stale:
                break
        run.descend(optimizer, lr * lr_ramp(t), loss, noise_weight)
    with torch.no_grad():
        final = run.loss(judge, run.render())
        best.update(final, force=keep == "last")
        if dtype != torch.float32:
            _score_precisely(
                best, start, partial(_Run, generator, rng=rng, dtype=torch.float32, until=until), judge, keep
            )
    _check_finite(torch.stack([*losses, final]))
    history = [
        {"step": step, "lr": lr * lr_ramp(step / num_steps), "loss": values}
        for step, values in enumerate(torch.stack(losses).tolist() if losses else [])
    ]
    return LatentResult(best.w, best.loss, history, best.noise)


def _check_finite(losses: Tensor) -> None:
    """Raise ``ValueError`` where a loss (..., N) of a sample is not a number."""
    finite = torch.isfinite(losses)
    if not finite.all():
        bad = (~finite).reshape(-1, losses.shape[-1]).any(0).nonzero().flatten().tolist()
        raise ValueError(
            f"loss of sample {bad} is not finite; check the pictures and weights, or lower the learning rate"
        )


def _score_precisely(
    best: _Best,
    start: list[Tensor],  # latents, and noise maps
    run_of: Callable[[Tensor, list[Tensor] | None], _Run],
    judge: Objective,
    keep: Literal["best", "last"],
) -> None:
    """Give what was found its loss in float32, and take the start back where that is better."""
    runs = [run_of(w, noise or None) for w, *noise in (best.kept, start)]
    best.loss, at_start = (run.loss(judge, run.render()) for run in runs)
    if keep == "best":
        best.now = tuple(start)
        best.take(at_start < best.loss, at_start)


def _initial_noise(generator: nn.Module, w: Tensor, rng: torch.Generator, samples: Samples) -> list[Tensor]:
    """One map (N,1,r,r) a layer, requiring gradients: the same start for every sample, unless they are coupled."""
    num = len(w) if samples == "coupled" else 1
    maps = [torch.randn(num, *shape[1:], generator=rng).to(w) for shape in generator.synthesis.noise_shapes]
    return [m.repeat(len(w) // num, 1, 1, 1).requires_grad_(True) for m in maps]


class _Run:
    """The latents under way and how they are rendered and judged."""

    def __init__(
        self,
        generator: nn.Module,
        w: Tensor,
        noise: list[Tensor] | None,
        rng: torch.Generator,
        dtype: torch.dtype,
        samples: Samples = "independent",
        until: int | None = None,
    ) -> None:
        self.generator, self.w, self.noise, self.rng, self.samples = generator, w, noise, rng, samples
        self.part = {} if until is None else {"until": until}
        mixed = dtype != torch.float32
        self.autocast = torch.autocast(w.device.type, dtype if mixed else None, enabled=mixed)

    def render(self, rate: float = 0.0) -> Tensor:
        """Pictures (N,3,H,W), float32, of the latents with noise of `rate` times w_std."""
        w = self.w
        if rate > 0:
            # drawn on the CPU for one sample: the same for every sample, batch and device
            shape = w.shape if self.samples == "coupled" else w.shape[1:]
            w = w + torch.randn(shape, generator=self.rng).to(w) * (rate * self.generator.w_std)
        with self.autocast:
            return self.generator.synthesis(w, noise=self.noise, **self.part).float()

    def loss(self, objective: Objective, image: Tensor) -> Tensor:
        """What the objective says of each sample (N,), checked."""
        with self.autocast:
            loss = objective(image, self.w).float()
        if loss.shape != self.w.shape[:1]:
            raise ValueError(
                f"objective: got losses of shape {tuple(loss.shape)}, expected one a sample ({len(self.w)},)"
            )
        if loss.device.type == "cpu":  # of a GPU it is asked in the end: to look is to wait
            _check_finite(loss)
        return loss

    def descend(self, optimizer: _Adam, lr: float, loss: Tensor, noise_weight: float) -> None:
        """One step of the optimizer; noise maps stay normalized."""
        total = loss.sum()
        if self.noise is not None:
            total = total + noise_weight * noise_regularizer(self._judged_maps()).sum()
        optimizer.step(torch.autograd.grad(total, optimizer.variables), lr)
        for mine, normal in zip(self.noise or [], normalize_noise(self._judged_maps()), strict=True):
            mine.data.copy_(normal.detach().reshape(mine.shape))

    def _judged_maps(self) -> list[Tensor]:
        """The noise maps as they are regularized: each sample's, or those of the batch as channels of one sample."""
        maps = self.noise or []
        return [m.transpose(0, 1) for m in maps] if self.samples == "coupled" else maps


class _Adam:
    """Adam (Kingma and Ba, ICLR 2015) as `torch.optim.Adam` computes it, which loads torch's compiler at its first use.

    That takes as long as loading torch itself, and more than all the steps on a small latent.
    """

    BETAS, EPSILON = (0.9, 0.999), 1e-8  # those of the paper

    def __init__(self, variables: list[Tensor]) -> None:
        self.variables = variables
        self.moments = [(torch.zeros_like(x), torch.zeros_like(x)) for x in variables]
        self.num_steps = 0

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor], lr: float) -> None:
        """Move the variables against their gradients."""
        self.num_steps += 1
        first, second = (1 - beta**self.num_steps for beta in self.BETAS)
        for x, gradient, (mean, square) in zip(self.variables, gradients, self.moments, strict=True):
            mean.lerp_(gradient, 1 - self.BETAS[0])
            square.mul_(self.BETAS[1]).addcmul_(gradient, gradient, value=1 - self.BETAS[1])
            x.addcdiv_(mean, (square.sqrt() / math.sqrt(second)).add_(self.EPSILON), value=-lr / first)


class _Best:
    """The best latent of each sample so far."""

    def __init__(self, w: Tensor, noise: list[Tensor] | None, patience: int | None) -> None:
        self.now = (w, *(noise or []))
        self.kept = [x.detach().clone() for x in self.now]
        self.loss = torch.full((w.shape[0],), math.inf, device=w.device)
        self.waited = torch.zeros(w.shape[0], dtype=torch.long, device=w.device)
        self.patience = patience

    @property
    def w(self) -> Tensor:
        return self.kept[0]

    @property
    def noise(self) -> list[Tensor] | None:
        return self.kept[1:] or None

    @property
    def all_stale(self) -> bool:
        """No sample has improved for `patience` updates."""
        return self.patience is not None and bool((self.waited >= self.patience).all())

    def update(self, loss: Tensor, force: bool = False) -> None:
        """Keep the present latents of the samples whose loss (N,) is better, of all with `force`."""
        better = loss < self.loss
        if self.patience is not None:
            better &= self.waited < self.patience
        better |= force
        self.waited = torch.where(better, 0, self.waited + 1)
        self.take(better, loss)

    def take(self, better: Tensor, loss: Tensor) -> None:
        """Keep the present latents of some samples (N,) with their losses (N,)."""
        self.loss = torch.where(better, loss.detach(), self.loss)
        for i, x in enumerate(self.now):
            self.kept[i] = torch.where(better.view(-1, *[1] * (x.ndim - 1)), x.detach(), self.kept[i])
