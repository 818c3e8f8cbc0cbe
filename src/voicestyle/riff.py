"""Recordings whose header is wrong about their length: what stopped recorders, pipes and broken copies leave."""

from __future__ import annotations

import io
import mmap
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer as WritableBuffer

ByteOrder = Literal["little", "big"]

PLACEHOLDER = 0x3FFF0000  # bytes; what claims to hold so much and does not was written before its length was known

_MAX_CHUNKS = 1000
_ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")  # a file of Windows Media begins so (ASF, 3.1)
_ASF_FILE = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")  # the object that says how long it is (ASF, 3.2)


class Part(io.RawIOBase):
    """A part of a file that is mapped into memory, to be read as a file; some of its bytes may be replaced."""

    def __init__(self, data: mmap.mmap | bytes, start: int, stop: int, name: str) -> None:
        self.data, self.start, self.stop, self.name = data, start, stop, name
        self.replaced: dict[int, bytes] = {}  # place in the part -> what stands there
        self._place = 0

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, place: slice) -> bytes:
        first, last, _ = place.indices(len(self))
        got = bytearray(self.data[self.start + first : self.start + max(first, last)])
        for at, new in self.replaced.items():
            for i, byte in enumerate(new, start=at - first):
                if 0 <= i < len(got):
                    got[i] = byte
        return bytes(got)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: len(self)}[whence])
        return self._place

    def readinto(self, buffer: WritableBuffer, /) -> int:
        room = memoryview(buffer).cast("B")
        got = self[self._place : self._place + len(room)]
        room[: len(got)] = got
        self._place += len(got)
        return len(got)


def repaired(part: Part) -> tuple[Part, float]:
    """The file with a header that says what is there, and which share of what it had said is missing.

    Nothing is missing where the length was left open: 0, or `PLACEHOLDER` and more. WAV, AIFF, AU and CAF are mended;
    Wave64 and ASF stay as they are, and of others nothing is known.
    """
    found = _sound(part)
    if found is None:
        return part, _missing(len(part), _file_size(part))
    field, width, order, place, declared = found
    there = len(part) - place
    if there < 0:  # it ends within its header
        return part, 0.0
    ends = (place + declared, place + declared + declared % 2)  # what follows begins at an even place, or should
    if declared <= there and any(_is_chunk(part, end, order) for end in ends):
        return part, 0.0
    mended = Part(part.data, part.start, part.stop, part.name)
    mended.replaced[field] = min(there + place - field - width, 256**width - 1).to_bytes(width, order)
    return mended, _missing(there, declared)


def _missing(there: int, declared: int) -> float:
    """The share of the declared bytes that is not there; 0 where their number was left open."""
    return max(0.0, 1 - there / declared) if 0 < declared < PLACEHOLDER else 0.0


def _file_size(part: Part) -> int:
    """How many bytes the whole file has by its header, where that is said of Wave64 and ASF; 0 of others."""
    if part[:8] == b"riff\x2e\x91\xcf\x11":
        return int.from_bytes(part[16:24], "little")
    at = part[:4096].find(_ASF_FILE) + 40 if part[:16] == _ASF else 0
    return int.from_bytes(part[at : at + 8], "little") if at >= 40 else 0


def _sound(part: Part) -> tuple[int, int, ByteOrder, int, int] | None:
    """Where the length of the samples stands, in how many bytes of what order; where they begin, and their length."""
    head = part[:12]
    if head[:4] == b".snd":
        return 8, 4, "big", int.from_bytes(head[4:8], "big"), int.from_bytes(head[8:12], "big")
    if head[:4] == b"caff":
        return _caf_sound(part)
    if head[8:12] not in (b"WAVE", b"AIFF", b"AIFC"):
        return None
    order: ByteOrder = "big" if head[:4] in (b"FORM", b"RIFX") else "little"
    place, wide = 12, None
    for _ in range(_MAX_CHUNKS):
        kind, size = part[place : place + 4], int.from_bytes(part[place + 4 : place + 8], order)
        if kind == b"ds64":  # the lengths of RF64 have 64 bits
            wide = place + 16
        elif kind == b"data" and wide and size == 0xFFFFFFFF:
            return wide, 8, order, place + 8, int.from_bytes(part[wide : wide + 8], order)
        elif kind == b"data":
            return place + 4, 4, order, place + 8, size
        elif kind == b"SSND":  # offset and block size stand before the samples
            return place + 4, 4, order, place + 16, size - 8
        place += 8 + size + size % 2
    return None


def _caf_sound(part: Part) -> tuple[int, int, ByteOrder, int, int] | None:
    """As `_sound`, of Apple's Core Audio Format: the lengths of its chunks have 64 bits, and -1 leaves one open."""
    place = 8
    for _ in range(_MAX_CHUNKS):
        kind, size = part[place : place + 4], int.from_bytes(part[place + 4 : place + 12], "big")
        if kind == b"data":  # the number of edits stands before the samples
            return place + 4, 8, "big", place + 16, size - 4
        place += 12 + size
    return None


def _is_chunk(part: Part, place: int, order: ByteOrder) -> bool:
    """Whether what stands behind the samples is a chunk, a tag or padding, and not more of them."""
    rest = part[place : place + 64]
    is_named = rest[:4].decode("latin-1").isprintable() and rest[:4].isascii()
    fits = int.from_bytes(rest[4:8], order) <= len(part) - place - 8
    return len(rest) < 8 or not any(rest) or rest[:3] in (b"ID3", b"TAG") or (is_named and fits)
