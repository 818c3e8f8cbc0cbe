"""Many inputs at once: the options `--jobs` and `--cluster`, and the run that they ask for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from voicestyle.cli import results

if TYPE_CHECKING:
    from voicestyle.bulk.run import Summary
    from voicestyle.bulk.work import What
    from voicestyle.config import Side
    from voicestyle.pipeline import VoiceStyle


def option_bulk(function: Callable) -> Callable:
    """Who shares the work; results go into a folder then."""
    for option in (
        click.option(
            "--cluster", metavar="WHERE", help="Workers of Dask: tcp://HOST:PORT, local:N, or slurm.toml. OUT as there."
        ),
        click.option(
            "--jobs",
            type=click.IntRange(min=1),
            metavar="N",
            help="Processes of one thread. OUT becomes a folder of Parquet and pictures, and a stopped run goes on.",
        ),
    ):
        function = option(function)
    return function


def folder_of_many(sources: Sequence[str], jobs: int | None, cluster: str | None, out: Path | None) -> Path | None:
    """The folder for the results of inputs that are shared out among workers; None for inputs done one by one.

    They are shared out where that is asked for, and out of folders, tables and tars.
    """
    from voicestyle.bulk.items import is_many

    if jobs is not None and cluster is not None:
        raise click.UsageError("--jobs and --cluster: name one of them")
    if jobs is None and cluster is None and not is_many(sources):
        return None
    if out is None or out.suffix:
        raise click.BadParameter(f"{out}: many inputs need the name of a folder", param_hint="-o")
    return out


def run_bulk(
    vs: VoiceStyle,
    what: What,
    kind: Side,
    sources: Sequence[str],
    out: Path,
    jobs: int | None,
    cluster: str | None,
    options: dict[str, Any],
    as_json: bool,
    model: dict[str, Any],
) -> None:
    """Do it, tell how it went, and end with status 1 if an item failed."""
    from voicestyle.bulk import workers
    from voicestyle.bulk.items import count, items
    from voicestyle.bulk.run import run
    from voicestyle.bulk.work import Job

    who = workers.cluster(cluster) if cluster else workers.processes(jobs or 1)
    prints = {"encoder": vs.model.encoder_fingerprint, "generator": vs.model.generator_fingerprint}
    with results.progress(count(sources, kind), what) as advance:
        job = Job(what, kind, options=options, **model)
        summary = run(items(sources, kind), job, out, who, prints, progress=advance)
    _tell(summary, out, as_json)


def _tell(summary: Summary, out: Path, as_json: bool) -> None:
    for name, error in summary.failed.items():
        click.echo(f"Error: {error if name in error else f'{name}: {error}'}", err=True)
    for worker, num in sorted(summary.num_of.items()):
        seconds = summary.seconds_of[worker]
        click.echo(f"{worker}: {num} done, {num / seconds if seconds else 0:.2f} a second", err=True)
    record = {"out": str(out), "done": summary.num_done, "there": summary.num_there, "failed": len(summary.failed)}
    results.show(record, as_json, dict.items)
    if summary.failed:
        raise SystemExit(1)
