"""A server for the tests of downloads, and files that it has."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from download_server import BODY, SHA256, Server
from voicestyle import download
from voicestyle.published import PublicFile


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.goes_on.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def quick(monkeypatch) -> None:
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(download, "PAUSE_S", 0.0)


@pytest.fixture
def file(server: Server) -> PublicFile:
    return PublicFile("net.pth", "a test", f"{server.url}/some/net.pth", "CC0-1.0", len(BODY), SHA256)


@pytest.fixture
def unknown(file: PublicFile) -> PublicFile:
    """The same without a published size and hash."""
    return replace(file, size=None, sha256=None)
