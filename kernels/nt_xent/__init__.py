"""NT-Xent (contrast between pairs) and similarity to nearest neighbours, without a matrix of pairs in memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels._runtime import (
    FLOATS,
    cdiv,
    full_precision,
    next_power_of_2,
    require_device,
    require_dtype,
    require_shape,
    through_kernel,
    wrap_triton,
)
from kernels.nt_xent.kernel import (
    inverse_norm_kernel,
    neighbour_backward_kernel,
    neighbour_kernel,
    nt_xent_backward_kernel,
    nt_xent_kernel,
)
from kernels.nt_xent.reference import (
    nearest_neighbours_reference,
    neighbour_similarity_reference,
    nt_xent_reference,
)

__all__ = [
    "nearest_neighbours",
    "nearest_neighbours_reference",
    "neighbour_similarity",
    "neighbour_similarity_reference",
    "nt_xent",
    "nt_xent_reference",
]

MIN_ROWS = 2
NORM_BLOCK = {"BLOCK_M": 16, "BLOCK_D": 128}
SEARCH_BLOCK = {"BLOCK_M": 32, "BLOCK_N": 64, "BLOCK_D": 64}


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Normalised temperature-scaled cross entropy over the 2B features of B pairs.

    ``(1 / 2B) sum_i -log( exp(cos(z_i, z_i+) / t) / sum_{j != i} exp(cos(z_i, z_j) / t) )``, z the 2B features and z_i+
    the other feature of the same pair. Products take the features as stored, sums are in float32 with the maximum
    subtracted: finite at every temperature in every dtype. Memory is O(B D), also in the backward pass.

    Args:
        first: ``[B, D]``; float32, bfloat16 or float16.
        second: ``[B, D]`` of the same dtype; row i belongs to row i of ``first``.
        temperature: t > 0.

    Returns:
        float32 scalar; 0 if there are no pairs.

    Raises:
        TypeError: Another dtype, or two.
        ValueError: Shapes or devices do not fit, or the temperature is not positive.
    """
    require_dtype("nt_xent(first)", first, FLOATS)
    require_dtype("nt_xent(second)", second, (first.dtype,))
    require_shape("nt_xent(first)", first, (None, None), "[B, D]")
    require_shape("nt_xent(second)", second, tuple(first.shape), "[B, D]")
    require_device("nt_xent(second)", second, "first", first)
    if not temperature > 0:
        raise ValueError(f"nt_xent(temperature): expected more than 0; got {temperature}")
    loss: Tensor = _nt_xent(torch.cat([first, second]), 1.0 / temperature)[0]
    return loss


def nearest_neighbours(features: Tensor) -> Tensor:
    """The nearest other row of every row by Euclidean distance, the lowest index on ties; no gradient.

    Args:
        features: ``[N, D]``, N >= 2; float32, bfloat16 or float16.

    Returns:
        int32 ``[N]``.

    Raises:
        TypeError: Another dtype.
        ValueError: Not a matrix, or fewer than two rows.
    """
    _check_rows("nearest_neighbours", features)
    neighbours: Tensor = _neighbour_similarity(features.detach())[1]
    return neighbours


def neighbour_similarity(features: Tensor) -> Tensor:
    """Mean cosine between every row and its nearest other row (:func:`nearest_neighbours`).

    The choice of the neighbour has no gradient; both ends of the cosine have. No distance matrix is stored.

    Args:
        features: ``[N, D]``, N >= 2; float32, bfloat16 or float16.

    Returns:
        float32 scalar.

    Raises:
        TypeError: Another dtype.
        ValueError: Not a matrix, or fewer than two rows.
    """
    _check_rows("neighbour_similarity", features)
    mean: Tensor = _neighbour_similarity(features)[0]
    return mean


def _check_rows(op: str, features: Tensor) -> None:
    require_dtype(f"{op}(features)", features, FLOATS)
    require_shape(f"{op}(features)", features, (None, None), "[N, D]")
    if features.shape[0] < MIN_ROWS:
        raise ValueError(f"{op}(features): expected at least {MIN_ROWS} rows; got {features.shape[0]}")


