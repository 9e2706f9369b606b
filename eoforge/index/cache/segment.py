"""Segment of an index: files of one set of patches, in the order of patch ids, mapped into memory.

Files of a segment::

    codes-s1.bin, codes-s2.bin   [N, K/8] uint8; zeros where a patch lacks the sensor
    place.bin                    [N] uint32, row of each patch in its version of the patches
    flags.bin ... cells.bin      columns and orders of the filters (``columns.py``)
    metadata.arrow               METADATA_COLUMNS, read for hits only
    manifest.json                sizes and CRC-32 of the files above; written last

Resident in memory is what searches read: the codes of a sensor, and the columns of conditions. Pages of the files are
shared by all processes of the node, and the system may drop them.
"""

from __future__ import annotations

import json
import math
import shutil
import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from eoforge.data.tables.schema import METADATA_FIELDS
from eoforge.errors import DamagedObject, StoreError
from eoforge.index.cache.columns import FIELDS, ORDERS, SENSOR, FilterColumns, columns_of, orders_of
from eoforge.index.search import Rows

FORMAT = 2
BATCH_ROWS = 1 << 20
"""Most rows of a batch of ``metadata.arrow``; one that holds all hits is read at once."""
BYTES_PER_PATCH = 400
"""Estimate of a row without its codes: its metadata (about 280 bytes in reBEN), columns and orders, rounded up."""
BYTES_PER_SEGMENT = 2 << 20
"""Estimate of what a segment has beside its rows, such as the starts of the cells."""

_MANIFEST, _METADATA, _PLACE = "manifest.json", "metadata.arrow", "place"
_READ = 16 << 20
_SCHEMA = pa.schema([field.remove_metadata() for field in METADATA_FIELDS])


