"""Reduction of updates to new server tensors: slice by slice, in float64, silos in the order of their ids.

Service and simulation call :func:`combine`, so equal updates give equal bits. Every element is computed on its own, so
the result depends neither on the slicing nor on the number of threads, and memory grows with neither silos nor model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from eoforge.errors import DataRefused, UsageError
from eoforge.federated.store.chunk_store import ChunkStore, StoredFile
from eoforge.federated.strategy import Add, Output, Reduction, Source, name_of, split_name
from eoforge.storage.tensorfile import Array, Layout, Specs

Sum = npt.NDArray[np.float64]
VARIANCE = ".running_var"
"""Name ending of statistics that are clamped to 0 or more: privacy noise, or one silo, could else give NaN outputs."""


@dataclass(frozen=True)
class Part:
    """Elements ``[start, stop)`` of one output."""

    output: Output
    start: int
    stop: int


@dataclass(frozen=True)
class Term:
    """Elements ``[start, stop)`` of one ``Add``, before its scale."""

    add: Add
    start: int
    stop: int


class Combiner(Protocol):
    """Combination of the updates of each term: their sum, or a robust or noisy replacement of it."""

    def __call__(self, terms: Sequence[Term], source: Source) -> Sequence[Sum]:
        """One float64 array per term."""


def weighted_sum(terms: Sequence[Term], source: Source) -> Sequence[Sum]:
    """Weighted sum over silos, silo by silo: each chunk of an update is read once for all terms in it."""
    sums = [np.zeros(t.stop - t.start) for t in terms]
    for silo in sorted({s for t in terms for s in t.add.shares}):
        for total, term in zip(sums, terms, strict=True):
            share = term.add.shares.get(silo)
            if share is not None:
                total += np.multiply(source.update(silo, term.add.name, term.start, term.stop), share, dtype=np.float64)
    return sums


def require_finite(name: str, values: Array) -> None:
    """Check of new elements of a server tensor.

    Raises:
        DataRefused: An element is NaN or infinite.
    """
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise DataRefused(f"tensor {name!r} would hold NaN or infinity in {values.dtype.name} after the reduction")


def combine(parts: Sequence[Part], source: Source, combiner: Combiner = weighted_sum) -> list[Array]:
    """New elements of each part, in the dtype of its tensor.

    Raises:
        DataRefused: An element is NaN or infinite: finite updates can overflow together.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # an error names the tensor below
        cast = [
            _cast(total, part.output.spec.dtype)
            for part, total in zip(parts, _totals(parts, source, combiner), strict=True)
        ]
    for part, values in zip(parts, cast, strict=True):
        require_finite(part.output.name, values)
    return cast


def _totals(parts: Sequence[Part], source: Source, combiner: Combiner) -> list[Sum]:
    totals: list[Sum] = []
    for part in parts:
        total = np.zeros(part.stop - part.start)
        for name, coefficient in part.output.keep:
            total += np.multiply(source.state(name, part.start, part.stop), coefficient, dtype=np.float64)
        totals.append(total)
    owners = [(i, Term(add, part.start, part.stop)) for i, part in enumerate(parts) for add in part.output.add]
    for (i, term), added in zip(owners, combiner([term for _, term in owners], source), strict=True):
        totals[i] += added * term.add.scale
    for part, total in zip(parts, totals, strict=True):
        if part.output.spec.role == "statistic" and part.output.name.endswith(VARIANCE):
            np.maximum(total, 0.0, out=total)
    return totals


class StoredSource:
    """Updates of a round and server tensors in storage; see :class:`~eoforge.federated.strategy.Source`.

    Args:
        updates: File of each silo's update; its tensors have full names.
        state: File of each group of server tensors; its tensors have names without the group.
    """

    def __init__(self, updates: Mapping[str, StoredFile], state: Mapping[str, StoredFile]) -> None:
        self._updates, self._state = updates, state

    def update(self, silo: str, name: str, start: int, stop: int) -> Array:
        """See :class:`Source`."""
        return self._updates[silo].read(name, start, stop)

    def state(self, name: str, start: int, stop: int) -> Array:
        """See :class:`Source`."""
        group, tensor = split_name(name)
        return self._state[group].read(tensor, start, stop)


def write_reduction(
    reduction: Reduction,
    state: Mapping[str, StoredFile],
    source: Source,
    objects: ChunkStore,
    pool: ThreadPoolExecutor,
    combiner: Combiner = weighted_sum,
) -> dict[str, str]:
    """Computation of a round, and storage of a new file for each changed group.

    Args:
        reduction: Changes of the round.
        state: File of every group before the round.
        source: Reader of elements.
        objects: Store of the new files.
        pool: Threads that compute chunks.
        combiner: Combination of updates.

    Returns:
        Digest of the new file of each changed group.

    Raises:
        UsageError: Two outputs name the same tensor.
        DataRefused: A new element is NaN or infinite.
    """
    outputs = {output.name: output for output in reduction.outputs}
    if len(outputs) != len(reduction.outputs) or outputs.keys() & reduction.values.keys():
        raise UsageError("a strategy must write each tensor at most once")
    changed = {split_name(name)[0] for name in (*outputs, *reduction.values)}
    written: dict[str, str] = {}
    for group in sorted(changed):
        old: Specs = state[group].specs if group in state else {}
        new = {split_name(n)[1]: o.spec for n, o in outputs.items() if split_name(n)[0] == group}
        missing = [n for n in reduction.values if split_name(n)[0] == group and split_name(n)[1] not in old]
        if missing:
            raise UsageError(f"a strategy gave values for {', '.join(missing)}, which are not among its server tensors")

        def fill(wanted: Sequence[tuple[str, int, int]], group: str = group) -> list[Array]:
            parts: list[Part] = []
            arrays: list[Array | None] = []
            for tensor, start, stop in wanted:
                name = name_of(group, tensor)
                if name in outputs:
                    parts.append(Part(outputs[name], start, stop))
                    arrays.append(None)
                elif name in reduction.values:
                    values = np.asarray(reduction.values[name]).reshape(-1)[start:stop]
                    require_finite(name, values)
                    arrays.append(values)
                else:
                    arrays.append(state[group].read(tensor, start, stop))
            computed = iter(combine(parts, source, combiner))
            return [next(computed) if array is None else array for array in arrays]

        written[group] = objects.write(Layout.of({**old, **new}), fill, pool)
    return written


def _cast(total: Sum, dtype: str) -> Array:
    target = np.dtype(dtype)
    return np.rint(total).astype(target) if target.kind in "iu" else total.astype(target)
