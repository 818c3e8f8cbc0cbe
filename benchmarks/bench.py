"""Everything that is timed, ours against the reference formulation, alternating in one run; writes docs/benchmarks.md.

    python benchmarks/bench.py [--long] [--only steps startup ...] [-o docs/benchmarks.md]      (make bench)

Official sizes (a 256-px generator, two ResNet-34), random weights, one thread; the commands with the embedded model.
Times are processor time, so that other work on the machine counts as little as it can. A share of the peak is the
nominal arithmetic (2 x multiply-adds of plain convolutions, forward and backward) over the time, by the peak of a plain
convolution that was measured in the same run; Winograd's way does with less, so a share says how near to the best plain
one it comes, and may exceed 1. Medians, with least and most; of networks and steps a single round after one that does
not count, with --long three, and batches of 8 in place of 2. Ten minutes of a core, with --long half an hour.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import front_end
import guided_step
import numpy as np
import torch
import torch.nn.functional as F
from guided_step import relative
from torch.utils.flop_counter import FlopCounterMode

import voicestyle
from voicestyle.audio import log_mel
from voicestyle.cli.memory import keep_memory
from voicestyle.config import LogMelConfig
from voicestyle.nn import winograd

ROOT = Path(__file__).resolve().parents[1]
Call = Callable[[], object]
SHORT, LONG = (1, 2), (3, 8)  # rounds and batch of networks and steps
CELLS = 4096  # of an index, at most: building one of ten million vectors takes two minutes so
ROOM = 6  # GiB that ten million vectors need


@dataclass
class Row:
    """A line of the table."""

    what: str
    ours: list[float]  # s
    reference: list[float] | None = None  # s
    gflop: float | None = None  # nominal, of ours
    difference: str = ""

    def cells(self, peak: float) -> str:
        """The line in Markdown."""
        if not self.ours:
            return f"| {self.what} | | | | | |"
        ours = median(self.ours)
        ratio = f"{median(self.reference) / ours:.2f}" if self.reference else ""
        reference = spread(self.reference) if self.reference else ""
        share = f"{self.gflop / ours / peak:.2f}" if self.gflop else ""
        return f"| {self.what} | {spread(self.ours)} | {reference} | {ratio} | {share} | {self.difference} |"


def spread(times: list[float]) -> str:
    """Median, least and most."""
    unit, name = (1, "s") if median(times) >= 1 else (1e3, "ms")
    values = [value * unit for value in (min(times), median(times), max(times))]
    low, mid, high = (f"{value:,.0f}" if value >= 1000 else f"{value:.3g}" for value in values)
    return f"{mid} {name}" + (f" ({low} to {high})" if len(times) > 1 else "")


def alternate(calls: list[Call], rounds: int, warm: bool = False) -> list[list[float]]:
    """Processor times of each call, in turns, after one that does not count unless they are `warm`."""
    times: list[list[float]] = [[] for _ in calls]
    for turn in range(rounds + (not warm)):
        for call, spent in zip(calls, times, strict=True):
            start = time.process_time()
            call()
            if turn or warm:
                spent.append(time.process_time() - start)
    return times


def gflop(call: Call) -> float:
    """The nominal arithmetic of a call."""
    kept, winograd.MIN_CHANNELS = winograd.MIN_CHANNELS, sys.maxsize
    with FlopCounterMode(display=False) as counter:
        call()
    winograd.MIN_CHANNELS = kept
    return counter.get_total_flops() / 1e9


def peaks() -> tuple[float, float]:
    """GFLOP/s of a matrix product and of a 3x3 convolution of 512 channels at 32 px: the best of ten."""
    a, b = torch.randn(1536, 1536), torch.randn(1536, 1536)
    x, w = torch.randn(1, 512, 32, 32), torch.randn(512, 512, 3, 3)
    product, convolution = alternate([lambda: a @ b, lambda: F.conv2d(x, w, padding=1)], 10)
    return 2 * 1.536**3 / min(product), 2 * 9 * 512 * 512 * 32 * 32 / 1e9 / min(convolution)


def front_ends(long: bool) -> Iterator[Row]:
    """Log-mels of 6 s, exact and in float32."""
    waveform = np.round(3000 * np.random.default_rng(0).standard_normal(6 * 16000)) / 32768
    clip = torch.from_numpy(waveform)
    for config in (LogMelConfig.cmpc(), LogMelConfig.cmpc2(), LogMelConfig.ge2e()):
        plain = front_end.PerFrame(config)
        for dtype in (torch.float64, torch.float32):
            x = clip.to(dtype)
            calls = [lambda x=x, c=config, d=dtype: log_mel(x, c, d), lambda p=plain: p(waveform)]
            ours, reference = alternate(calls, 9)
            far = np.abs(log_mel(x, config, dtype)[0].double().numpy() - plain(waveform)).max()
            name = str(dtype).removeprefix("torch.")
            yield Row(f"front end {config.front_end}, 6 s, {name}", ours, reference, None, f"{far:.0e}")


def embedded(long: bool) -> Iterator[Row]:
    """The embedded model's guided step, and its encoder, against the encoder of before: dlib's ResNet, two views."""
    vs = voicestyle.load(device="cpu")
    w, synthesis = vs.generator.w_avg[None], vs.generator.synthesis
    image = synthesis(w).detach()

    def before(x: torch.Tensor) -> torch.Tensor:
        return vs.encoder.identity_features(torch.cat([x, x]))

    def now(x: torch.Tensor) -> torch.Tensor:
        return vs.encoder.encode_face(x)

    calls = [pass_through(now, image), pass_through(before, image)]
    yield Row("embedded encoder, one view; before: dlib's, two views", *alternate(calls, 9), gflop(calls[0]))
    calls = [pass_through(lambda x, net=net: net(synthesis(x)), w) for net in (now, before)]
    yield Row("guided step of the embedded model; with the encoder before", *alternate(calls, 9), gflop(calls[0]))
    alone = pass_through(synthesis, w)
    yield Row("its generator alone", *alternate([alone], 9), None, gflop(alone))


def pass_through(network: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> Callable[[], torch.Tensor]:
    """A call that goes forward and back, and returns the gradient of x."""

    def call() -> torch.Tensor:
        leaf = x.clone().requires_grad_(True)
        network(leaf).sum().backward()
        assert leaf.grad is not None
        return leaf.grad

    return call


def networks(long: bool) -> Iterator[Row]:
    """Towers and generator, forward and backward to their input."""
    rounds, batch = LONG if long else SHORT
    nets = guided_step.Networks(False, "cpu", torch.contiguous_format)
    voice = torch.randn(1, 1, nets.encoder.config.log_mel.n_mels, 800)
    face = torch.rand(1, 3, 256, 256) * 2 - 1

    def pair(what: str, mine: Callable, plain: Callable, x: torch.Tensor) -> Row:
        calls = [pass_through(mine, x), pass_through(plain, x)]
        ours, reference = alternate(calls, rounds)
        return Row(what, ours, reference, gflop(calls[0]), f"{relative(calls[0](), calls[1]()):.0e}")

    theirs = nets.reference_encoder
    yield pair("voice tower, forward and backward", nets.encoder.encode_voice, theirs.encode_voice, voice)
    yield pair("face tower, forward and backward", nets.encoder.encode_face, theirs.encode_face, face)
    yield pair("generator, batch 1, forward and backward", nets.generator.synthesis, nets.reference, nets.w(1))
    several = pass_through(nets.generator.synthesis, nets.w(batch))
    what = f"generator, batch {batch}, forward and backward"
    yield Row(what, alternate([several], rounds)[0], None, gflop(several))


def steps(long: bool) -> Iterator[Row]:
    """A guided step and a projection step, and what follows from them."""
    rounds, several = LONG if long else SHORT
    nets = guided_step.Networks(False, "cpu", torch.contiguous_format)
    found = {}
    for name, make, batch in (("guided", guided_step.guided, 1), ("projection", guided_step.projection, several)):
        calls = make(nets, torch.float32, batch)
        ours, reference = calls["ours"], calls["reference"]
        mine, theirs = ours(), reference()
        times = alternate([ours, reference], rounds, warm=True)
        image, gradient = (relative(*both) for both in zip(mine, theirs, strict=True))
        difference = f"picture {image:.0e}, gradient {gradient:.0e}"
        found[name] = times
        yield Row(f"{name} step, batch {batch}", *times, gflop(ours), difference)
    (guided, plain), (projected, projection) = found["guided"], found["projection"]
    one = [300 / several * median(times) for times in (projected, projection)]  # of projecting a picture
    yield Row(f"a member of a bank: 300 projection steps, by the batch of {several} (computed)", [one[0]], [one[1]])
    yield Row(
        "a voice to a face: 100 guided steps; the reference projects 8 members first (computed)",
        [100 * median(guided)], [100 * median(plain) + 8 * one[1]],
    )  # fmt: skip


def clusters(long: bool) -> Iterator[Row]:
    """k-means of 20,000 embeddings, 100 clusters, 20 iterations, against scikit-learn's (Lloyd)."""
    from sklearn.cluster import KMeans

    from voicestyle.clustering import kmeans

    x = F.normalize(torch.randn(20_000, 128, generator=torch.Generator().manual_seed(0)), dim=1)
    theirs = KMeans(100, n_init=1, max_iter=20, tol=0, random_state=0, algorithm="lloyd")
    calls = [lambda: kmeans(x, 100, 0), lambda: theirs.fit(x.numpy())]
    ours, reference = alternate(calls, 3)
    yield Row("k-means, 20,000 x 128, K = 100, 20 iterations; scikit-learn", ours, reference)


