"""Content-addressed storage of models and updates: chunks named by their SHA-256, and manifests that list them.

Chunks are written before the manifest that names them, so a crash leaves only chunks, which a later attempt finds
again. Writing the same content twice is harmless.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.errors import DamagedObject, DataRefused, NotFound, UsageError
from eoforge.federated.store.messages import from_bytes
from eoforge.storage.chunks import digest_of
from eoforge.storage.objects import ObjectStore
from eoforge.storage.tensorfile import CHUNK_BYTES, Array, Layout, Specs, chunk_count, chunk_span

CACHED_CHUNKS = 2
"""Chunks that a thread caches: enough to read many small tensors in a row."""
CACHED_BELOW_BYTES = 1 << 20
"""Larger reads take exactly their bytes from the store, without the cache."""
MAX_MANIFEST_BYTES = 64 << 20
_DIGEST = re.compile(r"[0-9a-f]{64}")

Fill = Callable[[Sequence[tuple[str, int, int]]], Sequence[Array]]
"""Flat elements ``[start, stop)`` of each named tensor."""


class ChunkStore:
    """Chunks and manifests below one prefix of an object store.

    Args:
        store: Object store.
        prefix: Folder inside the store.
    """

    def __init__(self, store: ObjectStore, prefix: str) -> None:
        self._store, self.prefix = store, prefix.strip("/")

    def put_chunk(self, digest: bytes, data: bytes | memoryview) -> None:
        """Stores a chunk; the caller has checked its digest."""
        self._store.put(self._chunk(digest), data)  # type: ignore[arg-type]  # obstore takes any buffer

    def chunk(self, digest: bytes) -> bytes:
        """Bytes of a chunk.

        Raises:
            NotFound: The chunk is not stored.
        """
        return self._store.get(self._chunk(digest), CHUNK_BYTES)

    def chunk_range(self, digest: bytes, start: int, end: int) -> bytes:
        """Bytes ``start .. end - 1`` of a chunk.

        Raises:
            NotFound: The chunk is not stored.
        """
        return self._store.get_range(self._chunk(digest), start, end)

    def missing(self, manifest: pb.Manifest) -> list[int]:
        """Positions of the chunks that are not stored."""
        if len(manifest.chunks) <= CACHED_CHUNKS:
            return [i for i, c in enumerate(manifest.chunks) if not self._store.exists(self._chunk(c))]
        stored = {key.rsplit("/", 1)[-1] for key in self._store.list(f"{self.prefix}/chunks")}
        return [i for i, c in enumerate(manifest.chunks) if c.hex() not in stored]

    def put_manifest(self, manifest: pb.Manifest) -> str:
        """Stores a manifest and returns its digest."""
        digest = digest_of(manifest)
        self._store.put(f"{self.prefix}/manifests/{digest}", manifest.SerializeToString(deterministic=True))
        return digest

    def manifest(self, digest: str) -> pb.Manifest:
        """Manifest with a digest.

        Raises:
            NotFound: The manifest is not stored.
            UsageError: The text is no digest.
            DamagedObject: What is stored is another manifest, or none.
        """
        if not _DIGEST.fullmatch(digest):  # it comes from a message and becomes part of a path
            raise UsageError(f"a digest has 64 hexadecimal digits; got {digest!r:.80}")
        try:
            data = self._store.get(f"{self.prefix}/manifests/{digest}", MAX_MANIFEST_BYTES)
        except NotFound as error:
            raise NotFound(f"there is no object {digest}; announce it first") from error
        manifest = from_bytes(data, pb.Manifest, f"{self.prefix}/manifests/{digest}")
        if digest_of(manifest) != digest:
            raise DamagedObject(f"{self.prefix}/manifests/{digest} is not the manifest of that digest")
        return manifest

    def announced(self) -> set[str]:
        """Digests of all manifests."""
        return {key.rsplit("/", 1)[-1] for key in self._store.list(f"{self.prefix}/manifests")}

    def open(self, digest: str) -> StoredFile:
        """Reader of a stored file.

        Raises:
            NotFound: The file is not stored.
            DataRefused: The content is no safetensors file.
        """
        return StoredFile(self, self.manifest(digest))

    def write(self, layout: Layout, fill: Fill, pool: ThreadPoolExecutor) -> str:
        """Writes a file chunk by chunk; its bytes depend on ``layout`` and ``fill`` alone.

        Args:
            layout: Layout of the file.
            fill: Gives the elements of one chunk; called for several chunks at the same time.
            pool: Threads that compute chunks; memory grows with their number only.

        Returns:
            Digest of the manifest.
        """

        def build(index: int) -> bytes:
            first, last = chunk_span(index, layout.length)
            data = bytearray(last - first)
            head = layout.header[first:last]
            data[: len(head)] = head
            segments = list(layout.segments(first, last))
            arrays = fill([(s.name, s.start, s.stop) for s in segments])
            for segment, array in zip(segments, arrays, strict=True):
                dtype = np.dtype(layout.specs[segment.name].dtype)
                target = np.frombuffer(data, dtype, segment.stop - segment.start, segment.offset)
                target[:] = array
            digest = hashlib.sha256(data).digest()
            self.put_chunk(digest, memoryview(data))
            return digest

        digests = list(pool.map(build, range(chunk_count(layout.length))))
        return self.put_manifest(pb.Manifest(length=layout.length, chunks=digests))

    def copy_from(self, source: ChunkStore, manifest: pb.Manifest) -> str:
        """Copies a file from another prefix of the same store; returns its digest.

        Raises:
            NotFound: A chunk is not stored there.
        """
        for chunk in dict.fromkeys(manifest.chunks):
            self._store.copy(source._chunk(chunk), self._chunk(chunk))
        return self.put_manifest(manifest)

    def keep(self, digests: Collection[str], confirm: Callable[[], bool] = lambda: True) -> int:
        """Deletes every file that is not among ``digests``, and every chunk that no kept manifest names.

        No other file may be written meanwhile.

        Args:
            digests: Files to keep.
            confirm: Called before the deletion; if false, ``digests`` is outdated and nothing is deleted.

        Returns:
            Number of deleted objects.
        """
        chunks = {chunk.hex() for digest in digests for chunk in self.manifest(digest).chunks}
        unused = [key for key in self._store.list(f"{self.prefix}/manifests") if key.rsplit("/", 1)[-1] not in digests]
        unused += [key for key in self._store.list(f"{self.prefix}/chunks") if key.rsplit("/", 1)[-1] not in chunks]
        if not confirm():
            return 0
        for key in unused:  # manifests first: a crash must not leave a manifest without its chunks
            self._store.delete(key)
        return len(unused)

    def expire(self, seconds: float) -> int:
        """Deletes objects that were written more than ``seconds`` ago; returns their number.

        An upload that counts on an expired chunk finds it missing, and sends it again.
        """
        expired = [key for key, age in self._store.ages(self.prefix) if age > seconds]
        for key in expired:
            self._store.delete(key)
        return len(expired)

    def _chunk(self, digest: bytes) -> str:
        return f"{self.prefix}/chunks/{digest.hex()}"


class StoredFile:
    """Reader of slices of a stored file's tensors.

    Attributes:
        manifest: Manifest of the file.
        layout: Layout of the file.
    """

    def __init__(self, chunks: ChunkStore, manifest: pb.Manifest) -> None:
        if not manifest.chunks:
            raise DataRefused("expected a safetensors file; got an empty file")
        self._chunks, self.manifest = chunks, manifest
        self.layout = Layout.parse(chunks.chunk(manifest.chunks[0]), manifest.length)

    @property
    def specs(self) -> Specs:
        """Shape, dtype and role of each tensor."""
        return self.layout.specs

    def chunk(self, index: int) -> bytes:
        """Bytes of one chunk of the file.

        Raises:
            NotFound: The chunk is not stored.
        """
        return self._chunks.chunk(self.manifest.chunks[index])

    def read(self, name: str, start: int, stop: int) -> Array:
        """Elements ``[start, stop)`` of a tensor, flat; the array may be read-only.

        Raises:
            NotFound: The file holds no such tensor, or a chunk is not stored.
        """
        spec = self.layout.specs.get(name)
        if spec is None:
            raise NotFound(f"the file holds no tensor {name!r}")
        dtype = np.dtype(spec.dtype)
        first = self.layout.offsets[name] + start * dtype.itemsize
        last = self.layout.offsets[name] + stop * dtype.itemsize
        parts = []
        while first < last:
            index = first // CHUNK_BYTES
            begin = first - index * CHUNK_BYTES
            end = min(last - index * CHUNK_BYTES, CHUNK_BYTES)
            if end - begin < CACHED_BELOW_BYTES:
                data = memoryview(_CACHE.get(self._chunks, self.manifest.chunks[index]))[begin:end]
            else:
                data = memoryview(self._chunks.chunk_range(self.manifest.chunks[index], begin, end))
            parts.append(np.frombuffer(data, dtype))
            first = index * CHUNK_BYTES + end
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else np.empty(0, dtype)


class _ChunkCache(threading.local):
    """Chunks that this thread read last, over all files: memory does not grow with the number of silos."""

    def __init__(self) -> None:
        self._chunks: OrderedDict[tuple[str, bytes], Any] = OrderedDict()

    def get(self, store: ChunkStore, digest: bytes) -> Any:
        key = (store.prefix, digest)
        data = self._chunks.pop(key, None)
        if data is None:
            while len(self._chunks) >= CACHED_CHUNKS:
                self._chunks.popitem(last=False)
            data = store.chunk(digest)
        self._chunks[key] = data
        return data

    def clear(self) -> None:
        self._chunks.clear()


_CACHE = _ChunkCache()
