"""Rows that workers wrote but no version names yet: their keys, read cheaply, compared with what a table holds."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from eoforge.storage.addresses import join, storage_options

if TYPE_CHECKING:
    import lance
    from lance.file import LanceFileReader

READ_ROWS = 64
_SEPARATOR = "\x1f"


@dataclass(frozen=True)
class MergePlan:
    """What to do with each staged row; rows in neither mask are already there.

    Attributes:
        fresh: ``[N]`` bool, rows whose key is new.
        changed: ``[N]`` bool, rows whose key is there with another digest.
        replaced: ``[changed rows]`` uint64, row addresses of what the changed rows take the place of.
    """

    fresh: npt.NDArray[np.bool_]
    changed: npt.NDArray[np.bool_]
    replaced: npt.NDArray[np.uint64]


@dataclass(frozen=True)
class StagedRows:
    """Keys (and digests) of all staged rows in shard order; about 100 B a row, pixels stay on the store.

    Attributes:
        uri: The table.
        fragments: The fragments as JSON.
        offsets: ``[F + 1]`` row number at which each fragment starts.
        keys: Names of the key columns.
        digest: Name of the digest column, if rows may change.
        key_values: ``[N]`` strings, composite keys joined.
        digests: ``[N]`` strings, if rows may change.
    """

    uri: str
    fragments: tuple[str, ...]
    offsets: tuple[int, ...]
    keys: tuple[str, ...]
    digest: str | None
    key_values: pa.Array
    digests: pa.Array | None

    def __len__(self) -> int:
        return self.offsets[-1]

    def rows_of(self, fragment: int) -> slice:
        """Row numbers of one fragment."""
        return slice(self.offsets[fragment], self.offsets[fragment + 1])

    def names(self, rows: npt.NDArray[np.bool_]) -> list[str]:
        """Keys of the marked rows, parts of composite keys separated by ``/``."""
        return [str(k).replace(_SEPARATOR, "/") for k in self.key_values.filter(pa.array(rows)).to_pylist()]

    def against(self, table: lance.LanceDataset) -> MergePlan:
        """Compares with one version of the table; of equal keys within the job the first counts."""
        first = np.zeros(len(self), dtype=bool)
        first[np.unique(self.key_values.dictionary_encode().indices.to_numpy(), return_index=True)[1]] = True
        columns = [*self.keys, *([self.digest] if self.digest else [])]
        known = table.to_table(columns=columns, with_row_address=True)
        position = pc.index_in(self.key_values, value_set=_key_values(known, self.keys))
        present = position.is_valid().to_numpy(zero_copy_only=False)
        changed = np.zeros(len(self), dtype=bool)
        if self.digests is not None and present.any():
            there = known.column(self.digest).combine_chunks().take(position)
            changed = pc.fill_null(pc.not_equal(there, self.digests), False).to_numpy(zero_copy_only=False)
        changed &= first
        addresses = known.column("_rowaddr").to_numpy()
        return MergePlan(first & ~present, changed, addresses[position.filter(pa.array(changed)).to_numpy()])


def read_staged(uri: str, fragments: Sequence[str], keys: tuple[str, ...], digest: str | None) -> StagedRows:
    """Reads the key columns of staged fragments; the rasters are not touched."""
    columns = [*keys, *([digest] if digest else [])]
    tables = [_reader(uri, text, columns).read_all().to_table() for text in fragments]
    offsets = np.cumsum([0, *(t.num_rows for t in tables)])
    string = pa.string()
    rows = pa.concat_tables(tables) if tables else pa.schema([(c, string) for c in columns]).empty_table()
    return StagedRows(
        uri=uri,
        fragments=tuple(fragments),
        offsets=tuple(int(o) for o in offsets),
        keys=keys,
        digest=digest,
        key_values=_key_values(rows, keys),
        digests=rows.column(digest).combine_chunks() if digest else None,
    )


def keep_rows(uri: str, fragment: str, wanted: npt.NDArray[np.bool_]) -> Iterator[pa.RecordBatch]:
    """The wanted rows of a staged fragment, a few at a time."""
    start = 0
    for batch in _reader(uri, fragment, None).read_all(batch_size=READ_ROWS, batch_readahead=1).to_batches():
        mask = wanted[start : start + batch.num_rows]
        start += batch.num_rows
        if mask.any():
            yield batch.filter(pa.array(mask))


def without_rows(table: lance.LanceDataset, addresses: npt.NDArray[np.uint64]) -> list[lance.FragmentMetadata]:
    """The table's fragments with deletion vectors for some rows; nothing is visible until they are committed.

    Data files stay as they are, so this takes neither memory nor time in proportion to the pixels.

    Args:
        table: The version that the addresses are of.
        addresses: Row addresses: the fragment's id in the upper 32 bits.
    """
    from lance.fragment import DeletionFile

    of_fragment = addresses >> np.uint64(32)
    kept: list[lance.FragmentMetadata] = []
    for fragment in table.get_fragments():
        gone = addresses[of_fragment == fragment.fragment_id]
        left: lance.FragmentMetadata | None = fragment.metadata
        if len(gone):
            left = fragment.delete(f"_rowaddr IN ({', '.join(map(str, gone.tolist()))})")
        if left is None:
            # A Merge must name every fragment, and drops those that say of themselves that no row is left.
            nothing_left = DeletionFile(table.version, 0, "array", fragment.metadata.physical_rows, None)
            left = replace(fragment.metadata, deletion_file=nothing_left)
        kept.append(left)
    return kept


def _reader(uri: str, fragment: str, columns: list[str] | None) -> LanceFileReader:
    from lance.file import LanceFileReader

    path = json.loads(fragment)["files"][0]["path"]
    return LanceFileReader(join(uri, "data", path), storage_options=storage_options(uri), columns=columns)


def _key_values(rows: pa.Table, keys: tuple[str, ...]) -> pa.Array:
    """One string per row; the separator is a control character that no name holds."""
    parts = [rows.column(k).combine_chunks().cast(pa.string()) for k in keys]
    return parts[0] if len(parts) == 1 else pc.binary_join_element_wise(*parts, _SEPARATOR)
