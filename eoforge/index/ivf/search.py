"""Search of a table with an IVF index: Lance reads some partitions, or scans all codes for an exact answer.

Nothing of the index is resident but a bounded cache of Lance, so that any replica answers any query. Row numbers are
row ids of Lance; a row is a code, of one patch and sensor.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from eoforge.data.search_filter import SearchFilter
from eoforge.data.tables.schema import METADATA_COLUMNS, ROW_CRC, sql_list
from eoforge.errors import DataRefused, LimitExceeded, NotFound, StoreError, UsageError
from eoforge.hashing.checksum import row_checksums
from eoforge.index.cache.columns import require_countries
from eoforge.index.code_table import CodeTableInfo
from eoforge.index.ivf.filters import condition
from eoforge.index.ivf.table import IvfInfo, indexed_fragments, require_recall
from eoforge.index.search import MAX_K, Codes, Found, Rows
from eoforge.storage.addresses import TableRef, lance_uri, open_table, plain, storage_options

if TYPE_CHECKING:
    import lance

DEFAULT_MEMORY = 1 << 30
"""Bound of the partitions and indexes of filters that Lance keeps in memory."""
SAMPLED = 512
"""Codes by which two versions are compared."""
_SPARE = 32
"""Hits beyond the wanted ones, so that equal distances at the end are mostly cut in the order of patch ids."""


class IvfSnapshot:
    """Opened version of a table with an IVF index.

    Attributes:
        uri: Table of codes.
        version: Version of the table.
        info: Bundle and patches of the codes.
        ivf: Facts of the index; None before it is built, when every search is exact.
        indexed: Share of the codes that the index was built from; the others are compared one by one.
    """

    def __init__(self, ref: TableRef, table: lance.LanceDataset) -> None:
        """Snapshot of an opened table; see :meth:`open`."""
        self.uri, self.version = ref.uri, int(table.version)
        self.info = CodeTableInfo.of(table.schema, ref.uri)
        self.ivf = IvfInfo.of(table.schema, ref.uri)
        self._table = table
        self._counted = lru_cache(1_024)(lambda where: int(table.count_rows(filter=where)))
        rows, covered = int(table.count_rows()), indexed_fragments(table)
        inside = sum(f.count_rows() for f in table.get_fragments() if f.fragment_id in covered)
        self.indexed = inside / rows if rows else 1.0
        # Codes may have come or gone since the index was built.
        known = self.ivf is not None and sum(self.ivf.counts.values()) == rows
        self._counts = (
            self.ivf.counts if known and self.ivf else {m: self._counted(condition(None, m)) for m in ("s1", "s2")}
        )

    @classmethod
    def open(cls, codes: TableRef, memory: int = DEFAULT_MEMORY) -> IvfSnapshot:
        """Snapshot of a table of codes.

        Args:
            codes: Table of codes.
            memory: Bytes that Lance may keep.

        Raises:
            NotFound: The table or its version does not exist.
            DataRefused: The table is no table of codes.
        """
        import lance

        ref = codes.pinned()
        open_table(ref)  # its errors
        table = lance.dataset(
            lance_uri(ref.uri),
            version=ref.version,
            storage_options=storage_options(ref.uri),
            index_cache_size_bytes=memory,
            metadata_cache_size_bytes=memory // 4,
        )
        return cls(ref, table)

    def __len__(self) -> int:
        return max(self._counts.values(), default=0)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modalities of the index, sorted."""
        return tuple(sorted(m for m, count in self._counts.items() if count))

    def require(self, modality: str) -> None:
        """Check of a modality.

        Raises:
            NotFound: The index holds no codes of the modality.
        """
        if modality not in self.modalities:
            held = ", ".join(self.modalities) or "none"
            raise NotFound(f"no codes of {modality!r} in the index {self.uri}; its modalities: {held}")

    def count(self, modality: str) -> int:
        """Number of patches with a code of one modality."""
        return self._counts[modality]

    def row_of(self, patch_id: str, modality: str) -> int:
        """Row of the code of a patch, found by the index of patch ids.

        Raises:
            NotFound: The modality or the patch is not in the index, or the patch lacks this sensor.
        """
        self.require(modality)
        where = f"patch_id = {sql_list([patch_id])} AND modality = '{modality}'"
        rows = self._read(columns=["patch_id"], filter=where, with_row_id=True)
        if not rows.num_rows:
            raise NotFound(f"patch {patch_id!r} with {modality} is not in the index {self.uri}@{self.version}")
        return int(rows.column("_rowid")[0].as_py())

    def code_of_row(self, row: int, modality: str) -> npt.NDArray[np.uint8]:
        """Code ``[K/8]`` of a row; ``modality`` is that of the row."""
        rows = self._rows(np.array([row]), ["code"])
        code: npt.NDArray[np.uint8] = rows.column("code").combine_chunks().flatten().to_numpy()
        return code

    def place_of(self, row: int) -> None:
        """No row in the version of the patches: a table of codes outlives many of them."""

    def metadata(self, rows: Rows) -> pa.Table:
        """``METADATA_COLUMNS`` of rows, in their order.

        Raises:
            DataRefused: A code differs from its checksum.
        """
        names = list(METADATA_COLUMNS)
        checked = self._rows(rows, [*names, "modality", "code", ROW_CRC])
        self._check(checked)
        return checked.select(names)

    def search(
        self, modality: str, queries: Codes, k: int, wanted: SearchFilter | None = None, min_recall: float = 1.0
    ) -> Found:
        """Nearest patches of each query, by as many partitions as ``min_recall`` needs; 1 scans all codes.

        Args:
            modality: Sensor of the hits.
            queries: ``[Q, K/8]`` uint8.
            k: Neighbours per query, 1 to ``MAX_K``.
            wanted: Filter; None for all patches.
            min_recall: Least measured recall@10.

        Returns:
            Hits ordered by (distance, patch id). Of equal distances at the end of an answer that is not exact, others
            may be left out.

        Raises:
            NotFound: The index holds no codes of the modality.
            UsageError: The queries do not match the index, ``k`` is below 1, a country is unknown, or no measured
                setting has that recall.
            LimitExceeded: ``k`` is above ``MAX_K``.
        """
        self.require(modality)
        if queries.shape[1] * 8 != self.info.bits:
            raise UsageError(f"the index holds codes of {self.info.bits} bits; the queries have {8 * queries.shape[1]}")
        if k < 1:
            raise UsageError(f"k must be at least 1; got {k}")
        if k > MAX_K:
            raise LimitExceeded(f"k must be at most {MAX_K}; got {k}. Narrow the search with filters instead.")
        exact = require_recall(min_recall) == 1 or self.ivf is None
        probes = None if exact or self.ivf is None else self.ivf.probes_for(min_recall)
        if wanted is not None and wanted.countries:
            require_countries(wanted.countries, self.ivf.countries if self.ivf else wanted.countries)
        where = condition(wanted, modality)
        candidates = self._counts[modality] if wanted in (None, SearchFilter()) else self._counted(where)
        k = min(k, candidates)
        if not k:
            return Found(
                np.empty((len(queries), 0), np.int32), np.empty((len(queries), 0), np.int64), candidates, exact
            )
        found = [self._nearest(query, k, where, probes, candidates) for query in queries]
        recall = 1.0 if probes is None or self.ivf is None else self.ivf.recall[probes]
        return Found(np.stack([d for d, _ in found]), np.stack([r for _, r in found]), candidates, exact, recall)

    def held_by(self, other: IvfSnapshot) -> int:
        """Number of patches that another version has too, estimated from ``SAMPLED`` codes at random places.

        Of one bundle a code must be the same too, by its checksum.
        """
        count = int(self._table.count_rows())
        if not count:
            return 0
        rng = np.random.Generator(np.random.Philox(key=0))
        places = np.sort(rng.choice(count, min(count, SAMPLED), replace=False))
        columns = ["patch_id", "modality", *([ROW_CRC] if self.info.bundle_id == other.info.bundle_id else [])]
        mine = self._read(columns=columns, rows=places.tolist()).to_pylist()
        theirs = other._read(columns=columns, filter=f"patch_id IN ({sql_list({row['patch_id'] for row in mine})})")
        same = {tuple(row.values()) for row in mine} & {tuple(row.values()) for row in theirs.to_pylist()}
        return round(len(self) * len(same) / len(mine))

    def _nearest(
        self, query: npt.NDArray[np.uint8], k: int, where: str, probes: int | None, candidates: int
    ) -> tuple[npt.NDArray[np.int32], Rows]:
        limit = min(k + _SPARE, candidates)
        while True:
            try:
                rows = (
                    nearest(self._table, query, limit, where, None)
                    if probes is None or self.ivf is None
                    else probed(self._table, query, (k, limit), where, probes, self.ivf.partitions)
                )
            except (OSError, RuntimeError, ValueError) as error:  # Lance has no errors of its own
                raise StoreError(f"cannot search the codes: {plain(error)}") from error
            distances = rows.column("_distance").to_numpy().astype(np.int32)
            # All rows as near as the last hit must be there, so that an exact answer cuts equal distances by patch id.
            if probes is not None or len(rows) < limit or limit == candidates or distances[k - 1] < distances[-1]:
                break
            limit = min(4 * limit, candidates)
        near = np.flatnonzero(distances <= distances[min(k, len(rows)) - 1])
        ids = rows.column("patch_id").take(near).cast(pa.binary()).to_pylist()
        ranked = sorted(zip(distances[near].tolist(), ids, near.tolist(), strict=True))[:k]
        order = np.array([place for _, _, place in ranked], dtype=np.int64)
        return distances[order], rows.column("_rowid").to_numpy()[order].astype(np.int64)

    def _rows(self, rows: Rows, columns: list[str]) -> pa.Table:
        """Columns of row ids, in their order."""
        if not len(rows):
            return self._table.schema.empty_table().select(columns)
        unique, back = np.unique(rows, return_inverse=True)
        found = self._read(
            columns=columns, filter=f"_rowid IN ({', '.join(map(str, unique.tolist()))})", with_row_id=True
        )
        place = np.searchsorted(np.sort(found.column("_rowid").to_numpy()), unique)
        order = np.argsort(found.column("_rowid").to_numpy())[place]
        return found.take(pa.array(order[back])).select(columns)

    def _read(self, *, rows: list[int] | None = None, **scan: Any) -> pa.Table:
        try:
            return self._table.to_table(**scan) if rows is None else self._table.take(rows, **scan)
        except (OSError, RuntimeError, ValueError) as error:  # Lance has no errors of its own
            raise StoreError(f"cannot read the codes: {plain(error)}") from error

    def _check(self, rows: pa.Table) -> None:
        if not rows.num_rows:
            return
        whole = rows.combine_chunks()
        codes = whole.column("code").combine_chunks().flatten().to_numpy().reshape(rows.num_rows, -1)
        names = (pa.concat_arrays(whole.column(name).chunks) for name in ("modality", "patch_id"))
        if (row_checksums(codes, *names) != whole.column(ROW_CRC).to_numpy()).any():
            raise DataRefused(
                f"{self.uri}@{self.version} is damaged: codes differ from their checksums. Restore the table, or index "
                "again into a new one"
            )


