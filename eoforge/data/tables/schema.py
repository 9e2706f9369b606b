"""Schemas of the Lance tables: the contract between ingestion, training, indexing and serving.

``patches.lance`` holds one row per Sentinel-1/Sentinel-2 patch pair, rasters on their native grids (304,000 B a row
instead of 691,200 B upsampled to float). A patch of one sensor has nulls in the columns of the other, an unlabelled one
in ``labels`` and ``label_mask``. ``codes.lance`` holds one row per (patch, modality) and bundle, ``predictions.lance``
one per patch and bundle.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa

from eoforge.data.bands import GROUPS, S2_10M
from eoforge.errors import DataRefused, UsageError
from eoforge.hashing.lengths import MAX_CODE_BITS

CODE_CRC = "code_crc"
ROW_CRC = "row_crc"
"""Column of ``codes.lance`` with the CRC-32C of the code."""
PRIMARY_KEY = {b"lance-schema:unenforced-primary-key": b"true"}
"""Field metadata that lets Lance detect two writers of the same key."""

BANDS = b"bands"
"""Field metadata of a tensor column: the names of its channels in order, comma-separated. Older tables lack it."""


def _key(name: str, dtype: pa.DataType) -> pa.Field:
    return pa.field(name, dtype, nullable=False, metadata=PRIMARY_KEY)


def _required(name: str, dtype: pa.DataType) -> pa.Field:
    return pa.field(name, dtype, nullable=False)


def _optional(name: str, dtype: pa.DataType) -> pa.Field:
    return pa.field(name, dtype)


_UTC = pa.timestamp("us", tz="UTC")

METADATA_FIELDS: tuple[pa.Field, ...] = (
    _key("patch_id", pa.string()),
    _optional("s1_name", pa.string()),
    _optional("s2v1_name", pa.string()),
    _required("split", pa.string()),
    _optional("country", pa.string()),
    _optional("labels", pa.list_(pa.string())),
    _optional("label_mask", pa.uint32()),
    _required("contains_seasonal_snow", pa.bool_()),
    _required("contains_cloud_or_shadow", pa.bool_()),
    _optional("acquired_s2", _UTC),
    _optional("acquired_s1", _UTC),
    _required("mgrs_tile", pa.string()),
    _required("epsg", pa.int32()),
    _required("ulx", pa.int32()),
    _required("uly", pa.int32()),
    _required("lon_min", pa.float64()),
    _required("lat_min", pa.float64()),
    _required("lon_max", pa.float64()),
    _required("lat_max", pa.float64()),
)
"""Columns without pixels; ``ulx``/``uly`` are metres in ``epsg``, the lon/lat bounds degrees in WGS 84."""

RASTER_FIELDS: tuple[pa.Field, ...] = (
    *(
        _optional(g.column, pa.fixed_shape_tensor(pa.type_for_alias(g.dtype), g.shape)).with_metadata(
            {BANDS: ",".join(g.bands)}
        )
        for g in GROUPS
    ),
    _optional("reference_map", pa.fixed_shape_tensor(pa.uint16(), (S2_10M.size, S2_10M.size))),
)

PATCHES: pa.Schema = pa.schema([*METADATA_FIELDS, *RASTER_FIELDS, _required("digest", pa.string())])
ACQUIRED = {"s1": "acquired_s1", "s2": "acquired_s2"}
"""Column that is null exactly where a patch lacks a sensor."""
TRAIN_LABEL_MASK, TRAIN_REFERENCE_MAP = "train_label_mask", "train_reference_map"
TRAINING_LABEL_FIELDS: dict[str, pa.DataType] = {
    TRAIN_LABEL_MASK: pa.uint32(),
    TRAIN_REFERENCE_MAP: pa.fixed_shape_tensor(pa.uint16(), (S2_10M.size, S2_10M.size)),
}
"""Nullable columns of a derived version of ``patches.lance``: labels that training reads instead of the clean ones.

