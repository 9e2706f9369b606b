"""Files as content-addressed chunks: made from a file, and checked on arrival."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from typing import IO, Any

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.errors import DataRefused
from eoforge.federated.store.objects import manifest_of
from eoforge.storage.tensorfile import CHUNK_BYTES, chunk_count, chunk_span


def file_manifest(path: str) -> pb.Manifest:
    """The manifest of a file, read once."""
    with open(path, "rb") as file:
        parts = iter(lambda: file.read(CHUNK_BYTES), b"")
        return manifest_of(parts, os.path.getsize(path))


def file_parts(path: str, manifest: pb.Manifest, indexes: Any) -> Iterator[tuple[int, bytes]]:
    """Chunks of a file by position, one in memory at a time."""
    with open(path, "rb") as file:
        for index in indexes:
            first, last = chunk_span(index, manifest.length)
            file.seek(first)
            yield index, file.read(last - first)


def file_chunks(path: str, manifest: pb.Manifest, indexes: Any) -> Iterator[pb.Chunk]:
    """The same as messages."""
    return (pb.Chunk(index=index, data=data) for index, data in file_parts(path, manifest, indexes))


def check_chunk(manifest: pb.Manifest, chunk: pb.Chunk) -> None:
    """Compares a chunk with its digest.

    Raises:
        DataRefused: It is another one.
    """
    if chunk.index >= chunk_count(manifest.length):
        raise DataRefused(f"chunk {chunk.index} of {len(manifest.chunks)} arrived")
    if hashlib.sha256(chunk.data).digest() != manifest.chunks[chunk.index]:
        raise DataRefused(f"chunk {chunk.index} does not have the SHA-256 that the manifest names")


def holds_chunk(file: IO[bytes], manifest: pb.Manifest, index: int) -> bool:
    """Whether an open file has the chunk at its place already."""
    first, last = chunk_span(index, manifest.length)
    file.seek(first)
    return hashlib.sha256(file.read(last - first)).digest() == manifest.chunks[index]
