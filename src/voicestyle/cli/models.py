"""The commands `models list|assemble|convert|push|info|download`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from voicestyle.cli import results
from voicestyle.cli.options import load, option_json, option_model, option_out, option_overrides, option_seed

if TYPE_CHECKING:
    from voicestyle.config import CmpcSize
    from voicestyle.published import PublicFile

PATH = click.Path(path_type=Path)


@click.group(short_help="List or describe models.")
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
    from voicestyle.embedded import embedded_models

    for name in embedded_models():
        results.show({"model": name}, as_json, lambda r: [(r["model"],)])


@models.command(short_help="Join a trained encoder and generator.")
@click.argument("recipe", type=click.Path(path_type=Path))
@option_out("The model folder.")
@option_overrides
def assemble(recipe: Path, out: Path, overrides: tuple[str, ...]) -> None:
    """Example: voicestyle models assemble recipes/embedded_model.toml -o my-model

    A model folder out of a trained encoder and generator, still without prototypes (see `prototypes build`).
    """
    from voicestyle.build.assemble import ModelRecipe, assemble_model
    from voicestyle.train.recipe import load_recipe

    results.check_writable(out.parent)
    click.echo(assemble_model(load_recipe(recipe, ModelRecipe, overrides), out))


@models.command(short_help="Teach a model to do without guided steps.")
@click.argument("manifests", nargs=-1, required=True, metavar="MANIFEST...", type=PATH)
@option_out("The model folder.")
@click.option("--split", default="train", help="Which voices.")
@click.option("--limit", type=click.IntRange(min=10), default=400, help="Voices.")
@click.option("--steps", type=click.IntRange(min=1), default=250, help="Of learning, 8 voices each.")
@option_seed
@option_json
@option_model
def distill(manifests: tuple[Path, ...], out: Path, as_json: bool, **options: Any) -> None:
    """Example: voicestyle models distill pairs.csv --model my-model -o my-fast-model

    The model with a mapper, which `generate --fast` uses: what guidance does, in one pass.
    """
    from voicestyle.build.mapper import distill as learn

    results.check_writable(out.parent)
    vs = load(options)
    with results.progress(options["limit"] + options["steps"], "distill") as advance:
        _, report = learn(vs, manifests, out, progress=advance, **options)
    results.show({"model": str(out), **report}, as_json, dict.items)


@models.command(short_help="Make a model of the authors' files.")
@click.option("--cmpc", type=PATH, required=True, help="model_best_256.pth.tar, or a release of CMPC (224 px).")
@click.option("--memory", type=PATH, help="frame_memory_best_256.pth.tar; with --index.")
@click.option("--index", type=PATH, help="training.csv, the videos behind the memory.")
@click.option("--stylegan", type=PATH, help="550000.pt, or another generator of rosinality's layout.")
@click.option("--identity", type=PATH, help="model_ir_se50.pth.")
@option_out("The model folder.")
@click.option("--cmpc-size", type=click.Choice(["224", "256"]), help="Pixels.  [default: by the name of the file]")
@click.option("--num-prototypes", type=int, default=1000, help="Which K of the memory: 500, 1000 or 1500.")
@option_seed
@click.option("--name", default="voicestyle-official", help="Of the model.")
@click.option("--license", default="unspecified", help="Of the model.")
@option_json
def convert(out: Path, cmpc_size: str | None, as_json: bool, **options: Any) -> None:
    """Example: voicestyle models convert --cmpc model_best_256.pth.tar -o official

    A model folder out of the authors' files, every key accounted for and checked against them. It has no pictures of
    the prototypes' members yet (see `prototypes build`).
    """
    from voicestyle.convert.official import OfficialFiles, convert_official

    paths = {part: options.pop(part) for part in ("cmpc", "memory", "index", "stylegan", "identity")}
    if (paths["memory"] is None) != (paths["index"] is None):
        raise click.UsageError("--memory and --index belong together")
    results.check_writable(out.parent)
    size: CmpcSize | None = None if cmpc_size is None else 224 if cmpc_size == "224" else 256
    results.show(convert_official(OfficialFiles(**paths), out, cmpc_size=size, **options), as_json, results.flat)


@models.command(short_help="Put a model on a hub.")
@click.argument("folder", type=PATH)
@click.argument("address", metavar="hf://ORG/NAME")
@click.option("--public", is_flag=True, help="Everybody may read it; look at its licence first.")
def push(folder: Path, address: str, public: bool) -> None:
    """Example: voicestyle models push my-model hf://my-lab/my-model

    A model folder as a repository of a Hugging Face hub, from where `--model hf://my-lab/my-model` takes it. Needs the
    extra `hub`; HF_TOKEN or `hf auth login` says who you are.
    """
    from voicestyle import hub
    from voicestyle.checkpoint import load_model

    load_model(folder)  # nothing that could not be loaded is given to others
    click.echo(hub.push(folder, address, private=not public))


@models.command(short_help="Describe a model and its sources.")
@click.argument("model", default="voicestyle-small")
@option_json
def info(model: str, as_json: bool) -> None:
    """Example: voicestyle models info my-model

    What a model consists of and where it comes from. MODEL is a name or a folder.
    """
    from voicestyle.checkpoint import load_model

    results.show(load_model(model).summary(), as_json, results.flat)


@models.command(short_help="Fetch public weights, or list them.")
@click.argument("name", required=False)
@option_out("The folder.  [default: weights]", required=False)
@click.option("--mirror", metavar="URL", help="A folder on a server that has the files under their names.")
@click.option("--proxy", metavar="URL", help="Instead of what http_proxy and https_proxy say.")
@click.option("--list", "list_only", is_flag=True, help="Say what there is, under which license, and where.")
@option_json
def download(
    name: str | None, out: Path | None, mirror: str | None, proxy: str | None, list_only: bool, as_json: bool
) -> None:
    """Example: voicestyle models download vgg16 -o weights

    Public weights, verified, and nothing half-written: a transfer that broke off goes on when the command is run
    again. It says what to do by hand where a file cannot be fetched. NAME is one of `--list`.
    """
    from voicestyle.download import fetch
    from voicestyle.published import KNOWN

    def work(_: str, file: PublicFile) -> results.Record:
        path, sha256 = fetch(file, out or Path("weights"), mirror, proxy)
        return {"file": str(path), "sha256": sha256, "license": file.license}

    if list_only:
        for known, files in KNOWN.items():
            for file in files:
                record = asdict(file) | {"name": known, "file": file.name}
                results.show(record, as_json, lambda r: [(r["name"], r["file"], r["what"], r["license"], r["address"])])
    elif name not in KNOWN:
        raise click.BadParameter(f"got {name}, expected one of {', '.join(KNOWN)}, or --list", param_hint="NAME")
    else:
        results.each([(file.name, file) for file in KNOWN[name]], work, as_json, lambda r: [(r["file"], r["sha256"])])
