"""``eoforge synth``: synthetic archives."""

from __future__ import annotations

from typing import Annotated

import typer

from eoforge.cli.output import Json, emit


def synth(
    out: Annotated[str, typer.Argument(help="Folder to write; must be empty or absent.")],
    patches: Annotated[int, typer.Option(min=1, help="Number of patch pairs.")] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same bytes.")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    dense: Annotated[
        bool,
        typer.Option("--dense", help="Patches side by side, each at two dates, instead of scattered over 20 scenes."),
    ] = False,
    local_km: Annotated[
        float | None,
        typer.Option(help="Range in km of a local character of land use and colours, as real archives have it."),
    ] = None,
    json: Json = False,
) -> None:
    """Write a synthetic archive in the official reBEN layout."""
    from eoforge.data.synthetic.archive import generate_archive

    emit(
        generate_archive(out, patches, seed, workers=workers, dense=dense, local_km=local_km), title="synthetic archive"
    )
