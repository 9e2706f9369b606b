"""Networks with reproducible initial weights, and the device they run on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from eoforge.nn.seeds import derive_seed

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def seeded(build: Callable[[], ModuleT], seed: int) -> ModuleT:
    """Builds a network whose initial weights depend on ``seed`` alone; torch's own generator stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed("weights", seed))
        return build()


def choose_device(device: str | None) -> torch.device:
    """``device``, or CUDA where there is one."""
    return torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
