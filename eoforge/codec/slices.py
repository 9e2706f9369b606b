"""Slices of files as lazily read bytes, so that the stream of a large raster is never in memory as a whole."""

from __future__ import annotations

import os
from typing import BinaryIO


class FileSlice:
    """Lazy slice of a file: slicing reads nothing, as with a memoryview; ``bytes()`` reads.

    Args:
        file: Seekable file, open for reading.
        start: First byte.
        length: Number of bytes; None for all bytes up to the end.
    """

    def __init__(self, file: BinaryIO, start: int = 0, length: int | None = None) -> None:
        self._file, self._start = file, start
        self._length = file.seek(0, os.SEEK_END) - start if length is None else length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, span: slice) -> FileSlice:
        start, stop, _ = span.indices(self._length)
        return FileSlice(self._file, self._start + start, max(0, stop - start))

    def __bytes__(self) -> bytes:
        self._file.seek(self._start)
        return self._file.read(self._length)


Stream = bytes | FileSlice
"""Stream in memory or in a file."""
