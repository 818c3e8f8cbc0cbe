"""What commands print, and where they write: one input after the other, nothing half-written."""

from __future__ import annotations

import contextlib
import json
import math
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from torch import Tensor

    from voicestyle.generation import Generation
    from voicestyle.latent import LatentResult
    from voicestyle.pipeline import VoiceStyle

FOREIGN = (".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")  # pictures that are not written
Record = dict[str, Any]  # JSON-ready
Rows = Callable[[Record], Iterable[Sequence[Any]]]  # a record as lines for people


def each(
    inputs: Iterable[tuple[Any, ...]],
    work: Callable[..., Record],
    as_json: bool,
    rows: Rows = lambda record: [],
    finish: Callable[[list[Record], int], None] = lambda records, num_failed: None,
) -> None:
    """Do the work for each input, and end the program with status 1 if one failed.

    An input that fails is told of on stderr (and as a record, with `as_json`); the others are done all the same.
    """
    done: list[Record] = []
    num_failed = 0
    for arguments in inputs:
        try:
            done.append(work(*arguments))
            show(done[-1], as_json, rows)
        except BrokenPipeError:
            raise
        except (ValueError, OSError) as error:
            num_failed += 1
            click.echo(f"Error: {error}", err=True)
            if as_json:
                click.echo(json.dumps({"input": str(arguments[0]), "error": str(error)}))
    finish(done, num_failed)
    if num_failed:
        sys.exit(1)


def show(record: Record, as_json: bool, rows: Rows) -> None:
    """Print a record as one line of JSON, or as lines of tab-separated values."""
    if as_json:
        click.echo(json.dumps(record))
        return
    for row in rows(record):
        click.echo("\t".join(f"{value:.3f}" if isinstance(value, float) else str(value) for value in row))


@contextlib.contextmanager
def progress(total: int | None, name: str) -> Iterator[Callable[[int], Any]]:
    """A bar on stderr, where that is a terminal; the function that moves it on."""
    from tqdm import tqdm

    with tqdm(total=total, desc=name, leave=False, disable=None, file=sys.stderr) as bar:
        yield bar.update


# ------------------------------------------------------------------------------------------------------- destinations


def picture_targets(inputs: Sequence[str], out: Path) -> list[Path]:
    """The .png of each input: `out` itself for one input and a name that ends in .png, else NAME.png in folder `out`.

    Raises:
        click.BadParameter: one file for several inputs, or another format
        OSError: nothing can be written there
    """
    is_file = out.suffix.lower() == ".png" and not out.is_dir()
    if out.suffix.lower() in FOREIGN:
        raise click.BadParameter(f"{out}: pictures are written as PNG; use a name that ends in .png", param_hint="-o")
    if is_file and len(inputs) > 1:
        raise click.BadParameter(f"{out}: one file for {len(inputs)} inputs; name a folder", param_hint="-o")
    check_writable(out.parent if is_file else out)
    if is_file:
        return [out]
    stems = [Path(name).stem for name in inputs]
    # two clips of one name, from two folders, must not overwrite each other
    return [out / (f"{s}.png" if stems.count(s) == 1 else f"{i + 1:03d}_{s}.png") for i, s in enumerate(stems)]


def file_target(out: Path | None, suffixes: Sequence[str]) -> Path | None:
    """`out`, after making sure that it is the name of a file of these formats and can be written."""
    if out is not None:
        if out.suffix.lower() not in suffixes or out.is_dir():
            raise click.BadParameter(f"{out}: name a file that ends in {' or '.join(suffixes)}", param_hint="-o")
        check_writable(out.parent)
    return out


def check_writable(folder: Path) -> None:
    """Raise ``OSError`` unless files can be made in the folder, or the folder can be made."""
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise OSError(f"{folder}: cannot be written to ({error.strerror}); choose another place for results") from error


# ------------------------------------------------------------------------------------------------------------ writing


