"""Archives in the official layout: a local folder, or a prefix on an object store."""

from __future__ import annotations

from eoforge.data.archives.base import FileArchive
from eoforge.data.archives.layout import MAX_FILE_BYTES, read_file, read_object
from eoforge.storage.objects import ObjectStore


class DirectoryArchive(FileArchive):
    """An archive in a local folder."""

    def fetch(self, path: str, limit: int = MAX_FILE_BYTES) -> bytes | None:
        """See :class:`eoforge.data.archives.base.FileArchive`."""
        return read_file(f"{self.uri}/{path}", limit)


class S3Archive(FileArchive):
    """An archive below an ``s3://`` prefix."""

    remote = True

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self._store = ObjectStore(self.uri)

    def fetch(self, path: str, limit: int = MAX_FILE_BYTES) -> bytes | None:
        """See :class:`eoforge.data.archives.base.FileArchive`."""
        return read_object(self._store, path, limit)
