"""Content-addressed chunks of files: manifests, chunks of a file, and checks of received chunks."""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterable, Iterator
from typing import IO, Any

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.errors import DataRefused, LimitExceeded
from eoforge.storage.tensorfile import CHUNK_BYTES, chunk_count, chunk_span

DIGEST_BYTES = 32


def digest_of(manifest: pb.Manifest) -> str:
    """Name of an object: hexadecimal SHA-256 over its length and the digests of its chunks."""
    return hashlib.sha256(struct.pack("<Q", manifest.length) + b"".join(manifest.chunks)).hexdigest()


def check_manifest(manifest: pb.Manifest, limit: int) -> None:
    """Check of a manifest before memory is allocated for its object.

    Raises:
        LimitExceeded: The object is larger than ``limit``.
        DataRefused: The number or size of digests does not fit the length of the object.
    """
    if manifest.length > limit:
        raise LimitExceeded(f"expected an object of at most {limit} bytes; got {manifest.length}")
    expected = chunk_count(manifest.length)
    if len(manifest.chunks) != expected or any(len(c) != DIGEST_BYTES for c in manifest.chunks):
        raise DataRefused(
            f"{manifest.length} bytes make {expected} chunks with digests of {DIGEST_BYTES} bytes; "
            f"got {len(manifest.chunks)} digests"
        )


def manifest_of(parts: Iterable[bytes | memoryview], length: int) -> pb.Manifest:
    """Manifest of a file, given as its chunks in order."""
    return pb.Manifest(length=length, chunks=[hashlib.sha256(part).digest() for part in parts])


def file_manifest(path: str) -> pb.Manifest:
    """Manifest of a file, which is read once."""
    with open(path, "rb") as file:
        parts = iter(lambda: file.read(CHUNK_BYTES), b"")
        return manifest_of(parts, os.path.getsize(path))


def file_parts(path: str, manifest: pb.Manifest, indexes: Any) -> Iterator[tuple[int, bytes]]:
    """Chunks of a file by index, one in memory at a time."""
    with open(path, "rb") as file:
        for index in indexes:
            first, last = chunk_span(index, manifest.length)
            file.seek(first)
            yield index, file.read(last - first)


def file_chunks(path: str, manifest: pb.Manifest, indexes: Any) -> Iterator[pb.Chunk]:
    """Chunks of a file by index, as messages."""
    return (pb.Chunk(index=index, data=data) for index, data in file_parts(path, manifest, indexes))


def check_chunk(manifest: pb.Manifest, chunk: pb.Chunk) -> None:
    """Check of a chunk against its digest.

    Raises:
        DataRefused: Index or digest do not match the manifest.
    """
    if chunk.index >= chunk_count(manifest.length):
        raise DataRefused(f"expected a chunk index below {len(manifest.chunks)}; got {chunk.index}")
    if hashlib.sha256(chunk.data).digest() != manifest.chunks[chunk.index]:
        raise DataRefused(f"chunk {chunk.index} does not have the SHA-256 that the manifest names")


def holds_chunk(file: IO[bytes], manifest: pb.Manifest, index: int) -> bool:
    """Whether an open file already holds the bytes of a chunk."""
    first, last = chunk_span(index, manifest.length)
    file.seek(first)
    return hashlib.sha256(file.read(last - first)).digest() == manifest.chunks[index]