def save_generation(vs: VoiceStyle, made: Generation, target: Path, sheet: bool, morph: str | None = None) -> Record:
    """Write the faces; what was made, and where.

    The contact sheet is NAME-sheet.png, and `morph`, "gif" or "mp4", asks for NAME-morph.gif or .mp4.
    """
    from voicestyle.show import generation_sheet, save_morph

    target.parent.mkdir(parents=True, exist_ok=True)
    record = {"faces": [str(path) for path in made.save(target)], **made.summary()}
    if sheet:
        record["sheet"] = str(target.with_stem(f"{target.stem}-sheet"))
        save_picture(generation_sheet(vs, made), Path(record["sheet"]), vs.metadata())
    if morph:
        record["morphs"] = [
            str(path) for path in save_morph(vs, made, target.with_name(f"{target.stem}-morph.{morph}"))
        ]
    return record


def save_inversion(vs: VoiceStyle, found: LatentResult, target: Path, given: Tensor | None = None) -> Record:
    """Write the picture of a latent, and the latent as NAME.npy; beside what was `given`, as NAME-compare.png too."""
    from voicestyle.sheet import contact_sheet

    image = vs.synthesize(found.w)
    save_picture(image, target, vs.metadata())
    save_array(target.with_suffix(".npy"), found.w[0])
    record = {"picture": str(target), "latent": str(target.with_suffix(".npy")), "loss": found.loss.item()}
    if given is not None:
        record["compared"] = str(target.with_stem(f"{target.stem}-compare"))
        tiles = [(given, "given"), (image, "inverted (AI-generated)")]
        save_picture(contact_sheet([("", tiles)], tile=256), Path(record["compared"]), vs.metadata())
    return record


def check_sample_target(out: Path) -> None:
    """Raise where random faces cannot be written: as one .png, or into a folder."""
    if out.suffix.lower() == ".png" and not out.is_dir():
        check_writable(out.parent)
    else:
        picture_targets(("sample",), out)


def save_samples(images: Tensor, out: Path, metadata: dict[str, str]) -> Record:
    """Write pictures (N,3,size,size) into a folder, or as one sheet (.png); where they are."""
    from voicestyle.sheet import contact_sheet

    if out.suffix.lower() == ".png" and not out.is_dir():
        columns = math.ceil(math.sqrt(len(images)))
        rows = [("", [(image, "") for image in part]) for part in images.split(columns)]
        save_picture(contact_sheet(rows), out, metadata)
        return {"pictures": [str(out)]}
    targets = [out / f"{number + 1:05d}.png" for number in range(len(images))]
    for number, target in enumerate(targets):
        save_picture(images[number : number + 1], target, {**metadata, "face": str(number)})
    return {"pictures": [str(target) for target in targets]}


def save_picture(image: Any, target: Path, metadata: dict[str, str]) -> None:
    """Write a PNG, and its folder where there is none."""
    from voicestyle.image import save_png

    target.parent.mkdir(parents=True, exist_ok=True)
    save_png(image, target, metadata)


def save_array(target: Path, array: Any) -> None:
    """Write a .npy."""
    import numpy as np

    with _whole(target) as file:
        np.save(file, np.asarray(array, np.float32))


def embedding_writer(out: Path | None) -> Callable[[list[Record], int], None]:
    """What writes the records of `embed` in the end: rows (.npy), files and embeddings (.npz), or an object (.json)."""
    target = file_target(out, (".npy", ".npz", ".json"))

    def write(records: list[Record], num_failed: int) -> None:
        import numpy as np

        if target is None or not records:
            return
        files, embeddings = [r["file"] for r in records], np.asarray([r["embedding"] for r in records], np.float32)
        if target.suffix == ".npy" and num_failed:
            raise ValueError(f"{target}: not written, its rows would not match the files; use .npz, which names them")
        with _whole(target) as file:
            if target.suffix == ".npy":
                np.save(file, embeddings)
            elif target.suffix == ".npz":
                np.savez(file, files=files, embeddings=embeddings)
            else:
                file.write(json.dumps({r["file"]: r["embedding"] for r in records}).encode())
        click.echo(target)

    return write


@contextlib.contextmanager
def _whole(target: Path) -> Iterator[Any]:
    """A binary file that takes the target's place once it is whole."""
    from voicestyle.files import written_whole

    with written_whole(target) as beside, beside.open("wb") as file:
        yield file
