"""Small archives that tests write themselves: true names and formats, arbitrary pixels, maps that agree with labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from eoforge.data.archives.geotiff import write_geotiff
from eoforge.data.archives.layout import MAIN_FILE, SNOW_CLOUD_FILE, path_of
from eoforge.data.archives.metadata import METADATA
from eoforge.data.archives.open import open_archive
from eoforge.data.bands import GROUPS, S1_10M
from eoforge.data.labels import CLASSES, CLC_TO_CLASS
from eoforge.data.records import PatchMeta, PatchPair, digest
from eoforge.data.split import official_split
from eoforge.storage.objects import ObjectStore

TILES = (
    ("S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP", "S1B_IW_GRDH_1SDV_20170612T165809"),
    ("S2A_MSIL2A_20171101T094131_N9999_R036_T35VNJ", "S1B_IW_GRDH_1SDV_20171101T153951"),
    ("S2B_MSIL2A_20200909T065031_N0214_R077_T39MXR", "S1A_IW_GRDH_1SDV_20200908T145200"),
)
CODES = (112, 211, 231, 311, 312, 324, 512, 332)


def make_pair(x: int, y: int, tile: int = 0, seed: int = 0) -> PatchPair:
    """A valid pair on a true cell; its map has three CLC codes and its labels are theirs."""
    rng = np.random.default_rng([x, y, tile, seed])
    s2_tile, scene = TILES[tile]
    codes = rng.choice(CODES[:-1], 3, replace=False)
    reference_map = rng.choice(np.append(codes, CODES[-1]), (120, 120)).astype(np.uint16)
    labels = tuple(sorted({CLASSES[CLC_TO_CLASS[c]] for c in codes.tolist()}))
    rasters = {
        g.column: rng.normal(-15, 4, g.shape).astype(np.float32)
        if g is S1_10M
        else rng.integers(1, 12_000, g.shape, dtype=np.uint16)
        for g in GROUPS
    }
    meta = PatchMeta(
        patch_id=f"{s2_tile}_{x:02d}_{y:02d}",
        s1_name=f"{scene}_{s2_tile[-5:]}_{x}_{y}",
        s2v1_name=f"S2A_MSIL2A_{s2_tile[11:19]}T94161_{x}_{y}",
        split=official_split(x, y),
        country=("Austria", "Finland", "Madagascar")[tile],
        labels=labels,
        contains_seasonal_snow=tile == 1,
        contains_cloud_or_shadow=False,
    )
    return PatchPair(meta=meta, reference_map=reference_map, **rasters)


def make_pairs() -> list[PatchPair]:
    """Six pairs in patch_id order, all splits, two of them from the snow and cloud file."""
    pairs = [make_pair(0, 4), make_pair(15, 40), make_pair(26, 57), make_pair(44, 45)]
    return [*pairs, make_pair(3, 88, tile=1), make_pair(90, 90, tile=1)]


def write_metadata(folder: Path, metas: Sequence[PatchMeta], snow_cloud: bool = True) -> None:
    """Both metadata files, or the main one only."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, wanted in ((MAIN_FILE, False), (SNOW_CLOUD_FILE, True)):
        rows = [m for m in metas if m.contains_seasonal_snow == wanted]
        if wanted and not snow_cloud:
            continue
        columns = [[list(m.labels) if c == "labels" else getattr(m, c) for m in rows] for c in METADATA.names]
        pq.write_table(pa.table(columns, schema=METADATA), folder / name)


def write_archive(
    folder: Path, pairs: Sequence[PatchPair], extension: str = ".tif", maps: bool = True, snow_cloud: bool = True
) -> Path:
    """An archive in the official layout."""
    write_metadata(folder, [p.meta for p in pairs], snow_cloud)
    for pair in pairs:
        place = pair.meta.names.footprint
        for group in GROUPS:
            for band, pixels in zip(group.bands, getattr(pair, group.column), strict=True):
                target = folder / (path_of(pair.meta, band) + extension)
                target.parent.mkdir(parents=True, exist_ok=True)
                nodata = None if group is S1_10M else 0
                write_geotiff(target, pixels, place.epsg, place.ulx, place.uly, group.resolution, nodata)
        if maps and pair.reference_map is not None:
            target = folder / (path_of(pair.meta, "reference_map") + extension)
            target.parent.mkdir(parents=True, exist_ok=True)
            write_geotiff(target, pair.reference_map, place.epsg, place.ulx, place.uly, 10, 0, deflate=True)
    return folder


def read_all(uri: Path | str, scratch: Path | str | None = None) -> list[PatchPair]:
    """All pairs of a faultless archive."""
    archive = open_archive(str(uri), scratch=None if scratch is None else str(scratch))
    results = list(archive.read(archive.metadata()))
    assert [r.defects for r in results if r.defects] == []
    return [r.pair for r in results if r.pair is not None]


def digests(uri: Path | str, scratch: Path | str | None = None) -> list[str]:
    """Digests of all pairs of a faultless archive, in its order."""
    return [digest(p) for p in read_all(uri, scratch)]


def upload(folder: Path, uri: str) -> str:
    """Copies a folder to an object store."""
    store = ObjectStore(uri)
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        store.put_file(path.relative_to(folder).as_posix(), path)
    return uri
