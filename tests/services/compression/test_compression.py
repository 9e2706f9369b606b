"""The compression service over a real server: every call, both kinds of streams, both forms of pixels, refusals."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import rasterio
from rasterio.io import MemoryFile

from eoforge.api.compression.v1 import compression_pb2 as pb
from eoforge.api.compression.v1 import compression_pb2_grpc
from eoforge.client import CompressionClient, RemoteError, RemoteNotFound, RemoteRefused
from eoforge.codec.cog import write_cogs
from eoforge.codec.container import inspect
from eoforge.codec.learned.rate import psnr
from eoforge.codec.raster import Raster
from eoforge.errors import UsageError
from services.compression.rasters import raster_message, raster_of
from tests.services.compression.fixtures import BITS, CompressionFixture, compression_server, same
from tests.services.support import Running, details, running

LOSSLESS = (0, 0.0)


@pytest.fixture(scope="module")
def server(archive: CompressionFixture) -> Iterator[Running]:
    with running(compression_server(archive, max_pixels=1 << 16, max_raster_bytes=1 << 20)) as run:
        yield run


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[CompressionClient]:
    with CompressionClient(server.target, attempts=1) as client:
        yield client


@pytest.fixture(scope="module")
def stub(server: Running) -> Iterator[Any]:
    with grpc.insecure_channel(server.target) as channel:
        yield compression_pb2_grpc.CompressionServiceStub(channel)


def place(raster: Raster) -> Any:
    assert raster.georeference is not None
    return raster.georeference.crs, raster.georeference.transform


def test_a_stream_equals_that_of_the_codec(client: CompressionClient, archive: CompressionFixture) -> None:
    raster = archive.raster(0)
    codec = archive.codecs.coder.named()
    for quality in (0.0, 2.5, 7.0):
        made = client.compress(raster.bands, patch_id=raster.patch_id, place=place(raster), quality=quality)
        assert made.stream == codec.compress([raster], quality)[0]
        assert (made.info.kind, made.info.quality, made.info.codec) == (
            pb.STREAM_KIND_LEARNED,
            quality,
            archive.bundle.short_id,
        )
        back = client.decompress(made.stream)
        assert same(back.bands, codec.decompress([made.stream])[0].bands)
        assert (back.patch_id, back.place) == (raster.patch_id, place(raster))


def test_codes_are_stored_and_recomputed_without_pixels(client: CompressionClient, archive: CompressionFixture) -> None:
    raster = archive.raster(1)
    made = client.compress(raster.bands, quality=3)
    assert set(made.codes) == {("s1", 0), ("s2", 0)}
    assert {len(code) for code in made.codes.values()} == {BITS // 8}
    assert client.hash_stream(made.stream) == made.codes


@pytest.mark.parametrize("bound", [LOSSLESS, (8, 0.25)])
def test_bounded_streams_need_no_model_and_keep_their_bound(
    client: CompressionClient, archive: CompressionFixture, bound: tuple[int, float]
) -> None:
    raster = archive.raster(2)
    made = client.compress(raster.bands, max_error=bound)
    assert (made.info.kind, made.info.codec, made.codes) == (pb.STREAM_KIND_BOUNDED, "", {})
    assert (made.info.max_error.s2, made.info.max_error.s1) == bound
    back = client.decompress(made.stream).bands
    if bound == LOSSLESS:
        assert same(back, raster.bands)
    for band, pixels in raster.bands.items():
        error = np.abs(back[band].astype(np.float64) - pixels.astype(np.float64)).max()
        assert error <= (bound[1] if pixels.dtype.kind == "f" else bound[0]), band


def test_geotiffs_in_and_out(client: CompressionClient, archive: CompressionFixture) -> None:
    raster = archive.raster(3)
    files = list(write_cogs(raster).values())
    made = client.compress(geotiff=files, patch_id=raster.patch_id, max_error=LOSSLESS)
    assert (made.info.georeference.crs, tuple(made.info.georeference.transform)) == place(raster)
    assert client.decompress(made.stream).patch_id == raster.patch_id
    found: dict[str, Any] = {}
    for content in client.decompress_geotiff(made.stream):
        with MemoryFile(content) as memory, memory.open() as source:
            assert source.crs.to_string() == place(raster)[0]
            assert source.transform.c == place(raster)[1][2]
            assert source.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
            found |= {name: source.read(i + 1) for i, name in enumerate(source.descriptions)}
    assert set(found) == set(raster.bands)
    assert all((found[b] == pixels).all() for b, pixels in raster.bands.items())


def test_marks_of_pixels_come_back_in_both_forms(client: CompressionClient, archive: CompressionFixture) -> None:
    pixels = archive.raster(3).bands["B04"].copy()
    pixels[:5] = 777
    mask = np.arange(pixels.size).reshape(pixels.shape) % 7 > 0
    with MemoryFile() as memory:
        with (
            rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
            memory.open(driver="GTiff", height=120, width=120, count=1, dtype="uint16", nodata=777) as sink,
        ):
            sink.descriptions, sink.scales, sink.offsets = ("B04",), (1e-4,), (-0.1,)
            sink.update_tags(A="x")
            sink.update_tags(ns="mine", b="y")
            sink.write(pixels, 1)
            sink.write_mask(mask)
        content = bytes(memory.read())
    made = client.compress(geotiff=content, max_error=(9, 0.0))
    assert made.warnings == ("metadata of B04 in the domains mine",)
    back = client.decompress(made.stream)
    assert (back.nodata, back.scale) == ({"B04": 777.0}, {"B04": (1e-4, -0.1)})
    np.testing.assert_array_equal(back.valid["B04"], mask)
    np.testing.assert_array_equal(back.bands["B04"] == 777, pixels == 777)
    assert back.warnings == ("s2_10m: tags A; PIXEL_FORMAT_GEOTIFF has them",)
    [file] = client.decompress_geotiff(client.transcode(made.stream, max_error=(1, 0.0)).stream)
    with MemoryFile(file) as memory, memory.open() as source:
        np.testing.assert_array_equal(source.read_masks(1) != 0, mask)
        assert (source.nodata, source.scales, source.tags()["A"]) == (777, (1e-4,), "x")

    samples = pixels.astype("<u2").tobytes()
    band = {"name": "B04", "height": 120, "width": 120, "samples": samples, "nodata": 777.0}
    message = pb.Raster(bands=pb.BandRaster(bands=[pb.Band(**band, valid=np.packbits(mask).tobytes())]))
    raster, lost = raster_of(message, 1 << 22, 1 << 22, exact=True)
    assert lost == ()
    again, _ = raster_message(raster, pb.PIXEL_FORMAT_BANDS)
    assert again == message
    short = pb.Raster(bands=pb.BandRaster(bands=[pb.Band(**band, valid=b"x")]))
    with pytest.raises(UsageError, match="mask of B04 of 120 x 120 samples needs 1800 bytes; got 1"):
        raster_of(short, 1 << 22, 1 << 22, exact=True)


def test_bands_resampled_to_10_m_become_native_again(client: CompressionClient, archive: CompressionFixture) -> None:
    raster = archive.raster(4)
    names = ("B02", "B05", "B09")
    full = [np.kron(raster.bands[n], np.ones((120 // len(raster.bands[n]),) * 2, dtype=np.uint16)) for n in names]
    made = client.compress(geotiff=geotiff(dict(zip(names, full, strict=True))), max_error=LOSSLESS)
    back = client.decompress(made.stream).bands
    assert {b: p.shape for b, p in back.items()} == {"B02": (120, 120), "B05": (60, 60), "B09": (20, 20)}
    assert all((back[b] == raster.bands[b]).all() for b in names)
    blurred = full[1].copy()
    blurred[0, 0] += 1  # an interpolation: averaging it back would break the promised bound
    with pytest.raises(RemoteRefused, match="interpolated"):
        client.compress(geotiff=geotiff({"B02": full[0], "B05": blurred}), max_error=LOSSLESS)


def geotiff(bands: dict[str, Any], *, names: bool = True) -> bytes:
    first = next(iter(bands.values()))
    profile = {"height": first.shape[0], "width": first.shape[1], "count": len(bands), "dtype": first.dtype}
    with MemoryFile() as memory:
        with memory.open(driver="GTiff", **profile) as sink:
            for index, (name, pixels) in enumerate(bands.items(), start=1):
                sink.write(pixels, index)
                if names:
                    sink.set_band_description(index, name)
        return bytes(memory.read())


def test_targets_select_the_quality(client: CompressionClient, archive: CompressionFixture) -> None:
    raster = archive.raster(5)
    optical = raster.only("s2")
    low = client.compress(optical.bands, quality=1).info.bits_per_pixel
    made = client.compress(optical.bands, bits_per_pixel=low)
    assert 1 <= made.info.quality < 7
    assert made.info.bits_per_pixel <= low
    wanted = psnr(optical, archive.codecs.coder.decompress([client.compress(optical.bands, quality=4).stream])[0])
    reached = client.compress(optical.bands, psnr=wanted - 0.01)
    assert reached.info.quality <= 4
    assert psnr(optical, archive.codecs.coder.decompress([reached.stream])[0]) >= wanted - 0.01
    with pytest.raises(RemoteRefused, match="cannot be met"):
        client.compress(optical.bands, bits_per_pixel=0.001)


def test_inspect_reads_the_header_alone(client: CompressionClient, archive: CompressionFixture) -> None:
    raster = archive.raster(0)
    made = client.compress(raster.bands, patch_id=raster.patch_id, place=place(raster), quality=3)
    header = inspect(made.stream)
    info = client.inspect(made.stream)
    assert (tuple(info.bands), (info.height, info.width), info.patch_id) == (
        header.bands,
        header.shape,
        raster.patch_id,
    )
    assert (info.codes, info.code_bits, info.stream_bytes) == (2, BITS, len(made.stream))
    assert math.isclose(info.bits_per_sample, 8 * len(made.stream) / sum(p.size for p in raster.bands.values()))
    payload_damaged = bytearray(made.stream)
    payload_damaged[len(payload_damaged) // 2] ^= 255
    assert client.inspect(bytes(payload_damaged)) == info, "the payload is not looked at"


def test_no_header_is_read_on_the_event_loop(
    stub: Any, archive: CompressionFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The profile in a header may have a MiB of text: 256 streams in one request would be seconds of everybody's."""
    loops: list[bool] = []

    def recorded(*args: Any) -> Any:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            loops.append(False)
        else:
            loops.append(True)
        return inspect(*args)

    stream = archive.codecs.coder.named().compress([archive.raster(0)], 3)[0]
    monkeypatch.setattr("services.compression.work.inspect", recorded)
    stub.Inspect(pb.InspectRequest(stream=stream), timeout=60)
    stub.Decompress(pb.DecompressRequest(stream=stream), timeout=60)
    stub.HashStream(pb.HashStreamRequest(stream=stream), timeout=60)
    stub.Transcode(pb.TranscodeRequest(stream=stream), timeout=60)
    assert len(loops) >= 4
    assert not any(loops)


