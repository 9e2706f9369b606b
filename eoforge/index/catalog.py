"""Opened version of an index: segments of codes, and metadata that is read for hits only.

One row is one patch, equal in every modality: an optical patch and its radar partner share a row number. Rows are in
the order of patch ids within a segment; hits are in the order (distance, patch id) over all of them, so that results do
not depend on the order in which shards were ingested. A patch without a sensor keeps its row, which no search of that
sensor finds. The files of the segments are mapped from the local cache (``cache/``), also for a small index.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import structlog

from eoforge.data.search_filter import SearchFilter
from eoforge.data.tables.schema import CODE_CRC, ROW_CRC
from eoforge.errors import NotFound
from eoforge.index.cache.columns import require_countries
from eoforge.index.cache.folder import IndexCache
from eoforge.index.cache.segment import Segment
from eoforge.index.code_table import CodeTableInfo
from eoforge.index.search import Allowed, Codes, Distances, Found, HammingIndex, Rows, allowed_count, merge
from eoforge.storage.addresses import TableRef, open_table

log = structlog.get_logger("index")


class IndexSnapshot:
    """Opened version of an index.

    Attributes:
        uri: Table of codes.
        version: Version of the table.
        info: Bundle and patches of the codes.
        segments: Files of the rows; row numbers go on from one to the next.
    """

    def __init__(
        self, ref: TableRef, info: CodeTableInfo, segments: Sequence[Segment], device: str | None = None
    ) -> None:
        """Snapshot of opened segments; :meth:`open` finds those of a table."""
        self.uri, self.version, self.info, self.segments = ref.uri, int(ref.version or 0), info, tuple(segments)
        self._starts = np.cumsum([0, *map(len, self.segments)])
        sensors = sorted({sensor for segment in self.segments for sensor in segment.codes})
        self._indexes = {m: [HammingIndex(s.codes[m], device) for s in self.segments] for m in sensors}

    @classmethod
    def open(
        cls,
        codes: TableRef,
        device: str | None = None,
        store: IndexCache | None = None,
        previous: IndexSnapshot | None = None,
    ) -> IndexSnapshot:
        """Snapshot of a table of codes, with the metadata of its version of the patches.

        Codes of patches outside that version are skipped, as are patches without a code in every modality that they
        have: patches of a job appear after its last commit.

        Args:
            codes: Table of codes.
            device: Torch device of the search; None for the CPU.
            store: Local cache of the files; None for the default.
            previous: Opened version, whose segments are shared if the codes have only grown since.

        Raises:
            NotFound: The table, its version, or its version of the patches does not exist.
            DataRefused: The table is no table of codes, or codes differ from their checksums.
            StoreError: The local cache cannot be used, or has no room.
        """
        table = open_table(codes)
        info = CodeTableInfo.of(table.schema, codes.uri)
        ref = TableRef(codes.uri, table.version)
        if ROW_CRC not in table.schema.names:
            covered = CODE_CRC in table.schema.names
            _tell("codes whose checksums do not cover the patch id" if covered else "codes without checksums", str(ref))
        held = previous.segments if previous is not None else ()
        segments = (store or IndexCache()).open(str(ref), table, info.open_patches(), info.bits, held)
        return cls(ref, info, segments, device)

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modalities of the index, sorted."""
        return tuple(self._indexes)

    def require(self, modality: str) -> None:
        """Check of a modality.

        Raises:
            NotFound: The index holds no codes of the modality.
        """
        if modality not in self._indexes:
            held = ", ".join(self.modalities) or "none"
            raise NotFound(f"no codes of {modality!r} in the index {self.uri}; its modalities: {held}")

    def count(self, modality: str) -> int:
        """Number of patches with a code of one modality."""
        return sum(segment.present[modality] for segment in self.segments)

    def row_of(self, patch_id: str, modality: str) -> int:
        """Row of a patch, equal in every modality of the index.

        Raises:
            NotFound: The modality or the patch is not in the index, or the patch lacks this sensor.
        """
        self.require(modality)
        for start, segment in zip(self._starts.tolist(), self.segments, strict=False):
            row = segment.row_of(patch_id)
            if row is None:
                continue
            if not segment.columns.has(row, modality):
                raise NotFound(f"patch {patch_id!r} has no {modality}, so the index holds no code of it")
            return int(start + row)
        raise NotFound(f"patch {patch_id!r} is not in the index {self.uri}@{self.version}")

    def code_of(self, patch_id: str, modality: str) -> npt.NDArray[np.uint8]:
        """Code ``[K/8]`` of a patch in one modality.

        Raises:
            NotFound: The patch or the modality is not in the index.
        """
        return self.code_of_row(self.row_of(patch_id, modality), modality)

    def code_of_row(self, row: int, modality: str) -> npt.NDArray[np.uint8]:
        """Code ``[K/8]`` of a row in one modality of the index."""
        number = self._segment_of(row)
        code: npt.NDArray[np.uint8] = self._indexes[modality][number].codes[row - self._starts[number]]
        return code

    def place_of(self, row: int) -> int:
        """Row of a patch in its version of the patches."""
        number = self._segment_of(row)
        return int(self.segments[number].place[row - self._starts[number]])

    def metadata(self, rows: Rows | None = None) -> pa.Table:
        """``METADATA_COLUMNS`` of rows, in their order; of all rows if none are given."""
        rows = np.arange(len(self)) if rows is None else rows
        if len(self.segments) == 1:
            return self.segments[0].metadata(rows)
        numbers = np.searchsorted(self._starts, rows, side="right") - 1
        order = np.argsort(numbers, kind="stable")
        parts = [
            segment.metadata(rows[order[numbers[order] == n]] - self._starts[n])
            for n, segment in enumerate(self.segments)
        ]
        found = pa.concat_tables(parts)
        if (np.diff(order) < 0).any():
            found = found.combine_chunks().take(pa.array(np.argsort(order)))
        return found

    def allow(self, wanted: SearchFilter, modality: str | None = None) -> npt.NDArray[np.bool_]:
        """Mask ``[N]`` of the rows that pass a filter, and have a sensor if one is named."""
        mask = np.ones(len(self), dtype=bool)
        parts = np.split(mask, self._starts[1:-1])
        for part, allowed in zip(parts, self._allowed(wanted, modality), strict=True):
            if allowed is not None:
                part[:] = allowed if allowed.dtype == np.bool_ else np.isin(np.arange(len(part)), allowed)
        return mask

    def search(
        self, modality: str, queries: Codes, k: int, wanted: SearchFilter | None = None, min_recall: float = 1.0
    ) -> Found:
        """Nearest patches of each query, exactly.

        Args:
            modality: Sensor of the hits; patches without it are not found.
            queries: ``[Q, K/8]`` uint8.
            k: Neighbours per query, 1 to ``MAX_K``.
            wanted: Filter; None for all patches.
            min_recall: Least recall, which an exact search always has.

        Returns:
            ``k' = min(k, candidates)`` hits per query, ordered by (distance, patch id).

        Raises:
            NotFound: The index holds no codes of the modality.
            UsageError: The queries do not match the index, ``k`` is below 1, or a country is unknown.
            LimitExceeded: ``k`` is above ``MAX_K``.
        """
        self.require(modality)
        allowed = self._allowed(wanted, modality)
        candidates = sum(allowed_count(allow, len(s)) for s, allow in zip(self.segments, allowed, strict=True))
        parts = []
        for start, index, allow in zip(self._starts.tolist(), self._indexes[modality], allowed, strict=False):
            distances, rows = index.search(queries, k, allow)
            parts.append((distances, rows + start))
        if len(parts) > 1:
            parts = [self._by_id(*merge(parts, len(parts) * k), min(k, candidates))]
        return Found(*parts[0], candidates)

    def _by_id(self, distances: Distances, rows: Rows, k: int) -> tuple[Distances, Rows]:
        """First ``k`` of merged results of several segments; only equal distances need the patch ids."""
        order = np.empty((len(rows), k), np.int64)
        for query, of_query in enumerate(distances if k else ()):
            near = np.flatnonzero(of_query <= of_query[k - 1])
            ids = self.metadata(rows[query, near]).column("patch_id").cast(pa.binary()).to_pylist()
            ranked = sorted(zip(of_query[near].tolist(), ids, near.tolist(), strict=True))
            order[query] = [place for _, _, place in ranked[:k]]
        return np.take_along_axis(distances, order, axis=1), np.take_along_axis(rows, order, axis=1)

    def held_by(self, other: IndexSnapshot) -> int:
        """Number of patches of this snapshot that another one has; memory is that of a batch of ids."""
        shared = {segment.id for segment in other.segments}
        count = 0
        for segment in self.segments:
            if segment.id in shared:
                count += len(segment)
                continue
            for ids in segment.ids():
                for theirs in (batch for each in other.segments for batch in each.ids()):
                    if _overlap(ids, theirs):
                        count += pc.sum(pc.is_in(ids, theirs)).as_py() or 0
        return count

    def _segment_of(self, row: int) -> int:
        return int(np.searchsorted(self._starts, row, side="right")) - 1

    def _allowed(self, wanted: SearchFilter | None, modality: str | None) -> list[Allowed | None]:
        if wanted is not None and wanted.countries:
            require_countries(wanted.countries, [c for s in self.segments for c in s.columns.countries])
        return [segment.columns.allowed(wanted, modality) for segment in self.segments]


def _overlap(ids: pa.Array, others: pa.Array) -> bool:
    """Whether the ranges of two ascending parts meet."""
    if not len(ids) or not len(others):
        return False
    return bool(ids[0].as_py() <= others[-1].as_py() and others[0].as_py() <= ids[-1].as_py())


@cache
def _tell(what: str, table: str) -> None:
    """Warning about a version of a table, once per process: a service loads it again and again."""
    log.warning(what, table=table, advice="index again into a new table to have them")
