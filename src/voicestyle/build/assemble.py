"""One model folder out of a trained encoder and a trained generator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from voicestyle.checkpoint import check_replaceable, load_model, save_model
from voicestyle.config import GeneratorConfig, GuidanceConfig, VoiceStyleConfig, from_dict
from voicestyle.files import sha256_of
from voicestyle.nn.stylegan2 import Generator
from voicestyle.train.run import load_recipe


def assemble_model(recipe: dict[str, Any], out: str | Path) -> Path:
    """The folder `out`: encoder, generator and guidance settings of a recipe, without prototypes yet.

    The recipe names an ``encoder`` (a model folder), a ``generator`` (a run folder), a ``card`` (Markdown file) and has
    the sections ``[guidance]`` and ``[sources]``, whose ``files`` are recorded by name and sha256.

    Raises:
        FileNotFoundError, ValueError: a part is missing or does not fit
    """
    out, run, card = Path(out), Path(recipe["generator"]), Path(recipe["card"])
    check_replaceable(out)
    for path, what in ((run / "generator.pt", "finished generator run"), (card, "model card")):
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file; expected it of a {what}")
    encoder = load_model(recipe["encoder"])
    generator_config = from_dict(GeneratorConfig, load_recipe(run / "recipe.toml")["generator"], f"{run}: [generator]")
    generator = Generator(generator_config)
    generator.load_state_dict(torch.load(run / "generator.pt", map_location="cpu", weights_only=True))
    config = VoiceStyleConfig(
        recipe["name"], encoder.config.encoder, generator_config,
        from_dict(GuidanceConfig, recipe["guidance"], "recipe: [guidance]"), recipe["license"],
    )  # fmt: skip
    sources = dict(recipe["sources"])
    sources["sha256"] = {Path(path).name: _sha256(Path(path)) for path in sources.pop("files")}
    return save_model(
        out, config, encoder.encoder, generator, metadata={"sources": sources}, card=card.read_text(encoding="utf-8")
    )


def _sha256(path: Path) -> str:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; the recipe names it as a source")
    return sha256_of(path)
