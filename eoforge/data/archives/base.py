"""Interface of an archive, and the base class of archives that hold one file per raster."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from eoforge.data.archives.geotiff import BandRaster, read_geotiff
from eoforge.data.archives.layout import ALL_FILES, EXTENSIONS, MAIN_FILE, MAX_FILE_BYTES, MAX_METADATA_BYTES, path_of
from eoforge.data.archives.metadata import MetadataRows, read_metadata
from eoforge.data.archives.validate import is_readable, read_patch
from eoforge.data.bands import S2_BANDS
from eoforge.data.records import PatchMeta, ReadResult
from eoforge.errors import DataRefused, UsageError
from eoforge.storage.addresses import join, normalise

_S3_THREADS = 32
_S3_PATCHES_AHEAD = 8


class Archive(ABC):
    """Source of patch pairs and their metadata.

    Attributes:
        uri: Address of the archive.
        min_shard_rows: Rows below which a small archive is not cut into more shards.
        edges: Incomplete patches that are no rows, at the edges of tiles.
    """

    min_shard_rows = 64
    edges = 0

    def __init__(self, uri: str) -> None:
        self.uri = normalise(uri)

    @abstractmethod
    def metadata(self) -> MetadataRows:
        """All metadata rows in patch_id order; repeated ids are kept and marked.

        Raises:
            DataRefused: There is no ``metadata.parquet``, or it is damaged or has other columns.
        """

    def prepare(self) -> None:
        """Prepares shared files once, before several processes read the archive; by default there are none."""
        return

    def release(self) -> None:
        """Deletes large temporary copies, which the next reader makes again; by default there are none."""
        return

    def present(self, rows: MetadataRows) -> npt.NDArray[np.bool_]:
        """Mask ``[N]`` of the rows whose patch has a folder in the archive.

        Raises:
            UsageError: The archive is of a kind whose patches cannot be listed.
        """
        raise UsageError(
            f"{self.uri}: only the patches of a folder or an s3:// prefix with unpacked files can be listed; unpack "
            "the archive, or give metadata that name its patches alone"
        )

    @abstractmethod
    def read(self, rows: Sequence[PatchMeta]) -> Iterator[ReadResult]:
        """Reads and validates patches, one result per row in the order of ``rows``, in bounded memory."""

    def rasters(self, meta: PatchMeta) -> dict[str, npt.NDArray[Any]]:
        """Bands ``[H, W]`` of a patch that can be decoded, by name and not validated; for pictures of bad patches.

        Raises:
            UsageError: The archive is of a kind without one file per band.
        """
        raise UsageError("only archives with one file per band can show what a patch in quarantine looks like")


class FileArchive(Archive):
    """Archive of official raster files; a subclass implements the access to one file.

    Attributes:
        remote: Whether access goes over a network; if so, files of the next patches are fetched while one is decoded.
    """

    remote = False

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        # An archive uses one extension: starting with the last one found saves a failing look-up per file.
        self._extensions: tuple[str, ...] = EXTENSIONS

    @abstractmethod
    def fetch(self, path: str, limit: int = MAX_FILE_BYTES) -> bytes | None:
        """Bytes of the file at ``path`` below the root of the archive; None if the file does not exist.

        Raises:
            DataRefused: The file is larger than ``limit`` or cannot be read.
            StoreError: The disk or object store fails.
        """

    def metadata(self) -> MetadataRows:
        """See :class:`Archive`."""
        return read_metadata(lambda name: self.fetch(name, MAX_METADATA_BYTES), self.uri)

    def rasters(self, meta: PatchMeta) -> dict[str, npt.NDArray[Any]]:
        """See :class:`Archive`; empty for a row whose names are malformed."""
        found: dict[str, npt.NDArray[Any]] = {}
        for band in ALL_FILES if is_readable(replace(meta, repeated=False)) else ():
            with suppress(DataRefused):
                if (data := self._find(meta, band)) is not None:
                    found[band] = read_geotiff(data, band).pixels
        return found

    def has_files(self, meta: PatchMeta) -> bool:
        """Whether the first optical file of a row exists."""
        return is_readable(meta) and self._find(meta, S2_BANDS[0]) is not None

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
                # A malformed name gives no key; read_patch refuses the row without reading a file.
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
