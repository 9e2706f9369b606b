"""Counter-based random masks in plain PyTorch: Philox-4x32-10, then a stable sort."""

from __future__ import annotations

import torch
from torch import Tensor

WORD = 0xFFFFFFFF


def philox(seed: Tensor, counters: tuple[Tensor, Tensor, Tensor, Tensor]) -> Tensor:
    """First word of Philox-4x32-10 (Salmon et al., SC 2011), in int64 arithmetic modulo 2**64.

    Args:
        seed: int64 scalar tensor; low and high half are the key.
        counters: Four broadcastable int64 tensors in 0..2**32-1.

    Returns:
        int64 tensor of values in 0..2**32-1.
    """
    c0, c1, c2, c3 = counters
    k0, k1 = seed & WORD, (seed >> 32) & WORD
    for _ in range(10):
        product_a, product_b = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        high_a, high_b = (product_a >> 32) & WORD, (product_b >> 32) & WORD
        c0, c1, c2, c3 = high_b ^ c1 ^ k0, product_b & WORD, high_a ^ c3 ^ k1, product_a & WORD
        k0, k1 = (k0 + 0x9E3779B9) & WORD, (k1 + 0xBB67AE85) & WORD
    return c0


def permutations(state: Tensor, batch: int, tokens: int, stream: int) -> Tensor:
    """int64 [B, L]: tokens of every sample in the order of their noise (23 bits; ties by token)."""
    token = torch.arange(tokens, device=state.device)
    sample = torch.arange(batch, device=state.device)[:, None]
    zero = torch.zeros_like(sample + token)
    noise = philox(state[0], (token + zero, sample + zero, zero + stream, zero + (state[1] & WORD)))
    return (noise >> 9).sort(dim=1, stable=True).indices


def describe(order: Tensor, keep: int) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, ranks and bit mask (all uint8) of permutations ``order`` [B, L] of which the first ``keep`` are visible."""
    batch, tokens = order.shape
    ranks = order.argsort(dim=1)
    visible = torch.nn.functional.pad(ranks < keep, (0, -tokens % 8))
    bits = (visible.reshape(batch, (tokens + 7) // 8, 8) * 2 ** torch.arange(8, device=order.device)).sum(-1)
    return order.to(torch.uint8), ranks.to(torch.uint8), bits.to(torch.uint8)


def random_mask_reference(state: Tensor, batch: int, tokens: int, keep_a: int, keep_b: int, mode: str) -> list[Tensor]:
    """Both sensors' ids, ranks and bits, by the definition."""
    order_a = permutations(state, batch, tokens, 0)
    orders_b = {"identical": order_a, "disjoint": order_a.flip(1)}
    order_b = orders_b[mode] if mode in orders_b else permutations(state, batch, tokens, 1)
    return [*describe(order_a, keep_a), *describe(order_b, keep_b)]
