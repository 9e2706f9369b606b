"""Entropy coder (rANS by constriction) over integer tables with an escape symbol.

Symbols are coded in groups of equal table, tables ascending, so that one call codes a group. constriction works on
32-bit words and takes frequencies as floats: the frequencies here are integers below 2^24, and constriction applies
single IEEE operations to them in a fixed order, equal on every machine. constriction panics or raises on symbols
outside a table, hence the escape symbol; it decodes damaged words without an error, hence the check that the coder is
empty at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import constriction
import numpy as np
import numpy.typing as npt

from eoforge.codec.tables import Frequencies
from eoforge.errors import DataRefused

WORD_BYTES = 4
MAX_VALUE = (1 << 31) - 1

Values = npt.NDArray[np.int64]


class TableSet:
    """Indexed set of probability tables, each of the values ``-reach..reach`` and an escape symbol.

    Args:
        tables: Frequencies ``[2 * reach + 2]`` each, the escape symbol last. A symbol of frequency zero can still be
            coded, at 24 bits.
    """

    def __init__(self, tables: Sequence[Frequencies]) -> None:
        self._frequencies = tuple(tables)
        self.reach: Values = np.array([len(t) // 2 - 1 for t in tables], dtype=np.int64)
        self._models: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(self._frequencies)

    def model(self, index: int) -> Any:
        """Model of constriction for one table, created on first use."""
        if index not in self._models:
            numbers = self._frequencies[index].astype(np.float64)
            self._models[index] = constriction.stream.model.Categorical(numbers, perfect=False)
        return self._models[index]

    def bits(self, index: int) -> npt.NDArray[np.float64]:
        """Approximate cost ``[2 * reach + 2]`` of each symbol, for decisions of the encoder only."""
        numbers = np.maximum(self._frequencies[index].astype(np.float64), 0.25)
        return np.log2(numbers.sum() / numbers)


class Encoder:
    """Encoder that takes values in the order of decoding; rANS runs backwards in :meth:`finish`."""

    def __init__(self) -> None:
        self._parts: list[tuple[str, Any, Any, Any]] = []

    def put(self, values: Values, tables: TableSet, indices: Values) -> None:
        """Appends values ``[n]`` within 32 bits, each coded by the table of its entry in ``indices [n]``."""
        self._parts.append(("coded", values, tables, indices))

    def put_bits(self, values: Values, bits: int) -> None:
        """Appends values ``[n]`` in ``[0, 2^bits)`` as plain bits; ``bits`` at most 32."""
        if bits:
            self._parts.append(("plain", values, None, bits))

    def finish(self) -> bytes:
        """Encoded bytes, a whole number of 32-bit words."""
        coder = constriction.stream.stack.AnsCoder()
        for kind, values, tables, argument in reversed(self._parts):
            if kind == "plain":
                _push_bits(coder, values, argument)
            else:
                _push(coder, values, tables, argument)
        return bytes(coder.get_compressed().astype("<u4").tobytes())


class Decoder:
    """Decoder of :class:`Encoder`, with the same calls in the same order.

    Raises:
        DataRefused: The bytes are no whole words or end in a zero word.
    """

    def __init__(self, data: bytes | memoryview) -> None:
        if len(data) % WORD_BYTES:
            raise DataRefused(f"damaged stream: {len(data)} bytes of entropy code are no whole words of {WORD_BYTES}")
        words = np.frombuffer(data, dtype="<u4").astype(np.uint32)
        if len(words) and not words[-1]:
            raise DataRefused("damaged stream: its entropy code ends in an empty word")
        self._coder = constriction.stream.stack.AnsCoder(words)

    def get(self, tables: TableSet, indices: Values) -> Values:
        """Decoded values ``[n]``, each by the table of its entry in ``indices [n]``."""
        order, groups = _groups(indices)
        symbols = np.empty(len(indices), dtype=np.int64)
        for index, start, end in groups:
            symbols[start:end] = self._coder.decode(tables.model(index), end - start)
        reach = tables.reach.take(indices.take(order))
        sorted_values = symbols - reach
        escaped = sorted_values > reach
        if escaped.any():
            folded = self.get_bits(int(escaped.sum()), 32)
            sorted_values[escaped] = (folded >> 1) ^ -(folded & 1)
        values = np.empty_like(sorted_values)
        values[order] = sorted_values
        return values

    def get_bits(self, count: int, bits: int) -> Values:
        """Decoded values ``[count]`` of ``bits`` plain bits."""
        value = np.zeros(count, dtype=np.int64)
        shift = 0
        while bits > 0:
            width = min(bits, 16)
            if count:
                value |= self._coder.decode(_uniform(width), count).astype(np.int64) << shift
            bits -= width
            shift += width
        return value

    def finish(self) -> None:
        """Check that the coder is empty.

        Raises:
            DataRefused: Bits are left, so the decoded values differ from the encoded values.
        """
        if not self._coder.is_empty():
            raise DataRefused("damaged stream: bits are left after its last symbol, so its symbols cannot be trusted")


def _groups(indices: Values) -> tuple[Values, list[tuple[int, int, int]]]:
    """Stable order by table, and (table, start, end) of each group in that order."""
    # Sixteen bits, because NumPy sorts those by radix.
    order = np.argsort(indices.astype(np.uint16), kind="stable")
    counts = np.bincount(indices)
    found = counts.nonzero()[0]
    ends = counts.take(found).cumsum().tolist()
    return order, list(zip(found.tolist(), [0, *ends][: len(ends)], ends, strict=True))


def _uniform(bits: int) -> Any:
    return constriction.stream.model.Uniform(1 << bits)


def _push(coder: Any, values: Values, tables: TableSet, indices: Values) -> None:
    order, groups = _groups(indices)
    ordered = values.take(order)
    reach = tables.reach.take(indices.take(order))
    symbols = (ordered + reach).astype(np.int32)
    outside = np.abs(ordered) > reach
    if outside.any():
        beyond = ordered[outside]
        _push_bits(coder, (beyond << 1) ^ (beyond >> 63), 32)
        symbols[outside] = 2 * reach[outside] + 1
    for index, start, end in reversed(groups):
        coder.encode_reverse(symbols[start:end], tables.model(index))


def _push_bits(coder: Any, values: Values, bits: int) -> None:
    widths = [16] * (bits // 16) + ([bits % 16] if bits % 16 else [])
    for position in reversed(range(len(widths))):
        if len(values):
            part = (values >> (16 * position)) & ((1 << widths[position]) - 1)
            coder.encode_reverse(part.astype(np.int32), _uniform(widths[position]))
