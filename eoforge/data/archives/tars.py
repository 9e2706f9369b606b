"""Archive of the official tar files: BigEarthNet-S2, BigEarthNet-S1 and Reference_Maps as .tar or .tar.zst.

One sequential pass over each tar builds an index of the byte range of each file; the 8.2 million files are never
unpacked. A .tar is indexed in place, on a disk or an object store; a .tar.zst is decompressed into one .tar on the
scratch disk while it is indexed. S1 and S2, which come in different orders, are then joined by look-ups. The index is
an SQLite file: bounded memory, built once, shared by all worker processes and by later runs; with
``EOFORGE_SHARED_SCRATCH`` (``s3://`` or a mounted folder) by all pods.

Member names never choose a path on the disk: members are only looked up by name. Links, devices, names that point
outside the archive, and members larger than any raster refuse the whole archive: an official one has none.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import sqlite3
import tarfile
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, cast

import numpy as np
import numpy.typing as npt

from eoforge.data.archives.base import FileArchive
from eoforge.data.archives.layout import EXTENSIONS, MAX_FILE_BYTES, S1_FOLDER, S2_FOLDER, read_file, read_object
from eoforge.data.archives.metadata import MetadataRows
from eoforge.data.archives.tar_source import (
    ADVICE,
    LocalTar,
    ReadRange,
    StoredTar,
    TarBytes,
    TarFile,
    find_tars,
    tar_bytes,
)
from eoforge.data.records import PatchMeta, ReadResult
from eoforge.errors import DataRefused, NotFound, StoreError
from eoforge.progress import track
from eoforge.storage.addresses import is_s3
from eoforge.storage.objects import ObjectStore

SCRATCH_VARIABLE = "EOFORGE_SCRATCH"
SHARED_VARIABLE = "EOFORGE_SHARED_SCRATCH"
_PAYLOAD, _INDEX, _COMPRESSED = "payload.tar", "index.sqlite", ".zst"
_BLOCK = 512
_CHUNK = 1 << 20


class TarArchive(FileArchive):
    """Archive in a folder or prefix with the official tar files and metadata."""

    def __init__(self, uri: str, *, scratch: str | None = None) -> None:
        super().__init__(uri)
        self._tars = find_tars(self.uri)
        missing = [kind for kind in (S2_FOLDER, S1_FOLDER) if kind not in self._tars]
        if missing:
            raise NotFound(f"expected {' and '.join(f'{kind}.tar or .tar.zst' for kind in missing)} in {self.uri}")
        self._staged: dict[str, _StagedTar] = {}
        self._scratch = Path(scratch or os.environ.get(SCRATCH_VARIABLE) or tempfile.gettempdir())
        shared = os.environ.get(SHARED_VARIABLE)
        self._shared = ObjectStore(shared) if shared else None
        self._store = ObjectStore(self.uri) if is_s3(self.uri) else None
        self.remote = self._store is not None

    def prepare(self) -> None:
        """Stages the tars on the shared scratch, if one is configured."""
        if self._shared is not None:
            self.stage()

    def release(self) -> None:
        """Deletes the unpacked copies on this machine and the files of these tars on the shared scratch."""
        for tar in self._tars.values():
            folder = _folder(tar, self._scratch)
            if self._shared is not None:
                for part in (_INDEX, _PAYLOAD):  # the index first: an index implies a payload
                    self._shared.delete(f"{folder.name}/{part}")
            if tar.name.endswith(_COMPRESSED) and folder.exists():
                with _locked(folder):
                    (folder / _INDEX).unlink(missing_ok=True)
                    (folder / _PAYLOAD).unlink(missing_ok=True)

    def present(self, rows: MetadataRows) -> npt.NDArray[np.bool_]:
        """See :class:`eoforge.data.archives.base.Archive`; stages the tars, as :meth:`read` does."""
        self.stage()
        index = self._staged[S2_FOLDER]
        found = (index.has_any(f"{patch_id}_") for patch_id in rows.table["patch_id"].to_pylist())
        return np.fromiter(found, dtype=bool, count=len(rows))

    def read(self, rows: Sequence[PatchMeta]) -> Iterator[ReadResult]:
        """See :class:`eoforge.data.archives.base.Archive`. The first call stages the tars, which may take long.

        Raises:
            DataRefused: A tar is truncated, damaged or hostile.
            StoreError: The scratch disk is full or fails.
        """
        # Staged before any patch is read: a damaged tar must not count as a defect of the first patch.
        self.stage()
        yield from super().read(rows)

    def stage(self) -> None:
        """Indexes the tars that are not indexed yet."""
        if not self._staged:
            self._staged = {kind: _stage(tar, self._scratch, self._shared) for kind, tar in self._tars.items()}

    def fetch(self, path: str, limit: int = MAX_FILE_BYTES) -> bytes | None:
        """See :class:`eoforge.data.archives.base.FileArchive`."""
        kind, _, rest = path.partition("/")
        if not rest:
            return read_object(self._store, path, limit) if self._store else read_file(f"{self.uri}/{path}", limit)
        staged = self._staged.get(kind)
        return None if staged is None else staged.fetch(_key(path))


class _StagedTar:
    """Uncompressed tar with its index, opened in the process that reads."""

    def __init__(self, read: ReadRange, index: Path) -> None:
        self._read = read
        # Several threads fetch from an object store; a look-up holds the lock for microseconds.
        self._index = sqlite3.connect(f"file:{index}?mode=ro", uri=True, check_same_thread=False)
        self._lock = threading.Lock()

    def fetch(self, key: str) -> bytes | None:
        with self._lock:
            found = self._index.execute("SELECT offset, size FROM files WHERE key = ?", (key,)).fetchone()
        return None if found is None else self._read(found[0], found[1])

    def has_any(self, prefix: str) -> bool:
        """Whether a key starts with this text, whose last character is ``_``."""
        end = prefix[:-1] + chr(ord("_") + 1)
        with self._lock:
            query = "SELECT 1 FROM files WHERE key >= ? AND key < ? LIMIT 1"
            return self._index.execute(query, (prefix, end)).fetchone() is not None


def _key(path: str) -> str:
    """File name without folder and extension, which is unique in an archive."""
    name = path.rpartition("/")[2]
    return next((name.removesuffix(e) for e in reversed(EXTENSIONS) if name.endswith(e)), name)


def _stage(tar: TarFile, scratch: Path, shared: ObjectStore | None) -> _StagedTar:
    """Staged tar; an index of an earlier run, another process or, with ``shared``, another pod is used again."""
    folder = _folder(tar, scratch)
    name, payload, index = folder.name, folder / _PAYLOAD, folder / _INDEX
    compressed = tar.name.endswith(_COMPRESSED)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            if not index.exists() and not (shared and _copy_shared_index(shared, name, payload, index)):
                size, free = tar.state()[0], shutil.disk_usage(folder).free
                if compressed and free < size:
                    raise StoreError(
                        f"{folder} has {free >> 30} GiB free; unpacking {tar.name} takes more than its "
                        f"{size >> 30} GiB. Set ${SCRATCH_VARIABLE} to a folder on another disk."
                    )
                try:
                    _build_index(tar, payload if compressed else None, index)
                except BaseException:
                    payload.unlink(missing_ok=True)  # what was unpacked of a refused tar must not fill the disk
                    raise
                if shared:
                    if compressed:
                        shared.put_file(f"{name}/{_PAYLOAD}", payload)
                    shared.put_file(f"{name}/{_INDEX}", index)  # last: an index implies a complete payload
        source: TarFile = tar
        if compressed:
            source = (
                LocalTar(payload) if payload.exists() or shared is None else StoredTar(shared, f"{name}/{_PAYLOAD}")
            )
        return _StagedTar(source.reader(), index)
    except (OSError, sqlite3.Error) as error:
        raise StoreError(
            f"cannot stage {tar.uri} in {folder}: {error}. Set ${SCRATCH_VARIABLE} to a folder on another disk."
        ) from error


def _folder(tar: TarFile, scratch: Path) -> Path:
    """Staging folder of a tar; a changed file gets another folder, so that an index never serves another tar."""
    return scratch / f"eoforge-{tar.name}-{hashlib.sha256(tar.state()[1].encode()).hexdigest()[:16]}"


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _copy_shared_index(shared: ObjectStore, name: str, payload: Path, index: Path) -> bool:
    """Copies the index from the shared scratch; False if it holds none."""
    if not shared.exists(f"{name}/{_INDEX}"):
        return False
    payload.unlink(missing_ok=True)  # may be incomplete, from an attempt that was killed
    part = index.with_suffix(".part")
    with shared.open(f"{name}/{_INDEX}") as source, open(part, "wb") as target:
        while data := source.read(_CHUNK):
            target.write(data)
    part.replace(index)
    return True


def _build_index(tar: TarFile, payload: Path | None, index: Path) -> None:
    part = index.with_suffix(".part")
    part.unlink(missing_ok=True)
    connection = sqlite3.connect(part)
    # The index is renamed into place when complete, so the database needs no journal.
    connection.execute("PRAGMA journal_mode = OFF")
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("CREATE TABLE files (key TEXT PRIMARY KEY, offset INTEGER, size INTEGER) WITHOUT ROWID")
    with track(f"indexing {tar.name}") as tracker, tar_bytes(tar, payload) as source:
        for name, offset, size in _members(source, tar):
            connection.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?)", (_key(name), offset, size))
            tracker.advance()
    connection.commit()
    connection.close()
    part.replace(index)


def _members(source: TarBytes, tar: TarFile) -> Iterator[tuple[str, int, int]]:
    """Name, first byte and size of each file in a tar.

    Raises:
        DataRefused: The tar is truncated or damaged, or has a member that is no file or folder of limited size.
    """
    try:
        with tarfile.open(fileobj=cast(IO[bytes], source), mode="r:") as opened:
            last = -1
            while (member := opened.next()) is not None:
                # tarfile keeps every member; eight million of them take gigabytes.
                opened.members.clear()  # type: ignore[attr-defined]  # an attribute that typeshed leaves out
                path = PurePosixPath(member.name)
                if (
                    path.is_absolute()
                    or ".." in path.parts
                    or not (member.isdir() or member.isreg())
                    or member.issparse()
                ):
                    raise DataRefused(
                        f"{tar.uri}: member {member.name!r} is a link, device or sparse file, or points outside. "
                        f"{ADVICE}"
                    )
                # A negative size in an extended header would lead back to a header that was read: a loop without end.
                if member.size < 0 or member.offset <= last:
                    raise DataRefused(f"{tar.uri}: member {member.name!r} claims {member.size} bytes. {ADVICE}")
                last = member.offset
                if member.size > MAX_FILE_BYTES:
                    raise DataRefused(
                        f"{tar.uri}: member {member.name!r} claims {member.size} bytes, expected at most "
                        f"{MAX_FILE_BYTES}. {ADVICE}"
                    )
                if member.isreg() and path.suffix in EXTENSIONS:
                    yield member.name, member.offset_data, member.size
    except (tarfile.TarError, ValueError) as error:  # ValueError: names that are no text, maps of sparse files
        raise DataRefused(f"{tar.uri}: truncated or damaged after byte {source.tell()}: {error}. {ADVICE}") from error
    # tarfile reads a damaged header as the end of the archive; a complete one ends with a block of zeros.
    if source.last_read != bytes(_BLOCK):
        raise DataRefused(f"{tar.uri}: truncated or damaged at byte {source.tell()}. {ADVICE}")
