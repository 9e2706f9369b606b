"""Learned streams: pieces under a header, whole patches in batches, large rasters tile by tile."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import numpy.typing as npt

from eoforge.codec import tiles
from eoforge.codec.container import DIGEST_BYTES, Container, Header, Kind, Limits, pack, unpack
from eoforge.codec.learned import pieces
from eoforge.codec.learned.config import QUALITY_FRACTIONS
from eoforge.codec.learned.pieces import Layout
from eoforge.codec.parts import Stream
from eoforge.codec.raster import Raster
from eoforge.codec.writer import StreamWriter
from eoforge.errors import BundleError, DataRefused, UsageError

if TYPE_CHECKING:
    from eoforge.codec.learned.model import Codec

BATCH = 32
"""Patches that are coded at once: more makes a CPU no faster and costs memory."""


def compress(codec: Codec, rasters: Sequence[Raster], quality: float) -> list[bytes]:
    """One stream each; equal layouts go through the network together."""
    streams: dict[int, bytes] = {}
    for (bands, shape), members in pieces.group_by_layout(rasters).items():
        if tiles.is_tiled(shape):
            for i in members:
                with io.BytesIO() as file:
                    write(codec, rasters[i], quality, file)
                    streams[i] = file.getvalue()
            continue
        layout = Layout(bands, shape, pieces.fraction_of(quality))
        for start in range(0, len(members), BATCH):
            chosen = members[start : start + BATCH]
            coded = pieces.encode(codec, [rasters[i] for i in chosen], layout)
            for i, piece in zip(chosen, coded, strict=True):
                header = _header(codec, rasters[i], quality, len(piece.codes))
                streams[i] = pack(header, piece.payload, b"".join(piece.codes))
    return [streams[i] for i in range(len(rasters))]


def write(
    codec: Codec,
    source: tiles.Source,
    quality: float,
    file: BinaryIO,
    tile: int | None = None,
    overlap: int = tiles.OVERLAP,
) -> Header:
    """Writes the stream of a raster into a file; of a large one, only a window of pixels is in memory at a time.

    Args:
        codec: With integer tables.
        source: A raster, or anything that reads windows.
        quality: As for ``Codec.compress``.
        file: Empty, open for reading and writing.
        tile: Side of a tile in base pixels, a multiple of 6; 0 for none. By default large rasters are cut.
        overlap: Base pixels that a tile reaches into each neighbour, a multiple of 6.
    """
    quality = codec.config.require_quality(quality)
    side = tile if tile is not None else tiles.TILE * tiles.is_tiled(source.shape)
    overlap = overlap if side else 0
    writer = StreamWriter(file, _header(codec, source, quality, 0, side, overlap))
    for window in tiles.plan(source.shape, side, overlap):
        raster = source.window(window.row, window.column, window.height, window.width)
        layout = Layout(tuple(raster.bands), raster.shape, pieces.fraction_of(quality))
        (piece,) = pieces.encode(codec, [raster], layout)
        writer.add(piece.payload, piece.codes)
    return writer.finish()


def decompress(codec: Codec, streams: Sequence[Stream], limits: Limits) -> list[Raster]:
    """Rasters in the order of the streams."""
    containers = [_open(codec, stream, limits) for stream in streams]
    rasters: dict[int, Raster] = {}
    for layout, members in _by_layout(containers).items():
        for start in range(0, len(members), BATCH):
            chosen = members[start : start + BATCH]
            decoded = pieces.decode(codec, [bytes(containers[i].payload) for i in chosen], layout)
            rasters.update({i: _raster(containers[i].header, bands) for i, bands in zip(chosen, decoded, strict=True)})
    for i, container in enumerate(containers):
        if i not in rasters:
            head = container.header
            rasters[i] = _raster(head, tiles.assemble(head.bands, head.shape, _blocks(codec, container)))
    return [rasters[i] for i in range(len(streams))]


def decompress_blocks(codec: Codec, stream: Stream, limits: Limits) -> Iterator[tiles.Block]:
    """A raster tile by tile, of which one at a time is in memory."""
    yield from _blocks(codec, _open(codec, stream, limits))


def hash_stream(codec: Codec, streams: Sequence[Stream], modality: str | None, limits: Limits) -> npt.NDArray[np.uint8]:
    """Codes ``[B, K / 8]`` made anew from the latents; see ``Codec.hash_stream``."""
    containers = [_open(codec, stream, limits) for stream in streams]
    codes = np.zeros((len(streams), codec.config.bits // 8), dtype=np.uint8)
    groups = _by_layout(containers)
    if sum(map(len, groups.values())) != len(streams):
        raise UsageError("a tiled stream has one code per tile and sensor: read them with stored_codes")
    for layout, members in groups.items():
        chosen_modality = modality or ("s2" if "s2" in layout.modalities else "s1")
        if chosen_modality not in layout.modalities:
            raise UsageError(f"a stream holds {', '.join(layout.modalities)}; it has no code of {modality}")
        for start in range(0, len(members), BATCH):
            chosen = members[start : start + BATCH]
            found = pieces.hashes(codec, [bytes(containers[i].payload) for i in chosen], layout)
            codes[chosen] = found[chosen_modality]
    return codes


def stored_codes(stream: Stream, limits: Limits) -> dict[str, npt.NDArray[np.uint8]]:
    """Modality -> codes ``[tiles, K / 8]`` that a stream carries, without a model.

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


