"""``eoforge compress``, ``decompress`` and ``inspect``: GeoTIFFs, folders of them, and tables."""

from __future__ import annotations

import json as jsonlib
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eoforge.cli.output import Json, as_dict, emit
from eoforge.data.bands import GROUP_OF
from eoforge.errors import NotFound, UsageError

if TYPE_CHECKING:
    from eoforge.codec.container import Header

Bundle = Annotated[str | None, typer.Option(help="Run bundle of the codec; not needed with --max-error.")]
Device = Annotated[str | None, typer.Option(help="Torch device of the codec; CUDA by default where available.")]


def compress(
    source: Annotated[str, typer.Argument(metavar="IN", help="GeoTIFF, folder of GeoTIFFs, or table of patches.")],
    target: Annotated[str, typer.Argument(metavar="OUT", help="Stream, folder of streams, or table of streams.")],
    bundle: Bundle = None,
    quality: Annotated[float | None, typer.Option(help="Quality step, 0 (smallest) to 7, in steps of 1/16.")] = None,
    target_bpp: Annotated[float | None, typer.Option(help="Highest quality within these bits per 10 m pixel.")] = None,
    target_psnr: Annotated[float | None, typer.Option(help="Lowest quality that reaches this PSNR in dB.")] = None,
    max_error: Annotated[
        str | None,
        typer.Option(
            help="Maximum error of a sample, 0 is lossless: DN for Sentinel-2, dB for Sentinel-1, DN,dB for both."
        ),
    ] = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Compress rasters into streams with georeference, bands and hash codes."""
    from eoforge.cli.compression.files import compress_files, compress_table, is_table
    from eoforge.codec.coder import Rate, parse_max_error

    rate = Rate(quality, target_bpp, target_psnr, parse_max_error(max_error) if max_error is not None else None)
    one_bound = rate.max_error is not None and rate.max_error.s1 > 0 and "," not in (max_error or "")
    if rate.learned and bundle is None:
        raise UsageError("a codec is needed: name its run bundle with --bundle, or bound the error with --max-error")
    if is_table(source):
        if bundle is None:
            raise UsageError("a table of streams carries codes: name the bundle that makes them with --bundle")
        if one_bound:
            raise UsageError(f"a table holds both sensors: --max-error DN,dB, such as {max_error},0.5")
        emit(compress_table(source, target, bundle, rate, device), title="compressed")
    else:
        result, outcomes = compress_files(Path(source), target, bundle, rate, device, one_bound=one_bound)
        outcomes.report(as_dict(result), "compressed")


def decompress(
    source: Annotated[str, typer.Argument(metavar="IN", help="Stream, folder of streams, or table of streams.")],
    target: Annotated[str, typer.Argument(metavar="OUT", help="GeoTIFF, or folder for them.")],
    bundle: Bundle = None,
    patch_id: Annotated[list[str] | None, typer.Option(help="Only these patches of a table (repeat).")] = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Decode streams to cloud-optimised GeoTIFFs, one per native grid, with CRS and band names."""
    from eoforge.cli.compression.files import decompress_files, decompress_table, is_table

    if is_table(source):
        emit(decompress_table(source, Path(target), tuple(patch_id or ()), device), title="decompressed")
    else:
        result, outcomes = decompress_files(Path(source), target, bundle, device)
        outcomes.report(result, "decompressed")


def inspect(
    source: Annotated[Path, typer.Argument(metavar="IN", help="Stream.")],
    json: Json = False,
) -> None:
    """Print the header of a stream; no model is needed."""
    from eoforge.codec.container import inspect as read

    if not source.is_file():
        raise NotFound(f"no stream at {source}")
    stream = source.read_bytes()
    emit(header_row(read(stream), len(stream)), title=source.name)


def header_row(header: Header, stream_bytes: int) -> dict[str, Any]:
    """Row of a stream's header, for people and for ``--json``."""
    place = header.georeference
    learned = not header.max_error
    return {
        "kind": header.kind.name.lower(),
        "patch_id": header.patch_id,
        "bands": " ".join(header.bands),
        "height": header.shape[0],
        "width": header.shape[1],
        "crs": place.crs if place else None,
        "transform": jsonlib.dumps(place.transform) if place else None,
        "quality": header.quality if learned else None,
        "max_error": None if learned else ", ".join(f"{m} {e:g}" for m, e in header.max_error),
        "bundle": header.bundle or None,
        "tile": header.tile,
        "codes": header.codes,
        "code_bits": 8 * header.code_bytes,
        "nodata": _nodata_of(header),
        "masked": _masked_of(header),
        "bytes": stream_bytes,
        "bits_per_pixel": round(8 * stream_bytes / math.prod(header.shape), 4),
        "bits_per_sample": round(8 * stream_bytes / header.samples, 4),
    }


def _nodata_of(header: Header) -> str | None:
    """Nodata value of each grid that has one; of a stream without a profile that of reBEN."""
    if header.profile is None:
        return ", ".join(f"{grid} 0" for grid in sorted({GROUP_OF[b].column for b in header.bands} - {"s1"})) or None
    parts = header.profile.grids.items()
    return ", ".join(f"{grid} {part.nodata:g}" for grid, part in parts if part.nodata is not None) or None


def _masked_of(header: Header) -> str | None:
    """Grids with a mask."""
    parts = header.profile.grids.items() if header.profile else ()
    return " ".join(grid for grid, part in parts if part.masked) or None
