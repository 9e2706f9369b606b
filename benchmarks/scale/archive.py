"""Synthetic archive of a size: tables of patches and codes without rasters, as the index pipeline leaves them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.scale.codes import BITS, BLOCK, FITTED, Codes, block
from eoforge.data.labels import CLASSES
from eoforge.data.tables.schema import METADATA_FIELDS, ROW_CRC, codes_schema
from eoforge.hashing.checksum import row_checksums
from eoforge.index.code_table import CodeTableInfo
from eoforge.index.ivf.table import with_metadata
from eoforge.storage.addresses import TableRef

COUNTRIES = ("Austria", "Belgium", "Finland", "Ireland", "Kosovo", "Lithuania", "Portugal", "Serbia")
QUERIES = 200


def blocks(patches: int) -> Iterator[tuple[int, int]]:
    """Number and rows of each block of an archive."""
    return ((i, min(BLOCK, patches - i * BLOCK)) for i in range(-(-patches // BLOCK)))


def queries() -> tuple[Codes, Codes]:
    """Codes ``[QUERIES, 16]`` of both sensors of patches that no archive holds."""
    return block(FITTED, 1 << 30, QUERIES)


def metadata(number: int, rows: int) -> pa.RecordBatch:
    """``METADATA_COLUMNS`` of a block: names as long as real ones, places on a grid of 1.2 km, three years of dates."""
    at = np.arange(number * BLOCK, number * BLOCK + rows)
    west, south = -10 + 0.015 * (at % 4_000), 35 + 0.011 * (at // 4_000 % 3_000)
    mask = np.uint32(1) << (at % 19).astype(np.uint32) | np.uint32(1) << (at % 7).astype(np.uint32)
    dates = pa.array(1_483_228_800_000_000 + at % 94_608_000 * 1_000_000).cast(pa.timestamp("us", tz="UTC"))
    texts = [f"{i:09d}" for i in at.tolist()]
    values: dict[str, Any] = {
        "patch_id": [f"S2A_MSIL2A_20180101T000000_N9999_R001_T35VNK_{i}" for i in texts],
        "s1_name": [f"S1A_IW_GRDH_1SDV_20180101T000000_35VNK_{i}" for i in texts],
        "s2v1_name": [f"S2A_MSIL2A_20180101T000000_{i}" for i in texts],
        "split": np.array(["train", "validation", "test"])[at % 3],
        "country": np.array(COUNTRIES)[at * 7919 % len(COUNTRIES)],
        "labels": pa.ListArray.from_arrays(
            np.arange(0, 2 * rows + 1, 2, dtype=np.int32),
            pa.array(CLASSES).take(pa.array(np.stack([at % 19, at % 7], axis=1).ravel())),
        ),
        "label_mask": mask,
        "mgrs_tile": np.full(rows, "35VNK"),
        "contains_seasonal_snow": at % 10 == 0,
        "contains_cloud_or_shadow": at % 7 == 0,
        "acquired_s2": dates,
        "acquired_s1": dates,
        "epsg": at % 60 + 32_600,
        "ulx": at % 100_000,
        "uly": at % 100_000,
        "lon_min": west,
        "lon_max": west + 0.015,
        "lat_min": south,
        "lat_max": south + 0.011,
    }
    schema = pa.schema(METADATA_FIELDS)
    return pa.RecordBatch.from_arrays([pa.array(values[f.name]).cast(f.type) for f in schema], schema=schema)


def write(folder: Path, patches: int) -> str:
    """Tables ``patches.lance`` and ``codes.lance`` in a folder; returns the address of the codes.

    The codes are made for the engine ``ivf``, whose table an exact index may be filled from as well.
    """
    import lance

    uri, target = str(folder / "codes.lance"), str(folder / "patches.lance")
    lance.write_dataset(
        pa.RecordBatchReader.from_batches(
            pa.schema(METADATA_FIELDS), (metadata(number, rows) for number, rows in blocks(patches))
        ),
        target,
        max_rows_per_file=BLOCK,
    )
    info = CodeTableInfo("benchmark", str(folder), "none", TableRef(target, 1), bits=BITS)
    schema = with_metadata(codes_schema(BITS, 1, info.metadata(uri)))
    parts = itertools.chain.from_iterable(_code_batches(n, rows, schema) for n, rows in blocks(patches))
    lance.write_dataset(pa.RecordBatchReader.from_batches(schema, parts), uri, max_rows_per_file=BLOCK)
    return uri


def _code_batches(number: int, rows: int, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    of_patches = metadata(number, rows)
    for sensor, codes in zip(("s1", "s2"), block(FITTED, number, rows), strict=True):
        names = pa.array(np.full(rows, sensor))
        columns = {
            **{name: of_patches.column(name) for name in of_patches.schema.names},
            "modality": names,
            "code": pa.FixedSizeListArray.from_arrays(pa.array(codes.reshape(-1)), codes.shape[1]),
            "embedding": pa.nulls(rows, pa.list_(pa.float32(), 1)),
            "digest": names,
            ROW_CRC: pa.array(row_checksums(codes, names, of_patches.column("patch_id"))),
        }
        yield pa.RecordBatch.from_arrays([columns[f.name].cast(f.type) for f in schema], schema=schema)
