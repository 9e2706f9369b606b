"""``eoforge construct``: patches from whole Sentinel tiles into Lance tables."""

from __future__ import annotations

from typing import Annotated

import typer

from eoforge.cli.output import Json, emit


def construct(
    tiles: Annotated[
        str,
        typer.Argument(help="Level-2A products below a path or s3:// prefix: SAFE, STAC Items, one GeoTIFF per band."),
    ],
    table: Annotated[str, typer.Argument(help="Lance table to create or grow: a path or s3:// URI.")],
    boa_offset: Annotated[
        int | None, typer.Option(help="Offset of stored reflectances, -1000 or 0; without it that of the product.")
    ] = None,
    radar: Annotated[str | None, typer.Option(help="Folder of terrain-corrected Sentinel-1 scenes (VV, VH).")] = None,
    radar_scale: Annotated[str | None, typer.Option(help="What the radar files hold: db, or linear power.")] = None,
    radar_days: Annotated[int, typer.Option(min=0, help="Largest time between both sensors, in days.")] = 7,
    land_cover: Annotated[str | None, typer.Option(help="CLC level-3 codes: GeoPackage, or GeoTIFF.")] = None,
    country: Annotated[str | None, typer.Option(help="Country of all patches.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that read and write shards.")] = 1,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse all tiles if one patch is dropped.")] = False,
    json: Json = False,
) -> None:
    """Cut tiles into patches of a Lance table by the rules of reBEN; run it again after any interruption."""
    from eoforge.data.ingest.run import ingest, require_some_accepted
    from eoforge.data.tiles.options import TileOptions

    options = TileOptions(boa_offset, radar, radar_scale, radar_days, land_cover, country)
    summary = ingest(tiles, table, workers=workers, strict=strict, tiles=options)
    emit(summary, title="constructed")
    require_some_accepted(summary)