def test_transcode_is_decode_then_encode(client: CompressionClient, archive: CompressionFixture) -> None:
    coder = archive.codecs.coder
    made = client.compress(archive.raster(6).bands, quality=6)
    lower = client.transcode(made.stream, quality=1)
    assert lower.stream == coder.named().compress(coder.decompress([made.stream]), 1)[0]
    assert len(lower.stream) < len(made.stream)
    exact = client.transcode(made.stream, max_error=LOSSLESS)
    assert same(client.decompress(exact.stream).bands, client.decompress(made.stream).bands)
    searchable = client.transcode(exact.stream, quality=6)
    assert (searchable.info.kind, len(searchable.codes)) == (pb.STREAM_KIND_LEARNED, 2)


def test_codecs_are_listed(client: CompressionClient, stub: Any, archive: CompressionFixture) -> None:
    learned, bounded = client.codecs()
    assert (learned.name, learned.bundle_id, learned.method) == (archive.bundle.short_id, archive.bundle.id, "rs_jcif")
    assert (learned.max_quality, learned.code_bits, len(learned.bands)) == (7, BITS, 2)
    assert (bounded.name, bounded.bundle_id, bounded.kind) == ("bounded", "", pb.STREAM_KIND_BOUNDED)
    with pytest.raises(grpc.RpcError) as caught:
        stub.ListCodecs(pb.ListCodecsRequest(page_token="x"), timeout=60)
    assert details(caught.value)["reason"] == "INVALID_ARGUMENT"


