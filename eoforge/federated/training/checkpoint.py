"""Checkpoint of a simulated federation between two rounds: one file of tensors, written and read as a whole.

::

    <out>/checkpoints/<run>/federation.safetensors   server tensors, silos' states, number of rounds, history
                            done.json                URI of the bundle of a finished run
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from eoforge.errors import DataRefused
from eoforge.federated.simulate import Federation
from eoforge.storage.addresses import join
from eoforge.storage.objects import ObjectStore
from eoforge.storage.tensorfile import Array

_FILE, _DONE = "federation.safetensors", "done.json"
_SERVER, _SILO = "server", "silo"


class Checkpoint:
    """Checkpoint files of one run below ``out``."""

    def __init__(self, out: str, run: str) -> None:
        self._store = ObjectStore(join(out, "checkpoints", run))

    def clear(self) -> None:
        """Deletion of all files of the run."""
        for key in list(self._store.list()):
            self._store.delete(key)

    def finished(self) -> str | None:
        """URI of the bundle of a finished run, or None."""
        return str(json.loads(self._store.get(_DONE))["bundle"]) if self._store.exists(_DONE) else None

    def finish(self, bundle_uri: str) -> None:
        """Mark of a finished run; its tensors are deleted."""
        self._store.put(_DONE, (json.dumps({"bundle": bundle_uri}) + "\n").encode())
        self._store.delete(_FILE)

    def save(self, federation: Federation, history: list[dict[str, Any]]) -> None:
        """Atomic replacement of the checkpoint: a reader sees the old file or the new one."""
        from safetensors.numpy import save

        # Numbered keys: a silo's id may hold any character, a tensor's name a slash.
        tensors: dict[str, Array] = {f"{_SERVER}/{n}": np.asarray(t, order="C") for n, t in federation.tensors.items()}
        ids = sorted(federation.silos)
        for number, silo in enumerate(ids):
            for name, tensor in federation.silos[silo].items():
                tensors[f"{_SILO}/{number}/{name}"] = np.asarray(tensor, order="C")
        about = {"round": federation.round, "silos": ids, "history": history}
        self._store.put(_FILE, save(tensors, metadata={"about": json.dumps(about)}))

    def load(self, into: Federation) -> list[dict[str, Any]]:
        """Restores ``into`` from the checkpoint and returns the history; without one, nothing changes.

        Raises:
            DataRefused: The file is damaged.
        """
        if not self._store.exists(_FILE):
            return []
        import struct

        from safetensors import SafetensorError
        from safetensors.numpy import load

        data = self._store.get(_FILE)
        try:
            tensors = load(data)
            (length,) = struct.unpack("<Q", data[:8])
            about = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["about"])
        except (SafetensorError, ValueError, KeyError, struct.error) as error:
            where = join(self._store.root, _FILE)
            raise DataRefused(f"{where} is damaged: {error}. Remove it, or train with resume off") from error
        for full, tensor in tensors.items():
            kind, _, rest = full.partition("/")
            if kind == _SERVER:
                into.tensors[rest] = tensor
                continue
            number, _, name = rest.partition("/")
            into.silos.setdefault(about["silos"][int(number)], {})[name] = tensor
        into.round = about["round"]
        history: list[dict[str, Any]] = about["history"]
        return history
