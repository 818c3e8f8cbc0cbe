"""How long a command takes by the way in which torch's threads wait for each other: alone, and beside busy processes.

    python benchmarks/waiting.py [--rounds 3] [--steps 50] [--busy 2] [-o waiting.md]

`voicestyle generate` with the embedded model and the bundled voice, wall time from start to end. The settings take
turns within each round, quiet and then beside processes that only compute; ratios are of medians, to the best quiet
one. Wanted: what the command sets by itself at most 1.05 quiet, and at most 2 beside two busy processes. It needs a
machine that does nothing else: what runs beside it is printed. 38 commands with three rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from voicestyle.cli.threads import num_cores, num_running

ROOT = Path(__file__).resolve().parents[1]
TARGETS = (1.05, 2.0)  # of what the command sets by itself: quiet, busy
SETTINGS: dict[str, dict[str, str]] = {
    "as the command sets it": {},
    "OpenMP's default (300,000 turns)": {"GOMP_SPINCOUNT": "300000"},
    "4,000 turns": {"GOMP_SPINCOUNT": "4000"},
    "1,000 turns": {"GOMP_SPINCOUNT": "1000"},
    "passive": {"OMP_WAIT_POLICY": "passive"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
READ = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS")  # a user's own settings are left out


@contextlib.contextmanager
def busy(number: int) -> Iterator[None]:
    """Processes that compute, while the block lasts."""
    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def seconds(setting: dict[str, str], steps: int, folder: str) -> float:
    """Wall time of one command."""
    environment = {name: value for name, value in os.environ.items() if name not in READ}
    environment |= {"PYTHONPATH": str(ROOT / "src"), **setting}
    voice = str(ROOT / "examples" / "slt.flac")
    command = [sys.executable, "-m", "voicestyle", "generate", voice, "-o", f"{folder}/face.png", "--steps", str(steps)]
    start = time.perf_counter()
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    if run.returncode:
        raise RuntimeError(f"{' '.join(command)}: {run.stderr}")
    return time.perf_counter() - start


def measure(number: int, rounds: int, steps: int) -> dict[str, list[float]]:
    """Times of each setting beside so many busy processes, in turns, after a round that does not count."""
    times: dict[str, list[float]] = {name: [] for name in SETTINGS}
    with tempfile.TemporaryDirectory() as folder:
        seconds({}, 0, folder)
        for turn in range(rounds):
            print(f"{number} busy, round {turn}: {num_running():.0f} other threads run", file=sys.stderr, flush=True)
            with busy(number):
                for name, setting in SETTINGS.items():
                    times[name].append(seconds(setting, steps, folder))
    return times


def table(quiet: dict[str, list[float]], beside: dict[str, list[float]], number: int) -> str:
    """A line for each setting: seconds, least and most, and the ratio to the best quiet median."""
    best = min(median(times) for times in quiet.values())
    lines = [f"| setting | quiet | beside {number} busy processes |", "|---|---|---|"]
    for name in SETTINGS:
        cells = [
            f"{median(t):.1f} s ({min(t):.1f} to {max(t):.1f}), {median(t) / best:.2f}"
            for t in (quiet[name], beside[name])
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, f"| wanted, as the command sets it | {TARGETS[0]} | {TARGETS[1]} |"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=50, help="guided steps")
    parser.add_argument("--busy", type=int, default=2, help="processes beside")
    parser.add_argument("-o", "--out", type=Path)
    args = parser.parse_args()
    others = num_running()
    quiet, beside = (measure(number, args.rounds, args.steps) for number in (0, args.busy))
    about = (
        f"{num_cores()} cores, {args.steps} steps, {args.rounds} rounds; {others:.0f} other threads ran at the start"
    )
    text = f"{about}\n\n{table(quiet, beside, args.busy)}\n"
    print(text)
    if args.out:
        args.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
