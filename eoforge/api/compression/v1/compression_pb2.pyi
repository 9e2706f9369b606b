import datetime

from google.api import field_behavior_pb2 as _field_behavior_pb2
from google.protobuf import duration_pb2 as _duration_pb2
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

class StreamKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STREAM_KIND_UNSPECIFIED: _ClassVar[StreamKind]
    STREAM_KIND_LEARNED: _ClassVar[StreamKind]
    STREAM_KIND_BOUNDED: _ClassVar[StreamKind]

class PixelFormat(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PIXEL_FORMAT_UNSPECIFIED: _ClassVar[PixelFormat]
    PIXEL_FORMAT_BANDS: _ClassVar[PixelFormat]
    PIXEL_FORMAT_GEOTIFF: _ClassVar[PixelFormat]
MODALITY_UNSPECIFIED: Modality
MODALITY_S1: Modality
MODALITY_S2: Modality
STREAM_KIND_UNSPECIFIED: StreamKind
STREAM_KIND_LEARNED: StreamKind
STREAM_KIND_BOUNDED: StreamKind
PIXEL_FORMAT_UNSPECIFIED: PixelFormat
PIXEL_FORMAT_BANDS: PixelFormat
PIXEL_FORMAT_GEOTIFF: PixelFormat

class Band(_message.Message):
    __slots__ = ("name", "height", "width", "samples", "nodata", "scale", "offset", "valid")
    NAME_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    NODATA_FIELD_NUMBER: _ClassVar[int]
    SCALE_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    VALID_FIELD_NUMBER: _ClassVar[int]
    name: str
    height: int
    width: int
    samples: bytes
    nodata: float
    scale: float
    offset: float
    valid: bytes
    def __init__(self, name: _Optional[str] = ..., height: _Optional[int] = ..., width: _Optional[int] = ..., samples: _Optional[bytes] = ..., nodata: _Optional[float] = ..., scale: _Optional[float] = ..., offset: _Optional[float] = ..., valid: _Optional[bytes] = ...) -> None: ...

class Georeference(_message.Message):
    __slots__ = ("crs", "transform")
    CRS_FIELD_NUMBER: _ClassVar[int]
    TRANSFORM_FIELD_NUMBER: _ClassVar[int]
    crs: str
    transform: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, crs: _Optional[str] = ..., transform: _Optional[_Iterable[float]] = ...) -> None: ...

class BandRaster(_message.Message):
    __slots__ = ("bands", "georeference", "patch_id")
    BANDS_FIELD_NUMBER: _ClassVar[int]
    GEOREFERENCE_FIELD_NUMBER: _ClassVar[int]
    PATCH_ID_FIELD_NUMBER: _ClassVar[int]
    bands: _containers.RepeatedCompositeFieldContainer[Band]
    georeference: Georeference
    patch_id: str
    def __init__(self, bands: _Optional[_Iterable[_Union[Band, _Mapping]]] = ..., georeference: _Optional[_Union[Georeference, _Mapping]] = ..., patch_id: _Optional[str] = ...) -> None: ...

class GeoTiffFile(_message.Message):
    __slots__ = ("content", "bands")
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    BANDS_FIELD_NUMBER: _ClassVar[int]
    content: bytes
    bands: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, content: _Optional[bytes] = ..., bands: _Optional[_Iterable[str]] = ...) -> None: ...

class GeoTiffRaster(_message.Message):
    __slots__ = ("files", "patch_id")
    FILES_FIELD_NUMBER: _ClassVar[int]
    PATCH_ID_FIELD_NUMBER: _ClassVar[int]
    files: _containers.RepeatedCompositeFieldContainer[GeoTiffFile]
    patch_id: str
    def __init__(self, files: _Optional[_Iterable[_Union[GeoTiffFile, _Mapping]]] = ..., patch_id: _Optional[str] = ...) -> None: ...

class Raster(_message.Message):
    __slots__ = ("bands", "geotiff")
    BANDS_FIELD_NUMBER: _ClassVar[int]
    GEOTIFF_FIELD_NUMBER: _ClassVar[int]
    bands: BandRaster
    geotiff: GeoTiffRaster
    def __init__(self, bands: _Optional[_Union[BandRaster, _Mapping]] = ..., geotiff: _Optional[_Union[GeoTiffRaster, _Mapping]] = ...) -> None: ...

class MaxError(_message.Message):
    __slots__ = ("s2", "s1")
    S2_FIELD_NUMBER: _ClassVar[int]
    S1_FIELD_NUMBER: _ClassVar[int]
    s2: int
    s1: float
    def __init__(self, s2: _Optional[int] = ..., s1: _Optional[float] = ...) -> None: ...

class Rate(_message.Message):
    __slots__ = ("quality", "bits_per_pixel", "psnr", "max_error")
    QUALITY_FIELD_NUMBER: _ClassVar[int]
    BITS_PER_PIXEL_FIELD_NUMBER: _ClassVar[int]
    PSNR_FIELD_NUMBER: _ClassVar[int]
    MAX_ERROR_FIELD_NUMBER: _ClassVar[int]
    quality: float
    bits_per_pixel: float
    psnr: float
    max_error: MaxError
    def __init__(self, quality: _Optional[float] = ..., bits_per_pixel: _Optional[float] = ..., psnr: _Optional[float] = ..., max_error: _Optional[_Union[MaxError, _Mapping]] = ...) -> None: ...

