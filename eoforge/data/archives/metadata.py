"""Reader of the official metadata: two parquet files with equal columns, read as one table in patch_id order.

``metadata.parquet`` holds the recommended patches, ``metadata_for_patches_with_snow_cloud_or_shadow.parquet`` the
others. Half a million rows stay in Arrow; Python objects are made only for the rows in use.

A small parquet file can hold gigabytes of equal text. Text is therefore read as a dictionary and indices, and written
out only after its size is known.
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
from eoforge.data.archives.parquet_pages import check_pages
from eoforge.data.records import PatchMeta
from eoforge.errors import DataRefused

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

ROWS: pa.Schema = pa.schema([field.with_nullable(field.name != "patch_id") for field in METADATA])
"""The same columns for patches that are built here, null where there is no v1 name, radar, label or country."""

MAY_BE_NULL = ("s2v1_name", "country")
"""Columns that exports of new patches leave empty."""
_READ = pa.schema([field.with_nullable(field.name in MAY_BE_NULL) for field in METADATA])

MAX_ROWS = 1 << 22
"""Largest number of rows of a file, and of labels of a row group; the official files have 480,038 and 69,450 rows."""
MAX_ROW_GROUPS = 1 << 12
"""Largest number of row groups of a file, each of which costs a read; the official files have one each."""
MAX_DECODED_BYTES = 1 << 29
"""Largest decompressed size of a file, and largest size of its text; the official main file has 106 MB."""


class NoMetadata(DataRefused):
    """Archive without its file of metadata."""


class MetadataRows(Sequence[PatchMeta]):
    """Sequence of :class:`PatchMeta` in patch_id order, backed by an Arrow table.

    All rows with equal patch_id are kept, those of the main file first; all but the first are marked ``repeated``.

    Attributes:
        table: The rows, with the columns of :data:`METADATA`.
    """

    def __init__(self, table: pa.Table, repeated: npt.NDArray[np.bool_]) -> None:
        self.table = table
        self._repeated = repeated

    @classmethod
    def sort(cls, table: pa.Table) -> MetadataRows:
        """Rows of ``table`` (columns of :data:`METADATA`) in patch_id order, with repeated ids marked."""
        table = table.take(pc.sort_indices(table, sort_keys=[("patch_id", "ascending")])).combine_chunks()
        ids = table["patch_id"]
        repeated = np.zeros(len(table), dtype=bool)
        if len(table) > 1:
            repeated[1:] = pc.equal(ids[1:], ids[:-1]).to_numpy()
        return cls(table, repeated)

    @property
    def repeated(self) -> npt.NDArray[np.bool_]:
        """Mask ``[N]`` of the rows that repeat the patch_id of an earlier row."""
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
        # In blocks: iteration must not hold Python lists of half a million rows at once.
        for start in range(0, len(self), 4096):
            columns = [column.to_pylist() for column in self.table.slice(start, 4096).columns]
            repeats = self._repeated[start : start + 4096].tolist()
            for row, repeat in zip(zip(*columns, strict=True), repeats, strict=True):
                patch_id, s1_name, s2v1_name, split, country, labels, snow, cloud = row
                names = None if labels is None else tuple(labels)
                yield PatchMeta(patch_id, s1_name, s2v1_name, split, country, names, snow, cloud, repeat)


def read_metadata(load: Callable[[str], bytes | None], where: str) -> MetadataRows:
    """Metadata rows of both files of an archive; the file of snow, cloud and shadow patches may be absent.

    Args:
        load: Returns the bytes of a file by name, None if the file does not exist.
        where: Address of the archive, for error messages.

    Raises:
        DataRefused: There is no ``metadata.parquet``, or a file is no parquet, lacks a column, has a column of another
            type, or has empty cells.
    """
    main, snow_cloud = load(MAIN_FILE), load(SNOW_CLOUD_FILE)
    if main is None:
        raise NoMetadata(
            f"found images without metadata: expected the official file {where}/{MAIN_FILE}. "
            "The reBEN download contains the file, next to the folders or tar files."
        )
    tables = [_parse(main, f"{where}/{MAIN_FILE}")]
    if snow_cloud is not None:
        tables.append(_parse(snow_cloud, f"{where}/{SNOW_CLOUD_FILE}"))
    return MetadataRows.sort(pa.concat_tables(tables))


def _parse(data: bytes, name: str) -> pa.Table:
    try:
        footer = pq.read_metadata(pa.BufferReader(data))
        present = footer.schema.to_arrow_schema().names
        missing = [column for column in METADATA.names if column not in present]
        if missing:
            raise DataRefused(f"{name}: lacks {', '.join(missing)}; expected the columns {', '.join(METADATA.names)}")
        _check_claims(footer, name)
        check_pages(data, footer, METADATA.names, name)
        leaves = [footer.schema.column(i) for i in range(footer.num_columns)]
        text = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]
        file = pq.ParquetFile(pa.BufferReader(data), metadata=footer, read_dictionary=text)
        # One by one: Arrow cannot read dictionaries of lists over several row groups.
        groups = [file.read_row_group(i, METADATA.names) for i in range(footer.num_row_groups)]
        table = pa.concat_tables(groups) if groups else file.read(METADATA.names)
        size = sum(_text_bytes(column) for column in table.columns)
    except (pa.ArrowException, OSError) as error:  # OSError: Arrow's class of damaged pages
        raise DataRefused(f"{name}: damaged or no parquet file: {error}") from error
    for column in METADATA.names:
        if table[column].null_count and column not in MAY_BE_NULL:
            raise DataRefused(f"{name}: {table[column].null_count} empty cells in {column}; expected none")
    if size > MAX_DECODED_BYTES:
        raise DataRefused(f"{name}: its text has {size} bytes, beyond the limit of {MAX_DECODED_BYTES}")
    try:
        return table.cast(_READ)
    except (pa.ArrowException, ValueError) as error:
        raise DataRefused(f"{name}: columns have other types than the official file: {error}") from error


def _check_claims(footer: pq.FileMetaData, name: str) -> None:
    """Refuses a file whose footer claims more rows, values or bytes in the columns of the metadata than are read."""
    if footer.num_rows > MAX_ROWS:
        raise DataRefused(f"{name}: claims {footer.num_rows} rows, beyond the limit of {MAX_ROWS}")
    if footer.num_row_groups > MAX_ROW_GROUPS:
        raise DataRefused(f"{name}: has {footer.num_row_groups} row groups, beyond the limit of {MAX_ROW_GROUPS}")
    groups = [footer.row_group(i) for i in range(footer.num_row_groups)]
    chunks = [group.column(j) for group in groups for j in range(group.num_columns)]
    chunks = [chunk for chunk in chunks if chunk.path_in_schema.partition(".")[0] in METADATA.names]
    values = max((chunk.num_values for chunk in chunks), default=0)
    if values > MAX_ROWS:
        raise DataRefused(f"{name}: claims {values} values in one column, beyond the limit of {MAX_ROWS}")
    size = sum(chunk.total_uncompressed_size for chunk in chunks)
    if size > MAX_DECODED_BYTES:
        raise DataRefused(f"{name}: claims {size} decompressed bytes, beyond the limit of {MAX_DECODED_BYTES}")


def _text_bytes(column: pa.ChunkedArray) -> int:
    """Size of dictionary-encoded text, or lists of it, if each value is written out; 0 for other types."""
    size = 0
    for chunk in column.chunks:
        values = chunk.flatten() if pa.types.is_list(chunk.type) else chunk
        if pa.types.is_dictionary(values.type) and pa.types.is_string(values.type.value_type):
            size += pc.sum(pc.binary_length(values.dictionary).take(values.indices)).as_py() or 0
    return size
