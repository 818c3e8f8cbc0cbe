"""The command `evaluate calibration`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from voicestyle.cli import results
from voicestyle.cli.options import load, option_model, option_seed


@click.command(short_help="Fit and score what a voice suggests by itself: sex and age.")
@click.argument("pairs", type=click.Path(path_type=Path))
@click.option(
    "--apparent",
    type=click.Path(path_type=Path),
    required=True,
    metavar="CSV",
    help="Columns key, predicted_gender, predicted_age: what a classifier of faces sees.",
)
@click.option(
    "--labeled",
    type=click.Path(path_type=Path),
    required=True,
    metavar="MANIFEST",
    help="Voices of people whose sex is known, in no training.",
)
@click.option("--test-split", default="val", help="Of PAIRS: people that are in none of the fitting.")
@click.option("--cache", type=click.Path(path_type=Path), help="A folder: a stopped run goes on from there.")
@click.option("--plot", type=click.Path(path_type=Path), help="Reliability and risk-coverage: a .png, .svg or .pdf.")
@click.option("--save", is_flag=True, help="Store it with the model, for `generate --report` and the page.")
@option_seed
@option_model
def calibration(
    pairs: Path,
    apparent: Path,
    labeled: Path,
    test_split: str,
    cache: Path | None,
    plot: Path | None,
    save: bool,
    seed: int,
    **options: Any,
) -> None:
    """Example: voicestyle evaluate calibration pairs.csv --apparent predicted.csv --labeled librispeech.csv --save

    Sex and age that a voice suggests, fitted on the train voices of PAIRS, calibrated on people kept apart, and scored
    on the people of the test split. Prints a table.
    """
    from voicestyle.checkpoint import SUGGESTION
    from voicestyle.evaluate import calibration as job

    seen = job.read_apparent(apparent)
    items = {
        "train": job.items_with_voices(pairs, "train"),
        "labeled": job.items_with_voices(labeled, None),
        "test": job.items_with_voices(pairs, test_split),
    }
    vs = load(options)
    with results.progress(sum(map(len, items.values())), "voices") as advance:
        refuse = lambda item, error: click.echo(f"left out: {item.key}: {error}", err=True)  # noqa: E731
        train, known, test = (job.hear_voices(vs, part, seen, cache, refuse, advance) for part in items.values())
    made = job.fit_suggestion(train, known, vs.model.encoder_fingerprint, seed)
    scores = job.score_suggestion(made, test, seed)
    click.echo(scores.to_markdown())
    if plot is not None:
        from voicestyle.plots.calibration import calibration_plot
        from voicestyle.plots.figure import save_figure

        title = f"Sex by the voice, {scores.num_people} people"
        wrong = (scores.woman > 0.5) != scores.is_woman
        save_figure(calibration_plot(scores.woman, scores.is_woman, wrong, scores.weights, title), plot)
    if save:
        made.save(vs.model.folder / SUGGESTION)
        click.echo(vs.model.folder / SUGGESTION)
