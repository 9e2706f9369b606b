# No `from __future__ import annotations` here: the interpreter does not recognise `tl.constexpr` spelled as a string.
"""Triton kernel: counter-based random masks for one or two sensors."""

import torch
import triton
import triton.language as tl

from kernels._runtime import wrap_triton

ROWS = 4  # samples a program: a permutation of 64 tokens alone would leave a warp idle most of the time


@triton.jit
def sorted_noise(seed, step, sample, token, stream, TOKENS: tl.constexpr):
    """int32 [rows, L]: (23 noise bits << 8 | token) in ascending order; padding tokens sort last."""
    zero = sample[:, None] * 0 + token[None, :] * 0
    c0 = (token[None, :] + zero).to(tl.uint32)
    c1 = (sample[:, None] + zero).to(tl.uint32)
    c2 = (zero + stream).to(tl.uint32)
    c3 = (zero + step).to(tl.uint32)
    noise, _, _, _ = tl.philox(seed, c0, c1, c2, c3)
    key = ((noise >> 9).to(tl.int32) << 8) | token[None, :]
    return tl.sort(tl.where((token < TOKENS)[None, :], key, 0x7FFFFFFF), dim=1)


@triton.jit
def store_mask(
    order, ids_ptr, ranks_ptr, bits_ptr, sample, place, inside, KEEP: tl.constexpr, TOKENS: tl.constexpr,
    BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Stores one permutation: tokens in order, the rank of every token, and a bit for every visible token."""
    real = inside[:, None] & (place < TOKENS)[None, :]
    tl.store(ids_ptr + sample[:, None].to(tl.int64) * TOKENS + place[None, :], order.to(tl.uint8), mask=real)
    # Sorting (token, place) by token turns the permutation into its inverse without a trip through memory.
    inverse = tl.sort(tl.where((place < TOKENS)[None, :], (order << 8) | place[None, :], 0x7FFFFFFF), dim=1)
    rank = inverse & 0xFF
    tl.store(ranks_ptr + sample[:, None].to(tl.int64) * TOKENS + place[None, :], rank.to(tl.uint8), mask=real)
    visible = ((rank < KEEP) & (place < TOKENS)[None, :]).to(tl.int32)
    eights = tl.reshape(visible, (ROWS, BLOCK // 8, 8))
    packed = tl.sum(eights << tl.arange(0, 8)[None, None, :], axis=2)
    byte = tl.arange(0, BLOCK // 8)
    n_bytes: tl.constexpr = (TOKENS + 7) // 8
    pointers = bits_ptr + sample[:, None].to(tl.int64) * n_bytes + byte[None, :]
    tl.store(pointers, packed.to(tl.uint8), mask=inside[:, None] & (byte < n_bytes)[None, :])


@triton.jit(do_not_specialize=["n_samples"])
def random_mask_kernel(
    state_ptr, ids_a_ptr, ranks_a_ptr, bits_a_ptr, ids_b_ptr, ranks_b_ptr, bits_b_ptr, n_samples,
    TOKENS: tl.constexpr, KEEP_A: tl.constexpr, KEEP_B: tl.constexpr, MODE: tl.constexpr, BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
):  # fmt: skip
    """Masks of ROWS samples; MODE 0: one sensor, 1: the second reversed (disjoint), 2: the second independent."""
    seed = tl.load(state_ptr)
    step = tl.load(state_ptr + 1).to(tl.int32)
    sample = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = sample < n_samples
    place = tl.arange(0, BLOCK)
    order = sorted_noise(seed, step, sample, place, 0, TOKENS) & 0xFF
    store_mask(order, ids_a_ptr, ranks_a_ptr, bits_a_ptr, sample, place, inside, KEEP_A, TOKENS, BLOCK, ROWS)
    if MODE == 1:
        # Sorting by descending place reverses the order; padding (which sorted last) must stay last.
        turned = tl.where((place < TOKENS)[None, :], ((TOKENS - 1 - place)[None, :] << 8) | order, 0x7FFFFFFF)
        order = tl.sort(turned, dim=1) & 0xFF
        store_mask(order, ids_b_ptr, ranks_b_ptr, bits_b_ptr, sample, place, inside, KEEP_B, TOKENS, BLOCK, ROWS)
    if MODE == 2:
        order = sorted_noise(seed, step, sample, place, 1, TOKENS) & 0xFF
        store_mask(order, ids_b_ptr, ranks_b_ptr, bits_b_ptr, sample, place, inside, KEEP_B, TOKENS, BLOCK, ROWS)


def launch_random_mask(
    state: torch.Tensor, a: list[torch.Tensor], b: list[torch.Tensor], keep: tuple[int, int], mode: int
) -> None:
    """Fills ``a`` and (modes 1, 2) ``b``: ids uint8 [B, L], ranks uint8 [B, L], bits uint8 [B, ceil(L/8)]."""
    samples, tokens = a[0].shape
    if samples == 0:
        return
    block = max(triton.next_power_of_2(tokens), 16)
    with torch.cuda.device_of(state):
        wrap_triton(random_mask_kernel)[(triton.cdiv(samples, ROWS),)](
            state, *a, *b, samples,
            TOKENS=tokens, KEEP_A=keep[0], KEEP_B=keep[1], MODE=mode, BLOCK=block, ROWS=ROWS,
            num_warps=1 if block <= 64 else 4,
        )  # fmt: skip
