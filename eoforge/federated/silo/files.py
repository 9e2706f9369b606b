"""Files of a silo that survive a restart, one folder per run.

::

    <folder>/<run_id>/down/<digest>.safetensors   downloads of the current round
                      update-<round>.safetensors  trained update, until the server has acknowledged it
                      update-<round>.json         numbers of the update; written last, so it marks a complete update
                      pending-<round>.safetensors state after the round, until the server has acknowledged the update
                      state.safetensors           state of the silo (control variates, local layers, ...)
                      masking-<round>.json        secrets of a round with secure aggregation
                      run.json                    creation time of the run
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
from eoforge.federated.privacy.silo_masks import Masking, delete_masks, flush
from eoforge.federated.strategy import LocalResult
from eoforge.storage.tensorfile import Array, read_file, write_file

log = structlog.get_logger("silo")


class SiloFiles:
    """Folder of a task's run: created if missing, and emptied if it belongs to an earlier run of the same name.

    Args:
        parent: Folder of the silo.
        task: A task of the run.

    Raises:
        UsageError: The run's name is not a plain file name.
    """

    def __init__(self, parent: Path, task: pb.Task) -> None:
        if not task.run_id or task.run_id.startswith(".") or "/" in task.run_id:
            raise UsageError(f"the coordinator named a run {task.run_id!r:.80}, which is not a plain file name")
        self.folder, self._run_id = parent / task.run_id, task.run_id
        self._belong_to(task.created_at.ToJsonString() if task.HasField("created_at") else "")

    def _belong_to(self, created_at: str) -> None:
        path = self.folder / "run.json"
        known = _read(path).get("created_at", "")
        if known and created_at and known != created_at:
            # Old corrections do not match the new run, and a mask must not hide a second update.
            log.warning("an earlier run had this name; its state is dropped", run=self._run_id, created_at=known)
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        if created_at and known != created_at:
            _write(path, {"created_at": created_at})

    def down(self, wanted: Collection[str]) -> Path:
        """Folder of downloads; all other files in it are deleted.

        Args:
            wanted: File names to keep, without suffix.
        """
        folder = self.folder / "down"
        folder.mkdir(exist_ok=True)
        for old in folder.iterdir():
            if old.stem not in wanted:
                old.unlink()
        return folder

    def state(self) -> dict[str, Array]:
        """State of the silo after its last acknowledged round; empty before the first one."""
        path = self.folder / "state.safetensors"
        return read_file(path) if path.exists() else {}

    def update(self, number: int) -> Path:
        """File of a round's update."""
        return self.folder / f"update-{number}.safetensors"

    def numbers(self, number: int) -> dict[str, Any]:
        """Numbers of a round's update; empty unless the update is complete."""
        return _read(self.folder / f"update-{number}.json")

    def keep(self, number: int, result: LocalResult, tensors: dict[str, Array]) -> None:
        """Storage of a trained update.

        Args:
            number: Number of the round.
            result: Result of the trainer.
            tensors: Tensors of the update as they are sent.
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
        # Flushed before it is sent: training again after a power cut would give another update under the same masks.
        flush(self.update(number))
        _write(self.folder / f"update-{number}.json", content)

    def unacknowledged(self) -> list[int]:
        """Rounds with an update that the server has not acknowledged."""
        numbers = (path.stem.removeprefix("update-") for path in self.folder.glob("update-*.json"))
        return sorted(int(number) for number in numbers if number.isdecimal())

    def settle(self, number: int, accepted: bool) -> None:
        """Deletion of a settled update; if it was accepted, its state becomes the silo's state."""
        if accepted and self._pending(number).exists():
            os.replace(self._pending(number), self.folder / "state.safetensors")
        self._pending(number).unlink(missing_ok=True)
        (self.folder / f"update-{number}.json").unlink(missing_ok=True)
        self.update(number).unlink(missing_ok=True)

    def masking(self, number: int, silo: str) -> Masking:
        """Secrets of the silo in a round."""
        return Masking(self.folder, self._run_id, number, silo)

    def end_run(self) -> None:
        """Deletion of downloads and secrets after the run's end; the silo's state stays, for use with the model."""
        shutil.rmtree(self.folder / "down", ignore_errors=True)
        delete_masks(self.folder)

    def _pending(self, number: int) -> Path:
        return self.folder / f"pending-{number}.safetensors"


def _read(path: Path) -> dict[str, Any]:
    """Content of a small JSON file; empty if it is missing or damaged by a power cut."""
    try:
        return dict(json.loads(path.read_text()))
    except (FileNotFoundError, ValueError, TypeError, RecursionError):
        return {}


def _write(path: Path, content: dict[str, Any]) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content))
    flush(partial)
    os.replace(partial, path)
    flush(path.parent)
