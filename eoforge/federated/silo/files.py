"""What a silo must not lose over a restart, one folder a run.

::

    <folder>/<run_id>/down/<digest>.safetensors   what was downloaded for the current round
                      update-<round>.safetensors  what was trained and may not have been acknowledged
                      update-<round>.json         its numbers; written last, so with it the update is whole
                      pending-<round>.safetensors the silo's state after the round, until the server has acknowledged it
                      state.safetensors           the silo's state (control variates, own layers, ...)
                      masking-<round>.json        its secrets of a round with secure aggregation
                      run.json                    when the run was created
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

import structlog

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.errors import UsageError
from eoforge.federated.privacy.silo_masks import Masking, flush, forget_masks
from eoforge.federated.strategy import LocalResult
from eoforge.storage.tensorfile import Array, read_file, write_file

log = structlog.get_logger("silo")


class SiloFiles:
    """The folder of a task's run; made if need be, and emptied if it belongs to an earlier run of the same name.

    Args:
        parent: The silo's folder.
        task: A task of the run.

    Raises:
        UsageError: The run's name is no plain one.
    """

    def __init__(self, parent: Path, task: pb.Task) -> None:
        if not task.run_id or task.run_id.startswith(".") or "/" in task.run_id:
            raise UsageError(f"the coordinator named a run {task.run_id!r:.80}, which is no plain name")
        self.folder, self._run_id = parent / task.run_id, task.run_id
        self._belong_to(task.created_at.ToJsonString() if task.HasField("created_at") else "")

    def _belong_to(self, created_at: str) -> None:
        path = self.folder / "run.json"
        known = _read(path).get("created_at", "")
        if known and created_at and known != created_at:
            # Its corrections would not match the new run's, and its masks must not hide a second update.
            log.warning("an earlier run had this name; its state is dropped", run=self._run_id, created_at=known)
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        if created_at and known != created_at:
            _write(path, {"created_at": created_at})

    def down(self, wanted: Collection[str]) -> Path:
        """Folder of downloads, without those that are not wanted any more.

        Args:
            wanted: Their names without suffix.
        """
        folder = self.folder / "down"
        folder.mkdir(exist_ok=True)
        for old in folder.iterdir():
            if old.stem not in wanted:
                old.unlink()
        return folder

    def state(self) -> dict[str, Array]:
        """The silo's state after the last round that counted; empty before the first."""
        path = self.folder / "state.safetensors"
        return read_file(path) if path.exists() else {}

    def update(self, number: int) -> Path:
        """The update of a round."""
        return self.folder / f"update-{number}.safetensors"

    def numbers(self, number: int) -> dict[str, Any]:
        """What goes with the update of a round; empty unless it is whole."""
        return _read(self.folder / f"update-{number}.json")

    def keep(self, number: int, result: LocalResult, tensors: dict[str, Array]) -> None:
        """Stores what was trained.

        Args:
            number: The round.
            result: What the trainer made.
            tensors: Its tensors as they are sent.
        """
        write_file(self.update(number), tensors)
        if result.state:
            write_file(self._pending(number), result.state)
        content = {
            "samples": result.examples,
            "steps": result.steps,
            "scalars": dict(result.scalars),
            "metrics": dict(result.metrics),
        }
        # On the disk before it is sent: trained again, after a power cut, it would be another one under the same masks.
        flush(self.update(number))
        _write(self.folder / f"update-{number}.json", content)

    def unsettled(self) -> list[int]:
        """Rounds with an update whose fate is not known."""
        return sorted(int(path.stem.removeprefix("update-")) for path in self.folder.glob("update-*.json"))

    def conclude(self, number: int, counted: bool) -> None:
        """Drops an update whose fate is known; the state that came with it becomes the silo's if it counted."""
        if counted and self._pending(number).exists():
            os.replace(self._pending(number), self.folder / "state.safetensors")
        self._pending(number).unlink(missing_ok=True)
        (self.folder / f"update-{number}.json").unlink(missing_ok=True)
        self.update(number).unlink(missing_ok=True)

    def masking(self, number: int, silo: str) -> Masking:
        """The silo's secrets of a round."""
        return Masking(self.folder, self._run_id, number, silo)

    def over(self) -> None:
        """The run has ended: its state stays, for whoever uses the model here; downloads and secrets go."""
        shutil.rmtree(self.folder / "down", ignore_errors=True)
        forget_masks(self.folder)

    def _pending(self, number: int) -> Path:
        return self.folder / f"pending-{number}.safetensors"


def _read(path: Path) -> dict[str, Any]:
    """A small file, or nothing if it is not there or a power cut has spoilt it."""
    try:
        return dict(json.loads(path.read_text()))
    except (FileNotFoundError, ValueError):
        return {}


def _write(path: Path, content: dict[str, Any]) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content))
    flush(partial)
    os.replace(partial, path)
    flush(path.parent)
