"""Footprints of a patches table as GeoJSON for a map: polygons of a few patches, or counts on a grid of many."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from eoforge.geo.footprint import corners

if TYPE_CHECKING:
    import lance

Box = tuple[float, float, float, float]
"""West, south, east, north in degrees."""
MAX_POLYGONS = 1000
"""Largest number of polygons in one answer: beyond it, patches are counted on a grid."""
_CELLS = 48
"""Cells of the grid along the longer side of the box, at the most."""
_BOUNDS = ["lon_min", "lat_min", "lon_max", "lat_max"]


class FootprintMap:
    """Bounds of all patches of one version of a table, in memory: 32 bytes a patch.

    Args:
        table: The table at its version.
    """

    def __init__(self, table: lance.LanceDataset) -> None:
        self._table = table
        columns = table.to_table(columns=_BOUNDS)
        self._bounds = np.stack([columns[name].to_numpy() for name in _BOUNDS])

    @property
    def extent(self) -> Box | None:
        """Box around all patches; None for an empty table."""
        west, south, east, north = self._bounds
        if not len(west):
            return None
        return float(west.min()), float(south.min()), float(east.max()), float(north.max())

    def view(self, box: Box) -> dict[str, Any]:
        """GeoJSON FeatureCollection of the patches that touch a box.

        With at most ``MAX_POLYGONS`` patches each is a polygon with ``patch_id`` and ``split``; with more, each
        feature is a cell of a grid with its ``count``. Members ``total`` and ``kind`` (``patches`` or ``cells``).
        """
        west, south, east, north = self._bounds
        rows = np.flatnonzero((west <= box[2]) & (east >= box[0]) & (south <= box[3]) & (north >= box[1]))
        polygons = len(rows) <= MAX_POLYGONS
        features = self._polygons(rows) if polygons else self._cells(rows, box)
        kind = "patches" if polygons else "cells"
        return {"type": "FeatureCollection", "kind": kind, "total": len(rows), "features": features}

    def _polygons(self, rows: npt.NDArray[np.int64]) -> list[dict[str, Any]]:
        if not len(rows):
            return []
        found = self._table.take(rows.tolist(), columns=["patch_id", "split", "epsg", "ulx", "uly"])
        rings = corners(*(found[name].to_numpy() for name in ("epsg", "ulx", "uly"))).round(6).tolist()
        names = found.select(["patch_id", "split"]).to_pylist()
        return [_feature([*ring, ring[0]], row) for ring, row in zip(rings, names, strict=True)]

    def _cells(self, rows: npt.NDArray[np.int64], box: Box) -> list[dict[str, Any]]:
        # A power of two keeps the cells in place while the map is dragged. A box may be larger than the world.
        span = max(min(box[2] - box[0], 360.0), min(box[3] - box[1], 180.0))
        step = 2.0 ** math.ceil(math.log2(span / _CELLS))
        west, south, east, north = self._bounds[:, rows]
        cells = np.floor(np.stack([(west + east) / 2, (south + north) / 2], axis=1) / step).astype(np.int64)
        places, counts = np.unique(cells, axis=0, return_counts=True)
        features = []
        for (column, row), count in zip((places * step).tolist(), counts.tolist(), strict=True):
            a, b, c, d = column, row, column + step, row + step
            features.append(_feature([[a, b], [c, b], [c, d], [a, d], [a, b]], {"count": count}))
        return features


def _feature(ring: list[list[float]], properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": properties}
