"""The command that makes a face again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from voicestyle.cli import results
from voicestyle.cli.options import load, option_json, option_model, option_out


@click.command(short_help="Make a face again from the .json that the page gives.")
@click.argument("files", nargs=-1, required=True, metavar="FACE.json...")
@option_out("A .png file for one face, else a folder.")
@click.option("--sheet", is_flag=True, help="Also a contact sheet: prototypes, start, guided faces.")
@option_json
@option_model
def replay(files: tuple[str, ...], out: Path, sheet: bool, as_json: bool, **options: Any) -> None:
    """Example: voicestyle replay face.json -o face.png

    The faces of such a file once more: same model, seed and settings, without the recording.
    """
    from voicestyle.replay import make_again

    targets = results.picture_targets(files, out)
    vs = load(options)

    def work(file: str, target: Path) -> dict[str, Any]:
        with results.progress(None, file) as advance:
            made = make_again(vs, file, lambda *_: advance(1))
        return {"file": file, **results.save_generation(vs, made, target, sheet)}

    rows: results.Rows = lambda record: zip(record["faces"], record["similarity"], strict=True)  # noqa: E731
    results.each(zip(files, targets, strict=True), work, as_json, rows)
