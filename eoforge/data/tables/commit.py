"""Bulk loads into Lance tables that neither lose nor duplicate a row, whoever is killed and whoever races.

The protocol (design/architecture.md, section 3), for any table with a primary key::

    create_table     version 1, empty; the loser of that race opens the winner's table
    write_fragments  each worker writes data files that no version names yet
    Job.put_manifest then its shard manifest, by conditional PUT: the first writer of a shard wins
    commit           one version: LanceOperation.Merge(existing + new fragments) at the version whose keys were checked;
                     the old rows of changed keys get deletion vectors in that same version

``Merge`` conflicts with every concurrent write, so a commit whose check is out of date is refused and checks again.
``Append`` would not be (three racing writers of 500 ids left 1,500 rows).
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import stamina

from eoforge.data.tables.job import Job
from eoforge.data.tables.staged import MergePlan, StagedRows, keep_rows, read_staged, without_rows
from eoforge.errors import ConflictError, DataRefused, StoreError, UsageError
from eoforge.storage.addresses import TableRef, is_s3, normalise, open_table, plain, storage_options, table_exists
from eoforge.storage.objects import ObjectStore

if TYPE_CHECKING:
    import lance

__all__ = [
    "CommitResult",
    "Job",
    "changed_keys",
    "commit",
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
    """What a job did to a table; every later commit of the same job returns the same.

    Attributes:
        version: The version that holds all rows of the job.
        added: Rows that were new.
        skipped: Rows that were already there (in the table, or in an earlier shard of the job).
        changed: Rows whose key was there with another digest, and which now hold the job's content.
    """

    version: int
    added: int
    skipped: int
    changed: int = 0


def create_table(uri: str, schema: pa.Schema) -> lance.LanceDataset:
    """Creates the empty table, or opens it if it is there; of racing creators one creates and all open the same.

    Raises:
        DataRefused: The table exists with another schema.
        UsageError: A local file, or a folder with other things in it, has that name.
    """
    import lance

    uri = normalise(uri)
    if not table_exists(uri):
        _require_own_folder(uri)
        # Not write_dataset(mode="create"): in Lance 14.0.2 the loser of a narrow race overwrites as version 2 and so
        # hides what was committed in between. An Overwrite that read version 0 can become version 1 or fail.
        empty = lance.LanceOperation.Overwrite(schema, [])
        try:
            lance.LanceDataset.commit(uri, empty, read_version=0, storage_options=storage_options(uri), max_retries=0)
        except (OSError, ValueError) as error:  # lost the race (Lance has no exception of its own), or a real failure
            if not table_exists(uri):
                raise StoreError(
                    f"cannot create {uri}: {plain(error)}. Check the store with `eoforge doctor`."
                ) from error
    table = open_table(TableRef(uri))
    if not table.schema.equals(schema, check_metadata=True):
        raise DataRefused(
            f"{uri} exists with another schema than this job writes; choose another table name.\n"
            f"expected:\n{schema}\nfound:\n{table.schema}"
        )
    return table


def _require_own_folder(uri: str) -> None:
    """A table strewn among somebody's files is hard to delete; a mistyped or half-typed name must not make one."""
    folder = Path(uri)
    if is_s3(uri) or not folder.exists():
        return
    # What a racing creator may have made a moment ago is Lance's own.
    strange = None if folder.is_dir() else "is a file"
    if strange is None:
        names = sorted(p.name for p in folder.iterdir() if p.name != "data" and not p.name.startswith("_"))
        strange = f"is no table and holds {names[0]!r}" if names else None
    if strange is not None:
        raise UsageError(f"a new table needs a name of its own; {uri} {strange}. Name a folder that is not there yet")


def table_identity(table: lance.LanceDataset) -> str:
    """Tells a table from one that was deleted and made again at the same place: the transaction that created it.

    Empty once version 1 was cleaned up. Job folders outlive a deleted table; with this in their id nobody resumes one.
    """
    try:
        creation = table.read_transaction(1)
    except (OSError, ValueError):  # no such version any more
        return ""
    return creation.uuid if creation else ""


