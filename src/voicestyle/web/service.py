"""What the routes share: the model, the visitors, their files and jobs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fastapi import FastAPI, Request, Response, UploadFile
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from voicestyle.image import picture_size
from voicestyle.live import Heard
from voicestyle.web import work
from voicestyle.web.apart import Decoder
from voicestyle.web.guard import session_of, set_cookie
from voicestyle.web.jobs import Job, Jobs, QueueFull, Work
from voicestyle.web.sessions import Session, Sessions
from voicestyle.web.settings import ServeSettings
from voicestyle.web.uploads import Kind, UploadFolder
from voicestyle.web.watching import Numbers

if TYPE_CHECKING:
    from voicestyle.pipeline import VoiceStyle

HERE = Path(__file__).parent
EXAMPLES = {"slt": "a woman's voice", "rms": "a man's voice"}  # both synthetic


def examples_folder() -> Path:
    """Where the example voices lie: in the installed package, or beside a checkout."""
    installed = HERE.parent / "examples"
    return installed if installed.is_dir() else HERE.parents[2] / "examples"


class JobState(BaseModel):
    """A job as its owner sees it."""

    id: str
    kind: str
    status: Literal["queued", "running", "done", "failed", "stopped"]
    ahead: int  # jobs that come first
    wait_s: float | None  # until it begins, by what earlier jobs took; None: not known
    events: str  # where its progress is told, as server-sent events
    files: str  # where its files lie, by their names
    result: dict[str, Any] | None = None
    problem: dict[str, Any] | None = None


class Service:
    """What the routes share: the model, the visitors, their files and jobs."""

    def __init__(self, vs: VoiceStyle, settings: ServeSettings) -> None:
        self.vs, self.settings = vs, settings
        self.sessions = Sessions(settings.idle_s)
        self.numbers = Numbers()
        self.decoder = Decoder()
        self.listen = work.listener(vs, self.decoder, settings.max_voice_s)
        self.loop: asyncio.AbstractEventLoop | None = None  # while it runs
        self.jobs: Jobs
        self.uploads: UploadFolder

    @contextlib.asynccontextmanager
    async def running(self, app: FastAPI) -> AsyncIterator[None]:
        """The time in which jobs are worked on; at its end nothing is left running, and no file."""
        settings = self.settings
        self.loop = asyncio.get_running_loop()
        self.jobs = Jobs(settings.max_queue, settings.deadline_s, settings.unattended_s)
        self.jobs.on_end = self._count
        self.numbers.waiting.set_function(lambda: len(self.jobs.waiting))
        self.numbers.running.set_function(lambda: int(self.jobs.running is not None))
        self.numbers.sessions.set_function(lambda: len(self.sessions))
        self.uploads = UploadFolder()
        self.decoder.start()
        tasks = [asyncio.create_task(task) for task in (self.jobs.run(), self.jobs.watch(), self._sweep())]
        try:
            yield
        finally:
            await self.jobs.drain(settings.grace_s)
            for task in tasks:
                task.cancel()
            self.decoder.stop()
            self.uploads.remove()

    def stop(self) -> None:
        """Take no more jobs; the running one may finish in time. Called from a signal handler."""
        loop = self.loop
        if loop is not None:
            loop.call_soon_threadsafe(self._stop)

    def _stop(self) -> None:
        self.jobs.close()
        self._ending = asyncio.create_task(self.jobs.drain(self.settings.grace_s / 2))

    def _count(self, job: Job, seconds: float) -> None:
        self.numbers.jobs.labels(job.kind, job.status).inc()
        self.numbers.job_s.labels(job.kind).observe(seconds)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(60)
            self.sessions.sweep()

    # ------------------------------------------------------------------------------------------------------- requests

    def session(self, request: Request, response: Response) -> Session:
        """Who asks; who has no session yet gets one."""
        session = session_of(request.headers, self.sessions)
        if session is None:
            session = self.sessions.new()
            set_cookie(response, session, self.settings, request.url.scheme == "https")
        return session

    def job(self, request: Request, name: str) -> Job:
        """A job of who asks; one of somebody else is as if it were not there."""
        session = session_of(request.headers, self.sessions)
        job = session.jobs.get(name) if session else None
        if job is None:
            raise HTTPException(404, "no such job, or not one of yours")
        return job

    def state(self, job: Job) -> JobState:
        wait = self.jobs.wait_s(job) if job.status == "queued" else 0.0
        base = f"api/v1/jobs/{job.id}"
        return JobState(
            id=job.id,
            kind=job.kind,
            status=job.status,
            ahead=self.jobs.place(job),
            wait_s=wait,
            events=f"{base}/events",
            files=f"{base}/files",
            result=job.result,
            problem=job.problem,
        )

    def check_free(self, session: Session) -> None:
        """Refuse who has a job under way."""
        if session.active is not None:
            raise HTTPException(409, "one job at a time: wait for yours to end, or stop it")

    async def keep(self, file: UploadFile | None, kind: Kind, example: str | None = None) -> Path:
        """Where an upload, or a copy of an example, lies now."""
        try:
            if file is not None:
                path = await run_in_threadpool(self.uploads.keep, file.file, kind)
                if kind == "picture":
                    await run_in_threadpool(_check_pixels, path, self.settings.max_pixels)
                return path
            if example not in EXAMPLES:
                raise ValueError(f"no such example; expected one of {sorted(EXAMPLES)}, or a file")
            with (examples_folder() / f"{example}.flac").open("rb") as voice:
                return await run_in_threadpool(self.uploads.keep, voice, kind)
        except ValueError as error:
            raise HTTPException(422, str(error)) from None

    def add(self, session: Session, kind: str, upload: Path | None, task: Work, is_watched: bool) -> JobState:
        """A new job of a session; where it cannot be taken, its upload goes."""
        job = Job(kind, task, upload, is_watched)
        try:
            self.check_free(session)  # again: another upload of the session may have been quicker
            self.jobs.add(job)
        except (HTTPException, QueueFull) as error:
            job.drop_upload()
            if isinstance(error, HTTPException):
                raise
            wait = self.jobs.wait_s()
            about = "a minute" if wait is None else f"{wait:.0f} seconds"
            raise HTTPException(503, f"too many are waiting; try again in {about}", {"Retry-After": "30"}) from None
        session.keep(job)
        return self.state(job)


def heard(session: Session, name: str) -> Heard:
    """The voice of an earlier job of this session."""
    job = session.jobs.get(name)
    if job is None or job.kept is None:
        raise HTTPException(404, "no such job of yours, or one without a voice")
    return job.kept


def _check_pixels(path: Path, most: int) -> None:
    """Refuse a picture of too many pixels, by its header: before they are decoded."""
    try:
        width, height = picture_size(path)
        if width * height > most:
            raise ValueError(f"your picture has {width} x {height} pixels, at most {most / 1e6:g} million are taken")
    except ValueError as error:
        path.unlink(missing_ok=True)
        raise ValueError(str(error).replace(str(path), "your picture")) from None
