"""What commands print, and where they write: one input after the other, nothing half-written."""

from __future__ import annotations

import contextlib
import json
import math
import re
import shlex
import sys
import tempfile
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from torch import Tensor

    from voicestyle.generation import Generation
    from voicestyle.latent import LatentResult
    from voicestyle.pipeline import VoiceStyle

SHOWN_REASONS = 20  # of what is left out
SHOWN = 12  # numbers of a list that are shown
_MADE = re.compile(r"(.+)-(?:sheet|compare|morph|\d+)")  # names of what is written beside a picture
FOREIGN = (".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")  # pictures that are not written
Record = dict[str, Any]  # JSON-ready
Rows = Callable[[Record], Iterable[Sequence[Any]]]  # a record as lines for people


def each(
    inputs: Iterable[tuple[Any, ...]],
    work: Callable[..., Record],
    as_json: bool,
    rows: Rows = lambda record: [],
    finish: Callable[[list[Record], int], None] = lambda records, num_failed: None,
    advance: Callable[[int], Any] = lambda num_done: None,
) -> None:
    """Do the work for each input, which comes first of its arguments, and end with status 1 if one failed.

    An input that fails is told of on stderr (and as a record, with `as_json`); the others are done all the same.
    """
    from voicestyle.files import named

    done: list[Record] = []
    num_failed = 0
    for arguments in inputs:
        try:
            with named(arguments[0]):
                done.append(work(*arguments))
            show(done[-1], as_json, rows)
        except BrokenPipeError:
            raise
        except (ValueError, OSError) as error:
            num_failed += 1
            click.echo(f"Error: {error}", err=True)
            if as_json:
                click.echo(json.dumps({"input": str(arguments[0]), "error": str(error)}))
        advance(1)
    finish(done, num_failed)
    if num_failed:
        sys.exit(1)


def _number(value: float) -> str:
    return f"{value:.3f}" if value == 0 or abs(value) >= 1e-3 else f"{value:.1e}"


def show(record: Record, as_json: bool, rows: Rows) -> None:
    """Print a record as one line of JSON, or as lines of tab-separated values."""
    if as_json:
        click.echo(json.dumps(record))
        return
    for row in rows(record):
        click.echo("\t".join(_number(value) if isinstance(value, float) else str(value) for value in row))