def retrieval(long: bool) -> Iterator[Row]:
    """The ten nearest of many unit vectors: by a product and a sort, and by the index of large banks."""
    from scale import embeddings, index_of, recall

    for num in (10_000, 100_000, 1_000_000, 10_000_000):
        if num == 10_000_000 and free_gib() < ROOM:
            yield Row(f"retrieval, {num:,} members: not run, less than {ROOM} GiB of memory are free", [])
            return
        bank = torch.from_numpy(embeddings(num, 32))
        asked = torch.from_numpy(embeddings(64, 32, seed=1))
        plain = lambda bank=bank, asked=asked: [(bank @ one).topk(10) for one in asked[:8]]  # noqa: E731
        if num <= 100_000:
            (times,) = alternate([plain], 3)
            yield Row(f"retrieval, exact, {num:,} members", [t / 8 for t in times])
            continue
        index, seconds = index_of(bank.numpy(), CELLS)
        found = lambda index=index, asked=asked: index.search(asked.numpy(), 10)  # noqa: E731
        ours, exact = alternate([found, plain], 3 if num < 10_000_000 else 1)
        difference = f"recall@10 {recall(index, bank.numpy(), asked.numpy()):.3f}; built in {seconds:.0f} s"
        exact = [t / 8 for t in exact]
        yield Row(f"retrieval, IVF-SQ8, {num:,} members; exact", [t / 64 for t in ours], exact, None, difference)


