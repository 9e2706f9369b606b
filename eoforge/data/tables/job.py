"""Files of one bulk load: plan, shard manifests, result."""

from __future__ import annotations

import json
import re
from typing import Any

from eoforge.errors import NotFound, UsageError
from eoforge.storage.addresses import join, normalise
from eoforge.storage.objects import ObjectStore

_JOB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class Job:
    """Files of one bulk load, below ``<table>.jobs/<job_id>/`` on the store of the table."""

    def __init__(self, table_uri: str, job_id: str) -> None:
        """Handle of a job; writes nothing.

        Raises:
            UsageError: ``job_id`` is not a plain file name.
        """
        if not _JOB_ID.fullmatch(job_id):
            raise UsageError(f"a job id has 1 to 128 letters, digits, '.', '_' or '-'; got {job_id!r}")
        self.table_uri = normalise(table_uri)
        self.job_id = job_id
        self._store = ObjectStore(join(f"{self.table_uri}.jobs", job_id))

    def put_manifest(self, shard: int, manifest: dict[str, Any]) -> bool:
        """Stores the manifest of a shard; False if an earlier manifest exists, which is kept."""
        return self.put_if_absent(_shard_name(shard), json.dumps(manifest).encode())

    def manifest(self, shard: int) -> dict[str, Any] | None:
        """Manifest of a shard, or None if the shard is not finished."""
        data = self.find(_shard_name(shard))
        return None if data is None else dict(json.loads(data))

    def drop_manifest(self, shard: int) -> None:
        """Deletes the manifest of a shard, so that the shard is written again."""
        self._store.delete(_shard_name(shard))

    def put(self, name: str, data: bytes) -> None:
        """Writes a file of the job; replaces an older one."""
        self._store.put(name, data)

    def put_if_absent(self, name: str, data: bytes) -> bool:
        """Writes a file of the job unless it exists; returns whether it was written. Atomic among writers."""
        return self._store.put_if_absent(name, data)

    def get(self, name: str) -> bytes:
        """Content of a file of the job.

        Raises:
            NotFound: The file does not exist.
        """
        return self._store.get(name)

    def find(self, name: str) -> bytes | None:
        """Content of a file of the job, or None if it does not exist."""
        try:
            return self._store.get(name)
        except NotFound:
            return None


def _shard_name(shard: int) -> str:
    return f"shard-{shard:06d}.json"
