"""Other ways to a file: mirrors, proxies, Google Drive; the table of files, and the command."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from download_server import SHA256, Server, names, refused
from voicestyle import download, published
from voicestyle.cli import main
from voicestyle.download import fetch
from voicestyle.published import KNOWN, PublicFile

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])

QUOTA = b"""<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title></head><body>
<p class="uc-error-subcaption">Too many users have viewed or downloaded this file recently.</p></body></html>"""


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
    folder = replace(drive, address=published.VOICESTYLE)
    asked = []

    def listed(url: str, **options: object) -> list[SimpleNamespace]:
        asked.append((url, options))
        return [SimpleNamespace(path="weights/net.pth", id="7"), SimpleNamespace(path="training.csv", id="8")]

    monkeypatch.setattr(gdown, "download_folder", listed)
    fetch(folder, tmp_path, proxy=None)
    assert server.asked == [("/download?id=7&confirm=t", None, None)]
    assert asked[0][0] == published.VOICESTYLE and asked[0][1]["skip_download"] and not asked[0][1]["use_cookies"]
    message = refused(replace(folder, name="other.pth"), tmp_path)
    assert "not in the folder" in message and "['net.pth', 'training.csv']" in message

    def closed(url: str, **options: object) -> list[SimpleNamespace]:
        raise gdown.DownloadError("Failed to retrieve folder contents")

    monkeypatch.setattr(gdown, "download_folder", closed)
    message = refused(replace(folder, name="other.pth"), tmp_path)
    assert f"Failed to retrieve folder contents\nBy hand: open {published.VOICESTYLE} in a browser and save" in message


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
    lines = (Path(__file__).parents[2] / "docs" / "downloads.md").read_text().splitlines()
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