def write_fragments(uri: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> list[str]:
    """Writes batches as data files of the table that no version names yet; returns them as JSON for a manifest.

    Memory is bounded by a few batches, however many come. What ``batches`` raises comes out as it is.
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
            reader, uri, schema=schema, mode="append", storage_options=storage_options(uri)
        )
    except OSError as error:
        if failures:  # Lance flattens what our iterator raised into text
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
    """Deletes data files of fragments that no manifest and no version names (the loser of a shard calls this)."""
    store = ObjectStore(normalise(uri))
    for path in _data_files(fragments):
        store.delete(path)


def fragments_exist(uri: str, fragments: Sequence[str]) -> bool:
    """Whether all data files of staged fragments are still there."""
    store = ObjectStore(normalise(uri))
    return all(store.exists(path) for path in _data_files(fragments))


def _data_files(fragments: Sequence[str]) -> Iterator[str]:
    for text in fragments:
        for file in json.loads(text)["files"]:
            yield f"data/{file['path']}"


def commit(
    uri: str, job: Job, shards: int, keys: tuple[str, ...], *, digest: str | None = None, part: str = "fragments"
) -> CommitResult:
    """Makes a job's rows visible, once. Safe to call any number of times, by anyone, after any crash.

    All new rows appear in one version, and in the same one, with ``digest``, rows whose digest differs take the place
    of the old ones. Other rows whose key is there already are left out. Nothing is read but keys and digests, unless a
    staged fragment also holds rows to leave out.

    Args:
        uri: The table.
        job: The job whose manifests name the fragments.
        shards: Number of shards; all must have a manifest.
        keys: Columns of the primary key.
        digest: Column that holds a hash of the row's content, if rows may change.
        part: Key of the manifests under which the fragments are listed.

    Raises:
        StoreError: A shard has no manifest yet.
        ConflictError: Other writers won ``COMMIT_ATTEMPTS`` times.
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
        raise ConflictError(f"other writers of {uri} won {COMMIT_ATTEMPTS} times; run the command again") from error
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
    """One attempt at the newest version.

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
        # Before the commit: a crash right after it must not make the report forget.
        names = sorted(staged.names(plan.changed))
        job.put(_changed_at(part, table.version), json.dumps(names).encode())
        done = _merge(table, staged, plan, f"{job.job_id}/{part}"), table.version
    result, read_version = done
    if result.changed:
        job.put(f"{part}.changed.json", job.get(_changed_at(part, read_version)))
    return result


def changed_keys(job: Job, part: str = "fragments") -> list[str]:
    """Keys of the rows whose content this job replaced, sorted."""
    return list(json.loads(job.find(f"{part}.changed.json") or b"[]"))


def _changed_at(part: str, version: int) -> str:
    """Attempts at other versions, which other writers won, may find other rows changed."""
    return f"{part}.changed.v{version}.json"


def _merge(table: lance.LanceDataset, staged: StagedRows, plan: MergePlan, mine: str) -> CommitResult:
    import lance

    fragments = without_rows(table, plan.replaced)
    for number, text in enumerate(staged.fragments):
        wanted = (plan.fresh | plan.changed)[staged.rows_of(number)]
        if wanted.all():
            kept = [text]
        elif wanted.any():
            # Lance cannot put a deletion vector on a fragment before it is committed: write the rest of it anew.
            kept = write_fragments(table.uri, table.schema, keep_rows(table.uri, text, wanted))
        else:
            kept = []
        fragments += [lance.FragmentMetadata.from_json(k) for k in kept]
    added, changed = int(plan.fresh.sum()), int(plan.changed.sum())
    counts = (added, len(staged) - added - changed, changed)
    transaction = lance.Transaction(
        table.version,
        lance.LanceOperation.Merge(fragments, table.schema),
        transaction_properties={
            JOB_PROPERTY: mine,
            _READ_VERSION: str(table.version),
            **dict(zip(_COUNTS, map(str, counts), strict=True)),
        },
    )
    merged = lance.LanceDataset.commit(table.uri, transaction, storage_options=storage_options(table.uri))
    return CommitResult(merged.version, *counts)


def _earlier_commit(table: lance.LanceDataset, base: int, mine: str) -> tuple[CommitResult, int] | None:
    """This job's own earlier commit, which a crash or a twin of this process may have left behind.

    Returns:
        Its result and the version that its keys were checked against.
    """
    for version in range(base + 1, table.version + 1):
        try:
            transaction = table.read_transaction(version)
        except (OSError, ValueError, TypeError):
            # Cleaned up, or a compaction with indexes, whose transactions Lance 14.0.2 cannot represent: not ours.
            continue
        properties = (transaction.transaction_properties if transaction else None) or {}
        if properties.get(JOB_PROPERTY) == mine:
            counts = [int(properties[name]) for name in _COUNTS]
            return CommitResult(version, *counts), int(properties[_READ_VERSION])
    return None
