"""Archives in the official reBEN layout: a folder, or a prefix on an object store.

    BigEarthNet-S2/<tile>/<patch_id>/<patch_id>_<band>.tif            12 files a patch (.tiff is accepted)
    BigEarthNet-S1/<scene>/<s1_name>/<s1_name>_{VV,VH}.tif            2 files a patch
    Reference_Maps/<tile>/<patch_id>/<patch_id>_reference_map.tif     1 file a patch, may be absent
    metadata.parquet, metadata_for_patches_with_snow_cloud_or_shadow.parquet (may be absent)

:func:`open_archive` also opens tar files (``archive_tar``) and rico-hdl's LMDB (``archive_lmdb``).
"""

from __future__ import annotations

import errno
import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Protocol

from eoforge.data.archives.geotiff import Raster, read_geotiff
from eoforge.data.archives.metadata import MAIN_FILE, MetadataRows, read_metadata
from eoforge.data.archives.validate import REFERENCE_MAP, is_readable, read_patch
from eoforge.data.bands import S1_BANDS, S2_BANDS
from eoforge.data.names import scene_of, tile_of
from eoforge.data.records import PatchMeta, ReadResult
from eoforge.errors import DataRefused, LimitExceeded, NotFound, StoreError
from eoforge.storage.addresses import is_s3, join, normalise
from eoforge.storage.objects import ObjectStore

S2_FOLDER = "BigEarthNet-S2"
S1_FOLDER = "BigEarthNet-S1"
MAP_FOLDER = "Reference_Maps"
EXTENSIONS = (".tif", ".tiff")
ALL_FILES = (*S2_BANDS, *S1_BANDS, REFERENCE_MAP)

MAX_FILE_BYTES = 1 << 24
"""Largest raster file that is read; the largest official one has 58,024 bytes."""
MAX_METADATA_BYTES = 1 << 30

# Most official files fit; larger buffers cost an allocation that the kernel has to map.
_FIRST_READ = 1 << 16
_FILE_ERRORS = {errno.EISDIR, errno.EACCES, errno.EPERM, errno.EIO, errno.ELOOP}
_S3_THREADS = 32
_S3_PATCHES_AHEAD = 8


class Archive(Protocol):
    """Patch pairs with their metadata, whatever they are stored in."""

    uri: str

    def metadata(self) -> MetadataRows:
        """All metadata rows in patch_id order; repeated ids are kept and marked.

        Raises:
            NotFound: There is no ``metadata.parquet``.
            DataRefused: It is damaged or has another shape.
        """

    def prepare(self) -> None:
        """Does once, before many processes read, what would otherwise be done by each."""

    def release(self) -> None:
        """Deletes large copies that reading left on this machine; the next reader makes them again."""

    def read(self, rows: Sequence[PatchMeta]) -> Iterator[ReadResult]:
        """Reads and validates patches, one result per row in the order of ``rows``, in bounded memory."""


def open_archive(uri: str, *, scratch: str | None = None) -> Archive:
    """Opens an archive of any kind.

    Args:
        uri: A folder or ``s3://`` prefix, in the official layout or with the official ``.tar`` or ``.tar.zst`` files,
            or a rico-hdl LMDB (its folder, or its ``data.mdb``).
        scratch: Where tar files may leave their index and unpacked contents; default ``$EOFORGE_SCRATCH`` or the
            system's temporary folder.

    Raises:
        NotFound: There is nothing there, or nothing of a known kind.
    """
    from eoforge.data.archives.lmdbs import LmdbArchive, find_lmdb
    from eoforge.data.archives.tar_source import find_tars
    from eoforge.data.archives.tars import TarArchive

    uri = normalise(uri)
    if is_s3(uri):
        store = ObjectStore(uri)
        if store.has_any(S2_FOLDER) or store.has_any(S1_FOLDER):
            return S3Archive(uri)
        if find_tars(uri):
            return TarArchive(uri, scratch=scratch)
        # Anything else would send every patch to quarantine, each as missing.
        raise NotFound(
            f"no archive at {uri}: expected the prefixes {S2_FOLDER}/ and {S1_FOLDER}/, or {S2_FOLDER}.tar[.zst] and "
            f"{S1_FOLDER}.tar[.zst], with {MAIN_FILE}. LMDBs are read from a local folder."
        )

    folder = Path(uri)
    if not folder.exists():
        raise NotFound(f"no archive at {uri}: the path does not exist")
    if (folder / S2_FOLDER).is_dir() or (folder / S1_FOLDER).is_dir():
        return DirectoryArchive(uri)
    if folder.is_dir() and find_tars(uri):
        return TarArchive(uri, scratch=scratch)
    if find_lmdb(folder) is not None:
        return LmdbArchive(uri)
    raise NotFound(
        f"no archive at {uri}: expected the folders {S2_FOLDER} and {S1_FOLDER}, the files {S2_FOLDER}.tar[.zst] and "
        f"{S1_FOLDER}.tar[.zst], or an LMDB (data.mdb), each with {MAIN_FILE}"
    )


def path_of(meta: PatchMeta, band: str) -> str:
    """Path of a band's file (or of ``reference_map``) below the archive's root, without extension."""
    if band in S1_BANDS:
        name = meta.s1_name
        return f"{S1_FOLDER}/{scene_of(name)}/{name}/{name}_{band}"
    name = meta.patch_id
    folder = MAP_FOLDER if band == REFERENCE_MAP else S2_FOLDER
    return f"{folder}/{tile_of(name)}/{name}/{name}_{band}"