class Code(_message.Message):
    __slots__ = ("modality", "code", "tile")
    MODALITY_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    TILE_FIELD_NUMBER: _ClassVar[int]
    modality: Modality
    code: bytes
    tile: int
    def __init__(self, modality: _Optional[_Union[Modality, str]] = ..., code: _Optional[bytes] = ..., tile: _Optional[int] = ...) -> None: ...

class StreamInfo(_message.Message):
    __slots__ = ("kind", "bands", "height", "width", "patch_id", "georeference", "tile", "overlap", "quality", "max_error", "codec", "code_bits", "codes", "stream_bytes", "bits_per_pixel", "bits_per_sample")
    KIND_FIELD_NUMBER: _ClassVar[int]
    BANDS_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    PATCH_ID_FIELD_NUMBER: _ClassVar[int]
    GEOREFERENCE_FIELD_NUMBER: _ClassVar[int]
    TILE_FIELD_NUMBER: _ClassVar[int]
    OVERLAP_FIELD_NUMBER: _ClassVar[int]
    QUALITY_FIELD_NUMBER: _ClassVar[int]
    MAX_ERROR_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    CODE_BITS_FIELD_NUMBER: _ClassVar[int]
    CODES_FIELD_NUMBER: _ClassVar[int]
    STREAM_BYTES_FIELD_NUMBER: _ClassVar[int]
    BITS_PER_PIXEL_FIELD_NUMBER: _ClassVar[int]
    BITS_PER_SAMPLE_FIELD_NUMBER: _ClassVar[int]
    kind: StreamKind
    bands: _containers.RepeatedScalarFieldContainer[str]
    height: int
    width: int
    patch_id: str
    georeference: Georeference
    tile: int
    overlap: int
    quality: float
    max_error: MaxError
    codec: str
    code_bits: int
    codes: int
    stream_bytes: int
    bits_per_pixel: float
    bits_per_sample: float
    def __init__(self, kind: _Optional[_Union[StreamKind, str]] = ..., bands: _Optional[_Iterable[str]] = ..., height: _Optional[int] = ..., width: _Optional[int] = ..., patch_id: _Optional[str] = ..., georeference: _Optional[_Union[Georeference, _Mapping]] = ..., tile: _Optional[int] = ..., overlap: _Optional[int] = ..., quality: _Optional[float] = ..., max_error: _Optional[_Union[MaxError, _Mapping]] = ..., codec: _Optional[str] = ..., code_bits: _Optional[int] = ..., codes: _Optional[int] = ..., stream_bytes: _Optional[int] = ..., bits_per_pixel: _Optional[float] = ..., bits_per_sample: _Optional[float] = ...) -> None: ...

class CompressRequest(_message.Message):
    __slots__ = ("raster", "rate", "codec")
    RASTER_FIELD_NUMBER: _ClassVar[int]
    RATE_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    raster: Raster
    rate: Rate
    codec: str
    def __init__(self, raster: _Optional[_Union[Raster, _Mapping]] = ..., rate: _Optional[_Union[Rate, _Mapping]] = ..., codec: _Optional[str] = ...) -> None: ...

class CompressResponse(_message.Message):
    __slots__ = ("stream", "info", "codes", "warnings")
    STREAM_FIELD_NUMBER: _ClassVar[int]
    INFO_FIELD_NUMBER: _ClassVar[int]
    CODES_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    stream: bytes
    info: StreamInfo
    codes: _containers.RepeatedCompositeFieldContainer[Code]
    warnings: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, stream: _Optional[bytes] = ..., info: _Optional[_Union[StreamInfo, _Mapping]] = ..., codes: _Optional[_Iterable[_Union[Code, _Mapping]]] = ..., warnings: _Optional[_Iterable[str]] = ...) -> None: ...

class CompressStreamRequest(_message.Message):
    __slots__ = ("correlation_id", "compress")
    CORRELATION_ID_FIELD_NUMBER: _ClassVar[int]
    COMPRESS_FIELD_NUMBER: _ClassVar[int]
    correlation_id: str
    compress: CompressRequest
    def __init__(self, correlation_id: _Optional[str] = ..., compress: _Optional[_Union[CompressRequest, _Mapping]] = ...) -> None: ...

class CompressStreamResponse(_message.Message):
    __slots__ = ("correlation_id", "result", "error")
    CORRELATION_ID_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    correlation_id: str
    result: CompressResponse
    error: Error
    def __init__(self, correlation_id: _Optional[str] = ..., result: _Optional[_Union[CompressResponse, _Mapping]] = ..., error: _Optional[_Union[Error, _Mapping]] = ...) -> None: ...

class DecompressRequest(_message.Message):
    __slots__ = ("stream", "format")
    STREAM_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    stream: bytes
    format: PixelFormat
    def __init__(self, stream: _Optional[bytes] = ..., format: _Optional[_Union[PixelFormat, str]] = ...) -> None: ...

