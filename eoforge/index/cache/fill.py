"""Filling of a segment from its tables: codes are checked, joined with their patches, and sorted by patch id.

Memory is bounded by a part of the patch ids. Larger tables are first distributed to files, one per part, between ids
that a sample of the table gives (external sort). Rasters are not read.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from eoforge.data.tables.schema import ACQUIRED, CODE_CRC, METADATA_COLUMNS, ROW_CRC
from eoforge.errors import DataRefused
from eoforge.hashing.checksum import code_checksums, row_checksums
from eoforge.index.cache.segment import SegmentWriter
from eoforge.progress import Tracker, track

if TYPE_CHECKING:
    import lance

PART_ROWS = 750_000
"""Patches that are joined and sorted at once, in some 1.2 GB; reBEN (549,488) is one part."""
PLACE = "place"
_SAMPLES_PER_PART, _SCAN = 64, 1 << 16
Codes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Source:
    """Rows that a segment is made of.

    Attributes:
        codes: Table of codes.
        patches: Version of the patches that the codes name.
        bits: Code length K.
        name: Name of the codes for error messages.
        code_fragments: First fragment of the codes that counts; those before are in other segments.
        patch_fragments: First fragment of the patches that counts.
    """

    codes: lance.LanceDataset
    patches: lance.LanceDataset
    bits: int
    name: str
    code_fragments: int = 0
    patch_fragments: int = 0

    def sensors(self) -> list[str]:
        """Sensors of which the whole table has codes."""
        return [m for m in sorted(ACQUIRED) if self.codes.count_rows(filter=f"modality = '{m}'")]

    def code_batches(self) -> Iterator[pa.RecordBatch]:
        """Codes whose checksums hold.

        Raises:
            DataRefused: Codes differ from their checksums; raised after the last batch, with their number.
        """
        crc = next((name for name in (ROW_CRC, CODE_CRC) if name in self.codes.schema.names), None)
        columns = ["patch_id", "modality", "code", *([crc] if crc else [])]
        fragments = self.codes.get_fragments()[self.code_fragments :]
        wrong, first, total = 0, "", 0
        for batch in (
            self.codes.scanner(columns=columns, fragments=fragments, batch_size=_SCAN).to_batches() if fragments else ()
        ):
            total += batch.num_rows
            if crc:
                bad = np.flatnonzero(_checksums(batch, crc, self.bits) != batch.column(crc).to_numpy())
                first = first or (str(batch.column("patch_id")[int(bad[0])]) if len(bad) else "")
                wrong += len(bad)
            yield batch.select(columns[:3])
        if wrong:
            raise DataRefused(
                f"{self.name} is damaged: {wrong} of {total} codes differ from their checksums, first that of "
                f"{first}. Restore the table, or index again into a new one"
            )

    def patch_batches(self, columns: Sequence[str] = METADATA_COLUMNS) -> Iterator[pa.RecordBatch]:
        """Metadata of the patches, with column ``place``."""
        before, fragments = np.split(np.array(self.patches.get_fragments(), dtype=object), [self.patch_fragments])
        place = sum(fragment.count_rows() for fragment in before)
        scan = (
            self.patches.scanner(columns=list(columns), fragments=list(fragments), batch_size=_SCAN)
            if len(fragments)
            else None
        )
        for batch in scan.to_batches() if scan else ():
            yield batch.append_column(PLACE, pa.array(np.arange(place, place + batch.num_rows)))
            place += batch.num_rows

    def patch_count(self) -> int:
        """Number of patches."""
        return sum(fragment.count_rows() for fragment in self.patches.get_fragments()[self.patch_fragments :])


def fill(source: Source, writer: SegmentWriter, sensors: Sequence[str], scratch: Path) -> bool:
    """Writes the patches of a source, those with a code in every sensor that they have; the writer finishes.

    Args:
        source: Tables.
        writer: Writer of the segment.
        sensors: Sensors of :meth:`Source.sensors`.
        scratch: Folder for the parts of large tables.

    Returns:
        Whether every patch and every code of the source is in the segment: only then can later rows be added to it.

    Raises:
        DataRefused: Codes differ from their checksums.
    """
    count = source.patch_count()
    whole = True
    with track("reading the index", total=count) as progress:
        for patches, codes in _parts(source, count, scratch):
            whole &= _write_part(patches, codes, source.bits, sensors, writer)
            progress.advance(patches.num_rows)
        writer.finish()
    return whole


def _write_part(patches: pa.Table, rows: pa.Table, bits: int, sensors: Sequence[str], writer: SegmentWriter) -> bool:
    metadata = patches.sort_by("patch_id")
    complete, any_code = np.ones(metadata.num_rows, dtype=bool), np.zeros(metadata.num_rows, dtype=bool)
    used = 0
    found: dict[str, tuple[Codes, npt.NDArray[np.int64]]] = {}
    for sensor in sensors:
        part = rows.filter(pc.equal(rows.column("modality"), sensor)).combine_chunks()
        place = pc.index_in(metadata.column("patch_id"), value_set=_whole(part, "patch_id"))
        place_N = pc.fill_null(place, -1).to_numpy().astype(np.int64)
        absent = metadata.column(ACQUIRED[sensor]).is_null().to_numpy()
        place_N[absent] = -1
        complete &= absent | (place_N >= 0)
        any_code |= place_N >= 0
        used += int(np.count_nonzero(place_N >= 0))
        found[sensor] = (_packed(part.column("code"), bits), place_N)
    complete &= any_code
    kept = metadata.filter(pa.array(complete))
    aligned = {sensor: _aligned(packed, place_N[complete]) for sensor, (packed, place_N) in found.items()}
    writer.add(kept.drop_columns([PLACE]), kept.column(PLACE).to_numpy(), aligned)
    return bool(complete.all()) and used == rows.num_rows


def _parts(source: Source, count: int, scratch: Path) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Patches and codes of one part of the ids after the other; the parts are in the order of ids."""
    number = -(-count // PART_ROWS)
    if number <= 1:
        codes = list(source.code_batches())
        patches = list(source.patch_batches())
        yield _table(patches, source.patches.schema, METADATA_COLUMNS), _table(codes, source.codes.schema)
        return
    bounds = _bounds(source, count, number)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=scratch)))
        with track("distributing the index", total=count) as progress:
            codes_of = _spill(source.code_batches(), bounds, folder / "codes", None)
            patches_of = _spill(source.patch_batches(), bounds, folder / "patches", progress)
        for part in range(number):
            yield patches_of.read(part), codes_of.read(part)


