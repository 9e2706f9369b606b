"""Look-up of values in an LMDB file, without a memory map.

The LMDB library maps its file and trusts it: a file that was cut off, also while it is read, and a value with a damaged
size end the process by SIGBUS, which no ``except`` catches. Here pages are read by ``pread``, and every number in them
is checked. Supported is what rico-hdl writes: the main database of a 64-bit little-endian machine, keys sorted by
bytes.

Source: ``mdb.c`` of LMDB 0.9: ``MDB_page``, ``MDB_meta``, ``MDB_db``, ``MDB_node``.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from eoforge.errors import DataRefused, StoreError

_PAGE = struct.Struct("<QHHHH")
"""Page number, padding, flags, and begin and end of the free space."""
_OVERFLOW_COUNT = struct.Struct("<12xI")
"""Number of pages of a value, in place of the free space."""
_META = struct.Struct("<16xII16xI44x4xHH32xQQQ")
"""Magic, version, page size; flags, depth and root page of the main database; last page, transaction."""
_NODE = struct.Struct("<HHHH")
"""Low and high half of a size or page number, flags (upper bits of a page number), size of the key."""
_MAGIC, _VERSION = 0xBEEFC0DE, 1
_BRANCH, _LEAF, _OVERFLOW, _META_PAGE = 0x01, 0x02, 0x04, 0x08
_BIG_VALUE = 0x01
"""Flag of a node whose value lies in pages of its own."""
_EMPTY = (1 << 64) - 1
_MAX_DEPTH = 32
_CACHED_PAGES = 1024


class _Node(NamedTuple):
    number: int
    flags: int
    key: bytes
    start: int


class LmdbFile:
    """Read-only LMDB file.

    Args:
        path: The ``data.mdb``.

    Raises:
        DataRefused: The file is no LMDB, is damaged, or is shorter than its header says.
        StoreError: The file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = open(path, "rb", buffering=0)  # noqa: SIM115  # closed with this object
        except OSError as error:
            raise StoreError(f"cannot open {path}: {error.strerror}. Check its permissions.") from error
        self._branch_or_leaf = lru_cache(_CACHED_PAGES)(self._read_tree_page)
        self._size = self._meta(0)[2]
        if self._size not in (1 << n for n in range(9, 17)):
            raise self._damaged(f"its header claims pages of {self._size} bytes")
        metas = (self._meta(0), self._meta(self._size))
        _, _, _, flags, _, self._root, self._last, _ = max(metas, key=lambda meta: meta[-1])
        if flags:
            raise DataRefused(f"{path}: its database has the flags {flags:#x}; expected keys sorted by bytes")
        claimed, held = (self._last + 1) * self._size, os.fstat(self._file.fileno()).st_size
        if held < claimed:
            raise DataRefused(f"{path}: truncated: the LMDB claims {claimed} bytes, the file has {held}")

    def get(self, key: bytes, limit: int) -> bytes | None:
        """Value of a key; None if the key is absent.

        Raises:
            DataRefused: The value is larger than ``limit`` bytes, or the file is damaged or was cut off meanwhile.
            StoreError: The disk fails.
        """
        found = self._find(key)
        return None if found is None else self._value(*found, key, limit)

    def has(self, key: bytes) -> bool:
        """Whether the key is there; its value is not read.

        Raises:
            DataRefused: The file is damaged or was cut off meanwhile.
            StoreError: The disk fails.
        """
        return self._find(key) is not None

    def _find(self, key: bytes) -> tuple[bytes, _Node] | None:
        """Page and entry of a key."""
        number = self._root
        if number == _EMPTY:
            return None
        for _ in range(_MAX_DEPTH):
            page, is_branch, count = self._branch_or_leaf(number)
            # The first key of a branch page is empty: its child holds all keys below the second.
            low, high = int(is_branch), count
            while low < high:
                middle = (low + high) // 2
                low, high = (middle + 1, high) if self._node(page, middle).key <= key else (low, middle)
            node = self._node(page, low - 1) if low else None
            if not is_branch:
                return None if node is None or node.key != key else (page, node)
            if node is None:
                raise self._damaged(f"page {number} holds no key")
            number = node.number | node.flags << 32
        raise self._damaged(f"its tree has more than {_MAX_DEPTH} levels")

    def _value(self, page: bytes, node: _Node, key: bytes, limit: int) -> bytes:
        if node.number > limit:
            raise DataRefused(f"{key.decode()} has {node.number} bytes, beyond the limit of {limit}")
        if node.flags & ~_BIG_VALUE:
            raise self._damaged(f"the value of {key.decode()} has the flags {node.flags:#x}")
        if not node.flags:
            return self._cut(page, node.start, node.number)
        first = int.from_bytes(self._cut(page, node.start, 8), "little")
        head = self._read(first, 0, _PAGE.size)
        (pages,) = _OVERFLOW_COUNT.unpack(head)
        claimed, _, kind, *_ = _PAGE.unpack(head)
        if (claimed, kind) != (first, _OVERFLOW) or _PAGE.size + node.number > pages * self._size:
            raise self._damaged(f"page {first} does not hold the {node.number} bytes of {key.decode()}")
        return self._read(first, _PAGE.size, node.number)

    def _node(self, page: bytes, index: int) -> _Node:
        (offset,) = struct.unpack_from("<H", page, _PAGE.size + 2 * index)
        low, high, flags, size = _NODE.unpack(self._cut(page, offset, _NODE.size))
        start = offset + _NODE.size
        return _Node(low | high << 16, flags, self._cut(page, start, size), start + size)

    def _cut(self, page: bytes, start: int, size: int) -> bytes:
        if start + size > len(page):
            raise self._damaged(f"an entry of {size} bytes does not fit into its page")
        return page[start : start + size]

    def _read_tree_page(self, number: int) -> tuple[bytes, bool, int]:
        """Bytes of a page of the tree, whether it is a branch, and its number of keys."""
        page = self._read(number, 0, self._size)
        claimed, _, flags, lower, _ = _PAGE.unpack_from(page)
        if claimed != number or flags not in (_BRANCH, _LEAF) or not _PAGE.size <= lower <= self._size:
            raise self._damaged(f"page {number} is no page of its tree")
        return page, flags == _BRANCH, (lower - _PAGE.size) // 2

    def _meta(self, offset: int) -> tuple[int, ...]:
        data = self._pread(offset, _META.size)
        meta = _META.unpack(data)
        if meta[:2] != (_MAGIC, _VERSION) or _PAGE.unpack_from(data)[2] != _META_PAGE:
            raise DataRefused(f"{self._path}: damaged or no LMDB: its header lacks the mark of version {_VERSION}")
        return meta

    def _read(self, number: int, start: int, size: int) -> bytes:
        """``size`` bytes from byte ``start`` of a page, which may continue in the next pages."""
        if not 2 <= number <= self._last:
            raise self._damaged(f"it refers to page {number}; its last page is {self._last}")
        return self._pread(number * self._size + start, size)

    def _pread(self, offset: int, size: int) -> bytes:
        try:
            data = b"".join(self._parts(offset, size))
        except OSError as error:
            raise StoreError(f"cannot read {self._path}: {error}") from error
        if len(data) != size:
            end = offset + size
            raise DataRefused(f"{self._path}: truncated: the LMDB needs bytes up to {end}, the file ends before")
        return data

    def _parts(self, offset: int, size: int) -> Iterator[bytes]:
        while size and (part := os.pread(self._file.fileno(), size, offset)):
            yield part
            offset, size = offset + len(part), size - len(part)

    def _damaged(self, what: str) -> DataRefused:
        return DataRefused(f"{self._path}: the LMDB is damaged: {what}")
