"""The commands `models list|assemble|info`."""

from __future__ import annotations

from pathlib import Path

import click

from voicestyle.cli import results
from voicestyle.cli.options import option_json, option_out, option_overrides


@click.group(short_help="List or describe models.")
def models() -> None:
    """Example: voicestyle models list

    The models that come with the package, and those in folders.
    """


@models.command("list", short_help="List the models that come with the package.")
@option_json
def list_models(as_json: bool) -> None:
    """Example: voicestyle models list

    The models that come with the package.
    """
    from voicestyle.checkpoint import embedded_models

    for name in embedded_models():
        results.show({"model": name}, as_json, lambda r: [(r["model"],)])


@models.command(short_help="Join a trained encoder and generator.")
@click.argument("recipe", type=click.Path(path_type=Path))
@option_out("The model folder.")
@option_overrides
def assemble(recipe: Path, out: Path, overrides: tuple[str, ...]) -> None:
    """Example: voicestyle models assemble recipes/embedded_model.toml -o my-model

    A model folder out of a trained encoder and generator, still without prototypes (see `prototypes build`).
    """
    from voicestyle.train.assemble import assemble_model
    from voicestyle.train.run import load_recipe

    results.check_writable(out.parent)
    click.echo(assemble_model(load_recipe(recipe, overrides), out))


@models.command(short_help="Describe a model and its sources.")
@click.argument("model", default="voicestyle-small")
@option_json
def info(model: str, as_json: bool) -> None:
    """Example: voicestyle models info my-model

    What a model consists of and where it comes from. MODEL is a name or a folder.
    """
    from voicestyle.checkpoint import load_model

    results.show(load_model(model).summary(), as_json, dict.items)
