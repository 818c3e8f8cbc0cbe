"""Models that travel by hf:// addresses, against a stand-in hub on loopback."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner

from tiny import VOICE, save_tiny

pytest.importorskip("huggingface_hub")
import pytest_socket  # noqa: E402

import voicestyle  # noqa: E402
from voicestyle import hub  # noqa: E402
from voicestyle.cli import main  # noqa: E402


class Hub(ThreadingHTTPServer):
    """What huggingface-hub asks a hub for, as far as one model needs it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.commits: dict[str, dict[str, bytes]] = {}  # of one model: files by commit
        self.branches: dict[str, str] = {}
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def add(self, files: dict[str, bytes], branch: str = "main") -> str:
        commit = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        self.commits[commit] = files
        self.branches[branch] = commit
        return commit


class Answers(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        if found := re.fullmatch(r"/api/models/lab/tiny/(?:revision|tree)/([^/?]+)(?:\?.*)?", self.path):
            commit = self.server.branches.get(found[1], found[1])
            if commit not in self.server.commits:
                return self.reply(404, {"error": "Revision not found"}, {"X-Error-Code": "RevisionNotFound"})
            files = self.server.commits[commit]
            if "/tree/" in self.path:
                return self.reply(
                    200, [{"type": "file", "path": n, "size": len(c), "oid": "0"} for n, c in files.items()]
                )
            names = [{"rfilename": name} for name in files]
            return self.reply(200, {"id": "lab/tiny", "sha": commit, "siblings": names, "private": False})
        if found := re.fullmatch(r"/lab/tiny/resolve/([^/]+)/([^?]+)(?:\?.*)?", self.path):
            commit = self.server.branches.get(found[1], found[1])
            content = self.server.commits[commit].get(found[2])
            if content is not None:
                headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": commit}
                return self.send(200, content, headers)
        return self.reply(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self.server.asked.append(self.path)
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("authorization") != "Bearer hf_right":
            return self.reply(401, {"error": "Invalid username or password"})
        if self.path == "/api/repos/create":
            return self.reply(200, {"url": f"{self.server.url}/lab/tiny", "id": "lab/tiny", "name": "lab/tiny"})
        if "/preupload/" in self.path:
            files = [{**f, "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]]
            return self.reply(200, {"files": files})
        if "/commit/" in self.path:
            lines = [json.loads(line) for line in body.splitlines()]
            files = {v["value"]["path"]: base64.b64decode(v["value"]["content"]) for v in lines if v["key"] == "file"}
            commit = self.server.add(files)
            return self.reply(200, {"commitUrl": f"{self.server.url}/lab/tiny/commit/{commit}", "commitOid": commit})
        return self.reply(200, {})

    def reply(self, status: int, value: object, headers: dict[str, str] | None = None) -> None:
        self.send(status, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})

    def send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    from huggingface_hub import constants

    pytest_socket.enable_socket()
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    yield hub
    hub.shutdown()
    thread.join()
    hub.server_close()
    pytest_socket.disable_socket(allow_unix_socket=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_tiny(tmp_path / "tiny")


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_model_is_loaded_by_its_address_and_then_from_the_cache(server: Hub, folder: Path) -> None:
    server.add({**files_of(folder), "setup.py": b"raise SystemExit"})
    vs = voicestyle.load("hf://lab/tiny", "cpu")
    assert vs.model.encoder_fingerprint == voicestyle.load(folder, "cpu").model.encoder_fingerprint
    assert not (vs.model.folder / "setup.py").exists(), "only configuration and weights travel"
    fetched = [path for path in server.asked if "/resolve/" in path]
    voicestyle.load("hf://lab/tiny", "cpu")
    assert [path for path in server.asked if "/resolve/" in path] == fetched


def test_a_revision_is_pinned(server: Hub, folder: Path) -> None:
    files = files_of(folder)
    first = server.add(files)
    server.add({**files, "README.md": b"# another"})
    assert (hub.fetch(f"hf://lab/tiny@{first}") / "README.md").read_bytes() == files["README.md"]
    assert (hub.fetch("hf://lab/tiny") / "README.md").read_bytes() == b"# another"
    with pytest.raises(FileNotFoundError, match="hf://lab/tiny@v9"):
        hub.fetch("hf://lab/tiny@v9")


def test_offline_only_what_is_kept(server: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    server.add(files_of(folder))
    kept = hub.fetch("hf://lab/tiny")
    server.asked.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert hub.fetch("hf://lab/tiny") == kept and server.asked == []
    with pytest.raises(ConnectionError, match="HF_HUB_OFFLINE"):
        hub.fetch("hf://lab/other")


@pytest.mark.parametrize(
    "address", ["hf://tiny", "hf://lab/tiny/more", "hf://../../etc/x", "hf://lab/tiny@", "hf:///a/b"]
)
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(ValueError, match="expected hf://ORG/NAME"):
        hub.parse(address)


def test_what_is_not_there_is_told_in_a_line(server: Hub) -> None:
    run = CliRunner().invoke(main, ["embed", "voice", str(VOICE), "--model", "hf://lab/nothing"])
    assert run.exit_code == 1 and "hf://lab/nothing" in run.output and "Traceback" not in run.output


def test_a_model_is_pushed_and_comes_back(server: Hub, folder: Path) -> None:
    (folder / "notes.txt").write_text("mine alone")
    run = CliRunner().invoke(main, ["models", "push", str(folder), "hf://lab/tiny"])
    assert run.exit_code == 0, run.output
    assert run.output.strip().startswith(server.url)
    (pushed,) = server.commits.values()
    assert set(pushed) == {path.name for path in folder.iterdir()} - {"notes.txt"}
    assert hub.fetch("hf://lab/tiny").is_dir()


def test_who_may_not_push_is_told(server: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    run = CliRunner().invoke(main, ["models", "push", str(folder), "hf://lab/tiny"])
    assert run.exit_code == 1 and "hf auth login" in run.output
