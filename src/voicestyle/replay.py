"""From a face back to the same face: what it takes to make one again, without the recording."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from voicestyle import __version__
from voicestyle.config import GuidanceConfig
from voicestyle.schema import SettingsFile, read, to_dict

if TYPE_CHECKING:
    from voicestyle.generation import Generation
    from voicestyle.latent import Callback
    from voicestyle.pipeline import VoiceStyle

FORMAT = "voicestyle face 1"
MAX_BYTES = 1_000_000  # of such a file: an embedding of some hundred numbers and a few settings


def describe_face(made: Generation, vs: VoiceStyle) -> dict[str, Any]:
    """All that these faces depend on, JSON-ready: model, seed, settings, and the embedding of the voice.

    The embedding is in it so that the recording need not be kept. It tells of the voice what the faces do.
    """
    return {
        "format": FORMAT,
        "what": vs.metadata()["AI-generated"],
        "model": vs.config.name,
        "encoder_fingerprint": vs.model.encoder_fingerprint,
        "generator_fingerprint": vs.model.generator_fingerprint,
        "version": __version__,
        "seed": made.seed,
        "num_faces": len(made.w),
        "settings": to_dict(made.settings),
        "similarity": made.similarity.tolist(),
        "voice_emb": made.voice_emb[0].tolist(),
    }


def make_again(vs: VoiceStyle, path: str | Path, callback: Callback | None = None) -> Generation:
    """The faces that a file of `describe_face` tells of.

    Raises:
        FileNotFoundError: nothing at the path
        ValueError: another file, or faces of another model
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file, expected a face's .json")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path}: {path.stat().st_size} bytes, expected a face's .json of a few thousand")
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not a JSON file ({error})") from None
    if not isinstance(told, dict) or told.get("format") != FORMAT:
        raise ValueError(f"{path}: not a face's .json of this version (expected {FORMAT!r})")
    for part in ("encoder", "generator"):
        its, mine = told.get(f"{part}_fingerprint"), getattr(vs.model, f"{part}_fingerprint")
        if its != mine:
            raise ValueError(
                f"{path}: made with {part} {str(its)[:12]} of model {told.get('model')!r}, but this model's is "
                f"{str(mine)[:12]}; name its model with --model"
            )
    voice_emb, settings, seed, num_faces = _checked(told, vs.config.encoder.embed_dim, path)
    return vs.generate_from(voice_emb, settings, seed, num_faces, callback)


def _checked(told: dict[str, Any], dim: int, path: Path) -> tuple[torch.Tensor, GuidanceConfig, int, int]:
    """What `generate_from` takes."""
    try:
        voice_emb = torch.tensor([told["voice_emb"]], dtype=torch.float32)
        settings = read(GuidanceConfig, told["settings"], SettingsFile(f"{path}: settings"))
        seed, num_faces = int(told["seed"]), int(told["num_faces"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: damaged ({error}); download it again") from None
    if voice_emb.shape != (1, dim) or abs(voice_emb.norm().item() - 1) > 1e-3 or seed < 0 or num_faces < 1:
        raise ValueError(f"{path}: damaged, expected a unit embedding of {dim} numbers, a seed and a number of faces")
    return voice_emb, settings, seed, num_faces
