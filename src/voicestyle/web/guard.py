"""Who may ask, and what every answer carries: the door in front of the app."""

from __future__ import annotations

import asyncio
import hmac
import time
from http.cookies import SimpleCookie
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from voicestyle.web.problems import answer
from voicestyle.web.sessions import COOKIE, Session, Sessions
from voicestyle.web.settings import ServeSettings, is_loopback

# no inline script or style, nothing from another host, in nobody's frame
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; media-src 'self' blob:; "
    "connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
OPEN_PATHS = ("/healthz",)  # for whoever watches the server; they tell nothing of visitors


class Guard:
    """Refuses requests of foreign pages and names, of who does not know the token, and bodies that are too large."""

    def __init__(self, app: ASGIApp, settings: ServeSettings, sessions: Sessions) -> None:
        self.app, self.settings, self.sessions = app, settings, sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                is_ours = scope["path"].removeprefix(self.settings.root_path).startswith("/static/")
                headers.setdefault("Cache-Control", "no-cache" if is_ours else "no-store")
            await send(message)

        refusal = self._refuse(scope)
        if refusal is not None:
            await refusal(scope, receive, send_guarded)
        else:
            await self.app(scope, _bounded(receive, self.settings), send_guarded)

    def _refuse(self, scope: Scope) -> Response | None:
        """The answer to a request that goes no further; None where it does."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        name = urlsplit(f"//{host}").hostname or ""
        if self.settings.token is None and not is_loopback(name) and name not in self.settings.allowed_hosts:
            # a name that somebody else has pointed at this machine (DNS rebinding)
            return answer(421, "this server is not asked for by that name")
        if scope["method"] not in SAFE_METHODS and _is_foreign(headers, host):
            return answer(403, "asked for by a page of another site")
        if int(headers.get("content-length") or 0) > self.settings.max_upload_bytes:
            return answer(413, _too_large(self.settings), {"Connection": "close"})
        return self._check_token(scope, headers)

    def _check_token(self, scope: Scope, headers: Headers) -> Response | None:
        token, root = self.settings.token, self.settings.root_path
        path = scope["path"].removeprefix(root)
        if token is None or path in OPEN_PATHS:
            return None
        session = session_of(headers, self.sessions)
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        if (session and session.is_admitted) or (kind.lower() == "bearer" and _same(bearer, token)):
            return None
        (given,) = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[:1]
        if path in ("", "/") and scope["method"] == "GET" and _same(given, token):
            response = RedirectResponse(f"{root}/", 303)
            set_cookie(response, self.sessions.new(is_admitted=True), self.settings, scope["scheme"] == "https")
            return response
        detail = "a token is needed: open the address that the server printed when it was started"
        return answer(401, detail, {"WWW-Authenticate": "Bearer"})


def session_of(headers: Headers, sessions: Sessions) -> Session | None:
    """The session that a request names in its cookie."""
    morsel = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    return sessions.get(morsel.value if morsel else None)


def set_cookie(response: Response, session: Session, settings: ServeSettings, is_secure: bool) -> None:
    """Tell a visitor the name of the session; no script can read it, and no other site can send it."""
    path = settings.root_path or "/"
    response.set_cookie(COOKIE, session.id, path=path, httponly=True, samesite="strict", secure=is_secure)


def _same(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode(), token.encode())


def _is_foreign(headers: Headers, host: str) -> bool:
    """Whether a browser says that a page of another site asks; programs say nothing."""
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site not in ("same-origin", "none")
    origin = headers.get("origin")
    return origin is not None and urlsplit(origin).netloc != host


def _too_large(settings: ServeSettings) -> str:
    return f"more than {settings.max_upload_bytes / 1e6:g} MB; send a shorter or more compressed file"


def _bounded(receive: Receive, settings: ServeSettings) -> Receive:
    """The body of a request, refused as soon as it is larger or slower than it may be."""
    size, is_whole, until = 0, False, time.monotonic() + settings.upload_s

    async def bounded() -> Message:
        nonlocal size, is_whole
        if is_whole:  # what comes now tells that the visitor has gone, which may take as long as it likes
            return await receive()
        try:
            message = await asyncio.wait_for(receive(), max(0.0, until - time.monotonic()))
        except asyncio.TimeoutError:
            raise HTTPException(408, "the upload took too long", {"Connection": "close"}) from None
        size += len(message.get("body", b""))
        if size > settings.max_upload_bytes:
            raise HTTPException(413, _too_large(settings), {"Connection": "close"})
        is_whole = not message.get("more_body", False)
        return message

    return bounded
