"""Training that is killed after some steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from eoforge.methods import training


def killed_after(steps: int, train: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Call of ``train`` that ends after ``steps`` training batches by an exception that no error handler catches."""
    done = 0
    step = training._Engine.on_train_batch_end

    def dying(self: Any, *args: Any) -> None:
        nonlocal done
        step(self, *args)
        done += 1
        if done == steps:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(training._Engine, "on_train_batch_end", dying)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            train()
