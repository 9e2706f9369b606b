"""Plan of an ingestion: the archive rows of each shard, under an id that a restart finds again.

The plan is stored below ``<table>.jobs/<ingest_id>/``: ``plan.json`` and the metadata rows of each shard. Workers need
only the table, the id and a range of shards; half a million rows pass through no queue or parameter.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa
import structlog

from eoforge.data.archives.base import Archive
from eoforge.data.archives.folders import DirectoryArchive, S3Archive
from eoforge.data.archives.metadata import METADATA, MetadataRows
from eoforge.data.archives.open import open_archive
from eoforge.data.ingest.quarantine import quarantine_uri
from eoforge.data.ingest.workers import in_processes
from eoforge.data.records import Defect
from eoforge.data.tables.commit import Job, create_table, table_identity
from eoforge.data.tables.schema import PATCHES, QUARANTINE
from eoforge.data.tiles.options import TileOptions
from eoforge.errors import DataRefused, NotFound, UsageError
from eoforge.progress import track
from eoforge.storage.addresses import is_s3, normalise, table_to_write
from eoforge.storage.doctor import require_conditional_put

SUMMARY = "summary.json"
_PLAN = "plan.json"
_MIN_SHARDS = 16
_SHOWN_DEFECTS = 5
_LARGE, _SAMPLE, _FEW = 1000, 100, 0.5
"""Rows from which a sample is looked at, its size, and the share of it that must have files."""

log = structlog.get_logger("ingest")


@dataclass(frozen=True)
class IngestPlan:
    """Plan of one ingestion.

    Attributes:
        ingest_id: Name of the job; the same archive and options give the same id until that job is complete.
        table: Table that grows.
        archive: Source of the patches.
        shards: Number of shards, contiguous ranges of the patch_id-sorted metadata rows.
        rows: Number of metadata rows.
        shard_rows: Rows of each shard but the last.
        strict: Whether one bad patch refuses the archive.
        edges: Incomplete patches at the edges of tiles, which are no rows.
        tiles: Options of a construction; None for an archive of patches.
    """

    ingest_id: str
    table: str
    archive: str
    shards: int
    rows: int
    shard_rows: int
    strict: bool
    edges: int = 0
    tiles: TileOptions | None = None


def plan_ingest(
    archive: str,
    table: str,
    *,
    shard_rows: int = 2048,
    strict: bool = False,
    workers: int = 1,
    tiles: TileOptions | None = None,
    only_present: bool = False,
) -> IngestPlan:
    """Plan of the ingestion of an archive; the existing plan if an earlier run was interrupted.

    The id is a hash of the archive's address, its metadata rows, the options and the table's identity, and a run
    number. An interrupted run keeps its number, so finished shards are not read again (the next run notices files that
    changed meanwhile). After a complete run the number grows: a new ingestion reads every patch and compares digests,
    because a listing that proves 8 million files unchanged costs too much.

    Args:
        archive: Directory, ``s3://`` prefix, folder of tar files, or LMDB; with ``tiles``, folder or prefix of tiles.
        table: Table to create or extend.
        shard_rows: Limit of rows per shard; small archives get smaller shards, so that several workers have work.
        strict: Validate all patches first, and write nothing if one is bad.
        workers: Processes of that validation.
        tiles: Options of a construction of patches from tiles.
        only_present: Leave out metadata rows whose patches are not in the archive.

    Raises:
        NotFound: The archive does not exist.
        DataRefused: The archive has no rows, or its metadata name far more patches than it has; or ``strict`` and a
            patch is bad.
        UsageError: ``shard_rows`` is not positive, or ``table`` names a version, a whole bucket or the archive.
        StoreError: The table's store ignores conditional PUT: Lance would lose commits there without an error.
    """
    if shard_rows < 1:
        raise UsageError(f"shard_rows must be at least 1; got {shard_rows}")
    archive, table = normalise(archive), table_to_write(table)
    if archive == table:
        raise UsageError(
            f"the table {table} and the archive have the same address; choose another address for the table"
        )
    tiles = None if tiles is None else tiles.checked()
    source = open_archive(archive, tiles=tiles)
    rows = source.metadata()
    if not len(rows):
        raise DataRefused(f"{archive}: the metadata have no rows")
    rows = _present(source, rows) if only_present else _require_files(source, rows)
    source.prepare()
    shard_rows = min(shard_rows, max(source.min_shard_rows, -(-len(rows) // _MIN_SHARDS)))
    parts = [rows[start : start + shard_rows] for start in range(0, len(rows), shard_rows)]
    if strict:
        _validate(archive, tiles, parts, workers)
    if is_s3(table):
        require_conditional_put(f"{table}.jobs")
    identity = table_identity(create_table(table, PATCHES))
    create_table(quarantine_uri(table), QUARANTINE)
    payloads = [_pack(part) for part in parts]
    options = [] if tiles is None else [asdict(tiles)]
    state = hashlib.sha256(json.dumps([archive, shard_rows, strict, identity, *options]).encode())
    for payload in payloads:
        state.update(payload)
    base = f"ingest-{state.hexdigest()[:16]}"
    job = next(job for run in itertools.count(1) if (job := Job(table, f"{base}-{run:03d}")).find(SUMMARY) is None)
    plan = IngestPlan(job.job_id, table, archive, len(parts), len(rows), shard_rows, strict, source.edges, tiles)
    if job.find(_PLAN) is None:
        for shard, payload in enumerate(payloads):
            job.put(_rows_name(shard), payload)
        job.put_if_absent(_PLAN, json.dumps(asdict(plan)).encode())  # last: a stored plan is complete
    return plan


def _present(source: Archive, rows: MetadataRows) -> MetadataRows:
    """Rows whose patches are in the archive."""
    kept = np.flatnonzero(source.present(rows))
    if not len(kept):
        raise DataRefused(f"{source.uri}: none of the {len(rows)} patches in its metadata is there")
    log.info("only patches that are there", archive=source.uri, named=len(rows), present=len(kept))
    return MetadataRows(rows.table.take(kept), rows.repeated[kept])


def _require_files(source: Archive, rows: MetadataRows) -> MetadataRows:
    """Rows of an archive whose metadata do not name far more patches than it has, by a sample."""
    if not isinstance(source, DirectoryArchive | S3Archive) or len(rows) < _LARGE:
        return rows
    sample = [rows[int(i)] for i in np.linspace(0, len(rows) - 1, _SAMPLE)]
    found = sum(map(source.has_files, sample))
    if found < _SAMPLE * _FEW:
        raise DataRefused(
            f"{source.uri}: the metadata name {len(rows)} patches, but {found} of {_SAMPLE} sampled ones have files "
            "here. Name the whole archive, or ingest what is there with --only-present"
        )
    return rows


def load_plan(table: str, ingest_id: str) -> tuple[Job, IngestPlan]:
    """Job and plan of an ingestion.

    Raises:
        NotFound: The ingestion is not planned.
    """
    job = Job(table, ingest_id)
    data = job.find(_PLAN)
    if data is None:
        raise NotFound(
            f"ingestion {ingest_id} of {normalise(table)} is not planned; run plan_ingest (or `eoforge ingest`)"
        )
    values = json.loads(data)
    if values.get("tiles") is not None:
        values["tiles"] = TileOptions(**values["tiles"])
    return job, IngestPlan(**values)


def shard_metadata(job: Job, shard: int) -> MetadataRows:
    """Metadata rows of one shard."""
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


def _validate(archive: str, tiles: TileOptions | None, parts: list[MetadataRows], workers: int) -> None:
    """Validates all patches without writing.

    Raises:
        DataRefused: A patch is bad.
    """
    bad, shown = 0, list[Defect]()
    total = sum(map(len, parts))
    with track("validating patches", total) as progress:
        for count, (patches, defects) in zip(
            map(len, parts),
            in_processes(_fatal_defects, [(archive, tiles, part) for part in parts], workers),
            strict=True,
        ):
            bad += patches
            shown += defects[: _SHOWN_DEFECTS - len(shown)]
            progress.advance(count)
    if bad:
        raise refused(archive, bad, total, shown)


def refused(archive: str, bad: int, total: int, shown: list[Defect]) -> DataRefused:
    """Error of a strict ingestion with bad patches."""
    listed = "\n".join(f"  {d.patch_id}: {d.reason.value}: {d.detail} ({d.file})" for d in shown)
    return DataRefused(
        f"{archive}: {bad} of {total} patches are bad, and --strict refuses the whole archive; nothing was committed. "
        f"Repair them, or ingest without --strict (they go to quarantine).\n{listed}"
    )


def _fatal_defects(archive: str, tiles: TileOptions | None, rows: MetadataRows) -> tuple[int, list[Defect]]:
    bad, shown = 0, list[Defect]()
    for result in open_archive(archive, tiles=tiles).read(rows):
        if result.pair is None:
            bad += 1
            shown += result.defects[: max(0, _SHOWN_DEFECTS - len(shown))]
    return bad, shown
