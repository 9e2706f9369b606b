"""A federation small enough to compute by hand: silo ``i`` minimises ``|w - c_i|^2 / 2`` by plain gradient descent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.federated.strategy import LocalResult, Task
from eoforge.storage.tensorfile import Array, write_file

SHAPES: dict[str, tuple[int, ...]] = {"head.weight": (7, 3), "head.bias": (7,), "scale": ()}
RATE, STEPS = 0.25, 2


def centre(silo: str, name: str, shape: tuple[int, ...]) -> Array:
    """Where silo ``silo`` pulls tensor ``name``."""
    seed = sum(map(ord, silo + name))
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


class Quadratic:
    """A :class:`~eoforge.federated.strategy.LocalTrainer`.

    Args:
        samples: What it says it was trained on.
        before: Called before each training, to fail or wait on purpose.
        only: Keeps to tensors whose names begin with one of these.
    """

    def __init__(self, samples: int = 10, before: Callable[[Task], None] | None = None) -> None:
        self.samples, self.before, self.trained = samples, before, []  # type: list[int]

    evaluates = True

    def train(self, task: Task, state: Mapping[str, Array]) -> LocalResult:
        if self.before is not None:
            self.before(task)
        self.trained.append(task.round)
        tensors: dict[str, Array] = {}
        loss = 0.0
        for full, start in task.tensors.items():
            name = full.removeprefix("model/")
            target, w = centre(task.silo, name, start.shape), np.array(start)
            loss += float(((w - target) ** 2).sum()) / 2
            for _ in range(STEPS):
                w = w - np.float32(RATE) * (w - target)
            tensors[f"delta/{name}"] = (w - start).astype(np.float32).reshape(start.shape)
        rounds = int(state["rounds"]) if "rounds" in state else 0
        return LocalResult(
            tensors, self.samples, STEPS, {}, {"loss": loss}, {"rounds": np.array(rounds + 1, dtype=np.int64)}
        )

    def evaluate(self, task: Task, state: Mapping[str, Array]) -> Mapping[str, float]:
        far = sum(
            float(np.abs(w - centre(task.silo, n.removeprefix("model/"), w.shape)).sum())
            for n, w in task.tensors.items()
        )
        return {"distance": far, "examples": self.samples}


def write_model(path: Path, shapes: Mapping[str, tuple[int, ...]] | None = None) -> str:
    """An initial model of zeros."""
    write_file(path, {name: np.zeros(shape, np.float32) for name, shape in (shapes or SHAPES).items()})
    return str(path)


def spec(model: pb.Manifest, **changes: Any) -> pb.RunSpec:
    """A run of two rounds with everyone; ``policy`` and ``privacy`` are merged in, other fields set."""
    policy: dict[str, Any] = {"rounds": 2, "min_silos": 2, "selection": pb.SELECTION_ALL}
    policy |= changes.pop("policy", {})
    made = pb.RunSpec(
        method="quadratic",
        strategy=changes.pop("strategy", "fedavg"),
        policy=pb.RoundPolicy(**policy),
        privacy=pb.PrivacyPolicy(**changes.pop("privacy", {})),
        initial_model=model,
        seed=1,
    )
    options = changes.pop("options", None)
    if options:
        made.strategy_options.update(options)
    for name, value in changes.items():
        if isinstance(value, list):
            getattr(made, name).extend(value)
        else:
            getattr(made, name).CopyFrom(value)
    return made
