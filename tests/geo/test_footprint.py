"""Footprints: every official patch, against the inverse of MGRS and against real rasters."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from pyproj import Transformer

from eoforge.data.archives.metadata import MetadataRows
from eoforge.data.names import parse_patch_id, parse_s1_name
from eoforge.errors import DataRefused
from eoforge.geo.footprint import Footprint, lonlat_bounds, tile_origin
from eoforge.geo.utm import utm_to_lonlat

BANDS = "CDEFGHJKLMNPQRSTUVWX"
COLUMNS = ("ABCDEFGH", "JKLMNPQR", "STUVWXYZ")
ROWS = "ABCDEFGHJKLMNPQRSTUV"


def letters_at(epsg: int, easting: int, northing: int) -> tuple[set[str], str]:
    """MGRS letters of the 100 km square at a UTM point, computed from coordinates: possible bands, and the square."""
    zone = epsg % 100
    to_lonlat = Transformer.from_crs(epsg, 4326, always_xy=True)
    latitudes = [to_lonlat.transform(easting + 50_000, northing + d)[1] for d in (0, 100_000)]
    bands = {BANDS[min(19, int((lat + 80) // 8))] for lat in latitudes}
    column = COLUMNS[(zone - 1) % 3][easting // 100_000 - 1]
    row = ROWS[(northing // 100_000 + (5 if zone % 2 == 0 else 0)) % 20]
    return bands, column + row


def test_every_official_footprint_lies_in_the_square_that_its_name_says(official: MetadataRows) -> None:
    seen: dict[str, Footprint] = {}
    places = np.empty((len(official), 3), dtype=np.int32)
    cells = np.empty((len(official), 2), dtype=np.int32)
    for i, patch_id in enumerate(official.table["patch_id"].to_pylist()):
        patch = parse_patch_id(patch_id)
        place = patch.footprint
        places[i] = place.epsg, place.ulx, place.uly
        cells[i] = patch.x, patch.y
        seen.setdefault(patch.tile.mgrs, Footprint(place.epsg, place.ulx - 1200 * patch.x, place.uly + 1200 * patch.y))
    assert len(seen) == 54
    for mgrs, origin in seen.items():
        assert origin == tile_origin(mgrs)
        assert origin.epsg == 32600 + int(mgrs[:2])
        # The tile starts at most one 60 m cell outside its square.
        south_west = (round(origin.ulx, -5), round(origin.uly - 100_000, -5))
        assert 0 <= south_west[0] - origin.ulx < 60
        assert 0 <= origin.uly - 100_000 - south_west[1] < 60
        bands, square = letters_at(origin.epsg, *south_west)
        assert mgrs[2] in bands
        assert mgrs[3:] == square
    assert set(np.unique(places[:, 0])) == {32629, *range(32631, 32637)}
    assert (places[:, 1:] % 60 == 0).all()
    bounds = lonlat_bounds(*places.T)
    assert (bounds[:, :2] < bounds[:, 2:]).all()
    for zone in np.unique(places[:, 0]):
        rows = places[places[:, 0] == zone]
        expected = Transformer.from_crs(int(zone), 4326, always_xy=True).transform(rows[:, 1], rows[:, 2])
        got = utm_to_lonlat(rows[:, 0], rows[:, 1].astype(float), rows[:, 2].astype(float))
        ten_micrometres = 1e-10  # degrees of latitude, rounded up
        assert np.allclose(got, expected, atol=ten_micrometres, rtol=0)
    # All of BigEarthNet's ten countries, and nothing else, lies in this box.
    assert bounds[:, 0].min() > -11
    assert bounds[:, 2].max() < 32
    assert bounds[:, 1].min() > 36
    assert bounds[:, 3].max() < 71


def test_the_worked_example() -> None:
    assert tile_origin("33UUP") == Footprint(32633, 300_000, 5_400_000)
    assert parse_patch_id("S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_26_57").footprint == Footprint(
        32633, 331_200, 5_331_600
    )


def _real_rasters(shared_data: Path) -> Iterator[tuple[Path, Footprint]]:
    for path in sorted(shared_data.glob("reben-*/BigEarthNet-S2/*/*/*_B02.tif*")):
        yield path, parse_patch_id(path.parent.name).footprint
    for path in sorted(shared_data.glob("reben-*/Reference_Maps/*/*/*_reference_map.tif")):
        yield path, parse_patch_id(path.parent.name).footprint
    s1_folders = ("reben-*/BigEarthNet-S1/*/*", "bigearthnet-v1-sample/BigEarthNet-S1-v1.0/*")
    for path in sorted(p for f in s1_folders for p in shared_data.glob(f"{f}/*_VV.tif")):
        name = parse_s1_name(path.parent.name)
        origin = tile_origin(name.mgrs)
        yield path, Footprint(origin.epsg, origin.ulx + 1200 * name.x, origin.uly - 1200 * name.y)


def test_real_rasters_lie_where_their_names_say(shared_data: Path) -> None:
    tiles = set()
    for path, place in _real_rasters(shared_data):
        with rasterio.open(path) as source:
            assert source.crs.to_epsg() == place.epsg, path
            assert (source.transform.c, source.transform.f) == (place.ulx, place.uly), path
        tiles.add((place.epsg, path.parent.parent.name))
    assert len(tiles) >= 8


def test_v1_optical_rasters_lie_where_their_v2_names_say(shared_data: Path, official: MetadataRows) -> None:
    v2_of = dict(zip(official.table["s2v1_name"].to_pylist(), official.table["patch_id"].to_pylist(), strict=True))
    paths = sorted(shared_data.glob("bigearthnet-v1-sample/BigEarthNet-v1.0/*/*_B02.tif"))
    assert len(paths) == 14
    for path in paths:
        place = parse_patch_id(v2_of[path.parent.name]).footprint
        with rasterio.open(path) as source:
            assert source.crs.to_epsg() == place.epsg
            assert (source.transform.c, source.transform.f) == (place.ulx, place.uly)


def test_bounds_hold_the_patch() -> None:
    epsg = np.array([32633, 32629, 32635], dtype=np.int32)
    ulx, uly = (
        np.array([331_200, 499_980, 300_000], dtype=np.int32),
        np.array([5_331_600, 4_300_020, 7_800_000], dtype=np.int32),
    )
    for bounds, zone, x, y in zip(lonlat_bounds(epsg, ulx, uly), epsg, ulx, uly, strict=True):
        to_lonlat = Transformer.from_crs(int(zone), 4326, always_xy=True)
        lon, lat = to_lonlat.transform(*np.meshgrid(np.linspace(x, x + 1200, 13), np.linspace(y - 1200, y, 13)))
        metre = 1e-5  # degrees of latitude, rounded up
        assert np.allclose(bounds, [lon.min(), lat.min(), lon.max(), lat.max()], atol=0.1 * metre, rtol=0)


@pytest.mark.parametrize("mgrs", ["33UAP", "33UUW", "33IUP", "33AUP"])
def test_tiles_that_do_not_exist_are_refused(mgrs: str) -> None:
    with pytest.raises(DataRefused, match=mgrs):
        tile_origin(mgrs)


@pytest.mark.parametrize(
    ("mgrs", "epsg", "ulx", "uly"),
    [("39MXR", 32739, 600_000, 9_600_040), ("53HNV", 32753, 499_980, 6_000_040), ("53HNA", 32753, 499_980, 6_100_000)],
)
def test_southern_tiles_start_where_published_products_do(mgrs: str, epsg: int, ulx: int, uly: int) -> None:
    assert tile_origin(mgrs) == Footprint(epsg, ulx, uly)


@pytest.mark.parametrize("zone", [32601, 32632, 32633, 32701, 32732, 32760])
def test_every_square_of_a_zone_is_found_by_its_letters(zone: int) -> None:
    """Inverse: letters from coordinates through PROJ, then the origin from the letters."""
    south = zone > 32700
    for northing in range(1_200_000 if south else 0, 10_000_000 if south else 9_300_000, 100_000):
        bands, square = letters_at(zone, 500_000, northing)
        for band in bands & set(BANDS[:10] if south else BANDS[10:]):
            origin = tile_origin(f"{zone % 100:02d}{band}{square}")
            assert origin.epsg == zone
            assert origin.ulx == 499_980
            assert 0 <= origin.uly - 100_000 - northing < 60


@given(
    zone=st.sampled_from([*range(32601, 32661), *range(32701, 32761)]),
    easting=st.floats(100_000, 900_000),
    from_equator=st.floats(0, 9_300_000),
)
def test_utm_agrees_with_proj_anywhere_in_a_zone(zone: int, easting: float, from_equator: float) -> None:
    northing = 10_000_000 - from_equator if zone > 32700 else from_equator
    lon, lat = utm_to_lonlat(np.array(zone), np.array(easting), np.array(northing))
    expected = Transformer.from_crs(zone, 4326, always_xy=True).transform(easting, northing)
    apart = (float(lon) - expected[0] + 180) % 360 - 180  # zone 1 may lie west of the date line
    assert abs(apart) * np.cos(np.radians(expected[1])) < 1e-10
    assert abs(float(lat) - expected[1]) < 1e-10


def test_bounds_can_be_computed_in_threads_that_arrow_or_lance_own() -> None:
    row = np.array([32633], dtype=np.int32), np.array([331_200], dtype=np.int32), np.array([5_331_600], dtype=np.int32)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: lonlat_bounds(*row), range(32)))
    assert all(np.array_equal(r, results[0]) for r in results)
