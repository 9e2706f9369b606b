"""``eoforge demo``: the main job end to end."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eoforge.cli.console import PORT
from eoforge.cli.options import parse_overrides
from eoforge.cli.output import Json, emit


def demo(
    archive: Annotated[str | None, typer.Option(help="An archive of yours; a synthetic one is made otherwise.")] = None,
    store: Annotated[
        str | None, typer.Option(help="s3:// URI or folder for tables and runs; 'seaweedfs' starts an S3 server.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for everything the demo makes.")] = Path("demo"),
    method: Annotated[str, typer.Option(help="Method to train.")] = "ss_cm_rsir",
    patches: Annotated[int, typer.Option(min=60, help="Size of the synthetic archive.")] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the synthetic archive.")] = 0,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Training override, key=value (repeat).")] = None,
    serve: Annotated[bool, typer.Option("--serve", help="Then keep service and web console up, until Ctrl-C.")] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="HTTP port of that console.")] = PORT,
    json: Json = False,
) -> None:
    """Run the main job end to end: archive, table, trained model, index, running service, answered queries, report."""
    from eoforge.cli.demo.run import run_demo

    given = parse_overrides(overrides)
    figures = run_demo(
        out,
        archive=archive,
        store=store,
        method=method,
        patches=patches,
        seed=seed,
        overrides=given,
        serve_port=port if serve else None,
    )
    emit(figures, title="demo")
