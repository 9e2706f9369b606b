# No `from __future__ import annotations` here: the interpreter does not recognise `tl.constexpr` spelled as a string.
"""Triton kernel: pixels of chosen patches, read in place from native grids.

``load_patch`` is also the target of ``masked_mse``.
"""

import triton
import triton.language as tl


@triton.jit
def load_source(
    ptr, sample, channel, y, x, mask, CHANNELS: tl.constexpr, SIDE: tl.constexpr, SIZE: tl.constexpr
):  # fmt: skip
    """float32 pixels of one source [B, CHANNELS, SIDE, SIDE] at places of the SIZE x SIZE grid (nearest)."""
    factor: tl.constexpr = SIZE // SIDE
    row = (sample * CHANNELS + channel)[:, None] * SIDE + y // factor
    return tl.load(ptr + row * SIDE + x // factor, mask=mask, other=0).to(tl.float32)


@triton.jit
def load_patch(
    s0_ptr, s1_ptr, s2_ptr, where_ptr, norm_ptr, flip_ptr, sample, token,
    C0: tl.constexpr, N0: tl.constexpr, C1: tl.constexpr, N1: tl.constexpr, C2: tl.constexpr, N2: tl.constexpr,
    SIZE: tl.constexpr, PATCH: tl.constexpr, CHANNELS: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
    FLIPPED: tl.constexpr,
):  # fmt: skip
    """One token as float32 [BLOCK_C, BLOCK_P]: upsample, flip, cut, normalise; and the mask of real elements.

    ``where_ptr`` int32 [C, 2] = (source, channel in it), ``norm_ptr`` float32 [C, 2] = (mean, 1 / std). The tables
    are read once a channel, not once an element.
    """
    c = tl.arange(0, BLOCK_C)
    pixel = tl.arange(0, BLOCK_P)
    real_c = c < CHANNELS
    real = real_c[:, None] & (pixel < PATCH * PATCH)[None, :]
    source = tl.load(where_ptr + 2 * c, mask=real_c, other=0)
    channel = tl.load(where_ptr + 2 * c + 1, mask=real_c, other=0)
    mean = tl.load(norm_ptr + 2 * c, mask=real_c, other=0.0)
    scale = tl.load(norm_ptr + 2 * c + 1, mask=real_c, other=0.0)
    across: tl.constexpr = SIZE // PATCH
    y = (token // across) * PATCH + pixel // PATCH
    x = (token % across) * PATCH + pixel % PATCH
    if FLIPPED:
        flip = tl.load(flip_ptr + sample).to(tl.int32)
        x = tl.where((flip & 1) != 0, SIZE - 1 - x, x)
        y = tl.where((flip & 2) != 0, SIZE - 1 - y, y)
    y = y[None, :]
    x = x[None, :]
    values = load_source(s0_ptr, sample, channel, y, x, real & (source == 0)[:, None], C0, N0, SIZE)
    if C1 > 0:
        values += load_source(s1_ptr, sample, channel, y, x, real & (source == 1)[:, None], C1, N1, SIZE)
    if C2 > 0:
        values += load_source(s2_ptr, sample, channel, y, x, real & (source == 2)[:, None], C2, N2, SIZE)
    return (values - mean[:, None]) * scale[:, None], real


@triton.jit
def element_index(BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr, CHANNELS: tl.constexpr, PATCH: tl.constexpr,
                  PIXEL_MAJOR: tl.constexpr):  # fmt: skip
    """Place of every element in the token's vector: (c, p, q) as convolutions flatten, or (p, q, c) as MAE heads do."""
    c = tl.arange(0, BLOCK_C)[:, None]
    pixel = tl.arange(0, BLOCK_P)[None, :]
    return pixel * CHANNELS + c if PIXEL_MAJOR else c * (PATCH * PATCH) + pixel


@triton.jit(do_not_specialize=["n_tokens", "ids_stride"])
def patch_gather_kernel(
    s0_ptr, s1_ptr, s2_ptr, where_ptr, norm_ptr, flip_ptr, ids_ptr, out_ptr, n_tokens, ids_stride,
    C0: tl.constexpr, N0: tl.constexpr, C1: tl.constexpr, N1: tl.constexpr, C2: tl.constexpr, N2: tl.constexpr,
    SIZE: tl.constexpr, PATCH: tl.constexpr, CHANNELS: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
    FLIPPED: tl.constexpr, PIXEL_MAJOR: tl.constexpr,
):  # fmt: skip
    """out[b, m] = the normalised patch ids[b, m] of sample b: one program a token."""
    sample = tl.program_id(0).to(tl.int64)
    slot = tl.program_id(1)
    token = tl.load(ids_ptr + sample * ids_stride + slot).to(tl.int32)
    values, real = load_patch(
        s0_ptr, s1_ptr, s2_ptr, where_ptr, norm_ptr, flip_ptr, sample, token,
        C0, N0, C1, N1, C2, N2, SIZE, PATCH, CHANNELS, BLOCK_C, BLOCK_P, FLIPPED,
    )  # fmt: skip
    element = element_index(BLOCK_C, BLOCK_P, CHANNELS, PATCH, PIXEL_MAJOR)
    base = out_ptr + (sample * n_tokens + slot) * (CHANNELS * PATCH * PATCH)
    tl.store(base + element, values.to(out_ptr.dtype.element_ty), mask=real)