def test_streams_answer_in_order_and_survive_bad_requests(
    client: CompressionClient, archive: CompressionFixture
) -> None:
    rasters = [(f"patch {i}", archive.raster(i % len(archive.pairs)).bands) for i in range(20)]
    rasters[3] = ("patch 3", {"B02": np.zeros((0, 0), np.uint16)})
    made = list(client.compress_many(rasters, quality=3, timeout=60))
    assert [name for name, _ in made] == [name for name, _ in rasters]
    assert [i for i, (_, answer) in enumerate(made) if isinstance(answer, RemoteError)] == [3]
    streams = [(name, b"no stream" if isinstance(a, RemoteError) else a.stream) for name, a in made]
    damaged = bytearray(streams[5][1])
    damaged[-9] ^= 1
    streams[5] = (streams[5][0], bytes(damaged))
    back = list(client.decompress_many(streams, timeout=60))
    assert [name for name, _ in back] == [name for name, _ in streams]
    for i, (name, answer) in enumerate(back):
        if i in (3, 5):
            assert isinstance(answer, RemoteError), name
            assert answer.remote_reason == "DATA_REFUSED"
        else:
            assert not isinstance(answer, RemoteError), name
            assert same(answer.bands, archive.codecs.coder.decompress([streams[i][1]])[0].bands)


