"""The server under load, on loopback and bounded: pages, queueing, jobs, memory, and what SIGTERM leaves.

    python benchmarks/serve_load.py --clients 50 --jobs 500

It starts `voicestyle serve` on a free port with a tiny model of random weights (the tests' own: this measures the
server, not the networks), lets clients ask all at once, and prints a table: latencies at p50, p95 and p99, memory
before and after, exit status. `--model NAME` takes a real model instead; then make `--jobs` small.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import httpx
import numpy as np

ROOT = Path(__file__).resolve().parents[1]


def resident_mb(pid: int) -> float:
    """Memory of a process in megabytes (Linux)."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def tiny_model(folder: Path) -> Path:
    sys.path.insert(0, str(ROOT / "tests"))
    from tiny import save_tiny

    return save_tiny(folder)


def start(model: str, port: int, max_queue: int, folder: Path) -> subprocess.Popen[bytes]:
    """A server that answers."""
    command = [sys.executable, "-m", "voicestyle", "serve", "--port", str(port), "--model", model]
    own = {**os.environ, "TMPDIR": str(folder)}
    server = subprocess.Popen([*command, "--max-queue", str(max_queue)], stderr=subprocess.DEVNULL, env=own)
    until = time.monotonic() + 300
    while True:
        try:
            httpx.get(f"http://127.0.0.1:{port}/healthz")
            return server
        except httpx.TransportError:
            if server.poll() is not None or time.monotonic() > until:
                raise RuntimeError("the server does not start") from None
            time.sleep(0.2)


async def visit(home: str, times: dict[str, list[float]], kind: str, num_jobs: int) -> None:
    """One client: the page and its parts, then jobs one after the other, each to its end."""
    async with httpx.AsyncClient(base_url=home, timeout=600) as client:

        async def timed(what: str, method: str, path: str, **options: object) -> httpx.Response:
            began = time.perf_counter()
            answer = await client.request(method, path, **options)  # type: ignore[arg-type]
            times[what].append(time.perf_counter() - began)
            return answer

        for path in ("/", "/static/app.js", "/static/style.css", "/api/v1/model"):
            (await timed("page", "GET", path)).raise_for_status()
        for _ in range(num_jobs):
            began = time.perf_counter()
            answer = await timed("taking a job", "POST", f"/api/v1/{kind}", data={"example": "slt"})
            while answer.status_code == 503:  # too many wait: as the answer says, later
                times["refused, full"].append(0.0)
                await asyncio.sleep(0.5)
                answer = await timed("taking a job", "POST", f"/api/v1/{kind}", data={"example": "slt"})
            job = answer.raise_for_status().json()
            async with client.stream("GET", f"/{job['events']}") as events:
                async for line in events.aiter_lines():
                    if line == "event: started":
                        times["waiting"].append(time.perf_counter() - began)
                    elif line in ("event: failed", "event: stopped"):
                        raise RuntimeError(line)
            times["job, from asking to its end"].append(time.perf_counter() - began)


def table(times: dict[str, list[float]]) -> str:
    lines = ["| | number | p50 | p95 | p99 |", "|---|---|---|---|---|"]
    for what, found in times.items():
        p = np.percentile(found, [50, 95, 99]) * 1000
        lines.append(f"| {what} | {len(found)} | {p[0]:.0f} ms | {p[1]:.0f} ms | {p[2]:.0f} ms |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--jobs", type=int, default=500, help="in all, for memory")
    parser.add_argument("--kind", choices=["generate", "embed", "retrieve"], default="generate")
    parser.add_argument("--model")
    options = parser.parse_args()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        server = start(options.model or str(tiny_model(Path(folder) / "tiny")), port, options.clients, Path(folder))
        home, times = f"http://127.0.0.1:{port}", defaultdict(list)

        async def rush(num_jobs: int) -> None:
            await asyncio.gather(*(visit(home, times, options.kind, num_jobs) for _ in range(options.clients)))

        began = time.perf_counter()
        asyncio.run(rush(1))
        memory = [resident_mb(server.pid)]
        rounds = max(0, options.jobs // options.clients - 1)
        for _ in range(rounds):
            asyncio.run(rush(1))
            memory.append(resident_mb(server.pid))
        seconds = time.perf_counter() - began
        print(table(times))
        load = os.getloadavg()[0]
        print(
            f"\n{(rounds + 1) * options.clients} jobs of {options.clients} clients in {seconds:.0f} s, load {load:.1f}"
        )
        print(f"Resident memory after each round, MB: {', '.join(f'{m:.0f}' for m in memory)}")
        with httpx.Client(base_url=home) as client:
            job = client.post(f"/api/v1/{options.kind}", data={"example": "slt"}).json()
            began = time.perf_counter()
            server.send_signal(signal.SIGTERM)
            status = server.wait(60)
        seconds = time.perf_counter() - began
        left = list(Path(folder).glob("voicestyle-serve-*"))
        print(f"SIGTERM with a job {job['status']}: status {status} after {seconds:.1f} s, {len(left)} folders left")


if __name__ == "__main__":
    main()
