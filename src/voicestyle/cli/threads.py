"""How torch's OpenMP threads wait for each other, and how many there are: said before torch is loaded."""

from __future__ import annotations

import math
import os
import time
from collections.abc import MutableMapping
from pathlib import Path
from statistics import median

# Turns that a thread spins before it sleeps. By default 300,000, a millisecond, which threads of other processes lose:
# a command then takes five times as long beside two busy processes. Sleeping at once costs 46 % on a quiet machine.
# Measured: dev/LOG.md, 2026-11-29.
SPIN_QUIET, SPIN_BUSY = 4000, 0
BUSY_SHARE = 0.5  # of the cores that others use: beyond this the machine is busy

_CGROUP = Path("/sys/fs/cgroup")


def set_threads(environment: MutableMapping[str, str]) -> None:
    """Set what OpenMP reads when torch is loaded; what the user has set stays.

    - ``OMP_NUM_THREADS``: where a quota of the container allows fewer than there are cores
    - ``GOMP_SPINCOUNT``: none where other processes want the cores too, a little otherwise
    """
    cores = num_cores()
    allowed = quota()
    if allowed < cores:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, math.ceil(allowed))))
    if "OMP_WAIT_POLICY" not in environment and "GOMP_SPINCOUNT" not in environment:
        is_busy = num_running() > BUSY_SHARE * cores
        environment["GOMP_SPINCOUNT"] = str(SPIN_BUSY if is_busy else SPIN_QUIET)


def num_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def quota(folder: Path = _CGROUP) -> float:
    """Cores that the container of this process may use at a time (cgroup 2, then 1); infinite without a quota."""
    try:
        limit, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        return math.inf if limit == "max" else int(limit) / int(period)
    except (OSError, ValueError):
        pass
    try:
        limit, period = ((folder / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return int(limit) / int(period) if int(limit) > 0 else math.inf
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf


def num_running(path: Path = Path("/proc/loadavg"), samples: int = 5) -> float:
    """Threads of other processes that run or wait for a core just now; 0 where the system does not tell."""
    try:
        seen = []
        for _ in range(samples):
            seen.append(int(path.read_text(encoding="ascii").split()[3].split("/")[0]))
            time.sleep(0.002)
        return max(0, median(seen) - 1)  # this one runs, too
    except (OSError, ValueError, IndexError):
        return 0
