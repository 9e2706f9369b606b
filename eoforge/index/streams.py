"""Building and reading of ``streams.lance``: compressed patches, each with its binary code.

One row per patch and sensor. The table is also a table of codes (same keys, same metadata): retrieval opens it like
``codes.lance``, and decodes pixels from it on demand if the table of patches has none.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from eoforge.codec.coder import Coder, MaxError, Rate
from eoforge.codec.learned.streams import stored_codes
from eoforge.codec.raster import Raster, from_batch
from eoforge.data.loading.batch import PatchBatch
from eoforge.data.tables.schema import CODE_CRC, RASTER_COLUMNS, ROW_CRC, sql_list, streams_schema
from eoforge.errors import DataRefused
from eoforge.geo.footprint import Footprint
from eoforge.hashing.checksum import code_checksums, row_checksums
from eoforge.index.encode import read_present
from eoforge.index.encoder import Encoder
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
from eoforge.storage.addresses import TableRef

if TYPE_CHECKING:
    import lance

RATE = "eoforge.rate"
"""Key of the schema metadata with the rate of all streams, as JSON."""
STREAM = "stream"
CORNER = ("epsg", "ulx", "uly")
_BATCH = 32


def plan_streams(bundle_uri: str, table: TableRef, streams_uri: str, rate: Rate, shard_rows: int = 1024) -> IndexPlan:
    """Plan of the patches without streams, or with streams of other pixels, cut into shards.

    A repeated call returns the same plan, so that a killed run continues where it stopped.

    Args:
        bundle_uri: Run bundle of the codec; with ``max_error``, any bundle, for the codes of the streams.
        table: Table of patches; without a version the newest is pinned.
        streams_uri: Table of streams, created if absent.
        rate: Rate of all streams in the table.
        shard_rows: Patches per shard.

    Raises:
        NotFound: The bundle or the patches do not exist.
        DataRefused: The table belongs to another bundle, other patches or another rate, or patches without streams
            have no pixels.
        UsageError: The streams belong to a newer version of the patches, ``shard_rows`` is below 1, or
            ``streams_uri`` names a version or a whole bucket.
    """
    inputs = Inputs.open(code_info, bundle_uri, table, streams_uri, shard_rows)
    info, streams_uri = inputs.info, inputs.uri
    recipe = json.dumps(asdict(rate), sort_keys=True)
    schema = streams_schema(info.bits, info.metadata(streams_uri) | {RATE: recipe})
    streams = table_for(info, streams_uri, schema, "streams")
    held = (streams.schema.metadata or {}).get(RATE.encode(), b"").decode()
    if held != recipe:
        raise DataRefused(
            f"{streams_uri} holds {'streams of rate ' + held if held else 'codes without streams'}; this job's rate is "
            f"{recipe}. Choose another table of streams"
        )
    plan = plan_rows("archive", inputs, streams, recipe)
    missing = [c for c in RASTER_COLUMNS if c != "reference_map" and c not in inputs.patches.schema.names]
    if plan.rows and missing:
        raise DataRefused(
            f"{plan.rows} patches of {info.patches} have no streams yet, and the table lacks {', '.join(missing)}"
        )
    return plan


def compress_shards(
    streams_uri: str, job_id: str, first: int, count: int, coder: Coder, encoder: Encoder
) -> dict[str, int]:
    """Compression of shards ``first`` to ``first + count - 1``; shards with a manifest are skipped.

    Args:
        streams_uri: Table of streams.
        job_id: From :func:`plan_streams`.
        first: First shard.
        count: Number of shards; those past the last are ignored.
        coder: Coder with the codec of the bundle of the plan, if the rate needs one.
        encoder: Encoder of the bundle of the plan, for the codes of bounded streams; learned streams contain codes.

    Returns:
        Shards and patches written by this call, and shards skipped.

    Raises:
        NotFound: The plan does not exist.
        BundleError: The code length of the encoder differs from the table.
    """
    plan, job = open_job(streams_uri, job_id, encoder)
    rate = _rate(plan.recipe)

    def make(
        patches: lance.LanceDataset, rows: npt.NDArray[np.int64], schema: pa.Schema, progress: Tracker
    ) -> Iterator[pa.RecordBatch]:
        for start in range(0, len(rows), _BATCH):
            part = rows[start : start + _BATCH]
            batches, extra = read_present(patches, part, encoder.modalities, ("digest", *CORNER))
            for modality, batch in batches.items():
                streams, codes = _compressed(batch, modality, coder, encoder, rate, _corners(extra[modality]))
                ids = pa.array(batch.patch_id, pa.string())
                names = pa.array([modality] * len(batch), pa.string())
                columns = {
                    "patch_id": ids,
                    "modality": names,
                    STREAM: pa.array(streams, pa.large_binary()),
                    "code": pa.FixedSizeListArray.from_arrays(pa.array(codes.reshape(-1)), codes.shape[1]),
                    "digest": extra[modality]["digest"],
                    ROW_CRC: pa.array(row_checksums(codes, names, ids)),
                    CODE_CRC: pa.array(code_checksums(codes)),  # of tables that older versions made
                }
                yield pa.RecordBatch.from_arrays([columns[field.name] for field in schema], schema=schema)
            progress.advance(len(part))

    return write_shards(plan, job, first, count, make, "compressing patches")


def commit_streams(streams_uri: str, job_id: str) -> IndexSummary:
    """Commit of the streams of a job, once.

    Raises:
        NotFound: The plan does not exist.
        StoreError: A shard is not compressed yet.
        ConflictError: The streams meanwhile belong to a newer version of the patches.
    """
    return commit_rows(*load_plan(streams_uri, job_id))


def compress_archive(
    bundle_uri: str,
    table: TableRef,
    streams_uri: str,
    rate: Rate,
    coder: Coder,
    encoder: Encoder,
    shard_rows: int = 1024,
) -> IndexSummary:
    """Plan, compression and commit in this process; a run after a crash continues. See the steps for errors."""
    plan = plan_streams(bundle_uri, table, streams_uri, rate, shard_rows)
    compress_shards(streams_uri, plan.job_id, 0, plan.shards, coder, encoder)
    return commit_streams(streams_uri, plan.job_id)


class StreamReader:
    """Reader of pixels from a table of streams.

    Args:
        table: Table of streams.
        coder: Coder with the codec of the bundle of the table, if its streams need one.
    """

    def __init__(self, table: lance.LanceDataset, coder: Coder) -> None:
        self._table, self._coder = table, coder

    def rasters(self, patch_ids: Sequence[str], modalities: Sequence[str]) -> dict[str, dict[str, Raster]]:
        """Decoded rasters by patch id and modality; patches and sensors without a stream are missing.

        Raises:
            DataRefused: A stream is damaged.
            NotFound: The codec is not loaded.
        """
        where = f"patch_id IN ({sql_list(patch_ids)}) AND modality IN ({sql_list(modalities)})"
        rows = self._table.to_table(columns=["patch_id", "modality", STREAM], filter=where).to_pylist()
        found: dict[str, dict[str, Raster]] = {}
        for row, raster in zip(rows, self._coder.decompress([row[STREAM] for row in rows]), strict=True):
            found.setdefault(row["patch_id"], {})[row["modality"]] = raster
        return found


def holds_streams(table: lance.LanceDataset) -> bool:
    """Whether a table of codes also has streams."""
    return STREAM in table.schema.names


def _corners(columns: dict[str, pa.Array]) -> list[Footprint]:
    """Places of patches: their names alone do not say that of a raster off the grid of its tile."""
    return [Footprint(*place) for place in zip(*(columns[name].to_pylist() for name in CORNER), strict=True)]


def _compressed(
    batch: PatchBatch, modality: str, coder: Coder, encoder: Encoder, rate: Rate, corners: Sequence[Footprint]
) -> tuple[list[bytes], npt.NDArray[np.uint8]]:
    rasters = from_batch(batch, (modality,), corners)
    if not rate.learned:
        return coder.compress(rasters, rate), encoder.encode(batch, modality)[0]
    known = set(coder.named().config.bands[modality])
    chosen = [
        Raster({b: p for b, p in r.bands.items() if b in known}, r.shape, r.georeference, r.patch_id) for r in rasters
    ]
    streams = coder.compress(chosen, rate)
    return streams, np.concatenate([stored_codes(stream, coder.limits)[modality] for stream in streams])


def _rate(recipe: str) -> Rate:
    values: dict[str, Any] = json.loads(recipe)
    bound = values.pop("max_error")
    return Rate(**values, max_error=None if bound is None else MaxError(**bound))
