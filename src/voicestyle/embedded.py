"""The models that the package ships, by name: a look at folders, without loading torch."""

from __future__ import annotations

from pathlib import Path

EMBEDDED = "voicestyle-small"  # the one that is taken where none is named
MODELS = Path(__file__).parent / "models"
CONFIG = "config.json"  # every model folder has one


def embedded_models() -> list[str]:
    """Names of the models that the package ships."""
    return sorted(path.parent.name for path in MODELS.glob(f"*/{CONFIG}"))
