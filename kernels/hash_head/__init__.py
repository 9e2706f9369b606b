"""A hash head in one pass: tanh codes, packed bits, quantisation and bit balance; closed-form gradient."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from kernels._runtime import (
    FLOATS,
    cdiv,
    next_power_of_2,
    require_device,
    require_dtype,
    require_shape,
    through_kernel,
    wrap_triton,
)
from kernels.hash_head.kernel import hash_head_backward_kernel, hash_head_kernel
from kernels.hash_head.reference import hash_head_backward_reference, hash_head_reference, scales_of
from kernels.pack_bits.reference import pack_bits_reference

__all__ = ["HashOutputs", "hash_head", "hash_head_reference"]

MAX_BITS = 1024
TILE = 4096
"""Logits of one sensor in registers of a program of eight warps: 16 per thread."""
PROGRAMS = 264
"""Limit of the programs of the forward pass (two per multiprocessor of an H100), which share the rows."""
STAGES = 3
TERMS = 3


class HashOutputs(NamedTuple):
    """Outputs of a hash head.

    Attributes:
        codes: Per sensor ``tanh(logits)`` [B, K] in the dtype of the logits.
        packed: uint8 [S, B, K/8], the bits ``logits > 0`` in the order of :func:`kernels.pack_bits.pack_bits`.
        quantisation: float32 scalar ``sum_s sum_i || t_i - h_si ||^2`` with t the sign of the sensors' mean output.
        balance_bits: float32 scalar ``sum_s sum_i (sum_k h_sik)^2``: as many set as unset bits in each code.
        balance_samples: float32 scalar ``sum_s sum_k (sum_i h_sik)^2``: each bit set in half of the samples.
    """

    codes: tuple[Tensor, ...]
    packed: Tensor
    quantisation: Tensor
    balance_bits: Tensor
    balance_samples: Tensor


def hash_head(first: Tensor, second: Tensor | None = None, *, reduction: Literal["sum", "mean"] = "sum") -> HashOutputs:
    """Outputs, packed codes and the three regularisers of one or two sensors' logits; differentiable in the logits.

    With two sensors the target of both is one code, the sign of their mean output; with one it is its own sign.
    The sign of zero is -1, as the bit of zero is 0. All sums are in float32.

    Args:
        first: Logits ``[B, K]`` of one sensor, K a multiple of 8 up to 1024; float32, bfloat16 or float16.
        second: Logits of the other sensor for the same samples, or None.
        reduction: "sum", or "mean": quantisation over sensors, samples and bits; balance averages inside and outside
            the square for each sensor, and adds the sensors. The mean of nothing is 0.

    Raises:
        TypeError: Another dtype, or two.
        ValueError: Shapes or devices do not fit, K is out of range, or the reduction is unknown.
    """
    require_dtype("hash_head(first)", first, FLOATS)
    require_shape("hash_head(first)", first, (None, None), "[B, K]")
    if first.shape[1] % 8 or not 8 <= first.shape[1] <= MAX_BITS:
        raise ValueError(f"hash_head: expected K to be a multiple of 8 up to {MAX_BITS}; got K = {first.shape[1]}")
    if second is not None:
        require_dtype("hash_head(second)", second, (first.dtype,))
        require_shape("hash_head(second)", second, tuple(first.shape), "[B, K]")
        require_device("hash_head(second)", second, "first", first)
    if reduction not in ("sum", "mean"):
        raise ValueError(f"hash_head(reduction): expected 'sum' or 'mean'; got {reduction!r}")
    codes_a, codes_b, packed, terms, _ = _hash_head(first, second, reduction == "mean")
    codes = (codes_a,) if second is None else (codes_a, codes_b)
    return HashOutputs(codes, packed, *terms.unbind())


@torch.library.triton_op("eoforge::hash_head", mutates_args={})
def _hash_head(first: Tensor, second: Tensor | None, mean: bool) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Both sensors' codes (the second empty if there is none), packed codes, the terms, and sums over samples."""
    rows, bits = first.shape
    logits = [first] if second is None else [first, second]
    if not through_kernel(first):
        hashes, terms = hash_head_reference(logits, mean)
        packed = torch.stack([pack_bits_reference(x) for x in logits])
        codes = [h.to(first.dtype) for h in hashes]
        return codes[0], _second_of(codes), packed, terms.clone(), torch.stack([h.sum(0) for h in hashes])
    device = first.device
    codes = [torch.empty((rows, bits), dtype=first.dtype, device=device) for _ in logits]
    packed = torch.empty((len(logits), rows, bits // 8), dtype=torch.uint8, device=device)
    if rows == 0:
        terms, sums = torch.zeros(TERMS, device=device), torch.zeros((len(logits), bits), device=device)
        return codes[0], _second_of(codes), packed, terms, sums
    sums = torch.empty((len(logits), bits), dtype=torch.float32, device=device)
    terms = torch.empty(TERMS, dtype=torch.float32, device=device)
    shape = _shape(bits, len(logits))
    programs = min(cdiv(rows, shape["ROWS"]), PROGRAMS)
    partial = torch.empty((programs, len(logits) * shape["K_P2"] + 2), dtype=torch.float32, device=device)
    ticket = torch.zeros(1, dtype=torch.int32, device=device)
    quantisation, over_bits, over_samples = scales_of(len(logits), rows, bits, mean)
    inputs = [x.contiguous() for x in logits]
    with torch.cuda.device_of(first):  # type: ignore[no-untyped-call]  # torch leaves its __init__ untyped
        wrap_triton(hash_head_kernel)[(programs,)](
            inputs[0], inputs[-1], codes[0], codes[-1], packed, partial, ticket, sums, terms,
            rows, quantisation, over_bits, over_samples, **shape, STAGES=STAGES, num_warps=8,
        )  # fmt: skip
    return codes[0], _second_of(codes), packed, terms, sums


def _second_of(tensors: list[Tensor]) -> Tensor:
    return tensors[1] if len(tensors) > 1 else tensors[0].new_empty((0, tensors[0].shape[1]))


def _shape(bits: int, sensors: int) -> dict[str, int]:
    k_p2 = next_power_of_2(bits)
    return {"K": bits, "K_P2": k_p2, "ROWS": max(TILE // sensors // k_p2, 1), "SENSORS": sensors}


@_hash_head.register_fake
def _(first: Tensor, second: Tensor | None, mean: bool) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    (rows, bits), sensors = first.shape, 1 if second is None else 2
    codes_b = first.new_empty((rows if sensors == 2 else 0, bits))
    packed = first.new_empty((sensors, rows, bits // 8), dtype=torch.uint8)
    terms, sums = (first.new_empty(shape, dtype=torch.float32) for shape in ((TERMS,), (sensors, bits)))
    return first.new_empty((rows, bits)), codes_b, packed, terms, sums


@torch.library.triton_op("eoforge::hash_head_backward", mutates_args={})
def _hash_head_backward(
    first: Tensor,
    second: Tensor | None,
    grad_a: Tensor | None,
    grad_b: Tensor | None,
    grad_terms: Tensor,
    sums: Tensor,
    mean: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients of both sensors' logits; the second is empty if there is none."""
    logits = [first] if second is None else [first, second]
    if not through_kernel(first):
        grads = hash_head_backward_reference(logits, [grad_a, grad_b][: len(logits)], grad_terms, sums, mean)
        return grads[0], _second_of(grads)
    rows, bits = first.shape
    outputs = [torch.empty((rows, bits), dtype=first.dtype, device=first.device) for _ in logits]
    if rows == 0:
        return outputs[0], _second_of(outputs)
    shape = _shape(bits, len(logits))
    inputs = [x.contiguous() for x in logits]
    # An absent gradient is not read, but the argument needs a pointer.
    given = [inputs[0] if g is None else g.contiguous() for g in (grad_a, grad_b)]
    quantisation, over_bits, over_samples = scales_of(len(logits), rows, bits, mean)
    with torch.cuda.device_of(first):  # type: ignore[no-untyped-call]  # torch leaves its __init__ untyped
        wrap_triton(hash_head_backward_kernel)[(cdiv(rows, shape["ROWS"]),)](
            inputs[0], inputs[-1], *given, grad_terms.contiguous(), sums, outputs[0], outputs[-1],
            rows, quantisation, over_bits, over_samples,
            **shape, GIVEN_A=grad_a is not None, GIVEN_B=grad_b is not None, num_warps=8,
        )  # fmt: skip
    return outputs[0], _second_of(outputs)


@_hash_head_backward.register_fake
def _(first: Tensor, second: Tensor | None, *_: Any) -> tuple[Tensor, Tensor]:
    return first.new_empty(first.shape), first.new_empty((0, first.shape[1]) if second is None else second.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    first, second, ctx.mean = inputs
    ctx.mark_non_differentiable(output[2], output[4])
    ctx.set_materialize_grads(False)  # where only the terms are used, no zeros are read for the codes
    ctx.save_for_backward(first, second, output[4])


def _backward(
    ctx: Any, grad_a: Tensor | None, grad_b: Tensor | None, _packed: None, grad_terms: Tensor | None, _sums: None
) -> tuple[Tensor | None, ...]:
    first, second, sums = ctx.saved_tensors
    if grad_a is None and grad_b is None and grad_terms is None:
        return None, None, None
    if grad_terms is None:
        grad_terms = sums.new_zeros(TERMS)
    grad_first, grad_second = _hash_head_backward(
        first, second, grad_a, None if second is None else grad_b, grad_terms, sums, ctx.mean
    )
    return grad_first, None if second is None else grad_second, None


_hash_head.register_autograd(_backward, setup_context=_setup_context)
