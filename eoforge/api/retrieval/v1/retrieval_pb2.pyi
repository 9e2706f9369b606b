import datetime

from google.api import field_behavior_pb2 as _field_behavior_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Modality(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MODALITY_UNSPECIFIED: _ClassVar[Modality]
    MODALITY_S1: _ClassVar[Modality]
    MODALITY_S2: _ClassVar[Modality]

class OwnerStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OWNER_STATUS_UNSPECIFIED: _ClassVar[OwnerStatus]
    OWNER_STATUS_ANSWERED: _ClassVar[OwnerStatus]
    OWNER_STATUS_OTHER_BUNDLE: _ClassVar[OwnerStatus]
    OWNER_STATUS_REFUSED: _ClassVar[OwnerStatus]
    OWNER_STATUS_UNREACHABLE: _ClassVar[OwnerStatus]
    OWNER_STATUS_LATE: _ClassVar[OwnerStatus]
    OWNER_STATUS_INVALID: _ClassVar[OwnerStatus]
MODALITY_UNSPECIFIED: Modality
MODALITY_S1: Modality
MODALITY_S2: Modality
OWNER_STATUS_UNSPECIFIED: OwnerStatus
OWNER_STATUS_ANSWERED: OwnerStatus
OWNER_STATUS_OTHER_BUNDLE: OwnerStatus
OWNER_STATUS_REFUSED: OwnerStatus
OWNER_STATUS_UNREACHABLE: OwnerStatus
OWNER_STATUS_LATE: OwnerStatus
OWNER_STATUS_INVALID: OwnerStatus

class BoundingBox(_message.Message):
    __slots__ = ("lon_min", "lat_min", "lon_max", "lat_max")
    LON_MIN_FIELD_NUMBER: _ClassVar[int]
    LAT_MIN_FIELD_NUMBER: _ClassVar[int]
    LON_MAX_FIELD_NUMBER: _ClassVar[int]
    LAT_MAX_FIELD_NUMBER: _ClassVar[int]
    lon_min: float
    lat_min: float
    lon_max: float
    lat_max: float
    def __init__(self, lon_min: _Optional[float] = ..., lat_min: _Optional[float] = ..., lon_max: _Optional[float] = ..., lat_max: _Optional[float] = ...) -> None: ...

class Band(_message.Message):
    __slots__ = ("name", "height", "width", "samples")
    NAME_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    name: str
    height: int
    width: int
    samples: bytes
    def __init__(self, name: _Optional[str] = ..., height: _Optional[int] = ..., width: _Optional[int] = ..., samples: _Optional[bytes] = ...) -> None: ...

class BandImage(_message.Message):
    __slots__ = ("modality", "bands")
    MODALITY_FIELD_NUMBER: _ClassVar[int]
    BANDS_FIELD_NUMBER: _ClassVar[int]
    modality: Modality
    bands: _containers.RepeatedCompositeFieldContainer[Band]
    def __init__(self, modality: _Optional[_Union[Modality, str]] = ..., bands: _Optional[_Iterable[_Union[Band, _Mapping]]] = ...) -> None: ...

class GeoTiffFile(_message.Message):
    __slots__ = ("content", "bands")
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    BANDS_FIELD_NUMBER: _ClassVar[int]
    content: bytes
    bands: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, content: _Optional[bytes] = ..., bands: _Optional[_Iterable[str]] = ...) -> None: ...

class GeoTiffImage(_message.Message):
    __slots__ = ("modality", "files")
    MODALITY_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    modality: Modality
    files: _containers.RepeatedCompositeFieldContainer[GeoTiffFile]
    def __init__(self, modality: _Optional[_Union[Modality, str]] = ..., files: _Optional[_Iterable[_Union[GeoTiffFile, _Mapping]]] = ...) -> None: ...