def tiles(dim: int, dtype: torch.dtype) -> dict[str, int]:
    """Tile sizes of products of rows, and warps; larger tiles spill when compiled for sm_80 or sm_90."""
    rows, step, width, warps = {
        torch.bfloat16: (64, 64, 128, 8),
        torch.float32: (64, 32, 64, 8),
        torch.float16: (32, 32, 64, 4),
    }[dtype]
    least = max(next_power_of_2(dim), 16)
    blocks = {"BLOCK_M": rows, "BLOCK_N": 32, "BLOCK_D": min(step, least), "BLOCK_F": min(width, least)}
    return blocks | {"num_warps": warps}


def inverse_norms(x: Tensor) -> Tensor:
    """float32 [N] ``1 / max(|x_i|, eps)`` of contiguous rows; for the body of an op."""
    inverse = torch.empty(x.shape[0], dtype=torch.float32, device=x.device)
    wrap_triton(inverse_norm_kernel)[(cdiv(x.shape[0], NORM_BLOCK["BLOCK_M"]),)](
        x, inverse, x.shape[0], D=x.shape[1], **NORM_BLOCK, num_warps=4
    )
    return inverse


@torch.library.triton_op("eoforge::nt_xent", mutates_args={})
def _nt_xent(features: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """The loss, and per row 1 / length and the log of the sum (both float32 [2B]; empty on the PyTorch branch)."""
    if not through_kernel(features):
        nothing = features.new_empty(0, dtype=torch.float32)
        return nt_xent_reference(features, 1.0 / scale), nothing, nothing.clone()
    n_rows, dim = features.shape
    lse, losses = (torch.empty(n_rows, dtype=torch.float32, device=features.device) for _ in range(2))
    if n_rows == 0:
        return torch.zeros((), device=features.device), losses, lse
    x, shape = features.contiguous(), tiles(dim, features.dtype)
    del shape["BLOCK_F"]
    with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]  # torch leaves its __init__ untyped
        inverse = inverse_norms(x)
        wrap_triton(nt_xent_kernel)[(cdiv(n_rows, shape["BLOCK_M"]),)](
            x, inverse, lse, losses, n_rows, scale, D=dim, **shape, num_stages=2
        )
    return losses.mean(), inverse, lse


@_nt_xent.register_fake
def _(features: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    rows = features.shape[0] if through_kernel(features) else 0
    inverse, lse = (features.new_empty(rows, dtype=torch.float32) for _ in range(2))
    return features.new_empty((), dtype=torch.float32), inverse, lse


@torch.library.triton_op("eoforge::nt_xent_backward", mutates_args={})
def _nt_xent_backward(features: Tensor, inverse: Tensor, lse: Tensor, grad: Tensor, scale: float) -> Tensor:
    if not through_kernel(features):
        with full_precision(features):
            return _nt_xent_gradient(features, grad, scale)
    n_rows, dim = features.shape
    out = torch.empty((n_rows, dim), dtype=features.dtype, device=features.device)
    if out.numel() == 0:
        return out
    x, shape = features.contiguous(), tiles(dim, features.dtype)
    with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]  # torch leaves its __init__ untyped
        wrap_triton(nt_xent_backward_kernel)[(cdiv(n_rows, shape["BLOCK_M"]), cdiv(dim, shape["BLOCK_F"]))](
            x, inverse, lse, grad, out, n_rows, scale, D=dim, **shape, num_stages=2
        )
    return out


@_nt_xent_backward.register_fake
def _(features: Tensor, inverse: Tensor, lse: Tensor, grad: Tensor, scale: float) -> Tensor:
    return features.new_empty(features.shape)


def _nt_xent_gradient(features: Tensor, grad: Tensor, scale: float) -> Tensor:
    """The kernel's formula with whole matrices, for the PyTorch branch."""
    rows, pairs = features.shape[0], features.shape[0] // 2
    inverse = 1 / features.float().norm(dim=1, keepdim=True).clamp_min(1e-12)
    z = features.float() * inverse
    cosine = z @ z.T
    weight = (cosine * scale).fill_diagonal_(float("-inf")).softmax(dim=1)
    weight = weight + weight.T
    weight.diagonal(pairs).sub_(2)
    weight.diagonal(-pairs).sub_(2)
    along = (weight * cosine).sum(dim=1, keepdim=True)
    return (grad * (scale / max(rows, 1)) * inverse * (weight @ z - along * z)).to(features.dtype)


