"""The official tar files where they lie, on a disk or an object store: read once forwards, then by ranges of bytes."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, Protocol, cast

from eoforge.data.archives.layout import MAP_FOLDER, S1_FOLDER, S2_FOLDER
from eoforge.errors import DataRefused
from eoforge.storage.addresses import is_s3
from eoforge.storage.objects import ObjectStore

ADVICE = "Download it again and compare its md5 with the published one."
_KINDS = (S2_FOLDER, S1_FOLDER, MAP_FOLDER)
_CHUNK = 1 << 20
# tarfile reads extended headers whole, at the size they claim; real ones hold one path.
_MAX_HEADER_BYTES = 1 << 20
# zstd -6 uses 4 MiB; a stream may ask for more, but not for all memory.
_MAX_ZSTD_WINDOW = 1 << 27

ReadRange = Callable[[int, int], bytes]
"""``(offset, size)`` to bytes; safe to call from several threads."""


class TarFile(Protocol):
    """A ``.tar`` or ``.tar.zst``.

    Attributes:
        name: File name.
        uri: Where it is, for messages.
        seekable: Whether skipping is cheaper than reading on.
    """

    name: str
    uri: str
    seekable: bool

    def state(self) -> tuple[int, str]:
        """Its size in bytes, and a text that changes when the file does."""

    def open(self) -> IO[bytes]:
        """Its bytes from the start."""

    def reader(self) -> ReadRange:
        """Opens it for reading at any place."""


class LocalTar:
    """A file on a disk."""

    seekable = True

    def __init__(self, path: Path) -> None:
        self._path, self.name, self.uri = path, path.name, str(path)

    def state(self) -> tuple[int, str]:
        """See :class:`TarFile`."""
        found = self._path.stat()
        return found.st_size, f"{self._path.absolute()}\0{found.st_size}\0{found.st_mtime_ns}"

    def open(self) -> IO[bytes]:
        """See :class:`TarFile`."""
        return open(self._path, "rb")

    def reader(self) -> ReadRange:
        """See :class:`TarFile`."""
        descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        return lambda offset, size: os.pread(descriptor, size, offset)


class StoredTar:
    """An object below an ``s3://`` prefix."""

    seekable = False

    def __init__(self, store: ObjectStore, key: str) -> None:
        self._store, self._key = store, key
        self.name, self.uri = key.rpartition("/")[2], f"{store.root}/{key}"

    def state(self) -> tuple[int, str]:
        """See :class:`TarFile`."""
        size, tag = self._store.stamp(self._key)
        return size, f"{self.uri}\0{size}\0{tag}"

    def open(self) -> IO[bytes]:
        """See :class:`TarFile`."""
        return self._store.open(self._key)

    def reader(self) -> ReadRange:
        """See :class:`TarFile`."""
        return lambda offset, size: self._store.get_range(self._key, offset, offset + size) if size else b""


def find_tars(folder: str) -> dict[str, TarFile]:
    """The archive files in a folder or below a prefix by kind, ``.tar`` before ``.tar.zst``."""
    found: dict[str, TarFile] = {}
    store = ObjectStore(folder) if is_s3(folder) else None
    for kind in _KINDS:
        for name in (f"{kind}.tar.zst", f"{kind}.tar"):
            if store is not None and store.exists(name):
                found[kind] = StoredTar(store, name)
            elif store is None and (Path(folder) / name).is_file():
                found[kind] = LocalTar(Path(folder) / name)
    return found


class TarBytes(io.RawIOBase):
    """Bytes of a tar for tarfile, read forwards and never more at once than a header may need."""

    def __init__(self, stream: IO[bytes], copy: IO[bytes] | None, seekable: bool) -> None:
        self._stream, self._copy, self._skips = stream, copy, seekable
        self._position = 0
        self.last = b""

    def tell(self) -> int:
        return self._position

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MAX_HEADER_BYTES:
            raise DataRefused(f"a tar header claims {size} bytes, at most {_MAX_HEADER_BYTES}")
        self.last = self._take(size)
        return self.last

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if self._skips:
            self._position = self._stream.seek(offset, whence)
            return self._position
        if offset < self._position or whence != os.SEEK_SET:
            raise io.UnsupportedOperation("this tar is read forwards")
        while self._position < offset and self._take(min(_CHUNK, offset - self._position)):
            pass
        return self._position

    def _take(self, size: int) -> bytes:
        data = self._stream.read(size)
        if self._copy is not None:
            self._copy.write(data)
        self._position += len(data)
        return data


@contextmanager
def tar_bytes(tar: TarFile, payload: Path | None) -> Iterator[TarBytes]:
    """Opens a tar; a compressed one is also written to ``payload`` as it is read."""
    with ExitStack() as stack:
        file: IO[bytes] = stack.enter_context(tar.open())
        if payload is None:
            yield TarBytes(file, None, tar.seekable)
            return
        import zstandard

        stream = zstandard.ZstdDecompressor(max_window_size=_MAX_ZSTD_WINDOW).stream_reader(
            file, read_across_frames=True
        )
        copy = stack.enter_context(open(payload, "wb"))
        try:
            yield TarBytes(cast(Any, stream), copy, False)
        except zstandard.ZstdError as error:
            raise DataRefused(f"{tar.uri}: damaged or no Zstandard file: {error}. {ADVICE}") from error
