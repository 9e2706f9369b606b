"""Exact k nearest binary codes in Hamming distance, in the order (distance, row)."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels._runtime import cdiv, require_device, require_dtype, require_shape, through_kernel
from kernels.hamming_topk.launch import launch
from kernels.hamming_topk.reference import NO_DISTANCE, hamming_topk_cpu, hamming_topk_reference
from kernels.pack_bits import pack_bits

__all__ = ["MAX_K", "NO_DISTANCE", "hamming_topk", "hamming_topk_reference", "merge_topk"]

MAX_K = 1024
"""Limit of k: the last sort is inside one program."""
MAX_BITS = 512


def hamming_topk(queries: Tensor, codes: Tensor, k: int, allow: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The k codes of least Hamming distance for every query, ties by lower row.

    Exact and deterministic; the same integers on CPU and GPU. Nothing synchronises with the host, and the workspace
    depends on sizes only, so a call can be captured in a CUDA graph.

    Args:
        queries: uint8 ``[Q, K/8]`` as :func:`kernels.pack_bits.pack_bits` makes them; K a multiple of 8 in 8..512.
        codes: uint8 ``[N, K/8]`` on the same device.
        k: Neighbours wanted, 1..1024.
        allow: bool ``[N]``, or a bitmap uint8 ``[ceil(N/8)]`` (row n is bit ``n % 8`` of byte ``n // 8``). Rows
            whose bit is 0 are never returned.

    Returns:
        ``(distances int32 [Q, k'], rows int64 [Q, k'])`` with ``k' = min(k, N)``. Where fewer than k' rows are allowed,
        the remaining entries have row -1 and distance :data:`NO_DISTANCE`: the host does not know how many are allowed.

    Raises:
        TypeError: Another dtype.
        ValueError: Shapes or devices do not fit, or k or K is out of range.
    """
    require_dtype("hamming_topk(queries)", queries, (torch.uint8,))
    require_dtype("hamming_topk(codes)", codes, (torch.uint8,))
    require_shape("hamming_topk(codes)", codes, (None, None), "[N, K/8]")
    require_shape("hamming_topk(queries)", queries, (None, codes.shape[1]), "[Q, K/8]")
    require_device("hamming_topk(queries)", queries, "codes", codes)
    if not 8 <= codes.shape[1] * 8 <= MAX_BITS:
        raise ValueError(f"hamming_topk(codes): expected 8 to {MAX_BITS} bits a code; got {codes.shape[1] * 8}")
    if not 1 <= k <= MAX_K:
        raise ValueError(f"hamming_topk(k): expected 1 to {MAX_K}; got {k}")
    if allow is not None:
        require_device("hamming_topk(allow)", allow, "codes", codes)
        allow = _as_bitmap(allow, codes.shape[0])
    distances, rows = _hamming_topk(queries, codes, k, allow)
    return distances, rows


def merge_topk(distances: Tensor, rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k nearest codes of all shards of an archive, from the results of each.

    Args:
        distances: int32 ``[S, Q, k']`` of S shards.
        rows: int64 ``[S, Q, k']``, row numbers in the whole archive, below 2**32 (add a shard's first row; leave -1).
        k: Neighbours wanted.

    Returns:
        ``(distances int32 [Q, k''], rows int64 [Q, k''])`` with ``k'' = min(k, S k')``, in the order (distance, row).
    """
    keys = ((distances.long() << 32) | (rows & 0xFFFFFFFF)).transpose(0, 1).flatten(1)
    best = keys.sort(dim=1).values[:, :k]
    merged = (best >> 32).to(torch.int32)
    return merged, (best & 0xFFFFFFFF).masked_fill(merged == NO_DISTANCE, -1)


def _as_bitmap(allow: Tensor, n_codes: int) -> Tensor:
    require_dtype("hamming_topk(allow)", allow, (torch.bool, torch.uint8))
    if allow.dtype == torch.bool:
        require_shape("hamming_topk(allow)", allow, (n_codes,), "[N]")
        padded = torch.nn.functional.pad(allow, (0, -n_codes % 8))
        return pack_bits(padded[None])[0]
    require_shape("hamming_topk(allow)", allow, (cdiv(n_codes, 8),), "[ceil(N/8)]")
    return allow.contiguous()


@torch.library.triton_op("eoforge::hamming_topk", mutates_args={})
def _hamming_topk(queries: Tensor, codes: Tensor, k: int, allow: Tensor | None) -> tuple[Tensor, Tensor]:
    n_queries, found = queries.shape[0], min(k, codes.shape[0])
    distances = torch.empty((n_queries, found), dtype=torch.int32, device=codes.device)
    rows = torch.empty((n_queries, found), dtype=torch.int64, device=codes.device)
    if rows.numel() == 0:
        return distances, rows
    if not through_kernel(codes):
        return hamming_topk_cpu(queries, codes, k, allow)
    launch(queries.contiguous(), codes.contiguous(), allow, distances, rows)
    return distances, rows


@_hamming_topk.register_fake
def _(queries: Tensor, codes: Tensor, k: int, allow: Tensor | None) -> tuple[Tensor, Tensor]:
    shape = (queries.shape[0], min(k, codes.shape[0]))
    return codes.new_empty(shape, dtype=torch.int32), codes.new_empty(shape, dtype=torch.int64)
