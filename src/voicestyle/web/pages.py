"""The pages: what visitors read, each a file of `html/` with the head that all of them share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from fastapi import APIRouter
from starlette.responses import HTMLResponse

HERE = Path(__file__).parent
STATIC = HERE / "static"


def pages() -> APIRouter:
    """The page at /, and the description of the interface at /docs."""
    router = APIRouter(include_in_schema=False)
    head = (HERE / "html" / "head.html").read_text(encoding="utf-8")
    for path, name in (("/", "index"), ("/docs", "docs")):
        text = (HERE / "html" / f"{name}.html").read_text(encoding="utf-8")
        router.add_api_route(path, _page(text.replace("<!-- head -->\n", head)))
    return router


def _page(text: str) -> Callable[[], Awaitable[HTMLResponse]]:
    async def page() -> HTMLResponse:
        return HTMLResponse(text, headers={"Cache-Control": "no-cache"})

    return page
