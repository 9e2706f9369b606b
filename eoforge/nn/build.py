"""Construction of networks with reproducible initial weights, and the choice of a device."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from eoforge.errors import UsageError
from eoforge.nn.seeds import derive_seed

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def seeded(build: Callable[[], ModuleT], seed: int) -> ModuleT:
    """A network from ``build`` whose initial weights depend on ``seed`` only; torch's generator is unchanged."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed("weights", seed))
        return build()


def choose_device(device: str | None) -> torch.device:
    """The device named ``device``; if None, CUDA if available, else the CPU.

    Raises:
        UsageError: torch knows no device of that name.
    """
    try:
        return torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise UsageError(f"expected a device of torch, such as cpu or cuda:0; got {str(device)[:40]!r}") from error
