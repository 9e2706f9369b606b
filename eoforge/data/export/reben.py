"""Official layout of reBEN: one GeoTIFF per band and the two metadata files; also as LMDB of rico-hdl.

Products of processing baseline 04.00 and later have an offset, which tables have no more: their files say that it is 0,
so that they can be ingested again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from eoforge.data.archives.geotiff import OFFSET_TAG, write_geotiff
from eoforge.data.archives.layout import MAIN_FILE, REFERENCE_MAP, S1_FOLDER, S2_FOLDER, SNOW_CLOUD_FILE, path_of
from eoforge.data.archives.metadata import ROWS
from eoforge.data.archives.offset import may_carry_offset
from eoforge.data.bands import GROUPS, S1_10M, S2_10M
from eoforge.data.records import PatchMeta, PatchPair

_COLUMNS = ("patch_id", "labels", "split", "country", "s1_name", "s2v1_name")
_FLAGS = ("contains_seasonal_snow", "contains_cloud_or_shadow")
_SCHEMA = pa.schema([ROWS.field(name) for name in (*_COLUMNS, *_FLAGS)])
_PER_TRANSACTION = 512
_FIRST_BYTES = 1 << 30


def write_layout(pairs: Iterable[PatchPair], out: Path) -> None:
    """Archive in the official layout below a new folder; bands that a patch lacks have no files."""
    metas: list[PatchMeta] = []
    for folder in (S2_FOLDER, S1_FOLDER):
        (out / folder).mkdir(parents=True)
    for pair in pairs:
        place = pair.meta.names.footprint
        corner = (place.epsg, place.ulx, place.uly)
        for name, pixels in _bands(pair):
            path = out / f"{path_of(pair.meta, name)}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            if name == REFERENCE_MAP:
                write_geotiff(path, pixels, *corner, S2_10M.resolution, 0, deflate=True)
            else:
                group = next(g for g in GROUPS if name in g.bands)
                nodata, offset = (None, None) if group is S1_10M else (0, _offset(pair))
                write_geotiff(path, pixels, *corner, group.resolution, nodata, boa_offset=offset)
        metas.append(pair.meta)
    _write_metadata(metas, out)


def write_lmdb(pairs: Iterable[PatchPair], out: Path) -> None:
    """LMDB as rico-hdl writes it, with the metadata files beside it; values are safetensors by band name.

    Keys: ``patch_id`` with the optical bands, ``s1_name`` with VV and VH, ``<patch_id>_reference_map`` with Data.
    """
    import lmdb
    from safetensors.numpy import save

    out.mkdir()
    metas: list[PatchMeta] = []
    size = _FIRST_BYTES
    with lmdb.open(str(out), map_size=size, readahead=False, meminit=False) as base:
        for block in _blocks(pairs):
            values = {key: save(tensors, said) for pair in block for key, tensors, said in _tensors(pair)}
            metas += [pair.meta for pair in block]
            need = 2 * sum(map(len, values.values()))
            used = base.info()["last_pgno"] * base.stat()["psize"]
            if used + need > size:  # the file grows with its content, not with this limit
                size = 2 * (used + need)
                base.set_mapsize(size)
            with base.begin(write=True) as transaction:
                for key, value in sorted(values.items()):
                    transaction.put(key.encode(), value, overwrite=False)
    (out / "lock.mdb").unlink(missing_ok=True)
    _write_metadata(metas, out)


def _bands(pair: PatchPair) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    for group in GROUPS:
        stack = getattr(pair, group.column)
        if stack is not None:
            yield from zip(group.bands, stack, strict=True)
    if pair.reference_map is not None:
        yield REFERENCE_MAP, pair.reference_map


def _offset(pair: PatchPair) -> int | None:
    """Offset to name in the optical files of a patch: 0 where a reader would expect another."""
    return 0 if may_carry_offset(pair.meta.names.patch.tile) else None


def _tensors(pair: PatchPair) -> Iterator[tuple[str, dict[str, npt.NDArray[Any]], dict[str, str] | None]]:
    bands = {name: np.ascontiguousarray(pixels) for name, pixels in _bands(pair)}
    reference_map = bands.pop(REFERENCE_MAP, None)
    radar = {name: bands.pop(name) for name in S1_10M.bands if name in bands}
    if bands:
        offset = _offset(pair)
        yield pair.meta.patch_id, bands, None if offset is None else {OFFSET_TAG: str(offset)}
    if radar:
        yield pair.meta.radar_name, radar, None
    if reference_map is not None:
        yield f"{pair.meta.patch_id}_{REFERENCE_MAP}", {"Data": reference_map}, None


def _blocks(pairs: Iterable[PatchPair]) -> Iterator[list[PatchPair]]:
    block: list[PatchPair] = []
    for pair in pairs:
        block.append(pair)
        if len(block) == _PER_TRANSACTION:
            yield block
            block = []
    if block:
        yield block


def _write_metadata(metas: list[PatchMeta], out: Path) -> None:
    """Writes the two files; that of snow, cloud and shadow only if a patch is listed there."""
    flagged = [meta.contains_seasonal_snow or meta.contains_cloud_or_shadow for meta in metas]
    for name, wanted in ((MAIN_FILE, False), (SNOW_CLOUD_FILE, True)):
        rows = [asdict(meta) for meta, flag in zip(metas, flagged, strict=True) if flag is wanted]
        if rows or not wanted:
            pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), out / name, compression="zstd")
