"""Learned streams: containers of coded pieces, patches in batches and large rasters tile by tile."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from eoforge.codec import tiles, validity
from eoforge.codec.container import DIGEST_BYTES, Container, Header, Kind, Limits, pack, unpack
from eoforge.codec.learned import pieces
from eoforge.codec.learned.config import QUALITY_FRACTIONS
from eoforge.codec.learned.network import CodecNetwork
from eoforge.codec.learned.pieces import PieceSpec
from eoforge.codec.raster import Masks, Raster
from eoforge.codec.slices import Stream
from eoforge.codec.writer import StreamWriter
from eoforge.errors import BundleError, DataRefused, UsageError

BATCH = 32
"""Patches per batch: larger batches are no faster on a CPU and need more memory."""


def compress(codec: CodecNetwork, rasters: Sequence[Raster], quality: float) -> list[bytes]:
    """Compression of rasters to one stream each; rasters of equal bands and shape share a batch."""
    streams: dict[int, bytes] = {}
    for i, raster in enumerate(rasters):
        if tiles.is_tiled(raster.shape):
            with io.BytesIO() as file:
                write(codec, raster, quality, file)
                streams[i] = file.getvalue()
    specs = {i: _spec(r.bands, r.shape, quality) for i, r in enumerate(rasters) if i not in streams}
    for spec, chosen in _batches(specs):
        covered = {i: validity.cover(_header(codec, rasters[i], quality, 0), rasters[i]) for i in chosen}
        coded = pieces.encode(codec, [raster for raster, _ in covered.values()], spec)
        for (i, (raster, section)), piece in zip(covered.items(), coded, strict=True):
            header = _header(codec, raster, quality, len(piece.codes))
            streams[i] = pack(header, section + piece.payload, b"".join(piece.codes))
    return [streams[i] for i in range(len(rasters))]


def write(
    codec: CodecNetwork,
    source: tiles.Source,
    quality: float,
    file: BinaryIO,
    tile: int | None = None,
    overlap: int = tiles.OVERLAP,
) -> Header:
    """Compression of a raster into a file; of a large raster, one window of pixels is in memory at a time.

    Args:
        codec: Network with integer tables.
        source: Raster, or another reader of windows.
        quality: Quality, as for ``Codec.compress``.
        file: Empty file, open for reading and writing.
        tile: Side of a tile in base pixels, a multiple of 6; 0 for no tiles. By default large rasters are tiled.
        overlap: Overlap of a tile with each neighbour in base pixels, a multiple of 6.
    """
    quality = codec.config.require_quality(quality)
    side = tile if tile is not None else tiles.TILE * tiles.is_tiled(source.shape)
    overlap = overlap if side else 0
    header = _header(codec, source, quality, 0, side, overlap)
    writer = StreamWriter(file, header)
    for window in tiles.plan(source.shape, side, overlap):
        given = source.window(window.row, window.column, window.height, window.width)
        raster, section = validity.cover(header, given)
        (piece,) = pieces.encode(codec, [raster], _spec(raster.bands, raster.shape, quality))
        writer.add(section + piece.payload, piece.codes)
    return writer.finish()


def decompress(codec: CodecNetwork, streams: Sequence[Stream], limits: Limits) -> list[Raster]:
    """Decompression to whole rasters, in the order of the streams."""
    containers = [_open(codec, stream, limits) for stream in streams]
    rasters: dict[int, Raster] = {}
    for i, container in enumerate(containers):
        head = container.header
        if head.tile:
            rasters[i] = _raster(head, *tiles.assemble_masked(head.bands, head.shape, _blocks(codec, container)))
    for spec, chosen in _batches(_untiled_specs(containers)):
        parts = [validity.part(containers[i].header, containers[i].payload) for i in chosen]
        decoded = pieces.decode(codec, [payload for _, payload in parts], spec)
        for i, (section, _), bands in zip(chosen, parts, decoded, strict=True):
            head = containers[i].header
            rasters[i] = _raster(head, *validity.restore(head, section, head.shape, bands))
    return [rasters[i] for i in range(len(streams))]


def decompress_blocks(codec: CodecNetwork, stream: Stream, limits: Limits) -> Iterator[tiles.Block]:
    """Decompression of a raster tile by tile, with one tile in memory at a time."""
    yield from _blocks(codec, _open(codec, stream, limits))


def hash_stream(
    codec: CodecNetwork, streams: Sequence[Stream], modality: str | None, limits: Limits
) -> npt.NDArray[np.uint8]:
    """Hash codes ``[B, K / 8]`` computed from the latents; see ``Codec.hash_stream``."""
    containers = [_open(codec, stream, limits) for stream in streams]
    specs = _untiled_specs(containers)
    if len(specs) != len(streams):
        raise UsageError("a tiled stream has one code per tile and sensor: read them with stored_codes")
    codes = np.zeros((len(streams), codec.config.bits // 8), dtype=np.uint8)
    for spec, chosen in _batches(specs):
        sensor = modality or ("s2" if "s2" in spec.modalities else "s1")
        if sensor not in spec.modalities:
            raise UsageError(f"a stream holds {', '.join(spec.modalities)}; it has no code of {modality}")
        payloads = [validity.part(containers[i].header, containers[i].payload)[1] for i in chosen]
        codes[chosen] = pieces.hashes(codec, payloads, spec)[sensor]
    return codes


def stored_codes(stream: Stream, limits: Limits) -> dict[str, npt.NDArray[np.uint8]]:
    """Mapping modality -> hash codes ``[tiles, K / 8]`` stored in a stream; no model is needed.

    Raises:
        DataRefused: The stream is damaged, or its codes are not one per tile and sensor.
    """
    container = unpack(stream, limits)
    head = container.header
    count = len(tiles.plan(head.shape, head.tile, head.overlap)) * len(head.modalities)
    if not head.code_bytes or head.codes != count:
        raise DataRefused(f"expected one code per tile and sensor, {count}; the stream carries {head.codes}")
    codes = np.frombuffer(bytes(container.codes), dtype=np.uint8).reshape(-1, len(head.modalities), head.code_bytes)
    return {modality: codes[:, i] for i, modality in enumerate(head.modalities)}


def _header(
    codec: CodecNetwork, source: tiles.Source, quality: float, codes: int, tile: int = 0, overlap: int = 0
) -> Header:
    return Header(
        Kind.LEARNED,
        tuple(source.bands),
        source.shape,
        source.patch_id,
        source.georeference,
        tile,
        overlap,
        quality,
        bundle=codec.bundle_id[: 2 * DIGEST_BYTES],
        code_bytes=codec.config.bits // 8,
        codes=codes,
        profile=source.profile,
    )


def _open(codec: CodecNetwork, stream: Stream, limits: Limits) -> Container:
    """Container of a stream, checked to be readable by this codec."""
    container = unpack(stream, limits)
    head = container.header
    if head.kind is not Kind.LEARNED:
        raise DataRefused("this stream was made with max_error and needs no codec: read it with bounded.decompress")
    own = codec.bundle_id[: 2 * DIGEST_BYTES]
    if own and head.bundle != own:
        raise BundleError(
            f"the stream was made with bundle {head.bundle or '(none)'}, this codec is {own}. "
            "Load the bundle of the stream"
        )
    for modality in head.modalities:
        pieces.require_ready(codec, modality, head.bands)
    best = codec.config.steps - 1
    if not 0 <= head.quality <= best or pieces.fraction_of(head.quality) / QUALITY_FRACTIONS != head.quality:
        raise DataRefused(f"damaged stream: quality {head.quality} is no multiple of 1/16 from 0 to {best}")
    if head.codes and head.code_bytes != codec.config.bits // 8:
        raise BundleError(f"the stream has codes of {8 * head.code_bytes} bits, this codec makes {codec.config.bits}")
    return container


def _spec(bands: Iterable[str], shape: tuple[int, int], quality: float) -> PieceSpec:
    return PieceSpec(tuple(bands), shape, pieces.fraction_of(quality))


def _untiled_specs(containers: Sequence[Container]) -> dict[int, PieceSpec]:
    """Position -> specification of the streams of one piece; tiled streams are left out."""
    heads = {i: container.header for i, container in enumerate(containers)}
    return {i: _spec(head.bands, head.shape, head.quality) for i, head in heads.items() if not head.tile}


def _batches(specs: Mapping[int, PieceSpec]) -> Iterator[tuple[PieceSpec, list[int]]]:
    """Batches of up to ``BATCH`` positions with equal specification."""
    groups: dict[PieceSpec, list[int]] = {}
    for i, spec in specs.items():
        groups.setdefault(spec, []).append(i)
    for spec, members in groups.items():
        for start in range(0, len(members), BATCH):
            yield spec, members[start : start + BATCH]


def _blocks(codec: CodecNetwork, container: Container) -> Iterator[tiles.Block]:
    head = container.header
    windows = tiles.plan(head.shape, head.tile, head.overlap)
    payloads = tiles.split(container.payload, len(windows)) if head.tile else [container.payload]

    def decoded() -> Iterator[tuple[tiles.Window, bytes, tiles.Pixels]]:
        for window, payload in zip(windows, payloads, strict=True):
            spec = _spec(head.bands, (window.height, window.width), head.quality)
            section, piece = validity.part(head, payload)
            yield window, section, pieces.decode(codec, [piece], spec)[0]

    yield from validity.blocks(head, decoded())


def _raster(head: Header, bands: tiles.Pixels, masks: Masks) -> Raster:
    return Raster(bands, head.shape, head.georeference, head.patch_id, head.profile, masks)
