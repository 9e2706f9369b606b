"""Rasters of a table of predictions with their places, and their export as mosaics for QGIS and GDAL.

Class maps have the palette of CORINE and the names of the classes. A regression has a column ``value``, and an interval
in ``lower`` and ``upper``: one number per patch, or a square raster of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from eoforge.data.bands import S2_10M
from eoforge.data.export.folder import new_path
from eoforge.data.export.mosaics import Layer, Placed, mosaics_of, write_layers
from eoforge.data.labels import CLASS_COLOURS, CLASSES, IGNORE_INDEX
from eoforge.data.tables.schema import tensor_column
from eoforge.errors import DataRefused, UsageError
from eoforge.geo.footprint import PATCH_METRES
from eoforge.index.code_table import METHOD, MadeTableInfo
from eoforge.progress import Tracker, track
from eoforge.storage.addresses import TableRef, normalise, open_table

if TYPE_CHECKING:
    import lance

MAP, VALUE = "pixel_map", "value"
VALUES = (VALUE, "lower", "upper")
"""Columns of a regression: the number and its interval; the last two may be absent."""
_READ = 256


class PlacedMap(NamedTuple):
    """Map of one patch: class indices uint8 ``[120, 120]``, and the upper-left corner in metres of ``epsg``."""

    patch_id: str
    epsg: int
    ulx: int
    uly: int
    classes: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class PredictionExport:
    """Result of an export: rasters of ``patches`` in ``mosaics`` files.

    ``outdated`` predictions are left out: their patch was deleted, or lost a sensor that the bundle reads.
    """

    predictions: str
    version: int
    out: str
    format: str
    patches: int
    mosaics: int
    outdated: int


def is_predictions(table: lance.LanceDataset) -> bool:
    """Whether a table holds predictions of a bundle, by its schema."""
    return METHOD.encode() in (table.schema.metadata or {}) and "modality" not in table.schema.names


def placed_maps(predictions: TableRef) -> Iterator[PlacedMap]:
    """Maps of all patches of a table of predictions with their places, in the order of their names.

    Predictions of patches that were deleted since, or lost a sensor, are left out.

    Raises:
        DataRefused: The table is no table of predictions.
        UsageError: The bundle of the table maps no pixels.
    """
    table = open_table(predictions)
    _require(table, predictions, (MAP,))
    for place, rasters in _rasters(table, _places(table, predictions.uri), {MAP: (MAP,)}):
        yield PlacedMap(*place, rasters[MAP][0])


def export_predictions(predictions: TableRef, out: str, format: str) -> PredictionExport:
    """Export of all maps and values of a table of predictions: one mosaic per product and kind of raster.

    Args:
        predictions: A table of predictions; without a version the newest.
        out: Folder that does not exist yet.
        format: ``cog``.

    Raises:
        NotFound: The table or its patches do not exist.
        DataRefused: The table is no table of predictions, or is empty.
        UsageError: The format is another one, ``out`` exists, or the predictions have neither maps nor values.
    """
    if format != "cog":
        raise UsageError(
            f"predictions are exported as cog; got {format!r}. The table itself opens in DuckDB and pandas"
        )
    table = open_table(predictions)
    pinned = TableRef(normalise(predictions.uri), int(table.version))
    _require(table, pinned, (MAP, VALUE))
    places = _places(table, pinned.uri)
    if not places.num_rows:
        raise DataRefused(f"{pinned} has no predictions to export")
    columns, layers = _layers(table.schema)
    with new_path(out) as path, track("exporting predictions", places.num_rows) as progress:
        path.mkdir()
        rasters = _counted(_rasters(table, places, columns), progress)
        mosaics = write_layers(rasters, mosaics_of(places), layers, path)
    outdated = table.count_rows() - places.num_rows
    return PredictionExport(pinned.uri, int(table.version), normalise(out), format, places.num_rows, mosaics, outdated)


def _require(table: lance.LanceDataset, what: TableRef, columns: tuple[str, ...]) -> None:
    info = MadeTableInfo.of(table.schema, what.uri)
    if not set(columns) & set(table.schema.names):
        raise UsageError(
            f"{what} holds no maps{' or values' * (VALUE in columns)}: bundle {info.bundle_id[:16]} of {info.method} "
            "classifies patches"
        )


def _places(table: lance.LanceDataset, uri: str) -> pa.Table:
    """Position (``row``) and place of each prediction, in the order of names."""
    names = table.to_table(columns=["patch_id", "digest"])
    names = names.append_column("row", pa.array(np.arange(names.num_rows)))
    patches = MadeTableInfo.of(table.schema, uri).open_patches()
    places = patches.to_table(columns=["patch_id", "digest", "epsg", "ulx", "uly"])
    return names.join(places, ["patch_id", "digest"], join_type="inner").sort_by("patch_id")


def _layers(schema: pa.Schema) -> tuple[dict[str, tuple[str, ...]], dict[str, Layer]]:
    """Columns of each raster, and how it is written."""
    columns: dict[str, tuple[str, ...]] = {}
    layers: dict[str, Layer] = {}
    if MAP in schema.names:
        columns[MAP] = (MAP,)
        categories = tuple(zip(CLASSES, CLASS_COLOURS, strict=True))
        layers[MAP] = Layer(("class",), S2_10M.resolution, "uint8", IGNORE_INDEX, categories)
    if VALUE in schema.names:
        columns[VALUE] = tuple(name for name in VALUES if name in schema.names)
        kind = schema.field(VALUE).type
        side = kind.shape[-1] if isinstance(kind, pa.FixedShapeTensorType) else 1
        layers[VALUE] = Layer(columns[VALUE], PATCH_METRES // side, "float32", np.nan)
    return columns, layers


def _rasters(
    table: lance.LanceDataset, places: pa.Table, columns: Mapping[str, tuple[str, ...]]
) -> Iterator[tuple[Placed, dict[str, npt.NDArray[Any]]]]:
    """Place and rasters ``[C, H, W]`` of each prediction."""
    needed = [name for names in columns.values() for name in names]
    for start in range(0, places.num_rows, _READ):
        part = places.slice(start, _READ)
        positions = part["row"].to_numpy()
        order = np.argsort(positions)  # Lance reads sorted positions several times faster
        rows = table.take(positions[order], columns=needed).take(np.argsort(order))
        stacks = {layer: np.stack([_pixels(rows[name]) for name in names], 1) for layer, names in columns.items()}
        for i, place in enumerate(part.select(["patch_id", "epsg", "ulx", "uly"]).to_pylist()):
            yield Placed(**place), {layer: stack[i] for layer, stack in stacks.items()}


def _pixels(column: pa.ChunkedArray) -> npt.NDArray[Any]:
    """Pixels ``[N, H, W]`` of a column; a null is no value."""
    if isinstance(column.type, pa.FixedShapeTensorType):
        pixels, valid = tensor_column(column)
        pixels[~valid] = IGNORE_INDEX if pixels.dtype == np.uint8 else np.nan
        return pixels
    return column.cast(pa.float32()).to_numpy(zero_copy_only=False).astype(np.float32).reshape(-1, 1, 1)


def _counted(
    rasters: Iterator[tuple[Placed, dict[str, npt.NDArray[Any]]]], progress: Tracker
) -> Iterator[tuple[Placed, dict[str, npt.NDArray[Any]]]]:
    for item in rasters:
        yield item
        progress.advance()
