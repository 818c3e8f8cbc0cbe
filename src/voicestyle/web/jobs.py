"""Jobs: one worker, a bounded queue, progress as events, a deadline, and a stop that is heard within a step.

All state changes in the event loop's thread; the worker's thread hands its news over, and reads one flag.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from voicestyle.web.problems import problem

Status = Literal["queued", "running", "done", "failed", "stopped"]
Work = Callable[["Job"], dict[str, Any]]  # in the worker's thread; what it returns is the job's result

log = logging.getLogger("voicestyle.web")


class Stopped(Exception):
    """A job is not to go on."""


class QueueFull(Exception):
    """No more jobs are taken."""


@dataclass(frozen=True)
class File:
    """Something that a job has made."""

    media_type: str
    content: bytes = field(repr=False)


@dataclass(frozen=True)
class Event:
    """Something that a job has to tell."""

    name: str
    data: dict[str, Any]


class Job:
    """One request for work, what it has told so far and what it has made."""

    def __init__(self, kind: str, work: Work, upload: Path | None = None, is_watched: bool = False) -> None:
        self.id = secrets.token_urlsafe(16)
        self.kind, self.work, self.upload = kind, work, upload
        self.is_watched = is_watched  # stops when nobody listens any more
        self.status: Status = "queued"
        self.events: list[Event] = []
        self.files: dict[str, File] = {}
        self.result: dict[str, Any] | None = None
        self.problem: dict[str, Any] | None = None
        self.kept: Any = None  # what later jobs of the session may start from; never sent
        self.created = time.monotonic()
        self.started: float | None = None
        self.alone_since: float | None = self.created  # since when nobody listens
        self._num_listeners = 0
        self._why_stop: str | None = None
        self._news = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._deadline = float("inf")

    @property
    def is_over(self) -> bool:
        return self.status in ("done", "failed", "stopped")

    @property
    def folder(self) -> str:
        """Where its files are found, from the root of the page."""
        return f"api/v1/jobs/{self.id}/files"

    # -------------------------------------------------------------------------------------------- the worker's thread

    def check(self) -> None:
        """Raise ``Stopped`` where the job is not to go on; called at every step."""
        if self._why_stop is not None:
            raise Stopped(self._why_stop)
        if time.monotonic() > self._deadline:
            raise Stopped("it took longer than a job may; ask for fewer faces or steps")

    def emit(self, name: str, data: dict[str, Any], files: dict[str, File] | None = None) -> None:
        """Tell who listens; files are there before the event is."""
        self.check()
        self._loop.call_soon_threadsafe(self._add, Event(name, data), files or {})

    # ---------------------------------------------------------------------------------------------- the loop's thread

    def _add(self, event: Event, files: dict[str, File]) -> None:
        self.files.update(files)
        self.events.append(event)
        news, self._news = self._news, asyncio.Event()
        news.set()

    def begin(self, deadline_s: float) -> None:
        self.status, self.started = "running", time.monotonic()
        self._deadline = self.started + deadline_s
        self._add(Event("started", {}), {})

    def stop(self, why: str = "stopped on request") -> None:
        """Ask the job to end; one that waits ends at once, one that runs at its next step."""
        if self.is_over:
            return
        self._why_stop = self._why_stop or why
        if self.status == "queued":
            self.end("stopped", problem=problem(409, why))

    def end(self, status: Status, result: dict[str, Any] | None = None, problem: dict[str, Any] | None = None) -> None:
        """The last thing that happens to a job; its upload goes."""
        if self.is_over:
            return
        self.status, self.result, self.problem = status, result, problem
        self.drop_upload()
        self._add(Event(status, result or problem or {}), {})

    def drop_upload(self) -> None:
        """Take away what the visitor sent."""
        if self.upload is not None:
            self.upload.unlink(missing_ok=True)

    async def follow(self, seen: int = 0) -> AsyncIterator[tuple[int, Event] | None]:
        """The events from number `seen` on, as they come; None now and then where none comes."""
        self._num_listeners += 1
        self.alone_since = None
        try:
            while True:
                news = self._news
                while seen < len(self.events):
                    yield seen, self.events[seen]
                    seen += 1
                if self.is_over:
                    return
                try:
                    await asyncio.wait_for(news.wait(), 10)
                except asyncio.TimeoutError:
                    yield None
        finally:
            self._num_listeners -= 1
            if self._num_listeners == 0:
                self.alone_since = time.monotonic()

    async def over(self) -> None:
        """Return when the job has ended."""
        while not self.is_over:
            await self._news.wait()


class Jobs:
    """The queue and its one worker: guided steps use all cores already, two at once would only be later."""

    def __init__(self, max_queue: int, deadline_s: float, unattended_s: float) -> None:
        self.max_queue, self.deadline_s, self.unattended_s = max_queue, deadline_s, unattended_s
        self.running: Job | None = None
        self.on_end: Callable[[Job, float], None] = lambda job, seconds: None
        self._waiting: deque[Job] = deque()
        self._more = asyncio.Event()
        self._is_closed = False
        self._usual_s: dict[str, float] = {}  # by kind: a running mean of how long it took
        self._pool = ThreadPoolExecutor(1, "voicestyle-job")

    @property
    def waiting(self) -> list[Job]:
        """The jobs that have not begun, in their order."""
        return [job for job in self._waiting if not job.is_over]

    def add(self, job: Job) -> None:
        """Take a job in.

        Raises:
            QueueFull: too many wait, or the server is about to stop
        """
        if self._is_closed or len(self.waiting) >= self.max_queue:
            raise QueueFull
        self._waiting.append(job)
        self._more.set()

    def place(self, job: Job) -> int:
        """How many jobs come before this one."""
        if job.status != "queued":
            return 0
        return self.waiting.index(job) + (self.running is not None)

    def wait_s(self, job: Job | None = None) -> float | None:
        """In how many seconds a job, or one that is added now, begins: by what earlier ones took. None: not known."""
        waiting = self.waiting
        before = waiting[: waiting.index(job)] if job in waiting else waiting
        kinds = [other.kind for other in before]
        spent = 0.0
        if self.running is not None:
            kinds.append(self.running.kind)
            spent = time.monotonic() - (self.running.started or 0)
        if any(kind not in self._usual_s for kind in kinds):
            return None
        return max(0.0, sum(self._usual_s[kind] for kind in kinds) - spent)

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            while not self._waiting:
                self._more.clear()
                await self._more.wait()
            job = self._waiting.popleft()
            if not job.is_over:
                await self._run(job)

    async def _run(self, job: Job) -> None:
        self.running = job
        job.begin(self.deadline_s)
        try:
            result = await asyncio.get_running_loop().run_in_executor(self._pool, job.work, job)
            job.end("done", result)
        except Stopped as why:
            job.end("stopped", problem=problem(409, str(why)))
        except (ValueError, OSError, ImportError) as error:
            job.end("failed", problem=problem(422, _without_path(str(error), job.upload)))
        except Exception as error:
            where = error.__traceback__
            while where is not None and where.tb_next is not None:
                where = where.tb_next
            place = f"{where.tb_frame.f_code.co_name}:{where.tb_lineno}" if where else ""
            log.error("job broke", extra={"kind": job.kind, "error": type(error).__name__, "where": place})
            job.end("failed", problem=problem(500, "something went wrong on our side; it is in the server's log"))
        finally:
            self.running = None
            seconds = time.monotonic() - (job.started or 0)
            if job.status == "done":
                usual = self._usual_s.get(job.kind, seconds)
                self._usual_s[job.kind] = 0.7 * usual + 0.3 * seconds
            self.on_end(job, seconds)

    async def watch(self) -> None:
        """Stop the watched jobs whose page has gone, until cancelled."""
        while True:
            await asyncio.sleep(min(1.0, self.unattended_s / 2))
            late = time.monotonic() - self.unattended_s
            for job in [*self.waiting, *([self.running] if self.running else [])]:
                if job.is_watched and job.alone_since is not None and job.alone_since < late:
                    job.stop("nobody was watching any more")

    def close(self) -> None:
        """Take no more jobs, and send back those that have not begun."""
        self._is_closed = True
        for job in self.waiting:
            job.stop("the server is being stopped; ask again in a minute")

    async def drain(self, grace_s: float) -> None:
        """Let the running job finish in time, or stop it; nothing is left running."""
        self.close()
        job = self.running
        if job is not None:
            try:
                await asyncio.wait_for(job.over(), grace_s)
            except asyncio.TimeoutError:
                job.stop("the server is being stopped; ask again in a minute")
                await job.over()
        await asyncio.get_running_loop().run_in_executor(None, self._pool.shutdown)


def _without_path(message: str, upload: Path | None) -> str:
    """An error's text without the place of the upload, which is ours and not the visitor's."""
    for name in (str(upload), upload.name) if upload is not None else ():
        message = message.replace(name, "your file")
    return message.replace("; try without silence removal (--no-vad)", "")  # which is no choice here
