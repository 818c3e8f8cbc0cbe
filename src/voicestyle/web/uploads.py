"""Files of visitors: recognized by what is in them, kept in a private folder, and gone with their job."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from pathlib import Path
from typing import IO, Literal

try:
    import fcntl
except ImportError:  # Windows, where a folder that a killed server has left stays until somebody removes it
    fcntl = None  # type: ignore[assignment]

Kind = Literal["voice", "picture"]
PREFIX = "voicestyle-serve-"
LOCK = "lock"
HEAD = 64  # bytes that tell what a file is


def sniff(head: bytes) -> tuple[Kind, str] | None:
    """What a file is by its first bytes, and the suffix of that format; None: nothing that is taken here."""
    for magic, at, kind, suffix in _MAGIC:
        if head[at : at + len(magic)] == magic and (suffix not in _RIFF or head[8:12] == _RIFF[suffix]):
            return kind, suffix
    is_mpeg = len(head) > 2 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0
    return ("voice", ".aac" if head[1] & 0x06 == 0 else ".mp3") if is_mpeg else None


_RIFF = {".wav": b"WAVE", ".webp": b"WEBP", ".aiff": b"AIFF", ".aifc": b"AIFC"}
_MAGIC: list[tuple[bytes, int, Kind, str]] = [
    (b"RIFF", 0, "voice", ".wav"), (b"RF64", 0, "voice", ".wav"), (b"fLaC", 0, "voice", ".flac"),
    (b"OggS", 0, "voice", ".ogg"), (b"ID3", 0, "voice", ".mp3"), (b"\x1a\x45\xdf\xa3", 0, "voice", ".webm"),
    (b"ftypavif", 4, "picture", ".avif"), (b"ftyphei", 4, "picture", ".heic"), (b"ftyp", 4, "voice", ".m4a"),
    (b"FORM", 0, "voice", ".aiff"), (b"FORM", 0, "voice", ".aifc"), (b"caff", 0, "voice", ".caf"),
    (b"#!AMR", 0, "voice", ".amr"), (b".snd", 0, "voice", ".au"),
    (b"\x89PNG\r\n\x1a\n", 0, "picture", ".png"), (b"\xff\xd8\xff", 0, "picture", ".jpg"),
    (b"RIFF", 0, "picture", ".webp"), (b"GIF8", 0, "picture", ".gif"), (b"BM", 0, "picture", ".bmp"),
    (b"II*\0", 0, "picture", ".tif"), (b"MM\0*", 0, "picture", ".tif"),
]  # fmt: skip


class UploadFolder:
    """A folder that only this process's user can read; what a killed server has left goes when the next one starts."""

    def __init__(self, parent: Path | None = None) -> None:
        parent = parent or Path(tempfile.gettempdir())
        remove_abandoned(parent)
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))  # mode 0700
        self._lock = (self.path / LOCK).open("w")
        if fcntl is not None:
            fcntl.flock(self._lock, fcntl.LOCK_EX)

    def keep(self, file: IO[bytes], kind: Kind) -> Path:
        """Where an upload lies now, under a name of ours.

        Raises:
            ValueError: it is empty, or no file of this kind, whatever its name says
        """
        head = file.read(HEAD)
        found = sniff(head)
        wanted = {"voice": "a recording (wav, flac, mp3, ogg, m4a, webm)", "picture": "a picture (JPEG, PNG, WebP)"}
        if not head:
            raise ValueError(f"your file is empty; expected {wanted[kind]}")
        if found is None or found[0] != kind:
            what = "is of a kind that is not known here" if found is None else f"is a {wanted[found[0]].split()[1]}"
            raise ValueError(f"your file {what}; expected {wanted[kind]}")
        path = self.path / f"{secrets.token_hex(16)}{found[1]}"
        file.seek(0)
        try:
            with path.open("xb") as target:
                shutil.copyfileobj(file, target)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return path

    def remove(self) -> None:
        """Take the folder away, with all that is in it."""
        self._lock.close()
        shutil.rmtree(self.path, ignore_errors=True)


def remove_abandoned(parent: Path) -> list[Path]:
    """The folders taken away that servers of this user have left when they were killed."""
    gone = []
    for path in parent.glob(f"{PREFIX}*") if fcntl is not None else ():
        try:
            if path.is_symlink() or path.stat().st_uid != os.getuid():
                continue
            with (path / LOCK).open("r") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path)
                gone.append(path)
        except OSError:  # in use, or not ours to take away
            continue
    return gone
