"""Files and folders that are there whole or not at all, their hashes, and results that are kept from call to call."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from voicestyle.faults import FaultError, as_documented, show_traceback

_BLOCK = 1 << 20  # bytes that are read at a time


@contextmanager
def written_whole(path: str | Path, *, durable: bool = False) -> Iterator[Path]:
    """A place beside `path` to write a file to, which takes the name `path` when the block has ended well.

    Whatever ends it otherwise, Ctrl-C too, leaves `path` as it was and nothing beside it. The place ends in the suffix
    of `path`; the folder is made where there is none; the mode is what the user's umask says, whoever writes the file.
    A device or a pipe (/dev/stdout) is written to itself.

    Args:
        path: of the file
        durable: wait until it is on the disk, so that a power cut leaves the old file or the new one

    Raises:
        OSError: it cannot be written, with `path` and the reason (no space left, no permission, ...)
    """
    path = _target(Path(path))
    if path.exists() and not (path.is_file() or path.is_dir()):
        yield path
        return
    with _beside(path) as beside:
        beside.touch(exist_ok=False)
        mode = beside.stat().st_mode
        yield beside
        beside.chmod(mode)  # some libraries make private files
        if durable:
            _sync(beside)
        os.replace(beside, path)


@contextmanager
def folder_written_whole(folder: str | Path) -> Iterator[Path]:
    """A new folder beside `folder`, to be filled, which takes its place when the block has ended well.

    As `written_whole`, and durable. What `folder` held before goes only when the new one is in its place.
    """
    folder = _target(Path(folder))
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(_refusal(folder, "a file is there"))
    with _beside(folder) as beside:
        beside.mkdir()
        mode = beside.stat().st_mode
        yield beside
        for path in [*beside.rglob("*"), beside]:
            path.chmod(mode if path.is_dir() else mode & 0o666)
            _sync(path)
        with _beside(folder) as old:
            try:
                if folder.exists():
                    os.replace(folder, old)
                os.replace(beside, folder)
            except BaseException:
                if old.exists() and not folder.exists():
                    os.replace(old, folder)
                raise


def is_unfinished(path: Path) -> bool:
    """Whether a file or folder is what a killed process left of something that was to be written whole."""
    return path.name.startswith(".") and f"{_MARK}{path.suffix}" in path.name


def _target(path: Path) -> Path:
    """Where a link leads: what it is written through has to change, and not the link to become another thing."""
    return path.resolve() if path.is_symlink() else path


_MARK = ".part"


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A free name in the folder of `path`; what has it in the end is removed, and errors name `path` instead."""
    # short enough for any file system, and unlike that of any other process or thread
    beside = path.with_name(f".{path.stem[:32]}.{secrets.token_hex(4)}{_MARK}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield beside
    except (OSError, RuntimeError) as error:
        # torch.save stumbles over what it could not write, and says that instead
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError) or cause.errno is None or not _is_about(cause, beside, path):
            raise
        kind = type(OSError(cause.errno, ""))  # PermissionError and the like
        raise kind(_refusal(path, cause.strerror or "unknown error")) from error
    except SafetensorError as error:  # how its writer says that the disk is full
        raise OSError(_refusal(path, str(error))) from error
    finally:
        if beside.is_dir():
            shutil.rmtree(beside, ignore_errors=True)
        else:
            with suppress(OSError):  # most often there is none
                beside.unlink()


def _is_about(error: OSError, beside: Path, path: Path) -> bool:
    """Whether an error is about the writing itself; a file that the block reads has a name of its own."""
    if error.filename is None:
        return True
    name = Path(os.fsdecode(error.filename))
    return name in (path, *path.parents, beside) or beside in name.parents


def _refusal(path: Path, reason: str) -> str:
    return f"{path}: cannot be written ({reason}); make room, or choose another place"


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def named(item: str | Path) -> Iterator[None]:
    """The boundary of one item of many: whatever the block raises about it says its name, in one line.

    Libraries raise nearly anything on a damaged file. What cannot be about the item goes on as it is: a package that is
    not installed, a reader that has gone, Ctrl-C. With VOICESTYLE_DEBUG in the environment the traceback is printed.

    Raises:
        OSError: of the same kind as the block's
        FaultError: for a fault of this program (`fault_of`)
        ValueError: for everything else
    """
    try:
        yield
    except (ImportError, BrokenPipeError):
        raise
    except Exception as error:
        show_traceback()
        if isinstance(error, (ValueError, OSError)):
            if str(item) in str(error):
                raise
            kind = type(error) if isinstance(error, (OSError, FaultError)) else ValueError
            raise kind(f"{item}: {error}") from error
        raise as_documented(item, error) from error


def sha256_of(what: str | Path | bytes) -> str:
    """The sha256 (hex) of a file, or of bytes."""
    if isinstance(what, bytes):
        return hashlib.sha256(what).hexdigest()
    digest = hashlib.sha256()
    with open(what, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def kept(path: Path | None, make: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """What `make` makes, on the CPU: read from `path` where it lies, else made, and left there whole or not at all.

    Results that take long are kept so: work that was stopped goes on from there. The name of the file has to tell all
    that the tensors depend on. Without a path they are made each time, and so they are where the file is damaged.
    """
    if path is not None and path.is_file():
        with suppress(SafetensorError):
            return load_file(path)
    made = {name: value.detach().cpu().contiguous() for name, value in make().items()}
    if path is not None:
        with written_whole(path) as beside:
            save_file(made, beside)
    return made


def read_tensors(path: Path) -> tuple[dict[str, Tensor], Any]:
    """The tensors of a safetensors file, on the CPU, and the header that says what they are; None without one of ours.

    Raises:
        ValueError: truncated, another kind of file, or a header that is no JSON
    """
    try:
        with safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {}).get("voicestyle", "null"))
            return {name: file.get_tensor(name) for name in file.keys()}, header  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: truncated or not a safetensors file ({error}); get it again") from None
