"""Coding of residuals and settings: the table of each context, and the form of settings in the stream."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from eoforge.codec.bounded.predictor import CONTEXTS
from eoforge.codec.bounded.wavefront import Integers
from eoforge.codec.entropy import Decoder, Encoder, TableSet
from eoforge.codec.tables import MAX_REACH, mixture_frequencies
from eoforge.errors import DataRefused

MAX_SHIFT = 24
_ESCAPE_BITS = 32
_TARGET_SPREAD = 48.0
_TABLE_BITS, _SHIFT_BITS, _CONTEXT_BITS, _LENGTH_BITS = 8, 5, 6, 32


@cache
def tables() -> TableSet:
    """Probability tables of residuals and weights."""
    return TableSet(mixture_frequencies())


@cache
def _costs() -> npt.NDArray[np.float64]:
    """Bits ``[2 * MAX_REACH + 3, tables]`` of every value in ``-MAX_REACH - 1..MAX_REACH + 1``; both ends stand for all
    values beyond."""
    known = tables()
    costs = np.empty((2 * MAX_REACH + 3, len(known)))
    for index in range(len(known)):
        bits, reach = known.bits(index), int(known.reach[index])
        costs[:, index] = bits[-1] + _ESCAPE_BITS
        costs[MAX_REACH + 1 - reach : MAX_REACH + 2 + reach, index] = bits[:-1]
    return costs


@dataclass
class Contexts:
    """Table and number of plain low bits of every context of a band, ``[CONTEXTS]`` each."""

    table: Integers
    shift: Integers


def choose_contexts(residuals: Integers, contexts: Integers) -> Contexts:
    """Cheapest table of each context; the low bits of wide residuals are plain."""
    shift, table = np.zeros(CONTEXTS, dtype=np.int64), np.zeros(CONTEXTS, dtype=np.int64)
    order = np.argsort(contexts, kind="stable")
    ordered = residuals[order]
    ends = np.cumsum(np.bincount(contexts, minlength=CONTEXTS))
    for context in np.unique(contexts).tolist():
        values = ordered[ends[context - 1] if context else 0 : ends[context]]
        spread = float(np.median(np.abs(values))) * 1.5
        shift[context] = int(np.clip(np.floor(np.log2(max(spread, 1.0) / _TARGET_SPREAD)), 0, MAX_SHIFT))
        cut = np.clip(values >> shift[context], -MAX_REACH - 1, MAX_REACH + 1) + MAX_REACH + 1
        first = int(cut.min())
        counts = np.bincount(cut - first).astype(np.float64)
        table[context] = (counts @ _costs()[first : first + len(counts)]).argmin()
    return Contexts(table, shift)


def put_contexts(coder: Encoder, chosen: Contexts, used: Integers) -> None:
    """Writes the contexts from the minimum to the maximum of ``used``."""
    first, last = int(used.min()), int(used.max())
    coder.put_bits(np.array([first, last]), _CONTEXT_BITS)
    coder.put_bits(chosen.table[first : last + 1], _TABLE_BITS)
    coder.put_bits(chosen.shift[first : last + 1], _SHIFT_BITS)


def get_contexts(coder: Decoder) -> Contexts:
    """Inverse of :func:`put_contexts`.

    Raises:
        DataRefused: A table or shift does not exist.
    """
    first, last = coder.get_bits(2, _CONTEXT_BITS).tolist()
    count = max(0, last - first + 1)
    table, shift = np.zeros(CONTEXTS, dtype=np.int64), np.zeros(CONTEXTS, dtype=np.int64)
    table[first : last + 1] = coder.get_bits(count, _TABLE_BITS)
    shift[first : last + 1] = coder.get_bits(count, _SHIFT_BITS)
    if table.max() >= len(tables()) or shift.max() > MAX_SHIFT:
        raise DataRefused(f"damaged stream: table {table.max()} or shift {shift.max()} does not exist")
    return Contexts(table, shift)


def put_residuals(coder: Encoder, residuals: Integers, table: Integers, shift: Integers) -> None:
    """Writes residuals ``[n]``, each by its table and with its low bits plain."""
    if not shift.any():
        coder.put(residuals, tables(), table)
        return
    coder.put(residuals >> shift, tables(), table)
    for bits in np.unique(shift[shift > 0]).tolist():
        coder.put_bits(residuals[shift == bits] & ((1 << bits) - 1), bits)


def get_residuals(coder: Decoder, table: Integers, shift: Integers) -> Integers:
    """Inverse of :func:`put_residuals`."""
    residuals = coder.get(tables(), table)
    if not shift.any():
        return residuals
    residuals <<= shift
    for bits in np.unique(shift[shift > 0]).tolist():
        chosen = shift == bits
        residuals[chosen] |= coder.get_bits(int(chosen.sum()), bits)
    return residuals


def put_weights(coder: Encoder, weights: Integers) -> None:
    """Writes weights ``[n]`` by their cheapest table."""
    cut = np.clip(weights, -MAX_REACH - 1, MAX_REACH + 1) + MAX_REACH + 1
    best = int(_costs()[cut].sum(0).argmin())
    coder.put_bits(np.array([best]), _TABLE_BITS)
    coder.put(weights, tables(), np.full(len(weights), best))


def get_weights(coder: Decoder, count: int, low: int, high: int) -> Integers:
    """Weights ``[count]``, each in ``low..high``.

    Raises:
        DataRefused: A weight is out of range.
    """
    table = int(coder.get_bits(1, _TABLE_BITS)[0])
    if table >= len(tables()):
        raise DataRefused(f"damaged stream: table {table} does not exist")
    weights = coder.get(tables(), np.full(count, table))
    if weights.min() < low or weights.max() > high:
        raise DataRefused(f"damaged stream: a weight lies outside {low}..{high}")
    return weights


def put_integers(coder: Encoder, *values: int) -> None:
    """Writes signed integers of 31 bits."""
    array = np.array(values, dtype=np.int64)
    coder.put_bits((array << 1) ^ (array >> 63), _LENGTH_BITS)


def get_integers(coder: Decoder, count: int, low: int, high: int) -> list[int]:
    """Integers, ``count`` of them, each in ``low..high``.

    Raises:
        DataRefused: An integer is out of range.
    """
    folded = coder.get_bits(count, _LENGTH_BITS)
    values: list[int] = ((folded >> 1) ^ -(folded & 1)).tolist()
    if not all(low <= value <= high for value in values):
        raise DataRefused(f"damaged stream: settings {values} are not all within {low}..{high}")
    return values


def put_bytes(coder: Encoder, data: bytes) -> None:
    """Writes bytes after their number."""
    put_integers(coder, len(data))
    coder.put_bits(np.frombuffer(data, dtype=np.uint8).astype(np.int64), 8)


def get_bytes(coder: Decoder, limit: int) -> bytes:
    """Bytes written by :func:`put_bytes`, at most ``limit``.

    Raises:
        DataRefused: Their number exceeds ``limit``.
    """
    (count,) = get_integers(coder, 1, 0, limit)
    return coder.get_bits(count, 8).astype(np.uint8).tobytes()
