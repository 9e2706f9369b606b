"""Grouped batch whitening (module FW): batch normalisation that also removes correlations within groups of channels.

Shape legend: B patches, C channels, G = C / 4 groups, g = 4, P = B x H x W positions.

``x_hat = L^-1 (x - mu)`` per group with ``L L^T = (1 - eps) Sigma + eps I``, then gamma and beta (*confirmed* for the
code of Roy et al., CVPR 2019: group 4, eps 1e-3, momentum 0.1; that MM-FL takes it over is *ours*). Cholesky has
neither sign nor rotation to choose, so the silos' outputs share one coordinate frame; PCA whitening's would not.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from eoforge.errors import UsageError
from eoforge.nn.backbones import replace_layers

GROUP, EPSILON, MOMENTUM = 4, 1e-3, 0.1


class GroupedWhitening(nn.Module):
    """Whitening layer over groups of channels of ``[B, C, H, W]``.

    A batch of one patch is whitened by the running statistics and does not change them. Arithmetic is float32, also
    under autocast.

    Args:
        channels: C, a multiple of ``group``.
        group: Channels per group.
        epsilon: Shrinkage of the covariance towards the identity.
        momentum: Momentum of the running statistics.

    Raises:
        UsageError: C is not a multiple of the group.
    """

    running_centre: Tensor
    running_covariance: Tensor

    def __init__(self, channels: int, group: int = GROUP, epsilon: float = EPSILON, momentum: float = MOMENTUM) -> None:
        super().__init__()
        if channels % group:
            raise UsageError(f"whitening in groups of {group} needs a multiple of {group} channels; got {channels}")
        self.group, self.epsilon, self.momentum = group, epsilon, momentum
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_centre", torch.zeros(channels))
        self.register_buffer("running_covariance", torch.eye(group).repeat(channels // group, 1, 1))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Whitened input, in its shape and dtype."""
        with torch.autocast(x_BCHW.device.type, enabled=False):
            return self._whitened(x_BCHW.float()).to(x_BCHW.dtype)

    def _whitened(self, x_BCHW: Tensor) -> Tensor:
        batch, channels, height, width = x_BCHW.shape
        x_GgP = x_BCHW.transpose(0, 1).reshape(channels // self.group, self.group, -1)
        if self.training and batch > 1:
            centre_Gg1 = x_GgP.mean(dim=2, keepdim=True)
            away_GgP = x_GgP - centre_Gg1
            covariance_Ggg = away_GgP @ away_GgP.transpose(1, 2) / away_GgP.shape[2]
            with torch.no_grad():
                self.running_centre.lerp_(centre_Gg1.flatten(), self.momentum)
                self.running_covariance.lerp_(covariance_Ggg, self.momentum)
        else:
            away_GgP = x_GgP - self.running_centre.view(-1, self.group, 1)
            covariance_Ggg = self.running_covariance
        identity = torch.eye(self.group, device=x_BCHW.device)
        factor_Ggg = torch.linalg.cholesky((1 - self.epsilon) * covariance_Ggg + self.epsilon * identity)
        white_GgP = torch.linalg.solve_triangular(factor_Ggg, away_GgP, upper=False)
        white_BCHW = white_GgP.reshape(channels, batch, height, width).transpose(0, 1)
        return white_BCHW * self.weight[:, None, None] + self.bias[:, None, None]


def whiten(encoder: nn.Module, backbone: str) -> None:
    """Replacement of the first batch norms by whitening: stem and layer 1 of a ResNet, the stem of ``tiny_bn``.

    Raises:
        UsageError: The backbone is another one.
    """

    def build(norm: nn.BatchNorm2d) -> nn.Module:
        return GroupedWhitening(norm.num_features)

    if backbone == "resnet50":
        model = encoder.get_submodule("model")
        model.add_module("bn1", GroupedWhitening(model.get_submodule("bn1").num_features))  # type: ignore[arg-type]  # an int
        replace_layers(model.get_submodule("layer1"), nn.BatchNorm2d, build)
    elif backbone == "tiny_bn":
        stages = encoder.get_submodule("stages")
        number, norm = next((n, m) for n, m in stages.named_children() if isinstance(m, nn.BatchNorm2d))
        stages.add_module(number, build(norm))
    else:
        raise UsageError(f"whitening replaces batch norms; it knows resnet50 and tiny_bn, got {backbone}")
