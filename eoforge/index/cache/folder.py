"""Folder of the local cache: segments of indexes, bounded in bytes and shared by the processes of a node.

An index is a list of segments. A version that only adds rows keeps the segments of the version before and adds one, so
that no row is held twice; any other version, and one segment too many, is written as a new segment. An index is named
by the files that the versions of both tables consist of, never by dates.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from eoforge.errors import DamagedObject, StoreError
from eoforge.index.cache.fill import Source, fill
from eoforge.index.cache.segment import BYTES_PER_PATCH, BYTES_PER_SEGMENT, FORMAT, Segment, SegmentWriter

if TYPE_CHECKING:
    import lance

DEFAULT_BYTES = 12 << 30
"""Bound of the cache; 30 million patches with 128-bit codes of two sensors take that. The chart's volume is larger."""
FOLDER_VARIABLE = "EOFORGE_CACHE_FOLDER"
MAX_SEGMENTS = 8
"""Segments of one index; each costs a search of its own, so that one more makes the index one segment again."""

_LOCK, _INDEX, _PARTIAL = "lock", ".index.json", ".partial"

log = structlog.get_logger("index")


@dataclass(frozen=True)
class _Index:
    """What an index consists of: files of its tables, and segments."""

    table: str
    bits: int
    sensors: list[str]
    codes: list[str]
    patches: list[str]
    segments: list[str]
    whole: bool

    @property
    def key(self) -> str:
        """Name of the index, by all that its content depends on."""
        return _digest([FORMAT, self.table, self.bits, self.codes, self.patches])

    def grew_into(self, other: _Index) -> bool:
        """Whether ``other`` has all rows of this index as they are, and perhaps more."""
        same = (self.table, self.bits, self.sensors) == (other.table, other.bits, other.sensors)
        kept = [other.codes[: len(self.codes)], other.patches[: len(self.patches)]]
        return same and self.whole and kept == [self.codes, self.patches]


