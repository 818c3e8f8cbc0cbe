"""How a public file arrives: whole, resumed and verified, or not at all.

Plain HTTP is done by the standard library. What is peculiar to Google Drive, the list of a folder and the page that
asks for a confirmation, changes from time to time and is left to gdown (the extra `download`).
"""

from __future__ import annotations

import errno
import hashlib
import html
import re
import shutil
import time
import zipfile
from collections.abc import Callable
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlsplit
from urllib.request import (
    HTTPCookieProcessor,
    HTTPRedirectHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
    build_opener,
    getproxies,
)

from voicestyle import __version__
from voicestyle.extras import needed
from voicestyle.published import DRIVE, PublicFile

DRIVE_FILE = "https://drive.usercontent.google.com/download?id={}&export=download&confirm=t"

ATTEMPTS = 5  # of a transfer that breaks off
PAUSE_S = 1.0  # before the second attempt, doubled for each further one
TIMEOUT_S = 30  # without a byte
CHUNK = 1 << 18  # bytes
LARGEST = 2 << 30  # bytes of a file whose size nobody has told; four times the largest of `published.KNOWN`
BUSY = (408, 425, 429, 500, 502, 503, 504)  # answers that may be another one a little later
TORCH_STARTS = (b"PK\x03\x04", b"\x80")  # of what torch.save writes: a zip since PyTorch 1.6, a pickle before
INDEX_START = b"VGGFace1 ID,"


class WebPage(ValueError):
    """What came in place of a file."""

    def __init__(self, page: bytes) -> None:
        self.text = page.decode("utf-8", "replace")
        title = re.search(r"<title[^>]*>(.*?)</title>", self.text, re.DOTALL | re.IGNORECASE)
        named = f" ({html.unescape(title[1]).strip()})" if title else ""
        super().__init__(f"a web page{named}, not the file")


