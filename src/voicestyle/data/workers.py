"""Work on many files in several processes.

Imports no torch, so that a worker can be told how many threads to use before it does.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

_CHUNK = 4  # inputs that go to a worker at a time


def num_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_order(work: Callable[[T], R], inputs: Sequence[T], num_workers: int) -> Iterator[R]:
    """What `work` returns for each input, in the order of the inputs; the same for any number of workers.

    Args:
        work: a function of a module, or a ``functools.partial`` of one: it is sent to other processes
        inputs: anything that can be pickled
        num_workers: processes of one thread each; 1: this process does it

    Raises:
        ChildProcessError: a worker was killed
        whatever `work` raises
    """
    if num_workers <= 1 or len(inputs) <= 1:
        yield from map(work, inputs)
        return
    with spawned_pool(min(num_workers, len(inputs))) as pool:
        try:
            yield from pool.map(work, inputs, chunksize=_CHUNK)
        except BrokenProcessPool as error:
            raise ChildProcessError(
                "a worker process was killed, perhaps for want of memory; run the command again, with fewer workers"
            ) from error


def spawned_pool(num: int) -> ProcessPoolExecutor:
    """`num` processes of one thread each. A process that is forked after torch has started threads may hang."""
    return ProcessPoolExecutor(num, multiprocessing.get_context("spawn"), initializer=_use_one_thread)


def _use_one_thread() -> None:
    """Runs in a worker before any library that reads these is loaded."""
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
