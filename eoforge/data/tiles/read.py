"""Reader of the patches of one tile, a column of patches at a time."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from eoforge.data.archives.offset import without_offset
from eoforge.data.archives.validate import Refused, mask_of_map
from eoforge.data.bands import GROUPS, S1_10M, S2_10M, BandGroup
from eoforge.data.labels import names_of
from eoforge.data.names import S1Name
from eoforge.data.records import Defect, PatchMeta, PatchPair, ReadResult, Reason
from eoforge.data.tiles.files import TileFiles
from eoforge.data.tiles.land_cover import MAX_UNLABELLED, LandCover, unlabelled_share
from eoforge.data.tiles.options import TileOptions
from eoforge.data.tiles.radar import Scene, SceneReader
from eoforge.data.tiles.tile import Tile, open_band
from eoforge.errors import DataRefused
from eoforge.geo.grids import Stripes, read_window, stripe_of

Array = npt.NDArray[Any]
OPTICAL = tuple(group for group in GROUPS if group is not S1_10M)


@dataclass(frozen=True)
class Source:
    """Everything that the patches of one tile are built from."""

    tile: Tile
    files: TileFiles
    options: TileOptions
    scenes: Sequence[Scene]
    radar_files: TileFiles | None
    land_cover: LandCover | None


class TileReader:
    """Open tile; used in one thread."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._stack = ExitStack()
        tile = source.tile
        # The incomplete edge belongs to no patch.
        self._target = replace(tile.grid, width=tile.columns * S2_10M.size, height=tile.rows * S2_10M.size)
        self._bands: dict[str, Stripes] = {}
        self._scenes: dict[int, SceneReader] = {}
        self._cover: Stripes | None = None

    def close(self) -> None:
        """Closes all files."""
        self._stack.close()

    def read(self, column: int, metas: Sequence[tuple[int, PatchMeta]]) -> list[ReadResult]:
        """Patches of one column.

        Args:
            column: Column of patches in the raster.
            metas: Row in the raster and metadata row of each patch.

        Returns:
            One result per row, in that order.
        """
        tile = self._source.tile
        try:
            stacks = {group.column: self._optical(group, column) for group in OPTICAL}
            codes = self._codes(column)
        except DataRefused as error:
            return [dropped(meta, Reason.UNREADABLE, str(error), tile.where) for _, meta in metas]
        radar = _Column(self, column)
        return [self._patch(column, row, meta, stacks, codes, radar) for row, meta in metas]

    def scene(self, number: int) -> SceneReader:
        """Reader of a scene by its place in the order of preference."""
        source = self._source
        if number not in self._scenes:
            assert source.radar_files is not None
            assert source.options.radar_scale is not None
            self._scenes[number] = SceneReader(
                source.scenes[number], source.radar_files, self._target, source.options.radar_scale, self._stack
            )
        return self._scenes[number]

    @property
    def scenes(self) -> int:
        """Number of scenes."""
        return len(self._source.scenes)

    def _optical(self, group: BandGroup, column: int) -> Array:
        """Reflectances ``[C, rows * size, size]`` of one column of patches."""
        left = column * group.size
        return np.stack([self._band(group, band).columns(left, left + group.size) for band in group.bands])

    def _band(self, group: BandGroup, band: str) -> Stripes:
        if band not in self._bands:
            source = self._source
            file = source.tile.bands[band]
            what, offset = source.files.address(file.key), source.tile.offsets[band]
            dataset, _ = self._stack.enter_context(open_band(source.files, file, what))
            height = source.tile.rows * group.size

            def load(left: int, right: int) -> Array:
                return without_offset(read_window(dataset, what, left, 0, right, height), offset)

            self._bands[band] = Stripes(load, source.tile.columns * group.size, stripe_of(dataset))
        return self._bands[band]

    def _codes(self, column: int) -> Array | None:
        cover = self._source.land_cover
        if cover is None:
            return None
        if self._cover is None:
            self._cover = cover.open(self._target, self._stack)
        left = column * S2_10M.size
        return self._cover.columns(left, left + S2_10M.size)

    def _patch(
        self, column: int, row: int, meta: PatchMeta, stacks: dict[str, Array], codes: Array | None, radar: _Column
    ) -> ReadResult:
        where = self._source.tile.where
        arrays = {g.column: stacks[g.column][:, row * g.size : (row + 1) * g.size] for g in OPTICAL}
        for group in OPTICAL:
            empty = [b for b, pixels in zip(group.bands, arrays[group.column], strict=True) if not pixels.all()]
            if empty:
                return dropped(meta, Reason.NODATA_S2, f"{', '.join(empty)} hold 0, which means nodata", where)
        side = S2_10M.size
        reference_map, labels = None, None
        if codes is not None:
            reference_map = np.ascontiguousarray(codes[row * side : (row + 1) * side])
            try:
                labels = tuple(names_of(mask_of_map(reference_map)))
            except Refused as error:
                assert self._source.land_cover is not None
                return dropped(meta, error.code, str(error), self._source.land_cover.where)
            share = unlabelled_share(reference_map)
            if share >= MAX_UNLABELLED:
                detail = f"{100 * share:.1f} % of the area have no class; below {100 * MAX_UNLABELLED:.0f} % are taken"
                return dropped(meta, Reason.UNLABELLED, detail, where)
        s1, name = None, None
        if self.scenes:
            try:
                found = radar.of(row)
            except DataRefused as error:
                return dropped(meta, Reason.UNREADABLE, str(error), where)
            if found is None:
                detail = f"none of {self.scenes} radar scenes covers the patch"
                return dropped(meta, Reason.S1_MISSING, detail, where)
            s1, scene = found
            tile = self._source.tile
            name = str(S1Name(scene.name, tile.name.mgrs, tile.first_x + column, tile.first_y + row))
        tile = self._source.tile
        known = replace(meta, labels=labels, s1_name=name, corner=tile.corner(column, row))
        return ReadResult(known, PatchPair(known, **arrays, s1=s1, reference_map=reference_map))


class _Column:
    """Radar of one column of patches: scenes are read in their order, and only as far as patches need them."""

    def __init__(self, reader: TileReader, column: int) -> None:
        self._reader, self._left = reader, column * S1_10M.size
        self._read: list[Array] = []

    def of(self, row: int) -> tuple[Array, Scene] | None:
        """Pixels ``[2, 120, 120]`` of the first scene that covers a patch wholly; None if none does."""
        for number in range(self._reader.scenes):
            if number == len(self._read):
                self._read.append(self._reader.scene(number).columns(self._left, self._left + S1_10M.size))
            pixels = self._read[number][:, row * S1_10M.size : (row + 1) * S1_10M.size]
            if np.isfinite(pixels).all():
                return pixels, self._reader.scene(number).scene
        return None


def dropped(meta: PatchMeta, reason: Reason, detail: str, file: str) -> ReadResult:
    """Result of a patch that is left out."""
    return ReadResult(meta, None, [Defect(meta.patch_id, reason, detail, file)])


Row = tuple[Source | None, int, int, PatchMeta]
"""Tile (None for a repeated name), column and row in its raster, metadata row."""
Job = tuple[Source | None, int, list[tuple[int, PatchMeta]]]


def columns_of(rows: Iterable[Row]) -> Iterator[Job]:
    """Groups of consecutive rows that lie in one column of one tile."""
    for (_, column), group in itertools.groupby(rows, key=lambda row: (id(row[0]), row[1])):
        listed = list(group)
        yield listed[0][0], column, [(row, meta) for _, _, row, meta in listed]
