"""Worker of an ingestion: shards of an archive become fragments that no table version names yet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from eoforge.data.archives.base import Archive
from eoforge.data.archives.metadata import MetadataRows
from eoforge.data.archives.open import open_archive
from eoforge.data.ingest.plan import IngestPlan, load_plan, shard_metadata
from eoforge.data.ingest.quarantine import defect_batch, quarantine_uri
from eoforge.data.records import Defect, PatchPair, ReadResult, Reason, digest, record_batch
from eoforge.data.tables.commit import discard_fragments, fragments_exist, write_fragments
from eoforge.data.tables.schema import PATCHES, QUARANTINE, sql_list
from eoforge.errors import DataRefused, UsageError
from eoforge.storage.addresses import TableRef, open_table
from eoforge.storage.memory import bound_arenas, return_free_memory

BATCH_ROWS = 16
"""Patches per batch, about 5 MB. Lance holds several batches at once: batches of 64 took 80 MiB more."""


@dataclass
class Tally:
    """Counts of the rows of a shard; every row is in exactly one of the first three.

    Attributes:
        written: Rows in the shard's fragments, new or with new content.
        unchanged: Rows that the table already holds with the same digest.
        quarantined: Excluded rows.
        duplicates: Excluded rows that repeat a patch_id.
        warnings: Findings on accepted rows.
        reasons: Findings per reason code, fatal or not.
        defects: All findings.
    """

    written: int = 0
    unchanged: int = 0
    quarantined: int = 0
    duplicates: int = 0
    warnings: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    defects: list[Defect] = field(default_factory=list)

    def counts(self) -> dict[str, Any]:
        """Counts as they are stored in a manifest."""
        return {name: value for name, value in vars(self).items() if name != "defects"}

    def record(self, result: ReadResult) -> None:
        """Counts the findings of one row."""
        self.defects += result.defects
        self.reasons.update(d.reason.value for d in result.defects)
        if result.pair is None:
            self.quarantined += 1
            self.duplicates += any(d.reason is Reason.DUPLICATE_ID for d in result.defects)
        else:
            self.warnings += len(result.defects)


def ingest_shards(table: str, ingest_id: str, first: int, count: int) -> dict[str, int]:
    """Writing of the fragments and manifests of shards ``first .. first + count - 1``.

    A shard that has a manifest is not read again. Nothing becomes visible before ``commit_ingest``.

    Args:
        table: The table.
        ingest_id: From ``plan_ingest``.
        first: First shard.
        count: Number of shards.

    Returns:
        ``shards`` written, shards ``resumed`` from an earlier attempt, and ``rows`` in both.

    Raises:
        NotFound: The ingestion is not planned, or the archive does not exist any more.
        UsageError: The range is not within the plan.
    """
    bound_arenas()
    job, plan = load_plan(table, ingest_id)
    if first < 0 or count < 0 or first + count > plan.shards:
        raise UsageError(
            f"expected shards in 0..{plan.shards - 1} of ingestion {ingest_id}; got {first}..{first + count - 1}"
        )
    archive = open_archive(plan.archive, tiles=plan.tiles)
    quarantine = quarantine_uri(plan.table)
    done = {"shards": 0, "resumed": 0, "rows": 0}
    for shard in range(first, first + count):
        rows = shard_metadata(job, shard)
        done["rows"] += len(rows)
        earlier = job.manifest(shard)
        if earlier is not None:
            if fragments_exist(plan.table, earlier["fragments"]) and fragments_exist(quarantine, earlier["quarantine"]):
                done["resumed"] += 1
                continue
            job.drop_manifest(shard)  # its files were deleted by a clean-up before the commit
        manifest = _write_shard(plan, archive, rows)
        return_free_memory()
        if not job.put_manifest(shard, manifest) and job.manifest(shard) != manifest:
            discard_fragments(plan.table, manifest["fragments"])  # another worker finished the shard first
            discard_fragments(quarantine, manifest["quarantine"])
        done["shards"] += 1
    return done


def _write_shard(plan: IngestPlan, archive: Archive, rows: MetadataRows) -> dict[str, Any]:
    tally = Tally()
    known = _known_digests(plan.table, rows)
    results = archive.read(rows)
    fragments = write_fragments(plan.table, PATCHES, _batches(results, known, tally))
    if tally.written + tally.unchanged + tally.quarantined != len(rows):
        raise DataRefused(f"the reader of {plan.archive} did not give one result for each of {len(rows)} rows")
    batches = [defect_batch(tally.defects, plan.ingest_id)] if tally.defects else []
    quarantined = write_fragments(quarantine_uri(plan.table), QUARANTINE, batches)
    return {"fragments": fragments, "quarantine": quarantined, **tally.counts()}


def _known_digests(table: str, rows: MetadataRows) -> dict[str, str]:
    """Digests of the patches of the shard in the table now; saves writes, the commit checks again."""
    low, high = (sql_list([rows.table["patch_id"][i].as_py()]) for i in (0, len(rows) - 1))
    found = open_table(TableRef(table)).to_table(
        columns=["patch_id", "digest"], filter=f"patch_id >= {low} AND patch_id <= {high}"
    )
    return dict(zip(found["patch_id"].to_pylist(), found["digest"].to_pylist(), strict=True))


def _batches(results: Iterable[ReadResult], known: dict[str, str], tally: Tally) -> Iterator[pa.RecordBatch]:
    pending: list[PatchPair] = []
    for result in results:
        tally.record(result)
        pair = result.pair
        if pair is None:
            continue
        before = known.get(pair.meta.patch_id)
        if before is not None and before == digest(pair, like=before):
            tally.unchanged += 1
            continue
        tally.written += 1
        pending.append(pair)
        if len(pending) == BATCH_ROWS:
            yield record_batch(pending)
            pending = []
    if pending:
        yield record_batch(pending)
