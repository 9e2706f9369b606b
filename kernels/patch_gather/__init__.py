"""Gather of visible patches from native-grid bands, with upsampling, normalisation and flips in one pass."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kernels._runtime import FLOATS, through_kernel, wrap_triton
from kernels.patch_gather.kernel import patch_gather_kernel
from kernels.patch_gather.reference import patch_gather_reference
from kernels.patch_gather.sources import ChannelTable, check_sources, kernel_shape, three_pointers

__all__ = ["ChannelTable", "patch_gather", "patch_gather_reference"]


def patch_gather(
    sources: Sequence[Tensor],
    ids: Tensor,
    table: ChannelTable,
    *,
    size: int,
    patch: int,
    flip: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    pixel_major: bool = False,
) -> Tensor:
    """Tokens ``ids`` of images whose bands are on up to three grids.

    Every output channel is ``(value - mean) / std`` of one channel of one source; a source with side S counts as
    upsampled to ``size`` by repeating pixels (nearest). Only pixels of kept tokens are read. No gradient flows.

    Args:
        sources: One to three tensors ``[B, C_i, S_i, S_i]`` of one dtype (uint16, float32, bfloat16, float16).
        ids: uint8 ``[B, M]``, tokens to keep, row by row of the patch grid, each below ``(size / patch)**2`` (not
            checked: the values are on the device). A view of wider rows, such as ``Mask.visible``, is read in place.
        table: Which channel comes from where, and its normalisation.
        size: Side of the images after upsampling, in pixels.
        patch: Side of a patch in pixels; ``(size / patch)**2 <= 256``.
        flip: uint8 ``[B]``: bit 0 mirrors left-right, bit 1 top-bottom, before cutting.
        dtype: float32, bfloat16 or float16 of the result.
        pixel_major: Vectors in the order (p, q, c), as MAE heads use, instead of (c, p, q), as convolutions do.

    Returns:
        ``[B, M, C * patch * patch]``, the left operand of the embedding GEMM.

    Raises:
        TypeError: A dtype is wrong.
        ValueError: Shapes, sizes or devices do not fit.
    """
    if dtype not in FLOATS:
        raise TypeError(f"patch_gather(dtype): expected float32, bfloat16 or float16; got {dtype}")
    check_sources("patch_gather", sources, ids, table, flip, size, patch)
    out: Tensor = _patch_gather(list(sources), ids, table.where, table.norm, flip, size, patch, dtype, pixel_major)
    return out


@torch.library.triton_op("eoforge::patch_gather", mutates_args={})
def _patch_gather(
    sources: list[Tensor],
    ids: Tensor,
    where: Tensor,
    norm: Tensor,
    flip: Tensor | None,
    size: int,
    patch: int,
    dtype: torch.dtype,
    pixel_major: bool,
) -> Tensor:
    if not through_kernel(ids):
        return patch_gather_reference(sources, ids, where, norm, flip, size, patch, pixel_major).to(dtype)
    (batch, n_tokens), channels = ids.shape, where.shape[0]
    out = torch.empty((batch, n_tokens, channels * patch * patch), dtype=dtype, device=ids.device)
    if out.numel() == 0:
        return out
    ids = ids if ids.stride(1) == 1 else ids.contiguous()
    shape = kernel_shape(sources, channels, size, patch, flip is not None)
    with torch.cuda.device_of(ids):  # type: ignore[no-untyped-call]  # torch leaves its __init__ untyped
        wrap_triton(patch_gather_kernel)[(batch, n_tokens)](
            *three_pointers(sources), where.contiguous(), norm.contiguous(), ids if flip is None else flip, ids, out,
            n_tokens, ids.stride(0), **shape, PIXEL_MAJOR=pixel_major,
        )  # fmt: skip
    return out


@_patch_gather.register_fake
def _(
    sources: list[Tensor],
    ids: Tensor,
    where: Tensor,
    norm: Tensor,
    flip: Tensor | None,
    size: int,
    patch: int,
    dtype: torch.dtype,
    pixel_major: bool,
) -> Tensor:
    return norm.new_empty((*ids.shape, where.shape[0] * patch * patch), dtype=dtype)
