"""Launchers of training: a subprocess on this machine, or a Kubeflow TrainJob on a cluster.

Both run the same command, ``eoforge train METHOD --data TABLE@VERSION --out RUN ...``.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eoforge.bundle import load_bundle
from eoforge.errors import EoforgeError
from pipelines.training import TAIL_LINES, ClusterOptions, Launcher, TrainingJob, json_object, training_error
from pipelines.trainjob import ClusterLauncher

if TYPE_CHECKING:
    from kfp.dsl import TaskConfig

    from eoforge.bundle import Bundle


def launcher_for(task_config: TaskConfig, options: ClusterOptions) -> Launcher:
    """Launcher of the environment of a step: Kubeflow sets the resources of the task, kfp.local leaves them empty."""
    if not task_config.resources:
        return LocalLauncher()
    return ClusterLauncher(options, task_config)


@dataclass(frozen=True)
class LocalLauncher:
    """Launcher of a subprocess on this machine, under torchrun for more than one process."""

    processes: int = 1

    def command(self, job: TrainingJob) -> list[str]:
        """Command line of the training."""
        return [sys.executable, "-m", *torchrun(self.processes), *job.arguments()]

    def train(self, job: TrainingJob, *, timeout_s: int) -> Bundle:
        """See :class:`pipelines.training.Launcher`."""
        print("$", " ".join(self.command(job)), flush=True)
        tail: deque[str] = deque(maxlen=TAIL_LINES)
        # Its own session, so that the workers of torchrun end with it.
        with subprocess.Popen(
            self.command(job), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        ) as process:
            timer = threading.Timer(timeout_s, _kill_group, (process.pid,))
            timer.start()
            try:
                for line in process.stdout or ():
                    print(line, end="", flush=True)
                    tail.append(line.rstrip())
                code = process.wait()
            except BaseException:
                _kill_group(process.pid)
                raise
            finally:
                timed_out = not timer.is_alive()
                timer.cancel()
        if code == 0:
            return load_bundle(_result(tail)["bundle"])
        raise training_error(job, f"exit code {code}" + (f" after {timeout_s} s" if timed_out else ""), tail)


def torchrun(processes: int) -> list[str]:
    """Module and options before the arguments of the CLI: the CLI for one process, torchrun for several."""
    if processes == 1:
        return ["eoforge.cli"]
    return ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "--module", "eoforge.cli"]


def _result(tail: deque[str]) -> dict[str, Any]:
    for line in reversed(tail):
        if "bundle" in (found := json_object(line)):
            return found
    raise EoforgeError("training ended without printing its bundle; its last lines:\n" + "\n".join(tail))


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
