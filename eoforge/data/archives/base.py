"""Archive interface, and the part of it that all archives of single raster files share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Protocol

from eoforge.data.archives.geotiff import BandRaster, read_geotiff
from eoforge.data.archives.layout import ALL_FILES, EXTENSIONS, MAIN_FILE, MAX_FILE_BYTES, MAX_METADATA_BYTES, path_of
from eoforge.data.archives.metadata import MetadataRows, read_metadata
from eoforge.data.archives.validate import is_readable, read_patch
from eoforge.data.records import PatchMeta, ReadResult
from eoforge.storage.addresses import join, normalise

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
        def load(band: str) -> BandRaster | None:
            data = find(band)
            return None if data is None else read_geotiff(data, band)

        def file_of(band: str) -> str:
            return join(self.uri, path_of(meta, band) + self._extensions[0])

        return read_patch(meta, load, file_of, join(self.uri, MAIN_FILE))
