"""Building of an IVF index over a table of codes: train partitions, index ranges of fragments, commit, measure.

Each step can be repeated: a range has a manifest in the job, and a commit leaves out what the index holds. Fragments
that were appended since get segments with the same partitions; above ``RETRAIN`` times the rows all is trained anew.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from eoforge.data.tables.commit import Job, table_identity
from eoforge.errors import DataRefused, NotFound, StoreError
from eoforge.index.ivf.recall import measure
from eoforge.index.ivf.table import IVF, VECTOR_INDEX, IvfInfo, engine_of, indexed_fragments
from eoforge.progress import track
from eoforge.storage.addresses import TableRef, open_table, plain

if TYPE_CHECKING:
    import lance

ROWS_PER_PARTITION = 4_096
"""Rows of a partition at least; above 17 million codes there are as many partitions as rows in each, because the
training compares every sample with every partition."""
RETRAIN = 4
"""Growth of the rows at which the partitions are trained anew; until then they only become larger."""
SHARD_FRAGMENTS = 16
_SAMPLE_RATE = 256
_PLAN, _CENTROIDS = "plan.json", "centroids.npy"
_SCALARS: dict[str, Any] = {
    "patch_id": "BTREE",
    "modality": "BITMAP",
    "country": "BITMAP",
    "split": "BITMAP",
    "labels": "LABEL_LIST",
    "acquired_s2": "BTREE",
    "contains_seasonal_snow": "BITMAP",
    "contains_cloud_or_shadow": "BITMAP",
}
"""Indexes of the conditions of filters; boxes are compared row by row."""


@dataclass(frozen=True)
class IvfPlan:
    """Plan of one job: fragments to index in ``shards`` ranges, with partitions that are trained or kept."""

    job_id: str
    codes: str
    version: int
    fragments: list[int]
    shards: int
    partitions: int
    trained_rows: int
    anew: bool


def plan_ivf(codes_uri: str) -> IvfPlan:
    """Plan of the index of the newest version; trains the partitions, if the index has none or the table has grown.

    Raises:
        NotFound: The table does not exist.
        DataRefused: The table was not made for an IVF index, or has no codes.
    """
    table = open_table(TableRef(codes_uri))
    if engine_of(table.schema) != IVF:
        raise DataRefused(f"{codes_uri} was made for the exact engine; index into a new table with `--engine ivf`")
    rows = table.count_rows()
    if not rows:
        raise DataRefused(f"{codes_uri} has no codes to build an index of")
    info = IvfInfo.of(table.schema, codes_uri)
    indexed = indexed_fragments(table)
    anew = info is None or not indexed or rows > RETRAIN * info.trained_rows
    fragments = [f.fragment_id for f in table.get_fragments() if anew or f.fragment_id not in indexed]
    parts = [table_identity(table), str(fragments), str(anew), str(table.version if anew else 0)]
    job = Job(codes_uri, "ivf-" + hashlib.blake2b("\n".join(parts).encode(), digest_size=12).hexdigest())
    if (found := job.find(_PLAN)) is not None:
        return IvfPlan(**json.loads(found))
    if anew:
        partitions = max(1, min(rows // ROWS_PER_PARTITION, math.isqrt(rows)))
        centroids = _trained(table, partitions, rows)
    else:
        assert info is not None  # narrows the type
        partitions, centroids = info.partitions, _codes(table.centroids(index_name=VECTOR_INDEX))
    job.put_if_absent(_CENTROIDS, centroids.tobytes())
    plan = IvfPlan(
        job_id=job.job_id,
        codes=codes_uri,
        version=table.version,
        fragments=fragments,
        shards=-(-len(fragments) // SHARD_FRAGMENTS),
        partitions=len(centroids),
        trained_rows=rows if anew or info is None else info.trained_rows,
        anew=anew,
    )
    job.put_if_absent(_PLAN, json.dumps(asdict(plan)).encode())
    return IvfPlan(**json.loads(job.get(_PLAN)))


def load_ivf_plan(codes_uri: str, job_id: str) -> tuple[IvfPlan, Job]:
    """Plan and files of a job.

    Raises:
        NotFound: The plan does not exist.
    """
    job = Job(codes_uri, job_id)
    found = job.find(_PLAN)
    if found is None:
        raise NotFound(f"no IVF job {job_id!r} beside {codes_uri}; plan it first")
    return IvfPlan(**json.loads(found)), job


def index_shards(codes_uri: str, job_id: str, first: int, count: int) -> int:
    """Segments of the fragments of shards ``first`` to ``first + count - 1``; returns how many were written.

    Raises:
        NotFound: The plan does not exist.
        StoreError: Lance cannot write a segment.
    """
    plan, job = load_ivf_plan(codes_uri, job_id)
    table = open_table(TableRef(codes_uri, plan.version))
    width = table.schema.field("code").type.list_size
    centroids = np.frombuffer(job.get(_CENTROIDS), np.uint8)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(centroids), width)
    written = 0
    for shard in range(max(first, 0), min(first + count, plan.shards)):
        if job.manifest(shard) is not None:
            continue
        fragments = plan.fragments[shard * SHARD_FRAGMENTS : (shard + 1) * SHARD_FRAGMENTS]
        try:
            segment = table.create_index_uncommitted(
                "code",
                "IVF_FLAT",
                name=VECTOR_INDEX,
                metric="hamming",
                replace=True,  # of the name only: what is committed stays
                num_partitions=plan.partitions,
                ivf_centroids=vectors,
                fragment_ids=fragments,
            )
        except (OSError, RuntimeError, ValueError) as error:  # Lance has no errors of its own
            raise StoreError(f"cannot index the codes of {codes_uri}: {plain(error)}") from error
        job.put_manifest(shard, {"segment": _as_json(segment)})
        written += 1
    return written


def commit_ivf(codes_uri: str, job_id: str) -> IvfInfo:
    """Commit of the segments of a job, update of the indexes of filters, and measurement of the recall.

    Raises:
        NotFound: The plan does not exist.
        StoreError: A shard is not indexed yet, or Lance refuses.
    """

    plan, job = load_ivf_plan(codes_uri, job_id)
    segments = []
    for shard in range(plan.shards):
        manifest = job.manifest(shard)
        if manifest is None:
            raise StoreError(f"shard {shard} of {job_id} is not indexed yet; index it, then commit again")
        segments.append(_from_json(manifest["segment"]))
    table = open_table(TableRef(codes_uri))
    try:
        held = {str(s.uuid) for i in table.describe_indices() if i.name == VECTOR_INDEX for s in i.segments}
        missing: list[Any] = [segment for segment in segments if segment.uuid not in held]
        if missing:
            if plan.anew and held:
                table.drop_index(VECTOR_INDEX)
                table = open_table(TableRef(codes_uri))
            table.commit_existing_index_segments(VECTOR_INDEX, "code", missing)
        _index_columns(open_table(TableRef(codes_uri)))
    except (OSError, RuntimeError, ValueError) as error:  # Lance has no errors of its own
        raise StoreError(f"cannot commit the index of {codes_uri}: {plain(error)}") from error
    table = open_table(TableRef(codes_uri))
    names: set[str] = set()
    for batch in table.scanner(columns=["country"]).to_batches():  # of a billion codes, 12 GB in one piece
        names.update(pc.unique(batch.column("country")).drop_null().to_pylist())
    queries, recall = measure(table, plan.partitions)
    info = IvfInfo(
        partitions=plan.partitions,
        trained_rows=plan.trained_rows,
        queries=queries,
        recall=recall,
        countries=sorted(names),
        counts={m: table.count_rows(filter=f"modality = '{m}'") for m in ("s1", "s2")},
    )
    table.update_schema_metadata(info.metadata())
    return info


def build_ivf(codes_uri: str) -> IvfInfo:
    """Plan, all shards and commit in this process; a run after a crash continues. See the steps for errors."""
    plan = plan_ivf(codes_uri)
    with track("indexing codes", total=plan.shards) as progress:
        for shard in range(plan.shards):
            index_shards(codes_uri, plan.job_id, shard, 1)
            progress.advance()
    return commit_ivf(codes_uri, plan.job_id)


def _trained(table: lance.LanceDataset, partitions: int, rows: int) -> Any:
    from lance.indices import IndicesBuilder

    model = IndicesBuilder(table, "code").train_ivf(
        partitions, distance_type="hamming", sample_rate=max(2, min(_SAMPLE_RATE, rows // partitions))
    )
    return _codes(model.centroids)


def _codes(centroids: Any) -> Any:
    """Centroids ``[P, K/8]`` of a model of Lance."""
    if isinstance(centroids, pa.Array):
        centroids = centroids.flatten().to_numpy(zero_copy_only=False).reshape(len(centroids), -1)
    return np.ascontiguousarray(centroids, np.uint8)


def _index_columns(table: lance.LanceDataset) -> None:
    held = {index.name for index in table.describe_indices()}
    for column, kind in _SCALARS.items():
        name = f"{column}_filter"
        if name not in held:
            table.create_scalar_index(column, kind, name=name)
    old = [f"{column}_filter" for column in _SCALARS if f"{column}_filter" in held]
    if old:
        table.optimize.optimize_indices(num_indices_to_merge=1, index_names=old)


def _as_json(segment: Any) -> dict[str, Any]:
    """A segment of Lance as JSON."""
    kind, details = segment.index_details or ("", b"")
    return {
        "uuid": segment.uuid,
        "name": segment.name,
        "fields": list(segment.fields),
        "dataset_version": segment.dataset_version,
        "fragment_ids": sorted(int(f) for f in segment.fragment_ids),
        "index_version": segment.index_version,
        "created_at": segment.created_at.isoformat() if segment.created_at else None,
        "base_id": segment.base_id,
        "files": [asdict(file) for file in segment.files or []],
        "index_details": [kind, base64.b64encode(details).decode()],
        "covering_fields": list(segment.covering_fields),
    }


def _from_json(values: dict[str, Any]) -> Any:
    from lance.dataset import Index, IndexFile

    kind, details = values["index_details"]
    return Index(
        **{
            **values,
            "fragment_ids": set(values["fragment_ids"]),
            "created_at": datetime.fromisoformat(values["created_at"]) if values["created_at"] else None,
            "files": [IndexFile(**file) for file in values["files"]],
            "index_details": (kind, base64.b64decode(details)),
        }
    )
