"""``eoforge console``: the web console on a laptop, over services and tables that are there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eoforge.cli.options import DEFAULT_SERVER
from eoforge.cli.output import Json, say

PORT = 8090


def console(
    retrieval: Annotated[str | None, typer.Option(help="HOST:PORT of a retrieval service.")] = DEFAULT_SERVER,
    federation: Annotated[str | None, typer.Option(help="HOST:PORT of a coordinator.")] = None,
    compression: Annotated[str | None, typer.Option(help="HOST:PORT of a compression service.")] = None,
    table: Annotated[str | None, typer.Option(help="TABLE of patches [EOFORGE_PATCHES_URI].")] = None,
    streams: Annotated[str | None, typer.Option(help="TABLE of their streams [EOFORGE_STREAMS_URI].")] = None,
    runs: Annotated[str | None, typer.Option(help="Folder with run bundles [EOFORGE_RUNS_URI].")] = None,
    annotations: Annotated[
        str | None, typer.Option(help="Folder with annotation sessions [EOFORGE_ANNOTATIONS_URI].")
    ] = None,
    ca: Annotated[Path | None, typer.Option(help="CA certificate of the services; turns TLS on.")] = None,
    token: Annotated[
        str | None, typer.Option(envvar="EOFORGE_TOKEN", help="Bearer token that goes on to the services.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to bind [EOFORGE_HOST].")] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="HTTP port.")] = PORT,
    json: Json = False,
) -> None:
    """Show the archive, the search, runs and federations in the browser, at this machine's address alone."""
    serve_console(
        retrieval_target=retrieval,
        federation_target=federation,
        compression_target=compression,
        patches_uri=table,
        streams_uri=streams,
        runs_uri=runs,
        annotations_uri=annotations,
        service_ca_file=ca,
        token=token,
        host=host,
        rest_port=port,
    )


def serve_console(**settings: object) -> None:
    """Serves the console until Ctrl-C; settings that are None are left to the environment."""
    from services.console.server import run
    from services.console.settings import ConsoleSettings

    given = {name: value for name, value in settings.items() if value is not None}
    made = ConsoleSettings(**({"drain_notice_seconds": 0.0, "log_level": "warning"} | given))
    say(f"console: [bold]http://{made.host}:{made.rest_port}/[/]  (Ctrl-C ends it)")
    run(made)
