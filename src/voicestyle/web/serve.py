"""A server around the app: what it prints, logs, and does when it is told to stop."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn

from voicestyle.web.app import create_app
from voicestyle.web.settings import ServeSettings
from voicestyle.web.watching import JsonLines

if TYPE_CHECKING:
    from voicestyle.pipeline import VoiceStyle


class _Server(uvicorn.Server):
    """Takes no more jobs as soon as it is told to stop, while those who listen hear the end of theirs."""

    def __init__(self, config: uvicorn.Config, on_stop: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_stop = on_stop

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._on_stop()
        super().handle_exit(sig, frame)


def serve(vs: VoiceStyle, settings: ServeSettings) -> None:
    """Serve a model until the process is told to stop; running work ends first."""
    app = create_app(vs, settings)
    _log_to_stderr()
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        root_path=settings.root_path,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=round(settings.grace_s),
        h11_max_incomplete_event_size=32_768,
        limit_concurrency=1000,
        timeout_keep_alive=10,
    )
    _Server(config, lambda: app.state.service.stop()).run()


def _log_to_stderr() -> None:
    """Our log and uvicorn's, one JSON object a line."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name in ("voicestyle.web", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)
