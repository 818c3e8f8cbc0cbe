"""Whose fault an error is: that of a damaged input, which libraries stumble over, or of this program itself."""

from __future__ import annotations

import os
import traceback
from pathlib import Path

DEBUG = "VOICESTYLE_DEBUG"  # of the environment, which worker processes have too: errors are printed with traceback

_PACKAGE = Path(__file__).parent
_MISTAKES = (ArithmeticError, AssertionError, AttributeError, LookupError, NameError, NotImplementedError, TypeError)


class FaultError(ValueError):
    """A fault of this program that came to light at an item. The item fails, but nothing is said against it."""


def fault_of(error: BaseException) -> str:
    """Where this program made a mistake that raised `error`, such as ``audio.py:12``; empty for what is none.

    A mistake is an error of a kind that correct code does not raise and that arose in a line of this package. The same
    kinds come out of libraries when they read damaged files.
    """
    frames = traceback.extract_tb(error.__traceback__)
    if not isinstance(error, _MISTAKES) or not frames or not Path(frames[-1].filename).is_relative_to(_PACKAGE):
        return ""
    return f"{Path(frames[-1].filename).relative_to(_PACKAGE).as_posix()}:{frames[-1].lineno}"


def as_documented(item: str | Path, error: Exception) -> ValueError:
    """What is said of an item instead of an error that nobody expected: a `FaultError` where the fault is ours."""
    if isinstance(error, MemoryError):
        return ValueError(f"{item}: not enough memory for it; give a smaller or a shorter one")
    reason = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
    if place := fault_of(error):
        return FaultError(
            f"{item}: a fault of voicestyle, and none of this input ({reason}, at {place}); please report it"
        )
    return ValueError(f"{item}: cannot be used ({reason}); check that it is sound")


def show_traceback() -> None:
    """Print the traceback of the error that is being handled, where `DEBUG` asks for it."""
    if os.environ.get(DEBUG):
        traceback.print_exc()
