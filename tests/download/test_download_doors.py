"""What a server may not do: lead elsewhere, send parts of another file, or without end, or write through links."""

from __future__ import annotations

from pathlib import Path
from urllib.request import Request

import pytest

from download_server import BODY, Server, names, refused
from voicestyle import download
from voicestyle.download import fetch
from voicestyle.published import PublicFile

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])


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
