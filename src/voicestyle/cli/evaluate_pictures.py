"""The commands `evaluate pictures` and `evaluate inversion`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from voicestyle.cli import results
from voicestyle.cli.generate import load_perceptual, option_perceptual
from voicestyle.cli.options import (
    load,
    option_align,
    option_json,
    option_model,
    option_out,
    option_seed,
    option_trained_on,
)

if TYPE_CHECKING:
    from voicestyle.evaluate.inversion import StudySettings
    from voicestyle.evaluate.targets import Targets
    from voicestyle.pipeline import PerceptualChoice, VoiceStyle

A_PATH = click.Path(path_type=Path)
SOURCE = "FOLDER|MANIFEST"
# those of `evaluate.inversion`, whose import would bring torch
FACTORS = ("objective", "space", "method", "region", "quality", "resolution", "set")
option_split = click.option("--split", default="val", help="Of manifests.")


def _refuse(name: str, error: Exception) -> None:
    click.echo(f"left out: {name}: {error}", err=True)


@click.command(short_help="Are generated pictures like real ones?")
@click.option("--real", type=A_PATH, required=True, metavar=SOURCE, help="Real pictures.")
@click.option("--generated", type=A_PATH, metavar="FOLDER", help="Pictures.  [default: samples of the model]")
@click.option("--num", type=click.IntRange(min=8), default=1000, help="Samples.")
@click.option("--truncation-psi", type=float, default=1.0, help="Of the samples: 0 is the mean face, 1 all of them.")
@click.option("--num-real", type=click.IntRange(min=8), help="Drawn with the seed.  [default: all]")
@option_split
@click.option("--features", type=click.Choice(["face", "inception"]), default="face", help="inception: FID and KID.")
@click.option("--inception-weights", type=A_PATH, metavar="FILE", help="[default: where torch-fidelity keeps them]")
@option_align
@option_trained_on
@option_seed
@option_json
@option_model
def pictures(as_json: bool, features: str, inception_weights: Path | None, **options: Any) -> None:
    """Example: voicestyle evaluate pictures --real pairs.csv --num 1000

    Frechet and kernel distance, precision and recall, beside what two halves of the real pictures have. On embeddings
    of the face; with --features inception, FID and KID.
    """
    from voicestyle.evaluate.pictures import evaluate_pictures, inception_features

    vs = load(options)
    embed = inception_features(inception_weights, vs.device) if features == "inception" else None
    with results.progress(None, "pictures") as advance:
        report = evaluate_pictures(vs, features=embed, refuse=_refuse, progress=advance, **options)
    results.show(report.to_dict(), as_json, lambda _: [(report.to_markdown(),)])


def _named(context: click.Context, option: click.Parameter, values: tuple[str, ...]) -> dict[str, Path]:
    """NAME=PATH as a dictionary."""
    pairs = [value.partition("=")[::2] for value in values]
    if any(not (name and path) for name, path in pairs) or len(dict(pairs)) < len(pairs):
        raise click.BadParameter(f"{' '.join(values)}: expected NAME=PATH, each name once")
    return {name: Path(path) for name, path in pairs}


@click.command(short_help="What makes an inversion good? The authors' study.")
@click.option("--images", type=A_PATH, required=True, metavar=SOURCE, help="Aligned faces: the first row.")
@click.option(
    "--set", "sets", multiple=True, callback=_named, metavar="NAME=" + SOURCE, help="Further aligned faces; repeatable."
)
@click.option(
    "--photos",
    multiple=True,
    callback=_named,
    metavar="NAME=" + SOURCE,
    help="Photographs, inverted aligned and as taken (dlib-bin finds the faces); repeatable.",
)
@option_out("Folder for inversion.md, .json, .png, and cache/, from which a stopped study goes on.")
@click.option("--num", type=click.IntRange(min=1), default=16, help="Pictures of each source, drawn with the seed.")
@option_split
@click.option("--steps", type=click.IntRange(min=1), default=300, help="Of the optimization.")
@click.option("--lr", type=float, default=0.1, help="Learning rate.")
@click.option("--vary", multiple=True, type=click.Choice(FACTORS), default=FACTORS, help="Repeatable.")
@click.option("--num-linear", type=click.IntRange(min=1), default=4000, help="Samples that the estimate learns from.")
@option_perceptual
@option_seed
@option_json
@option_model
def inversion(out: Path, as_json: bool, steps: int, lr: float, num_linear: int, **options: Any) -> None:
    """Example: voicestyle evaluate inversion --images pairs.csv --photos wild=pairs.csv -o study

    Pictures projected into the latent space under several conditions: objective, space, method, region, quality,
    resolution, and sets of pictures. The sheet shows the given pictures beside their inversions: mind whom you show it
    to.
    """
    from voicestyle.evaluate.inversion import SHEET_NOTE, StudySettings

    results.check_writable(out)
    vs = load(options)
    settings = StudySettings(steps, lr, options.pop("seed"), num_linear)
    study = _study(vs, out, settings, **options)
    study.write(out)
    results.save_picture(study.sheet(), out / "inversion.png", {**vs.metadata(), "AI-generated": SHEET_NOTE})
    results.show(study.to_dict(), as_json, lambda _: [(study.to_markdown(),)])


def _study(
    vs: VoiceStyle,
    out: Path,
    settings: StudySettings,
    *,
    perceptual: PerceptualChoice | None,
    vary: tuple[str, ...],
    **sources: Any,
) -> Any:
    """The study of what the options name."""
    from voicestyle.evaluate.inversion import study_conditions, study_inversion

    look = load_perceptual(vs, perceptual)
    (_, base), *others = _targets(vs, settings.seed, **sources)
    conditions = study_conditions(vs, base, dict(others), settings, look, vary)
    with results.progress(sum(len(c.pictures) for c in conditions), "inversion") as advance:
        return study_inversion(vs, conditions, settings, look, cache=out / "cache", progress=advance)


def _targets(
    vs: VoiceStyle,
    seed: int,
    images: Path,
    sets: dict[str, Path],
    photos: dict[str, Path],
    num: int,
    split: str,
) -> Iterator[tuple[str, Targets]]:
    """The pictures of the first row, then each further set with its name."""
    from voicestyle.evaluate.pictures import picture_items
    from voicestyle.evaluate.targets import aligned_targets, photograph_targets

    size = vs.generator.config.size
    for name, source in {"": images, **sets}.items():
        yield name, aligned_targets(picture_items(source, split, num, seed), size, _refuse)
    for name, source in photos.items():
        items = picture_items(source, split, num, seed, photographs=True)
        for how, targets in photograph_targets(items, size, _refuse).items():
            yield f"{name}, {how}", targets
