"""Fixtures of the kernel tests, which run in two processes (docs/architecture.md).

Process 1, plain: reference, opcheck, torch.compile, ahead-of-time compilation. Process 2, ``TRITON_INTERPRET=1``: CPU
tensors through the kernels. Tests that belong to one process only say so (``plain_only``, ``interpreted_only``); the
other process deselects them (and prints how many), so no skip hides anything. GPU cases carry ``@pytest.mark.gpu``.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from kernels._runtime import INTERPRETED

HERE = Path(__file__).parent


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "plain_only: for the process without TRITON_INTERPRET")
    config.addinivalue_line("markers", "interpreted_only: for the process with TRITON_INTERPRET=1")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    other = "plain_only" if INTERPRETED else "interpreted_only"
    gpu = torch.cuda.is_available() and not INTERPRETED
    dropped = {
        i
        for i in items
        if HERE in i.path.parents and (i.get_closest_marker(other) or (i.get_closest_marker("gpu") and not gpu))
    }
    if dropped:
        items[:] = [i for i in items if i not in dropped]
        config.hook.pytest_deselected(items=list(dropped))


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts the kernels that the interpreter runs, by name: proof that a CPU tensor went through them."""
    counter: Counter[str] = Counter()
    if INTERPRETED:
        from triton.runtime.interpreter import GridExecutor

        original = GridExecutor.__call__

        def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
            counter[self.fn.__name__] += 1
            return original(self, *args, **kwargs)

        monkeypatch.setattr(GridExecutor, "__call__", counted)
    return counter


@pytest.fixture
def device() -> str:
    """Where the tests that run everywhere put their tensors: the GPU under ``-m gpu``, else the CPU."""
    return "cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu"


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fills every ``torch.empty`` with NaN (or the greatest integer): an element that no kernel writes shows up."""
    original = torch.empty

    def poisoned_empty(*args: Any, **kwargs: Any) -> torch.Tensor:
        tensor = original(*args, **kwargs)
        if tensor.dtype.is_floating_point:
            return tensor.fill_(float("nan"))
        return tensor.fill_(True if tensor.dtype == torch.bool else torch.iinfo(tensor.dtype).max)

    monkeypatch.setattr(torch, "empty", poisoned_empty)
