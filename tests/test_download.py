"""Downloads against a server on this machine: cut, refused, wrong, without room, through mirrors and proxies."""

from __future__ import annotations

import errno
import hashlib
import http.server
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from urllib.request import Request

import pytest
from click.testing import CliRunner

from voicestyle import download
from voicestyle.cli import main
from voicestyle.download import KNOWN, PublicFile, fetch, verify

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])

BODY = b"\x80\x02" + bytes(i * i % 251 for i in range(700_000))  # begins as a PyTorch file before 1.6 does
SHA256 = hashlib.sha256(BODY).hexdigest()
QUOTA = b"""<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title></head><body>
<p class="uc-error-subcaption">Too many users have viewed or downloaded this file recently.</p></body></html>"""


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


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def refused(file: PublicFile, folder: Path, **options: str) -> str:
    with pytest.raises(OSError) as caught:
        fetch(file, folder, **options)
    return str(caught.value)


# ---------------------------------------------------------------------------------------------------- whole, or resumed


def test_a_file_arrives_and_is_not_fetched_again(server: Server, file: PublicFile, tmp_path: Path) -> None:
    assert fetch(file, tmp_path / "new" / "weights") == (tmp_path / "new" / "weights" / "net.pth", SHA256)
    assert (tmp_path / "new" / "weights" / "net.pth").read_bytes() == BODY
    assert names(tmp_path / "new" / "weights") == ["net.pth"]
    assert fetch(file, tmp_path / "new" / "weights")[1] == SHA256
    assert server.asked == [("/some/net.pth", None, None)]


@pytest.mark.parametrize("known", [True, False])
def test_a_cut_connection_goes_on_where_it_was(
    server: Server, file: PublicFile, unknown: PublicFile, tmp_path: Path, known: bool
) -> None:
    server.cuts = [100_000, 50_001, 7]
    path, sha256 = fetch(file if known else unknown, tmp_path)
    assert path.read_bytes() == BODY and sha256 == SHA256
    assert server.ranges_asked == [None, "bytes=100000-", "bytes=150001-", "bytes=150008-"]
    assert server.sent == len(BODY)  # no byte twice
    assert names(tmp_path) == ["net.pth"]


def test_another_address_is_asked_for_the_same_part(server: Server, file: PublicFile, tmp_path: Path) -> None:
    (tmp_path / "net.pth.part").write_bytes(BODY[:100])
    server.answers = [f"{server.url}/storage/1?signature=x"]  # as GitHub's releases do
    assert fetch(file, tmp_path)[1] == SHA256
    assert server.asked == [("/some/net.pth", "bytes=100-", None), ("/storage/1?signature=x", "bytes=100-", None)]


def test_attempts_are_limited_and_the_next_call_goes_on(server: Server, file: PublicFile, tmp_path: Path) -> None:
    server.cuts = [1000] * download.ATTEMPTS
    message = refused(file, tmp_path)
    assert "5 attempts failed, the last with: the connection broke after 5,000 of 700,002 bytes" in message
    assert "run this again to go on" in message
    assert (tmp_path / "net.pth.part").read_bytes() == BODY[:5000]
    fetch(file, tmp_path)
    assert server.ranges_asked[-1] == "bytes=5000-" and server.sent == len(BODY)
    assert names(tmp_path) == ["net.pth"]


def test_a_server_without_ranges_sends_all_of_it_anew(server: Server, file: PublicFile, tmp_path: Path) -> None:
    server.ranges, server.cuts = False, [600_000]
    assert fetch(file, tmp_path)[0].read_bytes() == BODY
    assert server.ranges_asked == [None, "bytes=600000-"] and server.sent == 600_000 + len(BODY)


def test_parts_of_two_versions_are_never_joined(server: Server, unknown: PublicFile, tmp_path: Path) -> None:
    server.cuts = [1000] * download.ATTEMPTS
    refused(unknown, tmp_path)
    server.body, server.etag = BODY[:2] + BODY[:1:-1], '"second"'
    assert fetch(unknown, tmp_path)[0].read_bytes() == server.body
    assert server.asked[-1] == ("/some/net.pth", "bytes=5000-", '"first"')


