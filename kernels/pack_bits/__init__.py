"""Packing of signs into binary codes, eight bits per byte, and unpacking."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels._runtime import FLOATS, require_dtype, require_shape, through_kernel
from kernels.pack_bits.kernel import launch_pack, launch_unpack
from kernels.pack_bits.reference import pack_bits_reference, unpack_bits_reference

__all__ = ["pack_bits", "pack_bits_reference", "unpack_bits", "unpack_bits_reference"]

PACKABLE = (*FLOATS, torch.float64, torch.int8, torch.bool)


def pack_bits(x: Tensor) -> Tensor:
    """Codes of the signs of ``x``: bit k of a row is 1 exactly where ``x[n, k] > 0``.

    Zero, negative zero and NaN give 0, on every device. Bit k is bit ``k % 8`` of byte ``k // 8``, so the result equals
    ``np.packbits(x > 0, axis=1, bitorder="little")``. No gradient flows (the sign has none).

    Args:
        x: ``[N, K]``, K a multiple of 8; float32/16/64, bfloat16, int8 or bool. Made contiguous if it is not.

    Returns:
        uint8 ``[N, K/8]``.

    Raises:
        TypeError: Another dtype.
        ValueError: Not a matrix, or K is not a multiple of 8.
    """
    require_dtype("pack_bits(x)", x, PACKABLE)
    require_shape("pack_bits(x)", x, (None, None), "[N, K]")
    if x.shape[1] % 8:
        raise ValueError(f"pack_bits(x): expected K to be a multiple of 8; got K = {x.shape[1]}: pad with zeros")
    packed: Tensor = _pack_bits(x.detach())
    return packed


def unpack_bits(codes: Tensor) -> Tensor:
    """Bits of codes as zeros and ones; the inverse of :func:`pack_bits` on 0/1 input.

    Args:
        codes: uint8 ``[N, K/8]``.

    Returns:
        uint8 ``[N, K]``.

    Raises:
        TypeError: Another dtype.
        ValueError: Not a matrix.
    """
    require_dtype("unpack_bits(codes)", codes, (torch.uint8,))
    require_shape("unpack_bits(codes)", codes, (None, None), "[N, K/8]")
    bits: Tensor = _unpack_bits(codes)
    return bits


@torch.library.triton_op("eoforge::pack_bits", mutates_args={})
def _pack_bits(x: Tensor) -> Tensor:
    if not through_kernel(x):
        return pack_bits_reference(x)
    out = torch.empty((x.shape[0], x.shape[1] // 8), dtype=torch.uint8, device=x.device)
    x = x.contiguous()
    launch_pack(x.view(torch.uint8) if x.dtype == torch.bool else x, out)
    return out


@torch.library.triton_op("eoforge::unpack_bits", mutates_args={})
def _unpack_bits(codes: Tensor) -> Tensor:
    if not through_kernel(codes):
        return unpack_bits_reference(codes)
    out = torch.empty((codes.shape[0], codes.shape[1] * 8), dtype=torch.uint8, device=codes.device)
    launch_unpack(codes.contiguous(), out)
    return out


@_pack_bits.register_fake
def _(x: Tensor) -> Tensor:
    return x.new_empty((x.shape[0], x.shape[1] // 8), dtype=torch.uint8)


@_unpack_bits.register_fake
def _(codes: Tensor) -> Tensor:
    return codes.new_empty((codes.shape[0], codes.shape[1] * 8))
