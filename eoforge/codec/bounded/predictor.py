"""Predictor and context model of the bounded codec, in integer arithmetic.

A pixel is predicted linearly from nine neighbours in its band and seven in each of up to three earlier bands. The
encoder fits the weights to the raster and sends them as multiples of 2^-10; the expected size of the residual, which
selects the table, comes from local differences and earlier residuals in the same way. Only the fit uses floats: the
decoder computes integer sums.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from eoforge.codec.bounded.wavefront import OWN, SIDE, Integers, Wavefront

SIDES = 3
WEIGHT_BITS = 10
ACTIVITY_BITS = 8
CONTEXTS = 64
FEATURES = len(OWN) + SIDES * len(SIDE)
"""Weights of a prediction, without its constant."""
_NEAR = slice(0, 6)
_FIRST, _SECOND = [0, 1, 1, 0, 1], [2, 2, 3, 4, 5]
_ERRORS = [*range(6), *(len(OWN) + side * len(SIDE) + i for side in range(SIDES) for i in range(5))]
ACTIVITIES = len(_FIRST) + len(_ERRORS)
"""Weights of an activity, without its constant."""
MAX_WEIGHT = 1 << 15
_FEW = 1500
_FIT_PIXELS = 40_000
# Contexts are thirds of an octave of the activity: 2^(i / 3) in units of 2^-8, by shifting three constants.
_THIRDS = (65536, 82570, 104032)
_Floats = npt.NDArray[np.float64]
_THRESHOLDS: Integers = np.array([(_THIRDS[i % 3] << (i // 3)) >> 12 for i in range(CONTEXTS - 1)], dtype=np.int64)


@dataclass
class Plane:
    """Settings of one band.

    Attributes:
        sides: Indices of up to ``SIDES`` planes that were coded before.
        start: Value of missing neighbours.
        low: Minimum of the band.
        high: Maximum of the band.
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
    """Planes of one grid: known planes, and planes that are being coded.

    Args:
        wave: Geometry of the grid.
        known: Values and residual sizes ``[H, W]`` of known planes, as (values, errors).
        planes: Planes to code; their indices follow those of the known planes.
        values: Values ``[planes, H * W]`` of the planes to code; None in the decoder.

    Attributes:
        values: ``[known + planes + 1, H * W + 1]``; the last plane is zero and replaces missing side planes.
        errors: Sizes of the coded residuals, in the same shape.
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
        """Copies weights and limits of the planes into arrays."""
        self._weights = np.stack([p.weights for p in self.planes])
        self._activity = np.stack([p.activity for p in self.planes])
        self.low = np.array([p.low for p in self.planes])
        self.high = np.array([p.high for p in self.planes])

    def pixels(self, band: Integers, entry: Integers) -> Integers:
        """Flat positions of pixels ``[n]``."""
        return self.wave.pixels[entry] + self._offset[band]

    def neighbours(self, band: Integers, entry: Integers) -> tuple[Integers, Integers]:
        """Flat positions of pixels ``[n]`` and neighbours ``[n, FEATURES]``: ``OWN``, then ``SIDE`` by plane."""
        offset = self._offset[band]
        own = self.wave.own[entry] + offset[:, None]
        side = self.wave.side[entry][:, None, :] + self._sides[band][:, :, None]
        seen = np.concatenate([own, side.reshape(len(own), SIDES * len(SIDE))], axis=1)
        return self.pixels(band, entry), seen

    def whole(self, index: int) -> tuple[Integers, Integers]:
        """Positions as from :meth:`neighbours`, for all pixels of the ``index``-th plane."""
        sides = [self.wave.side + offset for offset in self._sides[index]]
        offset = self._offset[index]
        return self.wave.pixels + offset, np.concatenate([self.wave.own + offset, *sides], axis=1)

    def features(self, seen: Integers) -> tuple[Integers, Integers]:
        """References ``[n]`` and features ``[n, FEATURES]``: differences to the mean of W and N in each band."""
        features = self.values.ravel().take(seen)
        reference = (features[:, 0] + features[:, 1]) >> 1
        features[:, : len(OWN)] -= reference[:, None]
        beside = features[:, len(OWN) :].reshape(len(seen), SIDES, len(SIDE))
        beside -= (beside[:, :, 1:2] + beside[:, :, 2:3]) >> 1
        return reference, features

    def predict(self, band: Integers, seen: Integers) -> Integers:
        """Predicted values ``[n]``, within the band's range."""
        reference, features = self.features(seen)
        weights = self._weights[band]
        total = np.einsum("nk,nk->n", features, weights[:, :-1]) + weights[:, -1]
        return _predicted(reference, total, self.low[band], self.high[band])

    def activities(self, seen: Integers) -> Integers:
        """Activity features ``[n, ACTIVITIES]``: local differences and residual sizes of neighbours."""
        near = self.values.ravel().take(seen[:, _NEAR])
        differences = np.abs(near[:, _FIRST] - near[:, _SECOND])
        return np.concatenate([differences, self.errors.ravel().take(seen[:, _ERRORS])], axis=1)

    def contexts(self, band: Integers, seen: Integers) -> Integers:
        """Contexts ``[n]`` in ``[0, CONTEXTS)``."""
        weights = self._activity[band]
        activity = np.einsum("nk,nk->n", self.activities(seen), weights[:, :-1]) + weights[:, -1]
        return _THRESHOLDS.searchsorted(activity, side="right")

    def fit_and_predict(self, index: int, original: Integers, seen: Integers) -> Integers:
        """Fits the prediction weights of a plane with known pixels; returns the predicted values ``[n]``."""
        plane = self.planes[index]
        reference, features = self.features(seen)
        x = _with_constant(features)
        plane.weights = _fit_weights(x, original - reference, len(plane.sides))
        # Integers below 2^53, which add up exactly in any order.
        total = (x @ plane.weights.astype(np.float64)).astype(np.int64)
        return _predicted(reference, total, plane.low, plane.high)

    def fit_contexts(self, index: int, sizes: Integers, seen: Integers) -> Integers:
        """Fits the activity weights of a plane to its residual sizes ``[n]``; returns the contexts ``[n]``."""
        plane = self.planes[index]
        x = _with_constant(self.activities(seen))
        plane.activity = _fit_activity(x, sizes.astype(np.float64))
        return _THRESHOLDS.searchsorted(x @ plane.activity.astype(np.float64), side="right")