class FileArchive(ABC):
    """Official files and metadata, wherever they are kept; subclasses say how to fetch one.

    Attributes:
        remote: Whether fetching waits for a network; then the next patches' files are fetched while one is decoded.
    """

    remote = False

    def __init__(self, uri: str) -> None:
        self.uri = normalise(uri)
        # One archive uses one extension; trying the last that was found first saves a failing look-up per file.
        self._extensions: tuple[str, ...] = EXTENSIONS

    @abstractmethod
    def fetch(self, path: str, limit: int = MAX_FILE_BYTES) -> bytes | None:
        """Bytes of the file at ``path`` below the archive's root, None if there is none.

        Raises:
            DataRefused: It is larger than ``limit`` or cannot be read.
            StoreError: The disk or object store fails.
        """

    def metadata(self) -> MetadataRows:
        """See :class:`Archive`."""
        return read_metadata(lambda name: self.fetch(name, MAX_METADATA_BYTES), self.uri)

    @abstractmethod
    def prepare(self) -> None:
        """See :class:`Archive`."""

    @abstractmethod
    def release(self) -> None:
        """See :class:`Archive`."""

    def read(self, rows: Sequence[PatchMeta]) -> Iterator[ReadResult]:
        """See :class:`Archive`."""
        if self.remote:
            yield from self._read_ahead(rows)
            return
        for meta in rows:
            yield self._assemble(meta, partial(self._find, meta))

    def _read_ahead(self, rows: Sequence[PatchMeta]) -> Iterator[ReadResult]:
        pending: deque[tuple[PatchMeta, dict[str, Future[bytes | None]]]] = deque()
        pool = ThreadPoolExecutor(_S3_THREADS, thread_name_prefix="reben-get")
        try:
            for meta in rows:
                # A name that is no reBEN name makes no key; read_patch refuses it without asking for a file.
                bands = ALL_FILES if is_readable(meta) else ()
                pending.append((meta, {band: pool.submit(self._find, meta, band) for band in bands}))
                if len(pending) > _S3_PATCHES_AHEAD:
                    yield self._collect(*pending.popleft())
            while pending:
                yield self._collect(*pending.popleft())
        finally:
            pool.shutdown(cancel_futures=True)

    def _collect(self, meta: PatchMeta, files: Mapping[str, Future[bytes | None]]) -> ReadResult:
        return self._assemble(meta, lambda band: files[band].result())

    def _find(self, meta: PatchMeta, band: str) -> bytes | None:
        """Bytes of a band's file under either extension."""
        stem = path_of(meta, band)
        for extension in self._extensions:
            data = self.fetch(stem + extension)
            if data is not None:
                if extension != self._extensions[0]:
                    self._extensions = (extension, *(e for e in EXTENSIONS if e != extension))
                return data
        return None

    def _assemble(self, meta: PatchMeta, find: Callable[[str], bytes | None]) -> ReadResult:
        def load(band: str) -> Raster | None:
            data = find(band)
            return None if data is None else read_geotiff(data, band)

        def file_of(band: str) -> str:
            return join(self.uri, path_of(meta, band) + self._extensions[0])

        return read_patch(meta, load, file_of, join(self.uri, MAIN_FILE))


class DirectoryArchive(FileArchive):
    """An archive in a local folder."""

    def prepare(self) -> None:
        """Nothing to do."""

    def release(self) -> None:
        """Nothing to do."""

    def fetch(self, path: str, limit: int = MAX_FILE_BYTES) -> bytes | None:
        """See :class:`FileArchive`."""
        return read_file(f"{self.uri}/{path}", limit)


class S3Archive(FileArchive):
    """An archive below an ``s3://`` prefix."""

    remote = True

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self._store = ObjectStore(self.uri)

    def prepare(self) -> None:
        """Nothing to do."""

    def release(self) -> None:
        """Nothing to do."""

    def fetch(self, path: str, limit: int = MAX_FILE_BYTES) -> bytes | None:
        """See :class:`FileArchive`."""
        return read_object(self._store, path, limit)


def read_object(store: ObjectStore, key: str, limit: int) -> bytes | None:
    """Bytes of an object, None if it does not exist.

    Raises:
        DataRefused: It is larger than ``limit``.
        StoreError: The object store fails.
    """
    try:
        return store.get(key, limit)
    except NotFound:
        return None
    except LimitExceeded as error:
        raise DataRefused(str(error)) from error


def read_file(path: str, limit: int) -> bytes | None:
    """Bytes of a local file, None if it does not exist.

    Raises:
        DataRefused: It is larger than ``limit``, or exists and cannot be read.
        StoreError: The system fails for a reason that is not the file's.
    """
    try:
        # Non-blocking, so that a pipe put in place of a file cannot hang the reader.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            data = os.read(descriptor, min(_FIRST_READ, limit))
            if len(data) < _FIRST_READ:
                return data
            size = os.fstat(descriptor).st_size
            if size > limit:
                raise DataRefused(f"{path} has {size} bytes; at most {limit} are read")
            with os.fdopen(os.dup(descriptor), "rb") as file:
                return data + file.read(limit - len(data))
        finally:
            os.close(descriptor)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno in _FILE_ERRORS:
            raise DataRefused(f"{path} cannot be read: {error.strerror}") from error
        raise StoreError(f"cannot read {path}: {error}. Check limits and mounts of this machine.") from error
