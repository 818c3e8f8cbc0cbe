"""The commands `plot training|space|similarities|prototypes|interpolations`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from voicestyle.cli import results
from voicestyle.cli.options import load, option_model, option_out, option_seed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from voicestyle.data.manifest import Item
    from voicestyle.evaluate.embeddings import Source
    from voicestyle.evaluate.protocol import Faces
    from voicestyle.plots.space import Method


@click.group(short_help="Draw training curves, similarities, the joint space, prototypes.")
def plot() -> None:
    """Example: voicestyle plot training runs/encoder -o curves.png

    Pictures of training runs and of models.
    """


def _check(out: Path) -> None:
    """Refuse a name that no figure can be written under, before the work begins."""
    from voicestyle.plots import FORMATS

    results.file_target(out, FORMATS)


def _write(figure: Figure, target: Path) -> None:
    """Write a figure, and its folder where there is none."""
    from voicestyle.plots import save_figure

    target.parent.mkdir(parents=True, exist_ok=True)
    save_figure(figure, target)
    click.echo(target)


@plot.command(short_help="What the logs of training runs hold.")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path))
@option_out("A .png, .svg or .pdf file.")
def training(runs: tuple[Path, ...], out: Path) -> None:
    """Example: voicestyle plot training runs/seed0 runs/seed1 -o curves.png

    Losses, AUCs, learning rates and whatever else the logs of runs hold, against the step.
    """
    from voicestyle.plots import training_curves

    _check(out)
    _write(training_curves(runs), out)


def option_pairs(function: Callable) -> Callable:
    """Which pairs are drawn, and where to."""
    for option in (
        option_model,
        option_seed,
        click.option("--cache", type=click.Path(path_type=Path), help="Folder of embeddings that are kept."),
        click.option("--faces", type=click.Choice(["frontal", "wild"]), default="frontal", help="Which pictures."),
        click.option("--split", "splits", multiple=True, default=("val",), help="Of the manifest; may be repeated."),
        option_out("A .png, .svg or .pdf file."),
        click.argument("manifest", type=click.Path(path_type=Path)),
    ):
        function = option(function)
    return function


def _embed(
    manifest: Path, splits: tuple[str, ...], faces: Faces, cache: Path | None, seed: int, **model: Any
) -> tuple[list[Item], Any, Any]:
    """The usable pairs of the splits and their embeddings of voices and faces; others are told of and left out."""
    from voicestyle.data.manifest import Manifest
    from voicestyle.evaluate.embeddings import Averaging, encode
    from voicestyle.evaluate.protocol import manifest_protocol

    def refuse(source: Source, error: Exception) -> None:
        click.echo(f"left out: {source.side} {source.name}: {error}", err=True)

    pairs = Manifest.read(manifest)
    parts = [manifest_protocol(pairs, "retrieval", split, faces=faces) for split in dict.fromkeys(splits)]
    vs, averaging = load(model), Averaging(seed=seed)
    with results.progress(sum(map(len, parts)), "embedded") as advance:
        sides = [[source for part in parts for source in getattr(part, side)] for side in ("voices", "faces")]
        of_voices, of_faces = (encode(vs, sources, averaging, cache, refuse, advance) for sources in sides)
    both = of_voices.rows.keys() & of_faces.rows.keys()
    items = [item for part in parts for item in part.items if item.key in both]
    keys = [item.key for item in items]
    return items, of_voices.emb[of_voices.find(keys)], of_faces.emb[of_faces.find(keys)]


@plot.command(short_help="Voices and faces on a map of the joint space.")
@option_pairs
@click.option("--color", type=click.Choice(["gender", "split", "identity"]), default="gender", help="Known label.")
@click.option("--method", type=click.Choice(["tsne", "pca"]), default="tsne", help="How the dimensions are reduced.")
def space(out: Path, color: str, method: Method, **options: Any) -> None:
    """Example: voicestyle plot space pairs.csv -o map.png --color gender

    The voices and faces of a manifest on a map of the joint space, colored by a known label.
    """
    from voicestyle.plots import labels_of, space_map

    _check(out)
    items, voice_emb, face_emb = _embed(**options)
    kinds, labels = ["voice"] * len(items) + ["face"] * len(items), 2 * labels_of(items, color)
    _write(space_map([*voice_emb, *face_emb], kinds, labels, color=color, method=method, seed=options["seed"]), out)


@plot.command(short_help="How alike voices and faces are.")
@option_pairs
def similarities(out: Path, **options: Any) -> None:
    """Example: voicestyle plot similarities pairs.csv -o histogram.png

    The similarities of voices with faces of the same person, of other people, and of others of the same gender.
    """
    from voicestyle.plots import similarity_groups, similarity_histogram

    _check(out)
    items, voice_emb, face_emb = _embed(**options)
    people, genders = [item.identity for item in items], [item.gender for item in items]
    _write(similarity_histogram(similarity_groups(voice_emb, face_emb, people, genders, options["seed"])), out)


@plot.command(short_help="A bank of prototypes on contact sheets.")
@option_out("A .png file (NAME-1.png, NAME-2.png, ... where it takes several), or a folder.")
@click.option("--num-members", type=click.IntRange(min=0), default=8, help="Faces beside each mean.")
@click.option("--per-page", type=click.IntRange(min=1), default=10, help="Prototypes on a sheet.")
@option_model
def prototypes(out: Path, num_members: int, per_page: int, **options: Any) -> None:
    """Example: voicestyle plot prototypes -o prototypes.png --model my-model

    Every prototype of a model: the face of its mean latent and the members nearest to it, rendered from latents.
    """
    from voicestyle.show import prototype_sheet

    vs = load(options)
    numbers = range(len(vs.bank.centroids))
    pages = [numbers[start : start + per_page] for start in range(0, len(numbers), per_page)]
    with results.progress(len(numbers), "prototypes") as advance:
        for page, target in zip(pages, _page_targets(out, len(pages)), strict=True):
            results.save_picture(prototype_sheet(vs, page, num_members), target, vs.metadata())
            click.echo(target)
            advance(len(page))


@plot.command(short_help="The ways between prototypes.")
@option_out("A .png file.")
@click.option("--num", type=click.IntRange(min=1), default=6, help="Pairs of prototypes, drawn with the seed.")
@click.option("--steps", type=click.IntRange(min=2), default=7, help="Faces in a row, both ends among them.")
@option_seed
@option_model
def interpolations(out: Path, num: int, steps: int, **options: Any) -> None:
    """Example: voicestyle plot interpolations -o ways.png --num 4 --seed 1

    Straight ways in the latent space between the mean faces of two prototypes: where the bank is good, every face on
    them looks like one.
    """
    import numpy as np

    from voicestyle.show import interpolation_sheet

    (target,) = results.picture_targets(["interpolations"], out)
    vs = load(options)
    sizes = vs.bank.assignments.bincount(minlength=len(vs.bank.centroids))
    full, rng = sizes.nonzero().flatten().numpy(), np.random.default_rng(options["seed"])
    pairs = [tuple(rng.choice(full, 2, replace=len(full) < 2).tolist()) for _ in range(num)]
    results.save_picture(interpolation_sheet(vs, pairs, steps), target, vs.metadata())
    click.echo(target)


def _page_targets(out: Path, num_pages: int) -> list[Path]:
    """`out`, or NAME-1.png, NAME-2.png, ... for several pages; prototypes-1.png, ... in a folder."""
    if out.suffix.lower() == ".png" and not out.is_dir():
        if num_pages == 1:
            return results.picture_targets(["one page"], out)
        folder, name = out.parent, out.stem
    else:
        folder, name = out, "prototypes"
    pages = [f"{name}-{i + 1:0{len(str(num_pages))}d}" for i in range(num_pages)]
    # one by one: together, numbered names are taken for faces of one input
    return [results.picture_targets([page], folder)[0] for page in pages]
