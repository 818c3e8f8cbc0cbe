"""The commands `prototypes build` and `prototypes show`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from voicestyle.cli import results
from voicestyle.cli.options import load, option_json, option_model, option_out, option_seed


@click.group(short_help="Build or show a bank of prototypes.")
def prototypes() -> None:
    """Example: voicestyle prototypes show --model my-model

    The prototypes between voices and faces.
    """


@prototypes.command(short_help="Build a bank from the pictures of manifests.")
@click.argument("manifests", nargs=-1, required=True, metavar="MANIFEST...", type=click.Path(path_type=Path))
@option_out("A .safetensors file, or a folder for the model with its new bank.")
@click.option("--k", type=click.IntRange(min=1), default=100, help="Prototypes.")
@click.option("--split", default="train", help="Of the manifests.")
@click.option("--steps", type=click.IntRange(min=0), default=300, help="Steps of each projection.")
@click.option("--lr", type=float, default=0.1, help="Learning rate of the projections.")
@click.option(
    "--start",
    type=click.Choice(["w_avg", "linear"]),
    default="w_avg",
    help="Start at the mean latent, or at a one-shot estimate, which needs a tenth of the steps.",
)
@option_seed
@option_model
def build(manifests: tuple[Path, ...], out: Path, **options: Any) -> None:
    """Example: voicestyle prototypes build pairs.csv -o my-model --k 100

    Cluster the frontal pictures of manifests, and project each once. A build that is stopped goes on where it was.
    """
    from voicestyle.train.prototypes import build_prototypes

    results.check_writable(out.parent)
    vs = load(options)
    with results.progress(None, "projected") as advance:
        build_prototypes(vs.model, manifests, out, progress=advance, **options)
    click.echo(out)


@prototypes.command(short_help="Show the size of a model's bank.")
@option_json
@option_model
def show(as_json: bool, **options: Any) -> None:
    """Example: voicestyle prototypes show --model my-model

    The size of a model's bank and of its prototypes.
    """
    results.show(load(options).bank.summary(), as_json, dict.items)
