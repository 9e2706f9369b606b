"""Client of the compression service, in three lines::

    from eoforge.client.compression import CompressionClient
    with CompressionClient("127.0.0.1:8081") as client:
        stream = client.compress(geotiff=open("tile.tif", "rb").read(), max_error=(0, 0.0)).stream

It needs gRPC and the generated messages only: no torch, no rasterio. Calls have deadlines, are retried where that is
safe and helps, and return plain dataclasses.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt

from eoforge.api.compression.v1 import compression_pb2 as pb
from eoforge.api.compression.v1 import compression_pb2_grpc
from eoforge.client.base import RemoteError, ServiceClient, stream_error
from eoforge.data.modalities import MODALITY_NAMES
from eoforge.errors import UsageError

Bands = Mapping[str, npt.NDArray[Any]]
"""Band name to samples ``[H, W]`` on its native grid: uint16 for Sentinel-2, float32 dB for Sentinel-1."""
Place = tuple[str, tuple[float, float, float, float, float, float]]
"""CRS and transform of the 10 m grid."""
_S1_BANDS = ("VV", "VH")


@dataclass(frozen=True, slots=True)
class Compressed:
    """A stream with its header and, by (sensor, tile), the codes that it carries."""

    stream: bytes = field(repr=False)
    info: pb.StreamInfo
    codes: dict[tuple[str, int], bytes]


@dataclass(frozen=True, slots=True)
class Decompressed:
    """Decoded bands on native grids, and where they lie."""

    bands: dict[str, npt.NDArray[Any]] = field(repr=False)
    patch_id: str
    place: Place | None


class CompressionClient(ServiceClient):
    """Synchronous client; safe to share between threads. See :class:`ServiceClient` for its arguments."""

    def __init__(self, target: str, **connection: Any) -> None:
        super().__init__(target, **connection)
        self._stub: Any = compression_pb2_grpc.CompressionServiceStub(self._channel)  # type: ignore[no-untyped-call]  # generated

    def compress(
        self,
        bands: Bands | None = None,
        *,
        geotiff: bytes | Sequence[bytes] | None = None,
        patch_id: str = "",
        place: Place | None = None,
        codec: str = "",
        **rate: Any,
    ) -> Compressed:
        """The stream of one raster.

        Args:
            bands: The raster as arrays.
            geotiff: Or as the bytes of one GeoTIFF or of several; their band descriptions name the bands.
            patch_id: Its name.
            place: Where the arrays lie; GeoTIFFs say it themselves.
            codec: Name of the codec; the server's first if empty.
            **rate: At most one of ``quality``, ``bits_per_pixel``, ``psnr`` and ``max_error`` = (DN, dB).

        Raises:
            UsageError: The arguments contradict each other, or the server refuses them.
            RemoteError: The server answered with another error, or could not be reached.
        """
        request = pb.CompressRequest(raster=_raster(bands, geotiff, patch_id, place), rate=_rate(rate), codec=codec)
        return _compressed(self._call(self._stub.Compress, request))

    def compress_many(
        self, rasters: Iterable[tuple[str, Bands]], *, codec: str = "", timeout: float | None = None, **rate: Any
    ) -> Iterator[tuple[str, Compressed | RemoteError]]:
        """Compresses named rasters over one stream; yields ``(name, result or the error of that one)`` in order.

        ``timeout`` is the deadline of the whole stream in seconds; None lets it run as long as there are rasters.

        Raises:
            RemoteError: The stream as a whole broke. It is not retried: what was yielded is done.
        """
        wanted = _rate(rate)

        def requests() -> Iterator[pb.CompressStreamRequest]:
            for name, bands in rasters:
                one = pb.CompressRequest(raster=_raster(bands, None, name, None), rate=wanted, codec=codec)
                yield pb.CompressStreamRequest(correlation_id=name, compress=one)

        for name, answer in self._stream(self._stub.CompressStream, requests(), timeout):
            yield name, answer if isinstance(answer, RemoteError) else _compressed(answer)

    def decompress(self, stream: bytes) -> Decompressed:
        """The bands of a stream."""
        response = self._call(self._stub.Decompress, pb.DecompressRequest(stream=stream))
        return _decompressed(response)

    def decompress_geotiff(self, stream: bytes) -> list[bytes]:
        """A stream as cloud-optimised GeoTIFFs, one per native grid."""
        request = pb.DecompressRequest(stream=stream, format=pb.PIXEL_FORMAT_GEOTIFF)
        return [f.content for f in self._call(self._stub.Decompress, request).raster.geotiff.files]

    def decompress_many(
        self, streams: Iterable[tuple[str, bytes]], *, timeout: float | None = None
    ) -> Iterator[tuple[str, Decompressed | RemoteError]]:
        """Decodes named streams over one stream of requests, as :meth:`compress_many` compresses."""

        def requests() -> Iterator[pb.DecompressStreamRequest]:
            for name, stream in streams:
                yield pb.DecompressStreamRequest(correlation_id=name, decompress=pb.DecompressRequest(stream=stream))

        for name, answer in self._stream(self._stub.DecompressStream, requests(), timeout):
            yield name, answer if isinstance(answer, RemoteError) else _decompressed(answer)

    def hash_stream(self, stream: bytes) -> dict[tuple[str, int], bytes]:
        """Codes of a learned stream by (sensor, tile), computed by the server from the latent."""
        return _codes(self._call(self._stub.HashStream, pb.HashStreamRequest(stream=stream)).codes)

    def inspect(self, stream: bytes) -> pb.StreamInfo:
        """The header of a stream, as the server reads it."""
        info: pb.StreamInfo = self._call(self._stub.Inspect, pb.InspectRequest(stream=stream)).info
        return info

    def transcode(self, stream: bytes, *, codec: str = "", **rate: Any) -> Compressed:
        """A stream at another rate; see :meth:`compress`."""
        request = pb.TranscodeRequest(stream=stream, rate=_rate(rate), codec=codec)
        return _compressed(self._call(self._stub.Transcode, request))

    def codecs(self) -> list[pb.Codec]:
        """The codecs of the server, the default first."""
        return list(self._call(self._stub.ListCodecs, pb.ListCodecsRequest()).codecs)

    def _stream(self, method: Any, requests: Iterator[Any], timeout: float | None) -> Iterator[tuple[str, Any]]:
        try:
            for answer in method(requests, timeout=timeout, metadata=self._metadata):
                failed = answer.WhichOneof("outcome") == "error"
                yield answer.correlation_id, stream_error(answer.error) if failed else answer.result
        except grpc.RpcError as error:
            raise self._translate(error) from error


def _raster(
    bands: Bands | None, geotiff: bytes | Sequence[bytes] | None, patch_id: str, place: Place | None
) -> pb.Raster:
    if (bands is None) == (geotiff is None):
        raise UsageError("give exactly one of bands and geotiff")
    if geotiff is not None:
        contents = [geotiff] if isinstance(geotiff, bytes) else geotiff
        files = [pb.GeoTiffFile(content=content) for content in contents]
        return pb.Raster(geotiff=pb.GeoTiffRaster(files=files, patch_id=patch_id))
    message = pb.BandRaster(patch_id=patch_id)
    for name, samples in (bands or {}).items():
        dtype = np.dtype("<f4" if name in _S1_BANDS else "<u2")
        if samples.ndim != 2 or not np.can_cast(samples.dtype, dtype, casting="same_kind"):
            raise UsageError(f"band {name} must be [H, W] of {dtype.name}; got {samples.dtype} {samples.shape}")
        height, width = samples.shape
        raw = np.ascontiguousarray(samples, dtype=dtype).tobytes()
        message.bands.append(pb.Band(name=name, height=height, width=width, samples=raw))
    if place is not None:
        message.georeference.CopyFrom(pb.Georeference(crs=place[0], transform=place[1]))
    return pb.Raster(bands=message)


def _rate(given: Mapping[str, Any]) -> pb.Rate:
    unknown = set(given) - {"quality", "bits_per_pixel", "psnr", "max_error"}
    if unknown or len(given) > 1:
        raise UsageError(f"give at most one of quality, bits_per_pixel, psnr and max_error; got {', '.join(given)}")
    if "max_error" in given:
        s2, s1 = given["max_error"]
        return pb.Rate(max_error=pb.MaxError(s2=s2, s1=s1))
    return pb.Rate(**given)


def _codes(messages: Iterable[pb.Code]) -> dict[tuple[str, int], bytes]:
    return {(MODALITY_NAMES[m.modality], m.tile): m.code for m in messages}


def _compressed(message: Any) -> Compressed:
    return Compressed(message.stream, message.info, _codes(message.codes))


def _decompressed(message: pb.DecompressResponse) -> Decompressed:
    raster = message.raster.bands
    place: Place | None = None
    if raster.HasField("georeference"):
        a, b, c, d, e, f = raster.georeference.transform
        place = (raster.georeference.crs, (a, b, c, d, e, f))
    bands = {
        b.name: np.frombuffer(b.samples, dtype="<f4" if b.name in _S1_BANDS else "<u2").reshape(b.height, b.width)
        for b in raster.bands
    }
    return Decompressed(bands, raster.patch_id, place)
