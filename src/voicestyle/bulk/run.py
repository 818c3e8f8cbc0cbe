"""Many items by many workers: few of them under way at a time, each result once, none lost."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from voicestyle.bulk.items import Input
from voicestyle.bulk.results import Results
from voicestyle.bulk.work import Job, Keyed, Row
from voicestyle.bulk.workers import Workers, is_lost
from voicestyle.files import sha256_of

AHEAD = 2  # batches a worker that are read and sent: one under way, one waiting; more would only fill memory
TRIES = 3  # of an item alone whose worker was lost, before it is given up


@dataclass
class Summary:
    """What came of a run."""

    num_done: int = 0  # new ones, bad ones among them
    num_there: int = 0  # that were done before, or are the same as another
    failed: dict[str, str] = field(default_factory=dict)  # name -> error
    num_of: Counter[str] = field(default_factory=Counter)  # of each worker
    seconds_of: dict[str, float] = field(default_factory=lambda: defaultdict(float))


def content_key(item: Input, job: Job, fingerprints: dict[str, Any]) -> str:
    """What a result is known by (32 hex digits): the content of the item, the job, and the networks."""
    told = repr((item.digest(), job.what, job.kind, sorted(job.options.items()), sorted(fingerprints.items())))
    return sha256_of(told.encode())[:32]


def run(
    items: Iterable[Input],
    job: Job,
    out: str | Path,
    workers: Workers,
    fingerprints: dict[str, Any],  # of the networks that results depend on
    *,
    batch: int = 4,  # items that a worker has together
    progress: Callable[[int], Any] = lambda num: None,
) -> Summary:
    """Do the job for each item, and keep the results in the folder `out`; go on where an earlier run was stopped.

    The set of results does not depend on the number of workers, on who is lost on the way, or on how often it is
    stopped. A bad item becomes a row with an ``error``.

    Raises:
        ValueError: `out` holds results of another job
        OSError: `out` cannot be written
    """
    summary = Summary()
    told = {"what": job.what, "kind": job.kind, "options": job.options, **fingerprints}
    with Results(out, told) as results:
        todo = _Todo(_keyed(items, job, fingerprints, results, summary, progress), batch)
        while todo:
            with workers.start() as executor:
                _use(executor, job, todo, workers.num * AHEAD, results, summary, progress)
    return summary


class _Todo:
    """The batches that are to be done: those that come back because their worker was lost, then new ones."""

    def __init__(self, new: Iterator[Keyed], size: int) -> None:
        self.new, self.size = new, size
        self.again: deque[list[Keyed]] = deque()
        self.losses: Counter[str] = Counter()
        self.next = self._take()

    def _take(self) -> list[Keyed]:
        return self.again.popleft() if self.again else list(islice(self.new, self.size))

    def __bool__(self) -> bool:
        if not self.next:
            self.next = self._take()
        return bool(self.next)

    @property
    def has_suspects(self) -> bool:
        """Whether items wait whose worker was lost: they are done one by one, so that no other is lost with them."""
        return bool(self.again) or any(key in self.losses for key, _ in self.next)

    def pop(self) -> list[Keyed]:
        """The next batch."""
        taken, self.next = self.next, []
        return taken

    def lost(self, batch: list[Keyed]) -> list[Row]:
        """Take a batch back, each item alone so that the one to blame is found; rows of those that are given up."""
        given_up = []
        for key, item in batch:
            self.losses[key] += 1
            if self.losses[key] > TRIES:
                given_up.append(Row(key, item.name, {"error": f"{item.name}: {self.losses[key]} workers died of it"}))
            else:
                self.again.append([(key, item)])
        return given_up


def _use(
    executor: Executor,
    job: Job,
    todo: _Todo,
    ahead: int,
    results: Results,
    summary: Summary,
    progress: Callable[[int], Any],
) -> None:
    """Work until all is done, or the executor is broken: what it had goes back."""
    under_way: dict[Future, list[Keyed]] = {}
    broken = False
    while under_way or (todo and not broken):
        while not broken and todo and len(under_way) < (1 if todo.has_suspects else ahead):
            taken = todo.pop()
            try:
                under_way[executor.submit(job.work, taken)] = taken
            except Exception as error:
                if not is_lost(error):
                    raise
                broken = True
                todo.again.append(taken)
        done, _ = wait(under_way, return_when=FIRST_COMPLETED) if under_way else ((), ())
        for future in [future for future in under_way if future in done]:  # in their order, which a set has not
            taken = under_way.pop(future)
            try:
                rows = future.result()
            except BaseException as error:
                if not is_lost(error):
                    raise
                broken = broken or type(error).__name__ == "BrokenProcessPool"
                rows = todo.lost(taken)
            for row in rows:
                _keep(row, results, summary, progress)


def _keep(row: Row, results: Results, summary: Summary, progress: Callable[[int], Any]) -> None:
    if results.write(row):
        summary.num_done += 1
        summary.num_of[row.worker] += 1
        summary.seconds_of[row.worker] += row.seconds
        progress(1)
    if row.error is not None:
        summary.failed[row.name] = row.error


def _keyed(
    items: Iterable[Input],
    job: Job,
    fingerprints: dict[str, Any],
    results: Results,
    summary: Summary,
    progress: Callable[[int], Any],
) -> Iterator[Keyed]:
    """The items that are not done yet, with their keys; those of one content once."""
    seen: set[str] = set()
    for item in items:
        try:
            key = content_key(item, job, fingerprints)
        except OSError as error:  # it has no content that it could be known by
            summary.failed[item.name] = str(error)
            progress(1)
            continue
        if key in results or key in seen:
            summary.num_there += 1
            progress(1)
            continue
        seen.add(key)
        yield key, item
