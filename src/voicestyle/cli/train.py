"""The command `train`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from voicestyle.cli import results
from voicestyle.cli.options import option_json, option_out, option_overrides

# what can be trained, and the module of `train` that does it
JOBS = {"encoder": "encoder.job", "generator": "generator.job", "inverter": "inverter", "sharpen": "sharpen.job"}


@click.command(short_help="Train a part of a model.")
@click.argument("part", type=click.Choice([*JOBS]))
@click.argument("recipe", type=click.Path(path_type=Path))
@option_out("The folder of the run.")
@option_overrides
@click.option("--resume", is_flag=True, help="Go on with the run that the folder holds.")
@click.option("--dry-run", is_flag=True, help="Check the recipe, print it resolved, and stop.")
@click.option("--device", help="cpu, cuda, ...  [default: the GPU where there is one]")
@click.option(
    "--cross-validate",
    type=click.IntRange(min=2),
    metavar="FOLDS",
    help="Encoder: score the recipe on train identities that were left out, instead of training on all.",
)
@option_json
def train(part: str, recipe: Path, out: Path, overrides: tuple[str, ...], dry_run: bool, **options: Any) -> None:
    """Example: voicestyle train encoder recipes/embedded_encoder.toml -o runs/encoder --set seed=1

    Train a part of a model as a recipe says. For several GPUs: torchrun --nproc-per-node 8 -m voicestyle train ...
    """
    if options["cross_validate"] and part != "encoder":
        raise click.UsageError("--cross-validate is for the encoder")
    from voicestyle.train.recipe import dump_recipe, load_recipe

    resolved = load_recipe(recipe, _of(part, f"{part.capitalize()}Recipe"), overrides)
    if dry_run:
        click.echo(dump_recipe(resolved), nl=False)
        return
    results.check_writable(out)
    if options["cross_validate"]:
        _cross_validate(resolved, out, options)
    else:
        _train(part, resolved, out, options)


def _train(part: str, recipe: dict[str, Any], out: Path, options: dict[str, Any]) -> None:
    """Train, and print the folder of the run."""
    chosen = {"device": options["device"]} if options["device"] else {}
    _of(part, f"train_{part}")(recipe, out, resume=options["resume"], **chosen)
    if _is_main():
        results.show({"run": str(out)}, options["as_json"], lambda record: [[record["run"]]])


def _of(part: str, name: str) -> Any:
    """What has this name in the module that trains a part."""
    from importlib import import_module

    return getattr(import_module(f"voicestyle.train.{JOBS[part]}"), name)


def _cross_validate(recipe: dict[str, Any], out: Path, options: dict[str, Any]) -> None:
    """Print mean and spread over folds, a line a stratum; write them into the folder."""
    from voicestyle.train.encoder.job import cross_validate

    found = cross_validate(recipe, options["cross_validate"], out, device=options["device"])
    if _is_main():
        header = ["impostors", "AUC", "sd over folds"]
        rows = [[name, auc["mean"], auc["sd"]] for name, auc in found["auc"].items()]
        results.show(found, options["as_json"], lambda record: [header, *rows])


def _is_main() -> bool:
    """Whether this process speaks for all that torchrun has started."""
    return os.environ.get("RANK", "0") == "0"