class DecompressResponse(_message.Message):
    __slots__ = ("raster", "warnings")
    RASTER_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    raster: Raster
    warnings: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, raster: _Optional[_Union[Raster, _Mapping]] = ..., warnings: _Optional[_Iterable[str]] = ...) -> None: ...

class DecompressStreamRequest(_message.Message):
    __slots__ = ("correlation_id", "decompress")
    CORRELATION_ID_FIELD_NUMBER: _ClassVar[int]
    DECOMPRESS_FIELD_NUMBER: _ClassVar[int]
    correlation_id: str
    decompress: DecompressRequest
    def __init__(self, correlation_id: _Optional[str] = ..., decompress: _Optional[_Union[DecompressRequest, _Mapping]] = ...) -> None: ...

class DecompressStreamResponse(_message.Message):
    __slots__ = ("correlation_id", "result", "error")
    CORRELATION_ID_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    correlation_id: str
    result: DecompressResponse
    error: Error
    def __init__(self, correlation_id: _Optional[str] = ..., result: _Optional[_Union[DecompressResponse, _Mapping]] = ..., error: _Optional[_Union[Error, _Mapping]] = ...) -> None: ...

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

class HashStreamRequest(_message.Message):
    __slots__ = ("stream",)
    STREAM_FIELD_NUMBER: _ClassVar[int]
    stream: bytes
    def __init__(self, stream: _Optional[bytes] = ...) -> None: ...

class HashStreamResponse(_message.Message):
    __slots__ = ("codes", "bundle_id")
    CODES_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_ID_FIELD_NUMBER: _ClassVar[int]
    codes: _containers.RepeatedCompositeFieldContainer[Code]
    bundle_id: str
    def __init__(self, codes: _Optional[_Iterable[_Union[Code, _Mapping]]] = ..., bundle_id: _Optional[str] = ...) -> None: ...

class InspectRequest(_message.Message):
    __slots__ = ("stream",)
    STREAM_FIELD_NUMBER: _ClassVar[int]
    stream: bytes
    def __init__(self, stream: _Optional[bytes] = ...) -> None: ...

class InspectResponse(_message.Message):
    __slots__ = ("info",)
    INFO_FIELD_NUMBER: _ClassVar[int]
    info: StreamInfo
    def __init__(self, info: _Optional[_Union[StreamInfo, _Mapping]] = ...) -> None: ...

class TranscodeRequest(_message.Message):
    __slots__ = ("stream", "rate", "codec")
    STREAM_FIELD_NUMBER: _ClassVar[int]
    RATE_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    stream: bytes
    rate: Rate
    codec: str
    def __init__(self, stream: _Optional[bytes] = ..., rate: _Optional[_Union[Rate, _Mapping]] = ..., codec: _Optional[str] = ...) -> None: ...

class TranscodeResponse(_message.Message):
    __slots__ = ("stream", "info", "codes")
    STREAM_FIELD_NUMBER: _ClassVar[int]
    INFO_FIELD_NUMBER: _ClassVar[int]
    CODES_FIELD_NUMBER: _ClassVar[int]
    stream: bytes
    info: StreamInfo
    codes: _containers.RepeatedCompositeFieldContainer[Code]
    def __init__(self, stream: _Optional[bytes] = ..., info: _Optional[_Union[StreamInfo, _Mapping]] = ..., codes: _Optional[_Iterable[_Union[Code, _Mapping]]] = ...) -> None: ...

class ListCodecsRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class CodecBands(_message.Message):
    __slots__ = ("modality", "bands")
    MODALITY_FIELD_NUMBER: _ClassVar[int]
    BANDS_FIELD_NUMBER: _ClassVar[int]
    modality: Modality
    bands: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, modality: _Optional[_Union[Modality, str]] = ..., bands: _Optional[_Iterable[str]] = ...) -> None: ...

class Codec(_message.Message):
    __slots__ = ("name", "bundle_id", "method", "kind", "bands", "max_quality", "code_bits")
    NAME_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_ID_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    BANDS_FIELD_NUMBER: _ClassVar[int]
    MAX_QUALITY_FIELD_NUMBER: _ClassVar[int]
    CODE_BITS_FIELD_NUMBER: _ClassVar[int]
    name: str
    bundle_id: str
    method: str
    kind: StreamKind
    bands: _containers.RepeatedCompositeFieldContainer[CodecBands]
    max_quality: float
    code_bits: int
    def __init__(self, name: _Optional[str] = ..., bundle_id: _Optional[str] = ..., method: _Optional[str] = ..., kind: _Optional[_Union[StreamKind, str]] = ..., bands: _Optional[_Iterable[_Union[CodecBands, _Mapping]]] = ..., max_quality: _Optional[float] = ..., code_bits: _Optional[int] = ...) -> None: ...

class ListCodecsResponse(_message.Message):
    __slots__ = ("codecs", "next_page_token")
    CODECS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    codecs: _containers.RepeatedCompositeFieldContainer[Codec]
    next_page_token: str
    def __init__(self, codecs: _Optional[_Iterable[_Union[Codec, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...
