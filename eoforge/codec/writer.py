"""Writer of streams tile by tile: one tile in memory, and a valid header only after the last tile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import BinaryIO

from eoforge.codec.container import Header, pack_checksum, pack_head
from eoforge.codec.slices import FileSlice
from eoforge.codec.tiles import LENGTH, plan


class StreamWriter:
    """Writer of one stream.

    The header holds lengths that are known at the end only. Until then zeros stand in its place, so that readers
    refuse an unfinished file.

    Args:
        file: Empty seekable file, open for reading and writing.
        header: Header of the stream; its counts of codes and payload bytes are filled in.

    Raises:
        LimitExceeded: A name, a CRS or the raster is larger than the format holds.
    """

    def __init__(self, file: BinaryIO, header: Header) -> None:
        self._file, self._header = file, header
        self._tiles = len(plan(header.shape, header.tile, header.overlap))
        self._lengths: list[int] = []
        self._codes: list[bytes] = []
        table = self._tiles * LENGTH.size if header.tile else 0
        self._file.write(bytes(len(pack_head(header, 0)) + table))

    def add(self, payload: bytes, codes: Sequence[bytes] = ()) -> None:
        """Appends the next tile of ``tiles.plan`` and its hash codes in the order of the modalities."""
        self._file.write(payload)
        self._lengths.append(len(payload))
        self._codes += codes

    def finish(self) -> Header:
        """Writes the hash codes, the header and the checksum.

        Returns:
            Header as written to the file.
        """
        if len(self._lengths) != self._tiles:
            raise AssertionError(f"{len(self._lengths)} of {self._tiles} tiles were written")
        table = b"".join(map(LENGTH.pack, self._lengths)) if self._header.tile else b""
        payload_bytes = len(table) + sum(self._lengths)
        header = replace(self._header, codes=len(self._codes), payload_bytes=payload_bytes)
        self._file.write(b"".join(self._codes))
        self._file.seek(0)
        self._file.write(pack_head(header, payload_bytes) + table)
        checksum = pack_checksum(FileSlice(self._file))
        self._file.write(checksum)
        return header
