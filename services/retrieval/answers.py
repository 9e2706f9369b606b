"""Messages from rows of the tables: hits, metadata, thumbnails, pixels. Called in threads, not in the event loop."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from eoforge.api.retrieval.v1 import retrieval_pb2 as pb
from eoforge.client.wire import band_fields
from eoforge.data.bands import GROUPS, S1_10M, BandGroup
from eoforge.data.labels import CLASSES, INDEX
from eoforge.data.modalities import RETRIEVAL_MODALITIES
from eoforge.data.search_filter import SearchFilter
from eoforge.data.tables.schema import sql_list, tensor_column
from eoforge.errors import LimitExceeded, NotFound, StoreError, UsageError, did_you_mean
from eoforge.index.snapshot import Snapshot
from services.retrieval.batching import Encoding
from services.retrieval.state import Served

THUMBNAIL_COLUMN = {"s1": "s1", "s2": "s2_10m"}
MAX_CHOICES = 256
"""Upper limit of the values of one filter condition."""
Array = npt.NDArray[Any]


def search_filter(message: pb.Filter) -> SearchFilter:
    """Filter from its message.

    Raises:
        LimitExceeded: A condition lists too many values.
        UsageError: A value is unknown or out of range.
    """
    for name in ("countries", "splits", "labels_any", "labels_all"):
        if len(getattr(message, name)) > MAX_CHOICES:
            raise LimitExceeded(f"filter.{name} may list {MAX_CHOICES} values; got {len(getattr(message, name))}")
    unknown = [label for label in (*message.labels_any, *message.labels_all) if label not in INDEX]
    if unknown:
        raise UsageError(f"unknown label {unknown[0][:80]!r}{did_you_mean(unknown[0], CLASSES)}")
    box = message.bounds
    return SearchFilter(
        countries=tuple(message.countries),
        splits=tuple(message.splits),
        labels_any=tuple(message.labels_any),
        labels_all=tuple(message.labels_all),
        bbox=(box.lon_min, box.lat_min, box.lon_max, box.lat_max) if message.HasField("bounds") else None,
        acquired_from=_time(message, "acquired_from"),
        acquired_until=_time(message, "acquired_until"),
        exclude_snow=message.exclude_snow,
        exclude_cloud=message.exclude_cloud,
    )


def nearest(
    served: Served,
    code: npt.NDArray[np.uint8],
    target: str,
    search_filter: SearchFilter | None,
    offset: int,
    size: int,
    min_recall: float = 1.0,
    codes: bool = False,
) -> pb.SearchResponse:
    """Response with hits ``offset`` to ``offset + size`` of one query, without the token of a next page.

    ``codes`` adds the code of each hit.

    Raises:
        NotFound: The index holds no codes of ``target``.
    """
    snapshot = served.snapshot
    found = snapshot.search(target, code[None], offset + size, search_filter, min_recall)
    rows = found.rows[0, offset:]
    response = pb.SearchResponse(
        query_code=code.tobytes(),
        index_version=snapshot.version,
        candidates=found.candidates,
        exact=found.exact,
        recall=found.recall,
    )
    metadata = metadata_messages(snapshot, rows)
    for patch, distance, row in zip(metadata, found.distances[0, offset:], rows, strict=True):
        hit = response.hits.add(patch=patch, modality=RETRIEVAL_MODALITIES[target], distance=int(distance))
        if codes:
            hit.code = snapshot.code_of_row(int(row), target).tobytes()
    return response


def encode_response(encodings: Sequence[Encoding], bundle_id: str) -> pb.EncodeResponse:
    """Response with packed codes and embeddings."""
    response = pb.EncodeResponse(bundle_id=bundle_id)
    for code, embedding in encodings:
        response.encodings.add(code=code.tobytes(), embedding=embedding.tolist())
    return response


def metadata_messages(snapshot: Snapshot, rows: npt.NDArray[np.int64]) -> list[pb.PatchMetadata]:
    """Metadata messages of rows, in their order."""
    return [_metadata(row) for row in snapshot.metadata(rows).to_pylist()]


def add_thumbnails(served: Served, hits: Sequence[pb.Hit], modality: str) -> None:
    """Adds a thumbnail of its sensor to every hit."""
    column = THUMBNAIL_COLUMN[modality]
    pixels = read_pixels(served, [h.patch.patch_id for h in hits], [column])
    for hit in hits:
        hit.thumbnail_png = thumbnail(modality, pixels[hit.patch.patch_id][column])


def thumbnail(modality: str, image: Array | None) -> bytes:
    """PNG thumbnail: true colours of optical ``[4, H, W]``, or a false-colour composite of radar ``[2, H, W]``."""
    if image is None:  # the codec of the stream has other bands
        return b""
    from eoforge.data.loading.plot import rgb, s1_composite, thumbnail_png

    return thumbnail_png(s1_composite(image) if modality == "s1" else rgb(image))


def patch_response(served: Served, request: pb.GetPatchRequest) -> pb.GetPatchResponse:
    """Patch with the requested parts.

    Raises:
        NotFound: The patch is not in the index.
    """
    snapshot = served.snapshot
    if not snapshot.modalities:
        raise NotFound("the index is still empty")
    row = row_of(snapshot, request.patch_id)
    response = pb.GetPatchResponse(patch=metadata_messages(snapshot, np.array([row]))[0])
    columns = {g.column for g in GROUPS} if request.include_pixels else set()
    columns |= set(THUMBNAIL_COLUMN.values()) if request.include_thumbnails else set()
    columns |= {"reference_map"} if request.include_reference_map else set()
    if not columns:
        return response
    pixels = read_pixels(served, [request.patch_id], sorted(columns))[request.patch_id]
    if request.include_thumbnails:
        response.s1_thumbnail_png = thumbnail("s1", pixels["s1"])
        response.s2_thumbnail_png = thumbnail("s2", pixels["s2_10m"])
    if request.include_pixels:
        for group in (S1_10M, *(g for g in GROUPS if g is not S1_10M)):
            modality = "s1" if group is S1_10M else "s2"
            if pixels[group.column] is None:
                continue
            for name, samples in zip(group.bands, pixels[group.column], strict=True):
                response.bands.append(pb.Band(**band_fields(name, samples, modality)))
    if request.include_reference_map and pixels["reference_map"] is not None:
        response.reference_map.CopyFrom(pb.Band(**band_fields("reference_map", pixels["reference_map"], "s2")))
    return response


def row_of(snapshot: Snapshot, patch_id: str, modality: str | None = None) -> int:
    """Row of a patch, with a sensor if one is named.

    Raises:
        NotFound: The patch is not in the index, or lacks the sensor; unlike the error of the snapshot, the message
            names no store.
    """
    for sensor in snapshot.modalities if modality is None else (modality,):
        with suppress(NotFound):
            return snapshot.row_of(patch_id, sensor)
    wanted = "" if modality is None else f" with {modality}"
    raise NotFound(f"no patch {patch_id[:128]!r}{wanted} in index version {snapshot.version}")


def code_of(snapshot: Snapshot, patch_id: str, modality: str) -> npt.NDArray[np.uint8]:
    """Code ``[K/8]`` of a patch.

    Raises:
        NotFound: As :func:`row_of`.
    """
    return snapshot.code_of_row(row_of(snapshot, patch_id, modality), modality)


def read_pixels(served: Served, patch_ids: Sequence[str], columns: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Pixels of patches, decoded from their streams where the table of patches holds no pixels.

    Returns:
        Mapping patch id -> column -> ``[C, H, W]``; None without a reference map, or without a stream of all bands.

    Raises:
        NotFound: The pixels are neither in the table of patches nor in streams.
    """
    stored = [column for column in columns if column in served.patches.schema.names]
    places = [served.snapshot.place_of(row_of(served.snapshot, i)) for i in set(patch_ids)]
    known = sorted(place for place in places if place is not None)
    try:
        # By row numbers, ascending, where the index knows them: a filter of ids reads the ids of the whole table.
        table = (
            served.patches.take(known, columns=["patch_id", *stored])
            if len(known) == len(places)
            else served.patches.to_table(columns=["patch_id", *stored], filter=f"patch_id IN ({sql_list(patch_ids)})")
        )
    except (OSError, RuntimeError, ValueError) as error:  # Lance has no errors of its own
        raise StoreError(f"cannot read the patches: {error}") from error
    out: dict[str, dict[str, Any]] = {i: dict.fromkeys(columns) for i in table.column("patch_id").to_pylist()}
    for column in stored:
        values, valid = tensor_column(table.column(column))
        for patch_id, value, present in zip(out, values, valid, strict=True):
            out[patch_id][column] = value if present else None
    missing = [g for g in GROUPS if g.column in columns and g.column not in stored]
    if missing:
        _decode_pixels(served, out, missing)
    return out


