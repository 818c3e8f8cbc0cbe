"""A server on this machine that serves one file well, or badly: the tests say how."""

from __future__ import annotations

import hashlib
import http.server
import threading
from pathlib import Path

import pytest

from voicestyle.download import fetch
from voicestyle.published import PublicFile

BODY = b"\x80\x02" + bytes(i * i % 251 for i in range(700_000))  # begins as a PyTorch file before 1.6 does
SHA256 = hashlib.sha256(BODY).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves one body under every path, as the server's settings say."""

    def do_GET(self) -> None:
        server, asked = self.server, self.headers.get("Range")
        server.asked.append((self.path, asked, self.headers.get("If-Range")))
        answer = server.answers.pop(0) if server.answers else None
        if isinstance(answer, int):
            return self.send_error(answer)
        if isinstance(answer, str):
            return self._head(302, {"Location": answer, "Content-Length": "0"})
        body = server.body if answer is None else answer
        start = 0
        is_same = server.ignores_if_range or self.headers.get("If-Range") in (None, server.etag)
        if asked and server.ranges and answer is None and is_same:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
        if start >= len(body):
            return self._head(416, {"Content-Range": f"bytes */{len(body)}", "Content-Length": "0"})
        headers = {"Content-Length": str(len(body) - start)} if server.lengths else {}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
            if server.content_range is not None:
                headers["Content-Range"] = server.content_range
        self._head(206 if start else 200, headers)
        rest = body[start:]
        if server.cuts:
            rest = rest[: server.cuts.pop(0)]
        server.sent += len(rest)  # before the client has them: the tests count when it is done
        self.wfile.write(rest)
        if len(rest) < len(body) - start:
            server.goes_on.wait(30)

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in (headers | ({"ETag": self.server.etag} if self.server.etag else {})).items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.body, self.etag, self.ranges, self.lengths = BODY, '"first"', True, True
        self.ignores_if_range, self.content_range = False, None
        self.cuts: list[int] = []  # bytes after which the next connections are cut
        self.answers: list[int | str | bytes | None] = []  # a status, another address, a page, or None for the body
        self.asked: list[tuple[str, str | None, str | None]] = []  # path, Range, If-Range
        self.sent = 0  # bytes of the body
        self.goes_on = threading.Event()  # cleared: a cut connection stays open instead, without a word
        self.goes_on.set()
        self.url = f"http://127.0.0.1:{self.server_port}"

    @property
    def ranges_asked(self) -> list[str | None]:
        return [asked for _, asked, _ in self.asked]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def refused(file: PublicFile, folder: Path, **options: str) -> str:
    with pytest.raises(OSError) as caught:
        fetch(file, folder, **options)
    return str(caught.value)
