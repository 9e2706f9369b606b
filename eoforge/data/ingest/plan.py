"""Planning an ingestion: which archive rows go into which shard, under an id that a restart finds again.

The plan lives below ``<table>.jobs/<ingest_id>/``: ``plan.json`` and the metadata rows of each shard. Workers need
nothing but the table, the id and a range of shards, so half a million rows pass through no queue or parameter.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa

from eoforge.data.archives.metadata import METADATA, MetadataRows
from eoforge.data.archives.open import open_archive
from eoforge.data.ingest.quarantine import quarantine_uri
from eoforge.data.ingest.workers import in_processes
from eoforge.data.records import Defect
from eoforge.data.tables.commit import Job, create_table, table_identity
from eoforge.data.tables.schema import PATCHES, QUARANTINE
from eoforge.errors import DataRefused, NotFound, UsageError
from eoforge.progress import track
from eoforge.storage.addresses import is_s3, normalise, table_to_write
from eoforge.storage.doctor import require_conditional_put

SUMMARY = "summary.json"
_PLAN = "plan.json"
_MIN_SHARDS, _MIN_SHARD_ROWS = 16, 64
_SHOWN_DEFECTS = 5


@dataclass(frozen=True)
class IngestPlan:
    """An ingestion that was planned.

    Attributes:
        ingest_id: Names the job; the same archive and options give the same id until that job is complete.
        table: The table to fill.
        archive: Where the patches come from.
        shards: Number of shards, contiguous ranges of the patch_id-sorted metadata rows.
        rows: Number of metadata rows.
        shard_rows: Rows of each shard but the last.
        strict: Whether one bad patch refuses the archive.
    """

    ingest_id: str
    table: str
    archive: str
    shards: int
    rows: int
    shard_rows: int
    strict: bool


def plan_ingest(
    archive: str, table: str, *, shard_rows: int = 2048, strict: bool = False, workers: int = 1
) -> IngestPlan:
    """Plans the ingestion of an archive, or finds the plan of one that was interrupted.

    The id is a hash of the archive's address, its metadata rows, the options and the table's identity, and a run
    number. An interrupted run keeps its number, so the shards it finished are not read again (files that changed
    meanwhile are noticed by the next run). A complete run never lends its number: ingesting again reads every patch
    again and compares digests, because no listing is cheap enough to prove that 8 million files are unchanged.

    Args:
        archive: Directory, ``s3://`` prefix, folder of tar files, or LMDB.
        table: Table to create or extend.
        shard_rows: Most rows of a shard; small archives get smaller shards, so that several workers have work.
        strict: Validate everything first, and write nothing at all if one patch is bad.
        workers: Processes for that validation.

    Raises:
        NotFound: There is no archive.
        DataRefused: The archive has no rows; or ``strict`` and a patch is bad.
        UsageError: ``shard_rows`` is not positive, or ``table`` names a version, a whole bucket or the archive.
        StoreError: The table's store ignores conditional PUT: Lance would lose commits there without an error.
    """
    if shard_rows < 1:
        raise UsageError(f"shard_rows must be at least 1; got {shard_rows}")
    archive, table = normalise(archive), table_to_write(table)
    if archive == table:
        raise UsageError(f"the table would be made inside the archive {archive}; name another place for it")
    source = open_archive(archive)
    rows = source.metadata()
    if not len(rows):
        raise DataRefused(f"{archive}: the metadata have no rows; nothing to ingest")
    source.prepare()
    shard_rows = min(shard_rows, max(_MIN_SHARD_ROWS, -(-len(rows) // _MIN_SHARDS)))
    parts = [rows[start : start + shard_rows] for start in range(0, len(rows), shard_rows)]
    if strict:
        _validate(archive, parts, workers)
    if is_s3(table):
        require_conditional_put(f"{table}.jobs")
    identity = table_identity(create_table(table, PATCHES))
    create_table(quarantine_uri(table), QUARANTINE)
    payloads = [_pack(part) for part in parts]
    state = hashlib.sha256(json.dumps([archive, shard_rows, strict, identity]).encode())
    for payload in payloads:
        state.update(payload)
    base = f"ingest-{state.hexdigest()[:16]}"
    job = next(job for run in itertools.count(1) if (job := Job(table, f"{base}-{run:03d}")).find(SUMMARY) is None)
    plan = IngestPlan(job.job_id, table, archive, len(parts), len(rows), shard_rows, strict)
    if job.find(_PLAN) is None:
        for shard, payload in enumerate(payloads):
            job.put(_rows_name(shard), payload)
        job.put_if_absent(_PLAN, json.dumps(asdict(plan)).encode())  # last: a plan that exists is complete
    return plan


def load_plan(table: str, ingest_id: str) -> tuple[Job, IngestPlan]:
    """The job and its plan.

    Raises:
        NotFound: Nobody planned this ingestion.
    """
    job = Job(table, ingest_id)
    data = job.find(_PLAN)
    if data is None:
        raise NotFound(
            f"no ingestion {ingest_id} of {normalise(table)} is planned; run plan_ingest (or `eoforge ingest`)"
        )
    return job, IngestPlan(**json.loads(data))


def shard_metadata(job: Job, shard: int) -> MetadataRows:
    """The metadata rows of one shard."""
    with pa.ipc.open_stream(job.get(_rows_name(shard))) as reader:
        stored = reader.read_all().combine_chunks()
    return MetadataRows(stored.select(METADATA.names), stored["repeated"].to_numpy())


def _rows_name(shard: int) -> str:
    return f"rows-{shard:06d}.arrow"


def _pack(rows: MetadataRows) -> bytes:
    table = rows.table.append_column("repeated", pa.array(np.asarray(rows.repeated)))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def _validate(archive: str, parts: list[MetadataRows], workers: int) -> None:
    """Reads everything and writes nothing.

    Raises:
        DataRefused: A patch is bad.
    """
    bad, shown = 0, list[Defect]()
    total = sum(map(len, parts))
    with track("validating patches", total) as progress:
        for count, (patches, defects) in zip(
            map(len, parts), in_processes(_fatal_defects, [(archive, part) for part in parts], workers), strict=True
        ):
            bad += patches
            shown += defects[: _SHOWN_DEFECTS - len(shown)]
            progress.advance(count)
    if bad:
        raise refused(archive, bad, total, shown)


def refused(archive: str, bad: int, total: int, shown: list[Defect]) -> DataRefused:
    """The error of a strict ingestion that met bad patches."""
    listed = "\n".join(f"  {d.patch_id}: {d.reason.value}: {d.detail} ({d.file})" for d in shown)
    return DataRefused(
        f"{archive}: {bad} of {total} patches are bad, and --strict refuses the whole archive; nothing was committed. "
        f"Repair them, or ingest without --strict (they go to quarantine).\n{listed}"
    )


def _fatal_defects(archive: str, rows: MetadataRows) -> tuple[int, list[Defect]]:
    bad, shown = 0, list[Defect]()
    for result in open_archive(archive).read(rows):
        if result.pair is None:
            bad += 1
            shown += result.defects[: max(0, _SHOWN_DEFECTS - len(shown))]
    return bad, shown
