"""Dataclasses of the retrieval client, and their conversion to and from messages of the typed API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from eoforge.api.retrieval.v1 import retrieval_pb2 as pb
from eoforge.client.wire import band_fields, band_samples
from eoforge.data.modalities import MODALITY_NAMES, RETRIEVAL_MODALITIES
from eoforge.data.search_filter import SearchFilter
from eoforge.errors import UsageError

Bands = Mapping[str, npt.NDArray[Any]]
"""Mapping band name -> samples ``[H, W]``: uint16 for Sentinel-2, float32 dB for Sentinel-1."""


HIT_BYTES = ("thumbnail_png", "code")
"""Fields of a hit that are bytes, and no part of a table of hits."""


@dataclass(frozen=True, slots=True)
class PatchInfo:
    """Metadata of a patch; the footprint is (lon_min, lat_min, lon_max, lat_max) in degrees.

    A patch without a sensor has None for its name and time, an unlabelled one no labels; ``country`` is empty where it
    is not known.
    """

    patch_id: str
    s1_name: str | None
    split: str
    country: str
    labels: tuple[str, ...]
    contains_seasonal_snow: bool
    contains_cloud_or_shadow: bool
    acquired_s2: datetime | None
    acquired_s1: datetime | None
    mgrs_tile: str
    epsg: int
    ulx: int
    uly: int
    footprint: tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Hit:
    """Search hit: a patch, its modality and the Hamming distance to the query in bits.

    ``thumbnail_png`` and the packed ``code`` ``[K/8]`` are empty unless they were asked for.
    In a search across archives ``owner`` holds the patch; its pictures and pixels are asked for at ``owner_address``,
    which is empty for the service that answered. What an owner withholds is empty or None.
    """

    patch_id: str
    modality: str
    distance: int
    labels: tuple[str, ...]
    country: str
    split: str
    acquired: datetime | None
    epsg: int
    footprint: tuple[float, float, float, float] | None
    thumbnail_png: bytes = field(default=b"", repr=False)
    code: bytes = field(default=b"", repr=False)
    owner: str = ""
    owner_address: str = ""


@dataclass(frozen=True, slots=True)
class OwnerAnswer:
    """One owner that was asked; ``status`` is ANSWERED, or why its hits are left out, as ``message`` says in words.

    Attributes:
        owner: Name of the owner.
        status: ANSWERED, OTHER_BUNDLE, REFUSED, UNREACHABLE, LATE or INVALID.
        reason: Reason of the owner's own error, or empty.
        message: Why its hits are left out, or empty.
        hits: Number of its hits in the answer.
        index_version: Version of its index.
        candidates: Number of its patches that the filter let through; 0 where it does not tell.
        distance_step: Its distances are rounded to multiples of this.
    """

    owner: str
    status: str
    reason: str
    message: str
    hits: int
    index_version: int
    candidates: int
    distance_step: int


@dataclass(frozen=True, slots=True)
class AcrossAnswer:
    """Answer of several owners: hits by (distance, owner, patch id), and every owner that was asked.

    Attributes:
        hits: Hits of all owners that answered.
        owners: Owners that were asked.
        partial: Whether one of them is left out.
        exact: Whether no patch of any owner that was asked is nearer than a hit.
        recall: Lowest measured recall@10 of the owners that answered; 1 where all searched exactly.
    """

    hits: list[Hit]
    owners: list[OwnerAnswer]
    partial: bool
    exact: bool
    recall: float


@dataclass(frozen=True, slots=True)
class Encoded:
    """Packed code ``[K/8]`` and embedding ``[D]`` of one image."""

    code: bytes
    embedding: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Patch:
    """Patch with the requested parts; parts that were not requested are empty or None."""

    info: PatchInfo
    s1_thumbnail_png: bytes = field(repr=False)
    s2_thumbnail_png: bytes = field(repr=False)
    bands: dict[str, npt.NDArray[Any]] = field(repr=False)
    reference_map: npt.NDArray[np.uint16] | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class IndexInfo:
    """Description of a served index; ``patches`` and ``bands`` are per modality."""

    name: str
    version: int
    method: str
    bundle_id: str
    bits: int
    embedding_dim: int
    patches_version: int
    patches: dict[str, int]
    bands: dict[str, tuple[str, ...]]


def modality_number(name: str | None) -> pb.Modality:
    """Enum value of ``s1`` or ``s2``; unspecified for None.

    Raises:
        UsageError: The name is not a modality.
    """
    if name is None:
        return pb.MODALITY_UNSPECIFIED
    if name not in RETRIEVAL_MODALITIES:
        raise UsageError(f"modality must be s1 or s2; got {name!r}")
    return RETRIEVAL_MODALITIES[name]


def band_image(bands: Bands, modality: str) -> pb.BandImage:
    """Message of an image given by band name."""
    messages = [pb.Band(**band_fields(name, samples, modality)) for name, samples in bands.items()]
    return pb.BandImage(modality=modality_number(modality), bands=messages)


def search_request(
    query: str | bytes | Bands | pb.GeoTiffImage, source: str | None, target: str, filter: SearchFilter | None
) -> pb.SearchRequest:
    """Message of a search; the type of ``query`` selects its kind: patch id, code, bands or GeoTIFF."""
    request = pb.SearchRequest(query_modality=modality_number(source), target_modality=modality_number(target))
    if isinstance(query, str):
        request.patch_id = query
    elif isinstance(query, bytes):
        request.code = query
    elif isinstance(query, pb.GeoTiffImage):
        request.geotiff.CopyFrom(query)
    else:
        if source is None:
            raise UsageError("an image needs source='s1' or source='s2'")
        request.bands.CopyFrom(band_image(query, source))
    if filter is not None:
        request.filter.CopyFrom(filter_message(filter))
    return request


def geotiff_image(
    content: bytes | Sequence[bytes], modality: str | None, bands: Sequence[Sequence[str]] | None = None
) -> pb.GeoTiffImage:
    """Message of an image given as one or more GeoTIFFs, with the names of the bands of each file if given.

    Raises:
        UsageError: ``bands`` has another length than the files.
    """
    files = [content] if isinstance(content, bytes) else content
    if bands is not None and len(bands) != len(files):
        raise UsageError(f"expected the band names of each of the {len(files)} files; got {len(bands)} lists of names")
    named = bands or [()] * len(files)
    return pb.GeoTiffImage(
        modality=modality_number(modality),
        files=[pb.GeoTiffFile(content=file, bands=names) for file, names in zip(files, named, strict=True)],
    )


def filter_message(wanted: SearchFilter) -> pb.Filter:
    """Message of a filter."""
    message = pb.Filter(
        countries=wanted.countries,
        splits=wanted.splits,
        labels_any=wanted.labels_any,
        labels_all=wanted.labels_all,
        exclude_snow=wanted.exclude_snow,
        exclude_cloud=wanted.exclude_cloud,
    )
    if wanted.bbox is not None:
        lon_min, lat_min, lon_max, lat_max = wanted.bbox
        message.bounds.CopyFrom(pb.BoundingBox(lon_min=lon_min, lat_min=lat_min, lon_max=lon_max, lat_max=lat_max))
    for name in ("acquired_from", "acquired_until"):
        moment: datetime | None = getattr(wanted, name)
        if moment is not None:
            getattr(message, name).FromDatetime(moment)
    return message


def patch_info(message: pb.PatchMetadata) -> PatchInfo:
    """Dataclass of a patch's metadata."""
    return PatchInfo(
        patch_id=message.patch_id,
        s1_name=message.s1_name or None,
        split=message.split,
        country=message.country,
        labels=tuple(message.labels),
        contains_seasonal_snow=message.contains_seasonal_snow,
        contains_cloud_or_shadow=message.contains_cloud_or_shadow,
        acquired_s2=message.acquired_s2.ToDatetime(UTC) if message.HasField("acquired_s2") else None,
        acquired_s1=message.acquired_s1.ToDatetime(UTC) if message.HasField("acquired_s1") else None,
        mgrs_tile=message.mgrs_tile,
        epsg=message.epsg,
        ulx=message.ulx,
        uly=message.uly,
        footprint=_box(message.footprint),
    )


