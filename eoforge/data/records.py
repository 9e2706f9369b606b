"""Records of a reader, and their conversion to rows of ``patches.lance``.

A reader turns one metadata row (:class:`PatchMeta`) into a :class:`ReadResult`: a valid :class:`PatchPair`, or the list
of :class:`Defect` that excludes the patch.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from blake3 import blake3

from eoforge.data.bands import GROUPS
from eoforge.data.labels import mask_of
from eoforge.data.names import PairNames, parse_pair
from eoforge.data.tables.schema import PATCHES
from eoforge.errors import DataRefused
from eoforge.geo.footprint import Footprint, lonlat_bounds


class Reason(StrEnum):
    """Reason code of a defect or warning, stored in the quarantine table."""

    BAD_NAME = "bad_name"
    DUPLICATE_ID = "duplicate_id"
    UNKNOWN_LABEL = "unknown_label"
    S2_MISSING = "s2_missing"
    S1_MISSING = "s1_missing"
    MISSING_BAND = "missing_band"
    UNREADABLE = "unreadable"
    WRONG_SHAPE = "wrong_shape"
    WRONG_DTYPE = "wrong_dtype"
    CRS_MISMATCH = "crs_mismatch"
    TRANSFORM_MISMATCH = "transform_mismatch"
    OFFSET_UNKNOWN = "offset_unknown"
    OFFSET_REMOVED = "offset_removed"
    NODATA_S2 = "nodata_s2"
    NONFINITE_S1 = "nonfinite_s1"
    UNKNOWN_CLC = "unknown_clc"
    UNLABELLED = "unlabelled"
    LABEL_MISMATCH = "label_mismatch"
    SPLIT_MISMATCH = "split_mismatch"


WARNINGS: frozenset[Reason] = frozenset({Reason.SPLIT_MISMATCH, Reason.OFFSET_REMOVED})
"""Reasons that are reported and do not exclude a patch."""

DIGEST_FORMAT = "b3-"
"""Start of a digest; those without it are SHA-256, of versions before BLAKE3."""
DIGEST_CHARS = 32
"""Hex characters of a digest: 128 bits."""


@dataclass(frozen=True)
class PatchMeta:
    """Row of the official metadata, or of a patch that was built from a tile.

    Attributes:
        patch_id: Name of the patch.
        s1_name: Name of the radar patch; None without radar.
        s2v1_name: Name in BigEarthNet v1; None for a new patch.
        split: ``train``, ``validation`` or ``test``.
        country: None where it is not known.
        labels: Names of its classes; None for an unlabelled patch.
        contains_seasonal_snow: Listed as such.
        contains_cloud_or_shadow: Listed as such.
        repeated: An earlier row has the same patch_id.
        corner: Upper-left corner of a patch of a raster that does not lie on the grid of its tile; None if the name
            implies it.
    """

    patch_id: str
    s1_name: str | None
    s2v1_name: str | None
    split: str
    country: str | None
    labels: tuple[str, ...] | None
    contains_seasonal_snow: bool
    contains_cloud_or_shadow: bool
    repeated: bool = False
    corner: Footprint | None = None

    @property
    def radar_name(self) -> str:
        """``s1_name`` of a row that must have one.

        Raises:
            DataRefused: The patch has no radar.
        """
        if self.s1_name is None:
            raise DataRefused(f"patch {self.patch_id} has no Sentinel-1 partner")
        return self.s1_name

    @cached_property
    def names(self) -> PairNames:
        """Parsed names and footprint, computed once per row.

        Raises:
            DataRefused: A name is malformed.
        """
        names = parse_pair(self.patch_id, self.s1_name, self.s2v1_name)
        return names if self.corner is None else replace(names, footprint=self.corner)


@dataclass(frozen=True, slots=True)
class PatchPair:
    """Patch pair with all data of a row of ``patches.lance``; the rasters of a missing sensor are None.

    Attributes:
        meta: The metadata row.
        s2_10m: uint16 ``[4, 120, 120]``, reflectance x 10,000: B02 B03 B04 B08.
        s2_20m: uint16 ``[6, 60, 60]``: B05 B06 B07 B8A B11 B12.
        s2_60m: uint16 ``[2, 20, 20]``: B01 B09.
        s1: float32 ``[2, 120, 120]``, dB: VV VH.
        reference_map: uint16 ``[120, 120]`` CLC codes, or None if the archive has no map.
    """

    meta: PatchMeta
    s2_10m: npt.NDArray[np.uint16] | None
    s2_20m: npt.NDArray[np.uint16] | None
    s2_60m: npt.NDArray[np.uint16] | None
    s1: npt.NDArray[np.float32] | None
    reference_map: npt.NDArray[np.uint16] | None


@dataclass(frozen=True, slots=True)
class Defect:
    """Defect or warning of one patch."""

    patch_id: str
    reason: Reason
    detail: str
    file: str

    @property
    def fatal(self) -> bool:
        """Whether the defect excludes the patch."""
        return self.reason not in WARNINGS


@dataclass(slots=True)
class ReadResult:
    """Result of reading one metadata row; ``pair`` is None exactly if a defect is fatal."""

    meta: PatchMeta
    pair: PatchPair | None
    defects: list[Defect] = field(default_factory=list)


def digest(pair: PatchPair, like: str = DIGEST_FORMAT) -> str:
    """Content hash of a pair over its metadata and all pixels: ``b3-`` and 128 bits of BLAKE3 in hex.

    Equal digests mean equal patches; the kind of archive has no influence. BLAKE3 takes a fifth of the time of SHA-256,
    which was a tenth of an ingestion.

    Args:
        pair: The pair.
        like: A digest whose format is wanted: rows that an older version wrote have 128 bits of SHA-256.
    """
    meta = pair.meta
    head = json.dumps(
        [
            meta.patch_id,
            meta.s1_name,
            meta.s2v1_name,
            meta.split,
            meta.country,
            None if meta.labels is None else sorted(meta.labels),
            meta.contains_seasonal_snow,
            meta.contains_cloud_or_shadow,
            pair.reference_map is not None,
            # Only where it says something new: the digests of complete pairs of the archive stay as they are.
            *([] if meta.corner is None else [[meta.corner.epsg, meta.corner.ulx, meta.corner.uly]]),
        ],
        ensure_ascii=True,
    )
    state = blake3(head.encode()) if like.startswith(DIGEST_FORMAT) else hashlib.sha256(head.encode())
    for group in GROUPS:
        pixels = getattr(pair, group.column)
        state.update(b"" if pixels is None else _bytes(pixels, group.dtype))
    if pair.reference_map is not None:
        state.update(_bytes(pair.reference_map, "uint16"))
    return (DIGEST_FORMAT if like.startswith(DIGEST_FORMAT) else "") + state.hexdigest()[:DIGEST_CHARS]


def _bytes(array: npt.NDArray[np.generic], dtype: str) -> memoryview:
    """Row-major little-endian bytes of an array, equal on every machine."""
    return np.ascontiguousarray(array, dtype=np.dtype(dtype).newbyteorder("<")).reshape(-1).view(np.uint8).data


def record_batch(pairs: Sequence[PatchPair]) -> pa.RecordBatch:
    """Rows of :data:`eoforge.data.tables.schema.PATCHES` from pairs, derived columns included.

    Raises:
        DataRefused: A name or label is malformed (validated pairs never are).
    """
    metas = [p.meta for p in pairs]
    names = [m.names for m in metas]
    corners = [(n.footprint.epsg, n.footprint.ulx, n.footprint.uly) for n in names]
    epsg, ulx, uly = np.array(corners, dtype=np.int32).reshape(-1, 3).T
    bounds = lonlat_bounds(epsg, ulx, uly)
    columns: dict[str, object] = {
        "patch_id": [m.patch_id for m in metas],
        "s1_name": [m.s1_name for m in metas],
        "s2v1_name": [m.s2v1_name for m in metas],
        "split": [m.split for m in metas],
        "country": [m.country for m in metas],
        "labels": [None if m.labels is None else list(m.labels) for m in metas],
        "label_mask": [None if m.labels is None else mask_of(m.labels) for m in metas],
        "contains_seasonal_snow": [m.contains_seasonal_snow for m in metas],
        "contains_cloud_or_shadow": [m.contains_cloud_or_shadow for m in metas],
        "acquired_s2": [None if p.s2_10m is None else n.patch.tile.acquired for p, n in zip(pairs, names, strict=True)],
        "acquired_s1": [
            None if p.s1 is None or n.s1 is None else n.s1.scene.acquired for p, n in zip(pairs, names, strict=True)
        ],
        "mgrs_tile": [n.patch.tile.mgrs for n in names],
        "epsg": epsg,
        "ulx": ulx,
        "uly": uly,
        "lon_min": bounds[:, 0],
        "lat_min": bounds[:, 1],
        "lon_max": bounds[:, 2],
        "lat_max": bounds[:, 3],
        "digest": [digest(p) for p in pairs],
    }
    arrays = {name: pa.array(values, type=PATCHES.field(name).type) for name, values in columns.items()}
    for group in GROUPS:
        arrays[group.column] = _tensors([getattr(p, group.column) for p in pairs], PATCHES.field(group.column).type)
    arrays["reference_map"] = _tensors([p.reference_map for p in pairs], PATCHES.field("reference_map").type)
    return pa.record_batch([arrays[name] for name in PATCHES.names], schema=PATCHES)


def _tensors(
    values: Sequence[npt.NDArray[np.generic] | None], dtype: pa.FixedShapeTensorType
) -> pa.FixedShapeTensorArray:
    """Tensor column of arrays of one shape, in a single copy; None becomes null over zeros."""
    shape = (len(values), *dtype.shape)
    element = np.dtype(dtype.value_type.to_pandas_dtype())
    # Arrow's pool keeps its pages between batches; page faults in new NumPy memory cost three times the copy.
    buffer = pa.allocate_buffer(math.prod(shape) * element.itemsize)
    out = np.frombuffer(buffer, dtype=element).reshape(shape)
    for slot, value in zip(out, values, strict=True):
        slot[...] = 0 if value is None else value
    missing = np.array([v is None for v in values], dtype=bool)
    storage = pa.FixedSizeListArray.from_arrays(
        pa.array(out.reshape(-1)), math.prod(dtype.shape), mask=pa.array(missing) if missing.any() else None
    )
    return pa.ExtensionArray.from_storage(dtype, storage)