def test_a_finished_part_is_only_verified(
    server: Server, file: PublicFile, unknown: PublicFile, tmp_path: Path
) -> None:
    (tmp_path / "net.pth.part").write_bytes(BODY)
    fetch(file, tmp_path)
    assert server.asked == [] and names(tmp_path) == ["net.pth"]
    (tmp_path / "net.pth").rename(tmp_path / "net.pth.part")
    (tmp_path / "net.pth.part.tag").write_text('"first"')
    assert fetch(unknown, tmp_path)[1] == SHA256  # the server says that nothing is lacking
    assert server.sent == 0 and names(tmp_path) == ["net.pth"]


def test_a_part_longer_than_the_file_is_replaced(server: Server, unknown: PublicFile, tmp_path: Path) -> None:
    (tmp_path / "net.pth.part").write_bytes(BODY + b"more")
    assert fetch(unknown, tmp_path)[0].read_bytes() == BODY


def test_ctrl_c_keeps_the_part(server: Server, tmp_path: Path) -> None:
    server.cuts = [300_000]
    server.goes_on.clear()
    command = [sys.executable, "-m", "voicestyle", "models", "download", "cmpc", "--mirror", server.url, "-o", tmp_path]
    environment = {**os.environ, "PYTHONPATH": str(Path(download.__file__).parents[1])}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background inherits it ignored
    )  # fmt: skip
    part = tmp_path / "checkpoint_CMPC.pth.tar.part"
    deadline = time.monotonic() + 300
    while not part.exists() or part.stat().st_size < 200_000:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=300) == ("", "Stopped.\n") and process.returncode == 130
    done = part.stat().st_size
    assert 200_000 <= done <= 300_000 and part.read_bytes() == BODY[:done]
    server.goes_on.set()
    result = CliRunner().invoke(main, ["models", "download", "cmpc", "--mirror", server.url, "-o", str(tmp_path)])
    assert result.exit_code == 0 and result.stdout == f"{part.with_suffix('')}\t{SHA256}\n"
    assert names(tmp_path) == ["checkpoint_CMPC.pth.tar"] and server.ranges_asked == [None, f"bytes={done}-"]


# ------------------------------------------------------------------------------------------------- wrong, or not at all


def test_a_wrong_hash_leaves_nothing(server: Server, file: PublicFile, tmp_path: Path) -> None:
    server.body = BODY[:-1] + b"?"
    message = refused(file, tmp_path)
    got = hashlib.sha256(server.body).hexdigest()
    assert f"got sha256 {got}, expected {SHA256}" in message
    assert f"By hand: open {file.address} in a browser and save net.pth as {tmp_path / 'net.pth'};" in message
    assert names(tmp_path) == []


def test_another_size_is_refused_before_it_is_fetched(server: Server, file: PublicFile, tmp_path: Path) -> None:
    server.body = BODY + b"more"
    assert "the server has another file: 700,006 bytes, expected 700,002" in refused(file, tmp_path)
    assert names(tmp_path) == []


def test_a_file_that_is_there_but_another_is_left_alone(server: Server, file: PublicFile, tmp_path: Path) -> None:
    (tmp_path / "net.pth").write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"net\.pth: another file \(4 bytes\).*move it away"):
        fetch(file, tmp_path)
    assert (tmp_path / "net.pth").read_bytes() == b"mine" and server.asked == []


@pytest.mark.parametrize("begun", [False, True])
def test_a_page_in_place_of_the_file(server: Server, file: PublicFile, tmp_path: Path, begun: bool) -> None:
    if begun:
        (tmp_path / "net.pth.part").write_bytes(BODY[:1000])
    server.answers = [QUOTA]
    message = refused(file, tmp_path)
    assert "a web page (Google Drive - Quota exceeded), not the file" in message and "By hand: open" in message
    assert names(tmp_path) == (["net.pth.part"] if begun else [])
    assert fetch(file, tmp_path)[0].read_bytes() == BODY


