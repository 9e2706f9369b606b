"""The official metadata: two parquet files of one shape, read as one table in patch_id order.

``metadata.parquet`` holds the recommended patches, ``metadata_for_patches_with_snow_cloud_or_shadow.parquet`` the
others. Half a million rows stay in Arrow; Python objects are made for the rows that are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from eoforge.data.archives.layout import MAIN_FILE, SNOW_CLOUD_FILE
from eoforge.data.records import PatchMeta
from eoforge.errors import DataRefused, NotFound

METADATA: pa.Schema = pa.schema(
    [
        pa.field("patch_id", pa.string(), nullable=False),
        pa.field("s1_name", pa.string(), nullable=False),
        pa.field("s2v1_name", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("country", pa.string(), nullable=False),
        pa.field("labels", pa.list_(pa.string()), nullable=False),
        pa.field("contains_seasonal_snow", pa.bool_(), nullable=False),
        pa.field("contains_cloud_or_shadow", pa.bool_(), nullable=False),
    ]
)


class MetadataRows(Sequence[PatchMeta]):
    """Metadata rows ordered by patch_id, a sequence of :class:`PatchMeta` over an Arrow table.

    Rows with equal patch_id are all kept, in the order main file first; all but the first are marked ``repeated``.

    Attributes:
        table: The rows, with the columns of :data:`METADATA`.
    """

    def __init__(self, table: pa.Table, repeated: npt.NDArray[np.bool_]) -> None:
        self.table = table
        self._repeated = repeated

    @classmethod
    def sort(cls, table: pa.Table) -> MetadataRows:
        """Orders ``table`` (columns of :data:`METADATA`) by patch_id and marks repeated ids."""
        table = table.take(pc.sort_indices(table, sort_keys=[("patch_id", "ascending")])).combine_chunks()
        ids = table["patch_id"]
        repeated = np.zeros(len(table), dtype=bool)
        if len(table) > 1:
            repeated[1:] = pc.equal(ids[1:], ids[:-1]).to_numpy()
        return cls(table, repeated)

    @property
    def repeated(self) -> npt.NDArray[np.bool_]:
        """Which rows ``[N]`` repeat the patch_id of an earlier one."""
        return self._repeated

    def __len__(self) -> int:
        return len(self._repeated)

    @overload
    def __getitem__(self, index: int) -> PatchMeta: ...
    @overload
    def __getitem__(self, index: slice) -> MetadataRows: ...
    def __getitem__(self, index: int | slice) -> PatchMeta | MetadataRows:
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step != 1:
                rows = np.arange(start, stop, step)
                return MetadataRows(self.table.take(rows), self._repeated[rows])
            return MetadataRows(self.table.slice(start, max(0, stop - start)), self._repeated[start:stop])
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return next(iter(self[index % len(self) : index % len(self) + 1]))

    def __iter__(self) -> Iterator[PatchMeta]:
        # In blocks, so that walking all rows does not make half a million rows' lists at once.
        for start in range(0, len(self), 4096):
            columns = [column.to_pylist() for column in self.table.slice(start, 4096).columns]
            repeats = self._repeated[start : start + 4096].tolist()
            for row, repeat in zip(zip(*columns, strict=True), repeats, strict=True):
                patch_id, s1_name, s2v1_name, split, country, labels, snow, cloud = row
                yield PatchMeta(patch_id, s1_name, s2v1_name, split, country, tuple(labels), snow, cloud, repeat)


def read_metadata(load: Callable[[str], bytes | None], where: str) -> MetadataRows:
    """Reads both metadata files of an archive; the one with snow, cloud and shadow patches may be absent.

    Args:
        load: Returns the bytes of a file by its name, None if there is none.
        where: The place, for messages.

    Raises:
        NotFound: There is no ``metadata.parquet``.
        DataRefused: A file is no parquet, lacks a column, has one of another type, or has empty cells.
    """
    main, snow_cloud = load(MAIN_FILE), load(SNOW_CLOUD_FILE)
    if main is None:
        raise NotFound(
            f"expected the official metadata at {where}/{MAIN_FILE}, and there is none. "
            "It comes with the reBEN download, next to the folders or tar files."
        )
    tables = [_parse(main, f"{where}/{MAIN_FILE}")]
    # Many people keep the recommended patches only.
    if snow_cloud is not None:
        tables.append(_parse(snow_cloud, f"{where}/{SNOW_CLOUD_FILE}"))
    return MetadataRows.sort(pa.concat_tables(tables))


def _parse(data: bytes, name: str) -> pa.Table:
    try:
        table = pq.read_table(pa.BufferReader(data))
    except pa.ArrowException as error:
        raise DataRefused(f"{name}: damaged or no parquet file: {error}") from error
    missing = [column for column in METADATA.names if column not in table.column_names]
    if missing:
        raise DataRefused(f"{name}: lacks {', '.join(missing)}; expected the columns {', '.join(METADATA.names)}")
    table = table.select(METADATA.names)
    for column in METADATA.names:
        if table[column].null_count:
            raise DataRefused(f"{name}: {table[column].null_count} empty cells in {column}; expected none")
    try:
        return table.cast(METADATA)
    except (pa.ArrowException, ValueError) as error:
        raise DataRefused(f"{name}: columns have other types than the official file: {error}") from error
