"""Bulk loads into Lance tables: exactly once per row under crashes and concurrent writers.

The protocol, for any table with a primary key::

    create_table     version 1, empty; of concurrent creators one creates and all open the same table
    write_fragments  each worker writes data files that no table version names yet
    Job.put_manifest and the manifest of the shard, by conditional PUT: the first writer of a shard wins
    commit           one version: LanceOperation.Merge(existing + new fragments) at the version whose keys were checked;
                     the old rows of changed keys get deletion vectors in that same version

``Merge`` conflicts with every concurrent write, so a commit with an outdated check is refused and repeated. ``Append``
does not conflict (three concurrent writers of 500 ids left 1,500 rows).
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import stamina

from eoforge.data.tables.job import Job
from eoforge.data.tables.schema import BANDS, without_training_labels
from eoforge.data.tables.staged import MergePlan, StagedRows, keep_rows, read_staged, without_rows
from eoforge.errors import ConflictError, DataRefused, StoreError, UsageError
from eoforge.storage.addresses import (
    TableRef,
    address_of,
    is_s3,
    lance_uri,
    normalise,
    open_table,
    plain,
    storage_options,
    table_exists,
)
from eoforge.storage.objects import ObjectStore

if TYPE_CHECKING:
    import lance

__all__ = [
    "CommitResult",
    "Job",
    "changed_keys",
    "commit",
    "commit_counts",
    "create_table",
    "discard_fragments",
    "fragments_exist",
    "table_identity",
    "write_fragments",
]

COMMIT_ATTEMPTS = 100
JOB_PROPERTY = "eoforge.job"
_READ_VERSION = "eoforge.read_version"
_COUNTS = ("eoforge.added", "eoforge.skipped", "eoforge.changed")


@dataclass(frozen=True)
class CommitResult:
    """Result of the commit of a job; every later commit of the same job returns the same.

    Attributes:
        version: The version that holds all rows of the job.
        added: Rows that were new.
        skipped: Rows that the table, or an earlier shard of the job, already held.
        changed: Rows whose key the table held with another digest; they now have the content of the job.
    """

    version: int
    added: int
    skipped: int
    changed: int = 0


_NO_OBSTACLES = {"data", ".DS_Store", "Thumbs.db", "desktop.ini"}
"""Of Lance, and files that desktops leave in folders that a user looked into."""


def create_table(uri: str, schema: pa.Schema) -> lance.LanceDataset:
    """Table at an address, created empty if absent; of concurrent creators one creates and all open the same table.

    Raises:
        DataRefused: The table exists with another schema.
        UsageError: A local file, or a folder with other content, has that name.
    """
    import lance

    uri = normalise(uri)
    if not table_exists(uri):
        _require_own_folder(uri)
        # Not write_dataset(mode="create"): in Lance 14.0.2 the loser of a narrow race overwrites as version 2 and so
        # hides commits in between. An Overwrite that read version 0 can become version 1 or fail.
        empty = lance.LanceOperation.Overwrite(schema, [])
        try:
            lance.LanceDataset.commit(
                lance_uri(uri), empty, read_version=0, storage_options=storage_options(uri), max_retries=0
            )
        except (
            OSError,
            ValueError,
        ) as error:  # a concurrent creator (Lance has no exception for it), or a real failure
            if not table_exists(uri):
                raise StoreError(
                    f"cannot create {uri}: {plain(error)}. Check the store with `eoforge doctor`."
                ) from error
    table = _widened(open_table(TableRef(uri)), schema)
    if not _same_columns(table.schema, schema):
        raise DataRefused(
            f"{uri} exists with another schema than this job writes; choose another table name.\n"
            f"expected:\n{schema}\nfound:\n{table.schema}"
        )
    return table


def _widened(table: lance.LanceDataset, schema: pa.Schema) -> lance.LanceDataset:
    """Table of an older version whose columns now may be null, changed in its schema alone; others as they are."""
    held = table.schema
    strict = [f.name for f in schema if f.nullable and f.name in held.names and not held.field(f.name).nullable]
    loose = pa.schema([f.with_nullable(True) if f.name in strict else f for f in held], held.metadata)
    if not strict or not _same_columns(loose, schema):
        return table
    try:
        changes: list[Any] = [{"path": name, "nullable": True} for name in strict]
        table.alter_columns(*changes)
    except OSError as error:  # another writer was faster, or the store fails
        if open_table(TableRef(address_of(table))).version == table.version:
            raise StoreError(f"cannot change the schema of {address_of(table)}: {plain(error)}") from error
    return open_table(TableRef(address_of(table)))


def _same_columns(found: pa.Schema, wanted: pa.Schema) -> bool:
    """Whether a table has the columns of a job, beside derived ones; older tables do not name the bands of theirs."""
    own = without_training_labels(found)

    def facts(field: pa.Field) -> dict[bytes, bytes]:
        return {key: value for key, value in (field.metadata or {}).items() if key != BANDS}

    return (
        own.equals(wanted)
        and (own.metadata or {}) == (wanted.metadata or {})
        and all(
            facts(old) == facts(new) and (old.metadata or {}).get(BANDS) in (None, (new.metadata or {}).get(BANDS))
            for old, new in zip(own, wanted, strict=True)
        )
    )


def _require_own_folder(uri: str) -> None:
    """Refuses a folder with other content: a mistyped name must not mix the files of a table with others."""
    folder = Path(uri)
    if is_s3(uri) or not folder.exists():
        return
    # Files of Lance may come from a concurrent creator.
    obstacle = None if folder.is_dir() else "is a file"
    if obstacle is None:
        names = sorted(p.name for p in folder.iterdir() if not p.name.startswith("_") and p.name not in _NO_OBSTACLES)
        obstacle = f"is no table and holds {names[0]!r}" if names else None
    if obstacle is not None:
        raise UsageError(
            f"a new table needs a folder of its own; {uri} {obstacle}. Choose a folder that does not exist"
        )


def table_identity(table: lance.LanceDataset) -> str:
    """Identity of a table: the id of the transaction that created it; empty if a clean-up removed version 1.

    Job folders outlive a deleted table. With the identity in their ids, a new table at the same address resumes none.
    """
    try:
        creation = table.read_transaction(1)
    except (OSError, ValueError):  # the version was removed
        return ""
    return creation.uuid if creation else ""


def write_fragments(uri: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> list[str]:
    """Fragments (JSON, for a manifest) of batches, written as data files that no table version names yet.

    Memory is bounded by a few batches. An exception of ``batches`` is raised unchanged.
    """
    from lance.fragment import write_fragments as lance_write_fragments

    failures: list[Exception] = []
    rest = _remember_failure(batches, failures)
    first = next(rest, None)
    if first is None:
        return []
    uri = normalise(uri)
    reader = pa.RecordBatchReader.from_batches(schema, itertools.chain([first], rest))
    try:
        fragments = lance_write_fragments(
            reader, lance_uri(uri), schema=schema, mode="append", storage_options=storage_options(uri)
        )
    except OSError as error:
        if failures:  # Lance turns exceptions of the iterator into text
            raise failures[0] from error
        raise StoreError(f"cannot write data files of {uri}: {plain(error)}. Check with `eoforge doctor`.") from error
    return [json.dumps(f.to_json()) for f in fragments]


def _remember_failure(batches: Iterable[pa.RecordBatch], failures: list[Exception]) -> Iterator[pa.RecordBatch]:
    try:
        yield from batches
    except Exception as error:
        failures.append(error)
        raise


def discard_fragments(uri: str, fragments: Sequence[str]) -> None:
    """Deletes data files of fragments that no manifest and no version names, after another worker won the shard."""
    store = ObjectStore(normalise(uri))
    for path in _data_files(fragments):
        store.delete(path)


def fragments_exist(uri: str, fragments: Sequence[str]) -> bool:
    """Whether all data files of staged fragments exist."""
    store = ObjectStore(normalise(uri))
    return all(store.exists(path) for path in _data_files(fragments))


def _data_files(fragments: Sequence[str]) -> Iterator[str]:
    for text in fragments:
        for file in json.loads(text)["files"]:
            yield f"data/{file['path']}"


def commit(
    uri: str, job: Job, shards: int, keys: tuple[str, ...], *, digest: str | None = None, part: str = "fragments"
) -> CommitResult:
    """Commit of a job: makes its rows visible once. Repeated and concurrent calls, and calls after a crash, are safe.

    All new rows appear in one version. With ``digest``, rows whose digest differs replace the old ones in the same
    version. Other rows whose key exists are skipped. Only keys and digests are read, unless a staged fragment has
    rows to skip as well.

    Args:
        uri: The table.
        job: The job whose manifests name the fragments.
        shards: Number of shards; all must have a manifest.
        keys: Columns of the primary key.
        digest: Column with a hash of the content of the row, if rows may change.
        part: Key of the manifests under which the fragments are listed.

    Raises:
        StoreError: A shard has no manifest.
        ConflictError: Other writers committed first, ``COMMIT_ATTEMPTS`` times.
    """
    from lance.commit import CommitConflictError

    uri = normalise(uri)
    result_name = f"{part}.result.json"
    staged: StagedRows | None = None
    try:
        for attempt in stamina.retry_context(
            on=CommitConflictError, attempts=COMMIT_ATTEMPTS, timeout=None, wait_initial=0.02, wait_max=2.0
        ):
            with attempt:
                done = job.find(result_name)
                if done is not None:
                    return CommitResult(**json.loads(done))
                staged = staged or read_staged(uri, _fragments(job, shards, part), keys, digest)
                result = _commit_once(uri, job, staged, part)
    except CommitConflictError as error:
        raise ConflictError(
            f"other writers of {uri} committed first, {COMMIT_ATTEMPTS} times; run the command again"
        ) from error
    job.put_if_absent(result_name, json.dumps(asdict(result)).encode())
    return CommitResult(**json.loads(job.get(result_name)))


def _fragments(job: Job, shards: int, part: str) -> list[str]:
    fragments: list[str] = []
    for shard in range(shards):
        manifest = job.manifest(shard)
        if manifest is None:
            raise StoreError(f"shard {shard} of job {job.job_id} has no manifest; run the shard (again), then commit")
        fragments += manifest.get(part, [])
    return fragments


def _commit_once(uri: str, job: Job, staged: StagedRows, part: str) -> CommitResult:
    """Result of one attempt at the newest version.

    Raises:
        CommitConflictError: Another writer committed after the keys were checked; nothing was changed.
    """
    table = open_table(TableRef(uri))
    job.put_if_absent(f"{part}.base.json", json.dumps({"version": table.version}).encode())
    base = int(json.loads(job.get(f"{part}.base.json"))["version"])
    done = _earlier_commit(table, base, f"{job.job_id}/{part}")
    if done is None:
        plan = staged.against(table)
        if not (plan.fresh.any() or plan.changed.any()):
            return CommitResult(table.version, 0, len(staged))
        # Before the commit: a crash right after the commit must not lose the report.
        names = sorted(staged.names(plan.changed))
        job.put(_changed_at(part, table.version), json.dumps(names).encode())
        done = _merge(table, staged, plan, f"{job.job_id}/{part}"), table.version
    result, read_version = done
    if result.changed:
        job.put(f"{part}.changed.json", job.get(_changed_at(part, read_version)))
    return result


def changed_keys(job: Job, part: str = "fragments") -> list[str]:
    """Sorted keys of the rows whose content the job replaced."""
    return list(json.loads(job.find(f"{part}.changed.json") or b"[]"))


def _changed_at(part: str, version: int) -> str:
    """File name per table version: attempts at other versions may find other rows changed."""
    return f"{part}.changed.v{version}.json"


def _merge(table: lance.LanceDataset, staged: StagedRows, plan: MergePlan, job_key: str) -> CommitResult:
    import lance

    uri = staged.uri
    fragments = without_rows(table, plan.replaced)
    for number, text in enumerate(staged.fragments):
        wanted = (plan.fresh | plan.changed)[staged.rows_of(number)]
        if wanted.all():
            kept = [text]
        elif wanted.any():
            # A fragment cannot have a deletion vector before its commit: write the rows to keep again.
            kept = write_fragments(uri, without_training_labels(table.schema), keep_rows(uri, text, wanted))
        else:
            kept = []
        fragments += [lance.FragmentMetadata.from_json(k) for k in kept]
    added, changed = int(plan.fresh.sum()), int(plan.changed.sum())
    counts = (added, len(staged) - added - changed, changed)
    transaction = lance.Transaction(
        table.version,
        lance.LanceOperation.Merge(fragments, table.schema),
        transaction_properties={
            JOB_PROPERTY: job_key,
            _READ_VERSION: str(table.version),
            **dict(zip(_COUNTS, map(str, counts), strict=True)),
        },
    )
    merged = lance.LanceDataset.commit(lance_uri(uri), transaction, storage_options=storage_options(uri))
    return CommitResult(merged.version, *counts)


def _earlier_commit(table: lance.LanceDataset, base: int, job_key: str) -> tuple[CommitResult, int] | None:
    """Earlier commit of this job, by a process that crashed or by a concurrent one; None if there is none.

    Returns:
        Result, and the version that the keys were checked against.
    """
    for version in range(base + 1, table.version + 1):
        try:
            transaction = table.read_transaction(version)
        except (OSError, ValueError, TypeError):
            # Removed, or a compaction with indexes, whose transactions Lance 14.0.2 cannot represent.
            continue
        properties = (transaction.transaction_properties if transaction else None) or {}
        if properties.get(JOB_PROPERTY) == job_key:
            return CommitResult(version, *commit_counts(properties)), int(properties[_READ_VERSION])
    return None


def commit_counts(properties: Mapping[str, str]) -> tuple[int, int, int]:
    """Rows that a commit added, skipped and changed, from the properties of its transaction."""
    added, skipped, changed = (int(properties[name]) for name in _COUNTS)
    return added, skipped, changed
