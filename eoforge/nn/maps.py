"""Maps of classes as tensors: change of size, and the presence of each class in a patch.

Shape legend: B patches, L classes, H and S pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def map_presence(logits: Tensor) -> Tensor:
    """Logits ``[B, L]`` of the largest probability of each class over the pixels of ``[B, L, S, S]``.

    A label of reBEN needs a single pixel, so the surest pixel speaks for a class (*ours*).
    """
    probability_BL = logits.float().softmax(dim=1).flatten(2).amax(dim=2)
    return torch.logit(probability_BL, eps=1e-6)


def resized(classes_BHH: Tensor, size: int) -> Tensor:
    """Classes int64 ``[B, size, size]``, of the nearest pixels."""
    if classes_BHH.shape[-1] == size:
        return classes_BHH.long()
    return functional.interpolate(classes_BHH[:, None].float(), size=(size, size), mode="nearest")[:, 0].long()


def class_map(logits: Tensor, size: int) -> Tensor:
    """Most probable class uint8 ``[B, size, size]`` of logits ``[B, L, S, S]``, resampled bilinearly."""
    if logits.shape[-1] != size:
        logits = functional.interpolate(logits.float(), size=(size, size), mode="bilinear", align_corners=False)
    return logits.argmax(dim=1).to(torch.uint8)