def _setup_contrast(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    features, ctx.scale = inputs
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(features, *output[1:])


def _contrast_backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    features, inverse, lse = ctx.saved_tensors
    return _nt_xent_backward(features, inverse, lse, grad, ctx.scale), None


_nt_xent.register_autograd(_contrast_backward, setup_context=_setup_contrast)


@torch.library.triton_op("eoforge::neighbour_similarity", mutates_args={})
def _neighbour_similarity(features: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The mean; per row the neighbour int32, the cosine and 1 / length (float32; empty on the PyTorch branch)."""
    n_rows, dim = features.shape
    if not through_kernel(features):
        neighbours = nearest_neighbours_reference(features)
        nothing = features.new_empty(0, dtype=torch.float32)
        return neighbour_similarity_reference(features, neighbours), neighbours, nothing, nothing.clone()
    neighbours = torch.empty(n_rows, dtype=torch.int32, device=features.device)
    cosine, inverse = (torch.empty(n_rows, dtype=torch.float32, device=features.device) for _ in range(2))
    x = features.contiguous()
    with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]  # torch leaves its __init__ untyped
        wrap_triton(neighbour_kernel)[(cdiv(n_rows, SEARCH_BLOCK["BLOCK_M"]),)](
            x, neighbours, cosine, inverse, n_rows, D=dim, **SEARCH_BLOCK, num_warps=4
        )
    return cosine.mean(), neighbours, cosine, inverse


@_neighbour_similarity.register_fake
def _(features: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    n_rows = features.shape[0]
    cosine, inverse = (
        features.new_empty(n_rows if through_kernel(features) else 0, dtype=torch.float32) for _ in range(2)
    )
    mean, neighbours = features.new_empty((), dtype=torch.float32), features.new_empty(n_rows, dtype=torch.int32)
    return mean, neighbours, cosine, inverse


@torch.library.triton_op("eoforge::neighbour_similarity_backward", mutates_args={})
def _neighbour_backward(features: Tensor, neighbours: Tensor, cosine: Tensor, inverse: Tensor, grad: Tensor) -> Tensor:
    n_rows, dim = features.shape
    if not through_kernel(features):
        with full_precision(features):
            return _neighbour_gradient(features, neighbours, grad)
    out = torch.empty((n_rows, dim), dtype=features.dtype, device=features.device)
    x, shape = features.contiguous(), tiles(dim, features.dtype)
    del shape["BLOCK_D"]
    with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]  # torch leaves its __init__ untyped
        wrap_triton(neighbour_backward_kernel)[(cdiv(n_rows, shape["BLOCK_M"]), cdiv(dim, shape["BLOCK_F"]))](
            x, neighbours, cosine, inverse, grad, out, n_rows, D=dim, **shape, num_stages=2
        )
    return out


@_neighbour_backward.register_fake
def _(features: Tensor, neighbours: Tensor, cosine: Tensor, inverse: Tensor, grad: Tensor) -> Tensor:
    return features.new_empty(features.shape)


def _neighbour_gradient(features: Tensor, neighbours: Tensor, grad: Tensor) -> Tensor:
    """The kernel's formula with whole matrices, for the PyTorch branch."""
    rows = features.shape[0]
    inverse = 1 / features.float().norm(dim=1, keepdim=True).clamp_min(1e-12)
    z = features.float() * inverse
    chosen = neighbours.long()[:, None] == torch.arange(rows, device=features.device)
    weight = chosen.float() + chosen.float().T
    along = (weight * (z @ z.T)).sum(dim=1, keepdim=True)
    return (grad / rows * inverse * (weight @ z - along * z)).to(features.dtype)


def _setup_neighbours(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(inputs[0], *output[1:])


def _neighbours_backward(ctx: Any, grad: Tensor, *_: Tensor) -> Tensor:
    result: Tensor = _neighbour_backward(*ctx.saved_tensors, grad)
    return result


_neighbour_similarity.register_autograd(_neighbours_backward, setup_context=_setup_neighbours)
