"""What whoever runs the server sees of it: logs of one JSON object a line, and numbers for Prometheus.

Neither names a visitor, a file, or what is in one: a request is told by its route.
"""

from __future__ import annotations

import json
import logging
import time
from typing import Any

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from voicestyle import __version__

log = logging.getLogger("voicestyle.web")
STANDARD = set(vars(logging.makeLogRecord({})))  # fields that every record has
JOB_BUCKETS = (0.1, 0.3, 1, 3, 10, 30, 100, 300)  # seconds


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, event, and what the caller adds."""

    def format(self, record: logging.LogRecord) -> str:
        added = {name: value for name, value in vars(record).items() if name not in STANDARD and name[0] != "_"}
        added = {name: value for name, value in added.items() if name not in ("message", "color_message")}
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created))
        values = {"time": when, "level": record.levelname.lower(), "event": record.getMessage(), **added}
        if record.exc_info and record.exc_info[0]:
            values["error"] = record.exc_info[0].__name__  # its text may hold what a visitor has sent
        return json.dumps(values)


class Numbers:
    """The numbers of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        register: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter("voicestyle_requests", "Answers", ["route", "status"], **register)
        self.request_s = Histogram("voicestyle_request_seconds", "Until an answer begins", ["route"], **register)
        self.jobs = Counter("voicestyle_jobs", "Jobs that have ended", ["kind", "status"], **register)
        self.job_s = Histogram("voicestyle_job_seconds", "From start to end", ["kind"], buckets=JOB_BUCKETS, **register)
        self.waiting = Gauge("voicestyle_jobs_waiting", "Jobs that have not begun", **register)
        self.running = Gauge("voicestyle_jobs_running", "Jobs under way", **register)
        self.sessions = Gauge("voicestyle_sessions", "Visitors that are remembered", **register)


def health(numbers: Numbers) -> APIRouter:
    """What whoever runs the server asks: whether it is well, and the numbers."""
    router = APIRouter(include_in_schema=False)

    @router.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok", "version": __version__}

    @router.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(numbers.registry), media_type=CONTENT_TYPE_LATEST)

    return router


class Watch:
    """Counts and logs each request by its route."""

    def __init__(self, app: ASGIApp, numbers: Numbers) -> None:
        self.app, self.numbers = app, numbers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start = time.monotonic()

        async def send_counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "other")
                seconds = time.monotonic() - start
                self.numbers.requests.labels(route, message["status"]).inc()
                self.numbers.request_s.labels(route).observe(seconds)
                told = {"method": scope["method"], "route": route, "status": message["status"]}
                log.info("request", extra={**told, "ms": round(1000 * seconds, 1)})
            await send(message)

        await self.app(scope, receive, send_counted)
