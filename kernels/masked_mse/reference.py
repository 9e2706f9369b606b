"""Masked pixel loss in plain PyTorch, as masked autoencoders write it: patchify, gather, square, average."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from kernels.patch_gather.reference import patch_gather_reference

EPS = 1e-6
"""Added to a patch's variance under norm_pix (MAE)."""


def masked_target(
    sources: Sequence[Tensor],
    ids: Tensor,
    where: Tensor,
    norm: Tensor,
    flip: Tensor | None,
    size: int,
    patch: int,
    pixel_major: bool,
    norm_pix: bool,
) -> Tensor:
    """float32 ``[B, M, C p p]``: the patches to predict, each standardised under ``norm_pix`` (unbiased variance)."""
    target = patch_gather_reference(sources, ids, where, norm, flip, size, patch, pixel_major)
    if norm_pix and target.numel():  # torch warns about the variance of an empty tensor
        centred = target - target.mean(-1, keepdim=True)
        target = centred / (target.var(-1, keepdim=True) + EPS) ** 0.5
    return target


def masked_mse_reference(pred: Tensor, target: Tensor) -> Tensor:
    """Mean over all masked tokens of the mean square error of a token; 0 if there are none."""
    if pred.numel() == 0:
        return pred.float().sum()
    return (pred.float() - target).square().mean(-1).mean()
