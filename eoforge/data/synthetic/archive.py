"""Generator of synthetic archives in the official layout, for demos, tests and scale runs.

The data are NOT real. Names, footprints, splits and formats follow the official rules; pixels come from a simple model
of ground (``land.py``) and sensors (``radiometry.py``). Each patch is a function of the seed and its name, so a larger
archive contains the smaller one, and the bytes do not depend on the number of workers.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from eoforge.data.archives.geotiff import write_geotiff
from eoforge.data.archives.layout import (
    MAIN_FILE,
    MAP_FOLDER,
    REFERENCE_MAP,
    S1_FOLDER,
    S2_FOLDER,
    SNOW_CLOUD_FILE,
    path_of,
)
from eoforge.data.archives.metadata import METADATA
from eoforge.data.bands import GROUPS, S1_10M, S2_10M
from eoforge.data.labels import CLASSES, IGNORE_INDEX, clc_to_classes
from eoforge.data.names import GRID_SIDE, parse_patch_id
from eoforge.data.records import PatchMeta, PatchPair
from eoforge.data.split import SPLITS, official_split, official_splits
from eoforge.data.synthetic.land import Ground, ground, key_of
from eoforge.data.synthetic.radiometry import abundances, optical, radar
from eoforge.data.synthetic.scenes import COUNTRIES, SCENES, Scene
from eoforge.errors import UsageError
from eoforge.progress import track
from eoforge.storage.addresses import is_s3, normalise

MAX_UNLABELED = 0.25
"""Official limit of the area of a patch without a class."""
# The order of the official files.
_COLUMNS = ("patch_id", "labels", "split", "country", "s1_name", "s2v1_name")
_FLAGS = ("contains_seasonal_snow", "contains_cloud_or_shadow")
_METADATA = pa.schema([METADATA.field(name) for name in (*_COLUMNS, *_FLAGS)])
_SPLIT_PATTERN = ("train", "validation", "train", "test")
_CLOUD_EVERY = 40
_PATCHES_PER_WORKER = 1000  # a spawned process imports for as long as it takes to write some 400
MAX_PATCHES = 120_000
"""Limit below the number of cells of the 20 scenes: some cells are dropped for lack of labels."""
_MAX_LOCAL_KM = 1000
_BLOCK = 5
_TILES = [scene.mgrs for scene in SCENES]
DENSE_SCENES: tuple[int, ...] = tuple(i for i, mgrs in enumerate(_TILES) if _TILES.count(mgrs) > 1)
"""Scenes of a dense archive: those of the tiles with two dates."""
MAX_DENSE = MAX_PATCHES * len(DENSE_SCENES) // len(SCENES)


@dataclass(frozen=True)
class SyntheticSummary:
    """Counts of a written archive: ``patches`` in total, ``snow`` and ``cloud`` of them in the second metadata file."""

    uri: str
    seed: int
    patches: int
    snow: int
    cloud: int
    splits: dict[str, int]


@dataclass(frozen=True, slots=True)
class _Slot:
    """Slot of the archive: the ``number``-th patch, before its cell is chosen."""

    number: int
    scene: int
    split: str
    weather: bool

    @property
    def cloud(self) -> bool:
        return self.weather and self.number % _CLOUD_EVERY == 5

    @property
    def snow(self) -> bool:
        return self.weather and SCENES[self.scene].snow and self.number // len(SCENES) % 4 != 3


def _slots(archive: Archive) -> Iterator[_Slot]:
    """Slots in order: scenes alternate, and splits follow the official shares even in a small archive."""
    chosen = DENSE_SCENES if archive.dense else range(len(SCENES))
    scenes = len(chosen)
    for i in range(archive.patches):
        split = _SPLIT_PATTERN[(i + i // scenes) % len(_SPLIT_PATTERN)]
        yield _Slot(i, chosen[i % scenes], split, archive.weather)


@dataclass(frozen=True, slots=True)
class Archive:
    """What an archive is made of; see :func:`generate_archive`."""

    patches: int
    seed: int = 0
    weather: bool = True
    dense: bool = False
    local_km: float | None = None

    def __post_init__(self) -> None:
        """Range checks.

        Raises:
            UsageError: A number is out of range.
        """
        limit = MAX_DENSE if self.dense else MAX_PATCHES
        if not 1 <= self.patches <= limit:
            raise UsageError(f"expected 1 to {limit} {'dense ' * self.dense}synthetic patches, got {self.patches}")
        if self.local_km not in (None, 0) and not 1 <= (self.local_km or 0) <= _MAX_LOCAL_KM:
            raise UsageError(f"a local range is 0, or 1 to {_MAX_LOCAL_KM} km; got {self.local_km}")


def _cells(archive: Archive, scene: Scene, split: str) -> Iterator[tuple[int, int, Ground]]:
    """Cells of a split in random order, without the cells that the labelling rule drops.

    A dense archive takes blocks of cells that touch, and the same ones at every date of a tile.
    """
    x_all, y_all = np.divmod(np.arange(GRID_SIDE**2), GRID_SIDE)
    cells = np.flatnonzero(official_splits(x_all, y_all) == SPLITS.index(split))
    seed, dense = archive.seed, archive.dense
    where = scene.mgrs if dense else scene.s2
    rng = np.random.Generator(np.random.Philox(key=key_of("cells", seed, where, split)))
    order = rng.permutation(cells)
    if dense:
        blocks = x_all // _BLOCK * GRID_SIDE + y_all // _BLOCK
        turns = rng.permutation(int(blocks.max()) + 1)
        order = cells[np.argsort(turns[blocks[cells]], kind="stable")]
    for cell in order.tolist():
        x, y = divmod(cell, GRID_SIDE)
        place = parse_patch_id(f"{scene.s2}_{x:02d}_{y:02d}").footprint
        cell_ground = ground(seed, place.epsg, scene.country_at(x, y), place.ulx, place.uly, archive.local_km)
        if cell_ground.unlabeled_share < MAX_UNLABELED:
            yield x, y, cell_ground


def _v1_name(scene: Scene, x: int, y: int) -> str:
    """BigEarthNet v1 name, with the error of v1: no leading zero of the hour (``T93351``)."""
    return f"{scene.s2[:20]}{int(scene.s2[20:26])}_{x}_{y}"


def _pair(seed: int, slot: _Slot, x: int, y: int, land: Ground) -> PatchPair:
    scene = SCENES[slot.scene]
    country = scene.country_at(x, y)
    patch_id = f"{scene.s2}_{x:02d}_{y:02d}"
    rng = np.random.Generator(np.random.Philox(key=key_of("patch", seed, patch_id)))
    rugged = COUNTRIES[country].rugged
    mix = abundances(land, scene.month, country)
    s1 = radar(land, mix, scene, x, rng, rugged=rugged)
    s2_10m, s2_20m, s2_60m = optical(land, mix, scene, rng, snow=slot.snow, cloud=slot.cloud, rugged=rugged)
    present = np.unique(clc_to_classes(land.clc))
    meta = PatchMeta(
        patch_id=patch_id,
        s1_name=f"{scene.s1}_{scene.mgrs}_{x}_{y}",
        s2v1_name=_v1_name(scene, x, y),
        split=slot.split,
        country=country,
        labels=tuple(sorted(CLASSES[c] for c in present if c != IGNORE_INDEX)),
        contains_seasonal_snow=slot.snow,
        contains_cloud_or_shadow=slot.cloud,
    )
    return PatchPair(meta, s2_10m, s2_20m, s2_60m, s1, land.clc)


def _generate(archive: Archive, scenes: range) -> Iterator[PatchPair]:
    """Pairs of ``scenes`` (the share of a worker) in slot order."""
    cells: dict[tuple[int, str], Iterator[tuple[int, int, Ground]]] = {}
    for slot in _slots(archive):
        if slot.scene in scenes:
            key = (slot.scene, slot.split)
            if key not in cells:
                cells[key] = _cells(archive, SCENES[slot.scene], slot.split)
            yield _pair(archive.seed, slot, *next(cells[key]))


def synthetic_pairs(
    patches: int, seed: int = 0, *, dense: bool = False, local_km: float | None = None
) -> Iterator[PatchPair]:
    """Synthetic pairs in memory; a longer run starts with the pairs of a shorter one.

    Args:
        patches: Number of pairs.
        seed: Seed of the archive.
        dense: See :func:`generate_archive`.
        local_km: See :func:`generate_archive`.

    Raises:
        UsageError: ``patches`` is not in 1..``MAX_PATCHES``, or the range is out of bounds.
    """
    yield from _generate(Archive(patches, seed, True, dense, local_km), range(len(SCENES)))


def synthetic_cell(seed: int, scene: int, x: int, y: int) -> PatchPair:
    """Pair of one cell of a scene, without snow or clouds; the labelling rule is not applied."""
    known = SCENES[scene]
    place = parse_patch_id(f"{known.s2}_{x:02d}_{y:02d}").footprint
    land = ground(seed, place.epsg, known.country_at(x, y), place.ulx, place.uly)
    return _pair(seed, _Slot(0, scene, official_split(x, y), weather=False), x, y, land)


def generate_archive(
    out: str,
    patches: int,
    seed: int = 0,
    *,
    workers: int = 1,
    reference_maps: bool = True,
    snow_cloud: bool = True,
    dense: bool = False,
    local_km: float | None = None,
) -> SyntheticSummary:
    """Summary of a synthetic archive, written in the official layout below ``out``.

    Args:
        out: Local folder without an archive.
        patches: Number of patch pairs, snow and clouds included.
        seed: Seed of the archive; the bytes do not depend on ``workers``.
        workers: Limit of processes; small archives use fewer.
        reference_maps: Whether to write ``Reference_Maps``.
        snow_cloud: Whether some patches have snow or clouds; the second parquet file holds their metadata.
        dense: Whether patches lie side by side, each cell at both dates of its tile: the real archive has 2.2 a cell.
            Otherwise a small archive scatters its patches over 20 scenes, and hardly two are neighbours.
        local_km: Range in km over which patches share a local character beyond their country: land use, and colours of
            the ground, each independent of the other. So the look of a place tells its labels only to who has seen its
            neighbours, as in real archives. None for none, 0 for a character that each place has for itself.

    Raises:
        UsageError: ``patches`` or the range is out of bounds, or ``out`` holds an archive.
    """
    archive = Archive(patches, seed, snow_cloud, dense, local_km)
    root = Path(normalise(out))
    if is_s3(out) or any((root / name).exists() for name in (MAIN_FILE, S2_FOLDER, S1_FOLDER, MAP_FOLDER)):
        raise UsageError(f"{out} must be a local folder without an archive in it; choose another or delete it first")
    root.mkdir(parents=True, exist_ok=True)
    workers = max(1, min(workers, len(SCENES), patches // _PATCHES_PER_WORKER))
    jobs = [(root, archive, range(w, len(SCENES), workers), reference_maps) for w in range(workers)]
    with track("writing synthetic patches", patches) as tracker:
        metas: list[PatchMeta] = []
        if workers == 1:
            for meta in _write_pairs(*jobs[0]):
                metas.append(meta)
                tracker.advance()
        else:
            with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
                for done in as_completed([pool.submit(_write_share, job) for job in jobs]):
                    metas += done.result()
                    tracker.advance(len(done.result()))
    flagged = [m.contains_seasonal_snow or m.contains_cloud_or_shadow for m in metas]
    _write_metadata(root / MAIN_FILE, [m for m, f in zip(metas, flagged, strict=True) if not f])
    if snow_cloud:
        _write_metadata(root / SNOW_CLOUD_FILE, [m for m, f in zip(metas, flagged, strict=True) if f])
    return SyntheticSummary(
        uri=str(root),
        seed=seed,
        patches=len(metas),
        snow=sum(m.contains_seasonal_snow for m in metas),
        cloud=sum(m.contains_cloud_or_shadow for m in metas),
        splits={split: sum(m.split == split for m in metas) for split in SPLITS},
    )


def _write_share(job: tuple[Path, Archive, range, bool]) -> list[PatchMeta]:
    return list(_write_pairs(*job))


def _write_pairs(root: Path, archive: Archive, scenes: range, reference_maps: bool) -> Iterator[PatchMeta]:
    """Metadata of the pairs of ``scenes``, each after its files are written."""
    for pair in _generate(archive, scenes):
        meta = pair.meta
        place = meta.names.footprint
        corner = (place.epsg, place.ulx, place.uly)
        files: dict[str, bytes] = {}
        for group in GROUPS:
            for band, pixels in zip(group.bands, getattr(pair, group.column), strict=True):
                nodata = None if group is S1_10M else 0
                files[path_of(meta, band)] = write_geotiff(None, pixels, *corner, group.resolution, nodata)
        if reference_maps:
            assert pair.reference_map is not None  # synthetic pairs always have a map
            data = write_geotiff(None, pair.reference_map, *corner, S2_10M.resolution, 0, deflate=True)
            files[path_of(meta, REFERENCE_MAP)] = data
        # Fifteen small files per pair: plain strings and one mkdir per folder save a tenth of the time.
        for folder in {os.path.dirname(path) for path in files}:
            os.makedirs(f"{root}/{folder}", exist_ok=True)
        for path, data in files.items():
            with open(f"{root}/{path}.tif", "wb", buffering=0) as file:
                file.write(data)
        yield meta


def _write_metadata(path: Path, metas: list[PatchMeta]) -> None:
    """Writes one of the two official metadata files: eight columns, rows in the order of ``patch_id``."""
    rows = [{**asdict(m), "labels": list(m.labels or ())} for m in sorted(metas, key=lambda m: m.patch_id)]
    pq.write_table(pa.Table.from_pylist(rows, schema=_METADATA), path, compression="zstd")
