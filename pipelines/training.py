"""Training job of a pipeline: what is trained on what, its command line, and the error of a failed one.

The folder of a run follows from what is trained on what, so a step that is repeated finds the checkpoints, or the
finished bundle, of the first attempt.
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
from pipelines.settings import IMAGE, SERVICE_ACCOUNT, TRAINING_RUNTIME

if TYPE_CHECKING:
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
    """

    image: str = IMAGE
    runtime: str = TRAINING_RUNTIME
    service_account: str = SERVICE_ACCOUNT
    nodes: int = 1
    keep_job: bool = False


class Launcher(Protocol):
    """Runs a training job to its end."""

    def train(self, job: TrainingJob, *, timeout_s: int) -> Bundle:
        """Trains and returns the bundle.

        Raises:
            EoforgeError: Training failed or took longer than ``timeout_s``; the message carries the reason.
        """


def training_error(job: TrainingJob, outcome: str, tail: deque[str]) -> EoforgeError:
    """The error of a failed training: the CLI's own message and kind if it printed one, else its last lines."""
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
    """The JSON object in a line of output; empty if the line holds none."""
    if not line.startswith("{"):
        return {}
    try:
        value = json.loads(line)
    except json.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}