def free_gib() -> float:
    """Memory that programs may take, GiB; infinite where the system does not tell."""
    info = Path("/proc/meminfo")
    lines = info.read_text().splitlines() if info.exists() else []
    told = [int(line.split()[1]) for line in lines if line.startswith("MemAvailable")]
    return told[0] / 2**20 if told else float("inf")


def cpu_of_children(command: list[str]) -> float:
    """Processor seconds of a command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
    run = subprocess.run(command, capture_output=True, text=True, env=env)
    if run.returncode:
        raise RuntimeError(f"{' '.join(command)}: {run.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def startup(long: bool) -> Iterator[Row]:
    """Commands from a cold shell, as multiples of `import torch`; ratio: of the command, to that."""
    from voicestyle.embedded import EMBEDDED, MODELS

    own = [sys.executable, "-m", "voicestyle"]
    with tempfile.TemporaryDirectory() as folder:
        ask = ["generate", str(ROOT / "examples" / "slt.flac"), "-o", f"{folder}/face.png"]
        commands = {"--help": ["--help"], "models list": ["models", "list"], "generate": ask}
        if (MODELS / EMBEDDED / "mapper.safetensors").exists():
            commands["generate --fast"] = [*ask, "--fast"]
        calls = [lambda: cpu_of_children([sys.executable, "-c", "import torch"])]
        calls += [lambda c=command: cpu_of_children([*own, *c]) for command in commands.values()]
        times: list[list[float]] = [[] for _ in calls]
        for turn in range(4 if long else 3):  # the first does not count
            for call, spent in zip(calls, times, strict=True):
                took = call()
                if turn:
                    spent.append(took)
    base, *others = times
    yield Row("`python -c 'import torch'`", base)
    for name, spent in zip(commands, others, strict=True):
        times_torch = f"{median(spent) / median(base):.2f} x `import torch`"
        yield Row(f"`voicestyle {name}`", spent, None, None, times_torch)


SECTIONS = {
    "startup": startup, "front_end": front_ends, "embedded": embedded, "networks": networks, "steps": steps,
    "kmeans": clusters, "retrieval": retrieval,
}  # fmt: skip


def processor() -> str:
    """What the machine says of itself."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    flags = next((line for line in lines if line.startswith("flags")), "")
    vectors = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if f" {name}" in flags]
    return f"{names[0] if names else platform.processor()} ({', '.join(vectors) or 'vectors unknown'})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--long", action="store_true", help="three rounds of networks and steps, and batches of 8")
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), default=list(SECTIONS))
    parser.add_argument("-o", "--out", type=Path, default=ROOT / "docs" / "benchmarks.md")
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_memory()
    product, convolution = peaks()
    about = __doc__.split("\n\n")[2].strip()
    how = " --long" * args.long + (f" --only {' '.join(args.only)}" if args.only != list(SECTIONS) else "")
    head = (
        "# Benchmarks\n\n"
        f"Written by `make bench` (`python benchmarks/bench.py{how}`). {about}\n"
        f"\n- processor: {processor()}, one thread; torch {torch.__version__}\n"
        f"- peak in this run: matrix product {product:.0f} GFLOP/s, convolution {convolution:.0f} GFLOP/s (float32)\n"
    )
    table = "\n| what | ours | reference | ratio | share of peak | difference |\n|---|---|---|---|---|---|\n"
    print(head + table, end="")
    below, lines = notes(args.out), []
    for name in args.only:
        for row in SECTIONS[name](args.long):
            lines.append(row.cells(convolution))
            print(lines[-1], flush=True)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        foot = f"\nPeak memory of this run, the reference's steps included: {peak:.1f} GiB.\n"
        args.out.write_text(head + table + "\n".join(lines) + "\n" + foot + below, encoding="utf-8")


def notes(path: Path) -> str:
    """What was written by hand below the table: it stays."""
    mark = "\n## "
    old = path.read_text(encoding="utf-8") if path.exists() else ""
    return mark + old.split(mark, 1)[1] if mark in old else ""


if __name__ == "__main__":
    main()
