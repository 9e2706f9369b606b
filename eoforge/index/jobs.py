"""Tables made from patches row by row: what ``codes.lance`` and ``streams.lance`` share of planning and commit.

A table belongs to one bundle and one table of patches. Each row carries the digest of the patch it was made from, so
that a newer version of the patches costs what is missing and what changed, and nothing else. The version that the rows
stand for is in the schema's metadata and moves on only after all rows are there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from eoforge.bundle import Bundle
from eoforge.data.tables.commit import (
    CommitResult,
    Job,
    commit,
    create_table,
    discard_fragments,
    table_identity,
    write_fragments,
)
from eoforge.errors import ConflictError, DataRefused, NotFound, UsageError
from eoforge.index.info import PATCHES_VERSION, CodeTableInfo
from eoforge.progress import Tracker, track
from eoforge.storage.addresses import TableRef, open_table, table_exists

if TYPE_CHECKING:
    import lance

KEYS = ("patch_id", "modality")
_PLAN, _ROWS = "plan.json", "rows.bin"

Maker = Callable[["lance.LanceDataset", npt.NDArray[np.int64], pa.Schema, Tracker], Iterator[pa.RecordBatch]]
"""Patches, positions in them, schema of the rows, progress to advance by patches -> the rows."""


@dataclass(frozen=True)
class IndexPlan:
    """One job; ``shards`` contiguous ranges of the ``rows`` patches that need rows, made as ``recipe`` says."""

    job_id: str
    codes: str
    bundle_uri: str
    bundle_id: str
    patches_uri: str
    patches_version: int
    shard_rows: int
    shards: int
    rows: int
    recipe: str = ""

    @property
    def patches(self) -> TableRef:
        """The patches at their version."""
        return TableRef(self.patches_uri, self.patches_version)


@dataclass(frozen=True)
class IndexSummary:
    """What a run did; ``added``, ``changed`` and ``skipped`` count rows (patches times modalities)."""

    codes: str
    version: int
    bundle_id: str
    patches_version: int
    patches: int
    added: int
    changed: int
    skipped: int


def table_for(mine: CodeTableInfo, uri: str, schema: pa.Schema, what: str) -> lance.LanceDataset:
    """The table at ``uri``, created if it is absent.

    Args:
        mine: Bundle and patches of this job.
        uri: The table.
        schema: Of a new table; carries ``mine`` in its metadata.
        what: What its rows are, for messages.

    Raises:
        DataRefused: The table belongs to another bundle or other patches.
        UsageError: It stands for a newer version of the patches.
    """
    if not table_exists(uri):
        try:
            return create_table(uri, schema)
        except DataRefused:  # another plan, for another version perhaps, created it first: judge what is there now
            pass
    table = open_table(TableRef(uri))
    theirs = CodeTableInfo.of(table.schema, uri)
    if (theirs.bundle_id, theirs.patches.uri) != (mine.bundle_id, mine.patches.uri):
        raise DataRefused(
            f"{uri} holds {what} of bundle {theirs.bundle_id[:16]} for {theirs.patches.uri}; this is bundle "
            f"{mine.bundle_id[:16]} for {mine.patches.uri}. Choose another table of {what}"
        )
    if (theirs.patches.version or 0) > (mine.patches.version or 0):
        raise UsageError(
            f"{uri} stands for {theirs.patches}, newer than {mine.patches}. Take the newer one, or choose another table"
        )
    return table


def plan_rows(
    kind: str,
    bundle: Bundle,
    patches: lance.LanceDataset,
    table: lance.LanceDataset,
    pinned: CodeTableInfo,
    uri: str,
    shard_rows: int,
    modalities: Sequence[str],
    recipe: str = "",
) -> IndexPlan:
    """Finds the patches without rows of their present digest and cuts them into shards.

    The job's id follows from bundle, patches version, table and recipe: planning again finds the same plan, so that a
    run that was killed goes on where it stopped.
    """
    parts = [bundle.id, str(pinned.patches), str(shard_rows), table_identity(table), table_identity(patches)]
    job_id = (
        f"{kind}-" + hashlib.blake2b("\n".join(parts + [recipe] * bool(recipe)).encode(), digest_size=12).hexdigest()
    )
    job = Job(uri, job_id)
    _keep(patches, f"codes-{job_id}")
    rows = job.find(_ROWS)
    if rows is None:
        job.put_if_absent(_ROWS, _rows_to_make(patches, table, modalities).astype("<i8").tobytes())
        rows = job.get(_ROWS)
    count = len(rows) // 8
    plan = IndexPlan(
        job_id=job_id,
        codes=uri,
        bundle_uri=bundle.uri,
        bundle_id=bundle.id,
        patches_uri=pinned.patches.uri,
        patches_version=patches.version,
        shard_rows=shard_rows,
        shards=-(-count // shard_rows),
        rows=count,
        recipe=recipe,
    )
    job.put_if_absent(_PLAN, json.dumps(asdict(plan)).encode())
    return plan


def load_plan(uri: str, job_id: str) -> tuple[IndexPlan, Job]:
    """The plan of a job and its files.

    Raises:
        NotFound: There is no such plan.
    """
    job = Job(uri, job_id)
    plan = job.find(_PLAN)
    if plan is None:
        raise NotFound(f"no index job {job_id!r} beside {uri}; plan it first")
    return IndexPlan(**json.loads(plan)), job


def write_shards(plan: IndexPlan, job: Job, first: int, count: int, make: Maker, doing: str) -> dict[str, int]:
    """Writes shards ``first`` to ``first + count - 1``; those that have a manifest or lie past the last are skipped.

    Returns:
        Shards and patches written by this call, and shards skipped.
    """
    schema = open_table(plan.codes).schema
    patches = open_table(plan.patches)
    rows = np.frombuffer(job.get(_ROWS), dtype="<i8")
    done = {"shards": 0, "patches": 0, "skipped_shards": 0}
    wanted = range(max(first, 0), min(first + count, plan.shards))
    parts = {shard: rows[shard * plan.shard_rows : (shard + 1) * plan.shard_rows] for shard in wanted}
    with track(doing, total=sum(map(len, parts.values()))) as progress:
        for shard, mine in parts.items():
            if job.manifest(shard) is not None:
                done["skipped_shards"] += 1
                progress.advance(len(mine))
                continue
            fragments = write_fragments(plan.codes, schema, make(patches, mine, schema, progress))
            if not job.put_manifest(shard, {"fragments": fragments}):
                discard_fragments(plan.codes, fragments)  # a twin of this worker was faster
            done["shards"] += 1
            done["patches"] += len(mine)
    return done


def commit_rows(plan: IndexPlan, job: Job) -> IndexSummary:
    """Makes the rows of a job visible, once.

    Raises:
        StoreError: A shard was not written yet.
        ConflictError: The table meanwhile stands for a newer version of the patches.
    """
    held = CodeTableInfo.of(open_table(plan.codes).schema, plan.codes).patches.version or 0
    if held > plan.patches_version:
        raise ConflictError(
            f"{plan.codes} meanwhile stands for version {held} of {plan.patches_uri}, newer than this job's "
            f"{plan.patches_version}; nothing is left to do"
        )
    result: CommitResult = commit(plan.codes, job, plan.shards, KEYS, digest="digest")
    table = open_table(plan.codes)
    if held < plan.patches_version:
        table.update_schema_metadata({PATCHES_VERSION: str(plan.patches_version)})
    return IndexSummary(
        codes=plan.codes,
        version=table.version,
        bundle_id=plan.bundle_id,
        patches_version=plan.patches_version,
        patches=plan.rows,
        added=result.added,
        changed=result.changed,
        skipped=result.skipped,
    )


def _keep(patches: lance.LanceDataset, tag: str) -> None:
    """Tags the version, so that a clean-up leaves what the rows refer to."""
    if tag in patches.tags.list():
        return
    try:
        patches.tags.create(tag, patches.version)
    except (OSError, ValueError):
        if tag not in patches.tags.list():  # a twin of this planner may have been faster
            raise


def _rows_to_make(
    patches: lance.LanceDataset, table: lance.LanceDataset, modalities: Sequence[str]
) -> npt.NDArray[np.int64]:
    """Rows of ``patches`` that lack a row of their present digest in any modality."""
    wanted = patches.to_table(columns=["patch_id", "digest"]).combine_chunks()
    held = table.to_table(columns=[*KEYS, "digest"]).combine_chunks()
    current = np.ones(wanted.num_rows, dtype=bool)
    for modality in modalities:
        part = held.filter(pc.equal(held.column("modality"), modality)).combine_chunks()
        place = pc.index_in(wanted.column("patch_id"), value_set=part.column("patch_id").combine_chunks())
        same = pc.equal(part.column("digest").combine_chunks().take(place.combine_chunks()), wanted.column("digest"))
        current &= pc.fill_null(same, False).to_numpy(zero_copy_only=False)
    return np.flatnonzero(~current)