def test_a_correlation_id_is_bounded(stub: Any) -> None:
    [answer] = stub.DecompressStream(iter([pb.DecompressStreamRequest(correlation_id="x" * 200)]), timeout=60)
    assert (answer.error.reason, len(answer.correlation_id)) == ("LIMIT_EXCEEDED", 128)


def refused(stub: Any, request: Any) -> dict[str, Any]:
    kind = type(request).__name__.removesuffix("Request")
    with pytest.raises(grpc.RpcError) as caught:
        getattr(stub, kind)(request, timeout=60)
    assert caught.value.code() is not grpc.StatusCode.INTERNAL
    return details(caught.value) | {"text": caught.value.details()}


def band(name: str = "B02", side: int = 12, samples: bytes | None = None) -> pb.Band:
    return pb.Band(name=name, height=side, width=side, samples=samples if samples is not None else bytes(2 * side**2))


def compress_request(*bands: pb.Band, **values: Any) -> pb.CompressRequest:
    return pb.CompressRequest(raster=pb.Raster(bands=pb.BandRaster(bands=bands)), **values)


def test_refusals_and_their_reasons(stub: Any, archive: CompressionFixture) -> None:
    lossless = pb.Rate(max_error=pb.MaxError())
    stream = archive.codecs.coder.named().compress([archive.raster(0)], 3)[0]
    bounded = stub.Compress(compress_request(band(), rate=lossless), timeout=60).stream
    other = bytearray(stream)
    start = stream.index(bytes.fromhex(archive.bundle.short_id))
    other[start] ^= 255
    large = b"EOFC" + stream[4:10] + b"\xff\xff\xff\x00" * 2 + stream[18:]
    tiff = geotiff({"B02": np.ones((12, 12), np.uint16)}, names=False)
    nan = band("VV", 12, np.full((12, 12), np.nan, "<f4").tobytes())
    sent = {
        "empty": (pb.CompressRequest(), "INVALID_ARGUMENT"),
        "no bands": (compress_request(), "LIMIT_EXCEEDED"),
        "unknown band": (compress_request(band("B10")), "INVALID_ARGUMENT"),
        "band twice": (compress_request(band(), band()), "INVALID_ARGUMENT"),
        "bytes that do not fill the band": (compress_request(band(samples=b"12")), "INVALID_ARGUMENT"),
        "grids that do not belong together": (compress_request(band(), band("B05", 12)), "DATA_REFUSED"),
        "too many pixels": (compress_request(band(side=300)), "LIMIT_EXCEEDED"),
        "negative quality": (compress_request(band(), rate=pb.Rate(quality=-1)), "INVALID_ARGUMENT"),
        "quality beyond the last": (compress_request(band(), rate=pb.Rate(quality=8)), "INVALID_ARGUMENT"),
        "no number": (compress_request(band(), rate=pb.Rate(psnr=math.nan)), "INVALID_ARGUMENT"),
        "negative bound": (compress_request(band(), rate=pb.Rate(max_error=pb.MaxError(s1=-1))), "INVALID_ARGUMENT"),
        "unknown codec": (compress_request(band(), codec="feedfeedfeedfeed"), "NOT_FOUND"),
        "not finite": (compress_request(nan), "DATA_REFUSED"),
        "a GeoTIFF without names": (tiff_request(tiff), "INVALID_ARGUMENT"),
        "no GeoTIFF": (tiff_request(b"II*\0 nothing more"), "DATA_REFUSED"),
        "empty file": (tiff_request(b""), "DATA_REFUSED"),
        "too many bytes": (tiff_request(bytes(2 << 20)), "LIMIT_EXCEEDED"),
        "long name": (tiff_request(tiff, patch_id="x" * 200), "LIMIT_EXCEEDED"),
        "no stream": (pb.DecompressRequest(stream=b"GIF89a"), "DATA_REFUSED"),
        "truncated": (pb.DecompressRequest(stream=stream[:-20]), "DATA_REFUSED"),
        "another bundle": (pb.DecompressRequest(stream=bytes(other)), "NOT_FOUND"),
        "claims 4,096 megapixels": (pb.DecompressRequest(stream=large), "LIMIT_EXCEEDED"),
        "unknown form": (pb.DecompressRequest(stream=bounded, format=7), "INVALID_ARGUMENT"),
        "code of a bounded stream": (pb.HashStreamRequest(stream=bounded), "DATA_REFUSED"),
        "header of nothing": (pb.InspectRequest(), "DATA_REFUSED"),
        "transcode of nothing": (pb.TranscodeRequest(stream=b"EOFC"), "DATA_REFUSED"),
    }
    for name, (request, reason) in sent.items():
        found = refused(stub, request)
        assert (found["reason"], found["domain"]) == (reason, "eoforge"), (name, found)
    with pytest.raises(grpc.RpcError) as caught:
        stub.Decompress(pb.DecompressRequest(stream=bytes(65 << 20)), timeout=60)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def tiff_request(content: bytes, patch_id: str = "") -> pb.CompressRequest:
    file = pb.GeoTiffFile(content=content)
    return pb.CompressRequest(raster=pb.Raster(geotiff=pb.GeoTiffRaster(files=[file], patch_id=patch_id)))


