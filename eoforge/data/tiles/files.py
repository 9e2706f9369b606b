"""Files of tiles below one address, local or ``s3://``; stored ones are copied to the scratch disk once.

GDAL has no network in this process, and JPEG 2000 needs the whole file anyway.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from eoforge.errors import DataRefused, NotFound, StoreError, UsageError
from eoforge.storage.addresses import is_s3, join, normalise
from eoforge.storage.objects import ObjectStore

MAX_TEXT_BYTES = 1 << 24
"""Largest metadata file that is read."""
_MAX_KEYS = 200_000
_SCRATCH = "EOFORGE_SCRATCH"


class TileFiles:
    """Files below an address, by their path below it.

    Attributes:
        root: The address of the folder.
        only: Name of the file, if the address is that of one file; else empty.
    """

    def __init__(self, address: str) -> None:
        """Files of a folder, or one file, at ``address``.

        Raises:
            NotFound: There is nothing.
        """
        address = normalise(address)
        self.only = ""
        if is_s3(address):
            folder, _, name = address.rpartition("/")
            bucket_alone = folder in ("s3:/", "s3:")
            if not ObjectStore(address).has_any(""):
                if bucket_alone or not ObjectStore(folder).exists(name):
                    raise NotFound(f"nothing at {address}")
                address, self.only = folder, name
        elif not Path(address).exists():
            raise NotFound(f"nothing at {address}: the path does not exist")
        elif Path(address).is_file():
            address, self.only = str(Path(address).parent), Path(address).name
        self.root = address
        self._store = ObjectStore(address)
        self._copies: Path | None = None

    def paths(self) -> list[str]:
        """Paths of all files in lexicographic order, without hidden ones.

        Raises:
            UsageError: There are too many: another address was meant.
        """
        if self.only:
            return [self.only]
        found: list[str] = []
        for key in self._store.list():
            if any(part.startswith((".", "_")) for part in key.split("/")):
                continue
            found.append(key)
            if len(found) > _MAX_KEYS:
                raise UsageError(f"{self.root} holds more than {_MAX_KEYS} files; name a folder of products")
        return found

    def address(self, key: str) -> str:
        """Address of a file or folder, for messages."""
        return join(self.root, key) if key else self.root

    def text(self, key: str) -> bytes:
        """Bytes of a metadata file.

        Raises:
            NotFound: It does not exist.
            LimitExceeded: It is larger than ``MAX_TEXT_BYTES``.
        """
        return self._store.get(key, MAX_TEXT_BYTES)

    def local(self, key: str) -> Path:
        """Path of a file on this machine.

        Raises:
            NotFound: It does not exist.
            StoreError: The disk is full or the store fails.
        """
        if not is_s3(self.root):
            path = Path(self.root, key)
            if not path.is_file():
                raise NotFound(f"no file {path}")
            return path
        size, mark = self._store.stamp(key)
        name = hashlib.sha256(f"{key}\0{size}\0{mark}".encode()).hexdigest()[:32]
        target = self._folder() / (name + Path(key).suffix)
        if not target.exists():
            part = target.with_name(f"{target.name}.{os.getpid()}.part")
            try:
                with self._store.open(key) as source, part.open("wb") as file:
                    shutil.copyfileobj(source, file, 1 << 20)
                if part.stat().st_size != size:
                    raise DataRefused(f"{self.address(key)} changed while it was copied; run the command again")
                part.replace(target)
            except OSError as error:
                raise StoreError(f"cannot copy {self.address(key)} to {target.parent}: {error.strerror}") from error
            finally:
                part.unlink(missing_ok=True)
        return target

    def release(self) -> None:
        """Deletes the copies of this address on this machine."""
        if is_s3(self.root):
            shutil.rmtree(self._folder(), ignore_errors=True)
            self._copies = None

    def _folder(self) -> Path:
        if self._copies is None:
            base = Path(os.environ.get(_SCRATCH) or tempfile.gettempdir())
            name = hashlib.sha256(self.root.encode()).hexdigest()[:24]
            self._copies = base / f"eoforge-tiles-{os.getuid()}" / name
            self._copies.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self._copies.parent.stat().st_uid != os.getuid():
                raise StoreError(f"{self._copies.parent} belongs to another user; set {_SCRATCH} to a folder of yours")
        return self._copies
