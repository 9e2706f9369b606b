"""Ingestion of archives into tables: functions shared by the command line and the Kubeflow steps.

::

    plan_ingest    one process    rows -> shards, below <table>.jobs/<ingest_id>/
    ingest_shards  many           shard -> fragments + manifest (not visible yet)
    commit_ingest  one            all manifests -> one new version of the table, quarantine, summary
    finish_table   one            scalar indexes and band statistics

Each step may be killed at any time and run again; any number of them may run at the same time.
"""

from __future__ import annotations

import json
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from eoforge.data.archives.open import open_archive
from eoforge.data.ingest.plan import SUMMARY, IngestPlan, load_plan, plan_ingest, refused
from eoforge.data.ingest.quarantine import KEYS as QUARANTINE_KEYS
from eoforge.data.ingest.quarantine import quarantine_uri
from eoforge.data.ingest.shards import ingest_shards
from eoforge.data.ingest.workers import in_processes
from eoforge.data.tables.commit import Job, changed_keys, commit
from eoforge.data.tables.indexes import ensure_indexes
from eoforge.data.tables.statistics import band_statistics
from eoforge.data.tiles.options import TileOptions
from eoforge.errors import DataRefused, NotFound, StoreError
from eoforge.progress import track
from eoforge.storage.addresses import TableRef, normalise, open_table
from eoforge.storage.memory import bound_arenas, return_free_memory

__all__ = [
    "IngestPlan",
    "IngestSummary",
    "commit_ingest",
    "finish_table",
    "ingest",
    "ingest_shards",
    "plan_ingest",
    "require_some_accepted",
]

_CHANGED_SHOWN = 100


@dataclass(frozen=True)
class IngestSummary:
    """Counts of an ingestion; ``patches_in == added + unchanged + changed + quarantined``.

    Attributes:
        table: The table.
        version: Version that holds the result.
        ingest_id: The job.
        patches_in: Metadata rows of the archive.
        added: New patches.
        unchanged: Patches that the table held with the same content.
        changed: Patches that the table held with other content, which was replaced.
        quarantined: Excluded rows, ``duplicates`` among them.
        duplicates: Rows excluded because an earlier row has the same patch_id.
        warnings: Findings that excluded no patch.
        reasons: Findings per reason code (one patch may have several).
        edges: Incomplete patches at the edges of tiles, which count nowhere else; 0 for an archive of patches.
        changed_ids: The first 100 changed patches; all are in ``<table>.jobs/<ingest_id>/fragments.changed.json``.
    """

    table: str
    version: int
    ingest_id: str
    patches_in: int
    added: int
    unchanged: int
    changed: int
    quarantined: int
    duplicates: int
    warnings: int
    reasons: dict[str, int] = field(default_factory=dict)
    changed_ids: tuple[str, ...] = ()
    edges: int = 0


def commit_ingest(table: str, ingest_id: str) -> IngestSummary:
    """Commit of an ingestion; a repeated call returns the same summary and changes nothing.

    Temporary copies of the archive are deleted: a committed ingestion needs them no longer.

    Raises:
        NotFound: The ingestion is not planned.
        StoreError: A shard is not written yet.
        DataRefused: The ingestion is strict and a patch is bad since the validation; nothing was committed.
    """
    job, plan = load_plan(table, ingest_id)
    stored = job.find(SUMMARY)
    if stored is None:
        summary = _commit(job, plan)
        job.put_if_absent(SUMMARY, json.dumps(asdict(summary)).encode())
        stored = job.get(SUMMARY)
    with suppress(NotFound):  # an archive that was deleted meanwhile has no copies to release
        open_archive(plan.archive, tiles=plan.tiles).release()
    values = json.loads(stored)
    summary = IngestSummary(**{**values, "changed_ids": tuple(values["changed_ids"])})
    if plan.strict and summary.quarantined:
        raise refused(plan.archive, summary.quarantined, plan.rows, [])
    return summary


