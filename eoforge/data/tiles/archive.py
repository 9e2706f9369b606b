"""Archive of patches that are cut from tiles while they are read; ingestion takes it like any other archive."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import pyarrow as pa

from eoforge.data.archives.base import Archive
from eoforge.data.archives.metadata import ROWS, MetadataRows
from eoforge.data.names import TileName, parse_patch_id
from eoforge.data.records import PatchMeta, ReadResult, Reason
from eoforge.data.split import official_split
from eoforge.data.tiles.files import TileFiles
from eoforge.data.tiles.find import find_products
from eoforge.data.tiles.land_cover import LandCover
from eoforge.data.tiles.options import TileOptions
from eoforge.data.tiles.radar import find_scenes, scenes_of
from eoforge.data.tiles.read import Job, Row, Source, TileReader, columns_of, dropped
from eoforge.data.tiles.tile import Tile, check_tile
from eoforge.errors import DataRefused
from eoforge.geo.gdal import session

_COLUMNS_AHEAD = 1


class TileArchive(Archive):
    """Patches of the level-2A products below an address."""

    min_shard_rows = 1024
    """A stripe of a file is decoded anew by every shard that meets it."""

    def __init__(self, uri: str, options: TileOptions) -> None:
        """Archive of the products below an address.

        Raises:
            NotFound: The address or that of the radar or land cover does not exist.
            UsageError: An option is out of range.
        """
        super().__init__(uri)
        self._options = options.checked()
        self._files = TileFiles(uri)
        self._radar = TileFiles(self._options.radar) if self._options.radar else None
        self._cover = LandCover(self._options.land_cover) if self._options.land_cover else None
        self._sources: dict[TileName, list[Source]] | None = None

    def metadata(self) -> MetadataRows:
        """Rows of all complete patches; labels and radar partners are filled in when they are read.

        Raises:
            NotFound: There is no product, radar scene or land cover.
            DataRefused: A product is incomplete, damaged or given twice; a map or the radar lies elsewhere.
        """
        self._sources = self._open(whole=True)
        tiles = [source.tile for sources in self._sources.values() for source in sources]
        self.edges = sum(tile.edges for tile in tiles)
        names = [tile.patch_id(*cell) for tile in tiles for cell in tile.cells()]
        parsed = list(map(parse_patch_id, names))
        rows = {
            "patch_id": names,
            "split": [official_split(p.x, p.y) for p in parsed],
            "country": [self._options.country] * len(names),
            "contains_seasonal_snow": [False] * len(names),
            "contains_cloud_or_shadow": [False] * len(names),
        }
        nulls = {field.name: [None] * len(names) for field in ROWS if field.name not in rows}
        return MetadataRows.sort(
            pa.table({f.name: pa.array((rows | nulls)[f.name], f.type) for f in ROWS}, schema=ROWS)
        )

    def release(self) -> None:
        """Deletes the copies of files from an object store."""
        for part in (self._files, self._radar, self._cover):
            if part is not None:
                part.release()

    def read(self, rows: Sequence[PatchMeta]) -> Iterator[ReadResult]:
        """See :class:`eoforge.data.archives.base.Archive`.

        GDAL and PROJ run in a thread of their own, one column ahead: the caller's is a thread of Lance, in which a
        context of PROJ can crash the process.
        """
        reader = _Reader()
        pool = ThreadPoolExecutor(1, thread_name_prefix="tiles")
        try:
            if self._sources is None:
                self._sources = pool.submit(self._open, whole=False).result()
            waiting: deque[Future[list[ReadResult]]] = deque()
            for job in columns_of(map(self._locate, rows)):
                waiting.append(pool.submit(reader.read, job))
                if len(waiting) > _COLUMNS_AHEAD:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        finally:
            pool.submit(reader.close)
            pool.shutdown()

    def _open(self, *, whole: bool) -> dict[TileName, list[Source]]:
        """Checked tiles by name; one product may come as several rasters, such as the cells of Major TOM."""
        scenes = find_scenes(self._radar) if self._radar else []
        sources: dict[TileName, list[Source]] = {}
        with session():
            for product in find_products(self._files):
                tile = check_tile(product, self._files, self._options.boa_offset, whole=whole)
                if self._cover is not None and whole:
                    self._cover.check(tile)
                _check_once(tile, sources)
                near = (
                    scenes_of(tile, scenes, self._radar, self._options.radar_days, whole=whole) if self._radar else []
                )
                source = Source(tile, self._files, self._options, near, self._radar, self._cover)
                sources.setdefault(tile.name, []).append(source)
        return sources

    def _locate(self, meta: PatchMeta) -> Row:
        if meta.repeated:
            return None, 0, 0, meta
        assert self._sources is not None
        name = parse_patch_id(meta.patch_id)
        for source in self._sources.get(name.tile, []):
            column, row = name.x - source.tile.first_x, name.y - source.tile.first_y
            if 0 <= column < source.tile.columns and 0 <= row < source.tile.rows:
                return source, column, row, meta
        raise DataRefused(f"{self.uri} no longer holds {meta.patch_id}; plan the construction again")


class _Reader:
    """Reader of the tile in use; one tile is open at a time."""

    def __init__(self) -> None:
        self._source: Source | None = None
        self._tile: TileReader | None = None

    def read(self, job: Job) -> list[ReadResult]:
        source, column, metas = job
        if source is None:
            detail = "another raster holds a patch of this name; the first is kept"
            return [dropped(meta, Reason.DUPLICATE_ID, detail, "") for _, meta in metas]
        if source is not self._source or self._tile is None:
            self.close()
            self._source, self._tile = source, TileReader(source)
        return self._tile.read(column, metas)

    def close(self) -> None:
        if self._tile is not None:
            self._tile.close()
            self._tile = None


def _check_once(tile: Tile, sources: Mapping[TileName, Sequence[Source]]) -> None:
    """Refuses a tile that is given twice, and two products of one tile and day.

    Raises:
        DataRefused: It is one of these.
    """
    for name, others in sources.items():
        other = others[0].tile
        if name == tile.name:
            same = [s.tile for s in others if (s.tile.grid.left, s.tile.grid.top) == (tile.grid.left, tile.grid.top)]
            if same:
                raise DataRefused(f"the same tile {name} is given twice: {same[0].where} and {tile.where}; keep one")
        elif (name.mgrs, name.acquired.date()) == (tile.name.mgrs, tile.name.acquired.date()):
            raise DataRefused(
                f"two products of tile {name.mgrs} and one day: {other.where} and {tile.where}; keep one of them, or "
                "construct them one after the other"
            )