class Image(_message.Message):
    __slots__ = ("bands", "geotiff")
    BANDS_FIELD_NUMBER: _ClassVar[int]
    GEOTIFF_FIELD_NUMBER: _ClassVar[int]
    bands: BandImage
    geotiff: GeoTiffImage
    def __init__(self, bands: _Optional[_Union[BandImage, _Mapping]] = ..., geotiff: _Optional[_Union[GeoTiffImage, _Mapping]] = ...) -> None: ...

class Filter(_message.Message):
    __slots__ = ("countries", "splits", "labels_any", "labels_all", "bounds", "acquired_from", "acquired_until", "exclude_snow", "exclude_cloud")
    COUNTRIES_FIELD_NUMBER: _ClassVar[int]
    SPLITS_FIELD_NUMBER: _ClassVar[int]
    LABELS_ANY_FIELD_NUMBER: _ClassVar[int]
    LABELS_ALL_FIELD_NUMBER: _ClassVar[int]
    BOUNDS_FIELD_NUMBER: _ClassVar[int]
    ACQUIRED_FROM_FIELD_NUMBER: _ClassVar[int]
    ACQUIRED_UNTIL_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_SNOW_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_CLOUD_FIELD_NUMBER: _ClassVar[int]
    countries: _containers.RepeatedScalarFieldContainer[str]
    splits: _containers.RepeatedScalarFieldContainer[str]
    labels_any: _containers.RepeatedScalarFieldContainer[str]
    labels_all: _containers.RepeatedScalarFieldContainer[str]
    bounds: BoundingBox
    acquired_from: _timestamp_pb2.Timestamp
    acquired_until: _timestamp_pb2.Timestamp
    exclude_snow: bool
    exclude_cloud: bool
    def __init__(self, countries: _Optional[_Iterable[str]] = ..., splits: _Optional[_Iterable[str]] = ..., labels_any: _Optional[_Iterable[str]] = ..., labels_all: _Optional[_Iterable[str]] = ..., bounds: _Optional[_Union[BoundingBox, _Mapping]] = ..., acquired_from: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., acquired_until: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., exclude_snow: _Optional[bool] = ..., exclude_cloud: _Optional[bool] = ...) -> None: ...

class PatchMetadata(_message.Message):
    __slots__ = ("patch_id", "s1_name", "split", "country", "labels", "contains_seasonal_snow", "contains_cloud_or_shadow", "acquired_s2", "acquired_s1", "mgrs_tile", "epsg", "ulx", "uly", "footprint")
    PATCH_ID_FIELD_NUMBER: _ClassVar[int]
    S1_NAME_FIELD_NUMBER: _ClassVar[int]
    SPLIT_FIELD_NUMBER: _ClassVar[int]
    COUNTRY_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    CONTAINS_SEASONAL_SNOW_FIELD_NUMBER: _ClassVar[int]
    CONTAINS_CLOUD_OR_SHADOW_FIELD_NUMBER: _ClassVar[int]
    ACQUIRED_S2_FIELD_NUMBER: _ClassVar[int]
    ACQUIRED_S1_FIELD_NUMBER: _ClassVar[int]
    MGRS_TILE_FIELD_NUMBER: _ClassVar[int]
    EPSG_FIELD_NUMBER: _ClassVar[int]
    ULX_FIELD_NUMBER: _ClassVar[int]
    ULY_FIELD_NUMBER: _ClassVar[int]
    FOOTPRINT_FIELD_NUMBER: _ClassVar[int]
    patch_id: str
    s1_name: str
    split: str
    country: str
    labels: _containers.RepeatedScalarFieldContainer[str]
    contains_seasonal_snow: bool
    contains_cloud_or_shadow: bool
    acquired_s2: _timestamp_pb2.Timestamp
    acquired_s1: _timestamp_pb2.Timestamp
    mgrs_tile: str
    epsg: int
    ulx: int
    uly: int
    footprint: BoundingBox
    def __init__(self, patch_id: _Optional[str] = ..., s1_name: _Optional[str] = ..., split: _Optional[str] = ..., country: _Optional[str] = ..., labels: _Optional[_Iterable[str]] = ..., contains_seasonal_snow: _Optional[bool] = ..., contains_cloud_or_shadow: _Optional[bool] = ..., acquired_s2: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., acquired_s1: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., mgrs_tile: _Optional[str] = ..., epsg: _Optional[int] = ..., ulx: _Optional[int] = ..., uly: _Optional[int] = ..., footprint: _Optional[_Union[BoundingBox, _Mapping]] = ...) -> None: ...

