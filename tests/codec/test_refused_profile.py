"""Profiles of streams that are refused: what no GeoTIFF can hold, what is too large, what is damaged."""

from __future__ import annotations

import struct
import zlib

import google_crc32c
import numpy as np
import pytest

from eoforge.codec.bounded.streams import compress_bounded
from eoforge.codec.container import inspect
from eoforge.codec.profile import MAX_VALUES, BandProfile, ControlPoint, GridProfile, Profile, unpack_profile
from eoforge.codec.raster import Raster
from eoforge.errors import DataRefused, EoforgeError, LimitExceeded


def profiled(profile: Profile) -> Raster:
    return Raster({"B02": np.arange(1, 37, dtype=np.uint16).reshape(6, 6)}, profile=profile)


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (GridProfile({"B02": BandProfile(tags={"a=b": "x"})}), "tag 'a=b'"),
        (GridProfile({"B02": BandProfile()}, tags={"a": "x\0y"}), "tag 'a'"),
        (GridProfile({"B02": BandProfile()}, tags={"bidx": "9"}), "tag 'bidx'"),
        (GridProfile({"B02": BandProfile(tags={"ns": "RPC"})}), "tag 'ns'"),
        (GridProfile({"B02": BandProfile(scale=float("nan"))}), "not finite"),
        (GridProfile({"B02": BandProfile(unit="\x01")}), "unit"),
        (GridProfile({"B02": BandProfile()}, rpcs={"line_off": [1.0]}), "RPCs"),
        (GridProfile({"B02": BandProfile()}, points_crs="/etc/hostname"), "EPSG:<code>"),
        (GridProfile({"B03": BandProfile()}), "B03"),
    ],
)
def test_a_profile_that_no_geotiff_can_hold_is_refused(part: GridProfile, words: str) -> None:
    with pytest.raises(DataRefused, match=words):
        compress_bounded(profiled(Profile({"s2_10m": part})), 0)


def test_a_profile_that_is_too_large_is_refused() -> None:
    noise = np.random.default_rng(3).bytes(1 << 17).hex()
    with pytest.raises(LimitExceeded, match="tags, ground control points and RPCs"):
        compress_bounded(profiled(Profile({"s2_10m": GridProfile({"B02": BandProfile()}, tags={"a": noise})})), 0)


def test_a_profile_of_too_many_values_is_refused() -> None:
    points = tuple(ControlPoint(0, 0, 0, 0) for _ in range(MAX_VALUES // 2))
    with pytest.raises(LimitExceeded, match="commas"):
        compress_bounded(profiled(Profile({"s2_10m": GridProfile({"B02": BandProfile()}, points=points)})), 0)


def resealed(stream: bytes) -> bytes:
    return stream[:-4] + struct.pack("<I", google_crc32c.value(stream[:-4]))


CROWD = b'{"grids":{"s2_10m":{"bands":{"B02":{}},"points":[' + b"0," * 500_000 + b"0]}}}"
"""Wrong values for each of which the parser would keep an error: 290 MB of them."""


def test_a_crowd_of_wrong_values_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(DataRefused, match=f"more than {MAX_VALUES} values"):
        unpack_profile(zlib.compress(CROWD, 9), ["B02"])


def test_a_damaged_profile_is_refused() -> None:
    stream = compress_bounded(profiled(Profile({"s2_10m": GridProfile({"B02": BandProfile()}, nodata=0.0)})), 5)
    start = stream.index(b"\x78\xda")
    (length,) = struct.unpack_from("<I", stream, start - 4)
    assert inspect(stream).profile is not None
    for text in (b"{}", b"[", b'{"grids":{"s2_10m":{"bands":{},"x":1}}}', b" " * (1 << 21), CROWD):
        packed = zlib.compress(text, 9)
        bad = stream[: start - 4] + struct.pack("<I", len(packed)) + packed + stream[start + length :]
        with pytest.raises(DataRefused, match="profile"):
            inspect(resealed(bad))
    for size in (0, length - 1, length + 1, 1 << 31):
        with pytest.raises(EoforgeError):
            inspect(resealed(stream[: start - 4] + struct.pack("<I", size) + stream[start:]))
