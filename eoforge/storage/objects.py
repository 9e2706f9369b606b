"""Object store: one interface to the files of a local folder and of an S3-compatible bucket."""

from __future__ import annotations

import builtins
import datetime as dt
import io
import os
import secrets
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import IO, Any

import obstore
from obstore.exceptions import AlreadyExistsError
from obstore.store import LocalStore, S3Store

from eoforge.errors import LimitExceeded, NotFound, StoreError
from eoforge.storage.addresses import S3_SCHEME, is_s3, join, normalise, plain, storage_options

_PROBE_TIMEOUT = "10s"
_READ_AHEAD_BYTES = 8 << 20
_FOLDERS_REMEMBERED = 4096


class ObjectStore:
    """Object store below one root, local or S3; keys are relative paths with ``/``.

    Args:
        root: Local path or ``s3://`` URI.
        patient: Wait up to minutes for a restart of the store; probes use short time-outs instead.
        durable: Writes survive a power cut once the call has returned: on a local path files and their folders are
            flushed to the disk. Object stores guarantee it by themselves.
    """

    def __init__(self, root: str, *, patient: bool = True, durable: bool = False) -> None:
        self.root = normalise(root)
        self._flushes = durable and not is_s3(self.root)
        self._flushed: set[Path] = set()
        if is_s3(self.root):
            bucket, _, prefix = self.root[len(S3_SCHEME) :].partition("/")
            options: Any = dict(storage_options(self.root) or {})
            allow_http = options.pop("allow_http", "false") == "true"
            self._store: Any = S3Store(
                bucket,
                prefix=prefix or None,
                config=options,
                client_options={"allow_http": allow_http, "timeout": "60s" if patient else _PROBE_TIMEOUT},
                retry_config=None if patient else {"max_retries": 1, "retry_timeout": timedelta(seconds=15)},
            )
        else:
            self._store = None  # opened by the first call: reading must not create a folder

    def put(self, key: str, data: bytes) -> None:
        """Writes ``data`` at ``key``, replacing an older object; readers see the old or the new bytes, never a part."""
        if self._flushes:
            self._write(key, data, replace=True)
        else:
            self._call(obstore.put, key, data)

    def put_stream(self, key: str, parts: Iterator[bytes]) -> None:
        """Writes ``parts`` in sequence as one object, with a few of them in memory."""
        try:
            with obstore.open_writer(self._opened(create=True), key) as writer:
                for part in parts:
                    writer.write(part)
        except OSError as error:
            raise StoreError(f"cannot write {join(self.root, key)}: {plain(error)}") from error
        self._flush(key)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Writes ``data`` only if ``key`` does not exist; returns whether it was written. Atomic among writers."""
        if self._flushes:
            return self._write(key, data, replace=False)
        try:
            self._call(obstore.put, key, data, mode="create")
        except FileExistsError:
            return False
        return True

    def get(self, key: str, limit: int | None = None) -> bytes:
        """Bytes of the object at ``key``.

        Args:
            key: Key of the object.
            limit: Limit in bytes; a larger object is refused before it is read.

        Raises:
            NotFound: The object does not exist.
            LimitExceeded: The object is larger than ``limit``.
        """
        found = self._call(obstore.get, key)
        if limit is not None and found.meta["size"] > limit:
            raise LimitExceeded(f"{join(self.root, key)} has {found.meta['size']} bytes; at most {limit} are read")
        return bytes(found.bytes())

    def get_range(self, key: str, start: int, end: int) -> bytes:
        """Bytes ``start .. end - 1`` of the object at ``key``.

        Raises:
            NotFound: The object does not exist.
        """
        return bytes(self._call(obstore.get_range, key, start=start, end=end))

    def exists(self, key: str) -> bool:
        """Whether ``key`` exists."""
        try:
            self._call(obstore.head, key)
        except NotFound:
            return False
        return True

    def size(self, key: str) -> int:
        """Size in bytes of the object at ``key``, without reading it.

        Raises:
            NotFound: The object does not exist.
        """
        return int(self._call(obstore.head, key)["size"])

    def stamp(self, key: str) -> tuple[int, str]:
        """Size in bytes of the object at ``key``, and a text that changes when the object changes.

        Raises:
            NotFound: The object does not exist.
        """
        found = self._call(obstore.head, key)
        return int(found["size"]), str(found["e_tag"] or found["last_modified"])

    def open(self, key: str) -> IO[bytes]:
        """Stream of a large object, read forwards with some megabytes in memory.

        Raises:
            NotFound: The object does not exist.
        """
        return _ForwardReader(self._call(obstore.open_reader, key, buffer_size=_READ_AHEAD_BYTES), join(self.root, key))

    def put_file(self, key: str, path: Path) -> None:
        """Writes a large local file at ``key``, in parts."""
        self._call(obstore.put, key, path)

    def list(self, prefix: str = "") -> Iterator[str]:
        """Keys below ``prefix``, in lexicographic order."""
        yield from sorted(str(meta["path"]) for meta in self._entries(prefix))

    def folders(self) -> builtins.list[str]:
        """Names of the folders directly below the root, sorted; what lies in them is not listed."""
        try:
            found = obstore.list_with_delimiter(self._opened())
        except NotFound:
            return []
        except Exception as error:
            raise StoreError(f"cannot list {self.root}: {plain(error)}") from error
        return sorted(str(prefix).rpartition("/")[2] for prefix in found["common_prefixes"])

    def has_any(self, prefix: str) -> bool:
        """Whether an object exists below ``prefix``, by one request."""
        try:
            return any(len(page) for page in obstore.list(self._opened(), prefix, chunk_size=1))
        except NotFound:
            return False
        except Exception as error:
            raise StoreError(
                f"cannot list {join(self.root, prefix)}: {plain(error)}. "
                "Check endpoint and credentials with `eoforge doctor`."
            ) from error

    def copy(self, source: str, key: str) -> None:
        """Copies ``source`` to ``key`` inside the store.

        Raises:
            NotFound: ``source`` does not exist.
        """
        self._call(obstore.copy, source, key)
        self._flush(key)

    def ages(self, prefix: str, limit: int | None = None) -> Iterator[tuple[str, float]]:
        """Keys below ``prefix``, about ``limit`` at most, with their age in seconds (clocks of store and caller)."""
        now = dt.datetime.now(dt.UTC)
        for meta in self._entries(prefix, limit):
            yield str(meta["path"]), (now - meta["last_modified"]).total_seconds()

    def delete(self, key: str) -> None:
        """Removes ``key`` if it exists."""
        try:
            self._call(obstore.delete, key)
        except NotFound:
            return

    def _write(self, key: str, data: bytes, replace: bool) -> bool:
        """Writes a file atomically and durably: after a power cut all of it exists, or nothing.

        Args:
            key: Key of the object.
            data: Bytes of the object.
            replace: Whether to replace an existing object.

        Returns:
            Whether it was written.
        """
        self._opened(create=True)
        path = Path(self.root, key)
        partial = path.with_name(f"{path.name}#{secrets.randbelow(10**18)}")  # a name that obstore does not list
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with open(partial, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                if replace:
                    os.replace(partial, path)
                elif not _linked(partial, path):
                    return False
            finally:
                partial.unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(f"cannot write {path}: {error}. Check the disk.") from error
        self._flush(key)
        return True

    def _flush(self, key: str) -> None:
        """Flushes a file, its folder, and the folders above if they may be new."""
        if not self._flushes:
            return
        path = Path(self.root, key)
        chain = path.parents[: len(path.parents) - len(Path(self.root).parents)]
        known = path.parent in self._flushed
        try:
            for entry in (path, path.parent) if known else (path, *chain):
                descriptor = os.open(entry, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
        except OSError as error:
            raise StoreError(f"cannot flush {path} to the disk: {error}. Check the disk.") from error
        if len(self._flushed) >= _FOLDERS_REMEMBERED:
            self._flushed.clear()
        self._flushed.add(path.parent)

    def _entries(self, prefix: str, limit: int | None = None) -> builtins.list[Any]:
        found: builtins.list[Any] = []
        try:
            for page in obstore.list(self._opened(), prefix or None):
                found += page
                if limit is not None and len(found) >= limit:
                    break
            return found
        except NotFound:
            return []
        except Exception as error:
            raise StoreError(f"cannot list {join(self.root, prefix)}: {plain(error)}") from error

    def _call(self, function: Any, key: str, *args: Any, **kwargs: Any) -> Any:
        store = self._opened(create=function in (obstore.put, obstore.copy))
        try:
            return function(store, key, *args, **kwargs)
        except AlreadyExistsError as error:
            raise FileExistsError(key) from error
        except FileNotFoundError as error:
            raise NotFound(f"{join(self.root, key)} does not exist") from error
        except Exception as error:
            raise StoreError(
                f"{function.__name__} {join(self.root, key)} failed: {plain(error)}. "
                "Check endpoint and credentials with `eoforge doctor`."
            ) from error

    def _opened(self, create: bool = False) -> Any:
        if self._store is None:
            if not create and not Path(self.root).is_dir():
                raise NotFound(f"{self.root} does not exist")
            try:
                self._store = LocalStore(self.root, mkdir=True)
            except OSError as error:
                raise StoreError(f"cannot make the folder {self.root}: {error}. Choose another folder.") from error
        return self._store


def _linked(source: Path, name: Path) -> bool:
    """Hard link ``name`` to ``source``; False if ``name`` exists."""
    try:
        os.link(source, name)
    except FileExistsError:
        return False
    return True


class _ForwardReader(io.BytesIO):
    """Stream of an object that raises StoreError on failures."""

    def __init__(self, reader: Any, uri: str) -> None:
        super().__init__()
        self._reader, self._uri = reader, uri

    def read(self, size: int | None = -1) -> bytes:
        try:
            return bytes(self._reader.read(size))
        except Exception as error:
            raise StoreError(f"cannot read {self._uri}: {plain(error)}. Try again.") from error
