"""Jobs that make tables from patches: planning and commit of ``codes.lance``, ``streams.lance`` and predictions.

A table belongs to one bundle and one table of patches. Each row carries the digest of its patch, so that a new
version of the patches costs only the missing and the changed rows. The metadata of the schema name that version; they
change after all rows are committed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from eoforge.bundle import ENCODER_CONFIG, Bundle, load_bundle, require_keys
from eoforge.data.tables.commit import (
    CommitResult,
    Job,
    commit,
    create_table,
    discard_fragments,
    table_identity,
    write_fragments,
)
from eoforge.errors import BundleError, ConflictError, DataRefused, NotFound, UsageError
from eoforge.index.code_table import PATCHES_ID, PATCHES_VERSION, CodeTableInfo, MadeTableInfo
from eoforge.index.encoder import Encoder
from eoforge.index.missing_rows import KEYS, can_have_row, rows_to_make
from eoforge.progress import Tracker, track
from eoforge.storage.addresses import TableRef, normalise, open_table, table_exists, table_to_write

if TYPE_CHECKING:
    import lance

_PLAN, _ROWS = "plan.json", "rows.bin"

RowMaker = Callable[["lance.LanceDataset", npt.NDArray[np.int64], pa.Schema, Tracker], Iterator[pa.RecordBatch]]
"""Function from patches, positions of rows, schema and progress to record batches; progress counts patches."""


@dataclass(frozen=True)
class IndexPlan:
    """Plan of one job: ``shards`` contiguous ranges of the ``rows`` patches to process; ``recipe`` holds options.

    ``incomplete`` patches get no row, since they lack the sensors for it.
    """

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
    incomplete: int = 0

    @property
    def patches(self) -> TableRef:
        """Table of patches at its version."""
        return TableRef(self.patches_uri, self.patches_version)


@dataclass(frozen=True)
class IndexSummary:
    """Counts of a job; ``added``, ``changed`` and ``skipped`` count rows (patches times modalities).

    ``incomplete`` counts the patches that get no row, since they lack the sensors for it.
    """

    codes: str
    version: int
    bundle_id: str
    patches_version: int
    patches: int
    added: int
    changed: int
    skipped: int
    incomplete: int = 0


InfoT = TypeVar("InfoT", bound=MadeTableInfo)


@dataclass(frozen=True)
class Inputs(Generic[InfoT]):
    """Opened bundle and patches of a job, and the address of its table."""

    bundle: Bundle
    patches: lance.LanceDataset
    info: InfoT
    uri: str
    shard_rows: int

    @classmethod
    def open(
        cls,
        describe: Callable[[Bundle, TableRef, str], InfoT],
        bundle_uri: str,
        table: TableRef,
        uri: str,
        shard_rows: int,
    ) -> Inputs[InfoT]:
        """Inputs of a job; without a version the newest patches are pinned.

        Args:
            describe: Makes the description of the table from the bundle, the pinned patches and their identity.
            bundle_uri: Run bundle.
            table: Table of patches.
            uri: Table to make.
            shard_rows: Patches per shard.

        Raises:
            BundleError: The bundle cannot make such rows.
            NotFound: The bundle or the patches do not exist.
            UsageError: ``shard_rows`` is below 1, or ``uri`` names a version or a whole bucket.
        """
        if shard_rows < 1:
            raise UsageError(f"a shard needs at least 1 patch; got shard_rows={shard_rows}")
        uri = table_to_write(uri)
        bundle = load_bundle(bundle_uri)
        require_keys(bundle)
        patches = open_table(table)
        pinned = TableRef(normalise(table.uri), patches.version)
        return cls(bundle, patches, describe(bundle, pinned, table_identity(patches)), uri, shard_rows)


def made_info(bundle: Bundle, patches: TableRef, patches_id: str) -> MadeTableInfo:
    """Description of a table of predictions."""
    return MadeTableInfo(bundle.id, bundle.uri, bundle.config["method"], patches, patches_id)


def code_info(bundle: Bundle, patches: TableRef, patches_id: str) -> CodeTableInfo:
    """Description of a table of codes.

    Raises:
        BundleError: The bundle makes no codes.
    """
    require_keys(bundle, ENCODER_CONFIG)
    config = bundle.config
    return CodeTableInfo(bundle.id, bundle.uri, config["method"], patches, patches_id, bits=config["bits"])


def table_for(info: MadeTableInfo, uri: str, schema: pa.Schema, what: str) -> lance.LanceDataset:
    """Table at ``uri``, created if absent.

    Args:
        info: Bundle and patches of this job.
        uri: Address of the table.
        schema: Schema of a new table, with ``info`` in its metadata.
        what: Name of the rows, for error messages.

    Raises:
        DataRefused: The table belongs to another bundle or other patches.
        UsageError: The table belongs to a newer version of the patches.
    """
    if not table_exists(uri):
        try:
            return create_table(uri, schema)
        except DataRefused:  # a concurrent plan, perhaps for another version, created the table: check it below
            pass
    table = open_table(TableRef(uri))
    existing = info.of(table.schema, uri)
    if (existing.bundle_id, existing.patches.uri) != (info.bundle_id, info.patches.uri):
        raise DataRefused(
            f"{uri} holds {what} of bundle {existing.bundle_id[:16]} for {existing.patches.uri}; this is bundle "
            f"{info.bundle_id[:16]} for {info.patches.uri}. Choose another table of {what}, or, if these are the same "
            "bundle and patches at another address, call `eoforge index` with --rebase"
        )
    if (existing.patches.version or 0) > (info.patches.version or 0):
        raise UsageError(
            f"{uri} belongs to {existing.patches}, newer than {info.patches}. Use the newer version or another table"
        )
    return table


def plan_rows(
    kind: str, inputs: Inputs[InfoT], table: lance.LanceDataset, recipe: str = "", needed: Sequence[str] = ()
) -> IndexPlan:
    """Plan of the patches without rows of their present digest, cut into shards.

    The id of the job is a function of bundle, patches version, table and recipe: a repeated call returns the same plan,
    so that a killed run continues where it stopped.

    Args:
        kind: Kind of job, the first part of its id.
        inputs: Bundle and patches.
        table: Table to write.
        recipe: Options of the job.
        needed: Sensors that a patch needs, all of them, for its row in a table without modalities. In a table with
            modalities a patch gets a row for each sensor of the bundle that it has.

    Raises:
        DataRefused: No patch can get a row.
    """
    bundle, patches, pinned, shard_rows = inputs.bundle, inputs.patches, inputs.info.patches, inputs.shard_rows
    parts = [bundle.id, str(pinned), str(shard_rows), table_identity(table), table_identity(patches)]
    job_id = (
        f"{kind}-" + hashlib.blake2b("\n".join(parts + [recipe] * bool(recipe)).encode(), digest_size=12).hexdigest()
    )
    job = Job(inputs.uri, job_id)
    _tag_version(patches, f"codes-{job_id}")
    modalities = _modalities(bundle) if "modality" in table.schema.names else None
    possible = can_have_row(patches, needed if modalities is None else modalities, every=modalities is None)
    rows = job.find(_ROWS)
    if rows is None:
        wanted = rows_to_make(patches, table, modalities)
        job.put_if_absent(_ROWS, wanted[possible[wanted]].astype("<i8").tobytes())
        rows = job.get(_ROWS)
    count = len(rows) // 8
    plan = IndexPlan(
        job_id=job_id,
        codes=inputs.uri,
        bundle_uri=bundle.uri,
        bundle_id=bundle.id,
        patches_uri=pinned.uri,
        patches_version=patches.version,
        shard_rows=shard_rows,
        shards=-(-count // shard_rows),
        rows=count,
        recipe=recipe,
        incomplete=int((~possible).sum()),
    )
    job.put_if_absent(_PLAN, json.dumps(asdict(plan)).encode())
    return plan


def load_plan(uri: str, job_id: str) -> tuple[IndexPlan, Job]:
    """Plan and files of a job.

    Raises:
        NotFound: The plan does not exist.
    """
    job = Job(uri, job_id)
    plan = job.find(_PLAN)
    if plan is None:
        raise NotFound(f"no index job {job_id!r} beside {uri}; plan it first")
    return IndexPlan(**json.loads(plan)), job


def open_job(uri: str, job_id: str, encoder: Encoder) -> tuple[IndexPlan, Job]:
    """Plan and files of a job whose codes ``encoder`` makes.

    Raises:
        NotFound: The plan does not exist.
        BundleError: The code length of the encoder differs from the table.
    """
    plan, job = load_plan(uri, job_id)
    width = open_table(plan.codes).schema.field("code").type.list_size
    if width * 8 != encoder.bits:
        raise BundleError(f"{plan.codes} holds codes of {width * 8} bits; got {encoder.bits}")
    return plan, job


def write_shards(plan: IndexPlan, job: Job, first: int, count: int, make: RowMaker, label: str) -> dict[str, int]:
    """Writing of shards ``first`` to ``first + count - 1``; existing shards and those past the last are skipped.

    Returns:
        Shards, patches and rows written by this call, and shards skipped.
    """
    schema = open_table(plan.codes).schema
    patches = open_table(plan.patches)
    rows = np.frombuffer(job.get(_ROWS), dtype="<i8")
    done = {"shards": 0, "patches": 0, "rows": 0, "skipped_shards": 0}
    wanted = range(max(first, 0), min(first + count, plan.shards))
    parts = {shard: rows[shard * plan.shard_rows : (shard + 1) * plan.shard_rows] for shard in wanted}
    with track(label, total=sum(map(len, parts.values()))) as progress:
        for shard, part in parts.items():
            if job.manifest(shard) is not None:
                done["skipped_shards"] += 1
                progress.advance(len(part))
                continue
            batches = _counted(make(patches, part, schema, progress), done)
            fragments = write_fragments(plan.codes, schema, batches)
            if not job.put_manifest(shard, {"fragments": fragments}):
                discard_fragments(plan.codes, fragments)  # a concurrent worker finished the shard first
            done["shards"] += 1
            done["patches"] += len(part)
    return done


def _counted(batches: Iterator[pa.RecordBatch], done: dict[str, int]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        done["rows"] += batch.num_rows
        yield batch


def commit_rows(plan: IndexPlan, job: Job) -> IndexSummary:
    """Commit of the rows of a job, once.

    Raises:
        StoreError: A shard is not written yet.
        ConflictError: The table meanwhile belongs to a newer version of the patches.
    """
    existing = MadeTableInfo.of(open_table(plan.codes).schema, plan.codes)
    held = existing.patches.version or 0
    if held > plan.patches_version:
        raise ConflictError(
            f"{plan.codes} meanwhile belongs to version {held} of {plan.patches_uri}, newer than version "
            f"{plan.patches_version} of this job; the job is obsolete"
        )
    keys = tuple(key for key in KEYS if key in open_table(plan.codes).schema.names)
    result: CommitResult = commit(plan.codes, job, plan.shards, keys, digest="digest")
    table = open_table(plan.codes)
    made_of = table_identity(open_table(plan.patches))
    if (held, existing.patches_id) != (plan.patches_version, made_of):
        table.update_schema_metadata({PATCHES_VERSION: str(plan.patches_version), PATCHES_ID: made_of})
    return IndexSummary(
        codes=plan.codes,
        version=table.version,
        bundle_id=plan.bundle_id,
        patches_version=plan.patches_version,
        patches=plan.rows,
        added=result.added,
        changed=result.changed,
        skipped=result.skipped,
        incomplete=plan.incomplete,
    )


def rebase(bundle_uri: str, table: TableRef, uri: str) -> CodeTableInfo:
    """New addresses of the bundle and the patches in a table of codes or streams; no row changes.

    Args:
        bundle_uri: Bundle of the codes, at its new address.
        table: Patches of the codes, at their new address.
        uri: Table of codes or streams.

    Raises:
        NotFound: The bundle, the patches in the version of the codes, or the codes do not exist.
        DataRefused: The bundle or the patches are others than those of the codes.
    """
    uri = table_to_write(uri)
    codes = open_table(TableRef(uri))
    existing = CodeTableInfo.of(codes.schema, uri)
    moved = replace(
        existing,
        bundle_uri=normalise(bundle_uri),
        patches=TableRef(normalise(table.uri), existing.patches.version),
    )
    bundle, patches = moved.open_bundle(), moved.open_patches()
    # Tables of older releases name no identity, and a clean-up removes it: digests of all patches decide.
    missing = len(rows_to_make(patches, codes, _modalities(bundle)))
    if missing:
        raise DataRefused(
            f"{moved.patches} are other patches than those of {uri}: {missing} of {patches.count_rows()} have no code "
            "of the same pixels"
        )
    moved = replace(moved, patches_id=table_identity(patches))
    codes.update_schema_metadata(dict[str, str | None](moved.metadata(uri)))
    return moved


def _modalities(bundle: Bundle) -> list[str]:
    return sorted(modality for modality, bands in bundle.config["bands"].items() if bands)


def _tag_version(patches: lance.LanceDataset, tag: str) -> None:
    """Tags the version of the patches, so that a clean-up keeps it."""
    if tag in patches.tags.list():
        return
    try:
        patches.tags.create(tag, patches.version)
    except (OSError, ValueError):
        if tag not in patches.tags.list():  # a concurrent planner may have created the tag
            raise
