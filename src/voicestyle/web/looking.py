"""The interface for programs, second half: what can be looked at, the model, the examples, and the jobs of who asks."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, Literal

from fastapi import APIRouter, Header, Request, Response
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, StreamingResponse

from voicestyle import __version__
from voicestyle.web.guard import session_of
from voicestyle.web.jobs import Job
from voicestyle.web.service import EXAMPLES, JobState, Service, examples_folder


def looking(service: Service) -> APIRouter:
    """What can be looked at: the model, the examples, and the jobs of who asks."""
    router = APIRouter()
    vs, settings = service.vs, service.settings

    @router.get("/model")
    async def model() -> dict[str, Any]:
        """What is served, and its limits."""
        return {
            "model": vs.config.name,
            "version": __version__,
            "notice": vs.metadata()["AI-generated"],
            "size": vs.generator.config.size,
            "steps": vs.config.guidance.steps,
            "k": vs.config.guidance.k,
            "max_faces": settings.max_faces,
            "max_upload_bytes": settings.max_upload_bytes,
            "max_voice_s": settings.max_voice_s,
            "examples": EXAMPLES,
        }

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
