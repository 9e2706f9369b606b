"""Prediction and context of pixels from whole numbers alone; what the bounded codec knows before it reads a symbol.

A pixel is predicted linearly from nine neighbours in its band and seven in each of up to three bands before it. The
encoder fits the weights to the raster and sends them, as multiples of 2^-10; the expected size of the error, which
chooses the table, comes from local differences and earlier errors in the same way. Fitting uses floats, applying does
not: a decoder repeats integer sums only.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from eoforge.codec.wavefront import OWN, SIDE, Integers, Wavefront

SIDES = 3
WEIGHT_BITS = 10
ACTIVITY_BITS = 8
CONTEXTS = 64
FEATURES = len(OWN) + SIDES * len(SIDE)
"""Weights of a prediction, without its constant."""
_ERRORS, _SIDE_ERRORS, _DIFFERENCES = 6, 5, 5
ACTIVITIES = _DIFFERENCES + _ERRORS + SIDES * _SIDE_ERRORS
"""Weights of an activity, without its constant."""
MAX_WEIGHT = 1 << 15
_FEW = 1500
_FIT_PIXELS = 40_000
# Contexts are thirds of an octave of the activity: 2^(i / 3) in units of 2^-8, by shifting three constants.
_THIRDS = (65536, 82570, 104032)
_THRESHOLDS: Integers = np.array([(_THIRDS[i % 3] << (i // 3)) >> 12 for i in range(CONTEXTS - 1)], dtype=np.int64)


@dataclass
class Plane:
    """What is known of one band before its first pixel.

    Attributes:
        sides: Indices of up to ``SIDES`` planes that were coded before.
        start: Value that stands in where there is no neighbour.
        low: Least value of the band.
        high: Greatest value.
        weights: ``[FEATURES + 1]``, the constant last.
        activity: ``[ACTIVITIES + 1]``, non-negative, the constant last.
    """

    sides: tuple[int, ...]
    start: int
    low: int
    high: int
    weights: Integers = field(default_factory=lambda: np.zeros(FEATURES + 1, dtype=np.int64))
    activity: Integers = field(default_factory=lambda: np.zeros(ACTIVITIES + 1, dtype=np.int64))


class Stack:
    """Planes of one grid, the known ones and those being coded.

    Args:
        wave: Geometry of the grid.
        known: Values and error sizes ``[H, W]`` of planes that are known, as (values, errors).
        planes: The planes to code; their index follows those of the known ones.

    Attributes:
        values: ``[known + planes + 1, H * W + 1]``; the last plane is all zero and stands in for sides that lack.
        errors: The same shape: size of the coded residual.
    """

    def __init__(
        self, wave: Wavefront, known: list[tuple[Integers, Integers]], planes: list[Plane], values: Integers | None
    ) -> None:
        count = len(known) + len(planes) + 1
        self.wave, self.planes, self.known = wave, planes, len(known)
        self.values = np.zeros((count, len(wave.pixels) + 1), dtype=np.int64)
        self.errors = np.zeros_like(self.values)
        for i, (pixels, errors) in enumerate(known):
            self.values[i, :-1], self.errors[i, :-1] = pixels.ravel(), errors.ravel()
        if values is not None:
            self.values[len(known) : -1, :-1] = values
        stride = self.values.shape[1]
        self._offset = np.arange(len(known), count - 1) * stride
        self._sides = np.array([(*p.sides, *[count - 1] * (SIDES - len(p.sides))) for p in planes]) * stride
        for i, plane in enumerate(planes):
            self.values[len(known) + i, -1] = plane.start
        self.load()

    def load(self) -> None:
        """Takes over weights and limits of the planes."""
        self._weights = np.stack([p.weights for p in self.planes])
        self._activity = np.stack([p.activity for p in self.planes])
        self.low = np.array([p.low for p in self.planes])
        self.high = np.array([p.high for p in self.planes])

    def positions(self, band: Integers, entry: Integers) -> tuple[Integers, Integers, Integers]:
        """Flat positions of the pixels ``[n]``, of ``OWN [n, 9]`` and of ``SIDE`` in each side ``[n, 3, 7]``."""
        offset = self._offset[band]
        own = self.wave.own[entry] + offset[:, None]
        side = self.wave.side[entry][:, None, :] + self._sides[band][:, :, None]
        return self.wave.pixels[entry] + offset, own, side

    def features(self, own: Integers, side: Integers) -> tuple[Integers, Integers]:
        """References ``[n]`` and features ``[n, FEATURES]``: differences to the mean of W and N in each band."""
        values = self.values.ravel()
        near, beside = values[own], values[side]
        reference = (near[:, 0] + near[:, 1]) >> 1
        references = (beside[:, :, 1:2] + beside[:, :, 2:3]) >> 1
        differences = (beside - references).reshape(len(own), SIDES * len(SIDE))
        return reference, np.concatenate([near - reference[:, None], differences], axis=1)

    def predict(self, band: Integers, own: Integers, side: Integers) -> Integers:
        """Predicted values ``[n]``, within the band's range."""
        reference, features = self.features(own, side)
        weights = self._weights[band]
        total = (features * weights[:, :-1]).sum(1) + weights[:, -1]
        return np.clip(reference + ((total + (1 << WEIGHT_BITS >> 1)) >> WEIGHT_BITS), self.low[band], self.high[band])

    def activities(self, own: Integers, side: Integers) -> Integers:
        """What the size of the error is expected from, ``[n, ACTIVITIES]``."""
        near = self.values.ravel()[own]
        errors = self.errors.ravel()
        differences = np.abs(near[:, [0, 1, 1, 0, 1]] - near[:, [2, 2, 3, 4, 5]])
        beside = errors[side[:, :, :_SIDE_ERRORS]].reshape(len(own), SIDES * _SIDE_ERRORS)
        return np.concatenate([differences, errors[own[:, :_ERRORS]], beside], axis=1)

    def contexts(self, band: Integers, own: Integers, side: Integers) -> Integers:
        """Contexts ``[n]`` in ``[0, CONTEXTS)``."""
        weights = self._activity[band]
        activity = (self.activities(own, side) * weights[:, :-1]).sum(1) + weights[:, -1]
        return np.searchsorted(_THRESHOLDS, activity, side="right")