@pytest.mark.parametrize(
    ("name", "body", "problem"),
    [
        ("net.pth", b"", "another kind of file: 0 bytes"),
        ("net.pth", b'{"error": "no such file"}', "another kind of file"),
        ("net.pth", b"PK\x03\x04 and no directory", "truncated or damaged"),
        ("net.pth", b"\n <!doctype html><title>Sign in</title>", r"a web page \(Sign in\)"),
        ("training.csv", b"name,video\n", "another kind of file"),
    ],
)
def test_the_kind_is_looked_at_where_no_hash_is_known(
    unknown: PublicFile, tmp_path: Path, name: str, body: bytes, problem: str
) -> None:
    (tmp_path / name).write_bytes(body)
    with pytest.raises(ValueError, match=problem):
        verify(tmp_path / name, replace(unknown, name=name))


def test_sound_files_pass_without_a_hash(unknown: PublicFile, tmp_path: Path) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as opened:
        opened.writestr("archive/data.pkl", bytes(1000))
    for name, body in {"net.pth": packed.getvalue(), "training.csv": b"VGGFace1 ID,split\n"}.items():
        (tmp_path / name).write_bytes(body)
        assert verify(tmp_path / name, replace(unknown, name=name)) == hashlib.sha256(body).hexdigest()
    damaged = bytearray(packed.getvalue())
    damaged[100] ^= 1  # of the packed bytes
    (tmp_path / "net.pth").write_bytes(damaged)
    with pytest.raises(ValueError, match="truncated or damaged"):
        verify(tmp_path / "net.pth", unknown)


def test_a_cut_that_nobody_announces_is_found(server: Server, file: PublicFile, tmp_path: Path) -> None:
    server.lengths, server.cuts = False, [1000]
    assert "another file (1,000 bytes)" in refused(file, tmp_path)
    assert names(tmp_path) == []


def test_no_such_file_is_asked_for_once(server: Server, file: PublicFile, tmp_path: Path) -> None:
    server.answers = [404] * 9
    assert f"net.pth: {file.address}: the server answers 404 Not Found\nBy hand:" in refused(file, tmp_path)
    assert len(server.asked) == 1 and names(tmp_path) == []


def test_a_busy_server_is_asked_again(server: Server, file: PublicFile, tmp_path: Path) -> None:
    server.answers = [503, 429, None]
    fetch(file, tmp_path)
    assert len(server.asked) == 3
    (tmp_path / "net.pth").unlink()
    server.answers = [503] * 9
    assert "5 attempts failed, the last with: the server answers 503" in refused(file, tmp_path)
    assert len(server.asked) == 8