def _header(codec: Codec, source: tiles.Source, quality: float, codes: int, tile: int = 0, overlap: int = 0) -> Header:
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
    )


def _open(codec: Codec, stream: Stream, limits: Limits) -> Container:
    """A stream that this codec can read."""
    container = unpack(stream, limits)
    head = container.header
    if head.kind is not Kind.LEARNED:
        raise DataRefused("this stream was made with max_error and needs no codec: read it with bounded.decompress")
    own = codec.bundle_id[: 2 * DIGEST_BYTES]
    if own and head.bundle != own:
        raise BundleError(f"the stream was made with bundle {head.bundle or '(none)'}, this codec is {own}. Load that")
    for modality in head.modalities:
        pieces.require_ready(codec, modality, head.bands)
    best = codec.config.steps - 1
    if not 0 <= head.quality <= best or pieces.fraction_of(head.quality) / QUALITY_FRACTIONS != head.quality:
        raise DataRefused(f"damaged stream: quality {head.quality} is no multiple of 1/16 from 0 to {best}")
    if head.codes and head.code_bytes != codec.config.bits // 8:
        raise BundleError(f"the stream has codes of {8 * head.code_bytes} bits, this codec makes {codec.config.bits}")
    return container


def _by_layout(containers: Sequence[Container]) -> dict[Layout, list[int]]:
    """Positions of the streams that are one piece, by what they have in common."""
    groups: dict[Layout, list[int]] = {}
    for i, container in enumerate(containers):
        head = container.header
        if not head.tile:
            groups.setdefault(Layout(head.bands, head.shape, pieces.fraction_of(head.quality)), []).append(i)
    return groups


def _blocks(codec: Codec, container: Container) -> Iterator[tiles.Block]:
    head = container.header
    windows = tiles.plan(head.shape, head.tile, head.overlap)
    payloads = tiles.split(container.payload, len(windows)) if head.tile else [container.payload]

    def decoded() -> Iterator[tuple[tiles.Window, tiles.Pixels]]:
        for window, payload in zip(windows, payloads, strict=True):
            layout = Layout(head.bands, (window.height, window.width), pieces.fraction_of(head.quality))
            yield window, pieces.decode(codec, [bytes(payload)], layout)[0]

    yield from tiles.blocks(decoded(), head.shape, head.overlap)


def _raster(head: Header, bands: tiles.Pixels) -> Raster:
    return Raster(bands, head.shape, head.georeference, head.patch_id)
