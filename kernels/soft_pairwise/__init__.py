"""Soft pairwise similarity losses of hash outputs, in the batch or against a memory bank, without a matrix of pairs."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from kernels._runtime import (
    FLOATS,
    INTERPRETED,
    cdiv,
    full_precision,
    next_power_of_2,
    require_device,
    require_dtype,
    require_shape,
    through_kernel,
    wrap_triton,
)
from kernels.nt_xent import inverse_norms, tiles
from kernels.soft_pairwise.kernel import soft_pairwise_kernel
from kernels.soft_pairwise.reference import (
    label_similarity_reference,
    pairwise_reference,
    soft_pairwise_reference,
    sums_by_parts,
)

__all__ = ["Form", "label_similarity_reference", "pairwise_reference", "soft_pairwise", "soft_pairwise_reference"]

Form = Literal["corrected", "published", "cosine"]
FORMS: tuple[Form, ...] = get_args(Form)
ALPHA, GAMMA = 0.5, 0.1
MAX_BITS = 512
WHOLE_BITS = 128
HOPPER = 9
PROGRAMS = 132
"""Lower limit of programs; for few rows and a long bank, the bank is split into parts."""
MAX_PARTS = 64
MIN_SPAN = 4
"""Lower limit of tiles of others in a part."""


def soft_pairwise(
    codes: Tensor,
    masks: Tensor,
    bank: Tensor | None = None,
    bank_masks: Tensor | None = None,
    *,
    form: Form = "corrected",
    alpha: float = ALPHA,
    gamma: float = GAMMA,
) -> Tensor:
    """Pairwise loss of codes whose target similarities are those of label sets, mean over all pairs.

    Label similarity ``s_ij = |y_i & y_j| / sqrt(|y_i| |y_j|)``, 0 for a row without labels; ``t_ij = <u_i, u_j>``,
    ``Theta = alpha t``:

    - hard pairs (s = 0 or 1): ``log(1 + e^-|Theta|) + max(Theta, 0) - s Theta``;
    - soft pairs: "corrected" ``gamma (t + K - 2 s K)^2``, "published" ``gamma (Theta + K - 2 s K)^2``;
    - "cosine", for every pair: ``(cos(u_i, u_j) - s_ij)^2``.

    Without a bank the pairs are all B x B of the batch, each row with itself included, and both have gradients. With
    a bank they are B x N, and it has none. Memory is O(B K), also in the backward pass.

    Args:
        codes: Outputs u ``[B, K]``, K a multiple of 8 up to 512; float32, bfloat16 or float16.
        masks: Labels ``[B]``, int32 or int64; bits 0 to 31 count.
        bank: Earlier outputs ``[N, K]`` of the same dtype, or None.
        bank_masks: Their labels ``[N]``; given exactly if ``bank`` is.
        form: One of the three.
        alpha: Scale of Theta.
        gamma: Weight of soft pairs.

    Returns:
        float32 scalar; 0 if there are no pairs.

    Raises:
        TypeError: A dtype is wrong.
        ValueError: Shapes or devices do not fit, K is out of range, or the form is unknown.
    """
    require_dtype("soft_pairwise(codes)", codes, FLOATS)
    require_shape("soft_pairwise(codes)", codes, (None, None), "[B, K]")
    if codes.shape[1] % 8 or not 8 <= codes.shape[1] <= MAX_BITS:
        raise ValueError(f"soft_pairwise: expected K to be a multiple of 8 up to {MAX_BITS}; got K = {codes.shape[1]}")
    if form not in FORMS:
        raise ValueError(f"soft_pairwise(form): expected one of {', '.join(FORMS)}; got {form!r}")
    if (bank is None) != (bank_masks is None):
        raise ValueError("soft_pairwise: expected both bank and bank_masks, or neither; got one")
    _check_masks("masks", masks, codes)
    if bank is not None and bank_masks is not None:
        require_dtype("soft_pairwise(bank)", bank, (codes.dtype,))
        require_shape("soft_pairwise(bank)", bank, (None, codes.shape[1]), "[N, K]")
        require_device("soft_pairwise(bank)", bank, "codes", codes)
        _check_masks("bank_masks", bank_masks, bank)
        bank = bank.detach()
    loss: Tensor = _soft_pairwise(codes, masks, bank, bank_masks, form, alpha, gamma)[0]
    return loss


def _check_masks(name: str, masks: Tensor, codes: Tensor) -> None:
    require_dtype(f"soft_pairwise({name})", masks, (torch.int32, torch.int64))
    require_shape(f"soft_pairwise({name})", masks, (codes.shape[0],), "one a row")
    require_device(f"soft_pairwise({name})", masks, "codes", codes)


def tiling(bits: int, dtype: torch.dtype, form: str, hopper: bool) -> dict[str, Any]:
    """Tiles, precision of float32 products, warps and stages that do not spill when compiled for sm_80 and sm_90.

    Up to ``WHOLE_BITS`` a code is one tile. Three bfloat16 products then stand for a float32 one: Hopper's tensor cores
    cannot multiply a tf32 tile that lies the other way round.
    """
    if bits > WHOLE_BITS:
        return {**tiles(bits, dtype), "PRECISION": "tf32x3", "num_stages": 2}
    wide = hopper and form != "cosine"
    rows, warps, stages = (64 if hopper else 32, 4, 3) if dtype == torch.bfloat16 else (128 if wide else 32, 8, 2)
    width = max(next_power_of_2(bits), 16)
    blocks = {"BLOCK_M": rows, "BLOCK_N": 32, "BLOCK_D": width, "BLOCK_F": width}
    # The interpreter has no bf16x3; its products are float32.
    return {**blocks, "PRECISION": "ieee" if INTERPRETED else "bf16x3", "num_warps": warps, "num_stages": stages}


@torch.library.triton_op("eoforge::soft_pairwise", mutates_args={})
def _soft_pairwise(
    codes: Tensor,
    masks: Tensor,
    bank: Tensor | None,
    bank_masks: Tensor | None,
    form: str,
    alpha: float,
    gamma: float,
) -> tuple[Tensor, Tensor]:
    """The mean loss, and its gradient float32 [B, K] where the upstream gradient is 1."""
    others, other_masks = (codes, masks) if bank is None or bank_masks is None else (bank, bank_masks)
    n_rows, n_others, bits = codes.shape[0], others.shape[0], codes.shape[1]
    # In the batch the sum has every pair twice, in both orders.
    scale = (2.0 if bank is None else 1.0) / max(n_rows * n_others, 1)
    if not through_kernel(codes):
        with full_precision(codes):
            loss, grad = sums_by_parts(codes, masks, others, other_masks, form, alpha, gamma)
        return loss / max(n_rows * n_others, 1), grad * scale
    if n_rows * n_others == 0:
        zeros = torch.zeros((n_rows, bits), dtype=torch.float32, device=codes.device)
        return torch.zeros((), dtype=torch.float32, device=codes.device), zeros
    hopper = codes.is_cuda and torch.cuda.get_device_capability(codes.device)[0] >= HOPPER
    shape = tiling(bits, codes.dtype, form, hopper)
    row_blocks, blocks = cdiv(n_rows, shape["BLOCK_M"]), cdiv(n_others, shape["BLOCK_N"])
    span = max(cdiv(blocks, min(cdiv(PROGRAMS, row_blocks), MAX_PARTS)), MIN_SPAN)
    parts = cdiv(blocks, span)
    losses = torch.empty((parts, n_rows), dtype=torch.float32, device=codes.device)
    grads = torch.empty((parts, n_rows, bits), dtype=torch.float32, device=codes.device)
    u = codes.contiguous()
    v = u if bank is None else others.contiguous()
    with torch.cuda.device_of(u):  # type: ignore[no-untyped-call]  # torch leaves its __init__ untyped
        # Only the cosine form reads lengths, but the argument needs a pointer.
        inverse = inverse_norms(u) if form == "cosine" else losses
        other_inverse = inverse if bank is None or form != "cosine" else inverse_norms(v)
        wrap_triton(soft_pairwise_kernel)[(row_blocks, parts, cdiv(bits, shape["BLOCK_F"]))](
            u, masks.contiguous(), inverse, v, other_masks.contiguous(), other_inverse, losses, grads,
            n_rows, n_others, span, alpha, gamma,
            K=bits, FORM=FORMS.index(form), **shape,
        )  # fmt: skip
    # PyTorch adds the parts in a fixed order: no atomics, so runs are identical.
    return losses.sum() / (n_rows * n_others), grads.sum(0) * scale


@_soft_pairwise.register_fake
def _(codes: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return codes.new_empty((), dtype=torch.float32), codes.new_empty(codes.shape, dtype=torch.float32)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1])
    ctx.dtype = inputs[0].dtype


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    (unit,) = ctx.saved_tensors
    return (unit * grad).to(ctx.dtype), None, None, None, None, None, None


_soft_pairwise.register_autograd(_backward, setup_context=_setup_context)
