"""Exact search by Hamming distance, with results in the order (distance, row).

Codes of K bits have only K + 1 distances, so most ranks are ties; any order among ties other than by row would make
results depend on the library, the thread count or the batch size. On the CPU, faiss's counting search collects rows per
distance in scan order, which is this order, and its heaps compare (distance, row); on CUDA the kernel ``hamming_topk``
has the same order.
A filter selects rows before the search, so that filtered results are exact as well. Long indexes are searched in blocks
of rows, by all cores, and the results of the blocks are merged in the same order.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from eoforge.errors import LimitExceeded, UsageError
from eoforge.hashing.lengths import MAX_CODE_BITS

if TYPE_CHECKING:
    import torch

Codes = npt.NDArray[np.uint8]
Distances = npt.NDArray[np.int32]
Rows = npt.NDArray[np.int64]
Allowed = npt.NDArray[np.bool_ | np.int64]
"""Rows that a search may find: a mask (bool) of all rows, or numbers (int64) of a few rows, ascending."""


class Found(NamedTuple):
    """Answer of an index to queries.

    Attributes:
        distances: ``[Q, k]``, ascending.
        rows: Row numbers ``[Q, k]`` of the index.
        candidates: Number of patches that have the sensor and pass the filter.
        exact: Whether no patch of the index is nearer than a hit that came.
        recall: Recall that was measured for this kind of search; 1 if it is exact.
    """

    distances: Distances
    rows: Rows
    candidates: int
    exact: bool = True
    recall: float = 1.0


MAX_K = 1_000
"""Limit of neighbours per query; the memory of the counting search per query grows with k times K."""

_HEAP_K = 128
"""Most neighbours that a heap finds faster than counting. In 1.1 million codes of 64, 128 and 256 bits, with k = 100 it
took 1.00, 0.82 and 0.66 of the time of counting (CPU time, one thread); with k = 1,000 it took 1.42, 1.18 and 0.93."""
_COUNTING_BYTES = 64 << 20  # working memory of one chunk of queries
_BLOCK_ROWS = 1 << 22
"""Rows of one block; below that, one thread is faster (see ``_scan``). The copy of the allowed codes of a block takes
at most 64 MiB at 128 bits, so that a filter of 100 million rows needs no copy of them all."""


class HammingIndex:
    """Index of packed codes, in memory or memory-mapped, searched exactly.

    Args:
        codes: ``[N, K/8]`` uint8; kept, not copied, when contiguous.
        device: ``None`` or ``"cpu"`` for faiss on the CPU; a CUDA device for the kernel.

    Raises:
        UsageError: ``codes`` is no uint8 matrix of 1 to 64 columns.
    """

    def __init__(self, codes: Codes, device: str | None = None) -> None:
        self.codes = _checked("codes", codes)
        self.bits = 8 * self.codes.shape[1]
        self.device = device or "cpu"
        self._resident: torch.Tensor | None = None
        if self.device != "cpu":
            self._resident = _to_device(self.codes, self.device)

    def __len__(self) -> int:
        return len(self.codes)

    def search(self, queries: Codes, k: int, allow: Allowed | None = None) -> tuple[Distances, Rows]:
        """Nearest allowed rows of each query.

        Args:
            queries: ``[Q, K/8]`` uint8.
            k: Neighbours per query, 1 to ``MAX_K``.
            allow: ``[N]`` bool, mask of the allowed rows, or their numbers as int64, ascending; None for all.

        Returns:
            Distances ``[Q, k']`` int32 and rows ``[Q, k']`` int64 with ``k' = min(k, allowed rows)``, ordered by
            (distance, row).

        Raises:
            UsageError: Shapes or dtypes do not match the index, or ``k`` is below 1.
            LimitExceeded: ``k`` is above ``MAX_K``.
        """
        queries = _checked("queries", queries)
        if queries.shape[1] != self.codes.shape[1]:
            raise UsageError(f"the index holds codes of {self.bits} bits; the queries have {8 * queries.shape[1]}")
        if k < 1:
            raise UsageError(f"k must be at least 1; got {k}")
        if k > MAX_K:
            raise LimitExceeded(f"k must be at most {MAX_K}; got {k}. Narrow the search with filters instead.")
        _check_allowed(allow, len(self))
        k = min(k, allowed_count(allow, len(self)))
        if k == 0 or len(queries) == 0:
            return np.empty((len(queries), k), np.int32), np.empty((len(queries), k), np.int64)
        if self._resident is not None:
            return _search_device(self._resident, queries, k, allow)
        if allow is not None and allow.dtype != np.bool_:
            return _search_selected(self.codes, queries, k, np.asarray(allow, np.int64))
        return _search_blocks(self.codes, queries, k, None if allow is None else np.asarray(allow, np.bool_))


def allowed_count(allow: Allowed | None, rows: int) -> int:
    """Number of rows that a search may find."""
    if allow is None:
        return rows
    return int(np.count_nonzero(allow)) if allow.dtype == np.bool_ else len(allow)


def merge(parts: list[tuple[Distances, Rows]], k: int) -> tuple[Distances, Rows]:
    """First ``k`` results of several searches; equal distances keep the order of the parts."""
    if len(parts) == 1:
        return parts[0]
    distances, rows = (np.concatenate(each, axis=1) for each in zip(*parts, strict=True))
    order = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(distances, order, axis=1), np.take_along_axis(rows, order, axis=1)


def _check_allowed(allow: Allowed | None, rows: int) -> None:
    if allow is None or (allow.dtype == np.bool_ and allow.shape == (rows,)):
        return
    if allow.dtype != np.int64 or allow.ndim != 1:
        raise UsageError(f"expected a filter of {rows} bool values or of row numbers; got {allow.dtype} {allow.shape}")
    if len(allow) and (allow[0] < 0 or allow[-1] >= rows or (np.diff(allow) <= 0).any()):
        raise UsageError(f"row numbers of a filter must ascend from 0 to {rows - 1} at most")


def _checked(what: str, codes: Codes) -> Codes:
    if codes.dtype != np.uint8 or codes.ndim != 2 or not 1 <= codes.shape[1] <= MAX_CODE_BITS // 8:
        limit = MAX_CODE_BITS // 8
        raise UsageError(f"{what} must be uint8 [N, K/8] of 1 to {limit} bytes a row; got {codes.dtype} {codes.shape}")
    return np.ascontiguousarray(codes)


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="search")


def _search_blocks(codes: Codes, queries: Codes, k: int, mask: npt.NDArray[np.bool_] | None) -> tuple[Distances, Rows]:
    """Search of all rows, or of those of a mask, in blocks of rows."""

    def block(start: int) -> tuple[Distances, Rows]:
        at = slice(start, start + _BLOCK_ROWS)
        if mask is None:
            distances, rows = _search_cpu(codes[at], queries, k)
        else:
            distances, rows = _search_selected(codes[at], queries, k, np.flatnonzero(mask[at]))
        return distances, rows + start if start else rows

    starts = range(0, len(codes), _BLOCK_ROWS)
    run: Callable[..., Any] = _threads().map if len(starts) > 1 else map
    return merge(list(run(block, starts)), k)


def _search_selected(codes: Codes, queries: Codes, k: int, selected: Rows) -> tuple[Distances, Rows]:
    # A copy of the allowed codes costs less than a test of each row in the innermost loop (measured at half of
    # 1.1 M rows: 1.0 ms and a scan of 0.7 ms, against 6 ms with the selector of faiss).
    parts = []
    for start in range(0, len(selected), _BLOCK_ROWS):
        some = selected[start : start + _BLOCK_ROWS]
        distances, rows = _search_cpu(codes.take(some, axis=0), queries, k)
        parts.append((distances, some[rows]))
    return merge(parts or [(np.empty((len(queries), 0), np.int32), np.empty((len(queries), 0), np.int64))], k)


def _search_cpu(codes: Codes, queries: Codes, k: int) -> tuple[Distances, Rows]:
    per_query = 8 * k * (8 * codes.shape[1] + 1)  # faiss keeps k row numbers (8 bytes) for each of K + 1 distances
    chunk = int(np.clip(_COUNTING_BYTES // per_query, 1, 128))
    parts = [_scan(codes, queries[i : i + chunk], k) for i in range(0, len(queries), chunk)]
    return np.concatenate([d for d, _ in parts]), np.concatenate([r for _, r in parts])


def _scan(codes: Codes, queries: Codes, k: int) -> tuple[Distances, Rows]:
    import faiss

    # faiss is parallel over queries: threads beyond their number wait at its barrier, on busy cores for a time slice
    # (one query on two busy cores: median 28 ms with two threads, 0.05 ms with one). Parallel Python threads over the
    # codes of one query gained a third on an idle machine (0.9 ms against 1.35 ms at 1.1 M codes of 128 bits) and lost
    # three times that on a busy one, so one query uses one thread.
    # torch shares the thread count of OpenMP: if it stayed changed, torch would sum in another order afterwards.
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(min(len(queries), os.cpu_count() or 1))
    try:
        variant = "hc" if k <= _HEAP_K else "mc"
        distances, rows = faiss.knn_hamming(queries, codes, min(k, len(codes)), variant=variant)
    finally:
        faiss.omp_set_num_threads(before)
    return distances, rows


def _to_device(codes: Codes, device: str) -> torch.Tensor:
    import torch

    return torch.from_numpy(codes).to(device)


def _search_device(codes: torch.Tensor, queries: Codes, k: int, allow: Allowed | None) -> tuple[Distances, Rows]:
    import torch

    from kernels.hamming_topk import hamming_topk

    if allow is not None and allow.dtype != np.bool_:
        numbers, allow = allow, np.zeros(len(codes), dtype=bool)
        allow[numbers] = True
    mask = None if allow is None else torch.from_numpy(allow).to(codes.device)
    distances, rows = hamming_topk(torch.from_numpy(queries).to(codes.device), codes, k, mask)
    return distances.cpu().numpy(), rows.cpu().numpy()