def flat(record: Record, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """A nested record as lines of a name and a value, for people."""
    for name, value in record.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        elif isinstance(value, (list, tuple)) and len(value) > SHOWN and all(isinstance(v, int) for v in value):
            yield f"{prefix}{name}", f"{min(value)} to {max(value)} ({len(value)} numbers; --json has them)"
        elif isinstance(value, (list, tuple)):
            yield f"{prefix}{name}", " ".join(map(str, value)) or "none"
        else:
            yield f"{prefix}{name}", {"None": "none", "True": "yes", "False": "no"}.get(str(value), value)


@contextlib.contextmanager
def progress(total: int | None, name: str) -> Iterator[Callable[[int], Any]]:
    """A bar on stderr, where that is a terminal; the function that moves it on."""
    from tqdm import tqdm

    with tqdm(total=total, desc=name, leave=False, disable=None, file=sys.stderr) as bar:
        yield bar.update


class Refuse:
    """Tells on stderr what is left out, of the first some, and why."""

    def __init__(self, what_happened: str) -> None:
        self.what_happened = what_happened
        self.reasons: list[str] = []

    def __call__(self, what: str, reason: str) -> None:
        self.reasons.append(reason)
        if len(self.reasons) <= SHOWN_REASONS:
            click.echo(f"{self.what_happened}: {what}: {reason}", err=True)


@contextlib.contextmanager
def left_out(what_happened: str = "left out") -> Iterator[Refuse]:
    """Tells on stderr what is left out, and in the end how much in all."""
    refuse = Refuse(what_happened)
    yield refuse
    if len(refuse.reasons) > SHOWN_REASONS:
        click.echo(f"{what_happened}: {len(refuse.reasons)} in all", err=True)


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
    targets = [out] if is_file else [out / f"{name}.png" for name in _own_names([Path(name).stem for name in inputs])]
    _check_apart_from_all(inputs, targets)
    return targets


def _own_names(stems: Sequence[str]) -> list[str]:
    """A name for what is made of each input, so that no two, nor what stands beside them, overwrite each other.

    Those of one name, from two folders, get the number of the input; if that is not enough, all do.
    """
    families = [_family(f"{stem}.png") for stem in stems]
    numbered = [f"{i + 1:03d}_{stem}" for i, stem in enumerate(stems)]
    names = [n if families.count(f) > 1 else s for s, n, f in zip(stems, numbered, families, strict=True)]
    return names if len({_family(f"{name}.png") for name in names}) == len(names) else numbered


def _family(name: str) -> str:
    """What the names of all files that are made of one input have in common, also where case does not count."""
    stem = unicodedata.normalize("NFC", Path(name).stem).casefold()
    while match := _MADE.fullmatch(stem):
        stem = match[1]
    return stem


def _check_apart_from_all(inputs: Sequence[str], targets: Sequence[Path]) -> None:
    """`check_apart`, for the targets and all that may be written beside them."""
    folder = targets[0].parent.resolve()
    held = [path.name for path in (Path(name).absolute() for name in inputs) if path.parent.resolve() == folder]
    for target in targets if held else ():
        beside = re.compile(rf"{re.escape(target.stem)}(\.png|\.npy|-(sheet|compare|\d+)\.png|-morph\.(gif|mp4))", re.I)
        check_apart(inputs, [folder / name for name in held if beside.fullmatch(name)])


def check_there(inputs: Sequence[str]) -> None:
    """Raise before a model is read for nothing: where none of the inputs is there.

    Raises:
        FileNotFoundError: no such files, or a pattern that the shell did not find files for
        ValueError: folders
    """
    if any(Path(name).exists() and not Path(name).is_dir() for name in inputs):
        return
    name = inputs[0]
    if Path(name).is_dir():
        raise ValueError(f"{name}: a folder, expected a file; name files of it, e.g. {name}/*")
    hint = "no file has a name of this pattern" if set(name) & set("*?[") else "no such file; check the path"
    raise FileNotFoundError(f"{name}: {hint}" + (f" (nor is any of the {len(inputs) - 1} others)" * (len(inputs) > 1)))


def check_apart(inputs: Iterable[str | Path], outputs: Iterable[Path | None]) -> None:
    """Raise ``click.BadParameter`` where an output would be written over an input."""
    held = {Path(name).resolve(): name for name in inputs}
    for path in outputs:
        if path is not None and path.resolve() in held:
            raise click.BadParameter(
                f"{path}: is an input, and would be overwritten; name another file or folder", param_hint="-o"
            )


def file_target(out: Path | None, suffixes: Sequence[str], inputs: Iterable[str | Path] = ()) -> Path | None:
    """`out`, after making sure that it is the name of a file of these formats, can be written, and is no input."""
    check_apart(inputs, [out])
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


def save_report(vs: VoiceStyle, made: Generation, voice: str, target: Path, vad: bool | None) -> Record:
    """Write what the voice suggests as NAME-report.html; where it is, and the report itself."""
    from voicestyle.live import hear
    from voicestyle.report_page import save_report as save

    path = target.with_name(f"{target.stem}-report.html")
    command = shlex.join(["voicestyle", *sys.argv[1:]])
    told = save(vs, made, hear(vs, voice, vad=vad), path, command)
    return {"report": str(path), "suggestion": told["suggestion"]}


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


def embedding_writer(out: Path | None, inputs: Sequence[str] = ()) -> Callable[[list[Record], int], None]:
    """What writes the records of `embed` in the end: rows (.npy), files and embeddings (.npz), or an object (.json)."""
    target = file_target(out, (".npy", ".npz", ".json"), inputs)

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
