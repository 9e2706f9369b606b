"""Relations of the regions of a map: the target of GRID(RRL), which regresses them from an image.

Shape legend: B maps, L classes, S pixels. The graph of a map has a node per class and an edge per pair of classes; its
adjacency is the upper triangle with the diagonal, ``L (L + 1) / 2`` numbers (*confirmed*: 153 for the 17 classes of
DLRSD). An edge grows with the regions and with their nearness (*confirmed*); the formula is *ours*, as that of the
released code was not readable: with shares a of the area and centroids c in units of the diagonal of the map,
``(a_i + a_j) / 2 (1 - |c_i - c_j|)`` for two classes that are present, ``a_i`` on the diagonal, and 0 otherwise.
"""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor

from eoforge.data.labels import IGNORE_INDEX


def count_of(classes: int) -> int:
    """Numbers of an adjacency: ``L (L + 1) / 2``."""
    return classes * (classes + 1) // 2


def relations(classes_BSS: Tensor, classes: int) -> Tensor:
    """Adjacency ``[B, L (L + 1) / 2]`` in 0..1, row by row of the upper triangle; zeros for a map without classes.

    Args:
        classes_BSS: Class indices; ``IGNORE_INDEX`` where a pixel has no class.
        classes: L.
    """
    side = classes_BSS.shape[-1]
    flat_BP = classes_BSS.flatten(1).long()
    slots_BP = torch.where(flat_BP == IGNORE_INDEX, classes, flat_BP)
    axis_S = torch.arange(side, device=flat_BP.device, dtype=torch.float32) / (max(side - 1, 1) * sqrt(2))
    rows_SS, columns_SS = torch.meshgrid(axis_S, axis_S, indexing="ij")

    def sums(values_P: Tensor) -> Tensor:
        spread_BP = values_P.expand(len(flat_BP), -1)
        sums_BL = torch.zeros(len(flat_BP), classes + 1, device=flat_BP.device)
        return sums_BL.scatter_add(1, slots_BP, spread_BP)[:, :classes]

    pixels_BL = sums(torch.ones(side * side, device=flat_BP.device))
    some_BL = pixels_BL.clamp(min=1)
    centroids_BL2 = torch.stack([sums(v.flatten()) / some_BL for v in (rows_SS, columns_SS)], dim=2)
    area_BL = pixels_BL / pixels_BL.sum(dim=1, keepdim=True).clamp(min=1)
    far_BLL = torch.cdist(centroids_BL2, centroids_BL2, compute_mode="donot_use_mm_for_euclid_dist")
    edges_BLL = (area_BL[:, :, None] + area_BL[:, None]) / 2 * (1 - far_BLL)
    present_BL = pixels_BL > 0
    edges_BLL = edges_BLL * (present_BL[:, :, None] & present_BL[:, None])
    upper = torch.triu_indices(classes, classes, device=flat_BP.device)
    return edges_BLL[:, upper[0], upper[1]]
