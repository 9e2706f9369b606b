"""Validity of pixels in a stream: masks, and the nodata pixels of bands that are coded with loss.

A pixel is invalid where it has the nodata value or where the internal mask of its file says so. Both are coded without
loss, beside the pixels of each piece: a coded raster has the same valid pixels as the original. A valid sample that
the loss moved onto the nodata value is moved off it again, towards its original where a bound must hold.

Section of a piece, before its payload: ``length u32 | deflated planes``; without invalid pixels the length is 0. A
plane is one bit per pixel; each row is combined with the row above by exclusive or.
"""

from __future__ import annotations

import struct
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from eoforge.codec import tiles
from eoforge.codec.container import Header, Kind
from eoforge.codec.profile import Profile
from eoforge.codec.raster import Masks, Raster, factor_of, grid_shape
from eoforge.codec.slices import FileSlice
from eoforge.codec.tiles import Pixels
from eoforge.data.bands import GROUP_OF, S1_BANDS
from eoforge.errors import DataRefused

_LENGTH = struct.Struct("<I")
_FARTHEST = 1e30
"""Nodata values from here on are left downwards: above them a float32 may be infinite."""
_ULPS = 16
"""Distance from a float32 nodata value at which GDAL takes a sample for valid, with a margin: it compares in 2 to 8."""
_BOUND_MARGIN = 0.01
"""Added to a bound, in its unit: GDAL takes samples near a float32 nodata value for nodata."""
Bits = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class _Plane:
    """Plane of bits of a piece: the mask of a grid, or of a band its nodata pixels or its valid samples below them."""

    kind: str
    name: str
    default: bool


def lossy(header: Header, band: str) -> bool:
    """Whether samples of a band may differ from the original."""
    if header.kind is Kind.LEARNED:
        return True
    modality = "s1" if band in S1_BANDS else "s2"
    return bool(np.float32(dict(header.max_error)[modality]) > 0)  # as the header keeps it


def is_nodata(pixels: npt.NDArray[Any], nodata: npt.NDArray[Any]) -> Bits:
    """Pixels ``[h, w]`` that GDAL takes for nodata: float32 numbers some units in the last place away, too."""
    if pixels.dtype.kind != "f":
        return np.asarray(pixels == nodata)
    if np.isnan(nodata):
        return np.isnan(pixels)
    with np.errstate(over="ignore", invalid="ignore"):
        near = np.abs(pixels - nodata) < np.abs(pixels + nodata) * np.finfo(np.float32).eps * 2
    return np.asarray((pixels == nodata) | (near & np.isfinite(pixels)))


def invalid_of(raster: Raster, band: str) -> Bits:
    """Pixels ``[h, w]`` of a band that are invalid by its nodata value or its mask."""
    pixels = raster.bands[band]
    nodata = raster.profile.nodata_of(band) if raster.profile else None
    found = np.zeros(pixels.shape, dtype=bool) if nodata is None else is_nodata(pixels, nodata)
    mask = raster.masks.get(GROUP_OF[band].column)
    return found if mask is None else found | ~mask


def cover(header: Header, raster: Raster) -> tuple[Raster, bytes]:
    """Raster to be coded, and the section that goes before its payload.

    The invalid samples of a band that is coded with loss are replaced by values that cost little.

    Args:
        header: Header of the stream.
        raster: The piece.
    """
    profile = header.profile
    if profile is None:
        return raster, b""
    bands = dict(raster.bands)
    planes: dict[_Plane, Bits] = {}
    for plane in _planes(header, profile):
        if plane.kind == "mask":
            planes[plane] = raster.masks[plane.name]
            continue
        pixels, nodata = raster.bands[plane.name], profile.nodata_of(plane.name)
        assert nodata is not None
        empty = is_nodata(pixels, nodata)
        if plane.kind == "empty":
            planes[plane] = empty
        else:
            bound = dict(header.max_error)["s1" if plane.name in S1_BANDS else "s2"]
            distance = float(nodata) - pixels.astype(np.float64)
            planes[plane] = ~empty & (distance > 0) & (distance <= bound + _BOUND_MARGIN)
    for name in bands:
        if lossy(header, name):
            # A bound holds for samples under a mask, too; those that a learned codec would see are made harmless.
            hidden = invalid_of(raster, name) if header.kind is Kind.LEARNED else _empty(raster, name)
            bands[name] = _filled(raster.bands[name], hidden)
    if all(np.all(bits == plane.default) for plane, bits in planes.items()):
        section = b""
    else:
        section = zlib.compress(b"".join(_pack(bits) for bits in planes.values()), 9)
    filled = Raster(bands, raster.shape, raster.georeference, raster.patch_id, raster.profile, raster.masks)
    return filled, _LENGTH.pack(len(section)) + section


def part(header: Header, payload: memoryview | FileSlice | bytes) -> tuple[bytes, bytes]:
    """Section and pixels of the payload of a piece.

    Raises:
        DataRefused: The payload is shorter than its section.
    """
    whole = bytes(payload)
    if header.profile is None:
        return b"", whole
    if len(whole) < _LENGTH.size:
        raise DataRefused(f"damaged stream: a piece of {len(whole)} bytes")
    end = _LENGTH.size + _LENGTH.unpack_from(whole)[0]
    if end > len(whole):
        raise DataRefused(f"damaged stream: a piece of {len(whole)} bytes claims {end} for its masks")
    return whole[_LENGTH.size : end], whole[end:]


