"""Hypernetwork of pFedLA: from a silo's embedding to mixing weights over silos, one row per layer; NumPy, float64.

::

    v [E] -> FC ReLU -> FC ReLU -> FC ReLU -> f [H] -> one FC per layer -> u [L, N] -> ReLU -> rows / sum -> A

The coordinator runs it without torch, so the backward pass is written out here; a test compares it with autograd.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from eoforge.nn.seeds import derive_seed

F64 = npt.NDArray[np.float64]
EMBEDDING, HIDDEN, DEPTH = 100, 100, 3
PARTS: tuple[str, ...] = ("v", *(f"{kind}{i}" for i in range(DEPTH) for kind in "wb"), "heads", "biases")
"""Names of the weights."""


@dataclass(frozen=True)
class HyperNet:
    """Hypernetwork of one silo.

    Attributes:
        weights: ``v``, ``w0 b0 .. w2 b2`` of the body, ``heads`` ``[L, N, H]`` and ``biases`` ``[L, N]``.
    """

    weights: dict[str, F64]

    @classmethod
    def fresh(cls, seed: int, silo: str, layers: int, silos: int) -> HyperNet:
        """Hypernetwork with random weights, a function of seed and silo.

        Weights are uniform in plus or minus 1 / sqrt(inputs), as usual for linear layers; biases of the heads are 1, so
        that every silo has a weight at first and gradients pass the ReLU (*ours*).
        """
        rng = np.random.Generator(np.random.Philox(key=derive_seed("hypernet", seed, silo)))
        weights: dict[str, F64] = {"v": rng.standard_normal(EMBEDDING)}
        inputs = EMBEDDING
        for i in range(DEPTH):
            bound = 1 / np.sqrt(inputs)
            weights[f"w{i}"] = rng.uniform(-bound, bound, (HIDDEN, inputs))
            weights[f"b{i}"] = rng.uniform(-bound, bound, HIDDEN)
            inputs = HIDDEN
        bound = 1 / np.sqrt(HIDDEN)
        weights["heads"] = rng.uniform(-bound, bound, (layers, silos, HIDDEN))
        weights["biases"] = np.ones((layers, silos))
        return cls(weights)

    def mixing(self) -> F64:
        """Mixing weights A ``[L, N]`` of the silos' models in this silo's start, layer by layer; rows sum to 1."""
        return self._forward()[-1]

    def descend(self, gradient_LN: F64, rate: float) -> HyperNet:
        """Hypernetwork after one step of gradient descent, from the gradient of the loss with respect to A."""
        gradients = self._backward(gradient_LN)
        return HyperNet({name: value - rate * gradients[name] for name, value in self.weights.items()})

    def _forward(self) -> tuple[list[F64], F64, F64]:
        activations = [self.weights["v"]]
        for i in range(DEPTH):
            activations.append(np.maximum(self.weights[f"w{i}"] @ activations[-1] + self.weights[f"b{i}"], 0))
        raw_LN = self.weights["heads"] @ activations[-1] + self.weights["biases"]
        positive_LN = np.maximum(raw_LN, 0)
        sums_L1 = positive_LN.sum(axis=1, keepdims=True)
        # A row of zeros cannot be normalised: it becomes the plain mean (*ours*), without gradient.
        mixing_LN = np.where(sums_L1 > 0, positive_LN / np.where(sums_L1 > 0, sums_L1, 1), 1 / raw_LN.shape[1])
        return activations, raw_LN, mixing_LN

    def _backward(self, gradient_LN: F64) -> Mapping[str, F64]:
        activations, raw_LN, mixing_LN = self._forward()
        sums_L1 = np.maximum(raw_LN, 0).sum(axis=1, keepdims=True)
        # d(u / sum u): (g - <g, A>) / sum, through ReLU only where the unit is on
        inner = gradient_LN - (gradient_LN * mixing_LN).sum(axis=1, keepdims=True)
        raw_gradient = np.where((raw_LN > 0) & (sums_L1 > 0), inner / np.where(sums_L1 > 0, sums_L1, 1), 0)
        gradients: dict[str, Any] = {
            "heads": raw_gradient[:, :, None] * activations[-1],
            "biases": raw_gradient,
        }
        flowing = np.einsum("ln,lnh->h", raw_gradient, self.weights["heads"])
        for i in reversed(range(DEPTH)):
            flowing = flowing * (activations[i + 1] > 0)
            gradients[f"w{i}"], gradients[f"b{i}"] = np.outer(flowing, activations[i]), flowing
            flowing = self.weights[f"w{i}"].T @ flowing
        gradients["v"] = flowing
        return gradients