def test_refusals_by_the_client(client: CompressionClient, archive: CompressionFixture) -> None:
    with pytest.raises(UsageError, match="exactly one"):
        client.compress()
    with pytest.raises(UsageError, match="at most one"):
        client.compress(archive.raster(0).bands, quality=1, psnr=40)
    with pytest.raises(UsageError, match="uint16"):
        client.compress({"B02": np.zeros((12, 12))})
    with pytest.raises(RemoteNotFound):
        client.compress(archive.raster(0).bands, codec="feedfeedfeedfeed")


def test_without_a_bundle_there_are_bounded_streams(archive: CompressionFixture) -> None:
    from services.compression.settings import CompressionSettings
    from services.compression.state import load

    bare = CompressionFixture(archive.bundle, load(CompressionSettings()), archive.pairs)
    raster = archive.raster(0)
    with running(compression_server(bare)) as run, CompressionClient(run.target, attempts=1) as client:
        assert [codec.name for codec in client.codecs()] == ["bounded"]
        made = client.compress(raster.bands, max_error=LOSSLESS)
        assert same(client.decompress(made.stream).bands, raster.bands)
        for call in (
            lambda: client.compress(raster.bands),
            lambda: client.decompress(archive.codecs.coder.named().compress([raster], 3)[0]),
        ):
            with pytest.raises(RemoteNotFound, match="bundle"):
                call()