def blocks(header: Header, decoded: Iterable[tuple[tiles.Window, bytes, Pixels]]) -> Iterator[tiles.Block]:
    """Finished blocks with the validity of the original, from windows with their sections and pixels.

    Raises:
        DataRefused: A section is damaged.
    """
    sections: deque[tuple[bytes, tuple[int, int]]] = deque()

    def windows() -> Iterator[tuple[tiles.Window, Pixels]]:
        for window, section, pixels in decoded:
            sections.append((section, (window.height, window.width)))
            yield window, pixels

    for block in tiles.blocks(windows(), header.shape, header.overlap):  # one per window
        pixels, masks = restore(header, *sections.popleft(), block.pixels)
        yield tiles.Block(block.row, block.column, pixels, masks)


def restore(header: Header, section: bytes, shape: tuple[int, int], pixels: Pixels) -> tuple[Pixels, Masks]:
    """Pixels with the validity of the original, and the mask of each grid that has one.

    Args:
        header: Header of the stream.
        section: Section of the piece.
        shape: Rows and columns of the piece on the base grid.
        pixels: Decoded bands, at most as large as the piece: of a tile the part that blending finished.

    Raises:
        DataRefused: The section is damaged.
    """
    profile = header.profile
    if profile is None:
        return pixels, {}
    planes = _unpack(section, _planes(header, profile), header, shape)
    sizes = {GROUP_OF[band].column: found.shape for band, found in pixels.items()}
    masks = {
        plane.name: bits[: sizes[plane.name][0], : sizes[plane.name][1]]
        for plane, bits in planes.items()
        if plane.kind == "mask"
    }
    restored = dict(pixels)
    for plane, bits in planes.items():
        if plane.kind == "empty":
            rows, columns = pixels[plane.name].shape
            below = planes.get(_Plane("below", plane.name, False), np.zeros_like(bits))
            nodata = profile.nodata_of(plane.name)
            assert nodata is not None
            restored[plane.name] = _emptied(
                pixels[plane.name], nodata, bits[:rows, :columns], below[:rows, :columns], header.kind
            )
    return restored, masks


def _planes(header: Header, profile: Profile) -> list[_Plane]:
    planes = [_Plane("mask", grid, True) for grid, part in profile.grids.items() if part.masked]
    for band in header.bands:
        nodata = profile.nodata_of(band)
        if nodata is None or not lossy(header, band):
            continue
        planes.append(_Plane("empty", band, False))
        if header.kind is Kind.BOUNDED and np.isfinite(nodata):
            planes.append(_Plane("below", band, False))
    return planes


def _empty(raster: Raster, band: str) -> Bits:
    nodata = raster.profile.nodata_of(band) if raster.profile else None
    return np.zeros(raster.bands[band].shape, dtype=bool) if nodata is None else is_nodata(raster.bands[band], nodata)


def _filled(pixels: npt.NDArray[Any], hidden: Bits) -> npt.NDArray[Any]:
    """Pixels with the hidden ones replaced by the median of the others."""
    if not hidden.any():
        return pixels
    seen = pixels[~hidden]
    seen = seen[np.isfinite(seen)]
    filled = pixels.copy()
    filled[hidden] = np.median(seen).astype(pixels.dtype) if seen.size else 0
    return filled


def _emptied(
    pixels: npt.NDArray[Any], nodata: npt.NDArray[Any], empty: Bits, below: Bits, kind: Kind
) -> npt.NDArray[Any]:
    """Pixels in which exactly the empty ones have the nodata value."""
    fixed = pixels.copy()
    collided = is_nodata(fixed, nodata) & ~empty
    if collided.any() and np.isfinite(nodata):
        integer = fixed.dtype.kind != "f"
        step = 1.0 if integer else max(_ULPS * float(np.spacing(np.abs(nodata))), 1e-6)
        top = float(np.iinfo(fixed.dtype).max) if integer else _FARTHEST
        down = below if kind is Kind.BOUNDED else np.full(below.shape, float(nodata) >= top)
        fixed[collided] = (float(nodata) + np.where(down[collided], -step, step)).astype(fixed.dtype)
    fixed[empty] = nodata
    return fixed


def _pack(bits: Bits) -> bytes:
    rows = bits.copy()
    rows[1:] ^= bits[:-1]
    return np.packbits(rows).tobytes()


def _unpack(section: bytes, planes: list[_Plane], header: Header, shape: tuple[int, int]) -> Mapping[_Plane, Bits]:
    factors = {GROUP_OF[band].column: factor_of(band) for band in header.bands}
    sizes = {
        plane: grid_shape(shape, factors[plane.name] if plane.kind == "mask" else factor_of(plane.name))
        for plane in planes
    }
    if not section:
        return {plane: np.full(size, plane.default) for plane, size in sizes.items()}
    wanted = sum(-(-rows * columns // 8) for rows, columns in sizes.values())
    try:
        decoder = zlib.decompressobj()
        raw = decoder.decompress(section, wanted + 1)
    except zlib.error as error:
        raise DataRefused(f"damaged stream: a mask does not decode ({error})") from error
    if len(raw) != wanted or not decoder.eof:
        raise DataRefused(f"damaged stream: masks of {len(raw)} bytes, expected {wanted}")
    found, start = {}, 0
    for plane, (rows, columns) in sizes.items():
        end = start + -(-rows * columns // 8)
        bits = np.unpackbits(np.frombuffer(raw[start:end], dtype=np.uint8), count=rows * columns)
        found[plane] = np.bitwise_xor.accumulate(bits.reshape(rows, columns), axis=0).astype(bool)
        start = end
    return found
