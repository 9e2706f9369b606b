"""Cost of the generative branch beside a backbone: parameters, and time of a training step, plain and branched in turn.

python -m benchmarks.label_noise.overhead [--backbone resnet50] [--batch 8] [--steps 5] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from eoforge.data.labels import NUM_CLASSES
from eoforge.methods.noise_robust.objective import Objective, View
from eoforge.methods.noise_robust.settings import GRID, SVAE, NoiseSettings, build_objective
from eoforge.nn.backbones import build_backbone

BANDS, SIDE = 10, 120
NAMES = ("plain", GRID, SVAE)


def _parameters(*modules: nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


def _step(name: str, backbone: str, images: Tensor, labels: Tensor) -> tuple[Callable[[], None], int]:
    torch.manual_seed(0)
    body, features = build_backbone(backbone, BANDS, SIDE)
    head = nn.Linear(features, NUM_CLASSES)
    objective: Objective = build_objective(
        name, NoiseSettings(), "multi", features=features, outputs=NUM_CLASSES, samples=len(images)
    )
    optimiser = torch.optim.AdamW([*body.parameters(), *head.parameters(), *objective.parameters()])
    rows = torch.arange(len(images))

    def step() -> None:
        loss = objective([View(body(images), head)], labels, rows, 0)["loss"]
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()

    return step, _parameters(body, head, objective)


def measure(backbone: str, batch: int, steps: int) -> dict[str, Any]:
    """Parameters and median seconds of a step, of CPU and of the clock, and what each method adds to the plain loss."""
    images, labels = torch.randn(batch, BANDS, SIDE, SIDE), (torch.rand(batch, NUM_CLASSES) < 0.15).float()
    made = {name: _step(name, backbone, images, labels) for name in NAMES}
    cpu: dict[str, list[float]] = {name: [] for name in NAMES}
    clock: dict[str, list[float]] = {name: [] for name in NAMES}
    for turn in range(steps + 1):
        for name, (step, _) in made.items():
            began, began_cpu = time.perf_counter(), time.process_time()
            step()
            if turn:  # the first step allocates
                clock[name].append(time.perf_counter() - began)
                cpu[name].append(time.process_time() - began_cpu)
    rows = {}
    for name, (_, parameters) in made.items():
        plain = made["plain"][1]
        rows[name] = {
            "parameters": parameters,
            "more_parameters": parameters / plain - 1,
            "cpu_seconds": median(cpu[name]),
            "seconds": median(clock[name]),
            "more_cpu": median(a / b for a, b in zip(cpu[name], cpu["plain"], strict=True)) - 1,
        }
    return {
        "backbone": backbone,
        "batch": batch,
        "side": SIDE,
        "steps": steps,
        "load": os.getloadavg()[0],
        "rows": rows,
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    result = measure(args.backbone, args.batch, args.steps)
    print(json.dumps(result, indent=2))
    if args.out:
        args.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
