"""Checks of an update before it is accepted: expected tensors, finite values, bounded norm and numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from eoforge.errors import DataRefused, LimitExceeded
from eoforge.federated.privacy.clipping import sum_of_squares
from eoforge.federated.store.chunk_store import StoredFile
from eoforge.federated.strategy import Range
from eoforge.storage.tensorfile import Layout, Specs, chunk_span

MAX_NUMBERS, MAX_NAME = 1000, 200


@dataclass(frozen=True)
class ChunkFacts:
    """Facts of one chunk of an update.

    Attributes:
        unusable: A tensor with NaN or infinity in this chunk, or None.
        squares: Sum of squares of its floating-point elements; 0 unless requested.
    """

    unusable: str | None
    squares: float


def check_tensors(found: Specs, expected: Specs) -> None:
    """Comparison of names, shapes and dtypes.

    Raises:
        DataRefused: They differ; the text names the first few differences.
    """
    missing, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if missing or extra:
        raise DataRefused(
            f"the update must hold the tensors that its strategy sends: {len(missing)} missing "
            f"({', '.join(missing[:3])}), {len(extra)} unexpected ({', '.join(extra[:3])})"
        )
    for name, spec in expected.items():
        if (found[name].shape, found[name].dtype) != (spec.shape, spec.dtype):
            raise DataRefused(
                f"tensor {name!r} must be {spec.dtype} {list(spec.shape)}; "
                f"got {found[name].dtype} {list(found[name].shape)}"
            )


def chunk_facts(layout: Layout, index: int, data: bytes | memoryview, squares: bool) -> ChunkFacts:
    """Facts of one chunk of an update, from all of its elements.

    Args:
        layout: Layout of the update.
        index: Position of the chunk.
        data: Bytes of the chunk.
        squares: Whether to sum squares.
    """
    first, last = chunk_span(index, layout.length)
    total = 0.0
    for segment in layout.segments(first, last):
        dtype = np.dtype(layout.specs[segment.name].dtype)
        if dtype.kind != "f":
            continue
        values = np.frombuffer(data, dtype, segment.stop - segment.start, segment.offset)
        # Minimum and maximum pass NaN and infinity on, and are several times faster than isfinite.
        if not (math.isfinite(values.min()) and math.isfinite(values.max())):
            return ChunkFacts(segment.name, 0.0)
        if squares:
            total += sum_of_squares(values)
    return ChunkFacts(None, total)


def check_model(model: StoredFile, pool: ThreadPoolExecutor) -> None:
    """Check of an initial model, which is read once.

    Raises:
        DataRefused: It holds no tensors, or NaN or infinity.
        NotFound: A chunk is missing.
    """
    if not model.specs:
        raise DataRefused("the initial model holds no tensors")

    def unusable(index: int) -> str | None:
        return chunk_facts(model.layout, index, model.chunk(index), squares=False).unusable

    for name in pool.map(unusable, range(len(model.manifest.chunks))):
        if name is not None:
            raise DataRefused(f"tensor {name!r} of the initial model holds NaN or infinity")


def check_facts(facts: list[ChunkFacts], max_norm: float) -> float:
    """Check of an update by the facts of its chunks.

    Args:
        facts: Facts of all chunks, in order.
        max_norm: Largest L2 norm, or 0 for no bound.

    Returns:
        L2 norm of the floating-point tensors; 0 if squares were not requested.

    Raises:
        DataRefused: The update holds NaN or infinity, or its norm is too large.
    """
    for fact in facts:
        if fact.unusable is not None:
            raise DataRefused(f"tensor {fact.unusable!r} holds NaN or infinity; the update would spoil the model")
    norm = math.sqrt(sum(fact.squares for fact in facts))
    if not math.isfinite(norm):
        raise DataRefused("the update's L2 norm is beyond the range of numbers; the update would spoil the model")
    if max_norm and norm > max_norm:
        raise DataRefused(f"the update's L2 norm is {norm:.6g}; the run's bound is {max_norm:.6g}")
    return norm


def check_numbers(samples: int, limit: int, scalars: Mapping[str, float], required: Mapping[str, Range]) -> None:
    """Check of the numbers that a silo sends with its update.

    Args:
        samples: Number of training samples.
        limit: Largest number of samples that the silo may claim.
        scalars: Numbers of the strategy.
        required: Numbers that the strategy needs.

    Raises:
        DataRefused: The number of samples is 0 or above the limit, or :func:`check_scalars` refuses the scalars.
        LimitExceeded: There are too many scalars.
    """
    if not 0 < samples <= limit:
        raise DataRefused(
            f"an update must say how many samples it was trained on, 1 to {limit} (what its silo registered, within "
            f"data.max_samples and data.max_sample_ratio of the run); got {samples}"
        )
    check_names(scalars)
    check_scalars(scalars, required)


def check_scalars(scalars: Mapping[str, float], required: Mapping[str, Range] | None = None) -> None:
    """Check of numbers that a silo measured, or that a strategy needs.

    Raises:
        DataRefused: A number is not finite, or a required one is missing or out of range.
    """
    bad = [name for name, value in scalars.items() if not math.isfinite(value)]
    if bad:
        raise DataRefused(f"numbers of a silo must be finite; {', '.join(sorted(bad)[:3])} are not")
    for name, (least, most) in (required or {}).items():
        value = scalars.get(name)
        if value is None or not least <= value <= most:
            sent = "none came" if value is None else f"got {value:g}"
            raise DataRefused(f"the update's strategy needs the number {name}, {least:g} to {most:g}; {sent}")


def check_names(numbers: Mapping[str, float]) -> None:
    """Check of the names of numbers, which are stored with the run and shown to operators.

    Raises:
        LimitExceeded: There are too many numbers, or a name is too long.
        DataRefused: A name is not printable and could control an operator's terminal.
    """
    if not all(name.isprintable() for name in numbers):
        raise DataRefused("names of numbers must be printable")
    if len(numbers) > MAX_NUMBERS or any(len(name) > MAX_NAME for name in numbers):
        raise LimitExceeded(f"at most {MAX_NUMBERS} numbers with names of at most {MAX_NAME} characters are taken")
