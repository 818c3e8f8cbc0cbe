"""The app: one page, and an interface for programs under /api/v1. The same functions as the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.staticfiles import StaticFiles

from voicestyle import __version__
from voicestyle.web.asking import asking
from voicestyle.web.guard import Guard
from voicestyle.web.looking import looking
from voicestyle.web.pages import STATIC, pages
from voicestyle.web.problems import RESPONSES, add_handlers
from voicestyle.web.service import Service
from voicestyle.web.settings import ServeSettings
from voicestyle.web.watching import Watch, health

if TYPE_CHECKING:
    from voicestyle.pipeline import VoiceStyle


def create_app(vs: VoiceStyle, settings: ServeSettings | None = None) -> FastAPI:
    """The app that serves one model."""
    settings = settings or ServeSettings()
    service = Service(vs, settings)
    app = FastAPI(
        title="voicestyle",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        description="Plausible faces for a voice. They are AI-generated and identify nobody.",
        lifespan=service.running,
    )
    app.state.service = service
    add_handlers(app)
    app.add_middleware(Guard, settings=settings, sessions=service.sessions)
    app.add_middleware(Watch, numbers=service.numbers)
    app.include_router(pages())
    app.include_router(health(service.numbers))
    app.include_router(asking(service), prefix="/api/v1", responses=RESPONSES, tags=["work"])
    app.include_router(looking(service), prefix="/api/v1", responses=RESPONSES, tags=["jobs"])
    app.mount("/static", StaticFiles(directory=STATIC))
    return app
