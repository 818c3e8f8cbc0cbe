"""Errors as application/problem+json (RFC 9457)."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

MEDIA_TYPE = "application/problem+json"


class Problem(BaseModel):
    """What went wrong, for a program and for a person."""

    type: str = "about:blank"
    title: str = Field(examples=["Unprocessable Content"])
    status: int = Field(examples=[422])
    detail: str = Field(examples=["the recording: 0.4 s of speech left, at least 1.0 s needed"])


class ProblemResponse(JSONResponse):
    media_type = MEDIA_TYPE


RESPONSES: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": Problem, "description": "What went wrong", "content": {MEDIA_TYPE: {}}}
}


def problem(status: int, detail: str) -> dict[str, Any]:
    """The body of an answer of this status."""
    return Problem(title=HTTPStatus(status).phrase, status=status, detail=detail).model_dump()


def answer(status: int, detail: str, headers: dict[str, str] | None = None) -> ProblemResponse:
    return ProblemResponse(problem(status, detail), status, headers)


def add_handlers(app: FastAPI) -> None:
    """Every error of the app as a problem; none repeats what a visitor sent."""

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> ProblemResponse:
        return answer(error.status_code, str(error.detail), dict(error.headers or {}))

    @app.exception_handler(RequestValidationError)
    async def misunderstood(request: Request, error: RequestValidationError) -> ProblemResponse:
        said = [f"{'.'.join(str(part) for part in e['loc'][1:]) or 'body'}: {e['msg']}" for e in error.errors()]
        return answer(422, "; ".join(said))

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> ProblemResponse:
        return answer(500, "something went wrong on our side; it is in the server's log")
