"""Access to the official tar files on a disk or an object store: one sequential pass, then byte ranges."""

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
# tarfile allocates extended headers at their claimed size; a real header holds one path.
_MAX_HEADER_BYTES = 1 << 20
# zstd -6 uses windows of 4 MiB; the limit bounds the memory of a hostile stream.
_MAX_ZSTD_WINDOW = 1 << 27
# Official files shrink to a half; a file of zeros, which would fill the disk, to a 30,000th.
_MAX_INFLATION = 100
_MIN_UNPACKED_BYTES = 1 << 30

ReadRange = Callable[[int, int], bytes]
"""Function from ``(offset, size)`` to bytes; safe to call from several threads."""


class TarFile(Protocol):
    """Interface of a ``.tar`` or ``.tar.zst`` file.

    Attributes:
        name: File name.
        uri: Address, for error messages.
        seekable: Whether a seek is cheaper than reading the bytes between.
    """

    name: str
    uri: str
    seekable: bool

    def state(self) -> tuple[int, str]:
        """Size in bytes, and a text that changes when the file changes."""

    def open(self) -> IO[bytes]:
        """Stream of all bytes from the start."""

    def reader(self) -> ReadRange:
        """Function that reads byte ranges of the file."""


class LocalTar:
    """Tar file on a local disk."""

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
    """Tar file below an ``s3://`` prefix."""

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
    """Tar files in a folder or prefix, by the folder that each replaces; ``.tar`` has priority over ``.tar.zst``."""
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
    """File object for ``tarfile`` that reads forwards and refuses reads larger than any valid header."""

    def __init__(self, stream: IO[bytes], copy: IO[bytes] | None, seekable: bool, limit: int | None = None) -> None:
        self._stream, self._copy, self._seekable, self._limit = stream, copy, seekable, limit
        self._position = 0
        self.last_read = b""

    def tell(self) -> int:
        return self._position

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MAX_HEADER_BYTES:
            raise DataRefused(f"a tar header claims {size} bytes, at most {_MAX_HEADER_BYTES}")
        self.last_read = self._take(size)
        return self.last_read

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if self._seekable:
            self._position = self._stream.seek(offset, whence)
            return self._position
        if offset < self._position or whence != os.SEEK_SET:
            raise io.UnsupportedOperation("this tar is read forwards")
        while self._position < offset and self._take(min(_CHUNK, offset - self._position)):
            pass
        return self._position

    def _take(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._position += len(data)
        if self._limit is not None and self._position > self._limit:
            raise DataRefused(
                f"a tar unpacks to more than {self._limit} bytes, beyond the limit of {_MAX_INFLATION} times its size"
            )
        if self._copy is not None:
            self._copy.write(data)
        return data


@contextmanager
def tar_bytes(tar: TarFile, payload: Path | None) -> Iterator[TarBytes]:
    """Opened tar file; a compressed one is also written to ``payload`` while it is read."""
    with ExitStack() as stack:
        file: IO[bytes] = stack.enter_context(tar.open())
        if payload is None:
            yield TarBytes(file, None, tar.seekable)
            return
        import zstandard

        stream = zstandard.ZstdDecompressor(max_window_size=_MAX_ZSTD_WINDOW).stream_reader(
            file, read_across_frames=True
        )
        limit = max(_MIN_UNPACKED_BYTES, _MAX_INFLATION * tar.state()[0])
        copy = stack.enter_context(open(payload, "wb"))
        try:
            yield TarBytes(cast(Any, stream), copy, False, limit)
        except zstandard.ZstdError as error:
            if "too much memory" in str(error):  # the only mark of this error
                raise DataRefused(
                    f"{tar.uri}: its Zstandard window is beyond the limit of {_MAX_ZSTD_WINDOW >> 20} MiB. "
                    "Compress it again without a long window (zstd without --long)."
                ) from error
            raise DataRefused(f"{tar.uri}: damaged or no Zstandard file: {error}. {ADVICE}") from error