class SearchRequest(_message.Message):
    __slots__ = ("patch_id", "bands", "geotiff", "code", "query_modality", "target_modality", "filter", "page_size", "page_token", "include_thumbnails", "include_codes", "min_recall", "across", "visited", "bundle_id")
    PATCH_ID_FIELD_NUMBER: _ClassVar[int]
    BANDS_FIELD_NUMBER: _ClassVar[int]
    GEOTIFF_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    QUERY_MODALITY_FIELD_NUMBER: _ClassVar[int]
    TARGET_MODALITY_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_THUMBNAILS_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_CODES_FIELD_NUMBER: _ClassVar[int]
    MIN_RECALL_FIELD_NUMBER: _ClassVar[int]
    ACROSS_FIELD_NUMBER: _ClassVar[int]
    VISITED_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_ID_FIELD_NUMBER: _ClassVar[int]
    patch_id: str
    bands: BandImage
    geotiff: GeoTiffImage
    code: bytes
    query_modality: Modality
    target_modality: Modality
    filter: Filter
    page_size: int
    page_token: str
    include_thumbnails: bool
    include_codes: bool
    min_recall: float
    across: bool
    visited: _containers.RepeatedScalarFieldContainer[str]
    bundle_id: str
    def __init__(self, patch_id: _Optional[str] = ..., bands: _Optional[_Union[BandImage, _Mapping]] = ..., geotiff: _Optional[_Union[GeoTiffImage, _Mapping]] = ..., code: _Optional[bytes] = ..., query_modality: _Optional[_Union[Modality, str]] = ..., target_modality: _Optional[_Union[Modality, str]] = ..., filter: _Optional[_Union[Filter, _Mapping]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., include_thumbnails: _Optional[bool] = ..., include_codes: _Optional[bool] = ..., min_recall: _Optional[float] = ..., across: _Optional[bool] = ..., visited: _Optional[_Iterable[str]] = ..., bundle_id: _Optional[str] = ...) -> None: ...

class Hit(_message.Message):
    __slots__ = ("patch", "modality", "distance", "thumbnail_png", "code", "owner", "owner_address")
    PATCH_FIELD_NUMBER: _ClassVar[int]
    MODALITY_FIELD_NUMBER: _ClassVar[int]
    DISTANCE_FIELD_NUMBER: _ClassVar[int]
    THUMBNAIL_PNG_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    OWNER_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    patch: PatchMetadata
    modality: Modality
    distance: int
    thumbnail_png: bytes
    code: bytes
    owner: str
    owner_address: str
    def __init__(self, patch: _Optional[_Union[PatchMetadata, _Mapping]] = ..., modality: _Optional[_Union[Modality, str]] = ..., distance: _Optional[int] = ..., thumbnail_png: _Optional[bytes] = ..., code: _Optional[bytes] = ..., owner: _Optional[str] = ..., owner_address: _Optional[str] = ...) -> None: ...

class OwnerAnswer(_message.Message):
    __slots__ = ("owner", "status", "reason", "message", "hits", "index_version", "candidates", "distance_step")
    OWNER_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    HITS_FIELD_NUMBER: _ClassVar[int]
    INDEX_VERSION_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    DISTANCE_STEP_FIELD_NUMBER: _ClassVar[int]
    owner: str
    status: OwnerStatus
    reason: str
    message: str
    hits: int
    index_version: int
    candidates: int
    distance_step: int
    def __init__(self, owner: _Optional[str] = ..., status: _Optional[_Union[OwnerStatus, str]] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ..., hits: _Optional[int] = ..., index_version: _Optional[int] = ..., candidates: _Optional[int] = ..., distance_step: _Optional[int] = ...) -> None: ...

class SearchResponse(_message.Message):
    __slots__ = ("hits", "next_page_token", "query_code", "index_version", "candidates", "exact", "recall", "owners", "partial", "bundle_id", "owner", "distance_step")
    HITS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    QUERY_CODE_FIELD_NUMBER: _ClassVar[int]
    INDEX_VERSION_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    EXACT_FIELD_NUMBER: _ClassVar[int]
    RECALL_FIELD_NUMBER: _ClassVar[int]
    OWNERS_FIELD_NUMBER: _ClassVar[int]
    PARTIAL_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_ID_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    DISTANCE_STEP_FIELD_NUMBER: _ClassVar[int]
    hits: _containers.RepeatedCompositeFieldContainer[Hit]
    next_page_token: str
    query_code: bytes
    index_version: int
    candidates: int
    exact: bool
    recall: float
    owners: _containers.RepeatedCompositeFieldContainer[OwnerAnswer]
    partial: bool
    bundle_id: str
    owner: str
    distance_step: int
    def __init__(self, hits: _Optional[_Iterable[_Union[Hit, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., query_code: _Optional[bytes] = ..., index_version: _Optional[int] = ..., candidates: _Optional[int] = ..., exact: _Optional[bool] = ..., recall: _Optional[float] = ..., owners: _Optional[_Iterable[_Union[OwnerAnswer, _Mapping]]] = ..., partial: _Optional[bool] = ..., bundle_id: _Optional[str] = ..., owner: _Optional[str] = ..., distance_step: _Optional[int] = ...) -> None: ...

class SearchStreamRequest(_message.Message):
    __slots__ = ("correlation_id", "search")
    CORRELATION_ID_FIELD_NUMBER: _ClassVar[int]
    SEARCH_FIELD_NUMBER: _ClassVar[int]
    correlation_id: str
    search: SearchRequest
    def __init__(self, correlation_id: _Optional[str] = ..., search: _Optional[_Union[SearchRequest, _Mapping]] = ...) -> None: ...

class SearchStreamResponse(_message.Message):
    __slots__ = ("correlation_id", "result", "error")
    CORRELATION_ID_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    correlation_id: str
    result: SearchResponse
    error: Error
    def __init__(self, correlation_id: _Optional[str] = ..., result: _Optional[_Union[SearchResponse, _Mapping]] = ..., error: _Optional[_Union[Error, _Mapping]] = ...) -> None: ...

class Error(_message.Message):
    __slots__ = ("code", "reason", "message", "retry_delay")
    CODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    RETRY_DELAY_FIELD_NUMBER: _ClassVar[int]
    code: int
    reason: str
    message: str
    retry_delay: _duration_pb2.Duration
    def __init__(self, code: _Optional[int] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ..., retry_delay: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class EncodeRequest(_message.Message):
    __slots__ = ("images",)
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    images: _containers.RepeatedCompositeFieldContainer[Image]
    def __init__(self, images: _Optional[_Iterable[_Union[Image, _Mapping]]] = ...) -> None: ...

class Encoding(_message.Message):
    __slots__ = ("code", "embedding")
    CODE_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    code: bytes
    embedding: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, code: _Optional[bytes] = ..., embedding: _Optional[_Iterable[float]] = ...) -> None: ...

class EncodeResponse(_message.Message):
    __slots__ = ("encodings", "bundle_id")
    ENCODINGS_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_ID_FIELD_NUMBER: _ClassVar[int]
    encodings: _containers.RepeatedCompositeFieldContainer[Encoding]
    bundle_id: str
    def __init__(self, encodings: _Optional[_Iterable[_Union[Encoding, _Mapping]]] = ..., bundle_id: _Optional[str] = ...) -> None: ...

class GetPatchRequest(_message.Message):
    __slots__ = ("patch_id", "include_thumbnails", "include_pixels", "include_reference_map")
    PATCH_ID_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_THUMBNAILS_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_PIXELS_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_REFERENCE_MAP_FIELD_NUMBER: _ClassVar[int]
    patch_id: str
    include_thumbnails: bool
    include_pixels: bool
    include_reference_map: bool
    def __init__(self, patch_id: _Optional[str] = ..., include_thumbnails: _Optional[bool] = ..., include_pixels: _Optional[bool] = ..., include_reference_map: _Optional[bool] = ...) -> None: ...

class GetPatchResponse(_message.Message):
    __slots__ = ("patch", "s2_thumbnail_png", "s1_thumbnail_png", "bands", "reference_map")
    PATCH_FIELD_NUMBER: _ClassVar[int]
    S2_THUMBNAIL_PNG_FIELD_NUMBER: _ClassVar[int]
    S1_THUMBNAIL_PNG_FIELD_NUMBER: _ClassVar[int]
    BANDS_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_MAP_FIELD_NUMBER: _ClassVar[int]
    patch: PatchMetadata
    s2_thumbnail_png: bytes
    s1_thumbnail_png: bytes
    bands: _containers.RepeatedCompositeFieldContainer[Band]
    reference_map: Band
    def __init__(self, patch: _Optional[_Union[PatchMetadata, _Mapping]] = ..., s2_thumbnail_png: _Optional[bytes] = ..., s1_thumbnail_png: _Optional[bytes] = ..., bands: _Optional[_Iterable[_Union[Band, _Mapping]]] = ..., reference_map: _Optional[_Union[Band, _Mapping]] = ...) -> None: ...

class ListIndexesRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ModalitySize(_message.Message):
    __slots__ = ("modality", "patches", "bands")
    MODALITY_FIELD_NUMBER: _ClassVar[int]
    PATCHES_FIELD_NUMBER: _ClassVar[int]
    BANDS_FIELD_NUMBER: _ClassVar[int]
    modality: Modality
    patches: int
    bands: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, modality: _Optional[_Union[Modality, str]] = ..., patches: _Optional[int] = ..., bands: _Optional[_Iterable[str]] = ...) -> None: ...

class Index(_message.Message):
    __slots__ = ("name", "version", "method", "bundle_id", "bits", "embedding_dim", "patches_version", "modalities", "engine", "recalls")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_ID_FIELD_NUMBER: _ClassVar[int]
    BITS_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_DIM_FIELD_NUMBER: _ClassVar[int]
    PATCHES_VERSION_FIELD_NUMBER: _ClassVar[int]
    MODALITIES_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    RECALLS_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: int
    method: str
    bundle_id: str
    bits: int
    embedding_dim: int
    patches_version: int
    modalities: _containers.RepeatedCompositeFieldContainer[ModalitySize]
    engine: str
    recalls: _containers.RepeatedCompositeFieldContainer[ProbeRecall]
    def __init__(self, name: _Optional[str] = ..., version: _Optional[int] = ..., method: _Optional[str] = ..., bundle_id: _Optional[str] = ..., bits: _Optional[int] = ..., embedding_dim: _Optional[int] = ..., patches_version: _Optional[int] = ..., modalities: _Optional[_Iterable[_Union[ModalitySize, _Mapping]]] = ..., engine: _Optional[str] = ..., recalls: _Optional[_Iterable[_Union[ProbeRecall, _Mapping]]] = ...) -> None: ...

class ProbeRecall(_message.Message):
    __slots__ = ("partitions", "recall")
    PARTITIONS_FIELD_NUMBER: _ClassVar[int]
    RECALL_FIELD_NUMBER: _ClassVar[int]
    partitions: int
    recall: float
    def __init__(self, partitions: _Optional[int] = ..., recall: _Optional[float] = ...) -> None: ...

class ListIndexesResponse(_message.Message):
    __slots__ = ("indexes", "next_page_token")
    INDEXES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    indexes: _containers.RepeatedCompositeFieldContainer[Index]
    next_page_token: str
    def __init__(self, indexes: _Optional[_Iterable[_Union[Index, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...
