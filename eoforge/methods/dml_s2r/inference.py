"""Predictions after training: by neighbours among the labelled inputs, by a value head, or by COREG's two regressors.

Shape legend: B inputs, R labelled inputs that are remembered (references), D features. Values are standardised.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from eoforge.methods.dml_s2r.config import Config
from eoforge.methods.dml_s2r.coreg import POWERS, co_train, neighbour_mean
from eoforge.methods.dml_s2r.model import Twin, ValueNetwork
from eoforge.nn.build import seeded
from eoforge.nn.seeds import derive_seed

ANCHORS = 500
"""Labelled inputs from which TNNR predicts: all of them, up to this number of the nearest."""


class Estimate(NamedTuple):
    """Values ``[B]`` and their spread ``[B]``, which is 0 where a system knows none."""

    value: Tensor
    spread: Tensor


class Inference(nn.Module, ABC):
    """What a bundle holds.

    Attributes:
        pool: Number of unlabelled inputs that :meth:`remember` wants to see.
        remembered: Names of the buffers that :meth:`remember` fills.
    """

    pool = 0
    remembered: tuple[str, ...] = ()

    @abstractmethod
    def encode(self, inputs: Tensor) -> Tensor:
        """Inputs to encodings ``[B, E]``, of which all else is made."""

    @abstractmethod
    def decide(self, encoded_BE: Tensor) -> Estimate:
        """Estimates from encodings."""

    def remember(self, encoded_RE: Tensor, values_R: Tensor, pool_PE: Tensor) -> None:
        """Takes the labelled inputs, and ``pool`` unlabelled ones, by their encodings; after training.

        Args:
            encoded_RE: Labelled inputs.
            values_R: Their values.
            pool_PE: Unlabelled inputs.
        """

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        """Loads weights; buffers take the number of inputs that was remembered, which no setting names."""
        for name in self.remembered:
            if (stored := state_dict.get(prefix + name)) is not None:
                setattr(self, name, torch.empty_like(stored, device=self.get_buffer(name).device))
        super()._load_from_state_dict(state_dict, prefix, *rest)


class Direct(Inference):
    """Mean over value networks; the spread is their variance and disagreement where they learn a variance (UCVME)."""

    def __init__(self, networks: Sequence[ValueNetwork], variance: bool) -> None:
        super().__init__()
        self.networks, self.variance = nn.ModuleList(networks), variance

    def encode(self, inputs: Tensor) -> Tensor:
        return torch.cat([network(inputs) for network in self.networks], dim=1).float()

    def decide(self, encoded_BE: Tensor) -> Estimate:
        outputs_BN2 = encoded_BE.reshape(len(encoded_BE), -1, 2)
        value_B = outputs_BN2[..., 0].mean(dim=1)
        if not self.variance:
            return Estimate(value_B, torch.zeros_like(value_B))
        variance_B = outputs_BN2[..., 1].exp().mean(dim=1) + outputs_BN2[..., 0].var(dim=1, correction=0)
        return Estimate(value_B, variance_B.sqrt())


class Neighbours(Inference):
    """``y(x) = sum_l w_l (y_l + f^d(x, x_l))`` over the nearest labelled inputs by the direction of phi.

    Weights are equal or fall with the distance; the spread is the weighted deviation of the single estimates (*ours*).

    Args:
        twin: phi and f^d.
        neighbours: How many.
        weights: "uniform", or "softmin" of the distance over the mean distance of the neighbours.
    """

    remembered = ("features", "values")
    features: Tensor
    values: Tensor

    def __init__(self, twin: Twin, neighbours: int, weights: str = "uniform") -> None:
        super().__init__()
        self.twin, self.neighbours, self.weights = twin, neighbours, weights
        self.register_buffer("features", torch.zeros(0, twin.encoder.project.out_features))
        self.register_buffer("values", torch.zeros(0))

    def encode(self, inputs: Tensor) -> Tensor:
        features_BD: Tensor = self.twin.encoder(inputs)
        return features_BD

    def nearest(self, features_BD: Tensor) -> tuple[Tensor, Tensor]:
        """Distances and positions ``[B, K]`` of the nearest references."""
        distance_BR = torch.cdist(functional.normalize(features_BD, dim=1), functional.normalize(self.features, dim=1))
        near = distance_BR.topk(min(self.neighbours, len(self.values)), dim=1, largest=False)
        return near.values, near.indices

    def decide(self, encoded_BE: Tensor) -> Estimate:
        distance_BK, near_BK = self.nearest(encoded_BE)
        weight_BK = torch.full_like(distance_BK, 1 / distance_BK.shape[1])
        if self.weights == "softmin":
            scale_B1 = distance_BK.mean(dim=1, keepdim=True).clamp(min=1e-6)
            weight_BK = (-distance_BK / scale_B1).softmax(dim=1)
        estimate_BK = self.values[near_BK] + self.twin.difference.near(encoded_BE, self.features[near_BK])
        value_B = (weight_BK * estimate_BK).sum(dim=1)
        spread_B = (weight_BK * (estimate_BK - value_B[:, None]).square()).sum(dim=1).sqrt()
        return Estimate(value_B, spread_B)

    def remember(self, encoded_RE: Tensor, values_R: Tensor, pool_PE: Tensor) -> None:
        self.features, self.values = encoded_RE, values_R


class Coreg(Inference):
    """Mean of two k-nearest-neighbour regressors that labelled inputs for each other (COREG).

    They work on vectors as they are; on images they work on the features of a supervised network (*ours*).
    """

    pool = 1000
    remembered = ("features_0", "values_0", "features_1", "values_1")

    def __init__(self, network: ValueNetwork | None, seed: int) -> None:
        super().__init__()
        self.network, self.seed = network, seed
        for name in self.remembered:
            self.register_buffer(name, torch.zeros(0))

    def encode(self, inputs: Tensor) -> Tensor:
        encoded: Tensor = inputs.float() if self.network is None else self.network.encoder(inputs)
        return encoded

    def decide(self, encoded_BE: Tensor) -> Estimate:
        both = [
            neighbour_mean(encoded_BE, self.get_buffer(f"features_{i}"), self.get_buffer(f"values_{i}"), power)
            for i, power in enumerate(POWERS)
        ]
        value_B = torch.stack(both).mean(dim=0)
        return Estimate(value_B, torch.zeros_like(value_B))

    def remember(self, encoded_RE: Tensor, values_R: Tensor, pool_PE: Tensor) -> None:
        known = co_train(encoded_RE, values_R, pool_PE, self.seed)
        for number, (features, values) in enumerate(known):
            setattr(self, f"features_{number}", features)
            setattr(self, f"values_{number}", values)


def build(config: Config, vector: int | None = None) -> Inference:
    """The inference of a system with initial weights, which depend on the seed only.

    Args:
        config: Settings.
        vector: Length of plain vectors; None for images.

    Raises:
        UsageError: The backbone does not take images of that size.
    """
    if config.system in ("dml_s2r", "tnnr"):
        if config.system == "tnnr":
            config = replace(config, difference="pair", neighbours=ANCHORS, weights="uniform")
        twin = seeded(lambda: Twin(config, vector), config.seed)
        return Neighbours(twin, config.neighbours, config.weights)
    if config.system == "coreg":
        network = None if vector is not None else seeded(lambda: ValueNetwork(config, vector), config.seed)
        return Coreg(network, config.seed)
    seeds = [config.seed, derive_seed("second", config.seed)][: 2 if config.system == "ucvme" else 1]
    networks = [seeded(lambda: ValueNetwork(config, vector), seed) for seed in seeds]
    return Direct(networks, variance=config.system == "ucvme")
