"""The command line: each command parses, calls one function of the package, and prints."""

from __future__ import annotations

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


# -------------------------------------------------------------------------------------------------------- one model


@main.command()
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


@main.command()
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


@main.command()
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


@main.command()
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


@main.group()
def prototypes() -> None:
    """Example: voicestyle prototypes show"""


@prototypes.command()
@click.argument("manifests", nargs=-1, required=True, metavar="MANIFEST...", type=click.Path(path_type=Path))
@option_out("A .safetensors file, or a folder for the model with its new bank.")
@click.option("--k", type=click.IntRange(min=1), default=100, help="Prototypes.")
@click.option("--split", default="train", help="Of the manifests.")
@click.option("--steps", type=click.IntRange(min=0), default=300, help="Steps of each projection.")
@option_seed
@option_model
def build(manifests: tuple[Path, ...], out: Path, k: int, split: str, steps: int, seed: int, **options: Any) -> None:
    """Example: voicestyle prototypes build pairs.csv -o my-model --k 100

    Cluster the frontal pictures of manifests, and project each once. A build that is stopped goes on where it was.
    """
    from voicestyle.train.prototypes import build_prototypes

    results.check_writable(out.parent)
    vs = _load(options)
    with results.progress(None, "projected") as advance:
        build_prototypes(vs.model, manifests, out, k=k, split=split, seed=seed, steps=steps, progress=advance)
    click.echo(out)


@prototypes.command()
@option_json
@option_model
def show(as_json: bool, **options: Any) -> None:
    """Example: voicestyle prototypes show --model my-model

    The size of a model's bank and of its prototypes.
    """
    results.show(_load(options).bank.summary(), as_json, dict.items)


# ------------------------------------------------------------------------------------------------ training and tests


@main.command()
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


# ------------------------------------------------------------------------------------------------------------ models


@main.group()
def models() -> None:
    """Example: voicestyle models list"""


@models.command("list")
@option_json
def list_models(as_json: bool) -> None:
    """Example: voicestyle models list

    The models that come with the package.
    """
    from voicestyle.checkpoint import embedded_models

    for name in embedded_models():
        results.show({"model": name}, as_json, lambda r: [(r["model"],)])


@models.command()
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
