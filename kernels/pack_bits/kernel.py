# No `from __future__ import annotations` here: the interpreter does not recognise `tl.constexpr` spelled as a string.
"""Triton kernels: sign and pack, and unpack."""

import torch
import triton
import triton.language as tl

from kernels._runtime import wrap_triton

PACK_BLOCK = 1024  # bytes of output a program writes: 64 elements a thread, four 128-bit loads in flight
UNPACK_BLOCK = 1024


@triton.jit(do_not_specialize=["n_bytes"])
def pack_kernel(x_ptr, out_ptr, n_bytes, BLOCK: tl.constexpr):
    """out[j] = sum over i < 8 of (x[8 j + i] > 0) << i, over a flat array."""
    byte = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    bit = tl.arange(0, 8)
    inside = byte < n_bytes
    x = tl.load(x_ptr + byte[:, None] * 8 + bit[None, :], mask=inside[:, None], other=0)
    packed = tl.sum((x > 0).to(tl.int32) << bit[None, :], axis=1)
    tl.store(out_ptr + byte, packed.to(tl.uint8), mask=inside)


@triton.jit(do_not_specialize=["n_bytes"])
def unpack_kernel(codes_ptr, out_ptr, n_bytes, BLOCK: tl.constexpr):
    """out[8 j + i] = (codes[j] >> i) & 1, over a flat array."""
    byte = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    bit = tl.arange(0, 8)
    inside = byte < n_bytes
    codes = tl.load(codes_ptr + byte, mask=inside, other=0).to(tl.int32)
    bits = (codes[:, None] >> bit[None, :]) & 1
    tl.store(out_ptr + byte[:, None] * 8 + bit[None, :], bits.to(tl.uint8), mask=inside[:, None])


def launch_pack(x: torch.Tensor, out: torch.Tensor) -> None:
    """Fills ``out`` uint8 [..., K/8] from contiguous ``x`` [..., K]."""
    n_bytes = out.numel()
    if n_bytes == 0:
        return
    with torch.cuda.device_of(x):
        wrap_triton(pack_kernel)[(triton.cdiv(n_bytes, PACK_BLOCK),)](x, out, n_bytes, BLOCK=PACK_BLOCK, num_warps=4)


def launch_unpack(codes: torch.Tensor, out: torch.Tensor) -> None:
    """Fills ``out`` uint8 [..., K] from contiguous ``codes`` [..., K/8]."""
    n_bytes = codes.numel()
    if n_bytes == 0:
        return
    with torch.cuda.device_of(codes):
        wrap_triton(unpack_kernel)[(triton.cdiv(n_bytes, UNPACK_BLOCK),)](
            codes, out, n_bytes, BLOCK=UNPACK_BLOCK, num_warps=4
        )
