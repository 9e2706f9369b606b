"""Parts of streams that lie in files, read when they are looked at: a whole tile's stream never is in memory."""

from __future__ import annotations

import os
from typing import BinaryIO


class FilePart:
    """A span of a file. Cutting it reads nothing, as with a memoryview; ``bytes`` reads it.

    Args:
        file: Open for reading, and seekable.
        start: First byte.
        length: Number of bytes; up to the end if None.
    """

    def __init__(self, file: BinaryIO, start: int = 0, length: int | None = None) -> None:
        self._file, self._start = file, start
        self._length = file.seek(0, os.SEEK_END) - start if length is None else length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, span: slice) -> FilePart:
        start, stop, _ = span.indices(self._length)
        return FilePart(self._file, self._start + start, max(0, stop - start))

    def __bytes__(self) -> bytes:
        self._file.seek(self._start)
        return self._file.read(self._length)


Stream = bytes | FilePart
"""A stream in memory or in a file."""
