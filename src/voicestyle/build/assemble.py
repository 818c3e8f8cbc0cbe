"""One model folder out of a trained encoder and a trained generator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from voicestyle.checkpoint import check_replaceable, load_model, save_model
from voicestyle.config import GeneratorConfig, GuidanceConfig, VoiceStyleConfig
from voicestyle.files import sha256_of
from voicestyle.nn.stylegan2 import Generator
from voicestyle.schema import convert
from voicestyle.train.recipe import named, read_recipe, settings_of
from voicestyle.train.run import read_own


@dataclass(frozen=True)
class ModelRecipe:
    """A whole recipe of `models assemble`."""

    name: str
    license: str
    encoder: str  # model folder
    generator: str  # run folder
    card: str = ""  # Markdown file; empty: a card that says what is known of any model
    guidance: GuidanceConfig = GuidanceConfig()
    files: tuple[str, ...] = ()  # that the parts were made of: recorded by name and sha256
    sources: dict[str, Any] = field(default_factory=dict)  # where the parts come from, in words, by names of one's own


def assemble_model(recipe: Mapping[str, Any], out: str | Path) -> Path:
    """The folder `out`: encoder, generator and guidance settings of a recipe, without prototypes yet.

    Args:
        recipe: as `recipe.load_recipe` returns it for a `ModelRecipe`
        out: a new folder, or a model folder that is replaced

    Raises:
        FileNotFoundError, ValueError: a part is missing or does not fit
    """
    settings = settings_of(recipe, ModelRecipe)
    out, run, card = Path(out), Path(settings.generator), Path(settings.card) if settings.card else None
    check_replaceable(out)
    for path, what in ((run / "generator.pt", "finished generator run"), (card, "model card")):
        if path is not None and not path.is_file():
            raise FileNotFoundError(f"{path}: no such file; expected it of a {what}")
    encoder = load_model(settings.encoder)
    generator = Generator(_generator_config(run))
    generator.load_state_dict(read_own(run / "generator.pt"))
    config = VoiceStyleConfig(
        settings.name, encoder.config.encoder, generator.config, settings.guidance, settings.license
    )
    hashes = {Path(path).name: _sha256(Path(path)) for path in settings.files}
    return save_model(
        out,
        config,
        encoder.encoder,
        generator,
        metadata={"sources": {**settings.sources, "sha256": hashes}},
        card=card.read_text(encoding="utf-8") if card else None,
    )


def _generator_config(run: Path) -> GeneratorConfig:
    """What a run has trained, by its recipe."""
    held = read_recipe(run / "recipe.toml")
    with named(held):
        return convert(GeneratorConfig, held.get("generator", {}), "generator")


def _sha256(path: Path) -> str:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; the recipe names it as a source")
    return sha256_of(path)
