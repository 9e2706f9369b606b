"""Random patch masks as a function of (seed, step, sample, token, sensor)."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from kernels._runtime import require_dtype, require_shape, through_kernel
from kernels.random_mask.kernel import launch_random_mask
from kernels.random_mask.reference import random_mask_reference

__all__ = ["MAX_TOKENS", "Mask", "mask_state", "random_mask", "random_mask_reference"]

MAX_TOKENS = 256
"""Limit of the tokens: ids are bytes, with eight bits of the sort key."""
MODES = ("identical", "disjoint", "independent")


class Mask(NamedTuple):
    """The mask of one sensor.

    Attributes:
        ids: uint8 ``[B, L]``, the permutation: first ``keep`` visible tokens, then the masked ones.
        ranks: uint8 ``[B, L]``, its inverse: token t is visible exactly where ``ranks[b, t] < keep``.
        bits: uint8 ``[B, ceil(L/8)]``, bit t set where token t is visible, least significant first.
        keep: Number of visible tokens.
    """

    ids: Tensor
    ranks: Tensor
    bits: Tensor
    keep: int

    @property
    def visible(self) -> Tensor:
        """uint8 ``[B, keep]``, a view."""
        return self.ids[:, : self.keep]

    @property
    def masked(self) -> Tensor:
        """uint8 ``[B, L - keep]``, a view."""
        return self.ids[:, self.keep :]


def mask_state(seed: int, step: int = 0, device: torch.device | str = "cpu") -> Tensor:
    """The counter of :func:`random_mask`: int64 ``[2]`` = (seed, step) on ``device``.

    A tensor, so that a CUDA graph draws new masks on every replay: advance it with ``state[1] += 1`` in the graph.
    """
    return torch.tensor([seed, step], dtype=torch.int64, device=device)


def random_mask(
    state: Tensor,
    batch: int,
    tokens: int,
    keep: int,
    *,
    mode: Literal["identical", "disjoint", "independent"] = "identical",
    keep_b: int | None = None,
) -> tuple[Mask, Mask]:
    """Masks of two sensors over the same ``tokens`` positions.

    The noise of token t of sample b is the first word of Philox-4x32-10 with key = seed and counter
    (t, b, sensor, step); its 23 high bits are sorted, ties by token. CPU and GPU draw the same masks, for any batch.

    Args:
        state: int64 ``[2]``, (seed, step), see :func:`mask_state`; the masks are made on its device.
        batch: Samples B.
        tokens: Patch places L, at most 256.
        keep: Visible tokens of the first sensor, 0..L.
        mode: The second sensor's permutation: ``identical``, ``disjoint`` (reversed) or ``independent``.
        keep_b: Visible tokens of the second; ``keep`` by default, and L - keep under ``disjoint``.

    Returns:
        The two sensors' masks. Under ``identical`` with equal ``keep`` they are the same tensors.

    Raises:
        TypeError: ``state`` has another dtype.
        ValueError: A size is out of range, the mode is unknown, or disjoint masks would overlap.
    """
    require_dtype("random_mask(state)", state, (torch.int64,))
    require_shape("random_mask(state)", state, (2,), "[2] (seed, step)")
    if mode not in MODES:
        raise ValueError(f"random_mask(mode): expected one of {', '.join(MODES)}; got {mode!r}")
    if not 1 <= tokens <= MAX_TOKENS:
        raise ValueError(f"random_mask(tokens): expected 1 to {MAX_TOKENS}; got {tokens}")
    if keep_b is None:
        keep_b = tokens - keep if mode == "disjoint" else keep
    for name, value in (("keep", keep), ("keep_b", keep_b)):
        if not 0 <= value <= tokens:
            raise ValueError(f"random_mask({name}): expected 0 to {tokens} (tokens); got {value}")
    if mode == "disjoint" and keep + keep_b > tokens:
        raise ValueError(f"random_mask: disjoint masks need keep + keep_b <= {tokens}; got {keep} + {keep_b}")
    # Identical permutations with different keeps are drawn twice; this is rare, and only the bit mask differs.
    if mode == "identical" and keep == keep_b:
        ids, ranks, bits = _random_mask(state, batch, tokens, keep, keep, mode)[:3]
        mask = Mask(ids, ranks, bits, keep)
        return mask, mask
    out = _random_mask(state, batch, tokens, keep, keep_b, mode)
    if mode == "identical":
        out[3:] = _random_mask(state, batch, tokens, keep_b, keep_b, mode)[:3]
    return Mask(out[0], out[1], out[2], keep), Mask(out[3], out[4], out[5], keep_b)


@torch.library.triton_op("eoforge::random_mask", mutates_args={})
def _random_mask(state: Tensor, batch: int, tokens: int, keep_a: int, keep_b: int, mode: str) -> list[Tensor]:
    """Outputs of both sensors; under ``identical`` those of the second are empty, as the first ones hold for both."""
    if not through_kernel(state):
        out = random_mask_reference(state, batch, tokens, keep_a, keep_b, mode)
        return out if mode != "identical" else [*out[:3], *(t.new_empty(0) for t in out[3:])]
    shapes = _shapes(batch, tokens, mode)
    out = [torch.empty(shape, dtype=torch.uint8, device=state.device) for shape in shapes]
    launch_random_mask(state.contiguous(), out[:3], out[3:], (keep_a, keep_b), MODES.index(mode))
    return out


@_random_mask.register_fake
def _(state: Tensor, batch: int, tokens: int, keep_a: int, keep_b: int, mode: str) -> list[Tensor]:
    return [state.new_empty(shape, dtype=torch.uint8) for shape in _shapes(batch, tokens, mode)]


def _shapes(batch: int, tokens: int, mode: str) -> list[tuple[int, ...]]:
    one: list[tuple[int, ...]] = [(batch, tokens), (batch, tokens), (batch, (tokens + 7) // 8)]
    return one + ([(0,)] * 3 if mode == "identical" else one)
