"""Radiometry of the synthetic archive: linear mixing of materials, weather, speckle and noise.

Every pixel is a mixture of a few materials whose abundances follow from land cover, season and field parcel. The same
abundances give optical reflectance (mixed linearly per band) and radar backscatter (mixed in linear power), so the two
sensors agree on the ground and differ in physics. Area averages of abundances are area averages of
reflectance: the 20 m and 60 m bands are exact means of the 10 m scene, shadows and clouds included.

Reflectances are typical bottom-of-atmosphere values of Sentinel-2 L2A; backscatter is typical C-band sigma nought.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from eoforge.data.bands import S2_10M, S2_20M, S2_60M, S2_BANDS
from eoforge.data.synthetic.land import PIXELS, Float, Ground, noise
from eoforge.data.synthetic.scenes import COUNTRIES, Scene

# Material: reflectance x 10,000 in the order of S2_BANDS (B01 ... B12), then VV and VH in dB.
_MATERIALS: dict[str, tuple[tuple[int, ...], tuple[float, float]]] = {
    "water": ((230, 240, 260, 180, 160, 120, 120, 100, 90, 90, 50, 30), (-19.0, -27.5)),
    "sea": ((330, 340, 330, 200, 170, 130, 130, 110, 100, 100, 60, 40), (-17.0, -27.0)),
    "conifer": ((150, 180, 330, 220, 520, 1450, 1750, 1880, 2050, 2100, 950, 430), (-10.5, -16.5)),
    "leaf": ((180, 220, 480, 260, 800, 2600, 3250, 3450, 3650, 3650, 1700, 750), (-10.0, -16.0)),
    "twig": ((300, 380, 520, 560, 850, 1250, 1450, 1600, 1750, 1800, 1950, 1200), (-10.8, -17.5)),
    "crop": ((240, 310, 680, 330, 1000, 3300, 4250, 4450, 4600, 4500, 1850, 850), (-10.8, -16.8)),
    "grass": ((250, 320, 690, 400, 1050, 2650, 3200, 3400, 3550, 3550, 2100, 1100), (-12.2, -18.8)),
    "straw": ((480, 620, 920, 1130, 1480, 1880, 2100, 2280, 2450, 2500, 3000, 1950), (-12.8, -20.5)),
    "soil": ((450, 600, 880, 1200, 1450, 1620, 1780, 1950, 2100, 2150, 2750, 2250), (-11.8, -21.0)),
    "shrub": ((240, 320, 540, 480, 840, 1750, 2100, 2250, 2400, 2400, 1900, 1080), (-11.5, -17.8)),
    "peat": ((240, 290, 470, 420, 740, 1400, 1650, 1750, 1900, 1900, 1450, 800), (-12.2, -19.0)),
    "town": ((850, 950, 1080, 1180, 1320, 1500, 1620, 1720, 1800, 1850, 1850, 1600), (-4.5, -12.5)),
    "hall": ((1500, 1650, 1780, 1880, 1980, 2080, 2150, 2250, 2300, 2300, 2350, 2150), (-2.0, -10.5)),
    "sand": ((1450, 1750, 2250, 2650, 2850, 2950, 3050, 3150, 3250, 3250, 3700, 3200), (-17.0, -26.0)),
    "rock": ((950, 1100, 1300, 1450, 1600, 1700, 1800, 1900, 2000, 2000, 2300, 2050), (-9.5, -18.0)),
    "ash": ((280, 330, 430, 480, 580, 700, 800, 880, 980, 1000, 1650, 1650), (-12.5, -20.0)),
    "snow": ((7600, 7900, 7900, 7800, 7700, 7500, 7300, 7100, 6900, 6300, 1000, 850), (-14.0, -21.0)),
    "cloud": ((5600, 5500, 5300, 5300, 5400, 5500, 5600, 5700, 5800, 4300, 3800, 3000), (-99.0, -99.0)),
}
_NAMES = tuple(_MATERIALS)
_M = {name: i for i, name in enumerate(_NAMES)}
_REFLECTANCE = np.array([r for r, _ in _MATERIALS.values()], dtype=np.float32)
_DECIBEL = np.float32(np.log(10) / 10)
_POWER = (10 ** (np.array([s for _, s in _MATERIALS.values()]) / 10)).astype(np.float32)

# CLC code: static materials with weights. "field" and "meadow" are resolved per parcel, "wood" by season.
_RECIPES: dict[int, dict[str, float]] = {
    111: {"town": 0.9, "grass": 0.1}, 112: {"town": 0.5, "grass": 0.3, "wood": 0.2}, 121: {"hall": 0.85, "grass": 0.15},
    122: {"hall": 0.5, "grass": 0.5}, 131: {"rock": 0.6, "soil": 0.4}, 141: {"grass": 0.6, "wood": 0.4},
    142: {"grass": 0.85, "town": 0.15}, 211: {"field": 1.0}, 221: {"soil": 0.45, "leafy": 0.55},
    222: {"leafy": 0.7, "grass": 0.3}, 223: {"soil": 0.4, "shrub": 0.4, "straw": 0.2}, 231: {"meadow": 1.0},
    242: {"field": 0.55, "meadow": 0.3, "town": 0.1, "wood": 0.05}, 243: {"field": 0.4, "meadow": 0.25, "wood": 0.35},
    244: {"meadow": 0.6, "shrub": 0.4}, 311: {"wood": 1.0}, 312: {"conifer": 1.0}, 313: {"wood": 0.5, "conifer": 0.5},
    321: {"meadow": 0.85, "rock": 0.15}, 322: {"shrub": 0.7, "peat": 0.3}, 323: {"shrub": 0.8, "soil": 0.2},
    324: {"shrub": 0.45, "wood": 0.3, "conifer": 0.25}, 331: {"sand": 1.0}, 332: {"rock": 1.0},
    333: {"rock": 0.5, "straw": 0.5}, 334: {"ash": 1.0}, 335: {"snow": 0.9, "rock": 0.1},
    411: {"peat": 0.5, "grass": 0.3, "water": 0.2}, 412: {"peat": 0.85, "shrub": 0.15},
    421: {"grass": 0.5, "sand": 0.2, "sea": 0.3}, 423: {"sand": 0.5, "sea": 0.5}, 511: {"water": 1.0},
    512: {"water": 1.0}, 521: {"sea": 0.9, "sand": 0.1}, 523: {"sea": 1.0},
}  # fmt: skip
Mixture = dict[str, Float]
"""Abundance ``[120, 120]`` of each material in a patch."""
_FIELD, _MEADOW = len(_NAMES), len(_NAMES) + 1

# Looks of a ground-range-detected scene: 4.4, and neighbouring pixels correlate since the grid is finer than the beam.
ENL = 4.4
_SIDE = (4 - np.sqrt(16 - 24 * (1 - np.sqrt(1 / ENL)))) / 12
_KERNEL = (float(_SIDE), float(1 - 2 * _SIDE))
_EVEN_BYTES = np.uint64(0x00FF00FF00FF00FF)
_NOISE = (18.0, 12.0, 8.0)
"""Sensor noise at 10, 20 and 60 m in digital numbers: coarser bands average more photons."""
_TINT, _TINT_DB = np.float32(0.2), np.float32(1.0)
"""Deviation of a band from place to place: of the logarithm of reflectance, and of backscatter in dB."""
_INDEX_10M, _INDEX_20M, _INDEX_60M = ([S2_BANDS.index(b) for b in g.bands] for g in (S2_10M, S2_20M, S2_60M))


def _greenness(month: int, warmth: float) -> tuple[float, float, float]:
    """Greenness in a month: leaf cover of deciduous trees, green share of fields, green share of meadows."""
    summer = 0.5 - 0.5 * np.cos(2 * np.pi * (month - 0.8 - 0.5 * warmth) / 12)
    leaf = float(np.clip(1.5 * summer - 0.35 + 0.3 * warmth, 0.03, 1))
    dry = max(0.0, warmth) * summer
    field = 0.25 + 0.5 * float(np.exp(-(((month - 5.5) / 2.2) ** 2))) - 0.3 * dry
    return leaf, field, float(np.clip(0.35 + 0.65 * summer - 1.3 * dry, 0.1, 1))


@lru_cache(maxsize=128)
def _recipe_table(month: int, country: str) -> Float:
    """Abundances ``[M + 2, 1000]`` by CLC code; the last two rows are field and meadow, which parcels resolve."""
    leaf = _greenness(month, COUNTRIES[country].warmth)[0]
    table = np.zeros((len(_NAMES) + 2, 1000), dtype=np.float32)
    for code, recipe in _RECIPES.items():
        for name, weight in recipe.items():
            if name in ("wood", "leafy"):
                table[_M["leaf"], code] += weight * leaf
                table[_M["twig" if name == "wood" else "soil"], code] += weight * (1 - leaf)
            else:
                table[{"field": _FIELD, "meadow": _MEADOW}.get(name) or _M[name], code] += weight
    return table


def abundances(ground: Ground, month: int, country: str) -> Mixture:
    """Material abundances of the pixels of a patch in a month; they sum to one per pixel."""
    codes = np.flatnonzero(np.bincount(ground.clc.ravel(), minlength=1000))
    place = np.zeros(1000, dtype=np.intp)
    place[codes] = np.arange(len(codes))
    index = place[ground.clc]
    table = _recipe_table(month, country)[:, codes]
    mix = {name: table[i][index] for i, name in enumerate(_NAMES) if table[i].any()}
    _, field_green, meadow_green = _greenness(month, COUNTRIES[country].warmth)
    calendar, colour, _, ripeness = ground.parcel
    open_land = np.zeros(index.shape, dtype=np.float32)
    if table[_FIELD].any():
        field = table[_FIELD][index]
        # Sown, growing, ripe or ploughed: a parcel is in one phase, and wet ground is green for longer.
        green = np.clip(0.5 + 4.0 * (field_green - calendar) + 0.1 * ground.moisture, 0.04, 0.97)
        dry = np.where(ripeness < (0.55 if 6 <= month <= 9 else 0.15), np.float32(0.85), np.float32(0.1))
        straw = (1 - green) * dry
        _add(mix, "crop", field * green)
        _add(mix, "straw", field * straw)
        _add(mix, "soil", field * (1 - green - straw))
        open_land += field
    if table[_MEADOW].any():
        meadow = table[_MEADOW][index]
        lush = meadow_green + 0.35 * (colour - 0.5) + 0.06 * ground.moisture + 0.06 * ground.texture[0]
        lush = meadow * np.clip(lush, 0.05, 1)
        _add(mix, "grass", lush)
        _add(mix, "straw", meadow - lush)
        open_land += meadow
    _add_small_cover(mix, ground, open_land)
    return mix


def _add(mix: Mixture, name: str, share: Float) -> None:
    mix[name] = mix[name] + share if name in mix else share


def _total(mix: Mixture, *names: str) -> Float:
    """Area share ``[120, 120]`` of several materials together."""
    total = np.zeros((PIXELS, PIXELS), dtype=np.float32)
    for name in names:
        if name in mix:
            total += mix[name]
    return total


def _add_small_cover(mix: Mixture, ground: Ground, open_land: Float) -> None:
    """Adds objects below the mapping unit of CORINE: groves, clearings, roads and hamlets."""
    grove, clearing, road, hamlet = ground.cover
    forest = _total(mix, "conifer", "leaf", "twig")
    dry = _total(mix, "water", "sea", "sand") == 0
    tree = "twig" if "twig" in mix else "leaf"
    # Each layer hides its share of the layers below. Gravel and asphalt reflect radar away, as sand does.
    layers: tuple[tuple[Float, dict[str, float]], ...] = (
        (clearing * forest, {"grass": 1.0}),
        (grove * open_land, {"conifer": 0.5, tree: 0.5}),
        (road * dry, {"sand": 1.0}),
        (hamlet * dry * (1 - 0.6 * forest), {"town": 1.0}),
    )
    for share, materials in layers:
        if share.any():
            rest = 1 - share
            for below in mix.values():
                below *= rest
            for name, weight in materials.items():
                _add(mix, name, weight * share)


def _blur(image: Float, side: float, centre: float) -> Float:
    """Separable three-tap filter over the last two axes; edges repeat."""
    for axis in (-1, -2):
        out = np.float32(centre) * image
        body, flank = np.moveaxis(out, axis, 0), np.moveaxis(np.float32(side) * image, axis, 0)
        body[1:] += flank[:-1]
        body[:-1] += flank[1:]
        body[0] += flank[0]
        body[-1] += flank[-1]
        image = out
    return image


def _bits(rng: np.random.Generator, words: int) -> npt.NDArray[np.uint64]:
    return rng.integers(0, 2**64 - 1, words, dtype=np.uint64, endpoint=True)


def _normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Float:
    """Approximately normal numbers: sums of four random bytes, at a fifth of the cost of exact ones."""
    words = _bits(rng, int(np.prod(shape)) // 2)
    pairs = (words & _EVEN_BYTES) + ((words >> np.uint64(8)) & _EVEN_BYTES)
    half = len(pairs) // 2
    numbers = (pairs[:half] + pairs[half:]).view(np.uint16).astype(np.float32)
    numbers -= np.float32(2 * 255)
    numbers *= np.float32((4 * (256**2 - 1) / 12) ** -0.5)
    return numbers.reshape(shape)


def _exponential(rng: np.random.Generator, shape: tuple[int, ...]) -> Float:
    """Exponential numbers of mean 1: the intensity of a single look."""
    numbers = _bits(rng, int(np.prod(shape)) // 4).view(np.uint16).astype(np.float32)
    numbers += np.float32(0.5)
    numbers *= np.float32(2.0**-16)
    np.log(numbers, out=numbers)
    return np.negative(numbers, out=numbers).reshape(shape)


def optical(
    ground: Ground, mix: Mixture, scene: Scene, rng: np.random.Generator, *, snow: bool, cloud: bool, rugged: float
) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.uint16], npt.NDArray[np.uint16]]:
    """Sentinel-2 bands on their native grids: uint16 ``[4, 120, 120]``, ``[6, 60, 60]``, ``[2, 20, 20]``."""
    low_sun = 0.5 + 0.5 * float(np.cos(2 * np.pi * (scene.month - 0.5) / 12))
    solid = 1 - _total(mix, "water", "sea")
    roofs = _total(mix, "town", "hall")
    tall = _total(mix, "conifer", "leaf") + roofs
    slope = _slope(ground.relief, -1) - _slope(ground.relief, -2)
    light = 1 + solid * np.clip((4.0 + 5.0 * low_sun) * rugged * slope, -0.5, 0.5)
    light *= 1 + (0.03 + 0.13 * tall) * solid * ground.texture[0] + 0.25 * (ground.parcel[1] - 0.5) * (solid - tall)
    # Towns are a patchwork of roofs.
    light *= 1 + 0.35 * roofs * ground.texture[1]
    light = np.clip(light * float(1 + 0.05 * rng.standard_normal()), 0.25, 2.2)
    # Illumination is applied to materials, not to bands: they are few, and all later steps are linear in them.
    below, layers = light, {}
    if snow:
        cover = np.clip(0.8 + 0.15 * ground.moisture + 0.4 * (ground.parcel[1] - 0.5), 0.1, 1)
        cover *= 1 - np.minimum(0.85 * tall + 0.6 * _total(mix, "twig") + 0.4 * _total(mix, "shrub"), 0.9)
        layers["snow"] = cover * np.clip(light, 0.7, 1.15)
        below = below * (1 - cover)
    if cloud:
        opacity, sunlight = _clouds(int(rng.integers(1 << 62)))
        sunlight *= 1 - opacity
        layers = {name: share * sunlight for name, share in layers.items()} | {"cloud": opacity}
        below = below * sunlight
    names = [*mix, *layers]
    lit_10m = np.empty((len(names), PIXELS, PIXELS), dtype=np.float32)
    for lit, share in zip(lit_10m, mix.values(), strict=False):
        np.multiply(share, below, out=lit)
    for lit, share in zip(lit_10m[len(mix) :], layers.values(), strict=True):
        lit[:] = share
    lit_20m = _mean(lit_10m, 2)
    native = (
        _blur(_mixed(lit_10m, names, _REFLECTANCE[:, _INDEX_10M]), 0.12, 0.76),
        _mixed(lit_20m, names, _REFLECTANCE[:, _INDEX_20M]),
        _mixed(_mean(lit_20m, 3), names, _REFLECTANCE[:, _INDEX_60M]),
    )
    if ground.tint is not None:
        gains = np.exp(_TINT * ground.tint)[:, None, None]
        for bands, index in zip(native, (_INDEX_10M, _INDEX_20M, _INDEX_60M), strict=True):
            bands *= gains[index]
    s2_10m, s2_20m, s2_60m = (_digital(bands, level, rng) for bands, level in zip(native, _NOISE, strict=True))
    return s2_10m, s2_20m, s2_60m


def _digital(bands: Float, level: float, rng: np.random.Generator) -> npt.NDArray[np.uint16]:
    """Digital numbers with sensor noise; ``bands`` is overwritten."""
    noisy = _normal(rng, bands.shape)
    noisy *= np.float32(level)
    bands += noisy
    np.clip(np.rint(bands, out=bands), 1, 20_000, out=bands)
    return bands.astype(np.uint16)


def _mixed(shares: Float, names: Sequence[str], signatures: Float) -> Float:
    """Linear mixture ``[C, H, W]`` of ``shares`` [m, H, W] of the named materials by ``signatures`` [M, C].

    At most 900 pixels per product: see ``land.noise``.
    """
    weights = signatures[[_M[name] for name in names]].T
    size = shares.shape[1:]
    parts = max(1, shares[0].size // 900)
    out = np.empty((len(weights), *size), dtype=np.float32)
    groups = shares.reshape(len(shares), parts, -1).transpose(1, 0, 2)
    np.matmul(weights, groups, out=out.reshape(len(weights), parts, -1).transpose(1, 0, 2))
    return out


def _slope(relief: Float, axis: int) -> Float:
    return np.diff(relief, axis=axis, append=np.take(relief, [-1], axis=axis))


def _mean(bands: Float, factor: int) -> Float:
    """Area averages over blocks of ``factor`` x ``factor`` pixels."""
    rows = bands[:, ::factor].copy()
    for i in range(1, factor):
        rows += bands[:, i::factor]
    blocks = rows[:, :, ::factor].copy()
    for i in range(1, factor):
        blocks += rows[:, :, i::factor]
    blocks *= np.float32(factor**-2)
    return blocks


def _clouds(key: int) -> tuple[Float, Float]:
    """Opacity of cumulus clouds over a part of the patch, and the remaining light in their shadow."""
    shape = noise(key, (600.0, 150.0), np.array([[1.0, 0.5]], dtype=np.float32), 0, 0)[0]
    opacity = np.clip(1.6 * (shape + np.float32(0.1 - np.median(shape))), 0, 1)
    return opacity, 1 - 0.6 * np.roll(opacity, (-14, -9), axis=(0, 1))


def radar(ground: Ground, mix: Mixture, scene: Scene, column: int, rng: np.random.Generator, *, rugged: float) -> Float:
    """Sentinel-1 backscatter, float32 ``[2, 120, 120]`` in dB: VV, VH."""
    water = _total(mix, "water", "sea")
    bare = _total(mix, "soil", "straw", "grass", "crop")
    built = _total(mix, "town", "hall")
    tall = _total(mix, "conifer", "leaf")
    # Morning scenes (descending) look west, evening scenes east: slopes towards the sensor are bright.
    look = -1.0 if int(scene.s1[26:28]) < 12 else 1.0
    slope = _slope(ground.relief, -1) * np.float32(look * 45 * rugged)
    gain_db = (1 - water) * np.clip(slope, -6, 6)
    gain_db += bare * (1.2 * ground.moisture + 4.0 * (ground.parcel[2] - 0.5) - 3.0 * (ground.parcel[1] - 0.5))
    gain_db += 1.3 * tall * ground.texture[0] + 4.0 * built * ground.texture[1]
    gain_db += water * np.float32(2.0 * rng.standard_normal())  # wind
    # Incidence falls off by about 0.13 dB a degree over the 6.6 degrees of a tile.
    gain_db += np.float32(look * 0.9 * (column / 90 - 0.5) + 0.3 * rng.standard_normal())
    speckle = _exponential(rng, (2, PIXELS, PIXELS))
    power = _blur(_mixed(np.stack(list(mix.values())), list(mix), _POWER), 0.12, 0.76)
    power *= np.exp(gain_db * (_DECIBEL * np.array([1.0, 0.8], np.float32)[:, None, None]))
    if ground.tint is not None:
        power *= np.exp(_DECIBEL * _TINT_DB * ground.tint[len(S2_BANDS) :])[:, None, None]
    power *= _blur(speckle, *_KERNEL)
    # The noise floor of the sensor bounds the backscatter of calm water from below.
    power += np.array([6e-4, 2e-4], np.float32)[:, None, None]
    np.log(power, out=power)
    power /= _DECIBEL
    return power
