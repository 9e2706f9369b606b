"""Projection heads."""

from __future__ import annotations

from torch import Tensor, nn


class ProjectionHead(nn.Module):
    """An MLP, Linear -> ReLU -> Linear, ``[B, D] -> [B, P]`` (*confirmed* for the predecessor of SS-CM-RSIR).

    Args:
        features: Channels D of the input.
        projection: Channels P of the output.
    """

    def __init__(self, features: int, projection: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(features, features), nn.ReLU(), nn.Linear(features, projection))

    def forward(self, features_BD: Tensor) -> Tensor:
        """``[B, D]`` to ``[B, P]``."""
        projected_BP: Tensor = self.layers(features_BD)
        return projected_BP