def fetch(
    file: PublicFile, folder: str | Path, mirror: str | None = None, proxy: str | None = None
) -> tuple[Path, str]:
    """The path of a file in `folder` and its sha256: verified where it is there already, else fetched and verified.

    What has arrived stays in NAME.part, on Ctrl-C too, and the next call goes on from there.

    Args:
        file: of `published.KNOWN`
        folder: made where there is none
        mirror: address of a folder that is used instead of the file's own; the file's name is added
        proxy: http://[USER:PASSWORD@]HOST:PORT; None: what http_proxy, https_proxy and no_proxy say

    Raises:
        ValueError: what is there already is not the file; a mirror or proxy of another kind
        OSError: it cannot be fetched, with what to do by hand; no space
    """
    target = Path(folder).absolute() / file.name
    if target.exists():
        try:
            return target, verify(target, file)
        except ValueError as error:
            raise ValueError(f"{target}: {error}; move it away and run this again") from error
    for address in filter(None, (mirror, proxy)):
        if not address.startswith(("http://", "https://")):
            raise ValueError(
                f"{_hide(address, mirror, proxy)}: expected an address that begins with http:// or https://"
            )
    part = target.with_name(f"{file.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _fetch_part(file, part, mirror, proxy)
        sha256 = _verify_part(part, file)
    except (ValueError, OSError, HTTPException) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            advice = "free some, or choose another folder" + (f"; {part.name} is kept" if part.exists() else "")
            raise OSError(f"{target}: no space ({error.strerror}); {advice}") from error
        reason = _hide(str(error), mirror, proxy)
        raise OSError(f"{file.name}: {reason}\n{instructions(file, target)}") from None
    part.replace(target)
    return target, sha256


def _hide(text: str, *addresses: str | None) -> str:
    """A text without the passwords in addresses and in the proxies of the environment."""
    for address in filter(None, (*addresses, *getproxies().values())):
        # as far as the last @, for a password may hold any other sign
        if found := re.search(r"(?:.*?//)?[^/@:]*:(.*)@", address):
            text = text.replace(found[1], "***") if found[1] else text
    return text


def instructions(file: PublicFile, target: Path) -> str:
    """What a person has to do to have the file at `target`."""
    how = file.by_hand or "open {address} in a browser and save {name} as {target}"
    how = how.format(name=file.name, address=file.address, target=target)
    return f"By hand: {how}; then run this again, which verifies it"


def verify(path: Path, file: PublicFile) -> str:
    """The sha256 of what is at `path`; a ValueError unless it is the file: by hash where known, else size and kind."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as opened:
        head = block = opened.read(CHUNK)
        while block:
            digest.update(block)
            size += len(block)
            block = opened.read(CHUNK)
    sha256 = digest.hexdigest()
    if _is_page(head):
        raise WebPage(head)
    if file.sha256 is not None:
        if sha256 != file.sha256:
            raise ValueError(f"another file ({size:,} bytes): got sha256 {sha256}, expected {file.sha256}")
        return sha256
    if file.size is not None and size != file.size:
        raise ValueError(f"got {size:,} bytes, expected {file.size:,}")
    if not head.startswith(INDEX_START if file.name.endswith(".csv") else TORCH_STARTS):
        raise ValueError(f"another kind of file: {size:,} bytes that begin {head[:20]!r}")
    if head.startswith(b"PK") and not _is_sound_zip(path):
        raise ValueError(f"truncated or damaged ({size:,} bytes)")
    return sha256


def _verify_part(part: Path, file: PublicFile) -> str:
    """The sha256 of a finished transfer; what is not the file is deleted, for nothing can be added to make it so."""
    try:
        return verify(part, file)
    except ValueError:
        part.unlink()
        raise
    finally:
        _tag(part).unlink(missing_ok=True)


def _is_page(head: bytes) -> bool:
    return head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"<"


def _is_sound_zip(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as opened:
            return opened.testzip() is None
    except (zipfile.BadZipFile, EOFError):
        return False


# ------------------------------------------------------------------------------------------------------------ transfer


def _fetch_part(file: PublicFile, part: Path, mirror: str | None, proxy: str | None) -> None:
    """The whole of a file in `part`."""
    proxies = [ProxyHandler({"http": proxy, "https": proxy})] if proxy else []
    opener = build_opener(HTTPCookieProcessor(), _Redirects(), *proxies)
    if mirror:
        return _transfer(opener, f"{mirror.rstrip('/')}/{quote(file.name)}", part, file)
    if file.by_hand:
        raise OSError("comes inside a package, not as a file of its own")
    if not file.address.startswith(DRIVE):
        return _transfer(opener, file.address, part, file)
    try:
        _transfer(opener, _drive_address(file, proxy), part, file)
    except WebPage as page:
        _transfer(opener, _confirmed(page), part, file)


class _Redirects(HTTPRedirectHandler):
    """Follows to http and https alone, and never from https to http."""

    def redirect_request(self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Request | None:
        allowed = ("https",) if req.type == "https" else ("http", "https")
        if urlsplit(newurl).scheme not in allowed:
            return None  # the answer is an error then, which whoever asked closes
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _transfer(opener: OpenerDirector, url: str, part: Path, file: PublicFile) -> None:
    """The whole of `url` in `part`, in several attempts where the connection breaks."""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(PAUSE_S * 2 ** (attempt - 1))
        try:
            return _receive(opener, url, part, file)
        except (URLError, TimeoutError, ConnectionError, HTTPException) as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
            if isinstance(error, HTTPError):
                error.close()
                reason = f"the server answers {error.code} {error.reason}"
                if 300 <= error.code < 400:
                    reason += f" and leads to {error.headers.get('Location')}, which is not followed"
                if error.code not in BUSY:
                    raise OSError(f"{url}: {reason}") from error
    raise OSError(f"{url}: {ATTEMPTS} attempts failed, the last with: {reason}; run this again to go on")


def _receive(opener: OpenerDirector, url: str, part: Path, file: PublicFile) -> None:
    """Add to `part` what it lacks."""
    from tqdm import tqdm

    if part.is_symlink():
        raise OSError(f"{part}: a link, expected a file or nothing; remove it")
    done = part.stat().st_size if part.exists() and _can_go_on(part, file) else 0
    if done and done == file.size:
        return
    request = Request(url, headers={"User-Agent": f"voicestyle/{__version__}"} | _range(part, done, file))
    try:
        response = opener.open(request, timeout=TIMEOUT_S)
    except HTTPError as error:
        if error.code != 416 or not done:
            raise
        error.close()
        if error.headers.get("Content-Range", "").endswith(f"/{done}"):  # nothing is lacking
            return
        part.unlink()  # of another file, or longer than this one
        return _receive(opener, url, part, file)
    with response:
        start = _start(response, done)
        if start and _has_changed(part, response, file):
            part.unlink()
            return _receive(opener, url, part, file)
        head = response.read(512)
        if not start and _is_page(head):
            raise WebPage(head + response.read(CHUNK))
        length = response.headers.get("Content-Length")
        total = None if length is None else start + int(length)
        _check_size(part, done, total, file)
        if not start:
            _keep_tag(part, response)
        with tqdm(total=total, initial=start, desc=file.name, unit="B", unit_scale=True, disable=None) as bar:
            limit = total if total is not None else file.size or LARGEST
            arrived = _write_body(response, head, part, start, limit, bar.update)
    if total is not None and arrived < total:
        raise ConnectionError(f"the connection broke after {arrived:,} of {total:,} bytes")


def _write_body(
    response: HTTPResponse, head: bytes, part: Path, start: int, limit: int, progress: Callable[[int], Any]
) -> int:
    """Write what an answer has, after its first bytes, to `part` from `start` on; where it ends.

    Raises:
        ValueError: it goes on beyond `limit`
    """
    with part.open("r+b" if start else "wb") as out:
        out.seek(start)
        block = head
        while block:
            if out.tell() + len(block) > limit:
                raise ValueError(f"the server sends more than {limit:,} bytes; not the file")
            out.write(block)
            progress(len(block))
            block = response.read1(CHUNK)
        return out.tell()


def _can_go_on(part: Path, file: PublicFile) -> bool:
    """Whether it can be told in the end, or of the server now, that the rest is of the same version."""
    return file.sha256 is not None or _tag(part).is_file()


def _has_changed(part: Path, response: HTTPResponse, file: PublicFile) -> bool:
    """Whether a rest is of another version than what is there: some servers ignore If-Range."""
    if file.sha256 is not None:
        return False
    return _tag(part).read_text(encoding="latin-1") not in (
        response.headers.get("ETag"),
        response.headers.get("Last-Modified"),
    )


def _range(part: Path, done: int, file: PublicFile) -> dict[str, str]:
    """Headers that ask for what is lacking; for all of it where the file is known to have changed since."""
    headers = {"Range": f"bytes={done}-"} if done else {}
    if done and file.sha256 is None and _tag(part).exists():  # a hash tells in the end, and lets a mirror go on
        headers["If-Range"] = _tag(part).read_text(encoding="latin-1")
    return headers


def _start(response: HTTPResponse, done: int) -> int:
    """Where in the file an answer begins: at `done`, or at 0 where the server sends all of it."""
    if response.status != 206:
        return 0
    found = response.headers.get("Content-Range", "")
    match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", found)
    length = response.headers.get("Content-Length")
    first, last, total = match.groups() if match else ("", "", "")
    is_rest = first == str(done) and total in ("*", str(int(last) + 1))
    if not is_rest or (length is not None and int(length) != int(last) + 1 - done):
        raise ConnectionError(f"asked for bytes from {done} on, the server sends {found!r} of {length} bytes")
    return done


def _check_size(part: Path, done: int, total: int | None, file: PublicFile) -> None:
    """Refuse another file than the known one, and one that finds no room, before it is fetched."""
    if total is None:
        return
    if file.size is not None and total != file.size:
        raise ValueError(f"the server has another file: {total:,} bytes, expected {file.size:,}")
    free = shutil.disk_usage(part.parent).free
    if total - done > free:
        raise OSError(errno.ENOSPC, f"{total - done:,} bytes needed, {free:,} free")


def _tag(part: Path) -> Path:
    """Where the server's name for the version that `part` is of is kept."""
    return part.with_name(f"{part.name}.tag")


def _keep_tag(part: Path, response: HTTPResponse) -> None:
    tag: str | None = response.headers.get("ETag", "W/")
    if tag is None or tag.startswith("W/"):  # If-Range takes no weak ones
        tag = response.headers.get("Last-Modified")
    _tag(part).unlink(missing_ok=True)
    if tag:
        with _tag(part).open("x", encoding="latin-1") as file:  # x: no link is followed
            file.write(tag)


# -------------------------------------------------------------------------------------------------------- Google Drive


def _drive_address(file: PublicFile, proxy: str | None) -> str:
    """The address of a file on Google Drive, from that of its page or of its folder."""
    page = re.search(r"/file/d/([\w-]+)", file.address)
    if page:
        return DRIVE_FILE.format(page[1])
    gdown = _gdown()
    try:
        listed = gdown.download_folder(
            file.address, quiet=True, proxy=proxy, use_cookies=False, skip_download=True, timeout=TIMEOUT_S
        )
    except gdown.DownloadError as error:
        raise OSError(str(error)) from error
    ids = {Path(entry.path).name: entry.id for entry in listed}
    if file.name not in ids:
        raise OSError(f"not in the folder {file.address}, which has {sorted(ids)}")
    return DRIVE_FILE.format(ids[file.name])


def _confirmed(page: WebPage) -> str:
    """The address behind a page that asks whether a file too large for a virus scan is wanted all the same."""
    gdown = _gdown()
    from gdown.download import get_url_from_gdrive_confirmation

    try:
        return get_url_from_gdrive_confirmation(page.text)
    except gdown.FileURLRetrievalError as error:  # over its quota, or not public
        raise OSError(f"{page}: {error}") from error


def _gdown() -> ModuleType:
    try:
        return needed("gdown", "a folder of Google Drive, or a large file there,")
    except ImportError as error:
        raise OSError(str(error)) from error
