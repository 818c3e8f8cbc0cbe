"""Commands of one model: generate, embed, retrieve, invert."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from voicestyle.cli import results
from voicestyle.cli.options import load, option_align, option_json, option_model, option_out, option_seed, option_vad
from voicestyle.config import GuidanceConfig

if TYPE_CHECKING:
    from voicestyle.inversion import Perceptual
    from voicestyle.pipeline import VoiceStyle

option_perceptual = click.option(
    "--perceptual",
    type=click.Choice(["auto", "lpips", "pixel"]),
    help="How pictures are compared: by LPIPS, or by pixels at several scales; auto: LPIPS where torchvision's VGG16 "
    "is found.  [default: auto]",
)


def load_perceptual(vs: VoiceStyle, choice: str | None) -> Perceptual | None:
    """LPIPS, if it is to be had or asked for; that it is not to be had is said."""
    perceptual = vs.perceptual(choice or "auto")
    if perceptual is None and choice != "pixel":
        click.echo("No LPIPS (torchvision's VGG16 is not found): comparing by pixels and face features.", err=True)
    return perceptual


@click.command(short_help="Make faces that fit a voice.")
@click.argument("voices", nargs=-1, required=True, metavar="VOICE...")
@option_out("A .png file for one clip, else a folder.")
@click.option("--sheet", is_flag=True, help="Also a contact sheet: prototypes, start, guided faces.")
@option_seed
@click.option("--steps", type=click.IntRange(min=0), help="Guided steps.  [default: the model's]")
@click.option("--k", type=click.IntRange(min=1), help="Nearest prototypes.  [default: the model's]")
@click.option("--num-faces", type=click.IntRange(min=1), default=1, help="Faces for each voice.")
@click.option("--reference", is_flag=True, help="The settings of the authors' code, to compare with its results.")
@option_vad
@option_json
@option_model
def generate(voices: tuple[str, ...], out: Path, sheet: bool, reference: bool, as_json: bool, **options: Any) -> None:
    """Example: voicestyle generate clip.wav -o face.png --sheet

    Faces that fit a voice. They are plausible, and identify nobody.
    """
    targets = results.picture_targets(voices, out)
    vs = load(options)
    click.echo(vs.metadata()["AI-generated"], err=True)

    guidance = GuidanceConfig.reference() if reference else vs.config.guidance
    num_steps = guidance.steps if options["steps"] is None else options["steps"]

    def work(voice: str, target: Path) -> dict[str, Any]:
        with results.progress(num_steps, voice) as advance:
            made = vs.generate(voice, guidance=guidance, callback=lambda *_: advance(1), **options)
        return {"voice": voice, **results.save_generation(made, target, sheet)}

    def rows(record: dict[str, Any]) -> Any:
        return zip(record["faces"], record["similarity"], strict=True)

    results.each(zip(voices, targets, strict=True), work, as_json, rows)


@click.command(short_help="Embed voices or faces.")
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
    vs = load(options)

    def work(file: str) -> dict[str, Any]:
        emb = vs.encode_voice(file, vad=vad) if kind == "voice" else vs.encode_face(file, align)
        return {"file": file, "embedding": emb[0].tolist()}

    results.each([(file,) for file in files], work, as_json=out is None, finish=save)


@click.command(short_help="Show the prototypes nearest to a voice.")
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
    vs = load(options)
    nearest = vs.nearest_prototypes(vs.encode_voice(voice, vad=vad), k, num_members)
    record = {"voice": voice, **vs.describe(nearest)}
    if target is not None:
        results.save_picture(vs.prototype_sheet(nearest), target, vs.metadata())
    results.show(
        record, as_json, lambda r: [(name[:-1], *row.values()) for name in ("prototypes", "members") for row in r[name]]
    )


@click.command(short_help="Project pictures into the latent space.")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@option_out("A .png file for one picture, else a folder; the latent goes beside it as .npy.")
@click.option("--space", type=click.Choice(["w", "w_plus"]), default="w", help="One latent, or one a layer.")
@click.option("--steps", type=click.IntRange(min=0), default=300, help="Steps of the projection.")
@click.option("--lr", type=float, default=0.1, help="Learning rate.")
@option_perceptual
@option_seed
@option_align
@option_json
@option_model
def invert(
    images: tuple[str, ...], out: Path, space: str, steps: int, perceptual: str | None, as_json: bool, **options: Any
) -> None:
    """Example: voicestyle invert face.png -o projected.png

    Pictures projected into the latent space of the generator, and rendered from there.
    """
    targets = results.picture_targets(images, out)
    vs = load(options)
    look = "pixel" if load_perceptual(vs, perceptual) is None else "lpips"

    def work(image: str, target: Path) -> dict[str, Any]:
        with results.progress(steps, image) as advance:
            result = vs.invert(image, space, steps=steps, perceptual=look, callback=lambda *_: advance(1), **options)
        results.save_picture(vs.synthesize(result.w), target, vs.metadata())
        results.save_array(target.with_suffix(".npy"), result.w[0])
        return {
            "image": image,
            "picture": str(target),
            "latent": str(target.with_suffix(".npy")),
            "loss": result.loss.item(),
        }

    results.each(zip(images, targets, strict=True), work, as_json, lambda r: [(r["picture"], r["loss"])])
