"""The command `train`."""

from __future__ import annotations

from pathlib import Path

import click

from voicestyle.cli import results
from voicestyle.cli.options import option_out, option_overrides


@click.command(short_help="Train a part of a model.")
@click.argument("part", type=click.Choice(["encoder", "generator"]))
@click.argument("recipe", type=click.Path(path_type=Path))
@option_out("The folder of the run.")
@option_overrides
@click.option("--resume", is_flag=True, help="Go on with the run that the folder holds.")
@click.option("--dry-run", is_flag=True, help="Print the resolved recipe and stop.")
def train(part: str, recipe: Path, out: Path, overrides: tuple[str, ...], resume: bool, dry_run: bool) -> None:
    """Example: voicestyle train encoder recipes/embedded_encoder.toml -o runs/encoder --set seed=1

    Train a part of a model as a recipe says.
    """
    from importlib import import_module

    from voicestyle.train.run import dump_recipe, load_recipe

    resolved = load_recipe(recipe, overrides)
    if dry_run:
        click.echo(dump_recipe(resolved), nl=False)
        return
    results.check_writable(out)
    getattr(import_module(f"voicestyle.train.{part}"), f"train_{part}")(resolved, out, resume=resume)
    click.echo(out)
