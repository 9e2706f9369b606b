# No `from __future__ import annotations` here: the interpreter does not recognise `tl.constexpr` spelled as a string.
"""Triton kernel: counter-based random masks for one or two sensors."""

import torch
import triton
import triton.language as tl

from kernels._runtime import wrap_triton


@triton.jit
def noise_keys(seed, step, sample, token, stream, TOKENS: tl.constexpr):
    """int32 [rows, L]: 23 noise bits << 8 | token, in token order; padding tokens have the greatest key."""
    zero = sample[:, None] * 0 + token[None, :] * 0
    c0 = (token[None, :] + zero).to(tl.uint32)
    c1 = (sample[:, None] + zero).to(tl.uint32)
    c2 = (zero + stream).to(tl.uint32)
    c3 = (zero + step).to(tl.uint32)
    noise, _, _, _ = tl.philox(seed, c0, c1, c2, c3)
    key = ((noise >> 9).to(tl.int32) << 8) | token[None, :]
    return tl.where((token < TOKENS)[None, :], key, 0x7FFFFFFF)


@triton.jit
def store_mask(
    key, in_order, ids_ptr, ranks_ptr, bits_ptr, sample, place, inside, KEEP: tl.constexpr, TURNED: tl.constexpr,
    TOKENS: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Stores one permutation, TURNED backwards: tokens in order, the rank of every token, a bit for every visible one.

    The rank of a token is where it stands, so it is stored from there; whether it is visible follows from its key and
    the last visible one. Neither needs the inverse permutation in registers.
    """
    real = inside[:, None] & (place < TOKENS)[None, :]
    row = sample[:, None].to(tl.int64) * TOKENS
    token = in_order & 0xFF
    rank = (TOKENS - 1 - place if TURNED else place)[None, :]
    tl.store(ids_ptr + row + rank, token.to(tl.uint8), mask=real)
    tl.store(ranks_ptr + row + token, (rank + token * 0).to(tl.uint8), mask=real)
    FIRST: tl.constexpr = TOKENS - KEEP if TURNED else KEEP
    bound = tl.max(tl.where((place < FIRST)[None, :], in_order, -1), axis=1)[:, None]
    visible = ((key > bound) if TURNED else (key <= bound)) & (place < TOKENS)[None, :]
    eights = tl.reshape(visible.to(tl.int32), (ROWS, BLOCK // 8, 8))
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
    key = noise_keys(seed, step, sample, place, 0, TOKENS)
    in_order = tl.sort(key, dim=1)
    store_mask(
        key, in_order, ids_a_ptr, ranks_a_ptr, bits_a_ptr, sample, place, inside, KEEP_A, False, TOKENS, BLOCK, ROWS
    )
    if MODE == 2:
        key = noise_keys(seed, step, sample, place, 1, TOKENS)
        in_order = tl.sort(key, dim=1)
    if MODE != 0:
        store_mask(
            key, in_order, ids_b_ptr, ranks_b_ptr, bits_b_ptr, sample, place, inside, KEEP_B, MODE == 1, TOKENS, BLOCK,
            ROWS,
        )  # fmt: skip


def shape_of(tokens: int) -> dict[str, int]:
    """Samples a program, the padded row and warps: four keys a thread, which also bounds the code of the sort."""
    block = max(triton.next_power_of_2(tokens), 16)
    return {"BLOCK": block, "ROWS": max(128 // block, 1), "num_warps": max(block // 128, 1)}


def launch_random_mask(
    state: torch.Tensor, a: list[torch.Tensor], b: list[torch.Tensor], keep: tuple[int, int], mode: int
) -> None:
    """Fills ``a`` and (modes 1, 2) ``b``: ids uint8 [B, L], ranks uint8 [B, L], bits uint8 [B, ceil(L/8)]."""
    samples, tokens = a[0].shape
    if samples == 0:
        return
    shape = shape_of(tokens)
    with torch.cuda.device_of(state):
        wrap_triton(random_mask_kernel)[(triton.cdiv(samples, shape["ROWS"]),)](
            state, *a, *b, samples, TOKENS=tokens, KEEP_A=keep[0], KEEP_B=keep[1], MODE=mode, **shape
        )
