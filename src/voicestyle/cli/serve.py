"""The command that opens the page."""

from __future__ import annotations

from typing import Any

import click

from voicestyle.cli.options import load, option_model


@click.command(short_help="Open a page where voices can be recorded and faces watched.")
@click.option("--host", default="127.0.0.1", help="The address to listen at; any but this machine's needs a token.")
@click.option("--port", type=click.IntRange(1, 65535), default=8000)
@click.option("--token", envvar="VOICESTYLE_TOKEN", help="What visitors must know.  [default: made up where needed]")
@click.option("--allow-host", multiple=True, metavar="NAME", help="A name that a proxy asks for this page by.")
@click.option("--root-path", default="", metavar="/PREFIX", help="Where a proxy shows the page.")
@click.option("--max-queue", type=click.IntRange(min=1), default=16, help="Jobs that may wait.")
@option_model
def serve(host: str, port: int, token: str | None, allow_host: tuple[str, ...], root_path: str, **options: Any) -> None:
    """Example: voicestyle serve

    A page for people, and an interface for programs, described at /docs. It is reached from this machine alone unless
    told otherwise; then visitors need a token. Needs the extra `web`.
    """
    import secrets

    from voicestyle.web.serve import serve as run
    from voicestyle.web.settings import ServeSettings, is_loopback

    if token is None and not all(map(is_loopback, (host, *allow_host))):
        token = secrets.token_urlsafe(24)
    max_queue = options.pop("max_queue")
    settings = ServeSettings(host, port, root_path, token, allow_host, max_queue=max_queue)
    vs = load(options)
    query = f"?token={token}" if token else ""
    click.echo(f"http://{f'[{host}]' if ':' in host else host}:{port}{root_path}/{query}")
    run(vs, settings)
