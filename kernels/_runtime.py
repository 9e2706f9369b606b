"""Helpers of all kernels: dispatch between the Triton kernel and the PyTorch branch, and checks of arguments.

A CUDA tensor always takes the kernel. A CPU tensor does so only in a process started with ``TRITON_INTERPRET=1``
(Triton then runs kernels as NumPy programs); otherwise it takes the plain PyTorch branch in the body of the op.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
from torch import Tensor

INTERPRETED: bool = bool(triton.knobs.runtime.interpret)
"""Whether ``@triton.jit`` functions are interpreted in this process (set when triton is imported)."""

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
"""The floating-point types every numeric kernel is compiled for."""


def through_kernel(tensor: Tensor) -> bool:
    """Whether ``tensor`` takes the Triton kernel instead of the PyTorch branch."""
    return tensor.is_cuda or INTERPRETED


def full_precision(tensor: Tensor) -> torch.autocast:
    """A context without autocast, for a PyTorch branch whose products are specified as float32."""
    return torch.autocast(tensor.device.type, enabled=False)


def wrap_triton(kernel: Any) -> Any:
    """``torch.library.wrap_triton`` of a compiled kernel; an interpreted one, which torch < 2.14 refuses, as it is."""
    return kernel if INTERPRETED else torch.library.wrap_triton(kernel)


def cdiv(a: int, b: int) -> int:
    """``ceil(a / b)`` for sizes, symbolic ones included."""
    return (a + b - 1) // b


def next_power_of_2(n: int) -> int:
    """The smallest power of two that is at least ``n`` and at least 1."""
    return 1 << max(n - 1, 0).bit_length()


def require_dtype(name: str, tensor: Tensor, dtypes: Sequence[torch.dtype]) -> None:
    """Checks the dtype of an argument.

    Raises:
        TypeError: ``tensor.dtype`` is not one of ``dtypes``.
    """
    if tensor.dtype not in dtypes:
        allowed = ", ".join(str(d).removeprefix("torch.") for d in dtypes)
        raise TypeError(f"{name}: expected dtype {allowed}; got {str(tensor.dtype).removeprefix('torch.')}")


def require_shape(name: str, tensor: Tensor, shape: Sequence[int | None], legend: str) -> None:
    """Checks the shape of an argument.

    Args:
        name: The argument's name.
        tensor: The argument.
        shape: Expected sizes; ``None`` stands for any size.
        legend: The shape in letters, for the message, such as ``[B, L]``.

    Raises:
        ValueError: The rank or a size differs.
    """
    fits = tensor.ndim == len(shape) and all(w is None or s == w for s, w in zip(tensor.shape, shape, strict=True))
    if not fits:
        sizes = ", ".join("any" if w is None else str(w) for w in shape)
        raise ValueError(f"{name}: expected shape {legend} = [{sizes}]; got {list(tensor.shape)}")


def require_device(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    """Checks that two arguments are on one device.

    Raises:
        ValueError: The devices differ.
    """
    if tensor.device != other.device:
        raise ValueError(f"{name}: expected device {other.device} (that of {other_name}); got {tensor.device}")