def _subset(entries: int) -> Integers:
    """Entries that a fit looks at: all, or evenly spread ones of a large grid."""
    return np.arange(0, entries, max(1, entries // _FIT_PIXELS), dtype=np.int64)


def fit_weights(stack: Stack, index: int) -> None:
    """Fits the prediction of a plane by least squares; small grids use the nearest neighbours only."""
    entry = _subset(len(stack.wave.pixels))
    band = np.full_like(entry, index)
    pixel, own, side = stack.positions(band, entry)
    reference, features = stack.features(own, side)
    used = np.zeros(FEATURES, dtype=bool)
    few = len(stack.wave.pixels) < _FEW
    used[: 4 if few else len(OWN)] = True
    for i in range(len(stack.planes[index].sides)):
        start = len(OWN) + i * len(SIDE)
        used[start : start + (3 if few else len(SIDE))] = True
    x = features[:, used].astype(np.float64)
    x = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    y = (stack.values.ravel()[pixel] - reference).astype(np.float64)
    gram = x.T @ x
    ridge = np.diag(gram) * 1e-5 + max(1.0, gram.trace() * 1e-9)
    solution = np.linalg.solve(gram + np.diag(ridge), x.T @ y)
    weights = np.zeros(FEATURES + 1)
    weights[np.append(used, True)] = solution
    scaled = np.rint(weights * (1 << WEIGHT_BITS))
    stack.planes[index].weights = np.clip(scaled, -MAX_WEIGHT, MAX_WEIGHT).astype(np.int64)


def fit_activity(stack: Stack, index: int) -> None:
    """Fits the expected size of the coded residual, by non-negative least squares."""
    entry = _subset(len(stack.wave.pixels))
    band = np.full_like(entry, index)
    pixel, own, side = stack.positions(band, entry)
    x = stack.activities(own, side).astype(np.float64)
    x = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    size = stack.errors.ravel()[pixel].astype(np.float64)
    # Dividing by the local size makes relative errors count alike in calm and in busy places.
    weight = 1 / (x[:, :-1].mean(1) + size.mean() + 1.0)
    gram = (x * (weight**2)[:, None]).T @ x
    target = (x * (weight**2)[:, None]).T @ size
    scaled = np.rint(_non_negative(gram, target) * (1 << ACTIVITY_BITS))
    stack.planes[index].activity = np.clip(scaled, 0, MAX_WEIGHT).astype(np.int64)


def _non_negative(gram: npt.NDArray[np.float64], target: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Least squares from normal equations, without the unknowns that would become negative."""
    ridge = gram + np.diag(np.diag(gram) * 1e-6 + max(1e-9, gram.trace() * 1e-9))
    kept = np.arange(len(gram))
    while len(kept):
        solution = np.linalg.solve(ridge[np.ix_(kept, kept)], target[kept])
        if (solution >= 0).all():
            break
        kept = kept[solution > 0]
    whole = np.zeros(len(gram))
    if len(kept):
        whole[kept] = solution
    return whole
