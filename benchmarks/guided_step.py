"""Speed of a guided step and of a projection step against the reference formulation, alternating in one run.

    python benchmarks/guided_step.py [--rounds 3] [--threads 1] [--dtype bfloat16] [--channels-last]
        [--task guided] [--plain-malloc]

Official sizes (a 256-px generator, two ResNet-34), random weights. The reference formulation: weights of each sample in
grouped convolutions, all weights requiring gradients, both networks of a pair evaluated at every step, NCHW float32.
Prints medians, ratios and peak memory, and how far picture and gradient of w are from the reference's.
Two cores: about 5 minutes. On one thread the time is the processor's own, whatever else the machine does.
"""

from __future__ import annotations

import argparse
import copy
import resource
import time
from collections.abc import Callable
from statistics import median

import torch
import torch.nn.functional as F
from reference_generator import ReferenceSynthesis
from torch import Tensor, nn

from voicestyle.cli.memory import keep_memory
from voicestyle.config import EncoderConfig, GeneratorConfig, GuidanceConfig
from voicestyle.guidance import VoiceObjective
from voicestyle.inversion import ReconstructionObjective
from voicestyle.nn.encoder import VoiceFaceEncoder
from voicestyle.nn.stylegan2 import Generator

Step = Callable[[], tuple[Tensor, Tensor]]  # -> picture, gradient of w


class Latent:
    """One latent under way: renders, scores, and finds the gradient."""

    def __init__(
        self, w: Tensor, synthesis: Callable[[Tensor], Tensor], loss: Callable[[Tensor, Tensor], Tensor],
        dtype: torch.dtype = torch.float32, weights: tuple[nn.Module, ...] = (),  # whose gradients are made and dropped
    ) -> None:  # fmt: skip
        self.w = w.clone().requires_grad_(True)
        self.synthesis, self.loss, self.weights = synthesis, loss, weights
        self.autocast = torch.autocast(w.device.type, dtype, enabled=dtype != torch.float32)

    def __call__(self) -> tuple[Tensor, Tensor]:
        with self.autocast:
            image = self.synthesis(self.w).float()
            loss = self.loss(image, self.w).float()
        self.w.grad = None  # every step sees the same latent: Adam on one vector costs nothing beside the networks
        for module in self.weights:
            module.zero_grad()
        loss.sum().backward()
        return image.detach(), self.w.grad.clone()


class Networks:
    """The networks twice: ours, frozen, and the reference formulation with the same weights."""

    def __init__(self, small: bool, device: str, memory_format: torch.memory_format) -> None:
        torch.manual_seed(0)
        self.generator = Generator(GeneratorConfig.tiny() if small else GeneratorConfig(256)).to(device).eval()
        self.encoder = VoiceFaceEncoder(EncoderConfig.tiny() if small else EncoderConfig.cmpc(256)).to(device).eval()
        for conv in self.generator.synthesis.convs:
            nn.init.constant_(conv.noise_strength, 0.1)
        self.reference = ReferenceSynthesis(self.generator.synthesis)
        self.reference_encoder = copy.deepcopy(self.encoder).requires_grad_(True)
        self.generator.requires_grad_(False).to(memory_format=memory_format)
        self.encoder.requires_grad_(False).to(memory_format=memory_format)
        self.weights = (self.reference, self.reference_encoder)

    def w(self, num: int) -> Tensor:
        return self.generator.mapping(torch.randn(num, self.generator.config.z_dim).to(self.generator.w_avg))


def guided(nets: Networks, dtype: torch.dtype, batch: int) -> dict[str, Step]:
    """One picture, one view of it; and ours with as many random views as the method uses."""
    w_init, w = nets.w(1), nets.w(1)
    log_mel = torch.randn(1, 1, nets.encoder.config.log_mel.n_mels, 800).to(w)
    weight = GuidanceConfig().latent_weight

    def plain(image: Tensor, w: Tensor) -> Tensor:
        voice_emb = nets.reference_encoder.encode_voice(log_mel)
        similarity = F.cosine_similarity(voice_emb, nets.reference_encoder.encode_face(image))
        return 1 - similarity + weight * (w - w_init).square().sum(1)

    objective = VoiceObjective(nets.encoder, nets.encoder.encode_voice(log_mel), w_init, GuidanceConfig())
    synthesis = nets.generator.synthesis
    return {
        "ours": Latent(w, synthesis, objective.plain, dtype),
        f"ours, {GuidanceConfig().num_views} random views": Latent(w, synthesis, objective, dtype),
        "reference": Latent(w, nets.reference, plain, weights=nets.weights),
    }


def projection(nets: Networks, dtype: torch.dtype, batch: int) -> dict[str, Step]:
    """Several pictures towards targets, by pixels and face features; the reference embeds the targets every time."""
    w = nets.w(batch)
    size = nets.generator.config.size
    target = torch.rand(batch, 3, size, size).to(w) * 2 - 1

    def plain(image: Tensor, w: Tensor) -> Tensor:
        return ReconstructionObjective(target, nets.reference_encoder.face_features)(image, w)

    objective = ReconstructionObjective(target, nets.encoder.face_features)
    return {
        "ours": Latent(w, nets.generator.synthesis, objective, dtype),
        "reference": Latent(w, nets.reference, plain, weights=nets.weights),
    }


def peak_mib(device: str) -> float:
    """The most memory so far: of the device, or of the process."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def timed(step: Step, clock: Callable[[], float], device: str) -> float:
    start = clock()
    step()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def relative(got: Tensor, expected: Tensor) -> float:
    return ((got - expected).abs().max() / expected.abs().max()).item()


def run(title: str, steps: dict[str, Step], rounds: int, clock: Callable[[], float], device: str) -> None:
    """Warm up (ours first, so that its peak shows), compare, time, print."""
    before, peaks, outcomes = peak_mib(device), {}, {}
    for name, step in steps.items():
        outcomes[name] = step()
        peaks[name] = peak_mib(device) - before
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            times[name].append(timed(step, clock, device))
    base = median(times["reference"])
    print(f"{title}: reference formulation {base:.3f} s, {peaks['reference']:.0f} MiB")
    for name in list(steps)[:-1]:
        spent = median(times[name])
        print(f"  {name}: {spent:.3f} s, {base / spent:.2f}x; peak so far {peaks[name]:.0f} MiB")
    image, grad = (relative(*pair) for pair in zip(outcomes["ours"], outcomes["reference"], strict=True))
    print(f"  largest relative difference: picture {image:.1e}, gradient of w {grad:.1e}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="of ours, by autocast")
    parser.add_argument("--task", choices=["guided", "projection"], action="append", help="default: both")
    parser.add_argument("--batch", type=int, default=8, help="pictures of a projection step")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--channels-last", action="store_true", help="memory format of ours")
    parser.add_argument("--plain-malloc", action="store_true", help="give memory back, as a library call does")
    parser.add_argument("--tiny", action="store_true", help="toy networks: a check of this script")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if not args.plain_malloc:
        keep_memory()
    clock = time.process_time if args.threads == 1 and args.device == "cpu" else time.perf_counter
    nets = Networks(args.tiny, args.device, torch.channels_last if args.channels_last else torch.contiguous_format)
    for task in args.task or ["guided", "projection"]:
        steps = {"guided": guided, "projection": projection}[task](nets, getattr(torch, args.dtype), args.batch)
        title = "guided step, batch 1" if task == "guided" else f"projection step, batch {args.batch}"
        run(f"{title}, {args.dtype}", steps, args.rounds, clock, args.device)


if __name__ == "__main__":
    main()
