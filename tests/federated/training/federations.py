"""Federations small enough for a test.

:class:`QuadraticFederation`: silo i minimises ``1/2 sum_k A_ik (w_k - a_ik)^2`` in float64, so that every round can be
written out and compared to the last digits. :class:`NetworkFederation`: three silos that train a network with batch
normalisation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from eoforge.federated import simulate
from eoforge.federated.strategies.base import Averaging
from eoforge.federated.strategies.registry import make_strategy
from eoforge.federated.strategy import SiloInfo
from eoforge.federated.training.local import LocalSettings, SiloTrainer
from eoforge.federated.training.specs import specs_of
from eoforge.nn.classifier import Network

START = np.array([1.0, -2.0, 0.5])


class VectorNetwork(Network):
    """Network of one parameter vector, which is also its representation."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.from_numpy(START.copy()))

    def represent(self, images: Tensor) -> Tensor:
        return self.w[None]

    def classify(self, representation: Tensor) -> Tensor:
        return representation


class QuadraticData:
    """Data of one silo: curvatures A, optimum a, and the number of steps per epoch."""

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


class QuadraticFederation:
    """QuadraticData silos under one strategy."""

    def __init__(self, strategy: Averaging, problems: Sequence[QuadraticData], **settings: Any) -> None:
        self.strategy, self.problems = strategy, list(problems)
        self.silos = [SiloInfo(f"silo-{i}", p.examples) for i, p in enumerate(problems)]
        self.settings = LocalSettings(**{"learning_rate": 0.1, **settings})
        self.trainers = {
            s.id: SiloTrainer(strategy, VectorNetwork, p, self.settings)
            for s, p in zip(self.silos, problems, strict=True)
        }
        self.state = simulate.begin(strategy, specs_of(VectorNetwork()), {"w": START}, self.silos)

    def round(self, *who: int) -> np.ndarray:
        """One round with the numbered silos (all by default); w afterwards."""
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


def three_silos(steps: int = 3) -> list[QuadraticData]:
    """Three non-IID silos: curvatures, optima and sizes differ."""
    return [
        QuadraticData([1.0, 3.0, 0.5], [2.0, 0.0, -1.0], examples=10, steps=steps),
        QuadraticData([4.0, 0.5, 1.0], [-1.0, 1.0, 0.0], examples=30, steps=steps),
        QuadraticData([0.5, 1.0, 4.0], [0.5, -3.0, 2.0], examples=20, steps=steps),
    ]


class BatchNormNetwork(Network):
    """Linear, batch norm, linear: a network with weights, gamma and beta, running statistics, and a counter."""

    def __init__(self, projection: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first = nn.Linear(3, 4)
            self.norm = nn.BatchNorm1d(4)
            self.projection: nn.Module = nn.Linear(4, projection) if projection else nn.Identity()
            self.head = nn.Linear(projection or 4, 2)

    def represent(self, images: Tensor) -> Tensor:
        out: Tensor = self.projection(self.norm(self.first(images)).relu())
        return out

    def classify(self, representation: Tensor) -> Tensor:
        out: Tensor = self.head(representation)
        return out


class GaussianData:
    """Data of one silo: normally distributed points around a centre of its own."""

    def __init__(self, number: int, examples: int = 16) -> None:
        generator = torch.Generator().manual_seed(number)
        self.x = torch.randn(examples, 3, generator=generator) + number
        self.y = (self.x.sum(dim=1, keepdim=True) > 3 * number).float().repeat(1, 2)
        self.examples = examples

    def batches(self, round_number: int, epoch: int) -> Iterator[Any]:
        yield from zip(self.x.split(8), self.y.split(8), strict=True)

    def loss(self, network: Network, batch: Any) -> tuple[Tensor, Any, Any]:
        z = network.represent(batch[0])
        return functional.binary_cross_entropy_with_logits(network.classify(z), batch[1]), batch[0], z

    def evaluate(self, network: Network) -> Mapping[str, float]:
        with torch.no_grad():
            return {
                "examples": float(self.examples),
                "logit": float(network.classify(network.represent(self.x)).mean()),
            }


class NetworkFederation:
    """Three silos that train :class:`BatchNormNetwork`."""

    def __init__(self, name: str, **options: Any) -> None:
        self.strategy = make_strategy(name, options)
        self.silos = [SiloInfo(f"silo-{i}", 16 + 8 * i) for i in range(3)]
        self.data = {s.id: GaussianData(i, s.examples) for i, s in enumerate(self.silos)}

        def network() -> BatchNormNetwork:
            return BatchNormNetwork(self.strategy.projection)

        self.trainers = {
            i: SiloTrainer(self.strategy, network, d, LocalSettings(learning_rate=0.05)) for i, d in self.data.items()
        }
        model = network()
        self.specs = specs_of(model)
        arrays = {n: t.numpy().copy() for n, t in model.state_dict().items()}
        self.state = simulate.begin(self.strategy, self.specs, arrays, self.silos)

    def round(self, *who: int) -> simulate.RoundFigures:
        chosen = [f"silo-{i}" for i in who] or None
        return simulate.run_round(self.strategy, self.state, self.silos, self.trainers, chosen)
