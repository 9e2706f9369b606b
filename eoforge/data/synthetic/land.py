"""Ground of the synthetic archive: continuous fields, CORINE Land Cover maps and field parcels.

All fields are functions of absolute UTM coordinates, so neighbouring patches of a tile fit together without a stored
map of the tile: a lattice of hashed values is interpolated by cubic B-splines, octave by octave. Land cover results
from thresholds on these fields; the area shares of each country set the thresholds. Typical neighbourhoods follow:
beaches along the sea, wetlands along water, transitional woodland along forest edges, industry at the edge of towns.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from eoforge.data.bands import S1_BANDS, S2_BANDS
from eoforge.data.labels import IGNORE_INDEX, clc_to_classes
from eoforge.data.synthetic.scenes import COUNTRIES, Country

Float = npt.NDArray[np.float32]

PIXELS = 120
PITCH = 10.0

_GROUND = ("relief", "coast", "culture", "variety", "forest", "moisture", "people", "river")
_OCTAVES = (19200.0, 6000.0, 2400.0, 1200.0, 600.0, 300.0)
# Rows: fields; columns: amplitude per octave. Relief and coast are smooth, land use is patchy at 0.5 to 2 km.
_AMPLITUDES = np.array(
    [
        [0.60, 0.70, 0.50, 0.35, 0.20, 0.10],
        [0.90, 0.50, 0.25, 0.16, 0.08, 0.04],
        [0.25, 0.45, 0.65, 0.50, 0.25, 0.12],
        [0.30, 0.50, 0.65, 0.50, 0.20, 0.08],
        [0.30, 0.50, 0.65, 0.50, 0.20, 0.08],
        [0.30, 0.50, 0.60, 0.40, 0.30, 0.20],
        [0.10, 0.40, 0.70, 0.60, 0.30, 0.16],
        [0.50, 0.80, 0.40, 0.10, 0.00, 0.00],
    ],
    dtype=np.float32,
)
_AMPLITUDES /= np.sqrt((_AMPLITUDES**2).sum(axis=1, keepdims=True))
# Cubic B-spline interpolation of unit-variance lattice values has a variance of (151/315)^2 on average.
_SPLINE_GAIN = np.float32(315 / 151)

_LOCAL = ("culture", "variety", "forest", "moisture", "people")
"""Fields that the local character shifts; relief, coast and rivers are terrain."""
_LOCAL_SHIFT = np.float32(1.0)
BANDS = len(S2_BANDS) + len(S1_BANDS)

# Amplitudes for groves, clearings and hamlets, and for canopies and roofs.
_SMALL = np.array([[1.0, 0.5]] * 3, dtype=np.float32)
_FINE = np.array([[0.45, 0.85]] * 2, dtype=np.float32)

_UNIT = np.float32(2.0**-24)
_MIX = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


@dataclass(frozen=True)
class Ground:
    """Ground of the 120 x 120 pixels of one patch, equal for both sensors and all dates.

    Attributes:
        clc: uint16 ``[120, 120]`` CLC level-3 codes.
        relief: float32 ``[120, 120]``, standardised height.
        moisture: float32 ``[120, 120]``, standardised, smooth.
        parcel: float32 ``[4, 120, 120]`` uniform in 0..1, constant within a field parcel: crop calendar, soil colour,
            tillage roughness, ripeness.
        texture: float32 ``[2, 120, 120]`` standardised fine structure: canopies, buildings.
        cover: float32 ``[4, 120, 120]`` in 0..1, objects below the resolution of CORINE: groves in open land,
            clearings in forest, roads, hamlets.
        tint: float32 ``[14]``, standardised: by how much each optical and radar band of this place differs from that
            of others; None without local character.
    """

    clc: npt.NDArray[np.uint16]
    relief: Float
    moisture: Float
    parcel: Float
    texture: Float
    cover: Float
    tint: Float | None = None

    @property
    def unlabeled_share(self) -> float:
        """Share of the area without a reBEN class (the official limit is 0.25)."""
        return float((clc_to_classes(self.clc) == IGNORE_INDEX).mean())


def key_of(*parts: object) -> int:
    """Key of 128 bits of one source of randomness."""
    return int.from_bytes(hashlib.blake2b(":".join(map(str, parts)).encode(), digest_size=16).digest(), "big")


def _bits(ix: npt.NDArray[np.int64], iy: npt.NDArray[np.int64], key: int) -> npt.NDArray[np.uint64]:
    """Random bits (64) of integer lattice points: splitmix64 over both coordinates."""
    with np.errstate(over="ignore"):
        z = ix.astype(np.uint64) * _MIX[0] + np.uint64(key & 0xFFFFFFFFFFFFFFFF)
        z = (z ^ (z >> np.uint64(30))) * _MIX[1] + iy.astype(np.uint64) * _MIX[2]
        z = (z ^ (z >> np.uint64(27))) * _MIX[2]
        z = (z ^ (z >> np.uint64(30))) * _MIX[1]
        z ^= z >> np.uint64(31)
    return z


@lru_cache(maxsize=8192)
def _spline(phase: float, spacing: float) -> Float:
    """Interpolation matrix ``[120, k]`` from lattice values to pixel centres; ``phase`` is metres past the lattice."""
    position = (phase + (np.arange(PIXELS) + 0.5) * PITCH) / spacing
    first = np.floor(position).astype(int)
    t = position - first
    weights = np.zeros((PIXELS, int(first[-1]) + 4), dtype=np.float32)
    rows = np.arange(PIXELS)
    for offset, w in enumerate(
        ((1 - t) ** 3 / 6, (3 * t**3 - 6 * t**2 + 4) / 6, (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6, t**3 / 6)
    ):
        weights[rows, first + offset] = w
    return weights


def noise(key: int, spacings: tuple[float, ...], amplitudes: Float, ulx: float, uly: float) -> Float:
    """Correlated noise ``[fields, 120, 120]``, continuous in space: a sum of octaves.

    Args:
        key: Key of the fields.
        spacings: Distance of the lattice points in metres, one per octave.
        amplitudes: Standard deviation of each octave of each field, ``[fields, octaves]``.
        ulx: Easting of the upper-left corner in metres.
        uly: Northing of the upper-left corner in metres.
    """
    x, y = float(ulx), -float(uly)
    lanes = np.arange(len(amplitudes), dtype=np.int64)[:, None, None] << 40
    columns, across = [], []
    for octave, spacing in enumerate(spacings):
        ix, iy = int(x // spacing), int(y // spacing)
        wx, wy = _spline(x - ix * spacing, spacing), _spline(y - iy * spacing, spacing)
        gy, gx = np.arange(wy.shape[1])[:, None] + iy, np.arange(wx.shape[1]) + ix
        bits = _bits(gx + lanes, gy, key ^ int(spacing))
        values = (bits >> np.uint64(40)).astype(np.float32) * _UNIT - np.float32(0.5)
        values *= amplitudes[:, octave, None, None] * (_SPLINE_GAIN * np.float32(12**0.5))
        columns.append(wy @ values)
        across.append(wx)
    # All octaves in one product, in groups of 24 rows: larger products start BLAS threads, which cost more than they
    # save.
    rows = np.concatenate(columns, axis=2).reshape(len(amplitudes) * (PIXELS // 24), 24, -1)
    return (rows @ np.concatenate(across, axis=1).T).reshape(len(amplitudes), PIXELS, PIXELS)


def fields(key: int, ulx: float, uly: float) -> dict[str, Float]:
    """Standardised ground fields of one patch by name."""
    return dict(zip(_GROUND, noise(key, _OCTAVES, _AMPLITUDES, ulx, uly), strict=True))


def local_numbers(key: int, count: int, range_km: float, ulx: float, uly: float) -> Float:
    """Standardised numbers ``[count]`` of one patch, correlated between patches over a range.

    Args:
        key: Key of the numbers.
        count: How many.
        range_km: Distance of the lattice points between which they are interpolated; 0 for independent patches.
        ulx: Easting of the upper-left corner in metres.
        uly: Northing of the upper-left corner in metres.
    """
    lanes = np.arange(count, dtype=np.int64)[:, None, None] << 40
    if range_km == 0:
        lattice, weights, gain = (
            _bits(lanes + int(ulx), np.array([[-int(uly)]], dtype=np.int64), key),
            np.ones((1, 1)),
            1.0,
        )
    else:
        spacing = 1000 * range_km
        x, y = (ulx + PIXELS * PITCH / 2) / spacing, (-uly + PIXELS * PITCH / 2) / spacing
        ix, iy = math.floor(x), math.floor(y)
        near = np.arange(4)
        lattice = _bits(lanes + (near[None, :] + ix), near[:, None] + iy, key ^ int(spacing))
        weights, gain = np.outer(_cubic(y - iy), _cubic(x - ix)), float(_SPLINE_GAIN)
    values = (lattice >> np.uint64(40)).astype(np.float64) * float(_UNIT) - 0.5
    return ((values * weights).sum(axis=(1, 2)) * (gain * 12**0.5)).astype(np.float32)


def _cubic(t: float) -> npt.NDArray[np.float64]:
    """Weights of four lattice points of a cubic B-spline."""
    return np.array([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]) / 6


def parcels(key: int, country: Country, ulx: float, uly: float, bend: Float) -> Float:
    """Field parcels as a bent brick pattern: numbers ``[4, 120, 120]`` in 0..1, constant within a parcel."""
    x = ulx + (np.arange(PIXELS, dtype=np.float32) + 0.5) * np.float32(PITCH)
    y = -uly + (np.arange(PIXELS, dtype=np.float32) + 0.5) * np.float32(PITCH)
    angle = (key % 180) * np.pi / 180
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    width, length = country.parcel
    # A smooth bend varies the direction of the rows and leaves edges nearly straight.
    along = (c * x[None, :] + s * y[:, None] + 500 * bend) / np.float32(length)
    row = np.floor((-s * x[None, :] + c * y[:, None] + 500 * bend) / np.float32(width)).astype(np.int64)
    first = int(row.min())
    numbers = _bits(np.arange(first, int(row.max()) + 1), np.zeros(1, dtype=np.int64), key)
    jitter = (numbers >> np.uint64(40)).astype(np.float32) * _UNIT
    column = np.floor(along + jitter[row - first]).astype(np.int64)
    # One 64-bit hash per parcel of the patch holds its four numbers of 16 bits.
    west, width_in_parcels = int(column.min()), int(column.max() - column.min()) + 1
    table = _bits(
        np.arange(width_in_parcels)[None, :] + west, np.arange(first, int(row.max()) + 1)[:, None], key ^ 1
    ).reshape(-1)
    lanes = (table[None] >> np.array([[0], [16], [32], [48]], dtype=np.uint64)) & np.uint64(0xFFFF)
    return np.take(
        lanes.astype(np.float32) * np.float32(2.0**-16), (row - first) * width_in_parcels + (column - west), axis=1
    )


@lru_cache(maxsize=64)
def _level(share: float) -> float:
    """Level that a standardised field exceeds on ``share`` of the area."""
    return NormalDist().inv_cdf(1 - min(max(share, 1e-9), 1 - 1e-9))


@lru_cache(maxsize=64)
def _cuts(shares: tuple[tuple[int, float], ...]) -> tuple[Float, npt.NDArray[np.uint16]]:
    weights = np.array([w for _, w in shares])
    inner = np.cumsum(weights / weights.sum())[:-1]
    cuts = np.array([NormalDist().inv_cdf(float(p)) for p in inner], dtype=np.float32)
    return cuts, np.array([code for code, _ in shares], dtype=np.uint16)


def _pick(field: Float, shares: tuple[tuple[int, float], ...]) -> npt.NDArray[np.uint16]:
    """CLC codes, each on its share of the area; neighbours in ``shares`` are neighbours on the ground."""
    cuts, codes = _cuts(shares)
    return codes[np.searchsorted(cuts, field)]


def land_cover(f: dict[str, Float], country: Country) -> npt.NDArray[np.uint16]:
    """CLC level-3 codes ``[120, 120]`` from the ground fields, coarse to fine: land use, towns, water, shore."""
    relief, coast, culture, people, moisture = (f[k] for k in ("relief", "coast", "culture", "people", "moisture"))
    edge = _level(country.agriculture)
    clc: npt.NDArray[np.uint16] = np.where(
        culture > edge, _pick(f["variety"], country.fields), _pick(f["forest"], country.wild)
    )
    rim = culture - edge
    clc[(rim > 0) & (rim < 0.13) & (moisture > 0.2)] = 243
    clc[(rim < 0) & (rim > -0.10) & (moisture > 0.5)] = 324
    for code, share in country.high:
        clc[relief > _level(share)] = code
    clc[(moisture > _level(2 * country.wetland)) & (relief < 0) & (rim < 0.4)] = country.wetland_code

    town = _level(country.urban)
    clc[people > town] = 112
    clc[people > town + 0.75] = 111
    rim = np.abs(people - town) < 0.22
    special = f["forest"] + 0.7 * f["variety"]
    clc[rim & (special > 1.25)] = 121
    clc[rim & (special < -2.0)] = 142
    clc[(people > town + 0.3) & (moisture > 1.6)] = 141
    clc[rim & (f["variety"] < -1.9)] = 122
    clc[(special > 3.0) & (people < town)] = 131

    clc[relief < -_level(country.lakes)] = 512
    clc[(np.abs(f["river"]) < 0.018) & (relief < 0.8)] = 511
    if country.sea:
        shore = coast + _level(country.sea)
        clc[(shore < 0.05) & (moisture > 0.3)] = 331
        clc[(shore < 0.10) & (moisture < -0.5)] = 421
        clc[shore < 0] = 523
        clc[(shore < 0) & (shore > -0.04) & (moisture < -0.9)] = 423
        clc[(shore < 0) & (shore > -0.10) & (moisture > 1.3)] = 521
    return clc


def ground(seed: int, zone: int, country: str, ulx: float, uly: float, local_km: float | None = None) -> Ground:
    """Ground of one patch.

    Args:
        seed: Seed of the archive.
        zone: EPSG code of the grid; one zone has one ground, so overlapping tiles agree.
        country: Country name, one of ``COUNTRIES``.
        ulx: Easting of the upper-left corner in metres.
        uly: Northing of the upper-left corner in metres.
        local_km: Range of the local character: land use and colours that differ from place to place, as climate, soil,
            species and customs do. Constant within a patch. None for none, 0 for one that neighbours do not share.
    """
    key = key_of("ground", seed, zone)
    low = key & 0xFFFFFFFFFFFFFFFF
    spec = COUNTRIES[country]
    f = fields(low, ulx, uly)
    tint = None
    if local_km is not None:
        numbers = local_numbers(low ^ 0xF2, len(_LOCAL) + BANDS, local_km, ulx, uly)
        for name, number in zip(
            _LOCAL, numbers, strict=False
        ):  # still standardised: the shares stay those of a country
            f[name] = (f[name] + _LOCAL_SHIFT * number) / np.float32(math.hypot(1, _LOCAL_SHIFT))
        tint = numbers[len(_LOCAL) :]
    small = noise(low ^ 0xF0, (200.0, 100.0), _SMALL, ulx, uly)
    fine = noise(low ^ 0xF1, (60.0, 24.0), _FINE, ulx, uly)
    # Roads follow the zero crossings of a smooth field; hamlets lie along roads.
    height = f["moisture"] - f["people"]
    south, east = np.gradient(height, PITCH)
    road = np.abs(height) / np.sqrt(south * south + east * east)
    near = np.clip(1.5 - road / 200, 0, 1)
    cover = np.stack(
        [
            np.clip(4 * (small[0] - 1.15), 0, 1),
            np.clip(4 * (small[1] - 1.45), 0, 1),
            np.clip(1.3 - road / 8, 0, 0.8),
            near * np.clip(2 * (small[2] + fine[1] - 1.9), 0, 0.9),
        ]
    )
    return Ground(
        clc=land_cover(f, spec),
        relief=f["relief"],
        moisture=f["moisture"],
        parcel=parcels(low, spec, ulx, uly, f["river"]),
        texture=fine,
        cover=cover,
        tint=tint,
    )
