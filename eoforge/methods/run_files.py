"""Checkpoints and logs of a training run, on a local path or S3.

::

    <out>/checkpoints/<method>-<run id>/last.ckpt   state, weights and optimiser; replaced atomically
                                        best.ckpt   weights of the best epoch so far
                                        done.json   URI of the bundle of a finished run
    <out>/logs/<method>-<run id>/curve.csv          losses of every step
                                 events.*           the same for TensorBoard

The run id is a digest of method, config and table version: the same command finds its own checkpoints and no others.
Files hold plain tensors and numbers and are read with ``weights_only=True``.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eoforge.errors import DataRefused, NotFound
from eoforge.storage.addresses import TableRef, is_s3, join
from eoforge.storage.objects import ObjectStore

LAST, BEST, DONE, CURVE = "last.ckpt", "best.ckpt", "done.json", "curve.csv"
MAX_CHECKPOINT_BYTES = 64 << 30


@dataclass
class Curve:
    """Losses of every step and figures of every epoch, as rows of name -> number."""

    steps: list[dict[str, float]] = field(default_factory=list)
    epochs: list[dict[str, float]] = field(default_factory=list)

    def add_step(self, row: Mapping[str, float]) -> None:
        """Adds a step's row."""
        self.steps.append(dict(row))

    def end_epoch(self, epoch: int, figures: Mapping[str, float]) -> None:
        """Adds a row: means over the epoch's steps, and the validation ``figures`` as ``validation_...``."""
        rows = [row for row in self.steps if row["epoch"] == epoch]
        means = {n: sum(row[n] for row in rows) / len(rows) for n in rows[0] if n not in ("epoch", "batch", "lr")}
        validation = {f"validation_{name}": value for name, value in figures.items()}
        self.epochs.append({"epoch": epoch, "step": len(self.steps), **means, **validation})

    def csv(self) -> bytes:
        """The rows of the steps as CSV."""
        text = io.StringIO()
        if self.steps:
            writer = csv.DictWriter(text, fieldnames=list(self.steps[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.steps)
        return text.getvalue().encode()


@dataclass
class State:
    """Progress of a run: the next batch, the curve so far, and the best epoch.

    Attributes:
        epoch: Epoch of the next batch.
        number: Number of that batch within the epoch.
        curve: Losses so far.
        best_score: Best validation score so far; None before the first or without validation.
        best_epoch: Epoch of that score.
        stopped: Whether patience ran out.
        seconds: Time in steps and validation so far.
        optimizer: State of the optimiser until it is loaded, then None.
    """

    epoch: int = 0
    number: int = 0
    curve: Curve = field(default_factory=Curve)
    best_score: float | None = None
    best_epoch: int = 0
    stopped: bool = False
    seconds: float = 0.0
    optimizer: dict[str, Any] | None = None


def run_name(method: str, config: Mapping[str, Any], table: TableRef) -> str:
    """Name of a run, ``<method>-<digest>``: equal for equal method, config and table version."""
    text = json.dumps([method, config, table.uri, table.version], sort_keys=True)
    return f"{method}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


class RunFiles:
    """The files of one run below ``out``."""

    def __init__(self, out: str, name: str) -> None:
        self._checkpoints = ObjectStore(join(out, "checkpoints", name))
        self._logs = ObjectStore(join(out, "logs", name))
        self._writer: Any = None
        self._folder: Path | None = None
        self._written = 0

    def clear(self) -> None:
        """Deletes all files of this run."""
        for store in (self._checkpoints, self._logs):
            for key in list(store.list()):
                store.delete(key)

    def finished(self) -> str | None:
        """URI of the bundle of a finished run, else None."""
        return str(json.loads(self._checkpoints.get(DONE))["bundle"]) if self._checkpoints.exists(DONE) else None

    def finish(self, bundle_uri: str) -> None:
        """Marks the run as finished and deletes its last checkpoint."""
        self._checkpoints.put(DONE, (json.dumps({"bundle": bundle_uri}) + "\n").encode())
        self._checkpoints.delete(LAST)

    def save(self, state: State, weights: Mapping[str, Tensor], optimizer: dict[str, Any]) -> None:
        """Writes ``last.ckpt`` and the logs; each file is replaced atomically."""
        fields = {k: v for k, v in vars(state).items() if k not in ("curve", "optimizer")}
        curve = {"steps": state.curve.steps, "epochs": state.curve.epochs}
        self._put(LAST, {"state": fields, "curve": curve, "weights": dict(weights), "optimizer": optimizer})
        self._logs.put(CURVE, state.curve.csv())
        self._log_events(state.curve)

    def save_best(self, weights: Mapping[str, Tensor]) -> None:
        """Writes ``best.ckpt``; call it before :meth:`save` writes the state that names this epoch as the best."""
        self._put(BEST, dict(weights))

    def resume(self) -> tuple[State, dict[str, Tensor] | None]:
        """State and weights of the last checkpoint; a fresh state and None if there is none."""
        try:
            saved = self._get(LAST)
        except NotFound:
            return State(), None
        curve = Curve(saved["curve"]["steps"], saved["curve"]["epochs"])
        return State(**saved["state"], curve=curve, optimizer=saved["optimizer"]), saved["weights"]

    def best(self) -> dict[str, Tensor]:
        """Weights of the best epoch."""
        weights: dict[str, Tensor] = self._get(BEST)
        return weights

    @contextmanager
    def tensorboard(self, curve: Curve) -> Iterator[None]:
        """TensorBoard events of the block; steps beyond ``curve``, from a killed attempt, are purged."""
        from torch.utils.tensorboard import SummaryWriter  # imported by the writing rank only

        self._written = len(curve.steps)
        with tempfile.TemporaryDirectory() as scratch:
            self._folder = Path(scratch) if is_s3(self._logs.root) else Path(self._logs.root)
            with SummaryWriter(str(self._folder), purge_step=self._written) as self._writer:
                try:
                    yield
                finally:
                    self._writer.flush()
                    self._upload_events()
                    self._writer = self._folder = None

    def _log_events(self, curve: Curve) -> None:
        if self._writer is None:
            return
        for step, row in enumerate(curve.steps[self._written :], start=self._written):
            for name, value in row.items():
                self._writer.add_scalar(f"train/{name}", value, step)
        self._written = len(curve.steps)
        latest = curve.epochs[-1] if curve.epochs else {}
        if latest.get("step") == self._written:
            for name in (n for n in latest if n.startswith("validation_")):
                self._writer.add_scalar(name.replace("_", "/", 1), latest[name], self._written)
        self._writer.flush()
        self._upload_events()

    def _upload_events(self) -> None:
        if self._folder is not None and is_s3(self._logs.root):
            for path in self._folder.glob("events.*"):
                self._logs.put(path.name, path.read_bytes())

    def _put(self, key: str, value: Any) -> None:
        buffer = io.BytesIO()
        torch.save(value, buffer)
        self._checkpoints.put(key, buffer.getvalue())

    def _get(self, key: str) -> Any:
        where = join(self._checkpoints.root, key)
        if (size := self._checkpoints.size(key)) > MAX_CHECKPOINT_BYTES:
            raise DataRefused(f"{where} has {size} bytes; at most {MAX_CHECKPOINT_BYTES} are read")
        try:
            return torch.load(io.BytesIO(self._checkpoints.get(key)), map_location="cpu", weights_only=True)
        except Exception as error:  # torch has a class for each way a file can be wrong
            raise DataRefused(f"{where} is damaged: {error}. Remove it, or train with resume off") from error
