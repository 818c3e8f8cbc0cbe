"""Options that several commands share, and the model that they ask for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

# torch and whatever needs it are imported in the handlers, so that --help answers at once
if TYPE_CHECKING:
    from voicestyle.pipeline import VoiceStyle


def option_model(function: Callable) -> Callable:
    """Which model, where, and in which precision."""
    for option in (
        click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default="float32", help="Of optimization."),
        click.option("--device", help="cpu, cuda, ...  [default: the GPU where there is one]"),
        click.option("--model", default="voicestyle-small", metavar="NAME|FOLDER|hf://...", help="Which model."),
    ):
        function = option(function)
    return function


def option_out(what: str, required: bool = True) -> Callable[[Callable], Callable]:
    """Where results go."""
    return click.option("-o", "--out", type=click.Path(path_type=Path), required=required, metavar="OUT", help=what)


option_align = click.option("--align", is_flag=True, help="Find the face in a photograph first (needs dlib-bin).")
option_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
option_seed = click.option("--seed", type=click.IntRange(min=0), default=0, help="The same seed, the same result.")
option_vad = click.option("--vad/--no-vad", default=None, help="Remove silence first.  [default: the model's]")
option_overrides = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a setting of the recipe."
)


def option_trained_on(function: Callable) -> Callable:
    """Whom the model has learnt from."""
    for option in (
        click.option("--allow-leaks", is_flag=True, help="Mark a leak in the report instead."),
        click.option(
            "--trained-on",
            multiple=True,
            type=click.Path(path_type=Path),
            metavar="MANIFEST",
            help="Refuse who is in its split train.",
        ),
    ):
        function = option(function)
    return function


def load(options: dict[str, Any]) -> VoiceStyle:
    """The model that `option_model` asks for; its options are taken out of `options`, and the others stay."""
    import torch

    from voicestyle import pipeline

    return pipeline.load(options.pop("model"), options.pop("device"), getattr(torch, options.pop("dtype")))