def _decode_pixels(served: Served, out: dict[str, dict[str, Any]], groups: Sequence[BandGroup]) -> None:
    if served.streams is None:
        raise NotFound("the archive holds no pixels of its patches, neither in its table nor as streams")
    modalities = sorted({"s1" if group is S1_10M else "s2" for group in groups})
    decoded = served.streams.rasters(list(out), modalities)
    for patch_id, columns in out.items():
        for group in groups:
            raster = decoded.get(patch_id, {}).get("s1" if group is S1_10M else "s2")
            if raster is not None and set(group.bands) <= set(raster.bands):
                columns[group.column] = np.stack([raster.bands[band] for band in group.bands])


def _metadata(row: dict[str, Any]) -> pb.PatchMetadata:
    box = pb.BoundingBox(lon_min=row["lon_min"], lat_min=row["lat_min"], lon_max=row["lon_max"], lat_max=row["lat_max"])
    message = pb.PatchMetadata(
        patch_id=row["patch_id"],
        s1_name=row["s1_name"],
        split=row["split"],
        country=row["country"],
        labels=row["labels"],
        contains_seasonal_snow=row["contains_seasonal_snow"],
        contains_cloud_or_shadow=row["contains_cloud_or_shadow"],
        mgrs_tile=row["mgrs_tile"],
        epsg=row["epsg"],
        ulx=row["ulx"],
        uly=row["uly"],
        footprint=box,
    )
    if row["acquired_s2"] is not None:
        message.acquired_s2.FromDatetime(row["acquired_s2"])
    if row["acquired_s1"] is not None:
        message.acquired_s1.FromDatetime(row["acquired_s1"])
    return message


def _time(message: pb.Filter, name: str) -> datetime | None:
    if not message.HasField(name):
        return None
    try:
        moment: datetime = getattr(message, name).ToDatetime(UTC)
    except (ValueError, OverflowError) as error:
        raise UsageError(f"filter.{name} must be a time between the years 1 and 9999") from error
    return moment
