"""Networks of DML-S2R and its baselines.

Shape legend: B inputs, N and M inputs of two sets, C bands, S pixels, F length of a vector, D features::

    image [B,C,S,S] -> backbone -> norm -> linear -> phi [B,D] -+-> f^d(phi_i, phi_j)  difference of two targets
    vector [B,F]    -> perceptron ---------------> phi [B,D] -+-> value head -> mean, log variance (baselines)
                                                              +-> phi / |phi|: neighbours, metric loss
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from eoforge.errors import UsageError
from eoforge.methods.dml_s2r.config import Config
from eoforge.nn.backbones import BACKBONES, build_backbone


class Encoder(nn.Module):
    """phi: images or plain vectors to features ``[B, D]``.

    Args:
        config: Settings.
        vector: Length of plain vectors; None for images.
    """

    def __init__(self, config: Config, vector: int | None) -> None:
        super().__init__()
        if vector is None:
            backbone, width = _backbone(config)
            # Pooled activations share a large common part; without the norm all distances start almost equal (*ours*).
            self.body: nn.Module = nn.Sequential(backbone, nn.LayerNorm(width))
        else:
            width = config.hidden
            self.body = nn.Sequential(nn.Linear(vector, width), nn.GELU())
        self.project = nn.Linear(width, config.embedding)

    def forward(self, inputs: Tensor) -> Tensor:
        """``[B, C, S, S]`` or ``[B, F]`` to ``[B, D]``."""
        features_BD: Tensor = self.project(self.body(inputs)).float()
        return features_BD


def _backbone(config: Config) -> tuple[nn.Module, int]:
    """Image encoder and its number of features: one of ``BACKBONES``, or any network of timm.

    Raises:
        UsageError: There is no such network, or it does not take images of that size.
    """
    if config.backbone in BACKBONES:
        return build_backbone(config.backbone, config.channels, config.size, config.width)
    import timm  # slow to import

    if not timm.is_model(config.backbone):
        raise UsageError(
            f"backbone must be one of {', '.join(BACKBONES)}, or a network of timm; got {config.backbone!r}"
        )
    configuration: Any = timm.get_pretrained_cfg(config.backbone)
    options: dict[str, Any] = {"in_chans": config.channels, "num_classes": 0}
    if configuration.fixed_input_size:
        options["img_size"] = config.size
    try:
        model = timm.create_model(config.backbone, pretrained=False, **options).eval()
        with torch.no_grad():
            features = model(torch.zeros(1, config.channels, config.size, config.size))
    except (TypeError, AssertionError, ValueError, RuntimeError) as error:
        raise UsageError(
            f"{config.backbone} takes no images of {config.channels} bands and {config.size} x {config.size} pixels: "
            f"{error}"
        ) from error
    return model.train(), int(features.shape[1])


class Difference(nn.Module):
    """f^d: the difference ``y_i - y_j`` of two targets, from their features.

    ``pair`` is ``(g(i, j) - g(j, i)) / 2`` with a network g of both; ``single`` is ``v(i) - v(j)``, which is plain
    regression up to a constant. Both are antisymmetric (*ours*: the form of the paper is not known).
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.form = config.difference
        self.first = nn.Linear(config.embedding, config.hidden)
        if self.form == "pair":
            self.second = nn.Linear(config.embedding, config.hidden, bias=False)
        self.last = nn.Linear(config.hidden, 1, bias=False)

    def one_way(self, first_ND: Tensor, second_MD: Tensor) -> Tensor:
        """g of all pairs ``[N, M]``."""
        return self._last(self.first(first_ND)[:, None] + self.second(second_MD)[None])

    def forward(self, first_ND: Tensor, second_MD: Tensor) -> Tensor:
        """Differences ``[N, M]``: of each of the first set to each of the second one."""
        if self.form == "single":
            return self._last(self.first(first_ND))[:, None] - self._last(self.first(second_MD))[None]
        return (self.one_way(first_ND, second_MD) - self.one_way(second_MD, first_ND).T) / 2

    def near(self, first_BD: Tensor, second_BKD: Tensor) -> Tensor:
        """Differences ``[B, K]``: of each input to K others of its own, in the memory that these take."""
        if self.form == "single":
            return self._last(self.first(first_BD))[:, None] - self._last(self.first(second_BKD))
        there_BK = self._last(self.first(first_BD)[:, None] + self.second(second_BKD))
        back_BK = self._last(self.first(second_BKD) + self.second(first_BD)[:, None])
        return (there_BK - back_BK) / 2

    def _last(self, hidden: Tensor) -> Tensor:
        value: Tensor = self.last(nn.functional.gelu(hidden))
        return value.squeeze(-1)


class Twin(nn.Module):
    """phi and f^d: the network of DML-S2R and TNNR."""

    def __init__(self, config: Config, vector: int | None) -> None:
        super().__init__()
        self.encoder = Encoder(config, vector)
        self.difference = Difference(config)


class ValueNetwork(nn.Module):
    """Mean and logarithm of the variance of a target: the network of the baselines that predict directly."""

    def __init__(self, config: Config, vector: int | None) -> None:
        super().__init__()
        self.encoder = Encoder(config, vector)
        self.drop = nn.Dropout(config.dropout if config.system == "ucvme" else 0.0)
        self.first = nn.Linear(config.embedding, config.hidden)
        self.last = nn.Linear(config.hidden, 2)

    def head(self, features_BD: Tensor) -> Tensor:
        """``[B, D]`` to ``[B, 2]``: mean and log variance."""
        outputs_B2: Tensor = self.last(nn.functional.gelu(self.first(self.drop(features_BD))))
        return outputs_B2

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs to ``[B, 2]``."""
        return self.head(self.encoder(inputs))


def stacked(images: Mapping[str, Tensor], sensors: tuple[str, ...]) -> Tensor:
    """Image ``[B, C, S, S]`` of all bands, in the order of ``sensors``.

    Raises:
        UsageError: A sensor is missing.
    """
    if missing := [sensor for sensor in sensors if sensor not in images]:
        raise UsageError(f"this network reads {' and '.join(sensors)} together; missing: {', '.join(missing)}")
    return torch.cat([images[sensor] for sensor in sensors], dim=1)
