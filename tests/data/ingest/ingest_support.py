"""Helpers of the ingestion tests: valid archives, content of a table, ingestion in a separate process."""

from __future__ import annotations

import json
import multiprocessing
import os
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path

from eoforge.data.archives.layout import path_of
from eoforge.data.ingest.quarantine import quarantine_uri
from eoforge.data.ingest.run import IngestSummary, ingest
from eoforge.data.records import PatchPair, digest
from eoforge.storage.addresses import TableRef, open_table
from tests.data.archives.archive_files import make_pair, write_archive

SHARD_ROWS = 6
PATCHES = 20
"""Patches of the archive that most tests read."""


def pairs_of(count: int, seed: int = 0, start: int = 0) -> list[PatchPair]:
    """``count`` distinct valid pairs; other seeds give other pixels for the same ids."""
    cells = range(start, start + count)
    return [make_pair(n % 80, n // 80, seed=seed) for n in cells]


def archive_of(folder: Path, count: int, seed: int = 0, start: int = 0) -> str:
    """An archive of :func:`pairs_of`."""
    return str(write_archive(folder, pairs_of(count, seed, start)))


def content(table: str) -> dict[str, str]:
    """Digest by ``patch_id``; fails on a repeated patch."""
    rows = open_table(table).to_table(columns=["patch_id", "digest"])
    ids = rows["patch_id"].to_pylist()
    assert len(ids) == len(set(ids)), "a patch is in the table twice"
    return dict(zip(ids, rows["digest"].to_pylist(), strict=True))


def forkserver_context() -> ForkServerContext:
    """Context of processes that fork from a server with all imports, which never opens a table.

    Tests start dozens of processes; an import of Lance takes three seconds.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["lance", "eoforge.data.ingest.run", "tests.data.ingest.ingest_support"])
    return context


def set_environment(environment: dict[str, str]) -> None:
    """Sets the environment of a process, as the fork server may have started before the object store."""
    os.environ.clear()
    os.environ.update(environment)


class Ingestion:
    """Ingestion in a separate process, which waits for ``go``."""

    def __init__(self, archive: str, table: str, workers: int = 1, shard_rows: int = SHARD_ROWS) -> None:
        context = forkserver_context()
        self._pipe, remote = context.Pipe()
        arguments = (remote, dict(os.environ), archive, table, workers, shard_rows)
        self.process = context.Process(target=_ingest, args=arguments)
        self.process.start()
        remote.close()

    def ready(self) -> Ingestion:
        """Waits until the process is ready."""
        assert self._pipe.recv_bytes() == b"ready"
        return self

    def go(self) -> Ingestion:
        """Starts the ingestion."""
        self._pipe.send_bytes(b"go")
        return self

    def killed_within(self, seconds: float) -> bool:
        """Kills the process (``kill -9``) after ``seconds``; False if it ended before."""
        self.process.join(seconds)
        if self.process.exitcode is not None:
            return False
        self.process.kill()
        self.process.join()
        return True

    def summary(self) -> dict[str, object]:
        """Summary of the ingestion, after its end."""
        assert self._pipe.poll(300), "the ingestion hangs"
        found = dict(json.loads(self._pipe.recv_bytes()))
        self.process.join(60)
        assert self.process.exitcode == 0
        return found


def _ingest(
    pipe: Connection, environment: dict[str, str], archive: str, table: str, workers: int, shard_rows: int
) -> None:
    set_environment(environment)
    pipe.send_bytes(b"ready")
    pipe.recv_bytes()
    summary = ingest(archive, table, workers=workers, shard_rows=shard_rows)
    pipe.send_bytes(json.dumps(asdict(summary)).encode())


def digests(pairs: list[PatchPair]) -> dict[str, str]:
    """Expected :func:`content` of a table with these pairs."""
    return {p.meta.patch_id: digest(p) for p in pairs}


def ingest_small_shards(archive: str, table: str, **options: object) -> IngestSummary:
    """An ingestion in several shards."""
    return ingest(archive, table, shard_rows=SHARD_ROWS, **options)  # type: ignore[arg-type]  # options by name


def balanced(summary: IngestSummary) -> bool:
    """Whether every input patch was counted once."""
    done = summary.added + summary.unchanged + summary.changed + summary.quarantined
    return summary.patches_in == done


def quarantine(table: str) -> dict[tuple[str, str], dict[str, str]]:
    """Finding by ``(patch_id, reason)``; fails on a repeated finding."""
    found = open_table(TableRef(quarantine_uri(table))).to_table().to_pylist()
    keyed = {(r["patch_id"], r["reason"]): r for r in found}
    assert len(keyed) == len(found), "a finding is stored twice"
    return keyed


BAD_PIXELS = (slice(3, 5), slice(7, 10))
"""Pixels without data of the bad patch of :func:`grown_table`."""


@dataclass(frozen=True)
class Grown:
    """A table after two ingestions: the second adds three patches, replaces one and refuses another."""

    table: str
    first: IngestSummary
    second: IngestSummary
    names: list[str]

    @property
    def bad(self) -> str:
        """The refused patch."""
        return self.names[11]


def grown_table(folder: Path) -> Grown:
    """Makes such a table."""
    table = str(folder / "patches.lance")
    first = ingest_small_shards(str(write_archive(folder / "first", pairs_of(8))), table)
    more = pairs_of(12)
    more[0] = pairs_of(1, seed=9)[0]
    damaged = more[11].s2_10m.copy()
    damaged[(0, *BAD_PIXELS)] = 0
    more[11] = replace(more[11], s2_10m=damaged)
    archive = write_archive(folder / "second", more)
    (archive / f"{path_of(more[11].meta, 'VH')}.tif").unlink()
    return Grown(table, first, ingest_small_shards(str(archive), table), [pair.meta.patch_id for pair in more])
