"""Commands of one model: generate, sample, embed, retrieve, invert."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from voicestyle.cli import results
from voicestyle.cli.bulk import folder_of_many, option_bulk, run_bulk
from voicestyle.cli.options import load, option_align, option_json, option_model, option_out, option_seed, option_vad
from voicestyle.config import GuidanceConfig, Side

if TYPE_CHECKING:
    from voicestyle.inversion import Perceptual
    from voicestyle.pipeline import PerceptualChoice, VoiceStyle

FACTOR = click.FloatRange(min=0)
STEPS = {"w_avg": 300, "linear": 50, "inverter": 50, "likely": 0}  # of an inversion, by where it starts

option_perceptual = click.option(
    "--perceptual",
    type=click.Choice(["auto", "lpips", "efficientnet", "pixel"]),
    help="How pictures are compared: by LPIPS, by features of EfficientNet-Lite1 (extra 'perceptual'), or by pixels at "
    "several scales; auto: LPIPS where torchvision's VGG16 is found, else pixels.  [default: auto]",
)


def load_perceptual(vs: VoiceStyle, choice: PerceptualChoice | None) -> Perceptual | None:
    """The network that compares pictures, None for pixels; that LPIPS is not to be had is said."""
    perceptual = vs.perceptual(choice or "auto")
    if perceptual is None and choice != "pixel":
        click.echo("No LPIPS (torchvision's VGG16 is not found): comparing by pixels and face features.", err=True)
    return perceptual


@click.command(short_help="Make faces that fit a voice.")
@click.argument("voices", nargs=-1, required=True, metavar="VOICE...")
@option_out("A .png file for one clip, else a folder.")
@click.option("--sheet", is_flag=True, help="Also a contact sheet: prototypes, start, guided faces.")
@click.option("--morph", is_flag=True, help="Also a moving picture: from the prototype to the guided face and back.")
@click.option("--report", is_flag=True, help="Also NAME-report.html: what the voice suggests, and how sure that is.")
@click.option("--morph-format", type=click.Choice(["gif", "mp4"]), default="gif", help="Of the moving picture.")
@option_seed
@click.option("--steps", type=click.IntRange(min=0), help="Guided steps.  [default: the model's]")
@click.option("--k", type=click.IntRange(min=1), help="Nearest prototypes.  [default: the model's]")
@click.option("--num-faces", type=click.IntRange(min=1), default=1, help="Faces for each voice.")
@click.option("--diversity", type=FACTOR, help="How unlike several faces are.  [default: the model's]")
@click.option("--truncation-psi", type=FACTOR, help="Of the starts; 0: the mean face.  [default: the model's]")
@click.option("--reference", is_flag=True, help="The settings of the authors' code, to compare with its results.")
@click.option("--fast", is_flag=True, help="One pass of the model's mapper instead of guided steps.")
@option_vad
@option_bulk
@option_json
@option_model
def generate(voices: tuple[str, ...], out: Path, sheet: bool, as_json: bool, **options: Any) -> None:
    """Example: voicestyle generate clip.wav -o face.png --sheet

    Faces that fit a voice. They are plausible, and identify nobody. VOICE may be a folder, a manifest or a .tar, too.
    """
    jobs, cluster = options.pop("jobs"), options.pop("cluster")
    if folder := folder_of_many(voices, jobs, cluster, out):
        return _generate_many(voices, folder, jobs, cluster, sheet, as_json, options)
    targets = results.picture_targets(voices, out)
    results.check_there(voices)
    vs = load(options)
    click.echo(vs.metadata()["AI-generated"], err=True)
    guidance = _guidance(vs, options)
    moving, kind, report = options.pop("morph"), options.pop("morph_format"), options.pop("report")

    def work(voice: str, target: Path) -> dict[str, Any]:
        with results.progress(guidance.steps, voice) as advance:
            made = vs.generate(voice, guidance=guidance, callback=lambda *_: advance(1), **options)
        told = results.save_report(vs, made, voice, target, options["vad"]) if report else {}
        return {"voice": voice, **results.save_generation(vs, made, target, sheet, kind if moving else None), **told}

    def rows(record: dict[str, Any]) -> Any:
        percentiles = [] if record["percentile"] is None else [record["percentile"]]
        yield from zip(record["faces"], record["similarity"], *percentiles, strict=True)
        yield from ((path,) for path in record.get("morphs", ()))

    results.each(zip(voices, targets, strict=True), work, as_json, rows)


def _generate_many(
    voices: tuple[str, ...],
    out: Path,
    jobs: int | None,
    cluster: str | None,
    sheet: bool,
    as_json: bool,
    options: dict[str, Any],
) -> None:
    more, num_faces = (options.pop("morph"), options.pop("report")), options.pop("num_faces")
    if sheet or any(more) or num_faces > 1:
        raise click.UsageError("--sheet, --morph, --report and --num-faces: not for many inputs at once")
    model = {name: options[name] for name in ("model", "device", "dtype")}
    vs = load(options)
    click.echo(vs.metadata()["AI-generated"], err=True)
    guidance = dataclasses.asdict(_guidance(vs, options))
    asked = {"guidance": guidance, "seed": options["seed"], "vad": options["vad"]}
    run_bulk(vs, "generate", "voice", voices, out, jobs, cluster, asked, as_json, model)


def _guidance(vs: VoiceStyle, options: dict[str, Any]) -> GuidanceConfig:
    """The settings of the method that the options ask for, which are taken out of `options`."""
    given = {name: options.pop(name) for name in ("k", "steps", "diversity", "truncation_psi")}
    if options.pop("fast"):
        if given["steps"] or options["reference"]:
            raise click.UsageError("--fast: takes no guided steps; leave --steps and --reference out")
        given |= {"fast": True, "steps": 0}
    base = GuidanceConfig.reference() if options.pop("reference") else vs.config.guidance
    return dataclasses.replace(base, **{name: value for name, value in given.items() if value is not None})


@click.command(short_help="Show random faces of the generator.")
@option_out("A folder for a .png a face, or a .png file for one sheet of them all.")
@click.option("--num", type=click.IntRange(min=1), default=16, help="Faces.")
@click.option("--truncation-psi", type=FACTOR, default=1.0, help="Below 1: nearer to the mean face.")
@option_seed
@option_json
@option_model
def sample(out: Path, num: int, truncation_psi: float, seed: int, as_json: bool, **options: Any) -> None:
    """Example: voicestyle sample -o faces --num 16 --seed 0 --truncation-psi 0.7

    Random faces of the generator, of no voice.
    """
    results.check_sample_target(out)
    vs = load(options)
    with results.progress(num, "faces") as advance:
        images = vs.sample(num, seed, truncation_psi, progress=advance)
    settings = {"seed": str(seed), "truncation_psi": str(truncation_psi)}
    record = results.save_samples(images, out, {**vs.metadata(), **settings})
    results.show(record, as_json, lambda r: [(path,) for path in r["pictures"]])


@click.command(short_help="Embed voices or faces.")
@click.argument("kind", type=click.Choice(["voice", "face"]))
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@option_out("A .npy (rows), .npz (files, embeddings) or .json file.  [default: JSON lines on stdout]", required=False)
@option_align
@option_vad
@option_bulk
@option_model
def embed(kind: Side, files: tuple[str, ...], out: Path | None, align: bool, vad: bool | None, **options: Any) -> None:
    """Example: voicestyle embed voice a.wav b.wav -o voices.npz

    The unit embeddings of voices or faces. FILE may be a folder, a manifest or a .tar, too.
    """
    jobs, cluster = options.pop("jobs"), options.pop("cluster")
    if folder := folder_of_many(files, jobs, cluster, out):
        model = dict(options)
        asked = {"vad": vad} if kind == "voice" else {"align": align}
        return run_bulk(load(options), "embed", kind, files, folder, jobs, cluster, asked, False, model)
    save = results.embedding_writer(out, files)
    results.check_there(files)
    vs = load(options)

    def work(file: str) -> dict[str, Any]:
        emb = vs.encode_voice(file, vad=vad) if kind == "voice" else vs.encode_face(file, align)
        return {"file": file, "embedding": emb[0].tolist()}

    with results.progress(len(files), kind) if out else nullcontext(lambda num: None) as advance:
        results.each([(file,) for file in files], work, as_json=out is None, finish=save, advance=advance)


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
    target = results.file_target(out, (".png",), [voice])
    results.check_there([voice])
    vs = load(options)
    nearest = vs.nearest_prototypes(vs.encode_voice(voice, vad=vad), k, num_members)
    record = {"voice": voice, **vs.describe(nearest)}
    if target is not None:
        from voicestyle.show import nearest_sheet

        results.save_picture(nearest_sheet(vs, nearest), target, vs.metadata())
    results.show(
        record,
        as_json,
        lambda r: [(name[:-1], *_known(row)) for name in ("prototypes", "members") for row in r[name]],
    )


def _known(row: dict[str, Any]) -> list[Any]:
    """The values of a row that there are: a model may know no percentiles."""
    return [value for value in row.values() if value is not None]


@click.command(short_help="Project pictures into the latent space.")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@option_out("A .png file for one picture, else a folder; the latent goes beside it as .npy.")
@click.option("--space", type=click.Choice(["w", "w_plus"]), default="w", help="One latent, or one a layer.")
@click.option(
    "--start",
    type=click.Choice(["w_avg", "linear", "inverter", "likely"]),
    help="The mean face, or an estimate; likely: the most likely latent that shows who it is.  [default: the model's "
    "inverter; w_avg for a face alone, or without inverter]",
)
@click.option(
    "--steps",
    type=click.IntRange(min=0),
    help="Of the projection.  [default: 300 from w_avg, 50 from an estimate, 0 from the most likely one]",
)
@click.option(
    "--region",
    type=click.Choice(["all", "face"]),
    help="Where the look counts; who it is, everywhere.  [default: face with --align, else all]",
)
@click.option("--lr", type=float, default=0.1, help="Learning rate.")
@click.option("--compare", is_flag=True, help="Also NAME-compare.png: what was inverted beside its inversion.")
@option_perceptual
@option_seed
@option_align
@option_bulk
@option_json
@option_model
def invert(
    images: tuple[str, ...],
    out: Path,
    align: bool,
    compare: bool,
    perceptual: PerceptualChoice | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Example: voicestyle invert photo.jpg -o face.png --align --compare

    Pictures projected into the latent space of the generator, and rendered from there.
    """
    jobs, cluster = options.pop("jobs"), options.pop("cluster")
    model = {name: options[name] for name in ("model", "device", "dtype")}
    folder = folder_of_many(images, jobs, cluster, out)
    targets = [] if folder else results.picture_targets(images, out)
    if not folder:
        results.check_there(images)
    vs = load(options)
    options["region"] = options["region"] or vs.default_region(align)
    options["start"] = start = options["start"] or vs.default_start(options["region"])
    look = load_perceptual(vs, perceptual)
    options["perceptual"] = "pixel" if look is None else look.name.lower()
    if options["steps"] is None:
        options["steps"] = STEPS[start]
    if folder:
        asked = {"align": align, **options}
        return run_bulk(vs, "invert", "face", images, folder, jobs, cluster, asked, as_json, model)

    def work(image: str, target: Path) -> dict[str, Any]:
        given = vs.aligned(image, align)
        with results.progress(options["steps"], image) as advance:
            found = vs.invert(given, callback=lambda *_: advance(1), **options)
        return {"image": image, "start": start, **results.save_inversion(vs, found, target, given if compare else None)}

    results.each(zip(images, targets, strict=True), work, as_json, lambda r: [(r["picture"], r["loss"])])
