"""A federation so small that every round can be written out: silo i minimises ``1/2 sum_k A_ik (w_k - a_ik)^2``.

In float64, so that formulas can be compared to the last digits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from eoforge.federated import simulate
from eoforge.federated.strategy import SiloInfo
from eoforge.methods.fl_rs.base import Averaging
from eoforge.methods.fl_rs.local import LocalSettings, SiloTrainer
from eoforge.methods.fl_rs.model import Network, specs_of

START = np.array([1.0, -2.0, 0.5])


class Point(Network):
    """One parameter vector, and its own image as representation."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.from_numpy(START.copy()))

    def represent(self, images: Tensor) -> Tensor:
        return self.w[None]

    def classify(self, representation: Tensor) -> Tensor:
        return representation


class Quadratic:
    """One silo: curvatures A, optimum a, and how many steps an epoch has."""

    def __init__(self, curvature: Sequence[float], optimum: Sequence[float], examples: int = 1, steps: int = 1) -> None:
        self.curvature, self.optimum = np.array(curvature, dtype=float), np.array(optimum, dtype=float)
        self.examples, self.steps = examples, steps

    def batches(self, round_number: int, epoch: int) -> Iterator[Any]:
        yield from range(self.steps)

    def loss(self, network: Network, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        z = network.represent(torch.zeros(1))
        away = z[0] - torch.from_numpy(self.optimum)
        return (torch.from_numpy(self.curvature) * away.square()).sum() / 2, torch.zeros(1), z

    def gradient(self, w: np.ndarray) -> np.ndarray:
        return self.curvature * (w - self.optimum)

    def evaluate(self, network: Network) -> Mapping[str, float]:
        return {"examples": float(self.examples)}


class Federation:
    """Quadratic silos under one strategy."""

    def __init__(self, strategy: Averaging, problems: Sequence[Quadratic], **settings: Any) -> None:
        self.strategy, self.problems = strategy, list(problems)
        self.silos = [SiloInfo(f"silo-{i}", p.examples) for i, p in enumerate(problems)]
        self.settings = LocalSettings(**{"learning_rate": 0.1, **settings})
        self.trainers = {
            s.id: SiloTrainer(strategy, Point, p, self.settings) for s, p in zip(self.silos, problems, strict=True)
        }
        self.state = simulate.begin(strategy, specs_of(Point()), {"w": START}, self.silos)

    def round(self, *who: int) -> np.ndarray:
        """Runs one round with the numbered silos (all by default) and returns w."""
        chosen = [f"silo-{i}" for i in who] or None
        simulate.run_round(self.strategy, self.state, self.silos, self.trainers, chosen)
        return self.w

    def rounds(self, count: int) -> np.ndarray:
        for _ in range(count):
            self.round()
        return self.w

    @property
    def w(self) -> np.ndarray:
        return self.state.tensors["model/w"]

    def remembered(self, silo: int, group: str) -> np.ndarray:
        return self.state.silos[f"silo-{silo}"][f"{group}/w"]

    def optimum(self) -> np.ndarray:
        """Of the loss over all examples."""
        weights = np.array([p.examples for p in self.problems], dtype=float)[:, None]
        curvatures = np.stack([p.curvature for p in self.problems]) * weights
        return (curvatures * np.stack([p.optimum for p in self.problems])).sum(0) / curvatures.sum(0)


def three(steps: int = 3) -> list[Quadratic]:
    """Non-IID: other curvatures, other optima, other sizes."""
    return [
        Quadratic([1.0, 3.0, 0.5], [2.0, 0.0, -1.0], examples=10, steps=steps),
        Quadratic([4.0, 0.5, 1.0], [-1.0, 1.0, 0.0], examples=30, steps=steps),
        Quadratic([0.5, 1.0, 4.0], [0.5, -3.0, 2.0], examples=20, steps=steps),
    ]
