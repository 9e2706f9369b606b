"""Shard ranges, which pipelines pass between steps beside names and versions.

A ParallelFor item has all inputs of its step, ``JOB:FIRST:COUNT``. Lists of shards, manifests and fragments
stay in the store (275 fragment descriptions of Lance would exceed the size of one process argument), and kfp.local
passes the loop item to every input of a loop body that comes from a task, so a separate job id would be lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from eoforge.errors import UsageError
from pipelines.settings import MAX_ITERATIONS


@dataclass(frozen=True)
class ShardRange:
    """Range of ``count`` shards of a job, from shard ``first``."""

    job_id: str
    first: int
    count: int

    def __str__(self) -> str:
        return f"{self.job_id}:{self.first}:{self.count}"

    @classmethod
    def parse(cls, text: str) -> ShardRange:
        """Shard range from the text ``JOB:FIRST:COUNT``.

        Raises:
            UsageError: ``text`` is no shard range.
        """
        job_id, first, count = [*text.rsplit(":", 2), "", ""][:3]
        if not job_id or not first.isdigit() or not count.isdigit():
            raise UsageError(f"expected a shard range JOB:FIRST:COUNT, for example 4f2a:0:8; got {text!r}")
        return cls(job_id, int(first), int(count))


def range_limit(rows: int, shard_rows: int) -> int:
    """Limit of ranges for ``rows`` patches: a pod for fewer than ``shard_rows`` of them would mostly start up.

    The number of shards is no measure, as small archives have smaller shards.
    """
    return min(MAX_ITERATIONS, -(-rows // shard_rows))


def shard_ranges(job_id: str, shards: int, limit: int = MAX_ITERATIONS) -> list[str]:
    """Contiguous ranges of ``shards`` shards, at most ``limit``, whose sizes differ by at most one.

    Args:
        job_id: Ingestion or index job in the store.
        shards: Number of shards of the job.
        limit: Limit of ranges.

    Returns:
        The ranges in order; one empty range for a finished job, because an empty ParallelFor is no success.
    """
    if not shards:
        return [str(ShardRange(job_id, 0, 0))]
    parts = max(1, min(shards, limit))
    edges = [shards * i // parts for i in range(parts + 1)]
    return [str(ShardRange(job_id, a, b - a)) for a, b in pairwise(edges)]
