"""Training job of a pipeline: its identity, its command line, and the error of a failed one.

The folder of a run is a function of the job, so a repeated step finds the checkpoints, or the finished bundle, of the
first attempt.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from eoforge import errors
from eoforge.bundle import code_revision
from eoforge.errors import EoforgeError, UsageError
from eoforge.storage.addresses import TableRef, join, open_table
from pipelines.settings import GPU_RESOURCE, IMAGE, SERVICE_ACCOUNT, TRAINING_RUNTIME

if TYPE_CHECKING:
    from eoforge.bundle import Bundle

TAIL_LINES = 40


@dataclass(frozen=True)
class TrainingJob:
    """Training job, which determines the name and the folder of its run.

    Attributes:
        method: Name of the method.
        table: Patches table at a version.
        runs: Folder of the runs.
        preset: ``tiny`` or ``paper``.
        overrides: ``key=value`` texts.
        revision: Revision of the training code.
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
        """Job at a version of the table; the newest is pinned if none is given.

        Raises:
            NotFound: The table or version does not exist.
            UsageError: ``version`` is no number.
        """
        if version and not version.isdigit():
            raise UsageError(f"version must be a number, or empty for the newest; got {version!r}")
        opened = open_table(TableRef(table, int(version) if version else None))
        return cls(method, TableRef(table, opened.version), runs, preset, overrides)

    @property
    def name(self) -> str:
        """Name of the job, valid in Kubernetes, at most 40 characters."""
        parts = [self.method, str(self.table), self.runs, self.preset, *self.overrides, self.revision]
        digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]
        return f"{self.method.replace('_', '-')[:27]}-{digest}"

    @property
    def out(self) -> str:
        """Folder of the run."""
        return join(self.runs, self.name)

    def arguments(self) -> list[str]:
        """Arguments for ``python -m eoforge.cli``."""
        options = ["--data", str(self.table), "--out", self.out, "--preset", self.preset, "--json"]
        return ["train", self.method, *options, *self.overrides]


@dataclass(frozen=True)
class ClusterOptions:
    """Cluster options of a TrainJob.

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
    """Interface of a launcher, which runs a training job to its end."""

    def train(self, job: TrainingJob, *, timeout_s: int) -> Bundle:
        """Bundle of a training job, which is run to its end.

        Raises:
            EoforgeError: Training failed or took longer than ``timeout_s``; the message gives the reason.
        """


def training_error(job: TrainingJob, outcome: str, tail: deque[str]) -> EoforgeError:
    """Error of a failed training: message and type that the CLI printed, otherwise its last lines."""
    for line in reversed(tail):
        reported = json_object(line).get("error")
        if isinstance(reported, dict):
            kind = _error_type(str(reported.get("reason", "")))
            return kind(f"training {job.name} failed: {reported.get('message')}")
    return EoforgeError(f"training {job.name} failed ({outcome}). Its last lines:\n" + "\n".join(tail))


def _error_type(reason: str) -> type[EoforgeError]:
    kinds = [t for t in vars(errors).values() if isinstance(t, type) and issubclass(t, EoforgeError)]
    return next((t for t in kinds if t.reason == reason), EoforgeError)


def json_object(line: str) -> dict[str, Any]:
    """JSON object of a line of output; empty for any other line."""
    if not line.startswith("{"):
        return {}
    try:
        value = json.loads(line)
    except json.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}