They hold injected noise or reviewed labels; a null means that the clean label counts.
"""
METADATA_COLUMNS: tuple[str, ...] = tuple(f.name for f in METADATA_FIELDS)
RASTER_COLUMNS: tuple[str, ...] = tuple(f.name for f in RASTER_FIELDS)

QUARANTINE: pa.Schema = pa.schema(
    [
        _key("patch_id", pa.string()),
        _key("reason", pa.string()),
        _required("detail", pa.string()),
        _required("file", pa.string()),
        _required("ingest_id", pa.string()),
    ]
)


def codes_schema(bits: int, embedding_dim: int, metadata: dict[str, str]) -> pa.Schema:
    """Schema of ``codes.lance``: one row per (patch_id, modality).

    ``digest`` is the digest of the encoded patch: a code is out of date if its patch has another digest. ``row_crc``
    is the CRC-32C of code, modality and patch id. Older tables have ``code_crc``, of the code alone, or neither.

    Args:
        bits: Code length K, a multiple of 8 in 8..512.
        embedding_dim: Length of the float embedding (its column stays nullable).
        metadata: Names of the bundle and of the version of the patches.

    Raises:
        UsageError: ``bits`` is out of range or no multiple of 8.
    """
    if bits % 8 or not 8 <= bits <= MAX_CODE_BITS:
        raise UsageError(f"code length must be a multiple of 8 between 8 and {MAX_CODE_BITS} bits; got {bits}")
    return pa.schema(
        [
            _key("patch_id", pa.string()),
            _key("modality", pa.string()),
            _required("code", pa.list_(pa.uint8(), bits // 8)),
            pa.field("embedding", pa.list_(pa.float32(), embedding_dim)),
            _required("digest", pa.string()),
            _required(ROW_CRC, pa.uint32()),
        ],
        metadata=metadata,
    )


def streams_schema(bits: int, metadata: dict[str, str]) -> pa.Schema:
    """Schema of ``streams.lance``: a table of codes with the streams, one row per (patch_id, modality).

    Raises:
        UsageError: ``bits`` is out of range or no multiple of 8.
    """
    codes = codes_schema(bits, 1, metadata)
    embedding = codes.get_field_index("embedding")
    return codes.set(embedding, _required("stream", pa.large_binary()))


def without_training_labels(schema: pa.Schema) -> pa.Schema:
    """The schema of a table without the columns of a derived version."""
    return pa.schema([field for field in schema if field.name not in TRAINING_LABEL_FIELDS], metadata=schema.metadata)


def predictions_schema(classes: int, maps: bool, metadata: dict[str, str]) -> pa.Schema:
    """Schema of ``predictions.lance``: one row per patch.

    ``probabilities`` are calibrated, in the original order of the classes; ``labels`` are the classes whose probability
    reaches their threshold; ``pixel_map`` holds class indices on the 10 m grid. ``digest`` is that of the patch.

    Args:
        classes: Number of classes.
        maps: Whether there is a column ``pixel_map``.
        metadata: Names of the bundle and of the version of the patches, calibration.
    """
    side = S2_10M.size
    pixel_map = [_required("pixel_map", pa.fixed_shape_tensor(pa.uint8(), (side, side)))] if maps else []
    return pa.schema(
        [
            _key("patch_id", pa.string()),
            _required("probabilities", pa.list_(pa.float32(), classes)),
            _required("labels", pa.list_(pa.string())),
            _required("label_mask", pa.uint32()),
            *pixel_map,
            _required("digest", pa.string()),
        ],
        metadata=metadata,
    )


def values_schema(metadata: dict[str, str]) -> pa.Schema:
    """Schema of a ``predictions.lance`` of values: one row per patch.

    ``lower`` to ``upper`` is the interval; ``clipped`` marks values that were out of the valid range. ``digest`` is
    that of the patch.

    Args:
        metadata: Names of the bundle and of the version of the patches, target.
    """
    return pa.schema(
        [
            _key("patch_id", pa.string()),
            *(_required(name, pa.float32()) for name in ("value", "lower", "upper")),
            _required("clipped", pa.bool_()),
            _required("digest", pa.string()),
        ],
        metadata=metadata,
    )


def sql_list(values: Iterable[str]) -> str:
    """Texts as a comma-separated list of quoted literals of Lance's filters."""
    return ", ".join("'" + value.replace("'", "''") + "'" for value in values)


def tensor_column(column: pa.ChunkedArray | pa.Array) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Arrays of a fixed-shape-tensor column: ``(values [N, ...], validity [N] bool)``; null rows become zeros.

    The conversions of Arrow raise on nulls (``to_numpy_ndarray``) or drop null rows and so shift the rows that follow
    (``storage.flatten``). For ``reference_map`` the zeros are the ignore value.

    Raises:
        DataRefused: The column is no fixed-shape tensor.
    """
    if not isinstance(column.type, pa.FixedShapeTensorType):
        raise DataRefused(f"expected a fixed-shape tensor column, got {column.type}")
    shape = tuple(column.type.shape)
    dtype = column.type.value_type.to_pandas_dtype()
    out = np.zeros((len(column), *shape), dtype=dtype)
    valid = np.ones(len(column), dtype=bool)
    per_row = int(np.prod(shape))
    offset = 0
    for chunk in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
        rows = slice(offset, offset + len(chunk))
        storage = chunk.storage
        if chunk.null_count:
            valid[rows] = chunk.is_valid().to_numpy(zero_copy_only=False)
        # .values ignores the offset of a sliced array and keeps the slots of null rows, hence the explicit range.
        values = storage.values
        values = (values.fill_null(0) if values.null_count else values).to_numpy(zero_copy_only=False)
        values = values[storage.offset * per_row : (storage.offset + len(chunk)) * per_row].reshape(-1, *shape)
        out[rows] = values
        if chunk.null_count:
            out[rows][~valid[rows]] = 0
        offset += len(chunk)
    return out, valid
