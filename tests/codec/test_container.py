"""Stream format: round trips, and refusal of everything else."""

from __future__ import annotations

import dataclasses
import math
import struct
import tracemalloc

import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eoforge.codec import tiles
from eoforge.codec.container import LIMITS, Header, Kind, Limits, inspect, pack, unpack
from eoforge.codec.raster import BAND_ORDER, Georeference
from eoforge.errors import DataRefused, EoforgeError, LimitExceeded

PLACE = Georeference("EPSG:32633", (10.0, 0.0, 384_000.0, 0.0, -10.0, 5_386_800.0))
HEADER = Header(
    Kind.LEARNED,
    ("B02", "B8A", "VH"),
    (120, 118),
    "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_26_57",
    PLACE,
    quality=3.5,
    bundle="0123456789abcdef",
    code_bytes=4,
    codes=2,
)
STREAM = pack(HEADER, b"payload", b"codes..8")

names = st.text(max_size=40).filter(lambda s: len(s.encode()) <= 256)
numbers = st.floats(allow_nan=False, allow_infinity=False, width=32)


def resealed(stream: bytes) -> bytes:
    """The stream with a checksum that fits: what an attacker can do."""
    return stream[:-4] + struct.pack("<I", google_crc32c.value(stream[:-4]))


@given(
    bands=st.sets(st.sampled_from(BAND_ORDER), min_size=1),
    shape=st.tuples(st.integers(1, 2000), st.integers(1, 2000)),
    name=names,
    crs=st.one_of(
        st.none(),
        st.text(st.characters(categories=["L", "N"]), max_size=40).map(
            lambda name: f'LOCAL_CS["{name}",UNIT["metre",1]]'
        ),
        st.integers(1, 40_000).map("EPSG:{}".format),
    ),
    transform=st.tuples(*[numbers] * 6),
    quality=st.integers(0, 112).map(lambda q: q / 16),
    payload=st.binary(max_size=50),
)
def test_header_and_payload_round_trip(bands, shape, name, crs, transform, quality, payload) -> None:
    place = None if crs is None else Georeference(crs, transform)
    order = tuple(band for band in BAND_ORDER if band in bands)
    header = Header(Kind.LEARNED, order, shape, name, place, quality=quality, code_bytes=2, codes=3)
    container = unpack(pack(header, payload, b"abcdef"))
    assert dataclasses.replace(container.header, payload_bytes=0) == header
    assert bytes(container.payload) == payload
    assert bytes(container.codes) == b"abcdef"


def test_bounds_of_both_sensors_round_trip() -> None:
    bounds = (("s1", 0.25), ("s2", 7.0))
    header = Header(Kind.BOUNDED, ("B02", "VV"), (12, 12), max_error=bounds)
    found = inspect(pack(header, b""))
    assert found.max_error == bounds
    assert math.isnan(found.quality)


def test_the_header_is_small() -> None:
    assert len(pack(dataclasses.replace(HEADER, codes=0, code_bytes=0), b"")) <= 160


@given(st.data())
def test_every_changed_byte_is_detected(data: st.DataObject) -> None:
    position = data.draw(st.integers(0, len(STREAM) - 1))
    value = data.draw(st.integers(1, 255))
    damaged = bytearray(STREAM)
    damaged[position] ^= value
    with pytest.raises(EoforgeError):
        unpack(bytes(damaged))


@pytest.mark.parametrize("length", range(len(STREAM)))
def test_every_truncation_is_detected(length: int) -> None:
    with pytest.raises(DataRefused):
        unpack(STREAM[:length])


def test_more_bytes_than_announced_are_refused() -> None:
    with pytest.raises(DataRefused, match="padded"):
        unpack(STREAM + b"x")


@pytest.mark.parametrize("foreign", [b"", b"II*\0" + bytes(200), b"EOFC", b"\x89PNG\r\n\x1a\n" + bytes(200)])
def test_foreign_files_are_refused(foreign: bytes) -> None:
    with pytest.raises(DataRefused, match="no stream of eoforge"):
        inspect(foreign)


def test_a_later_format_names_a_remedy() -> None:
    with pytest.raises(DataRefused, match="format 9"):
        inspect(resealed(STREAM[:4] + b"\x09\x00" + STREAM[6:]))


@pytest.mark.parametrize(
    ("shape", "tile", "error"),
    [
        ((1 << 31, 1 << 31), 0, LimitExceeded),
        ((3_000, 3_000), 0, LimitExceeded),  # allowed as a whole, but not decoded at once
        ((3_000, 3_000), 504, DataRefused),  # its tiles are allowed, and are not there
        ((0, 120), 0, DataRefused),
        ((120, 118), 7, DataRefused),
        ((11_000, 11_000), 6, DataRefused),  # would be three million tiles
    ],
)
def test_claims_are_checked_before_anything_is_allocated(
    shape: tuple[int, int], tile: int, error: type[EoforgeError]
) -> None:
    claims = struct.pack("<IIHH", *shape, tile, 0)
    hostile = resealed(STREAM[:10] + claims + STREAM[10 + len(claims) :])
    tracemalloc.start()
    try:
        with pytest.raises(error):
            tiles.split(unpack(hostile).payload, len(tiles.plan(shape, tile, 0)))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_callers_choose_the_limits() -> None:
    with pytest.raises(LimitExceeded, match="120 x 118"):
        inspect(STREAM, Limits(max_pixels=10_000))
    assert inspect(STREAM, LIMITS).shape == (120, 118)
