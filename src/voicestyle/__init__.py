"""VoiceStyle: a plausible face for a voice (Chen et al., ACM TOMM 2024). See `load`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from voicestyle.pipeline import Generation, VoiceStyle, load

__version__ = "0.1.0"
__all__ = ["Generation", "VoiceStyle", "__version__", "load"]


def __getattr__(name: str) -> Any:
    """The public names, loaded when first used: the command line must answer ``--help`` without loading torch."""
    if name in __all__:
        from voicestyle import pipeline

        return getattr(pipeline, name)
    raise AttributeError(f"module 'voicestyle' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
