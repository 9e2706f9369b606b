"""Staged rows, written by workers and not yet committed: their keys, compared with the keys of a table."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from eoforge.storage.addresses import join, lance_uri, storage_options

if TYPE_CHECKING:
    import lance
    from lance.file import LanceFileReader

READ_ROWS = 64
COMPARED = 1 << 20
"""Rows of the table whose keys are compared with the job at once; more for a larger job."""
_SEPARATOR = "\x1f"


@dataclass(frozen=True)
class MergePlan:
    """Plan of a merge; the table already holds the rows that are in neither mask.

    Attributes:
        fresh: ``[N]`` bool, rows whose key is new.
        changed: ``[N]`` bool, rows whose key the table holds with another digest.
        replaced: ``[changed rows]`` uint64, addresses of the rows that the changed rows replace.
    """

    fresh: npt.NDArray[np.bool_]
    changed: npt.NDArray[np.bool_]
    replaced: npt.NDArray[np.uint64]


@dataclass(frozen=True)
class StagedRows:
    """Keys (and digests) of all staged rows in shard order, about 100 B a row, without pixels.

    A commit holds several copies while it compares them: some 540 B a row at its peak.

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
        """Keys of the marked rows; parts of composite keys are separated by ``/``."""
        return [str(k).replace(_SEPARATOR, "/") for k in self.key_values.filter(pa.array(rows)).to_pylist()]

    def against(self, table: lance.LanceDataset) -> MergePlan:
        """Merge plan against one version of the table; of equal keys within the job the first counts.

        Memory depends on the rows of the job, not on those of the table.
        """
        first = np.zeros(len(self), dtype=bool)
        first[np.unique(self.key_values.dictionary_encode().indices.to_numpy(), return_index=True)[1]] = True
        present, changed = np.zeros((2, len(self)), dtype=bool)
        addresses = np.zeros(len(self), dtype=np.uint64)
        for known in _parts(table, [*self.keys, *([self.digest] if self.digest else [])], max(COMPARED, len(self))):
            place = pc.index_in(_key_values(known, self.keys), value_set=self.key_values)
            held = place.is_valid()
            rows = place.filter(held).to_numpy()
            present[rows] = True
            addresses[rows] = known.column("_rowaddr").filter(held).to_numpy()
            if self.digests is not None:
                theirs = known.column(self.digest).filter(held)
                differ = pc.not_equal(theirs, self.digests.take(pa.array(rows)))
                changed[rows] = pc.fill_null(differ, False).to_numpy(zero_copy_only=False)
        changed &= first
        return MergePlan(first & ~present, changed, addresses[changed])


def _parts(table: lance.LanceDataset, columns: list[str], rows: int) -> Iterator[pa.Table]:
    """Columns of a table with row addresses, in parts of at least so many rows; the last one may be smaller."""
    held: list[pa.RecordBatch] = []
    count = 0
    for batch in table.scanner(columns=columns, with_row_address=True).to_batches():
        held.append(batch)
        count += batch.num_rows
        if count >= rows:
            yield pa.Table.from_batches(held)
            held, count = [], 0
    if held:
        yield pa.Table.from_batches(held)


def read_staged(uri: str, fragments: Sequence[str], keys: tuple[str, ...], digest: str | None) -> StagedRows:
    """Staged rows of fragments; only the key columns are read."""
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
    """Batches of the wanted rows of a staged fragment."""
    start = 0
    for batch in _reader(uri, fragment, None).read_all(batch_size=READ_ROWS, batch_readahead=1).to_batches():
        mask = wanted[start : start + batch.num_rows]
        start += batch.num_rows
        if mask.any():
            yield batch.filter(pa.array(mask))


def without_rows(table: lance.LanceDataset, addresses: npt.NDArray[np.uint64]) -> list[lance.FragmentMetadata]:
    """Fragments of the table with deletion vectors for some rows, not visible before a commit.

    Data files are not rewritten, so memory and time do not depend on the pixels.

    Args:
        table: Version to which the addresses belong.
        addresses: Row addresses: the fragment's id in the upper 32 bits.
    """
    from lance.fragment import DeletionFile

    ordered = np.sort(addresses)
    numbers, starts = np.unique(ordered >> np.uint64(32), return_index=True)
    by_fragment = dict(zip(numbers.tolist(), np.split(ordered, starts[1:]), strict=False))
    kept: list[lance.FragmentMetadata] = []
    for fragment in table.get_fragments():
        deleted = by_fragment.get(fragment.fragment_id)
        remaining: lance.FragmentMetadata | None = fragment.metadata
        if deleted is not None:
            remaining = fragment.delete(f"_rowaddr IN ({', '.join(map(str, deleted.tolist()))})")
        if remaining is None:
            # A Merge must name every fragment; it drops fragments whose deletion file covers all rows.
            all_rows = DeletionFile(table.version, 0, "array", fragment.metadata.physical_rows, None)
            remaining = replace(fragment.metadata, deletion_file=all_rows)
        kept.append(remaining)
    return kept


def _reader(uri: str, fragment: str, columns: list[str] | None) -> LanceFileReader:
    from lance.file import LanceFileReader

    path = json.loads(fragment)["files"][0]["path"]
    return LanceFileReader(lance_uri(join(uri, "data", path)), storage_options=storage_options(uri), columns=columns)


def _key_values(rows: pa.Table, keys: tuple[str, ...]) -> pa.Array:
    """Key of each row as one string; the separator is a control character that no name contains."""
    parts = [rows.column(k).combine_chunks().cast(pa.string()) for k in keys]
    return parts[0] if len(parts) == 1 else pc.binary_join_element_wise(*parts, _SEPARATOR)
