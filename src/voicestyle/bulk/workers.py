"""Who does the work: this process, processes of this machine, or a Dask cluster; each as a `concurrent.futures` one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from voicestyle.data.workers import spawned_pool
from voicestyle.extras import needed

UNKNOWN = 64  # workers that a cluster is taken to have that was there before: what is sent ahead
RETRIES = 3  # of what a worker had when it was lost


@dataclass(frozen=True)
class Workers:
    """How to get an executor, and how many work at the same time."""

    start: Callable[[], contextlib.AbstractContextManager[Executor]]
    num: int


class Here(Executor):
    """This process does it, at once."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        """A future that is done."""
        future: Future = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def processes(num: int) -> Workers:
    """`num` processes of this machine, of one thread each; 1: this process itself."""
    return Workers(Here if num <= 1 else lambda: spawned_pool(num), max(1, num))


def cluster(where: str) -> Workers:
    """The workers of a Dask cluster.

    Args:
        where: the address of a scheduler ("tcp://host:8786"); "local:N", N processes of this machine; or a TOML file
            with the arguments of `dask_jobqueue.SLURMCluster` (queue, cores, memory, walltime, ...) and `jobs`

    Raises:
        ImportError: no `distributed`
        ValueError: none of these
    """
    needed("distributed", "a cluster")
    if where.startswith("local:") and where[6:].isdigit() and int(where[6:]):
        return Workers(lambda: _dask(_local, int(where[6:])), int(where[6:]))
    if where.endswith(".toml"):
        settings = _read_toml(Path(where))
        jobs = int(settings.pop("jobs", 1))
        return Workers(lambda: _dask(_slurm, settings, jobs), jobs)
    if "://" in where:
        return Workers(lambda: _dask(lambda: where), UNKNOWN)
    raise ValueError(f"cluster {where!r}: expected tcp://HOST:PORT, local:N or a .toml file with settings of SLURM")


@contextlib.contextmanager
def _dask(make: Callable[..., Any], *args: Any) -> Iterator[Executor]:
    """The executor of a client; a cluster that it has made ends with it, one that was there goes on."""
    from distributed import Client

    made = make(*args)
    with contextlib.ExitStack() as stack:
        if not isinstance(made, str):
            stack.enter_context(made)
        client = stack.enter_context(Client(made))
        # not pure: a second try of an item has to be a new task
        yield stack.enter_context(client.get_executor(pure=False, retries=RETRIES))


def _local(num: int) -> Any:
    from distributed import LocalCluster

    return LocalCluster(n_workers=num, threads_per_worker=1, dashboard_address=None)


def _slurm(settings: dict[str, Any], jobs: int) -> Any:
    from dask_jobqueue import SLURMCluster

    made = SLURMCluster(**settings)
    made.scale(jobs=jobs)
    return made


def _read_toml(path: Path) -> dict[str, Any]:
    from voicestyle.train.recipe import read_recipe

    return read_recipe(path)


def is_lost(error: BaseException) -> bool:
    """Whether an error says that a worker was killed, and nothing of the item itself."""
    return type(error).__name__ in ("BrokenProcessPool", "KilledWorker", "CancelledError", "FutureCancelledError")
