"""Building of ``codes.lance``: plan, encode in shards, commit; exactly once and resumable at any point.

Readers (``catalog.py``) serve the patches of the version in the metadata of the table; see ``jobs.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from eoforge.data.tables.indexes import ensure_indexes
from eoforge.data.tables.schema import CODE_CRC, METADATA_COLUMNS, ROW_CRC, codes_schema
from eoforge.errors import DataRefused, UsageError, did_you_mean
from eoforge.hashing.checksum import code_checksums, row_checksums
from eoforge.index.encode import encode_rows
from eoforge.index.encoder import Encoder
from eoforge.index.ivf.table import ENGINES, EXACT, IVF, engine_of, with_metadata
from eoforge.index.jobs import (
    IndexPlan,
    IndexSummary,
    Inputs,
    code_info,
    commit_rows,
    load_plan,
    open_job,
    plan_rows,
    table_for,
    write_shards,
)
from eoforge.progress import Tracker
from eoforge.storage.addresses import TableRef, open_table, table_exists, table_to_write

if TYPE_CHECKING:
    import lance


def plan_index(bundle_uri: str, table: TableRef, codes_uri: str, shard_rows: int = 4096, engine: str = "") -> IndexPlan:
    """Plan of the patches without a code of this bundle, or with a code of other pixels, cut into shards.

    A repeated call returns the same plan, so that a killed run continues where it stopped.

    Args:
        bundle_uri: Run bundle of the encoder.
        table: Table of patches; without a version the newest is pinned.
        codes_uri: Table of codes, created if absent.
        shard_rows: Patches per shard.
        engine: ``exact``, or ``ivf`` for a table that :func:`eoforge.index.ivf.build.build_ivf` indexes; empty for
            that of the table, ``exact`` if it is new.

    Raises:
        NotFound: The bundle or the patches do not exist.
        DataRefused: The codes table belongs to another bundle or other patches, or was made for another engine.
        UsageError: The engine is unknown, the codes belong to a newer version of the patches, ``shard_rows`` is below
            1, or ``codes_uri`` names a version or a whole bucket.
    """
    if engine and engine not in ENGINES:
        raise UsageError(f"unknown engine {engine[:80]!r}{did_you_mean(engine, ENGINES)}")
    codes_uri = table_to_write(codes_uri)
    inputs = Inputs.open(code_info, bundle_uri, table, codes_uri, shard_rows)
    if table.version is None and _engine(engine, codes_uri) == IVF:
        ensure_indexes(table.uri)  # a service finds pixels of a hit by the patch id, and must not read all ids for it
        inputs = Inputs.open(code_info, bundle_uri, table, codes_uri, shard_rows)  # at the version with the indexes
    info = inputs.info
    schema = codes_schema(info.bits, inputs.bundle.config["embedding_dim"], info.metadata(inputs.uri))
    made = table_for(info, inputs.uri, with_metadata(schema) if engine == IVF else schema, "codes")
    if engine and engine_of(made.schema) != engine:
        raise DataRefused(
            f"{inputs.uri} was made for the engine {engine_of(made.schema)}, not {engine}; choose another table"
        )
    return plan_rows("index", inputs, made)


def _engine(wanted: str, codes_uri: str) -> str:
    """Engine that is asked for, or that of the table."""
    if wanted or not table_exists(codes_uri):
        return wanted or EXACT
    return engine_of(open_table(TableRef(codes_uri)).schema)


def encode_shards(codes_uri: str, job_id: str, first: int, count: int, encoder: Encoder) -> dict[str, int]:
    """Encoding of shards ``first`` to ``first + count - 1``; shards with a manifest are skipped.

    Args:
        codes_uri: Table of codes.
        job_id: From :func:`plan_index`.
        first: First shard.
        count: Number of shards; those past the last are ignored.
        encoder: Encoder of the bundle of the plan.

    Returns:
        Shards and codes written by this call, and shards skipped. A patch has a code for each sensor that it has.

    Raises:
        NotFound: The plan does not exist.
        BundleError: The code length of the encoder differs from the table.
    """
    plan, job = open_job(codes_uri, job_id, encoder)

    def make(
        patches: lance.LanceDataset, rows: npt.NDArray[np.int64], schema: pa.Schema, progress: Tracker
    ) -> Iterator[pa.RecordBatch]:
        return _code_batches(patches, rows, schema, encoder, progress)

    done = write_shards(plan, job, first, count, make, "encoding patches")
    return {
        "shards": done["shards"],
        "codes": done["rows"],
        "skipped_shards": done["skipped_shards"],
    }


def commit_index(codes_uri: str, job_id: str) -> int:
    """Commit of the codes of a job, once; returns the version of the table with these codes.

    Raises:
        NotFound: The plan does not exist.
        StoreError: A shard is not encoded yet.
        ConflictError: The codes meanwhile belong to a newer version of the patches.
    """
    return commit_rows(*load_plan(codes_uri, job_id)).version


def build_index(
    bundle_uri: str, table: TableRef, codes_uri: str, encoder: Encoder, shard_rows: int = 4096, engine: str = ""
) -> IndexSummary:
    """Plan, encoding and commit in this process; a run after a crash continues. See the steps for errors.

    A table of the engine ``ivf`` needs :func:`eoforge.index.ivf.build.build_ivf` then.
    """
    plan = plan_index(bundle_uri, table, codes_uri, shard_rows, engine)
    encode_shards(codes_uri, plan.job_id, 0, plan.shards, encoder)
    return commit_rows(*load_plan(codes_uri, plan.job_id))


def _code_batches(
    patches: lance.LanceDataset, rows: npt.NDArray[np.int64], schema: pa.Schema, encoder: Encoder, progress: Tracker
) -> Iterator[pa.RecordBatch]:
    # A table for an IVF index also has the metadata of the patches.
    read = tuple(field.name for field in schema if field.name in (*METADATA_COLUMNS, "digest"))
    for block in encode_rows(patches, rows, encoder, columns=read):
        for modality, (packed, embeddings) in block.outputs.items():
            extra = block.columns[modality]
            names = pa.array([modality] * len(packed), pa.string())
            columns = {
                **extra,
                "modality": names,
                "code": pa.FixedSizeListArray.from_arrays(pa.array(packed.reshape(-1)), packed.shape[1]),
                "embedding": pa.FixedSizeListArray.from_arrays(pa.array(embeddings.reshape(-1)), embeddings.shape[1]),
                ROW_CRC: pa.array(row_checksums(packed, names, extra["patch_id"])),
                CODE_CRC: pa.array(code_checksums(packed)),  # of tables that older versions made
            }
            yield pa.RecordBatch.from_arrays([columns[field.name] for field in schema], schema=schema)
        progress.advance(block.patches)
