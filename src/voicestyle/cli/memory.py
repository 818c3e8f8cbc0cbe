"""Settings of the process that only its owner may choose: the commands' door sets them, an import never does."""

from __future__ import annotations

import ctypes
import sys

# malloc.h of glibc
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def keep_memory() -> bool:
    """Let malloc keep what is freed, where it is glibc's: whether it does.

    It maps every large tensor afresh otherwise, and gives it back after: the kernel fills each page with zeros, which
    is a sixth of a guided step. The process then holds on to its peak until it ends.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # another C library
        return False
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