def nearest(
    table: lance.LanceDataset, query: npt.NDArray[np.uint8], k: int, where: str, probes: int | None
) -> pa.Table:
    """Patch ids, row ids and distances of the nearest rows that pass a condition, in ``probes`` partitions or all."""
    # Not minimum_nprobes: without a maximum, Lance reads all partitions as soon as there is a condition.
    how: dict[str, Any] = {"use_index": False} if probes is None else {"nprobes": probes}
    return table.to_table(
        columns=["patch_id", "_distance"],
        nearest={"column": "code", "q": query, "k": k, "metric": "hamming", **how},
        filter=where,
        prefilter=True,
        with_row_id=True,
    )


def probed(
    table: lance.LanceDataset,
    query: npt.NDArray[np.uint8],
    size: tuple[int, int],
    where: str,
    probes: int,
    partitions: int,
) -> pa.Table:
    """As :func:`nearest`, with more partitions where ``probes`` of them hold too few rows that pass the condition.

    Args:
        table: Table with the index.
        query: ``[K/8]`` uint8.
        size: Fewest and most rows of the answer; there are as many as the fewest.
        where: Condition.
        probes: Partitions to read first.
        partitions: All partitions.
    """
    fewest, most = size
    while True:
        rows = nearest(table, query, most, where, probes)
        if len(rows) >= fewest or probes >= partitions:
            return rows
        probes = min(4 * probes, partitions)
