"""What the ingestion tests share: a valid archive, a table's content, and ingestion in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from eoforge.data.records import PatchPair
from eoforge.data.store import open_table
from tests.data.archives import make_pair, write_archive

SHARD_ROWS = 6

_PROGRAM = Path(__file__).with_name("ingest_once.py")


def pairs_of(count: int, seed: int = 0, start: int = 0) -> list[PatchPair]:
    """``count`` distinct valid pairs; other seeds give other pixels for the same ids."""
    cells = range(start, start + count)
    return [make_pair(n % 80, n // 80, seed=seed) for n in cells]


def archive_of(folder: Path, count: int, seed: int = 0, start: int = 0) -> str:
    """An archive of :func:`pairs_of`."""
    return str(write_archive(folder, pairs_of(count, seed, start)))


def content(table: str) -> dict[str, str]:
    """``patch_id`` to digest; fails if a patch is there twice."""
    rows = open_table(table).to_table(columns=["patch_id", "digest"])
    ids = rows["patch_id"].to_pylist()
    assert len(ids) == len(set(ids)), "a patch is in the table twice"
    return dict(zip(ids, rows["digest"].to_pylist(), strict=True))


class Ingestion:
    """An ingestion in its own process, which waits at the start line until ``go``."""

    def __init__(self, archive: str, table: str, workers: int = 1, shard_rows: int = SHARD_ROWS) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(_PROGRAM), archive, table, str(workers), str(shard_rows)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ready(self) -> Ingestion:
        """Waits until everything is imported."""
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n", self.process.communicate()[1]
        return self

    def go(self) -> Ingestion:
        """Lets it start."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return self

    def summary(self) -> dict[str, object]:
        """Waits for its end and returns what it printed."""
        out, err = self.process.communicate(timeout=300)
        assert self.process.returncode == 0, err[-4000:]
        return dict(json.loads(out.splitlines()[-1]))
