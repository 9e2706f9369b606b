"""Whole synthetic tile with its radar scene and land cover: patches of the synthetic archive, put together.

The inverse of a construction: what is cut from these files must equal the patches. The data are NOT real.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from eoforge.data.bands import GROUPS, S1_10M, S2_10M, BandGroup
from eoforge.data.records import PatchPair
from eoforge.data.synthetic.archive import synthetic_cell
from eoforge.data.synthetic.scenes import SCENES
from eoforge.errors import UsageError
from eoforge.geo.footprint import PATCH_METRES, tile_origin
from eoforge.geo.geopackage import outlines, reprojected, write_geopackage
from eoforge.geo.grids import Grid
from eoforge.geo.writers import write_cog, write_jp2
from eoforge.progress import track

WHOLE = 91
"""Complete patches along one side of a tile; half a patch follows them."""
_JP2_TILES = {10: 1024, 20: 640, 60: 192}
"""Internal tiles of official products by resolution in metres."""
_BAND_IDS = 13
_LAEA_EUROPE = 3035

Layout = Literal["safe", "cog"]
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class SyntheticTile:
    """Addresses of a written tile: product, folder of its radar scene, land cover."""

    product: Path
    radar: Path
    land_cover: Path


def write_tile(
    out: Path,
    *,
    columns: int = WHOLE,
    rows: int = WHOLE,
    first: tuple[int, int] = (0, 0),
    seed: int = 0,
    scene: int = 0,
    layout: Layout = "safe",
    offset: int = 0,
    baseline: int = 9999,
    listed: bool = True,
    mgrs: str | None = None,
    distinct: int = 0,
    fast: bool = False,
) -> SyntheticTile:
    """Tile written below a folder.

    Args:
        out: A folder.
        columns: Complete patches eastwards; an incomplete one follows, as in a whole tile.
        rows: Complete patches southwards, likewise.
        first: Place (x, y) of the first patch in the MGRS tile.
        seed: Seed of the archive.
        scene: Number of the scene of the archive.
        layout: SAFE folder with JPEG 2000, or folder with one COG per band.
        offset: ``BOA_ADD_OFFSET`` of the product; stored values are larger by its opposite.
        baseline: Processing baseline in the name, 9999 as in reBEN.
        listed: Whether the metadata list the offset.
        mgrs: Another MGRS tile than that of the scene; the ground stays that of the scene.
        distinct: Number of different patches, which then repeat over the tile; 0 if all differ.
        fast: COGs without compression.

    Raises:
        UsageError: The patches do not fit into a tile, or the folder holds a tile.
    """
    if not (1 <= columns <= WHOLE - first[0] and 1 <= rows <= WHOLE - first[1]):
        raise UsageError(f"{columns} x {rows} patches from {first} do not fit into a tile of {WHOLE} x {WHOLE}")
    known = SCENES[scene]
    name = f"{known.s2[:27]}N{baseline:04d}{known.s2[32:-5]}{mgrs or known.mgrs}"
    folder = out / (f"{name}_{known.s2[11:26]}.SAFE" if layout == "safe" else name)
    if folder.exists():
        raise UsageError(f"{folder} exists already; choose another folder")
    origin = tile_origin(mgrs or known.mgrs)
    left, top = origin.ulx + PATCH_METRES * first[0], origin.uly - PATCH_METRES * first[1]

    def grid(metres: int, shape: tuple[int, int]) -> Grid:
        return Grid(origin.epsg, float(left), float(top), float(metres), shape[1], shape[0])

    scratch = out / ".scratch"
    scratch.mkdir(parents=True)
    try:
        stacks = _stacks(scratch, columns, rows)
        with track("making synthetic patches", columns * rows) as progress:
            pool: list[PatchPair] = []
            for x in range(columns):
                for y in range(rows):
                    if distinct and len(pool) == distinct:
                        pair = pool[(x * rows + y) % distinct]
                    else:
                        pair = synthetic_cell(seed, scene, first[0] + x, first[1] + y)
                        pool += [pair] if distinct else []
                    _put(stacks, pair, x, y, offset)
                    progress.advance()
        images = folder
        if layout == "safe":
            images = _metadata(folder, name, grid, stacks, offset if listed else None, baseline)
        radar = out / "radar" / known.s1
        radar.mkdir(parents=True)
        for group in GROUPS:
            place = grid(group.resolution, stacks[group.column].shape[1:])
            for band, pixels in zip(group.bands, stacks[group.column], strict=True):
                if group is S1_10M:
                    write_cog(radar / f"{band}.tif", pixels, place, None, fast=fast)
                elif layout == "cog":
                    folder.mkdir(exist_ok=True)
                    write_cog(folder / f"{band}.tif", pixels, place, 0, fast=fast)
                else:
                    target = images / f"R{group.resolution}m"
                    target.mkdir(parents=True, exist_ok=True)
                    file = f"T{name[-5:]}_{name[11:26]}_{band}_{group.resolution}m.jp2"
                    write_jp2(target / file, pixels, _JP2_TILES[group.resolution])
        cover = out / "land_cover.gpkg"
        _write_cover(cover, stacks["reference_map"], grid(S2_10M.resolution, stacks["reference_map"].shape))
        return SyntheticTile(folder, out / "radar", cover)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _stacks(scratch: Path, columns: int, rows: int) -> dict[str, Array]:
    """Files in place of arrays: a whole tile has 2.6 GB. The incomplete edge is half a patch."""

    def stack(name: str, group: BandGroup, *leading: int) -> Array:
        height, width = (count * group.size + group.size // 2 for count in (rows, columns))
        shape = (*leading, height, width)
        return np.lib.format.open_memmap(scratch / f"{name}.npy", mode="w+", dtype=group.dtype, shape=shape)

    stacks = {group.column: stack(group.column, group, len(group.bands)) for group in GROUPS}
    stacks["reference_map"] = np.lib.format.open_memmap(
        scratch / "map.npy", mode="w+", dtype=np.uint16, shape=stacks[S2_10M.column].shape[1:]
    )
    stacks["reference_map"][...] = 523
    return stacks


def _put(stacks: dict[str, Array], pair: PatchPair, x: int, y: int, offset: int) -> None:
    for group in GROUPS:
        pixels = getattr(pair, group.column)
        part = slice(y * group.size, (y + 1) * group.size), slice(x * group.size, (x + 1) * group.size)
        stacks[group.column][:, *part] = pixels if group is S1_10M else pixels + np.uint16(-offset)
    side = S2_10M.size
    stacks["reference_map"][y * side : (y + 1) * side, x * side : (x + 1) * side] = pair.reference_map


def _write_cover(path: Path, codes: Array, grid: Grid) -> None:
    """Polygons in the CRS of CORINE, or in that of a tile outside Europe."""
    found = outlines(np.asarray(codes), grid)
    epsg = _LAEA_EUROPE if grid.epsg < 32700 else grid.epsg
    shapes = [geometry for geometry, _ in found]
    if epsg != grid.epsg:
        shapes = reprojected(shapes, f"EPSG:{grid.epsg}", f"EPSG:{epsg}")
    write_geopackage(path, "U2018_CLC2018", epsg, zip(shapes, (str(code) for _, code in found), strict=True))


def _metadata(folder: Path, name: str, grid: Any, stacks: dict[str, Array], offset: int | None, baseline: int) -> Path:
    """Writes the two metadata files with what a reader needs; returns the folder of the images."""
    granule = folder / "GRANULE" / f"L2A_T{name[-5:]}_A000000_{name[11:26]}"
    granule.mkdir(parents=True)
    values = "".join(f'<BOA_ADD_OFFSET band_id="{i}">{offset}</BOA_ADD_OFFSET>' for i in range(_BAND_IDS))
    listed = "" if offset is None else f"<BOA_ADD_OFFSET_VALUES_LIST>{values}</BOA_ADD_OFFSET_VALUES_LIST>"
    (folder / "MTD_MSIL2A.xml").write_text(
        '<?xml version="1.0" encoding="UTF-8"?><n1:Level-2A_User_Product xmlns:n1="https://psd-14.sentinel2.eo.esa.int/'
        'PSD/User_Product_Level-2A.xsd"><n1:General_Info><Product_Info>'
        f"<PRODUCT_URI>{folder.name}</PRODUCT_URI><PROCESSING_BASELINE>{baseline // 100:02d}.{baseline % 100:02d}"
        "</PROCESSING_BASELINE></Product_Info><Product_Image_Characteristics><QUANTIFICATION_VALUES_LIST>"
        '<BOA_QUANTIFICATION_VALUE unit="none">10000</BOA_QUANTIFICATION_VALUE></QUANTIFICATION_VALUES_LIST>'
        f"{listed}</Product_Image_Characteristics></n1:General_Info></n1:Level-2A_User_Product>"
    )
    sizes, places = "", ""
    for group in (group for group in GROUPS if group is not S1_10M):
        place = grid(group.resolution, stacks[group.column].shape[1:])
        mark = f'resolution="{group.resolution}"'
        sizes += f"<Size {mark}><NROWS>{place.height}</NROWS><NCOLS>{place.width}</NCOLS></Size>"
        corner = f"<ULX>{place.left:.0f}</ULX><ULY>{place.top:.0f}</ULY>"
        step = f"<XDIM>{group.resolution}</XDIM><YDIM>-{group.resolution}</YDIM>"
        places += f"<Geoposition {mark}>{corner}{step}</Geoposition>"
    epsg = grid(10, (1, 1)).epsg
    (granule / "MTD_TL.xml").write_text(
        '<?xml version="1.0" encoding="UTF-8"?><n1:Level-2A_Tile_ID xmlns:n1="https://psd-14.sentinel2.eo.esa.int/PSD/'
        'S2_PDI_Level-2A_Tile_Metadata.xsd"><n1:Geometric_Info><Tile_Geocoding>'
        f"<HORIZONTAL_CS_CODE>EPSG:{epsg}</HORIZONTAL_CS_CODE>{sizes}{places}"
        "</Tile_Geocoding></n1:Geometric_Info></n1:Level-2A_Tile_ID>"
    )
    return granule / "IMG_DATA"
