"""The command line: each command parses, calls one function of the package, and prints. One file a group."""

from __future__ import annotations

import io
import os
import sys
import warnings
from typing import Any

import click

from voicestyle import __version__
from voicestyle.cli.calibration import calibration
from voicestyle.cli.data import data
from voicestyle.cli.evaluate import evaluate
from voicestyle.cli.evaluate_pictures import inversion, pictures
from voicestyle.cli.generate import embed, generate, invert, retrieve, sample
from voicestyle.cli.memory import keep_memory
from voicestyle.cli.models import models
from voicestyle.cli.plot import plot
from voicestyle.cli.prototypes import prototypes
from voicestyle.cli.replay import replay
from voicestyle.cli.serve import serve
from voicestyle.cli.threads import set_threads
from voicestyle.cli.train import train
from voicestyle.extras import how_to_get
from voicestyle.faults import DEBUG, show_traceback

SETTINGS = {"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": 100}
STOPPED = 130  # status of a command that Ctrl-C has ended, as shells have it
COMMANDS = (generate, sample, embed, retrieve, invert, prototypes, train, evaluate, plot, data, models, serve, replay)


class _Commands(click.Group):
    """Commands that say in one line what is wrong with an input, and end with status 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _show_warning
                return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("Stopped.", err=True)
            ctx.exit(STOPPED)
        except BrokenPipeError:  # the reader has gone; click ends quietly
            raise
        except ModuleNotFoundError as error:
            raise click.ClickException(f"{error}: {how_to_get(error.name or '')}") from error
        except (ValueError, OSError, ImportError) as error:
            show_traceback()
            raise click.ClickException(str(error)) from error


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """Where in the code a warning was raised says nothing to who runs a command."""
    click.echo(f"Warning: {message}", err=True)


@click.group(cls=_Commands, context_settings=SETTINGS)
@click.version_option(__version__, prog_name="voicestyle")
@click.option("--debug", is_flag=True, help="Print where in the code an error arose.")
def main(debug: bool) -> None:
    """Example: voicestyle generate clip.wav -o face.png

    Plausible faces for a voice. Results go to stdout, progress and errors to stderr. Status 0: all done; 1: an input
    failed, the others are done all the same; 2: wrong usage; 130: stopped by Ctrl-C.
    """
    for stream in (sys.stdout, sys.stderr):  # a letter that a terminal has not costs no line
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")
    if debug:
        os.environ[DEBUG] = "1"
    set_threads(os.environ)
    # Intel's MKL picks other code paths from run to run otherwise; read when torch is first loaded, which is later
    os.environ.setdefault("MKL_CBWR", "AUTO")
    keep_memory()


for command in COMMANDS:
    main.add_command(command)
for command in (calibration, inversion, pictures):
    evaluate.add_command(command)