def _predicted(reference: Integers, total: Integers, low: Integers | int, high: Integers | int) -> Integers:
    return np.minimum(np.maximum(reference + ((total + (1 << WEIGHT_BITS >> 1)) >> WEIGHT_BITS), low), high)


def _with_constant(features: Integers) -> _Floats:
    x = np.ones((len(features), features.shape[1] + 1))
    x[:, :-1] = features
    return x


def _fit_weights(x: _Floats, y: Integers, sides: int) -> Integers:
    """Prediction weights by least squares; small grids use the nearest neighbours only."""
    few = len(x) < _FEW
    used = np.zeros(FEATURES + 1, dtype=bool)
    used[: 4 if few else len(OWN)] = True
    used[-1] = True
    for i in range(sides):
        start = len(OWN) + i * len(SIDE)
        used[start : start + (3 if few else len(SIDE))] = True
    every = max(1, len(x) // _FIT_PIXELS)
    chosen = x[::every, used]
    gram = chosen.T @ chosen
    ridge = np.diag(gram) * 1e-5 + max(1.0, gram.trace() * 1e-9)
    weights = np.zeros(FEATURES + 1)
    weights[used] = np.linalg.solve(gram + np.diag(ridge), chosen.T @ y[::every].astype(np.float64))
    return np.clip(np.rint(weights * (1 << WEIGHT_BITS)), -MAX_WEIGHT, MAX_WEIGHT).astype(np.int64)


def _fit_activity(x: _Floats, size: _Floats) -> Integers:
    """Activity weights by non-negative least squares."""
    every = max(1, len(x) // _FIT_PIXELS)
    x, size = x[::every], size[::every]
    # Division by the local size gives relative errors equal weight in smooth and in textured areas.
    weighted = x / (x[:, :-1].mean(1) + size.mean() + 1.0)[:, None] ** 2
    scaled = np.rint(_non_negative(weighted.T @ x, weighted.T @ size) * (1 << ACTIVITY_BITS))
    return np.clip(scaled, 0, MAX_WEIGHT).astype(np.int64)


def _non_negative(gram: _Floats, target: _Floats) -> _Floats:
    """Non-negative least squares from normal equations, by dropping unknowns that become negative."""
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
