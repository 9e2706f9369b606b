"""Exact Hamming search in plain PyTorch: a direct one for tests, and a memory-bounded one for CPU tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.pack_bits.reference import unpack_bits_reference

NO_DISTANCE = 2**31 - 1
"""Distance of an entry without an allowed code (its row is -1)."""
CHUNK_ELEMENTS = 2**21
"""Distances held at once on the CPU: 16 MB of int64."""


def hamming_topk_reference(
    queries: Tensor, codes: Tensor, k: int, allow: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The whole [Q, N] matrix, sorted stably by distance; ``allow`` is bool [N] or None."""
    bits_QK, bits_NK = unpack_bits_reference(queries), unpack_bits_reference(codes)
    distance_QN = (bits_QK[:, None, :] != bits_NK[None, :, :]).sum(-1)
    if allow is not None:
        distance_QN = distance_QN.masked_fill(~allow, NO_DISTANCE)
    distance_QN, row_QN = distance_QN.sort(dim=1, stable=True)
    distance, row = distance_QN[:, :k].to(torch.int32), row_QN[:, :k]
    return distance, row.masked_fill(distance == NO_DISTANCE, -1)


def hamming_topk_cpu(queries: Tensor, codes: Tensor, k: int, allow: Tensor | None) -> tuple[Tensor, Tensor]:
    """The same order from chunks of the archive, with ``allow`` a uint8 bitmap [ceil(N/8)] or None."""
    n_queries, n_codes = queries.shape[0], codes.shape[0]
    chunk = max(CHUNK_ELEMENTS // max(n_queries, 1), 1)
    words_q = _words(queries)
    best = torch.empty((n_queries, 0), dtype=torch.int64)
    for start in range(0, n_codes, chunk):
        rows = torch.arange(start, min(start + chunk, n_codes))
        words_n = _words(codes[start : start + chunk])
        distance = torch.zeros((n_queries, len(rows)), dtype=torch.int64)
        for word in range(words_q.shape[1]):
            distance += _popcount(words_q[:, word, None] ^ words_n[None, :, word])
        if allow is not None:
            allowed = (allow[rows >> 3] >> (rows & 7).to(torch.uint8)) & 1
            distance.masked_fill_(allowed == 0, NO_DISTANCE)
        # Distance and row in one integer: keys are distinct, so the order is unique.
        keys = torch.cat([best, (distance << 32) | rows], dim=1)
        best = keys.topk(min(k, keys.shape[1]), dim=1, largest=False, sorted=False).values
    best = best.sort(dim=1).values
    distance = (best >> 32).to(torch.int32)
    return distance, (best & 0xFFFFFFFF).masked_fill(distance == NO_DISTANCE, -1)


def _words(codes: Tensor) -> Tensor:
    """uint8 [N, K/8] as int64 [N, ceil(K/64)], padded with zeros."""
    padded = torch.nn.functional.pad(codes, (0, -codes.shape[1] % 8))
    return padded.contiguous().view(torch.int64)


def _popcount(v: Tensor) -> Tensor:
    """Set bits of int64 lanes (the masks clear sign bits of the arithmetic shifts)."""
    v = v - ((v >> 1) & 0x5555555555555555)
    v = (v & 0x3333333333333333) + ((v >> 2) & 0x3333333333333333)
    v = (v + (v >> 4)) & 0x0F0F0F0F0F0F0F0F
    return ((v * 0x0101010101010101) >> 56) & 0xFF