def _bounds(source: Source, count: int, parts: int) -> npt.NDArray[np.bytes_]:
    """Ids between the parts, by a sample of every n-th row."""
    step, seen, sample = max(1, count // (parts * _SAMPLES_PER_PART)), 0, []
    for batch in source.patch_batches(["patch_id"]):
        sample += _texts(
            batch.column("patch_id").take(pa.array(np.arange(-seen % step, batch.num_rows, step)))
        ).tolist()
        seen += batch.num_rows
    ordered = np.sort(np.array(sample))
    return ordered[np.arange(1, parts) * len(ordered) // parts]


class _Spill:
    """Files of batches, one per part."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writers: dict[int, pa.ipc.RecordBatchStreamWriter] = {}
        self._schema: pa.Schema | None = None
        folder.mkdir()

    def add(self, batch: pa.RecordBatch, parts: npt.NDArray[np.int64]) -> None:
        """Rows of a batch, each to its part."""
        self._schema = batch.schema
        order = np.argsort(parts, kind="stable")
        ordered, numbers = batch.take(pa.array(order)), parts[order]
        edges = np.flatnonzero(np.diff(numbers)) + 1
        for first, last in zip([0, *edges.tolist()], [*edges.tolist(), len(numbers)], strict=True):
            part = int(numbers[first])
            if part not in self._writers:
                self._writers[part] = pa.ipc.new_stream(str(self._folder / str(part)), batch.schema)
            self._writers[part].write_batch(ordered.slice(first, last - first))

    def close(self) -> Self:
        """Ends the writing."""
        for writer in self._writers.values():
            writer.close()
        return self

    def read(self, part: int) -> pa.Table:
        """Rows of a part; its file is removed."""
        path = self._folder / str(part)
        if part not in self._writers:
            return (self._schema or pa.schema([])).empty_table()
        with pa.OSFile(str(path)) as file:
            rows = pa.ipc.open_stream(file).read_all()
        path.unlink()
        return rows


def _spill(
    batches: Iterator[pa.RecordBatch], bounds: npt.NDArray[np.bytes_], folder: Path, progress: Tracker | None
) -> _Spill:
    spill = _Spill(folder)
    try:
        for batch in batches:
            if batch.num_rows:
                spill.add(batch, np.searchsorted(bounds, _texts(batch.column("patch_id")), side="right"))
            if progress is not None:
                progress.advance(batch.num_rows)
    finally:
        spill.close()
    return spill


def _texts(ids: pa.Array) -> npt.NDArray[np.bytes_]:
    """Ids as bytes in UTF-8, whose order is that of Arrow."""
    return np.array(ids.cast(pa.binary()).to_pylist(), dtype=np.bytes_)


def _table(batches: list[pa.RecordBatch], schema: pa.Schema, columns: Sequence[str] | None = None) -> pa.Table:
    """Batches as one table; ``schema`` is that of their table."""
    if batches:
        return pa.Table.from_batches(batches)
    fields = [schema.field(name) for name in columns or ("patch_id", "modality", "code")]
    return pa.schema([*fields, *([pa.field(PLACE, pa.int64())] if columns else [])]).empty_table()


def _whole(rows: pa.Table, column: str) -> pa.Array:
    """A column as one array."""
    return pa.concat_arrays(rows.column(column).chunks) if rows.num_rows else pa.array([], pa.string())


def _packed(column: pa.ChunkedArray, bits: int) -> Codes:
    """Codes ``[N, K/8]`` of a column."""
    packed: Codes = column.combine_chunks().flatten().to_numpy().reshape(-1, bits // 8)
    return packed


def _aligned(packed: Codes, place_N: npt.NDArray[np.int64]) -> Codes:
    """Codes in the order of the rows; zeros where a patch has none, which a search leaves out."""
    if (place_N >= 0).all():
        return packed[place_N]
    if not len(packed):
        return np.zeros((len(place_N), packed.shape[1]), np.uint8)
    out = packed[np.maximum(place_N, 0)]
    out[place_N < 0] = 0
    return out


def _checksums(batch: pa.RecordBatch, kind: str, bits: int) -> npt.NDArray[np.uint32]:
    packed = batch.column("code").flatten().to_numpy().reshape(-1, bits // 8)
    if kind == CODE_CRC:
        return code_checksums(packed)
    return row_checksums(packed, batch.column("modality"), batch.column("patch_id"))
