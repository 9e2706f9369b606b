"""Archives in the official layout: a local folder, or a prefix on an object store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from eoforge.data.archives.base import FileArchive
from eoforge.data.archives.layout import MAX_FILE_BYTES, S2_FOLDER, read_file, read_object
from eoforge.data.archives.metadata import MetadataRows
from eoforge.storage.objects import ObjectStore


class DirectoryArchive(FileArchive):
    """An archive in a local folder."""

    def fetch(self, path: str, limit: int = MAX_FILE_BYTES) -> bytes | None:
        """See :class:`eoforge.data.archives.base.FileArchive`."""
        return read_file(f"{self.uri}/{path}", limit)

    def present(self, rows: MetadataRows) -> npt.NDArray[np.bool_]:
        """See :class:`eoforge.data.archives.base.Archive`."""
        tiles = Path(self.uri, S2_FOLDER)
        found = [patch.name for tile in tiles.glob("*/") for patch in tile.iterdir()] if tiles.is_dir() else []
        return _named(rows, found)


class S3Archive(FileArchive):
    """An archive below an ``s3://`` prefix."""

    remote = True

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self._store = ObjectStore(self.uri)

    def fetch(self, path: str, limit: int = MAX_FILE_BYTES) -> bytes | None:
        """See :class:`eoforge.data.archives.base.FileArchive`."""
        return read_object(self._store, path, limit)

    def present(self, rows: MetadataRows) -> npt.NDArray[np.bool_]:
        """See :class:`eoforge.data.archives.base.Archive`."""
        parts = (key.split("/") for key in self._store.list(S2_FOLDER))
        return _named(rows, sorted({part[2] for part in parts if len(part) > 3}))


def _named(rows: MetadataRows, patch_ids: Sequence[str]) -> npt.NDArray[np.bool_]:
    present = pc.is_in(rows.table["patch_id"], pa.array(patch_ids, pa.string()))
    mask: npt.NDArray[np.bool_] = present.to_numpy(zero_copy_only=False) if len(rows) else np.zeros(0, dtype=bool)
    return mask
