"""Makes ``codes.lance``: plan, encode in shards, commit; exactly once and resumable at any point.

A codes table belongs to one bundle and one table of patches. Each code carries the digest of the patch it was made
from, so indexing a newer version of the patches encodes what is missing and what changed, and nothing else. The version
that the codes stand for is in the schema's metadata and moves on only after all rows are there; readers
(``index/catalog.py``) show patches of that version only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from eoforge.bundle import Bundle, load_bundle, require_keys
from eoforge.data.exactly_once import (
    CommitResult,
    Job,
    commit,
    create_table,
    discard_fragments,
    table_identity,
    write_fragments,
)
from eoforge.data.schema import codes_schema
from eoforge.data.store import TableRef, normalise, open_table, table_exists, table_to_write
from eoforge.errors import BundleError, ConflictError, DataRefused, NotFound, UsageError
from eoforge.index.encode import encode_rows
from eoforge.index.encoder import Encoder
from eoforge.index.info import PATCHES_VERSION, IndexInfo
from eoforge.progress import Tracker, track

if TYPE_CHECKING:
    import lance

KEYS = ("patch_id", "modality")
_PLAN, _ROWS = "plan.json", "rows.bin"


@dataclass(frozen=True)
class IndexPlan:
    """One indexing job; ``shards`` contiguous ranges of the ``rows`` patches that need a code."""

    job_id: str
    codes: str
    bundle_uri: str
    bundle_id: str
    patches_uri: str
    patches_version: int
    shard_rows: int
    shards: int
    rows: int


@dataclass(frozen=True)
class IndexSummary:
    """What an index run did; ``added``, ``changed`` and ``skipped`` count codes (patches times modalities)."""

    codes: str
    version: int
    bundle_id: str
    patches_version: int
    patches: int
    added: int
    changed: int
    skipped: int


def plan_index(bundle_uri: str, table: TableRef, codes_uri: str, shard_rows: int = 4096) -> IndexPlan:
    """Finds the patches without a code of this bundle, or with a code of other pixels, and cuts them into shards.

    The job's id follows from bundle, patches version and codes table: planning again finds the same plan, so that a
    run that was killed goes on where it stopped.

    Args:
        bundle_uri: Run bundle that encodes.
        table: Patches; without a version the newest is pinned.
        codes_uri: Table of codes, created if absent.
        shard_rows: Patches per shard.

    Raises:
        NotFound: The bundle or the patches do not exist.
        DataRefused: The codes table belongs to another bundle or other patches.
        UsageError: The codes stand for a newer version of the patches, ``shard_rows`` is below 1, or ``codes_uri``
            names a version or a whole bucket.
    """
    if shard_rows < 1:
        raise UsageError(f"a shard needs at least 1 patch; got shard_rows={shard_rows}")
    codes_uri = table_to_write(codes_uri)
    bundle = load_bundle(bundle_uri)
    require_keys(bundle)
    patches = open_table(table)
    pinned = TableRef(normalise(table.uri), patches.version)
    codes = _codes_table(bundle, pinned, codes_uri)

    parts = (bundle.id, str(pinned), str(shard_rows), table_identity(codes), table_identity(patches))
    job_id = "index-" + hashlib.blake2b("\n".join(parts).encode(), digest_size=12).hexdigest()
    job = Job(codes_uri, job_id)
    _keep(patches, f"codes-{job_id}")
    rows = job.find(_ROWS)
    if rows is None:
        job.put_if_absent(_ROWS, _rows_to_encode(patches, codes, _modalities(bundle)).astype("<i8").tobytes())
        rows = job.get(_ROWS)
    count = len(rows) // 8
    plan = IndexPlan(
        job_id=job_id,
        codes=codes_uri,
        bundle_uri=bundle.uri,
        bundle_id=bundle.id,
        patches_uri=pinned.uri,
        patches_version=patches.version,
        shard_rows=shard_rows,
        shards=-(-count // shard_rows),
        rows=count,
    )
    job.put_if_absent(_PLAN, json.dumps(asdict(plan)).encode())
    return plan


def encode_shards(codes_uri: str, job_id: str, first: int, count: int, encoder: Encoder) -> dict[str, int]:
    """Encodes shards ``first`` to ``first + count - 1``; shards that have a manifest are skipped.

    Args:
        codes_uri: Table of codes.
        job_id: From :func:`plan_index`.
        first: First shard.
        count: Number of shards; those past the last are ignored.
        encoder: The model of the plan's bundle.

    Returns:
        Shards and codes written by this call, and shards skipped.

    Raises:
        NotFound: There is no such plan.
        BundleError: The encoder gives codes of another length than the table holds.
    """
    plan, job = _load(codes_uri, job_id)
    schema = open_table(plan.codes).schema
    if schema.field("code").type.list_size * 8 != encoder.bits:
        raise BundleError(
            f"{plan.codes} holds codes of {schema.field('code').type.list_size * 8} bits; got {encoder.bits}"
        )
    patches = open_table(TableRef(plan.patches_uri, plan.patches_version))
    rows = np.frombuffer(job.get(_ROWS), dtype="<i8")
    done = {"shards": 0, "codes": 0, "skipped_shards": 0}
    wanted = range(max(first, 0), min(first + count, plan.shards))
    with track("encoding patches", total=sum(len(_shard(rows, plan, shard)) for shard in wanted)) as progress:
        for shard in wanted:
            mine = _shard(rows, plan, shard)
            if job.manifest(shard) is not None:
                done["skipped_shards"] += 1
                progress.advance(len(mine))
                continue
            fragments = write_fragments(plan.codes, schema, _code_batches(patches, mine, schema, encoder, progress))
            if not job.put_manifest(shard, {"fragments": fragments}):
                discard_fragments(plan.codes, fragments)  # a twin of this worker was faster
            done["shards"] += 1
            done["codes"] += len(mine) * len(encoder.modalities)
    return done


def commit_index(codes_uri: str, job_id: str) -> int:
    """Makes the codes of a job visible, once, and returns the version of the table that holds them.

    Raises:
        NotFound: There is no such plan.
        StoreError: A shard was not encoded yet.
        ConflictError: The codes meanwhile stand for a newer version of the patches.
    """
    return _commit(*_load(codes_uri, job_id))[0]


def build_index(
    bundle_uri: str, table: TableRef, codes_uri: str, encoder: Encoder, shard_rows: int = 4096
) -> IndexSummary:
    """Plans, encodes and commits in this process; run again after a crash, it goes on. See the steps for errors."""
    plan = plan_index(bundle_uri, table, codes_uri, shard_rows)
    encode_shards(codes_uri, plan.job_id, 0, plan.shards, encoder)
    version, result = _commit(*_load(codes_uri, plan.job_id))
    return IndexSummary(
        codes=plan.codes,
        version=version,
        bundle_id=plan.bundle_id,
        patches_version=plan.patches_version,
        patches=plan.rows,
        added=result.added,
        changed=result.changed,
        skipped=result.skipped,
    )


def _codes_table(bundle: Bundle, patches: TableRef, uri: str) -> lance.LanceDataset:
    config = bundle.config
    mine = IndexInfo(bundle.id, bundle.uri, config["method"], config["bits"], patches)
    if not table_exists(uri):
        try:
            return create_table(uri, codes_schema(mine.bits, config["embedding_dim"], mine.metadata()))
        except DataRefused:  # another plan, for another version perhaps, created it first: judge what is there now
            pass
    table = open_table(TableRef(uri))
    theirs = IndexInfo.of(table.schema, uri)
    if (theirs.bundle_id, theirs.patches.uri) != (mine.bundle_id, patches.uri):
        raise DataRefused(
            f"{uri} holds codes of bundle {theirs.bundle_id[:16]} for {theirs.patches.uri}; this is bundle "
            f"{bundle.short_id} for {patches.uri}. Choose another table of codes"
        )
    if (theirs.patches.version or 0) > (patches.version or 0):
        raise UsageError(
            f"{uri} stands for {theirs.patches}, newer than {patches}. Index the newer one, or choose another table"
        )
    return table


def _keep(patches: lance.LanceDataset, tag: str) -> None:
    """Tags the version, so that a clean-up leaves what the codes refer to."""
    if tag in patches.tags.list():
        return
    try:
        patches.tags.create(tag, patches.version)
    except (OSError, ValueError):
        if tag not in patches.tags.list():  # a twin of this planner may have been faster
            raise


def _modalities(bundle: Bundle) -> list[str]:
    return sorted(modality for modality, bands in bundle.config["bands"].items() if bands)


def _rows_to_encode(
    patches: lance.LanceDataset, codes: lance.LanceDataset, modalities: list[str]
) -> npt.NDArray[np.int64]:
    """Rows of ``patches`` that lack a code of their present digest in any modality."""
    wanted = patches.to_table(columns=["patch_id", "digest"]).combine_chunks()
    held = codes.to_table(columns=[*KEYS, "digest"]).combine_chunks()
    current = np.ones(wanted.num_rows, dtype=bool)
    for modality in modalities:
        part = held.filter(pc.equal(held.column("modality"), modality)).combine_chunks()
        place = pc.index_in(wanted.column("patch_id"), value_set=part.column("patch_id").combine_chunks())
        same = pc.equal(part.column("digest").combine_chunks().take(place.combine_chunks()), wanted.column("digest"))
        current &= pc.fill_null(same, False).to_numpy(zero_copy_only=False)
    return np.flatnonzero(~current)


def _load(codes_uri: str, job_id: str) -> tuple[IndexPlan, Job]:
    job = Job(codes_uri, job_id)
    plan = job.find(_PLAN)
    if plan is None:
        raise NotFound(f"no index job {job_id!r} beside {codes_uri}; plan it first")
    return IndexPlan(**json.loads(plan)), job


def _shard(rows: npt.NDArray[np.int64], plan: IndexPlan, shard: int) -> npt.NDArray[np.int64]:
    return rows[shard * plan.shard_rows : (shard + 1) * plan.shard_rows]


def _code_batches(
    patches: lance.LanceDataset, rows: npt.NDArray[np.int64], schema: pa.Schema, encoder: Encoder, progress: Tracker
) -> Iterator[pa.RecordBatch]:
    for block in encode_rows(patches, rows, encoder, columns=("patch_id", "digest")):
        for modality, (packed, embeddings) in block.outputs.items():
            columns = {
                "patch_id": block.columns["patch_id"],
                "modality": pa.array([modality] * len(packed), pa.string()),
                "code": pa.FixedSizeListArray.from_arrays(pa.array(packed.reshape(-1)), packed.shape[1]),
                "embedding": pa.FixedSizeListArray.from_arrays(pa.array(embeddings.reshape(-1)), embeddings.shape[1]),
                "digest": block.columns["digest"],
            }
            yield pa.RecordBatch.from_arrays([columns[field.name] for field in schema], schema=schema)
        progress.advance(len(block.columns["patch_id"]))


def _commit(plan: IndexPlan, job: Job) -> tuple[int, CommitResult]:
    held = IndexInfo.of(open_table(plan.codes).schema, plan.codes).patches.version or 0
    if held > plan.patches_version:
        raise ConflictError(
            f"{plan.codes} meanwhile stands for version {held} of {plan.patches_uri}, newer than this job's "
            f"{plan.patches_version}; nothing is left to do"
        )
    result = commit(plan.codes, job, plan.shards, KEYS, digest="digest")
    table = open_table(plan.codes)
    if held < plan.patches_version:
        table.update_schema_metadata({PATCHES_VERSION: str(plan.patches_version)})
    return table.version, result
