"""Exact search by Hamming distance, with results in the order (distance, row).

Codes of K bits have only K + 1 distances, so most ranks are ties; any order among ties other than by row would make
results depend on the library, the thread count or the batch size. On the CPU, faiss's counting search collects rows per
distance in scan order, which is this order, and its heaps compare (distance, row); on CUDA the kernel ``hamming_topk``
has the same order.
A filter selects rows before the search, so that filtered results are exact as well.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from eoforge.errors import LimitExceeded, UsageError
from eoforge.hashing.lengths import MAX_CODE_BITS

if TYPE_CHECKING:
    import torch

Codes = npt.NDArray[np.uint8]
Distances = npt.NDArray[np.int32]
Rows = npt.NDArray[np.int64]

MAX_K = 1_000
"""Limit of neighbours per query; the memory of the counting search per query grows with k times K."""

_HEAP_K = 128
"""Most neighbours that a heap finds faster than counting. In 1.1 million codes of 64, 128 and 256 bits, with k = 100 it
took 1.00, 0.82 and 0.66 of the time of counting (CPU time, one thread); with k = 1,000 it took 1.42, 1.18 and 0.93."""
_COUNTING_BYTES = 64 << 20  # working memory of one chunk of queries


class HammingIndex:
    """Index of packed codes in memory, searched exactly.

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

    def search(self, queries: Codes, k: int, allow: npt.NDArray[np.bool_] | None = None) -> tuple[Distances, Rows]:
        """Nearest allowed rows of each query.

        Args:
            queries: ``[Q, K/8]`` uint8.
            k: Neighbours per query, 1 to ``MAX_K``.
            allow: ``[N]`` bool, mask of the allowed rows; None for all.

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
        if allow is not None and (allow.dtype != np.bool_ or allow.shape != (len(self),)):
            raise UsageError(f"expected a filter of {len(self)} bool values; got {allow.dtype} {allow.shape}")
        k = min(k, len(self) if allow is None else int(np.count_nonzero(allow)))
        if k == 0 or len(queries) == 0:
            return np.empty((len(queries), k), np.int32), np.empty((len(queries), k), np.int64)
        if self._resident is not None:
            return _search_device(self._resident, queries, k, allow)
        if allow is None:
            return _search_cpu(self.codes, queries, k)
        # A copy of the allowed codes costs less than a test of each row in the innermost loop (measured at half of
        # 1.1 M rows: 1.0 ms and a scan of 0.7 ms, against 6 ms with the selector of faiss).
        selected = np.flatnonzero(allow)
        distances, rows = _search_cpu(self.codes.take(selected, axis=0), queries, k)
        return distances, selected[rows]


def _checked(what: str, codes: Codes) -> Codes:
    if codes.dtype != np.uint8 or codes.ndim != 2 or not 1 <= codes.shape[1] <= MAX_CODE_BITS // 8:
        limit = MAX_CODE_BITS // 8
        raise UsageError(f"{what} must be uint8 [N, K/8] of 1 to {limit} bytes a row; got {codes.dtype} {codes.shape}")
    return np.ascontiguousarray(codes)


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


def _search_device(
    codes: torch.Tensor, queries: Codes, k: int, allow: npt.NDArray[np.bool_] | None
) -> tuple[Distances, Rows]:
    import torch

    from kernels.hamming_topk import hamming_topk

    mask = None if allow is None else torch.from_numpy(allow).to(codes.device)
    distances, rows = hamming_topk(torch.from_numpy(queries).to(codes.device), codes, k, mask)
    return distances.cpu().numpy(), rows.cpu().numpy()