class IndexCache:
    """Cache of indexes on a local disk.

    Args:
        folder: Its folder, created if absent; by default that of ``EOFORGE_CACHE_FOLDER``, else ``eoforge/index`` in
            ``XDG_CACHE_HOME`` or ``~/.cache``.
        limit: Most bytes of all its files. The least recently used indexes are removed for a new one.
    """

    def __init__(self, folder: str | Path | None = None, limit: int = DEFAULT_BYTES) -> None:
        home = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
        chosen = folder or os.environ.get(FOLDER_VARIABLE) or Path(home, "eoforge", "index")
        self.folder, self._limit = Path(chosen).absolute(), limit

    def open(
        self, name: str, codes: lance.LanceDataset, patches: lance.LanceDataset, bits: int, held: Sequence[Segment] = ()
    ) -> list[Segment]:
        """Segments of an index, in order; filled from the tables if they are not there or damaged.

        Args:
            name: Name of the table of codes for error messages.
            codes: Table of codes at its version.
            patches: Patches that the codes name.
            bits: Code length K.
            held: Segments that this process has open; they are not opened again.

        Raises:
            StoreError: The folder cannot be used, the disk is full, or the index is larger than the cache.
            DataRefused: Codes differ from their checksums.
        """
        source = Source(codes, patches, bits, name)
        wanted = _Index(
            _digest([str(codes.uri), str(patches.uri)]),
            bits,
            source.sensors(),
            _files(codes),
            _files(patches),
            [],
            whole=False,
        )
        with _store_errors(self.folder), self._locked():
            opened = {segment.id: segment for segment in held}
            found = self._find(wanted.key)
            if found is not None and (segments := self._segments(found, opened)) is not None:
                os.utime(self._path(found.key))
                return segments
            return self._fill(source, wanted, opened)

    def _fill(self, source: Source, wanted: _Index, opened: dict[str, Segment]) -> list[Segment]:
        for base in sorted(self._indexes(), key=lambda each: len(each.codes), reverse=True):
            if not base.grew_into(wanted) or (segments := self._segments(base, opened)) is None:
                continue
            if len(segments) < MAX_SEGMENTS:
                added = replace(source, code_fragments=len(base.codes), patch_fragments=len(base.patches))
                segment, whole = self._write(added, wanted, base.segments)
                if whole:
                    grown = replace(wanted, segments=[*base.segments, segment.id], whole=True)
                    return self._keep(grown, [*segments, segment])
                # Codes of older patches, or patches of older codes: all is written anew.
            break
        segment, whole = self._write(source, wanted, [])
        return self._keep(replace(wanted, segments=[segment.id], whole=whole), [segment])

    def _write(self, source: Source, wanted: _Index, kept: Sequence[str]) -> tuple[Segment, bool]:
        """New segment beside the segments of its index that are kept."""
        need = source.patch_count() * (len(wanted.sensors) * wanted.bits // 8 + BYTES_PER_PATCH) + BYTES_PER_SEGMENT
        used = self._make_room(need, kept)
        name = _digest([wanted.key, source.code_fragments, source.patch_fragments])
        target, partial = self.folder / name, self.folder / (name + _PARTIAL)
        shutil.rmtree(target, ignore_errors=True)
        log.info("filling the local cache of the index", patches=source.patch_count(), bytes=need, at=str(self.folder))
        with tempfile.TemporaryDirectory(dir=self.folder, suffix=_PARTIAL) as scratch:
            folder = Path(scratch) / name
            with SegmentWriter(folder, wanted.bits, wanted.sensors, self._limit - used) as writer:
                whole = fill(source, writer, wanted.sensors, Path(scratch))
            folder.rename(partial)
        partial.rename(target)
        return Segment.open(target), whole

    def _keep(self, index: _Index, segments: list[Segment]) -> list[Segment]:
        path = self._path(index.key)
        partial = path.with_suffix(_PARTIAL)
        partial.write_text(json.dumps(asdict(index)))
        partial.rename(path)
        return segments

    def _segments(self, index: _Index, opened: dict[str, Segment]) -> list[Segment] | None:
        """Opened segments of an index; None, and the damaged index is removed, if one cannot be read."""
        found = []
        for name in index.segments:
            try:
                found.append(opened.get(name) or Segment.open(self.folder / name))
            except DamagedObject as error:
                log.warning("damaged local cache of the index is filled again", at=str(self.folder), reason=str(error))
                self._remove(index)
                shutil.rmtree(self.folder / name, ignore_errors=True)
                return None
        return found

    def _find(self, key: str) -> _Index | None:
        return next((index for index in self._indexes() if index.key == key), None)

    def _indexes(self) -> Iterator[_Index]:
        """Indexes of the folder; a description that is damaged, or of another index than its name says, is removed."""
        for path in sorted(self.folder.glob(f"*{_INDEX}")):
            try:
                index = _Index(**json.loads(path.read_bytes()))
                if self._path(index.key) != path:
                    raise ValueError(f"it describes index {index.key}")
            except (ValueError, TypeError) as error:
                log.warning("damaged description in the local cache of the index", file=path.name, reason=str(error))
                path.unlink(missing_ok=True)
                continue
            yield index

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}{_INDEX}"

    def _remove(self, index: _Index) -> None:
        self._path(index.key).unlink(missing_ok=True)

    def _make_room(self, need: int, kept: Sequence[str]) -> int:
        """Removes what no index names, then the least recently used indexes; returns the bytes that stay.

        Processes that have a removed segment open keep it until they close it.
        """
        indexes = sorted(self._indexes(), key=lambda index: self._path(index.key).stat().st_mtime)
        while True:
            named = {name for index in indexes for name in index.segments} | set(kept)
            for path in self.folder.iterdir():
                if path.is_dir() and path.name not in named:
                    shutil.rmtree(path, ignore_errors=True)
            used = sum(file.stat().st_size for file in self.folder.glob("*/*"))
            fits = used + need <= self._limit
            free = shutil.disk_usage(self.folder).free
            if fits and need <= free:
                return used
            removable = [index for index in indexes if not set(index.segments) & set(kept)]
            if not removable:
                bound = f"{free} are free on its disk" if fits else f"EOFORGE_CACHE_BYTES allows {self._limit}"
                raise StoreError(
                    f"the local cache of the index needs about {need} bytes in {self.folder}, beside {used} that stay; "
                    f"{bound}. Give it more, or index with `--engine ivf`, which needs no copy"
                )
            self._remove(removable[0])
            indexes.remove(removable[0])

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One process at a time looks, fills and removes; the next finds what it filled."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = self.folder.lstat()
        # Who can write there can answer searches: the folder must be ours alone.
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
            raise StoreError(
                f"the local cache of the index must be a folder of this user that no one else can write; {self.folder} "
                f"has owner {found.st_uid} and mode {stat.filemode(found.st_mode)}. Name another by {FOLDER_VARIABLE}"
            )
        with (self.folder / _LOCK).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                log.info("another process fills the local cache of the index", at=str(self.folder))
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield


@contextmanager
def _store_errors(folder: Path) -> Iterator[None]:
    """Errors of the disk of the cache as errors for the operator."""
    try:
        yield
    except OSError as error:
        reason = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else str(error)
        raise StoreError(f"cannot use the local cache of the index in {folder}: {reason}") from error


def _files(table: lance.LanceDataset) -> list[str]:
    """A text per fragment of a table: equal if and only if its rows are."""
    return [_digest(fragment.metadata.to_json()) for fragment in table.get_fragments()]


def _digest(value: Any) -> str:
    return hashlib.blake2b(json.dumps(value, sort_keys=True, default=str).encode(), digest_size=16).hexdigest()
