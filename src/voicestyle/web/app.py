"""The app: one page, and an interface for programs under /api/v1. The same functions as the command line."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fastapi import APIRouter, Depends, FastAPI, File, Form, Header, Request, Response, UploadFile
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, StreamingResponse
from starlette.staticfiles import StaticFiles

from voicestyle import __version__
from voicestyle.image import picture_size
from voicestyle.live import Heard
from voicestyle.web import work
from voicestyle.web.guard import Guard, session_of, set_cookie
from voicestyle.web.jobs import Job, Jobs, QueueFull, Work
from voicestyle.web.problems import RESPONSES, add_handlers
from voicestyle.web.sessions import Session, Sessions
from voicestyle.web.settings import ServeSettings
from voicestyle.web.uploads import Kind, UploadFolder
from voicestyle.web.watching import Numbers, Watch

if TYPE_CHECKING:
    from voicestyle.pipeline import VoiceStyle

HERE = Path(__file__).parent
STATIC = HERE / "static"
EXAMPLES = {"slt": "A woman's voice (synthetic)", "rms": "A man's voice (synthetic)"}


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
        tasks = [asyncio.create_task(task) for task in (self.jobs.run(), self.jobs.watch(), self._sweep())]
        try:
            yield
        finally:
            await self.jobs.drain(settings.grace_s)
            for task in tasks:
                task.cancel()
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
            id=job.id, kind=job.kind, status=job.status, ahead=self.jobs.place(job), wait_s=wait,
            events=f"{base}/events", files=f"{base}/files", result=job.result, problem=job.problem,
        )  # fmt: skip

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


def _check_pixels(path: Path, most: int) -> None:
    """Refuse a picture of too many pixels, by its header: before they are decoded."""
    try:
        width, height = picture_size(path)
        if width * height > most:
            raise ValueError(f"your picture has {width} x {height} pixels, at most {most / 1e6:g} million are taken")
    except ValueError as error:
        path.unlink(missing_ok=True)
        raise ValueError(str(error).replace(str(path), "your picture")) from None


def create_app(vs: VoiceStyle, settings: ServeSettings | None = None) -> FastAPI:
    """The app that serves one model."""
    settings = settings or ServeSettings()
    service = Service(vs, settings)
    app = FastAPI(
        title="voicestyle", version=__version__, docs_url=None, redoc_url=None,
        description="Plausible faces for a voice. They are AI-generated and identify nobody.",
        lifespan=service.running,
    )  # fmt: skip
    app.state.service = service
    add_handlers(app)
    app.add_middleware(Guard, settings=settings, sessions=service.sessions)
    app.add_middleware(Watch, numbers=service.numbers)
    app.include_router(_pages(service))
    app.include_router(_asking(service), prefix="/api/v1", responses=RESPONSES, tags=["work"])
    app.include_router(_looking(service), prefix="/api/v1", responses=RESPONSES, tags=["jobs"])
    app.mount("/static", StaticFiles(directory=STATIC))
    return app


def _pages(service: Service) -> APIRouter:
    """The page, the description of the interface, and what whoever runs the server looks at."""
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    async def page() -> FileResponse:
        return FileResponse(STATIC / "index.html", headers={"Cache-Control": "no-cache"})

    @router.get("/docs")
    async def docs() -> FileResponse:
        return FileResponse(STATIC / "docs.html", headers={"Cache-Control": "no-cache"})

    @router.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok", "version": __version__}

    @router.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(service.numbers.registry), media_type=CONTENT_TYPE_LATEST)

    return router


Voice = File(default=None, description="A recording; any common format")
Face = File(default=None, description="A photograph, in place of a voice")
Picture = File(description="A picture of a face")
Example = Form(default=None, description="In place of a recording: the name of an example voice")
Earlier = Form(default=None, description="A generation of yours: its voice is taken, or compared with the face")
Watched = Form(default=False, description="Stop the job when nobody listens to its events any more")


def _asking(service: Service) -> APIRouter:
    """What can be asked for; each answer is a job."""
    router = APIRouter()
    vs, settings = service.vs, service.settings
    asks = Depends(service.session)
    accepted: dict[str, Any] = {"status_code": 202, "response_model": JobState}

    @router.post("/generate", **accepted)
    async def generate(
        session: Session = asks,
        voice: UploadFile | None = Voice,
        example: str | None = Example,
        seed: int = Form(default=0, ge=0, lt=2**31, description="The same seed, the same faces"),
        num_faces: int = Form(default=1, ge=1, le=settings.max_faces),
        steps: int | None = Form(default=None, ge=0, le=settings.max_steps, description="Guided; default: the model's"),
        k: int | None = Form(default=None, ge=1, le=50, description="Nearest prototypes; default: the model's"),
        of: str | None = Earlier,
        watch: bool = Watched,
    ) -> JobState:
        """Faces that fit a voice. They are plausible, and identify nobody."""
        service.check_free(session)
        options = {"max_s": settings.max_voice_s, "seed": seed, "num_faces": num_faces, "steps": steps, "k": k}
        if of is not None:
            return service.add(session, "generate", None, work.generate(vs, _heard(session, of), **options), watch)
        upload = await service.keep(voice, "voice", example)
        return service.add(session, "generate", upload, work.generate(vs, upload, **options), watch)

    @router.post("/embed", **accepted)
    async def embed(
        session: Session = asks,
        voice: UploadFile | None = Voice,
        example: str | None = Example,
        face: UploadFile | None = Face,
        align: bool = Form(default=True, description="Find the face in the photograph first"),
        of: str | None = Earlier,
        watch: bool = Watched,
    ) -> JobState:
        """The unit embedding of a voice or a face; a face also beside the voice of an earlier job."""
        service.check_free(session)
        if face is None:
            upload = await service.keep(voice, "voice", example)
            return service.add(session, "embed", upload, work.embed_voice(vs, upload, settings.max_voice_s), watch)
        other = None if of is None else _heard(session, of)
        upload = await service.keep(face, "picture")
        return service.add(session, "embed", upload, work.embed_face(vs, upload, align, other), watch)

    @router.post("/retrieve", **accepted)
    async def retrieve(
        session: Session = asks,
        voice: UploadFile | None = Voice,
        example: str | None = Example,
        k: int | None = Form(default=None, ge=1, le=50),
        num_members: int | None = Form(default=None, ge=1, le=100),
        watch: bool = Watched,
    ) -> JobState:
        """The prototypes nearest to a voice, and their members."""
        service.check_free(session)
        upload = await service.keep(voice, "voice", example)
        task = work.retrieve(vs, upload, settings.max_voice_s, k, num_members)
        return service.add(session, "retrieve", upload, task, watch)

    @router.post("/invert", **accepted)
    async def invert(
        session: Session = asks,
        image: UploadFile = Picture,
        align: bool = Form(default=True, description="Find the face in the picture first"),
        steps: int = Form(default=50, ge=0, le=settings.max_steps),
        space: Literal["w", "w_plus"] = Form(default="w", description="One latent, or one a layer"),
        seed: int = Form(default=0, ge=0, lt=2**31),
        watch: bool = Watched,
    ) -> JobState:
        """A picture, projected into the latent space of the generator."""
        service.check_free(session)
        upload = await service.keep(image, "picture")
        return service.add(session, "invert", upload, work.invert(vs, upload, align, steps, space, seed), watch)

    return router


def _heard(session: Session, name: str) -> Heard:
    """The voice of an earlier job of this session."""
    job = session.jobs.get(name)
    if job is None or job.kept is None:
        raise HTTPException(404, "no such job of yours, or one without a voice")
    return job.kept


def _looking(service: Service) -> APIRouter:
    """What can be looked at: the model, the examples, and the jobs of who asks."""
    router = APIRouter()
    vs, settings = service.vs, service.settings

    @router.get("/model")
    async def model() -> dict[str, Any]:
        """What is served, and its limits."""
        return {
            "model": vs.config.name, "version": __version__, "notice": vs.metadata()["AI-generated"],
            "size": vs.generator.config.size, "steps": vs.config.guidance.steps, "k": vs.config.guidance.k,
            "max_faces": settings.max_faces, "max_upload_bytes": settings.max_upload_bytes,
            "max_voice_s": settings.max_voice_s, "examples": EXAMPLES,
        }  # fmt: skip

    @router.get("/examples/{name}", response_class=FileResponse)
    async def example(name: Literal[tuple(EXAMPLES)]) -> FileResponse:  # type: ignore[valid-type]
        """A voice to try it with."""
        return FileResponse(examples_folder() / f"{name}.flac", media_type="audio/flac")

    @router.get("/jobs")
    async def jobs(request: Request) -> list[JobState]:
        """The jobs of who asks, oldest first."""
        session = session_of(request.headers, service.sessions)
        return [service.state(job) for job in session.jobs.values()] if session else []

    @router.get("/jobs/{name}")
    async def job(request: Request, name: str) -> JobState:
        """How a job stands."""
        return service.state(service.job(request, name))

    @router.delete("/jobs/{name}", status_code=202)
    async def stop(request: Request, name: str) -> JobState:
        """Stop a job; it ends at its next step."""
        found = service.job(request, name)
        found.stop()
        return service.state(found)

    @router.get("/jobs/{name}/events", response_class=StreamingResponse)
    async def events(
        request: Request, name: str, last_event_id: int | None = Header(default=None, ge=-1)
    ) -> StreamingResponse:
        """What a job tells, from its beginning or from after the event of that id, as server-sent events."""
        found = service.job(request, name)
        seen = 0 if last_event_id is None else last_event_id + 1
        headers = {"X-Accel-Buffering": "no"}
        return StreamingResponse(_stream(found, seen), media_type="text/event-stream", headers=headers)

    @router.get("/jobs/{name}/files/{file}", response_class=Response)
    async def made(request: Request, name: str, file: str) -> Response:
        """Something that a job has made."""
        found = service.job(request, name).files.get(file)
        if found is None:
            raise HTTPException(404, "no such file of this job")
        return Response(found.content, media_type=found.media_type, headers={"Cache-Control": "private, max-age=1800"})

    @router.delete("/session", status_code=204)
    async def leave(request: Request) -> None:
        """Forget all that was made for who asks; what runs stops."""
        session = session_of(request.headers, service.sessions)
        if session is not None:
            service.sessions.end(session)

    return router


async def _stream(job: Job, seen: int) -> AsyncIterator[str]:
    """The events of a job in the form of text/event-stream."""
    async for told in job.follow(seen):
        if told is None:
            yield ": still here\n\n"
        else:
            number, event = told
            yield f"id: {number}\nevent: {event.name}\ndata: {json.dumps(event.data)}\n\n"
