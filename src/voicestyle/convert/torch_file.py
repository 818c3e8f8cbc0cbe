"""Foreign `torch.save` files, read without running anything that they hold."""

from __future__ import annotations

import argparse
import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

AGAIN = "download the file again"
OLDEST_TORCH = (2, 10)  # older ones run code or corrupt memory by `weights_only=True` (CVE-2026-24747, CVE-2025-32434)
EXPANSION = 2  # times the file, and a MiB: what its tensors may take; torch.save does not compress
NVIDIA = ("dnnlib.", "torch_utils.", "training.")  # packages that its pickles of StyleGAN2 name


def read_torch_file(path: str | Path) -> Any:
    """What a foreign `torch.save` file holds, on the CPU: plain containers, tensors and `argparse.Namespace` alone.

    Raises:
        FileNotFoundError: no such file
        ValueError: an HTML page (a download quota), text, a truncated file, one that holds other classes, or one whose
            tensors are much larger than itself (`EXPANSION`)
        ImportError: a PyTorch that reads such files unsafely
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: {'a folder, expected a file' if path.is_dir() else 'no such file'}")
    if problem := _look(path) or _expands(path):
        raise ValueError(f"{path}: {problem}")
    _check_torch()
    try:
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old pickle protocols and storages, which say nothing of the file's use
            held = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path}: {_refusal(str(error))}") from None  # torch's own advice is to load it unsafely
    except Exception as error:  # a damaged file raises nearly anything
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path}: truncated, or not a PyTorch checkpoint ({reason}); {AGAIN}") from None
    if (declared := _num_bytes(held)) > (limit := _limit(path)):
        raise ValueError(f"{path}: {_too_large(declared, limit)}")
    return held


def _check_torch() -> None:
    version = tuple(map(int, re.findall(r"\d+", torch.__version__)[:2]))
    if version < OLDEST_TORCH:
        oldest = ".".join(map(str, OLDEST_TORCH))
        raise ImportError(
            f"PyTorch {torch.__version__} can run code that a file of weights hides (CVE-2026-24747); to read foreign "
            f"files, pip install 'torch>={oldest}'"
        )


def _limit(path: Path) -> int:
    return EXPANSION * path.stat().st_size + (1 << 20)


def _too_large(got: int, limit: int) -> str:
    return f"expands to {got:,} bytes, expected at most {limit:,} of a file of its size; do not trust it"


def _expands(path: Path) -> str | None:
    """What is wrong with a file that is packed much smaller than what it holds, before it is unpacked."""
    if not zipfile.is_zipfile(path):
        return None
    try:
        with zipfile.ZipFile(path) as packed:
            held = sum(part.file_size for part in packed.infolist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return None  # torch says what is wrong
    return _too_large(held, limit) if held > (limit := _limit(path)) else None


def _num_bytes(held: Any) -> int:
    """What all tensors in plain containers would take if each had memory of its own; shared ones count once."""
    total, waiting, seen = 0, [held], set()
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, torch.Tensor):
            total += value.numel() * value.element_size()
        elif isinstance(value, dict):
            waiting += [*value.values()]
        elif isinstance(value, (list, tuple, set)):
            waiting += [*value]
        elif isinstance(value, argparse.Namespace):
            waiting += [*vars(value).values()]
    return total


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
    if found and found[1].startswith(NVIDIA):
        return (
            f"a pickle of NVIDIA's code ({found[1]}), which runs code when it is read, and was not loaded; convert it "
            "with convert_weight.py of rosinality's stylegan2-pytorch (in an environment of its own, and only if you "
            "trust the file), and give the .pt that it writes"
        )
    if found:
        return (
            f"holds Python objects ({found[1]}) beside tensors, which could run code when they are read, and was not "
            "loaded; expected tensors in plain containers: save the state dict alone"
        )
    return f"truncated, or not a PyTorch checkpoint; {AGAIN}"