def test_nobody_there(server: Server, file: PublicFile, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(download, "ATTEMPTS", 2)
        assert "2 attempts failed, the last with: [Errno" in refused(file, tmp_path, mirror="http://127.0.0.1:9")


# ------------------------------------------------------------------------------------------------------------- no space


def test_space_is_looked_for_first(server: Server, file: PublicFile, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "net.pth.part").write_bytes(BODY[:2])
    monkeypatch.setattr(download.shutil, "disk_usage", lambda folder: SimpleNamespace(free=699_999))
    message = refused(file, tmp_path)
    assert f"{tmp_path / 'net.pth'}: no space (700,000 bytes needed, 699,999 free); free some" in message
    assert "net.pth.part is kept" in message and "By hand" not in message
    assert (tmp_path / "net.pth.part").read_bytes() == BODY[:2]
    monkeypatch.setattr(download.shutil, "disk_usage", lambda folder: SimpleNamespace(free=700_000))
    fetch(file, tmp_path)
    assert server.ranges_asked == ["bytes=2-", "bytes=2-"]


def test_a_disk_that_fills_up_meanwhile(server: Server, file: PublicFile, tmp_path: Path, monkeypatch) -> None:
    class Full(io.BufferedRandom):
        def write(self, block: bytes) -> int:
            if self.tell() > 300_000:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().write(block)

    def open_full(path: Path, mode: str, **options: object):
        return Full(io.FileIO(path, "w+")) if mode == "wb" else open(path, mode, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", open_full)
        message = refused(file, tmp_path)
    assert "no space (No space left on device); free some" in message and len(server.asked) == 1
    done = (tmp_path / "net.pth.part").stat().st_size
    assert 300_000 < done < len(BODY)
    assert fetch(file, tmp_path)[0].read_bytes() == BODY
    assert server.ranges_asked == [None, f"bytes={done}-"]


# ----------------------------------------------------------------------------------------------------- mirrors, proxies


def test_a_mirror_replaces_the_address(server: Server, file: PublicFile, tmp_path: Path) -> None:
    elsewhere = replace(file, address="https://weights.example/net.pth", name="my net.pth")
    for folder, mirror in ((tmp_path / "a", f"{server.url}/mirror"), (tmp_path / "b", f"{server.url}/mirror/")):
        assert fetch(elsewhere, folder, mirror=mirror)[1] == SHA256
    assert [path for path, *_ in server.asked] == ["/mirror/my%20net.pth"] * 2
    assert fetch(replace(file, by_hand="unpack it"), tmp_path, mirror=server.url)[1] == SHA256


def test_a_mirror_goes_on_where_the_origin_broke(server: Server, file: PublicFile, tmp_path: Path) -> None:
    server.cuts = [100_000] * download.ATTEMPTS
    refused(file, tmp_path)
    server.etag = '"of the mirror"'
    fetch(file, tmp_path, mirror=f"{server.url}/mirror")
    assert server.asked[-1] == ("/mirror/net.pth", "bytes=500000-", None)


@pytest.mark.parametrize("explicit", [True, False])
def test_a_proxy_is_asked_for_the_whole_address(
    server: Server, file: PublicFile, tmp_path: Path, monkeypatch, explicit: bool
) -> None:
    elsewhere = replace(file, address="http://weights.example/net.pth")  # a name that nobody resolves
    if explicit:
        fetch(elsewhere, tmp_path, proxy=server.url)
    else:
        monkeypatch.setenv("http_proxy", server.url)
        fetch(elsewhere, tmp_path)
    assert server.asked == [("http://weights.example/net.pth", None, None)]


@pytest.mark.parametrize("option", ["mirror", "proxy"])
def test_addresses_of_another_kind_are_refused(file: PublicFile, tmp_path: Path, option: str) -> None:
    with pytest.raises(ValueError, match=r"file:///etc: expected an address that begins with http"):
        fetch(file, tmp_path, **{option: "file:///etc"})


# --------------------------------------------------------------------------------------------------------- Google Drive


@pytest.fixture
def drive(server: Server, file: PublicFile, monkeypatch) -> PublicFile:
    monkeypatch.setattr(download, "DRIVE_FILE", server.url + "/download?id={}&confirm=t")
    return replace(file, address="https://drive.google.com/file/d/1KW7bjndL3-_x/view")


def test_a_file_on_drive_needs_no_gdown(server: Server, drive: PublicFile, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "gdown", None)
    fetch(drive, tmp_path)
    assert server.asked == [("/download?id=1KW7bjndL3-_x&confirm=t", None, None)]


def test_the_confirmation_is_given(server: Server, drive: PublicFile, tmp_path: Path) -> None:
    pytest.importorskip("gdown")
    form = f"""<html><head><title>Google Drive - Virus scan warning</title></head><body>
<form id="download-form" action="{server.url}/confirmed" method="get"><input type="hidden" name="id" value="1KW"/>\
<input type="hidden" name="uuid" value="a-b"/></form></body></html>"""
    server.answers = [form.encode()]
    assert fetch(drive, tmp_path)[1] == SHA256
    assert server.asked[1][0] == "/confirmed?id=1KW&uuid=a-b"


def test_a_quota_says_so(server: Server, drive: PublicFile, tmp_path: Path) -> None:
    pytest.importorskip("gdown")
    server.answers = [QUOTA]
    message = refused(drive, tmp_path)
    assert "(Google Drive - Quota exceeded), not the file: Too many users have viewed or downloaded" in message
    assert f"By hand: open {drive.address} in a browser" in message and names(tmp_path) == []


def test_a_page_without_gdown(server: Server, drive: PublicFile, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "gdown", None)
    server.answers = [QUOTA]
    message = refused(drive, tmp_path)
    assert "pip install 'voicestyle[download]'" in message and "By hand: open" in message


def test_a_folder_on_drive_is_listed(server: Server, drive: PublicFile, tmp_path: Path, monkeypatch) -> None:
    gdown = pytest.importorskip("gdown")
    folder = replace(drive, address=download.VOICESTYLE)
    asked = []

    def listed(url: str, **options: object) -> list[SimpleNamespace]:
        asked.append((url, options))
        return [SimpleNamespace(path="weights/net.pth", id="7"), SimpleNamespace(path="training.csv", id="8")]

    monkeypatch.setattr(gdown, "download_folder", listed)
    fetch(folder, tmp_path, proxy=None)
    assert server.asked == [("/download?id=7&confirm=t", None, None)]
    assert asked[0][0] == download.VOICESTYLE and asked[0][1]["skip_download"] and not asked[0][1]["use_cookies"]
    message = refused(replace(folder, name="other.pth"), tmp_path)
    assert "not in the folder" in message and "['net.pth', 'training.csv']" in message

    def closed(url: str, **options: object) -> list[SimpleNamespace]:
        raise gdown.DownloadError("Failed to retrieve folder contents")

    monkeypatch.setattr(gdown, "download_folder", closed)
    message = refused(replace(folder, name="other.pth"), tmp_path)
    assert f"Failed to retrieve folder contents\nBy hand: open {download.VOICESTYLE} in a browser and save" in message


def test_gdown_still_takes_what_it_is_given() -> None:
    gdown = pytest.importorskip("gdown")
    import inspect

    options = {"quiet", "proxy", "use_cookies", "skip_download", "timeout"}
    assert options <= inspect.signature(gdown.download_folder).parameters.keys()


# ----------------------------------------------------------------------------------------------- the table, the command


def test_the_table_is_sound() -> None:
    files = [file for several in KNOWN.values() for file in several]
    assert len({file.name for file in files}) == len(files)
    for file in files:
        assert file.address.startswith("https://") and file.what and file.license
        assert file.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", file.sha256)
        assert re.search(r"\{(?!name|address|target)", file.by_hand or "") is None
    (vgg16,) = KNOWN["vgg16"]
    assert vgg16.sha256.startswith(vgg16.name.split("-")[1].removesuffix(".pth"))  # as torchvision names its files


def test_the_document_has_the_table() -> None:
    lines = (Path(__file__).parents[1] / "docs" / "downloads.md").read_text().splitlines()
    rows = {line.split("`")[1]: line for line in lines if line.startswith("| `")}
    assert rows.keys() == KNOWN.keys()
    for name, files in KNOWN.items():
        for file in files:
            assert f"`{file.name}`" in rows[name] and f"<{file.address}>" in rows[name]
            assert file.size is None or file.by_hand or f"{file.size:,} bytes" in rows[name]
            assert ("sha256" in rows[name]) == (file.sha256 is not None)


def run(*arguments: object):
    return CliRunner().invoke(main, ["models", "download", *map(str, arguments)])


def test_the_command_lists_and_says_what_to_do(server: Server, tmp_path: Path) -> None:
    result = run("--list", "--json")
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.exit_code == 0 and {r["name"] for r in records} == set(KNOWN)
    assert {"name", "file", "what", "license", "address", "size", "sha256"} <= records[0].keys()
    assert len(run("--list").stdout.splitlines()) == len(records)
    assert run("nothing").exit_code == run().exit_code == 2
    result = run("ge2e", "-o", tmp_path)
    assert result.exit_code == 1 and result.stdout == ""
    assert f"copy resemblyzer/pretrained.pt to {tmp_path / 'pretrained.pt'}" in result.stderr
    server.answers = [404]
    result = run("cid", "-o", tmp_path, "--mirror", server.url)
    assert result.exit_code == 1 and "404" in result.stderr and "By hand:" in result.stderr


def test_the_others_are_fetched_where_one_is_missing(server: Server, tmp_path: Path) -> None:
    server.answers = [None, 404, b"VGGFace1 ID,split\n"]
    result = run("voicestyle", "-o", tmp_path, "--mirror", server.url, "--json")
    assert result.exit_code == 1
    first, second, third = map(json.loads, result.stdout.splitlines())
    assert first == {"file": str(tmp_path / "model_best_256.pth.tar"), "sha256": SHA256, "license": "not stated"}
    assert second["input"] == "frame_memory_best_256.pth.tar" and "404" in second["error"]
    assert third["file"] == str(tmp_path / "training.csv")
    assert names(tmp_path) == ["model_best_256.pth.tar", "training.csv"]


# ------------------------------------------------------------------------------------------------------- locked doors


@pytest.mark.parametrize("address", ["ftp://127.0.0.1/net.pth", "file:///etc/passwd", "data:,x"])
def test_no_redirect_leads_out_of_the_web(server: Server, file: PublicFile, tmp_path: Path, address: str) -> None:
    server.answers = [address]
    assert "302" in refused(file, tmp_path)
    assert names(tmp_path) == [] and len(server.asked) == 1


def test_no_redirect_leads_from_https_to_http() -> None:
    request = Request("https://one.example/net.pth")
    follow = download._Redirects().redirect_request
    assert follow(request, None, 302, "", {}, "https://two.example/net.pth").full_url == "https://two.example/net.pth"
    for address in ("http://one.example/net.pth", "ftp://one.example/net.pth"):
        assert follow(request, None, 302, "", {}, address) is None


def test_without_a_validator_a_transfer_starts_anew(server: Server, unknown: PublicFile, tmp_path: Path) -> None:
    """Nothing would tell that the two halves are of two versions."""
    server.etag, server.cuts = "", [1000]
    assert fetch(unknown, tmp_path)[0].read_bytes() == BODY
    assert server.ranges_asked == [None, None]


def test_a_server_that_ignores_if_range_is_seen_through(server: Server, unknown: PublicFile, tmp_path: Path) -> None:
    part = tmp_path / "net.pth.part"
    part.write_bytes(b"\x80\x02 of an older version")  # 22 bytes
    (tmp_path / "net.pth.part.tag").write_text('"older"')
    server.ignores_if_range = True
    assert fetch(unknown, tmp_path)[0].read_bytes() == BODY
    assert server.ranges_asked == ["bytes=22-", None]


@pytest.mark.parametrize(
    "header", ["bytes 1000-1999/700002", "bytes 1000-700001/700000", "bytes 999-700001/700002", "items 1", ""]
)
def test_a_rest_that_is_none_is_not_added(server: Server, file: PublicFile, tmp_path: Path, header: str) -> None:
    part = tmp_path / "net.pth.part"
    part.write_bytes(BODY[:1000])
    server.content_range = header
    assert "asked for bytes from 1000 on" in refused(file, tmp_path)
    assert part.read_bytes() == BODY[:1000]


def test_a_body_without_a_length_ends_at_the_known_size(server: Server, file: PublicFile, tmp_path: Path) -> None:
    server.lengths, server.body = False, BODY * 3
    assert f"more than {len(BODY):,} bytes" in refused(file, tmp_path)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= len(BODY)


def test_one_of_unknown_size_ends_somewhere(server: Server, unknown: PublicFile, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(download, "LARGEST", 100_000)
    server.lengths = False
    assert "more than 100,000 bytes" in refused(unknown, tmp_path)


def test_links_are_not_written_through(server: Server, file: PublicFile, unknown: PublicFile, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "net.pth.part").symlink_to(precious)
    assert "a link, expected a file" in refused(file, tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "net.pth.part.tag").symlink_to(precious)
    fetch(unknown, tmp_path / "b")
    assert precious.read_text() == "mine"


def test_passwords_are_not_told(file: PublicFile, tmp_path: Path, monkeypatch) -> None:
    for options in ({"proxy": "ann:s3cr:et@host:1"}, {"proxy": "http://ann:s3cr:et@127.0.0.1:9"},
                    {"mirror": "http://ann:s3cr:et@127.0.0.1:9/x"}):  # fmt: skip
        with pytest.raises((OSError, ValueError)) as caught:
            fetch(file, tmp_path, **options)
        assert "s3cr" not in str(caught.value) and caught.value.__cause__ is None
