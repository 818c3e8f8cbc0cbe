"""Foreign `torch.save` files, read without running anything that they hold."""

from __future__ import annotations

import argparse
import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import torch

AGAIN = "download the file again"


def read_torch_file(path: str | Path) -> Any:
    """What a foreign `torch.save` file holds, on the CPU: plain containers, tensors and `argparse.Namespace` alone.

    Raises:
        FileNotFoundError: no such file
        ValueError: an HTML page (a download quota), text, a truncated file, or one that holds other classes
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: {'a folder, expected a file' if path.is_dir() else 'no such file'}")
    if problem := _look(path):
        raise ValueError(f"{path}: {problem}")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old pickle protocols and storages, which say nothing of the file's use
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path}: {_refusal(str(error))}") from None  # torch's own advice is to load it unsafely
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path}: truncated, or not a PyTorch checkpoint ({reason}); {AGAIN}") from None


def _look(path: Path) -> str | None:
    """What is wrong with a file that is plainly something else, from its first bytes."""
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        return f"empty (0 bytes), expected a PyTorch checkpoint; {AGAIN}"
    if head.lstrip()[:1] == b"<":
        return f"an HTML page, not a checkpoint (a download quota or a login page?); {AGAIN}"
    if head[8:9] == b"{":  # after the length of its header
        return "a safetensors file, expected the authors' PyTorch checkpoint; models of ours need no conversion"
    if all(32 <= byte < 127 or byte in b"\t\r\n" for byte in head):
        return f"a text file (it begins {head[:40].decode()!r}), expected a PyTorch checkpoint; {AGAIN}"
    return None


def _refusal(message: str) -> str:
    """Why the safe unpickler stopped, in one line."""
    found = re.search(r"GLOBAL ([\w.]+)", message)
    if found:
        return (
            f"holds Python objects ({found[1]}) beside tensors, which could run code when they are read, and was not "
            "loaded; expected tensors in plain containers: save the state dict alone"
        )
    return f"truncated, or not a PyTorch checkpoint; {AGAIN}"
