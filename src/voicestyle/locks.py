"""One process at a time where two would spoil each other's work.

The operating system holds the lock and lets go of it when its process ends, however it ends: a killed one leaves none.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout


@contextmanager
def alone_with(path: str | Path) -> Iterator[None]:
    """Keep other processes from the work on `path`, a file or folder that need not be there, until the block ends.

    Raises:
        BlockingIOError: another process is at it
        OSError: the folder of `path` cannot be written to
    """
    lock = hold(path)
    try:
        yield
    finally:
        let_go(lock)


def hold(path: str | Path) -> BaseFileLock:
    """The lock of `path`, held; this process may hold it several times. Errors are those of `alone_with`."""
    path = Path(path).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f".{path.name}.lock"), is_singleton=True, thread_local=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise BlockingIOError(
            f"{path}: another process is at work there; wait until it has ended, or choose another place"
        ) from None
    except OSError as error:
        raise type(error)(f"{path}: cannot be locked ({error.strerror}); choose another place for results") from error
    return lock


def let_go(lock: BaseFileLock) -> None:
    """Give back what `hold` has taken; the last one takes the file of the lock away."""
    lock.release()
    if not lock.is_locked:
        Path(lock.lock_file).unlink(missing_ok=True)
