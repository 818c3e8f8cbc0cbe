"""Transfers: whole, resumed, wrong, without room."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from download_server import BODY, SHA256, Server, names, refused
from voicestyle import download
from voicestyle.cli import main
from voicestyle.download import fetch, verify
from voicestyle.published import PublicFile

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])

QUOTA = b"""<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title></head><body>
<p class="uc-error-subcaption">Too many users have viewed or downloaded this file recently.</p></body></html>"""


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
