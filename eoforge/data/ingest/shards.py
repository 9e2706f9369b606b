"""The worker's part of an ingestion: shards of an archive become fragments that no version names yet."""

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
from eoforge.data.tables.schema import PATCHES, QUARANTINE
from eoforge.errors import DataRefused, UsageError
from eoforge.storage.addresses import TableRef, open_table
from eoforge.storage.memory import bound_arenas, return_free_memory

BATCH_ROWS = 16
"""Patches handed over at a time, about 5 MB. Lance has several batches in work at once: 64 took 80 MiB more."""


@dataclass
class Tally:
    """What became of the rows of a shard; every row is in exactly one of the first three.

    Attributes:
        written: Rows in the shard's fragments, new or with new content.
        unchanged: Rows that the table already holds with the same digest.
        quarantined: Rows kept out; ``duplicates`` of them for repeating a patch_id.
        duplicates: See ``quarantined``.
        warnings: Remarks on rows that were not kept out.
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
        """The numbers, for a manifest."""
        return {
            "written": self.written,
            "unchanged": self.unchanged,
            "quarantined": self.quarantined,
            "duplicates": self.duplicates,
            "warnings": self.warnings,
            "reasons": dict(self.reasons),
        }

    def note(self, result: ReadResult) -> None:
        """Counts the findings of one row."""
        self.defects += result.defects
        self.reasons.update(d.reason.value for d in result.defects)
        if result.pair is None:
            self.quarantined += 1
            self.duplicates += any(d.reason is Reason.DUPLICATE_ID for d in result.defects)
        else:
            self.warnings += len(result.defects)


def ingest_shards(table: str, ingest_id: str, first: int, count: int) -> dict[str, int]:
    """Reads shards ``first .. first + count - 1`` and writes their fragments and manifests.

    A shard that has a manifest is not read again. Nothing becomes visible before ``commit_ingest``.

    Args:
        table: The table.
        ingest_id: From ``plan_ingest``.
        first: First shard.
        count: Number of shards.

    Returns:
        ``shards`` written, shards ``resumed`` from an earlier attempt, and ``rows`` in both.

    Raises:
        NotFound: The ingestion is not planned, or the archive is gone.
        UsageError: The range is not within the plan.
    """
    bound_arenas()
    job, plan = load_plan(table, ingest_id)
    if first < 0 or count < 0 or first + count > plan.shards:
        raise UsageError(
            f"shards {first}..{first + count - 1} asked for; ingestion {ingest_id} has 0..{plan.shards - 1}"
        )
    archive = open_archive(plan.archive)
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
            job.drop_manifest(shard)  # its files were cleaned up before anyone committed them
        manifest = _write_shard(plan, archive, rows)
        return_free_memory()
        if not job.put_manifest(shard, manifest) and job.manifest(shard) != manifest:
            discard_fragments(plan.table, manifest["fragments"])  # another worker was faster
            discard_fragments(quarantine, manifest["quarantine"])
        done["shards"] += 1
    return done


def _write_shard(plan: IngestPlan, archive: Archive, rows: MetadataRows) -> dict[str, Any]:
    tally = Tally()
    known = _known_digests(plan.table, rows)
    results = archive.read(rows)
    fragments = write_fragments(plan.table, PATCHES, _batches(results, known, tally))
    if tally.written + tally.unchanged + tally.quarantined != len(rows):
        raise DataRefused(
            f"the reader of {plan.archive} gave another number of results than the {len(rows)} rows asked for"
        )
    batches = [defect_batch(tally.defects, plan.ingest_id)] if tally.defects else []
    quarantined = write_fragments(quarantine_uri(plan.table), QUARANTINE, batches)
    return {"fragments": fragments, "quarantine": quarantined, **tally.counts()}


def _known_digests(table: str, rows: MetadataRows) -> dict[str, str]:
    """Digests of the shard's patches that the table holds now; the commit checks again, this only saves writing."""
    low, high = (rows.table["patch_id"][i].as_py().replace("'", "''") for i in (0, len(rows) - 1))
    found = open_table(TableRef(table)).to_table(
        columns=["patch_id", "digest"], filter=f"patch_id >= '{low}' AND patch_id <= '{high}'"
    )
    return dict(zip(found["patch_id"].to_pylist(), found["digest"].to_pylist(), strict=True))


def _batches(results: Iterable[ReadResult], known: dict[str, str], tally: Tally) -> Iterator[pa.RecordBatch]:
    pending: list[PatchPair] = []
    for result in results:
        tally.note(result)
        pair = result.pair
        if pair is None:
            continue
        before = known.get(pair.meta.patch_id)
        if before is not None and before == digest(pair):
            tally.unchanged += 1
            continue
        tally.written += 1
        pending.append(pair)
        if len(pending) == BATCH_ROWS:
            yield record_batch(pending)
            pending = []
    if pending:
        yield record_batch(pending)
