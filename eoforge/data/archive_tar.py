"""Archives as they are downloaded: BigEarthNet-S2, BigEarthNet-S1 and Reference_Maps as .tar or .tar.zst.

The tars are read once, from front to back, into an index of where each file's bytes lie; 8.2 million files are never
unpacked. A .tar is indexed where it is; a .tar.zst is decompressed into one .tar on the scratch disk while it is
indexed. After that, joining S1 and S2, which come in different orders, is a look-up. The index is an SQLite file:
bounded memory, built once, shared by all worker processes and by later runs.

Nothing in a tar chooses where we write: members are only ever looked up by name. Links, devices, names that point
outside, and members larger than any raster are refused with the whole archive, for an official one has none.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import shutil
import sqlite3
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from eoforge.data.reben import EXTENSIONS, MAP_FOLDER, MAX_FILE_BYTES, S1_FOLDER, S2_FOLDER, FileArchive, read_file
from eoforge.data.records import PatchMeta, ReadResult
from eoforge.errors import DataRefused, NotFound, StoreError
from eoforge.progress import track

SCRATCH_VARIABLE = "EOFORGE_SCRATCH"
_KINDS = (S2_FOLDER, S1_FOLDER, MAP_FOLDER)
_BLOCK = 512
_CHUNK = 1 << 20
_AGAIN = "Download it again and compare its md5 with the published one."
# tarfile reads extended headers whole, at the size they claim; real ones hold one path.
_MAX_HEADER_BYTES = 1 << 20
# zstd -6 uses 4 MiB; a stream may ask for more, but not for all memory.
_MAX_ZSTD_WINDOW = 1 << 27


def find_tars(folder: Path) -> dict[str, Path]:
    """The archive files in ``folder`` by kind, ``.tar`` before ``.tar.zst``."""
    candidates = {kind: [folder / f"{kind}.tar", folder / f"{kind}.tar.zst"] for kind in _KINDS}
    return {
        kind: next(p for p in paths if p.is_file())
        for kind, paths in candidates.items()
        if any(map(Path.is_file, paths))
    }


class TarArchive(FileArchive):
    """A folder with the official tar files and metadata."""

    def __init__(self, uri: str, *, scratch: str | None = None) -> None:
        super().__init__(uri)
        self._tars = find_tars(Path(self.uri))
        missing = [kind for kind in (S2_FOLDER, S1_FOLDER) if kind not in self._tars]
        if missing:
            raise NotFound(f"expected {' and '.join(f'{kind}.tar or .tar.zst' for kind in missing)} in {self.uri}")
        self._staged: dict[str, _StagedTar] = {}
        self._scratch = Path(scratch or os.environ.get(SCRATCH_VARIABLE) or tempfile.gettempdir())

    def read(self, rows: Sequence[PatchMeta]) -> Iterator[ReadResult]:
        """See :class:`eoforge.data.reben.Archive`. The first call stages the tars, which may take long.

        Raises:
            DataRefused: A tar is truncated, damaged or hostile.
            StoreError: The scratch disk is full or fails.
        """
        # Before any patch is read: a bad tar is not the fault of the patch that asks first.
        self.stage()
        yield from super().read(rows)

    def stage(self) -> None:
        """Indexes the tars, unless that was done before."""
        if not self._staged:
            self._staged = {kind: _stage(tar, self._scratch) for kind, tar in self._tars.items()}

    def fetch(self, path: str, limit: int = MAX_FILE_BYTES) -> bytes | None:
        """See :class:`eoforge.data.reben.FileArchive`."""
        kind, _, rest = path.partition("/")
        if not rest:
            return read_file(f"{self.uri}/{path}", limit)
        staged = self._staged.get(kind)
        return None if staged is None else staged.fetch(_key(path))


@dataclass(frozen=True)
class _StagedTar:
    """An uncompressed tar and its index, opened in the process that reads."""

    payload: int
    index: sqlite3.Connection

    def fetch(self, key: str) -> bytes | None:
        found = self.index.execute("SELECT offset, size FROM files WHERE key = ?", (key,)).fetchone()
        return None if found is None else os.pread(self.payload, found[1], found[0])


def _key(path: str) -> str:
    """File name without extension: unique in an archive, whatever folder a tar puts it into."""
    name = path.rpartition("/")[2]
    return next((name.removesuffix(e) for e in reversed(EXTENSIONS) if name.endswith(e)), name)


def _stage(tar: Path, scratch: Path) -> _StagedTar:
    """Indexes ``tar`` below ``scratch`` unless an earlier run or another process did."""
    state = tar.stat()
    # A replaced or grown file gets another folder, so that an index never meets a tar it was not made of.
    identity = hashlib.sha256(f"{tar.absolute()}\0{state.st_size}\0{state.st_mtime_ns}".encode()).hexdigest()[:16]
    folder = scratch / f"eoforge-{tar.name}-{identity}"
    compressed = tar.suffix == ".zst"
    payload, index = folder / "payload.tar" if compressed else tar, folder / "index.sqlite"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not index.exists():
                free = shutil.disk_usage(folder).free
                if compressed and free < state.st_size:
                    raise StoreError(
                        f"{folder} has {free >> 30} GiB free; unpacking {tar.name} takes more than its "
                        f"{state.st_size >> 30} GiB. Name another disk by ${SCRATCH_VARIABLE}."
                    )
                _build_index(tar, payload if compressed else None, index)
        connection = sqlite3.connect(f"file:{index}?mode=ro", uri=True)
        return _StagedTar(os.open(payload, os.O_RDONLY | os.O_CLOEXEC), connection)
    except (OSError, sqlite3.Error) as error:
        raise StoreError(
            f"cannot stage {tar} in {folder}: {error}. Name another disk by ${SCRATCH_VARIABLE}."
        ) from error


def _build_index(tar: Path, payload: Path | None, index: Path) -> None:
    part = index.with_suffix(".part")
    part.unlink(missing_ok=True)
    connection = sqlite3.connect(part)
    # The index is renamed into place when complete, so it needs no journal of its own.
    connection.execute("PRAGMA journal_mode = OFF")
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("CREATE TABLE files (key TEXT PRIMARY KEY, offset INTEGER, size INTEGER) WITHOUT ROWID")
    with track(f"indexing {tar.name}") as tracker, _source(tar, payload) as source:
        for name, offset, size in _members(source, tar):
            connection.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?)", (_key(name), offset, size))
            tracker.advance()
    connection.commit()
    connection.close()
    part.replace(index)


def _members(source: _Source, tar: Path) -> Iterator[tuple[str, int, int]]:
    """Name, first byte and size of each file in a tar.

    Raises:
        DataRefused: The tar is truncated or damaged, or has a member that no archive of rasters needs.
    """
    try:
        with tarfile.open(fileobj=cast(IO[bytes], source), mode="r:") as opened:
            while (member := opened.next()) is not None:
                # tarfile remembers every member; eight million are a few gigabytes.
                opened.members.clear()  # type: ignore[attr-defined]  # an attribute that typeshed leaves out
                path = PurePosixPath(member.name)
                if (
                    path.is_absolute()
                    or ".." in path.parts
                    or not (member.isdir() or member.isreg())
                    or member.issparse()
                ):
                    raise DataRefused(
                        f"{tar}: member {member.name!r} is a link, device or sparse file, or points outside. {_AGAIN}"
                    )
                if member.size > MAX_FILE_BYTES:
                    raise DataRefused(
                        f"{tar}: member {member.name!r} claims {member.size} bytes, expected at most "
                        f"{MAX_FILE_BYTES}. {_AGAIN}"
                    )
                if member.isreg() and path.suffix in EXTENSIONS:
                    yield member.name, member.offset_data, member.size
    except (tarfile.TarError, UnicodeError) as error:
        raise DataRefused(f"{tar}: truncated or damaged after byte {source.tell()}: {error}. {_AGAIN}") from error
    # tarfile takes a damaged header for the end; the true end is a block of zeros.
    if source.last != bytes(_BLOCK):
        raise DataRefused(f"{tar}: truncated or damaged at byte {source.tell()}. {_AGAIN}")


class _Source(io.RawIOBase):
    """Bytes of a tar for tarfile, read forwards and never more at once than a header may need."""

    def __init__(self, stream: IO[bytes], copy: IO[bytes] | None) -> None:
        self._stream = stream
        self._copy = copy
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
        if self._copy is None:
            self._position = self._stream.seek(offset, whence)
            return self._position
        if offset < self._position or whence != os.SEEK_SET:
            raise io.UnsupportedOperation("a compressed tar is read forwards")
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
def _source(tar: Path, payload: Path | None) -> Iterator[_Source]:
    """Opens a tar; a compressed one is also written to ``payload`` as it is read."""
    with ExitStack() as stack:
        file: IO[bytes] = stack.enter_context(open(tar, "rb"))
        if payload is None:
            yield _Source(file, None)
            return
        import zstandard

        stream = zstandard.ZstdDecompressor(max_window_size=_MAX_ZSTD_WINDOW).stream_reader(
            file, read_across_frames=True
        )
        copy = stack.enter_context(open(payload, "wb"))
        try:
            yield _Source(cast(Any, stream), copy)
        except zstandard.ZstdError as error:
            raise DataRefused(f"{tar}: damaged or no Zstandard file: {error}. {_AGAIN}") from error
