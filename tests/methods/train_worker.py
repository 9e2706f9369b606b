"""A training process, to be killed or as one of several ranks: TABLE OUT [--die-after N] key=value ..."""

from __future__ import annotations

import os
import signal
import sys

import torch

from eoforge.methods import get_method, training
from eoforge.storage.addresses import TableRef


def main(table: str, out: str, *rest: str) -> None:
    torch.set_num_threads(1)
    if rest[:1] == ("--die-after",):
        die_after, rest = int(rest[1]), rest[2:]
        done = 0
        step = training._Engine.on_train_batch_end

        def killed_step(self, *args: object) -> None:
            nonlocal done
            step(self, *args)
            done += 1
            if done == die_after:
                os.kill(os.getpid(), signal.SIGKILL)  # as for a pod out of memory: no handler runs

        training._Engine.on_train_batch_end = killed_step
    method = get_method("ss_cm_rsir")
    overrides = dict(pair.split("=", 1) for pair in rest)
    uri = method.train(TableRef.parse(table), out, method.config("tiny", overrides)).uri
    sys.stdout.write(f"bundle: {uri}\n")  # one write, so that lines of two ranks do not mix


if __name__ == "__main__":
    main(*sys.argv[1:])
