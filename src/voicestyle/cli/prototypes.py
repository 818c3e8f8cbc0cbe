"""The commands `prototypes build` and `prototypes show`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from voicestyle.cli import results
from voicestyle.cli.generate import load_perceptual, option_perceptual
from voicestyle.cli.options import load, option_json, option_model, option_out, option_seed

if TYPE_CHECKING:
    from voicestyle.build.members import Similarity
    from voicestyle.pipeline import PerceptualChoice, VoiceStyle
    from voicestyle.prototypes import PrototypeBank

METHODS: dict[str, dict[str, Any]] = {"optimize": {"start": "w_avg", "steps": 300}, "one-shot": {"steps": 0}}


@click.group(short_help="Build or show a bank of prototypes.")
def prototypes() -> None:
    """Example: voicestyle prototypes show --model my-model

    The prototypes between voices and faces.
    """


@prototypes.command(short_help="Build a bank: embed and project the pictures of its members.")
@click.argument("manifests", nargs=-1, metavar="[MANIFEST...]", type=click.Path(path_type=Path))
@option_out("A .safetensors file, or a folder for the model with its new bank.")
@click.option("--k", type=click.IntRange(min=1), default=100, help="Prototypes. Of manifests, as is --split.")
@click.option("--split", default="train", help="Which items.")
@click.option("--faces", type=click.Path(path_type=Path), help="unzippedFaces of VoxCeleb1: NAME/1.6/VIDEO/*.jpg.")
@click.option("--frontal", type=click.Path(path_type=Path), help="VGG_ALL_FRONTAL: NAME/*.jpg, instead of the frames.")
@click.option(
    "--similarity",
    type=click.Choice(["face", "clip"]),
    help="What finds a frame's frontal picture: the model's face embedding, or CLIP (open_clip).  [default: face]",
)
@click.option("--limit", type=click.IntRange(min=1), help="A sample of so many members, spread over the prototypes.")
@click.option(
    "--method",
    type=click.Choice(list(METHODS)),
    default="optimize",
    help="300 steps from w_avg, or a one-shot estimate: coarse, at less than a thousandth of the work a member (but "
    "linear first learns from 4,000 samples, for minutes).",
)
@click.option(
    "--start",
    type=click.Choice(["w_avg", "linear", "inverter", "likely"]),
    help="Of a projection; likely: the most likely latents that show who it is.  [default: the method's: w_avg; or the "
    "model's inverter, linear where it has none]",
)
@click.option("--steps", type=click.IntRange(min=0), help="Of a projection.  [default: the method's]")
@click.option("--lr", type=float, default=0.1, help="Learning rate of the projections.")
@click.option("--batch", type=click.IntRange(min=1), default=8, help="Pictures projected together; less: less memory.")
@option_perceptual
@click.option("--reference", is_flag=True, help="As the authors' code chooses and projects pictures.")
@option_seed
@option_model
def build(manifests: tuple[Path, ...], out: Path, faces: Path | None, **options: Any) -> None:
    """Example: voicestyle prototypes build pairs.csv -o my-model --k 100

    Cluster the frontal pictures of manifests, and project each once. Or give the members that a converted model lists
    their pictures (--model official --faces unzippedFaces --frontal VGG_ALL_FRONTAL), and project these. A build that
    is stopped goes on where it was. Pictures that cannot be read are left out and told of, and the status is 1.
    """
    if bool(manifests) == bool(faces):
        raise click.UsageError("name manifests, or --faces for the members that the model lists")
    results.check_writable(out.parent)
    results.check_apart([*manifests, options["model"]], [out])
    vs = load(options)
    with results.left_out() as refuse:
        if faces is None:
            bank = _build_from_manifests(vs, manifests, out, refuse, **options)
        else:
            bank = _build_from_faces(vs, faces, out, refuse, **options)
    reached = "PSNR {mean} dB on average, {least} at least".format(**bank.summary()["reconstruction_psnr_db"])
    click.echo(f"{len(bank.member_keys)} members: {reached}", err=True)
    click.echo(out)
    if refuse.reasons:
        sys.exit(1)


def _build_from_manifests(
    vs: VoiceStyle,
    manifests: tuple[Path, ...],
    out: Path,
    refuse: Callable[[str, str], None],
    *,
    k: int,
    split: str,
    **options: Any,
) -> PrototypeBank:
    from voicestyle.build.prototypes import build_prototypes

    unused = [f"--{name}" for name in ("frontal", "similarity", "limit") if options.pop(name) is not None]
    if unused:
        raise click.UsageError(f"{', '.join(unused)}: only with --faces")
    projection = _projection(vs, **options)
    with results.progress(None, "projected") as advance:
        return build_prototypes(
            vs.model, manifests, out, k=k, split=split, refuse=refuse, progress=advance, **projection
        )


def _build_from_faces(
    vs: VoiceStyle,
    faces: Path,
    out: Path,
    refuse: Callable[[str, str], None],
    *,
    k: int,
    split: str,
    frontal: Path | None,
    similarity: Similarity | None,
    limit: int | None,
    **options: Any,
) -> PrototypeBank:
    from voicestyle.build.members import build_members, find_members

    if options["reference"] and similarity in (None, "clip"):
        similarity = "clip-dot"
    projection = _projection(vs, **options)
    members = find_members(vs.bank, faces, frontal, limit, options["seed"])
    click.echo(members.summary(), err=True)
    with results.progress(len(members), "projected") as advance:
        return build_members(
            vs.model, members, out, similarity=similarity or "face", refuse=refuse, progress=advance, **projection
        )


def _projection(
    vs: VoiceStyle,
    *,
    method: str,
    start: str | None,
    steps: int | None,
    perceptual: PerceptualChoice | None,
    reference: bool,
    **options: Any,
) -> dict[str, Any]:
    """The settings of `build.prototypes.Projector`."""
    from voicestyle.inversion import REFERENCE

    given = {name: value for name, value in (("start", start), ("steps", steps)) if value is not None}
    estimate = "linear" if vs.model.inverter is None else "inverter"
    settings = {
        "start": estimate,
        **METHODS[method],
        **(REFERENCE if reference else {}),
        **options,
        **given,
        "dtype": vs.dtype,
    }
    if reference and settings["start"] != "w_avg":
        raise click.UsageError("--reference: its projections start at w_avg; leave --method and --start out")
    if reference and vs.model.identity is None:
        raise ValueError(
            f"{vs.model.folder}: no identity network, which --reference compares faces with; convert the model with "
            "--identity model_ir_se50.pth"
        )
    look = perceptual or ("lpips" if reference else "auto")
    return {**settings, "perceptual": load_perceptual(vs, look)}


@prototypes.command(short_help="Show the size of a model's bank.")
@option_json
@option_model
def show(as_json: bool, **options: Any) -> None:
    """Example: voicestyle prototypes show --model my-model

    The size of a model's bank and of its prototypes.
    """
    results.show(load(options).bank.summary(), as_json, results.flat)
