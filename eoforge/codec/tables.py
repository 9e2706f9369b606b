"""Probability tables in integer arithmetic, equal on every machine.

The mass of a Gaussian of standard deviation sigma in intervals of width one is summed from samples of its density. The
samples follow from each other by multiplication: ``g(x + h) = g(x) * r(x)`` and
``r(x + h) = r(x) * exp(-h^2 / sigma^2)``. With fixed-point Python integers and the two constants from ``decimal``
(whose ``exp`` is correctly rounded by its specification) no floating-point rounding of a machine is involved.
"""

from __future__ import annotations

from decimal import Context, Decimal
from functools import cache

import numpy as np
import numpy.typing as npt

SCALES = 64
"""Number of standard deviations."""
SIGMA_MIN, SIGMA_RATIO = Decimal("0.11"), Decimal("1.13")
MAX_REACH = 511
"""Largest value of a table; larger values are coded by the escape symbol and plain bits."""
TOTAL_BITS = 22
"""Frequencies of a table add up to at most 2^22, which float32 represents exactly."""
_BITS = 96
_REACH_SIGMAS = 7
_CONTEXT = Context(prec=40)

Frequencies = npt.NDArray[np.int64]


def _fixed(value: Decimal) -> int:
    return int((value * (1 << _BITS)).to_integral_value(context=_CONTEXT))


def _gaussian_mass(sigma: Decimal, reach: int) -> list[int]:
    """Fixed-point mass of the intervals around 0..reach + 1 (interval 0 whole, not its half)."""
    parts = max(4, int(16 / sigma) // 2 * 2)  # even, so that interval borders fall between two midpoints
    half = 1 / Decimal(2 * parts)
    variance = sigma * sigma
    density = _fixed(_CONTEXT.exp(-half * half / (2 * variance)))  # at x = h / 2, h = 1 / parts
    step = _fixed(_CONTEXT.exp(-4 * half * half / variance))  # ratio of ratios
    ratio = _fixed(_CONTEXT.exp(-4 * half * half / variance))  # g(3h/2) / g(h/2) = exp(-(9 - 1) h^2 / (8 sigma^2))
    mass = [0] * (reach + 2)
    for sample in range((2 * reach + 3) * parts // 2):
        mass[(2 * sample + 1 + parts) // (2 * parts)] += density
        density = density * ratio >> _BITS
        ratio = ratio * step >> _BITS
        if not density:
            break
    mass[0] *= 2
    return mass


@cache
def gaussian_masses() -> tuple[tuple[int, ...], ...]:
    """Masses of the values 0..reach and of the tail (last), for each standard deviation."""
    masses = []
    for index in range(SCALES):
        sigma = SIGMA_MIN * SIGMA_RATIO**index
        reach = min(MAX_REACH, int(_REACH_SIGMAS * sigma) + 1)
        masses.append(tuple(_gaussian_mass(sigma, reach)))
    return tuple(masses)


def frequencies(mass: tuple[int, ...]) -> Frequencies:
    """Integer frequencies ``[2 * reach + 2]`` of -reach..reach and the escape symbol, from masses of 0..reach + 1."""
    whole = mass[0] + 2 * sum(mass[1:])
    scaled = [m * ((1 << TOTAL_BITS) - len(mass) * 2) // whole for m in mass]
    side, tail = scaled[1:-1], scaled[-1]
    return np.array([*side[::-1], scaled[0], *side, 2 * tail + 1], dtype=np.int64)


@cache
def gaussian_frequencies() -> tuple[Frequencies, ...]:
    """Frequencies of the Gaussians of all standard deviations."""
    return tuple(frequencies(mass) for mass in gaussian_masses())


_SHAPES: tuple[tuple[tuple[int, int], ...], ...] = (
    ((0, 4),),
    ((-4, 1), (0, 2), (5, 1)),
    ((-8, 5), (-3, 6), (3, 6), (10, 3)),
)
"""Mixtures of Gaussians as (index offset, weight): a Gaussian, about a logistic, heavier than a Laplacian."""


@cache
def mixture_frequencies() -> tuple[Frequencies, ...]:
    """Tables of centred residuals: every shape at every standard deviation, shape by shape."""
    ladder = gaussian_masses()
    wholes = [mass[0] + 2 * sum(mass[1:]) for mass in ladder]
    tables = []
    for shape in _SHAPES:
        for index in range(SCALES):
            parts = [(min(max(index + offset, 0), SCALES - 1), weight) for offset, weight in shape]
            mixed = [0] * max(len(ladder[entry]) for entry, _ in parts)
            for entry, weight in parts:
                for value, mass in enumerate(ladder[entry]):
                    mixed[value] += weight * (mass << _BITS) // wholes[entry]
            tables.append(frequencies(tuple(mixed)))
    return tuple(tables)
