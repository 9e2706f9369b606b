"""Soft pairwise similarity losses in plain PyTorch: a direct one for tests, and a memory-bounded one for CPUs."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

ALIKE, UNLIKE = 0.99, 0.01
"""Similarities from which on, or down to which, a pair is hard."""
LABELS = 32
PART_ELEMENTS = 2**22
"""Pairs held at once on the CPU: 16 MB of float32."""


def label_similarity_reference(masks: Tensor, other_masks: Tensor) -> Tensor:
    """float32 [B, N] ``|y_i & y_j| / sqrt(|y_i| |y_j|)`` of label masks; 0 for a row without labels."""
    places = torch.arange(LABELS, device=masks.device)
    first_BC, second_NC = (((m.long()[:, None] >> places) & 1).float() for m in (masks, other_masks))
    sizes_BN = first_BC.sum(1)[:, None] * second_NC.sum(1)[None, :]
    return first_BC @ second_NC.T / sizes_BN.clamp(min=1).sqrt()


def soft_pairwise_reference(
    codes: Tensor, masks: Tensor, others: Tensor, other_masks: Tensor, form: str, alpha: float, gamma: float
) -> Tensor:
    """Mean over all pairs of rows of ``codes`` [B, K] and ``others`` [N, K]; differentiable by autograd in both."""
    u_BK, v_NK = codes.float(), others.float()
    if u_BK.shape[0] * v_NK.shape[0] == 0:
        return u_BK.sum() + v_NK.sum()
    return pairwise_reference(u_BK, v_NK, label_similarity_reference(masks, other_masks), form, alpha, gamma)


def pairwise_reference(u_BK: Tensor, v_NK: Tensor, s_BN: Tensor, form: str, alpha: float, gamma: float) -> Tensor:
    """Mean over all pairs for similarities ``s_BN`` in [0, 1]; differentiable by autograd in both outputs."""
    if form == "cosine":
        cosine_BN = functional.normalize(u_BK, dim=1) @ functional.normalize(v_NK, dim=1).T
        return (cosine_BN - s_BN).square().mean()
    bits = u_BK.shape[1]
    product_BN = u_BK @ v_NK.T
    theta_BN = alpha * product_BN
    hard_BN = functional.softplus(-theta_BN.abs()) + theta_BN.clamp(min=0) - s_BN * theta_BN
    reached_BN = product_BN if form == "corrected" else theta_BN
    soft_BN = gamma * (reached_BN + bits - 2 * s_BN * bits).square()
    return torch.where((s_BN >= ALIKE) | (s_BN <= UNLIKE), hard_BN, soft_BN).mean()


def sums_by_parts(
    codes: Tensor, masks: Tensor, others: Tensor, other_masks: Tensor, form: str, alpha: float, gamma: float
) -> tuple[Tensor, Tensor]:
    """Sum over pairs of the loss, and its gradient [B, K] in ``codes``, by the kernel's formulas and part by part."""
    u_BK, bits = codes.float(), codes.shape[1]
    inverse_B1 = 1 / u_BK.norm(dim=1, keepdim=True).clamp_min(1e-12)
    loss, grad_BK = u_BK.new_zeros(()), torch.zeros_like(u_BK)
    step = max(PART_ELEMENTS // max(len(codes), 1), 1)
    for start in range(0, len(others), step):
        v_PK = others[start : start + step].float()
        s_BP = label_similarity_reference(masks, other_masks[start : start + step])
        product_BP = u_BK @ v_PK.T
        if form == "cosine":
            unit_PK = functional.normalize(v_PK, dim=1)
            cosine_BP = product_BP * inverse_B1 / v_PK.norm(dim=1).clamp_min(1e-12)
            error_BP = cosine_BP - s_BP
            loss += error_BP.square().sum()
            along_B1 = (2 * error_BP * cosine_BP).sum(dim=1, keepdim=True)
            grad_BK += inverse_B1 * (2 * error_BP @ unit_PK - along_B1 * inverse_B1 * u_BK)
            continue
        theta_BP = alpha * product_BP
        hard_BP = functional.softplus(-theta_BP.abs()) + theta_BP.clamp(min=0) - s_BP * theta_BP
        reached_BP, chain = (product_BP, 1.0) if form == "corrected" else (theta_BP, alpha)
        error_BP = reached_BP + bits - 2 * s_BP * bits
        is_hard_BP = (s_BP >= ALIKE) | (s_BP <= UNLIKE)
        loss += torch.where(is_hard_BP, hard_BP, gamma * error_BP.square()).sum()
        slope_BP = torch.where(is_hard_BP, alpha * (theta_BP.sigmoid() - s_BP), 2 * gamma * chain * error_BP)
        grad_BK += slope_BP @ v_PK
    return loss, grad_BK
