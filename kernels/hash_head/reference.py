"""The outputs and regularisers of a hash head in plain PyTorch, and their gradient in closed form."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def hash_head_reference(logits: Sequence[Tensor], mean: bool) -> tuple[list[Tensor], Tensor]:
    """Outputs ``tanh(x)`` [B, K] per sensor in float32, and the terms float32 [3]; differentiable by autograd.

    The terms are quantisation, balance over the bits of a sample, balance over the samples of a bit.
    """
    hashes = [x.float().tanh() for x in logits]
    rows, bits = hashes[0].shape
    if hashes[0].numel() == 0:
        return hashes, torch.stack([h.sum() for h in hashes]).sum().expand(3)
    target = torch.where(joint_sign(logits), 1.0, -1.0)
    scales = scales_of(len(hashes), rows, bits, mean)
    sums = (
        [(target - h).square().sum() for h in hashes],
        [h.sum(1).square().sum() for h in hashes],
        [h.sum(0).square().sum() for h in hashes],
    )
    return hashes, torch.stack([torch.stack(s).sum() * scale for s, scale in zip(sums, scales, strict=True)])


def joint_sign(logits: Sequence[Tensor]) -> Tensor:
    """bool [B, K]: where the sensors' outputs sum to more than 0, by the logits, as tanh is odd and increasing."""
    return logits[0] > 0 if len(logits) == 1 else logits[0].float() > -logits[1].float()


def scales_of(sensors: int, rows: int, bits: int, mean: bool) -> tuple[float, float, float]:
    """Factors of the terms' sums; means are over sensors for quantisation, per sensor for balance."""
    if not mean or rows * bits == 0:
        return (1.0, 1.0, 1.0)
    return (1.0 / (sensors * rows * bits), 1.0 / (rows * bits**2), 1.0 / (bits * rows**2))


def hash_head_backward_reference(
    logits: Sequence[Tensor], grads: Sequence[Tensor | None], grad_terms: Tensor, sums: Tensor, mean: bool
) -> list[Tensor]:
    """Gradients of the logits; ``sums`` float32 [S, K] are the sums of outputs over samples."""
    rows, bits = logits[0].shape
    weights = [grad_terms[i] * 2 * scale for i, scale in enumerate(scales_of(len(logits), rows, bits, mean))]
    target = torch.where(joint_sign(logits), 1.0, -1.0)
    results = []
    for x, grad, total in zip(logits, grads, sums, strict=True):
        h = x.float().tanh()
        slope = weights[0] * (h - target) + weights[1] * h.sum(1, keepdim=True) + weights[2] * total
        if grad is not None:
            slope = slope + grad.float()
        results.append((slope * (1 - h.square())).to(x.dtype))
    return results
