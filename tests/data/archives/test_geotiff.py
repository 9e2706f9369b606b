"""GeoTIFF: pixels, CRS and transform as rasterio reads them; damaged and hostile files give an error."""

from __future__ import annotations

import contextlib
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS
from rasterio.io import MemoryFile
from rasterio.transform import from_origin

from eoforge.data.archives import geotiff, tiff
from eoforge.data.archives.geotiff import MAX_PIXELS, BandRaster, read_geotiff, write_geotiff
from eoforge.errors import DataRefused, UsageError

RNG = np.random.default_rng(7)
SIZES = ((120, "uint16", 10), (60, "uint16", 20), (20, "uint16", 60), (120, "float32", 10))


def some_array(size: int, dtype: str) -> np.ndarray[Any, Any]:
    return (
        RNG.normal(5_000, 1_500, (size, size)).clip(1) if dtype == "uint16" else RNG.normal(-15, 5, (size, size))
    ).astype(dtype)


def with_rasterio(pixels: np.ndarray[Any, Any], **profile: Any) -> bytes:
    height, width = pixels.shape[-2:]
    options = {"driver": "GTiff", "height": height, "width": width, "count": 1, "dtype": pixels.dtype.name}
    options |= {"crs": "EPSG:32633", "transform": from_origin(331200, 5331600, 10, 10), **profile}
    with MemoryFile() as memory:
        with memory.open(**options) as target:
            target.write(pixels if pixels.ndim == 3 else pixels[None])
        return bytes(memory.read())


def assert_equals_rasterio(data: bytes, raster: BandRaster) -> None:
    with MemoryFile(data) as memory, memory.open() as source:
        assert raster.pixels.dtype == source.dtypes[0]
        np.testing.assert_array_equal(raster.pixels, source.read(1))
        assert raster.epsg == (source.crs.to_epsg() if source.crs else None)
        assert raster.transform == tuple(source.transform)[:6]
        assert raster.nodata == source.nodata


