"""Starts training and waits for it: a subprocess on this machine, a Kubeflow TrainJob on a cluster.

Both run the same command, ``eoforge train METHOD --data TABLE@VERSION --out RUN ...``. The folder of a run follows from
what is trained on what, so a step that is repeated finds the checkpoints, or the finished bundle, of the first attempt.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from eoforge import errors
from eoforge.bundle import code_revision, load_bundle
from eoforge.data.store import TableRef, join, open_table
from eoforge.errors import EoforgeError, UsageError
from pipelines.settings import GPU_RESOURCE, IMAGE, SERVICE_ACCOUNT, TRAINING_RUNTIME

if TYPE_CHECKING:
    from kfp.dsl import TaskConfig

    from eoforge.bundle import Bundle

TAIL_LINES = 40


@dataclass(frozen=True)
class TrainingJob:
    """One training run, completely determined: the same job gets the same name and folder.

    Attributes:
        method: Name of the method.
        table: Patches table at a version.
        runs: Where runs are kept.
        preset: ``tiny`` or ``paper``.
        overrides: ``key=value`` texts.
        revision: Code that trains.
    """

    method: str
    table: TableRef
    runs: str
    preset: str
    overrides: tuple[str, ...] = ()
    revision: str = field(default_factory=code_revision)

    @classmethod
    def plan(
        cls, *, method: str, table: str, version: str, runs: str, preset: str, overrides: tuple[str, ...]
    ) -> TrainingJob:
        """Pins the newest version if none is given.

        Raises:
            NotFound: There is no such table or version.
            UsageError: ``version`` is no number.
        """
        if version and not version.isdigit():
            raise UsageError(f"version must be a number, or empty for the newest; got {version!r}")
        opened = open_table(TableRef(table, int(version) if version else None))
        return cls(method, TableRef(table, opened.version), runs, preset, overrides)

    @property
    def name(self) -> str:
        """A name that Kubernetes takes, at most 40 characters."""
        parts = [self.method, str(self.table), self.runs, self.preset, *self.overrides, self.revision]
        digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]
        return f"{self.method.replace('_', '-')[:27]}-{digest}"

    @property
    def out(self) -> str:
        """Folder of this run."""
        return join(self.runs, self.name)

    def arguments(self) -> list[str]:
        """Arguments for ``python -m eoforge.cli``."""
        options = ["--data", str(self.table), "--out", self.out, "--preset", self.preset, "--json"]
        return ["train", self.method, *options, *self.overrides]


@dataclass(frozen=True)
class ClusterOptions:
    """How a TrainJob is placed.

    Attributes:
        image: Image of the training pods.
        runtime: Name of the ClusterTrainingRuntime.
        service_account: Service account of the training pods.
        nodes: Number of pods.
        keep_job: Keep the TrainJob after success.
        gpus: GPUs of each pod, one process for each.
        cpu: CPU limit of each pod, and as request half of it.
        memory: Memory limit and request of each pod.
    """

    image: str = IMAGE
    runtime: str = TRAINING_RUNTIME
    service_account: str = SERVICE_ACCOUNT
    nodes: int = 1
    keep_job: bool = False
    gpus: int = 0
    cpu: str = "8"
    memory: str = "32Gi"

    @property
    def resources(self) -> dict[str, dict[str, str]]:
        """Requests and limits of one training pod."""
        gpu = {GPU_RESOURCE: str(self.gpus)} if self.gpus else {}
        return {
            "requests": {"cpu": f"{int(self.cpu) * 500}m", "memory": self.memory},
            "limits": {"cpu": self.cpu, "memory": self.memory, **gpu},
        }


class Launcher(Protocol):
    """Runs a training job to its end."""

    def train(self, job: TrainingJob, *, timeout_s: int) -> Bundle:
        """Trains and returns the bundle.

        Raises:
            EoforgeError: Training failed or took longer than ``timeout_s``; the message carries the reason.
        """


def launcher_for(task_config: TaskConfig, options: ClusterOptions) -> Launcher:
    """The launcher for where this step runs: Kubeflow fills in the task's resources, kfp.local leaves them empty."""
    if not task_config.resources:
        return LocalLauncher()
    from pipelines.trainjob import ClusterLauncher

    return ClusterLauncher(options, task_config)


@dataclass(frozen=True)
class LocalLauncher:
    """Trains in a subprocess on this machine, under torchrun if there is more than one process."""

    processes: int = 1

    def command(self, job: TrainingJob) -> list[str]:
        """The command line."""
        return [sys.executable, "-m", *torchrun(self.processes), *job.arguments()]

    def train(self, job: TrainingJob, *, timeout_s: int) -> Bundle:
        """See :class:`Launcher`."""
        print("$", " ".join(self.command(job)), flush=True)
        tail: deque[str] = deque(maxlen=TAIL_LINES)
        # A session of its own, so that torchrun's workers end with it.
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
    """Module and options in front of the CLI's arguments: plain for one process, torchrun for several."""
    if processes == 1:
        return ["eoforge.cli"]
    return ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "--module", "eoforge.cli"]


def training_error(job: TrainingJob, outcome: str, tail: deque[str]) -> EoforgeError:
    """The error of a failed training: the CLI's own message and kind if it printed one, else its last lines."""
    for line in reversed(tail):
        reported = _json_object(line).get("error")
        if isinstance(reported, dict):
            kind = _error_type(str(reported.get("reason", "")))
            return kind(f"training {job.name} failed: {reported.get('message')}")
    return EoforgeError(f"training {job.name} failed ({outcome}). Its last lines:\n" + "\n".join(tail))


def _error_type(reason: str) -> type[EoforgeError]:
    kinds = [t for t in vars(errors).values() if isinstance(t, type) and issubclass(t, EoforgeError)]
    return next((t for t in kinds if t.reason == reason), EoforgeError)


def _result(tail: deque[str]) -> dict[str, Any]:
    for line in reversed(tail):
        if "bundle" in (found := _json_object(line)):
            return found
    raise EoforgeError("training ended without naming its bundle; its last lines:\n" + "\n".join(tail))


def _json_object(line: str) -> dict[str, Any]:
    if not line.startswith("{"):
        return {}
    try:
        value = json.loads(line)
    except json.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