def _commit(job: Job, plan: IngestPlan) -> IngestSummary:
    totals: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for shard in range(plan.shards):
        manifest = job.manifest(shard)
        if manifest is None:
            raise StoreError(f"shard {shard} of {plan.ingest_id} is not written; run ingest_shards for it, then commit")
        totals.update({name: manifest[name] for name in ("unchanged", "quarantined", "duplicates", "warnings")})
        reasons.update(manifest["reasons"])
    counts: dict[str, Any] = {"added": 0, "changed": 0, "unchanged": 0, "version": 0}
    # A strict ingestion was validated before; files damaged since then refuse it: recorded, not committed.
    if not (plan.strict and totals["quarantined"]):
        commit(quarantine_uri(plan.table), job, plan.shards, QUARANTINE_KEYS, part="quarantine")
        result = commit(plan.table, job, plan.shards, ("patch_id",), digest="digest")
        counts = {
            "added": result.added,
            "changed": result.changed,
            "unchanged": totals["unchanged"] + result.skipped,
            "version": result.version,
        }
    return IngestSummary(
        table=plan.table,
        ingest_id=plan.ingest_id,
        patches_in=plan.rows,
        quarantined=totals["quarantined"],
        duplicates=totals["duplicates"],
        warnings=totals["warnings"],
        reasons=dict(sorted(reasons.items())),
        changed_ids=tuple(changed_keys(job)[:_CHANGED_SHOWN]),
        edges=plan.edges,
        **counts,
    )


def require_some_accepted(summary: IngestSummary) -> None:
    """Check that an ingestion accepted at least one patch.

    Raises:
        DataRefused: Every row is in quarantine.
    """
    if summary.quarantined == summary.patches_in:
        reasons = ", ".join(f"{reason} {count}" for reason, count in summary.reasons.items())
        raise DataRefused(
            f"none of the {summary.patches_in} patches was accepted ({reasons}); {quarantine_uri(summary.table)} "
            "names file and reason of each. Check the address of the archive."
        )


def finish_table(table: str) -> int:
    """Update of the scalar indexes and band statistics; makes no version if both are up to date.

    Returns:
        Version with both.
    """
    bound_arenas()
    return_free_memory()
    version = ensure_indexes(table)
    return_free_memory()
    ref = TableRef(normalise(table), version)
    if open_table(ref).count_rows():  # an archive of bad patches alone leaves a table without statistics
        band_statistics(ref)
    return version


def ingest(
    archive: str,
    table: str,
    *,
    workers: int = 1,
    strict: bool = False,
    shard_rows: int = 2048,
    tiles: TileOptions | None = None,
    only_present: bool = False,
) -> IngestSummary:
    """Ingestion of an archive on this machine: plan, shards in spawned processes, commit, indexes, statistics.

    Args:
        archive: Directory, ``s3://`` prefix, folder of tar files, or LMDB.
        table: Table to create or extend, a local path or ``s3://``.
        workers: Number of processes; 1 runs in the calling process.
        strict: Refuse the whole archive, before any write, if one patch is bad.
        shard_rows: Limit of rows per shard.
        tiles: Options of a construction: ``archive`` holds tiles, from which the patches are cut.
        only_present: Leave out metadata rows whose patches are not in the archive.

    Raises:
        DataRefused: The archive has no rows, or its metadata name far more patches than it has; or ``strict`` and a
            patch is bad.
        NotFound: The archive does not exist.
    """
    bound_arenas()
    plan = plan_ingest(
        archive,
        table,
        shard_rows=shard_rows,
        strict=strict,
        workers=workers,
        tiles=tiles,
        only_present=only_present,
    )
    calls = [(plan.table, plan.ingest_id, shard, 1) for shard in range(plan.shards)]
    with track("ingesting patches", plan.rows) as progress:
        for done in in_processes(ingest_shards, calls, workers):
            progress.advance(done["rows"])
    summary = commit_ingest(plan.table, plan.ingest_id)
    return replace(summary, version=finish_table(plan.table))
