"""Streams written tile by tile into a file: memory for one tile, and no stream before the last byte is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import BinaryIO

from eoforge.codec.container import Header, pack_checksum, pack_head
from eoforge.codec.parts import FilePart
from eoforge.codec.tiles import LENGTH, plan


class StreamWriter:
    """Writes one stream.

    The header holds lengths that are known at the end only. Until then zeros stand in its place, so that who reads an
    unfinished file is told that it is no stream.

    Args:
        file: Empty, open for reading and writing, and seekable.
        header: Of the stream; its counts of codes and payload bytes are filled in.

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
        """The next tile of ``tiles.plan``, and its hash codes in the order of the modalities."""
        self._file.write(payload)
        self._lengths.append(len(payload))
        self._codes += codes

    def finish(self) -> Header:
        """Writes what was missing.

        Returns:
            The header as it stands in the file.
        """
        if len(self._lengths) != self._tiles:
            raise AssertionError(f"{len(self._lengths)} of {self._tiles} tiles were written")
        table = b"".join(map(LENGTH.pack, self._lengths)) if self._header.tile else b""
        payload_bytes = len(table) + sum(self._lengths)
        header = replace(self._header, codes=len(self._codes), payload_bytes=payload_bytes)
        self._file.write(b"".join(self._codes))
        self._file.seek(0)
        self._file.write(pack_head(header, payload_bytes) + table)
        checksum = pack_checksum(FilePart(self._file))
        self._file.write(checksum)
        return header