@pytest.fixture
def no_rasterio(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes rasterio fail, so that a test proves the use of the fast path."""

    def refuse(data: bytes, name: str) -> BandRaster:
        raise AssertionError(f"{name} went to rasterio")

    monkeypatch.setattr(geotiff, "_read_with_rasterio", refuse)


@pytest.mark.parametrize(("size", "dtype", "metres"), SIZES)
@pytest.mark.parametrize("deflate", [False, True])
def test_what_we_write_rasterio_reads_and_we_too(
    size: int, dtype: str, metres: int, deflate: bool, no_rasterio: None, tmp_path: Path
) -> None:
    if deflate and dtype == "float32":
        with pytest.raises(UsageError, match="integers"):
            write_geotiff(None, some_array(4, dtype), 32633, 0, 0, 10, deflate=True)
        return
    pixels = some_array(size, dtype)
    nodata = 0 if dtype == "uint16" else None
    data = write_geotiff(tmp_path / "a.tif", pixels, 32633, 331200, 5331600, metres, nodata, deflate=deflate)
    assert (tmp_path / "a.tif").read_bytes() == data
    raster = read_geotiff(data)
    assert_equals_rasterio(data, raster)
    np.testing.assert_array_equal(raster.pixels, pixels)
    assert raster.epsg == 32633
    assert raster.transform == (metres, 0, 331200, 0, -metres, 5331600)
    assert raster.nodata == nodata


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (3, 5000), (35, 120), (2, 40_000)])
def test_any_shape(shape: tuple[int, int], no_rasterio: None) -> None:
    pixels = RNG.integers(0, 60_000, shape, dtype=np.uint16)
    for deflate in (False, True):
        data = write_geotiff(None, pixels, 32735, 300_000, 1_000_020, 10, deflate=deflate)
        assert_equals_rasterio(data, read_geotiff(data))


@pytest.mark.parametrize(
    "profile", [{}, {"compress": "deflate", "predictor": 2}, {"compress": "deflate"}, {"nodata": 0}]
)
def test_what_gdal_writes_by_default_needs_no_gdal(profile: dict[str, Any], no_rasterio: None) -> None:
    for size, dtype, _ in SIZES[:3]:
        data = with_rasterio(some_array(size, dtype), **profile)
        assert_equals_rasterio(data, read_geotiff(data))


@pytest.mark.parametrize(
    "profile",
    [
        {"tiled": True, "blockxsize": 16, "blockysize": 16},
        {"compress": "lzw"},
        {"compress": "zstd"},
        {"BIGTIFF": "YES"},
        {"ENDIANNESS": "BIG"},
        {"photometric": "MINISWHITE"},
        {"crs": None},
        {"crs": "EPSG:4326"},
        {"crs": "EPSG:3035"},
        {"transform": rasterio.Affine(10, 1, 300000, 1, -10, 5000000)},
        {"nodata": 12.5},
        {"SPARSE_OK": True},
        {"blockysize": 1},
    ],
    ids=str,
)
def test_other_files_are_read_as_rasterio_reads_them(profile: dict[str, Any]) -> None:
    for dtype in ("uint16", "float32"):
        pixels = np.zeros((120, 120), dtype) if "SPARSE_OK" in profile else some_array(120, dtype)
        data = with_rasterio(pixels, **profile)
        assert_equals_rasterio(data, read_geotiff(data))


def test_strips_with_gaps_between_them_are_read_as_rasterio_reads_them() -> None:
    pixels = some_array(120, "uint16")
    data = write_geotiff(None, pixels, 32633, 300_000, 5_400_000, 10, 0)
    entry = data.index(struct.pack("<HHI", tiff.STRIP_OFFSETS, tiff.LONG, 4))
    place = struct.unpack_from("<I", data, entry + 8)[0]
    offsets = list(struct.unpack_from("<4I", data, place))
    moved = data + bytes(100) + data[offsets[1] : offsets[2]]
    offsets[1] = len(data) + 100
    moved = moved[:place] + struct.pack("<4I", *offsets) + moved[place + 16 :]
    raster = read_geotiff(moved)
    assert_equals_rasterio(moved, raster)
    np.testing.assert_array_equal(raster.pixels, pixels)


@pytest.mark.parametrize(
    "crs",
    [
        "+proj=utm +zone=33 +ellps=WGS84",
        "+proj=utm +zone=33 +ellps=WGS84 +towgs84=500,0,0,0,0,0,0",
        "+proj=utm +zone=33 +ellps=intl",
    ],
)
def test_a_crs_that_resembles_a_code_has_none(crs: str) -> None:
    data = with_rasterio(some_array(20, "uint16"), crs=CRS.from_string(crs))
    with MemoryFile(data) as memory, memory.open() as source:
        assert source.crs.to_epsg()  # what rasterio takes it for
        raster = read_geotiff(data)
        assert (raster.epsg, raster.crs) == (None, source.crs.to_wkt())


def test_a_geotiff_key_that_moves_the_datum_is_not_overlooked() -> None:
    data = write_geotiff(None, some_array(20, "uint16"), 32633, 300_000, 5_400_000, 10)
    keys = np.frombuffer(data[data.index(struct.pack("<4H", 1, 1, 0, 7)) :][:64], "<u2").reshape(-1, 4)
    shifted = np.concatenate([keys[:1] + np.array([0, 0, 0, 1]), keys[1:], [[2062, 0, 1, 0]]])
    assert tiff.epsg_of(keys[:8].tobytes()) == 32633
    assert tiff.epsg_of(shifted.astype("<u2").tobytes()) is None


def test_points_instead_of_areas_shift_the_transform_as_in_gdal() -> None:
    data = write_geotiff(None, some_array(20, "uint16"), 32633, 300_000, 5_400_000, 60, 0)
    area, point = (struct.pack("<4H", tiff.GEO_RASTER, 0, 1, kind) for kind in (1, 2))
    assert data.count(area) == 1
    raster = read_geotiff(data.replace(area, point))
    assert_equals_rasterio(data.replace(area, point), raster)
    assert raster.transform[2] == 300_000 - 30


def test_real_files_equal_rasterio(shared_data: Path, no_rasterio: None) -> None:
    paths = [p for f in ("reben-*", "bigearthnet-v1-sample") for p in sorted(shared_data.glob(f"{f}/**/*.tif*"))]
    assert len(paths) == 24 * 14 + 1 + 2 * 14 + 1 + 14 * 12 + 9 * 2
    for path in paths:
        data = path.read_bytes()
        assert_equals_rasterio(data, read_geotiff(data, path.name))


def test_other_real_products_equal_rasterio(shared_data: Path) -> None:
    folders = ("major-tom-s2l2a-cell", "ssl4eo-s12-sample")
    paths = [p for f in folders for p in sorted(shared_data.glob(f"{f}/**/*.tif"))]
    assert len(paths) > 20
    for path in paths:
        data = path.read_bytes()
        assert_equals_rasterio(data, read_geotiff(data, path.name))


def test_the_writer_reproduces_the_originals(shared_data: Path) -> None:
    """Byte for byte where nothing is compressed; DEFLATE streams depend on the library, so there the pixels."""
    paths = sorted((shared_data / "reben-original-files").glob("BigEarthNet-S[12]/**/*.tif*"))
    assert len(paths) == 28
    for path in paths:
        original = path.read_bytes()
        raster = read_geotiff(original)
        nodata = None if raster.nodata is None else int(raster.nodata)
        a, _, x, _, _, y = raster.transform
        assert write_geotiff(None, raster.pixels, raster.epsg or 0, x, y, a, nodata) == original, path


def test_several_bands_are_refused() -> None:
    with pytest.raises(DataRefused, match="one band, got 3"):
        read_geotiff(with_rasterio(np.ones((3, 8, 8), np.uint16), count=3))


@pytest.mark.parametrize(
    "data", [b"", b"II*\0", b"II*\0\xff\xff\xff\xff", b"\x89PNG\r\n\x1a\n", bytes(200), b"II+\0" + bytes(60)]
)
def test_what_is_no_tiff_is_refused(data: bytes) -> None:
    with pytest.raises(DataRefused):
        read_geotiff(data, "B02")


@pytest.mark.parametrize("deflate", [False, True])
def test_truncation_anywhere_is_refused(deflate: bool) -> None:
    data = write_geotiff(None, some_array(120, "uint16"), 32633, 300_000, 5_400_000, 10, 0, deflate=deflate)
    for length in [*range(430), *range(430, len(data), 997), len(data) - 1]:
        with pytest.raises(DataRefused):
            read_geotiff(data[:length], "B02")


def _patched(data: bytes, tag: int, value: int) -> bytes:
    """``data`` with the inline value of an IFD entry replaced."""
    entries = struct.unpack_from("<H", data, 8)[0]
    for offset in range(10, 10 + 12 * entries, 12):
        if struct.unpack_from("<H", data, offset)[0] == tag:
            kind = struct.unpack_from("<H", data, offset + 2)[0]
            return data[: offset + 8] + struct.pack("<I" if kind == tiff.LONG else "<Hxx", value) + data[offset + 12 :]
    raise AssertionError(f"no tag {tag}")


def test_claimed_sizes_are_refused_before_anything_is_allocated() -> None:
    data = write_geotiff(None, some_array(120, "uint16"), 32633, 300_000, 5_400_000, 10, 0)
    for tag in (tiff.WIDTH, tiff.HEIGHT):
        with pytest.raises(DataRefused):
            read_geotiff(_patched(data, tag, 65_535), "B02")
    huge = _patched(_patched(data, tiff.WIDTH, 65_535), tiff.ROWS_PER_STRIP, 65_535)
    with pytest.raises(DataRefused):
        read_geotiff(_patched(huge, tiff.HEIGHT, 65_535))
    with MemoryFile() as memory:
        options = {"dtype": "uint16", "count": 1, "width": 60_000, "height": 60_000, "SPARSE_OK": True, "tiled": True}
        memory.open(driver="GTiff", **options).close()
        sparse = bytes(memory.read())
    with pytest.raises(DataRefused, match=str(MAX_PIXELS)):
        read_geotiff(sparse)


def test_a_compressed_bomb_is_cut_off() -> None:
    data = write_geotiff(None, np.full((20, 20), 5, np.uint16), 32633, 300_000, 5_400_000, 60, 0, deflate=True)
    start = struct.unpack_from("<I", data, data.index(struct.pack("<HHI", tiff.STRIP_OFFSETS, tiff.LONG, 1)) + 8)[0]
    bomb = data[:start] + zlib.compress(bytes(1 << 26))
    bomb = _patched(bomb, tiff.STRIP_BYTE_COUNTS, len(bomb) - start)
    # Only the bytes the image needs are taken from the stream: it decodes to zeros, and to nothing more.
    assert read_geotiff(bomb).pixels.shape == (20, 20)
    with pytest.raises(DataRefused, match="strip"):
        read_geotiff(data[:start] + zlib.compress(bytes(10)) + bytes(100), "B01")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_bytes_give_a_raster_or_an_error(data: st.DataObject) -> None:
    deflate = data.draw(st.booleans())
    original = bytearray(write_geotiff(None, SMALL, 32633, 300_000, 5_400_000, 60, 0, deflate=deflate))
    for _ in range(data.draw(st.integers(1, 4))):
        original[data.draw(st.integers(0, 371))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(DataRefused):
        assert read_geotiff(bytes(original), "B01").pixels.size <= MAX_PIXELS


def test_a_damaged_crs_name_in_a_file_for_gdal_is_refused() -> None:
    """Found by mutation: rasterio raises a UnicodeDecodeError."""
    data = bytearray(write_geotiff(None, SMALL, 32633, 300_000, 5_400_000, 60, 0))
    crs = data.index(struct.pack("<4H", tiff.PROJECTED_CRS, 0, 1, 32633))
    data[crs + 6 : crs + 8] = struct.pack("<H", 32767)
    name = data.index(b"WGS 84 / UTM")
    data[name] = 0xFF
    with pytest.raises(DataRefused, match="B01"):
        read_geotiff(bytes(data), "B01")


SMALL = some_array(20, "uint16")


@pytest.mark.parametrize(
    ("array", "epsg"),
    [
        (np.ones((2, 2), np.int64), 32633),
        (np.ones((1, 2, 2), np.uint16), 32633),
        (np.ones((0, 2), np.uint16), 32633),
        (SMALL, 3035),
    ],
)
def test_the_writer_refuses_what_it_cannot_write(array: np.ndarray[Any, Any], epsg: int) -> None:
    with pytest.raises(UsageError):
        write_geotiff(None, array, epsg, 0, 0, 10)


def sparse(side: int, **profile: Any) -> bytes:
    """A file of which no tile was written."""
    options = {"driver": "GTiff", "height": side, "width": side, "count": 1, "dtype": "uint16", "crs": "EPSG:32633"}
    with MemoryFile() as memory:
        with memory.open(**options, transform=from_origin(5e5, 6e6, 10, 10), sparse_ok=True, tiled=True, **profile):
            pass
        return bytes(memory.read())


def repeating() -> bytes:
    """A compressed file of 256 strips, all of which are the first one."""
    data = with_rasterio(np.zeros((256, 32768), np.uint16), compress="deflate", blockysize=1)
    (start,) = struct.unpack_from("<I", data, 4)
    (entries,) = struct.unpack_from("<H", data, start)
    fields = {}
    for place in range(start + 2, start + 2 + 12 * entries, 12):
        tag, kind, count, value = struct.unpack_from("<HHII", data, place)
        fields[tag] = (f"<{count}{'HI'[kind == 4]}", value)
    out = bytearray(data)
    firsts = []
    for form, place in (fields[273], fields[279]):  # StripOffsets, StripByteCounts
        values = struct.unpack_from(form, data, place)
        firsts.append(values[0])
        struct.pack_into(form, out, place, *[values[0]] * len(values))
    return bytes(out[: sum(firsts)])


@pytest.mark.parametrize("make", [lambda: sparse(4000), lambda: sparse(3500, compress="deflate"), repeating])
def test_a_small_file_of_a_huge_raster_is_refused(make: Any) -> None:
    data = make()
    assert len(data) < 5000
    with pytest.raises(DataRefused, match=r"has \d+ bytes and claims \d{8} bytes of pixels; at most 4096 times"):
        read_geotiff(data)


@pytest.mark.parametrize("compress", ["deflate", "zstd", "lzw"])
def test_a_constant_raster_is_no_bomb(compress: str) -> None:
    data = with_rasterio(np.zeros((2048, 2048), np.uint16), compress=compress, tiled=True)
    assert not read_geotiff(data).pixels.any()
    assert read_geotiff(sparse(512)).pixels.shape == (512, 512)