def hit(message: pb.Hit) -> Hit:
    """Dataclass of a hit; ``acquired`` is the acquisition time of its sensor."""
    patch = message.patch
    acquired = "acquired_s1" if message.modality == pb.MODALITY_S1 else "acquired_s2"
    return Hit(
        patch_id=patch.patch_id,
        modality=MODALITY_NAMES[message.modality],
        distance=message.distance,
        labels=tuple(patch.labels),
        country=patch.country,
        split=patch.split,
        acquired=getattr(patch, acquired).ToDatetime(UTC) if patch.HasField(acquired) else None,
        epsg=patch.epsg,
        footprint=_box(patch.footprint) if patch.HasField("footprint") else None,
        thumbnail_png=message.thumbnail_png,
        owner=message.owner,
        owner_address=message.owner_address,
        code=message.code,
    )


def owner_status(number: int) -> str:
    """Name of the status of an owner's answer, such as ``ANSWERED``."""
    return pb.OwnerStatus.Name(number).removeprefix("OWNER_STATUS_")


def across_answer(message: pb.SearchResponse) -> AcrossAnswer:
    """Dataclass of the answer to a search across archives."""
    owners = [
        OwnerAnswer(
            owner=found.owner,
            status=owner_status(found.status),
            reason=found.reason,
            message=found.message,
            hits=found.hits,
            index_version=found.index_version,
            candidates=found.candidates,
            distance_step=found.distance_step,
        )
        for found in message.owners
    ]
    hits = [hit(one) for one in message.hits]
    return AcrossAnswer(hits, owners, message.partial, message.exact, message.recall)


def patch(message: pb.GetPatchResponse) -> Patch:
    """Dataclass of a patch with the parts in the response."""
    has_map = message.HasField("reference_map")
    return Patch(
        info=patch_info(message.patch),
        s1_thumbnail_png=message.s1_thumbnail_png,
        s2_thumbnail_png=message.s2_thumbnail_png,
        bands={b.name: band_samples(b) for b in message.bands},
        reference_map=band_samples(message.reference_map) if has_map else None,
    )


def index_info(message: pb.Index) -> IndexInfo:
    """Dataclass of a served index."""
    return IndexInfo(
        name=message.name,
        version=message.version,
        method=message.method,
        bundle_id=message.bundle_id,
        bits=message.bits,
        embedding_dim=message.embedding_dim,
        patches_version=message.patches_version,
        patches={MODALITY_NAMES[m.modality]: m.patches for m in message.modalities},
        bands={MODALITY_NAMES[m.modality]: tuple(m.bands) for m in message.modalities},
    )


def _box(message: pb.BoundingBox) -> tuple[float, float, float, float]:
    return message.lon_min, message.lat_min, message.lon_max, message.lat_max