class Segment:
    """Opened segment.

    Attributes:
        id: Name of its folder.
        codes: Codes ``[N, K/8]`` by sensor.
        place: Row ``[N]`` of each patch in its version of the patches.
        columns: Conditions of filters.
        present: Number of patches by sensor.
    """

    def __init__(self, folder: Path, manifest: Mapping[str, Any]) -> None:
        """Segment whose files were checked; see :meth:`open`."""
        self.id, rows = folder.name, int(manifest["rows"])
        self.present: dict[str, int] = dict(manifest["present"])
        width = int(manifest["bits"]) // 8
        self.codes = {m: _mapped(folder / f"codes-{m}.bin", "u1", width) for m in sorted(self.present)}
        self.place = _mapped(folder / f"{_PLACE}.bin", "<u4")
        arrays = _columns(folder) | {name: _mapped(folder / f"{name}.bin", "<u4") for name in ORDERS}
        lacking = [m for m, count in self.present.items() if count < rows]
        self.columns = FilterColumns(arrays, manifest["names"], lacking)
        with pa.memory_map(str(folder / _METADATA)) as source, pa.ipc.open_file(source) as reader:
            self._batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        self._first_ids = [batch.column(0)[0].as_py() for batch in self._batches]
        self._starts = np.cumsum([0, *(len(batch) for batch in self._batches)])

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Segment of a folder, after a check of its files.

        Metadata are three quarters of the bytes: they are read for the check only if the file was changed since it was
        written. No distance or filter depends on them.

        Raises:
            DamagedObject: A file is missing or differs from the manifest, or the manifest is of another format.
        """
        try:
            manifest = json.loads((folder / _MANIFEST).read_bytes())
            if (manifest["format"], manifest["id"]) != (FORMAT, folder.name):
                raise DamagedObject(
                    f"expected segment {folder.name} of format {FORMAT}; got {manifest['id']} of {manifest['format']}"
                )
            with ThreadPoolExecutor() as threads:
                paths = [folder / name for name in manifest["files"]]
                if _stat(folder / _METADATA) == manifest["metadata"]:
                    paths.remove(folder / _METADATA)
                for path, found in zip(paths, threads.map(_checksum, paths), strict=True):
                    if found != (expected := manifest["files"][path.name]):
                        raise DamagedObject(f"{path.name}: expected size and CRC-32 {expected}; got {found}")
            return cls(folder, manifest)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:  # cut off, overwritten or missing
            raise DamagedObject(f"segment {folder.name} cannot be read: {error}") from error

    def __len__(self) -> int:
        return int(self._starts[-1])

    def metadata(self, rows: Rows) -> pa.Table:
        """Metadata of rows, in their order; a row may come twice."""
        if not len(rows):
            return _SCHEMA.empty_table()
        if len(self._batches) == 1:
            return pa.Table.from_batches([self._batches[0].take(pa.array(rows))])
        number = np.searchsorted(self._starts, rows, side="right") - 1
        order = np.argsort(number, kind="stable")
        parts = [
            self._batches[n].take(pa.array(rows[order[number[order] == n]] - self._starts[n]))
            for n in np.unique(number).tolist()
        ]
        back = np.empty(len(rows), np.int64)
        back[order] = np.arange(len(rows))
        found = pa.Table.from_batches(parts, _SCHEMA)
        return found if len(parts) == 1 and (np.diff(order) > 0).all() else found.combine_chunks().take(pa.array(back))

    def ids(self) -> Iterator[pa.Array]:
        """Patch ids in ascending order, in parts."""
        return (batch.column(0) for batch in self._batches)

    def row_of(self, patch_id: str) -> int | None:
        """Row of a patch; None if it is not in the segment. Reads as many ids as a search by halves."""
        number = bisect_right(self._first_ids, patch_id) - 1
        if number < 0:
            return None
        ids = self._batches[number].column(0)
        row = bisect_left(range(len(ids)), patch_id, key=lambda i: ids[i].as_py())
        found = row < len(ids) and ids[row].as_py() == patch_id
        return int(self._starts[number]) + row if found else None


class SegmentWriter:
    """Writer of a segment, part by part in the order of patch ids; memory is bounded by the largest part.

    Args:
        folder: Its folder, to be created; its name is the id.
        bits: Code length K.
        sensors: Sensors with codes.
        limit: Most bytes of the files.

    Raises:
        StoreError: The disk is full or refuses, or the files would pass ``limit``.
    """

    def __init__(self, folder: Path, bits: int, sensors: Sequence[str], limit: int) -> None:
        self._folder, self._bits, self._sensors, self._limit = folder, bits, sorted(sensors), limit
        self._rows, self._bytes = 0, 0
        self._present = dict.fromkeys(self._sensors, 0)
        self._names: dict[str, dict[str, int]] = {"country": {}, "split": {}}
        folder.mkdir(mode=0o700)
        names = [*(f"codes-{m}" for m in self._sensors), _PLACE, *FIELDS]
        self._files = {name: (folder / f"{name}.bin").open("wb") for name in names}
        self._sink = pa.OSFile(str(folder / _METADATA), "wb")
        self._metadata = pa.ipc.new_file(self._sink, _SCHEMA)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        for file in self._files.values():
            file.close()
        self._sink.close()
        if kind is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def add(self, metadata: pa.Table, place: npt.NDArray[np.int64], codes: Mapping[str, npt.NDArray[np.uint8]]) -> None:
        """Rows whose patch ids ascend and follow those before.

        Args:
            metadata: ``METADATA_COLUMNS`` ``[n]``.
            place: Row ``[n]`` of each patch in its version of the patches.
            codes: Codes ``[n, K/8]`` by sensor.
        """
        columns = columns_of(metadata, self._names)
        for sensor in self._sensors:
            self._present[sensor] += int(np.count_nonzero(columns["flags"] & SENSOR[sensor]))
            self._write(f"codes-{sensor}", codes[sensor])
        self._write(_PLACE, place.astype("<u4"))
        for name, values in columns.items():
            self._write(name, values)
        for batch in metadata.select(_SCHEMA.names).cast(_SCHEMA).combine_chunks().to_batches(BATCH_ROWS):
            self._metadata.write_batch(batch)
            self._grow(batch.nbytes)
        self._rows += metadata.num_rows

    def finish(self) -> None:
        """Orders of the rows, checksums and manifest; the segment is complete."""
        for file in self._files.values():
            file.close()
        self._metadata.close()
        self._sink.close()
        for name, values in orders_of(_columns(self._folder)).items():
            self._grow(values.nbytes)
            (self._folder / f"{name}.bin").write_bytes(values.astype("<u4").data)
        paths = sorted(path for path in self._folder.iterdir() if path.name != _MANIFEST)
        manifest = {
            "format": FORMAT,
            "id": self._folder.name,
            "rows": self._rows,
            "bits": self._bits,
            "present": self._present,
            "names": {name: list(numbers) for name, numbers in self._names.items()},
            "metadata": _stat(self._folder / _METADATA),
            "files": {path.name: _checksum(path) for path in paths},
        }
        (self._folder / _MANIFEST).write_text(json.dumps(manifest))

    def _write(self, name: str, values: npt.NDArray[np.generic]) -> None:
        self._grow(values.nbytes)
        self._files[name].write(np.ascontiguousarray(values).data)

    def _grow(self, size: int) -> None:
        self._bytes += size
        if self._bytes > self._limit:
            raise StoreError(
                f"the local cache of the index needs more than the {self._limit} bytes that it may have; raise "
                "EOFORGE_CACHE_BYTES, or index with `--engine ivf`, which needs no copy"
            )


def _columns(folder: Path) -> dict[str, npt.NDArray[Any]]:
    return {name: _mapped(folder / f"{name}.bin", dtype, *shape) for name, (dtype, *shape) in FIELDS.items()}


def _mapped(path: Path, dtype: str, *shape: int) -> npt.NDArray[Any]:
    """Array ``[N, *shape]`` of a file; an empty file cannot be mapped."""
    rows = path.stat().st_size // (np.dtype(dtype).itemsize * math.prod(shape))
    # asarray: a plain array over the map, which keeps the map alive.
    return np.asarray(np.memmap(path, dtype, "r", shape=(rows, *shape))) if rows else np.empty((0, *shape), dtype)


def _stat(path: Path) -> list[int]:
    """Size and time of the last change of a file."""
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]


def _checksum(path: Path) -> list[int]:
    """Size and CRC-32 of a file."""
    crc, size = 0, 0
    with path.open("rb") as file:
        while chunk := file.read(_READ):
            crc, size = zlib.crc32(chunk, crc), size + len(chunk)
    return [size, crc]
