"""Client of the compression service::

    from eoforge.client import CompressionClient
    with CompressionClient("127.0.0.1:8081") as client:
        stream = client.compress(geotiff=open("tile.tif", "rb").read(), max_error=(0, 0.0)).stream

Dependencies are gRPC and the generated messages, without torch or rasterio. Calls have deadlines, are retried where a
retry is safe and useful, and return dataclasses.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from eoforge.api.compression.v1 import compression_pb2 as pb
from eoforge.api.compression.v1 import compression_pb2_grpc
from eoforge.client.base import RemoteError, ServiceClient
from eoforge.client.wire import band_fields, band_samples, modality_of
from eoforge.data.modalities import MODALITY_NAMES
from eoforge.errors import UsageError

Bands = Mapping[str, npt.NDArray[Any]]
"""Mapping band name -> samples ``[H, W]`` on its native grid: uint16 for Sentinel-2, float32 dB for Sentinel-1."""
Place = tuple[str, tuple[float, float, float, float, float, float]]
"""CRS and transform of the 10 m grid."""


@dataclass(frozen=True, slots=True)
class Compressed:
    """Stream with its header and its hash codes by (modality, tile); ``warnings`` name what it does not keep."""

    stream: bytes = field(repr=False)
    info: pb.StreamInfo
    codes: dict[tuple[str, int], bytes]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Decompressed:
    """Decoded bands on native grids, with patch id and georeference.

    Attributes:
        bands: Samples ``[H, W]`` by band.
        patch_id: Name, may be empty.
        place: CRS (may be empty) and transform of the 10 m grid.
        nodata: Sample that stands for no data, of the bands that have one.
        scale: Scale and offset of the bands whose physical value is another than the sample.
        valid: Mask ``[H, W]`` of the bands that have one, True where samples are valid.
        warnings: What the stream holds that arrays cannot; :meth:`CompressionClient.decompress_geotiff` returns it.
    """

    bands: dict[str, npt.NDArray[Any]] = field(repr=False)
    patch_id: str
    place: Place | None
    nodata: dict[str, float] = field(default_factory=dict)
    scale: dict[str, tuple[float, float]] = field(default_factory=dict)
    valid: dict[str, npt.NDArray[np.bool_]] = field(default_factory=dict, repr=False)
    warnings: tuple[str, ...] = ()


class CompressionClient(ServiceClient):
    """Synchronous, thread-safe client of the compression service; arguments as for :class:`ServiceClient`."""

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
        """Compression of one raster, given by exactly one of ``bands`` and ``geotiff``.

        Args:
            bands: Raster as arrays.
            geotiff: Raster as the bytes of one or more GeoTIFFs, whose band descriptions name the bands.
            patch_id: Name of the raster.
            place: CRS and transform of the 10 m grid for ``bands``; GeoTIFFs hold their own.
            codec: Name of the codec; the default of the server if empty.
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
        """Compression of named rasters over one stream; yields ``(name, result or error)`` in order.

        Args:
            rasters: Names and bands.
            codec: Name of the codec; the default of the server if empty.
            timeout: Deadline of the whole stream in seconds; None for no deadline.
            **rate: As for :meth:`compress`.

        Raises:
            RemoteError: The stream broke. It is not retried; results yielded before are valid.
        """
        target = _rate(rate)

        def requests() -> Iterator[pb.CompressStreamRequest]:
            for name, bands in rasters:
                request = pb.CompressRequest(raster=_raster(bands, None, name, None), rate=target, codec=codec)
                yield pb.CompressStreamRequest(correlation_id=name, compress=request)

        for name, answer in self._answers(self._stub.CompressStream, requests(), timeout):
            yield name, answer if isinstance(answer, RemoteError) else _compressed(answer)

    def decompress(self, stream: bytes) -> Decompressed:
        """Decompression of a stream to bands."""
        response = self._call(self._stub.Decompress, pb.DecompressRequest(stream=stream))
        return _decompressed(response)

    def decompress_geotiff(self, stream: bytes) -> list[bytes]:
        """Decompression of a stream to cloud-optimised GeoTIFFs, one per native grid."""
        request = pb.DecompressRequest(stream=stream, format=pb.PIXEL_FORMAT_GEOTIFF)
        return [f.content for f in self._call(self._stub.Decompress, request).raster.geotiff.files]

    def decompress_many(
        self, streams: Iterable[tuple[str, bytes]], *, timeout: float | None = None
    ) -> Iterator[tuple[str, Decompressed | RemoteError]]:
        """Decompression of named streams over one stream of requests; see :meth:`compress_many`."""

        def requests() -> Iterator[pb.DecompressStreamRequest]:
            for name, stream in streams:
                yield pb.DecompressStreamRequest(correlation_id=name, decompress=pb.DecompressRequest(stream=stream))

        for name, answer in self._answers(self._stub.DecompressStream, requests(), timeout):
            yield name, answer if isinstance(answer, RemoteError) else _decompressed(answer)

    def hash_stream(self, stream: bytes) -> dict[tuple[str, int], bytes]:
        """Hash codes of a learned stream by (modality, tile), computed by the server from the latent."""
        return _codes(self._call(self._stub.HashStream, pb.HashStreamRequest(stream=stream)).codes)

    def inspect(self, stream: bytes) -> pb.StreamInfo:
        """Header of a stream, read by the server."""
        info: pb.StreamInfo = self._call(self._stub.Inspect, pb.InspectRequest(stream=stream)).info
        return info

    def transcode(self, stream: bytes, *, codec: str = "", **rate: Any) -> Compressed:
        """Transcoding of a stream to another rate; see :meth:`compress`."""
        request = pb.TranscodeRequest(stream=stream, rate=_rate(rate), codec=codec)
        return _compressed(self._call(self._stub.Transcode, request))

    def codecs(self) -> list[pb.Codec]:
        """Codecs of the server, the default first."""
        return list(self._call(self._stub.ListCodecs, pb.ListCodecsRequest()).codecs)


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
        message.bands.append(pb.Band(**band_fields(name, samples, modality_of(name))))
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
    return Compressed(message.stream, message.info, _codes(message.codes), tuple(getattr(message, "warnings", ())))


def _decompressed(message: pb.DecompressResponse) -> Decompressed:
    raster = message.raster.bands
    place: Place | None = None
    if raster.HasField("georeference"):
        a, b, c, d, e, f = raster.georeference.transform
        place = (raster.georeference.crs, (a, b, c, d, e, f))
    return Decompressed(
        {b.name: band_samples(b) for b in raster.bands},
        raster.patch_id,
        place,
        {b.name: b.nodata for b in raster.bands if b.HasField("nodata")},
        {b.name: (b.scale, b.offset) for b in raster.bands if b.HasField("scale")},
        {b.name: _mask(b) for b in raster.bands if b.valid},
        tuple(message.warnings),
    )


def _mask(band: pb.Band) -> npt.NDArray[np.bool_]:
    bits = np.unpackbits(np.frombuffer(band.valid, dtype=np.uint8), count=band.height * band.width)
    return bits.reshape(band.height, band.width).astype(bool)
