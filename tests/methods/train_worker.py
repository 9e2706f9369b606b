"""A training process, to be killed or one of several: TABLE OUT [--method NAME] [--die-after N] key=value ..."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

from eoforge.methods import get_method, training
from eoforge.storage.addresses import TableRef


def ending_step(steps: int, end: Callable[[], object]) -> Callable[..., None]:
    """``on_train_batch_end`` of the trainer that calls ``end`` after ``steps`` batches."""
    done = 0
    step = training._Engine.on_train_batch_end

    def counted(self: Any, *args: Any) -> None:
        nonlocal done
        step(self, *args)
        done += 1
        if done == steps:
            end()

    return counted


def killed_after(steps: int, train: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Call of ``train`` that ends after ``steps`` batches by an exception that no error handler catches."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(training._Engine, "on_train_batch_end", ending_step(steps, interrupt))
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            train()


def main(table: str, out: str, *rest: str) -> None:
    torch.set_num_threads(1)
    name = "ss_cm_rsir"
    if rest[:1] == ("--method",):
        name, rest = rest[1], rest[2:]
    if rest[:1] == ("--die-after",):
        die_after, rest = rest[1], rest[2:]
        # As for a pod out of memory: no handler runs.
        end = ending_step(int(die_after), lambda: os.kill(os.getpid(), signal.SIGKILL))
        training._Engine.on_train_batch_end = end
    method = get_method(name)
    overrides = dict(pair.split("=", 1) for pair in rest)
    uri = method.train(TableRef.parse(table), out, method.config("tiny", overrides)).uri
    sys.stdout.write(f"bundle: {uri}\n")  # one write, so that lines of two ranks do not mix


if __name__ == "__main__":
    main(*sys.argv[1:])
