"""Piece of a bounded stream: bands in groups of one grid, each group its settings and then its waves.

Settings of a band: quantisation step, limits, palette, prediction weights, activity weights, and for each context the
table and the number of low bits that are left plain. A radar band without loss is followed by the bits below its plane.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from eoforge.codec.bounded.planes import (
    PLANE_LIMIT,
    Backscatter,
    inflate,
    join_backscatter,
    pack_palette,
    palette_of,
    rest_bits,
    split_backscatter,
    unpack_palette,
)
from eoforge.codec.bounded.predictor import ACTIVITIES, FEATURES, MAX_WEIGHT, Plane, Stack
from eoforge.codec.bounded.residual import (
    Contexts,
    choose_contexts,
    get_bytes,
    get_contexts,
    get_integers,
    get_residuals,
    get_weights,
    put_bytes,
    put_contexts,
    put_integers,
    put_residuals,
    put_weights,
)
from eoforge.codec.bounded.wavefront import Integers, wavefront
from eoforge.codec.entropy import Decoder, Encoder
from eoforge.codec.raster import Raster, factor_of, grid_shape
from eoforge.codec.tiles import Pixels
from eoforge.data.bands import S1_BANDS

# Finer grids first; within a grid, each band after its best predictors.
_GROUPS: tuple[tuple[str, ...], ...] = (
    ("B03", "B04", "B02", "B08"),
    ("B05", "B06", "B07", "B8A", "B11", "B12"),
    ("B01", "B09"),
    S1_BANDS,
)
_SIDES: dict[str, tuple[str, ...]] = {
    "B03": (), "B04": ("B03",), "B02": ("B03", "B04"), "B08": ("B03", "B04", "B02"),
    "B05": ("B04", "B08", "B03", "B02"), "B06": ("B05", "B08", "B04", "B03"), "B07": ("B06", "B08", "B05", "B04"),
    "B8A": ("B07", "B08", "B06", "B05"), "B11": ("B05", "B8A", "B04", "B07"), "B12": ("B11", "B05", "B8A", "B04"),
    "B01": ("B02", "B03", "B05", "B04"), "B09": ("B8A", "B07", "B01", "B11"), "VV": (), "VH": ("VV",),
}  # fmt: skip
"""Reference bands of the prediction of a band, best first; the first three that are present are used."""
_STEP_LIMIT = 1 << 24

Known = dict[str, tuple[Integers, Integers]]


@dataclass
class _Band:
    """State of a band during coding."""

    name: str
    plane: Plane
    step: int
    palette: Integers | None = None
    contexts: Contexts | None = None


class _Group:
    """Bands of one grid, with the state shared by encoder and decoder."""

    def __init__(self, bands: list[_Band], shape: tuple[int, int], known: Known, values: Integers | None) -> None:
        self.bands, self.shape = bands, shape
        self.wave = wavefront(*shape)
        names = [band.name for band in bands]
        outside = [name for name in known if any(name in _SIDES[n] for n in names)]
        index = {name: i for i, name in enumerate((*outside, *names))}
        for band in bands:
            present = [index[n] for n in _SIDES[band.name] if n in index and index[n] < index[band.name]]
            band.plane.sides = tuple(present[:3])
        resampled = [tuple(_resample(plane, shape) for plane in known[name]) for name in outside]
        self.stack = Stack(self.wave, [(v, e) for v, e in resampled], [band.plane for band in bands], values)
        self.steps = np.array([band.step for band in bands])
        self.palettes = [(i, band.palette) for i, band in enumerate(bands) if band.palette is not None]

    def restore(self, band: Integers, pixel: Integers, predicted: Integers, residual: Integers) -> None:
        """Writes reconstructed values and sizes of residuals into the stack."""
        values = predicted + residual * self.steps[band]
        for i, palette in self.palettes:
            chosen = band == i
            rank = palette.searchsorted(predicted[chosen]) + residual[chosen]
            values[chosen] = palette.take(rank, mode="clip")
        values = np.minimum(np.maximum(values, self.stack.low[band]), self.stack.high[band])
        self.stack.values.ravel()[pixel] = values
        self.stack.errors.ravel()[pixel] = np.abs(residual)

    def planes(self) -> Known:
        """Values and residual sizes ``[h, w]`` of each band."""
        first = self.stack.known
        return {
            band.name: (
                self.stack.values[first + i, :-1].reshape(self.shape),
                self.stack.errors[first + i, :-1].reshape(self.shape),
            )
            for i, band in enumerate(self.bands)
        }


def encode_piece(raster: Raster, steps: Mapping[str, int]) -> bytes:
    """Payload of a raster.

    Args:
        raster: Raster of at most one tile.
        steps: Quantisation step by modality: 1 is lossless; for ``s1`` in 2^-16 dB.
    """
    coder = Encoder()
    known: Known = {}
    for group in _GROUPS:
        names = [name for name in group if name in raster.bands]
        if not names:
            continue
        split = {n: split_backscatter(raster.bands[n]) for n in names if n in S1_BANDS}
        planes = [split[n].plane if n in split else raster.bands[n].astype(np.int64) for n in names]
        bands = []
        for name, plane in zip(names, planes, strict=True):
            step = steps["s1" if name in split else "s2"]
            settings = Plane((), int(np.median(plane)), int(plane.min()), int(plane.max()))
            palette = palette_of(plane) if step == 1 and name not in split else None
            bands.append(_Band(name, settings, step, palette))
        work = _Group(bands, planes[0].shape, known, np.stack([plane.ravel() for plane in planes]))
        _encode_group(coder, work)
        for name in split:
            _put_rest(coder, split[name], steps["s1"])
        known |= work.planes()
    return coder.finish()


def decode_piece(payload: bytes, names: Sequence[str], shape: tuple[int, int]) -> Pixels:
    """Bands of a payload.

    Raises:
        DataRefused: The payload is damaged.
    """
    coder = Decoder(payload)
    known: Known = {}
    pixels: dict[str, npt.NDArray[np.generic]] = {}
    for group in _GROUPS:
        present = [name for name in group if name in names]
        if not present:
            continue
        work = _Group([_get_settings(coder, n) for n in present], grid_shape(shape, factor_of(present[0])), known, None)
        table, shift = _tables_of(work)
        for band, entry in work.wave.steps(len(present)):
            pixel, seen = work.stack.neighbours(band, entry)
            context = work.stack.contexts(band, seen)
            residual = get_residuals(coder, table[band, context], shift[band, context])
            work.restore(band, pixel, work.stack.predict(band, seen), residual)
        for one in work.bands:
            plane = work.planes()[one.name][0]
            pixels[one.name] = _get_rest(coder, plane, one.step) if one.name in S1_BANDS else plane.astype(np.uint16)
        known |= work.planes()
    coder.finish()
    return pixels


def _encode_group(coder: Encoder, work: _Group) -> None:
    """Fits the settings and quantises; writes settings and residuals."""
    stack, count = work.stack, len(work.bands)
    original = stack.values.copy().ravel()
    residuals = np.zeros_like(original)

    def quantise(band: Integers, pixel: Integers, predicted: Integers) -> None:
        step = work.steps[band]
        residual = (original[pixel] - predicted + step // 2) // step
        for i, palette in work.palettes:
            chosen = band == i
            ranks = [palette.searchsorted(values[chosen]) for values in (original[pixel], predicted)]
            residual[chosen] = ranks[0] - ranks[1]
        residuals[pixel] = residual
        work.restore(band, pixel, predicted, residual)

    wholes = [stack.whole(i) for i in range(count)]
    fitted = [stack.fit_and_predict(i, original[pixel], seen) for i, (pixel, seen) in enumerate(wholes)]
    stack.load()
    if all(band.step == 1 for band in work.bands):
        # A lossless band is one step, because all its neighbours are known beforehand.
        for i, (pixel, _) in enumerate(wholes):
            quantise(np.full_like(pixel, i), pixel, fitted[i])
    else:
        for band, entry in work.wave.steps(count):
            pixel, seen = stack.neighbours(band, entry)
            quantise(band, pixel, stack.predict(band, seen))
    contexts = np.empty((count, len(work.wave.pixels)), dtype=np.int64)
    for i, (pixel, seen) in enumerate(wholes):
        contexts[i] = stack.fit_contexts(i, np.abs(residuals[pixel]), seen)
        work.bands[i].contexts = choose_contexts(residuals[pixel], contexts[i])
        _put_settings(coder, work.bands[i], contexts[i])
    table, shift = _tables_of(work)
    for band, entry in work.wave.steps(count):
        context = contexts[band, entry]
        pixel = stack.pixels(band, entry)
        put_residuals(coder, residuals[pixel], table[band, context], shift[band, context])


def _tables_of(work: _Group) -> tuple[Integers, Integers]:
    """Tables and shifts ``[bands, CONTEXTS]``."""
    chosen = [one.contexts for one in work.bands if one.contexts is not None]
    return np.stack([c.table for c in chosen]), np.stack([c.shift for c in chosen])


def _put_settings(coder: Encoder, band: _Band, contexts: Integers) -> None:
    plane = band.plane
    put_integers(coder, band.step)
    put_integers(coder, plane.start, plane.low, plane.high)
    put_bytes(coder, b"" if band.palette is None else pack_palette(band.palette))
    put_weights(coder, plane.weights)
    put_weights(coder, plane.activity)
    assert band.contexts is not None
    put_contexts(coder, band.contexts, contexts)


def _get_settings(coder: Decoder, name: str) -> _Band:
    (step,) = get_integers(coder, 1, 1, _STEP_LIMIT)
    low_limit = -PLANE_LIMIT if name in S1_BANDS else 0
    high_limit = PLANE_LIMIT if name in S1_BANDS else 65_535
    start, low, high = get_integers(coder, 3, low_limit, high_limit)
    packed = get_bytes(coder, 1 << 18)
    palette = unpack_palette(packed, 65_536) if packed else None
    weights = get_weights(coder, FEATURES + 1, -MAX_WEIGHT, MAX_WEIGHT)
    activity = get_weights(coder, ACTIVITIES + 1, 0, MAX_WEIGHT)
    return _Band(name, Plane((), start, low, high, weights, activity), step, palette, get_contexts(coder))


def _put_rest(coder: Encoder, split: Backscatter, step: int) -> None:
    """Writes the exceptions and low bits of a radar band."""
    exceptions = b"" if not len(split.raw) else zlib.compress(np.packbits(split.exceptions).tobytes(), 9)
    put_bytes(coder, exceptions)
    if exceptions:
        put_bytes(coder, zlib.compress(split.raw.astype("<u4").tobytes(), 9))
    if step == 1:
        bits = rest_bits(split.plane).ravel()
        for width in range(1, 14):
            coder.put_bits(split.rest.ravel()[bits == width], width)


def _get_rest(coder: Decoder, plane: Integers, step: int) -> npt.NDArray[np.float32]:
    """Radar band in dB, from its plane and what :func:`_put_rest` wrote."""
    samples = plane.size
    packed = get_bytes(coder, samples + 1024)
    exceptions, raw = np.zeros(plane.shape, dtype=bool), np.zeros(0, dtype=np.uint32)
    if packed:
        flags = inflate(packed, -(-samples // 8))
        exceptions = (
            np.unpackbits(np.frombuffer(flags, dtype=np.uint8), count=samples).astype(bool).reshape(plane.shape)
        )
        count = int(exceptions.sum())
        values = inflate(get_bytes(coder, 5 * count + 1024), 4 * count)
        raw = np.frombuffer(values, dtype="<u4").astype(np.uint32)
    rest = np.zeros(samples, dtype=np.int64)
    if step == 1:
        bits = rest_bits(plane).ravel()
        for width in range(1, 14):
            chosen = bits == width
            rest[chosen] = coder.get_bits(int(chosen.sum()), width)
    return join_backscatter(plane, rest.reshape(plane.shape), exceptions, raw)


def _resample(plane: Integers, shape: tuple[int, int]) -> Integers:
    """Plane on a coarser grid: the mean of each block, rounded down."""
    ratio = round(plane.shape[0] / shape[0])
    if ratio <= 1 and plane.shape == shape:
        return plane
    rows, columns = (side * ratio for side in shape)
    grown = np.pad(plane, ((0, max(0, rows - plane.shape[0])), (0, max(0, columns - plane.shape[1]))), mode="edge")
    blocks = grown[:rows, :columns].reshape(shape[0], ratio, shape[1], ratio)
    return blocks.sum((1, 3)) // ratio**2
