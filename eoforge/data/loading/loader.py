"""Loader of batches from a Lance table, on native grids, for training and encoding.

Rows are chosen and ordered first (a filter pushed into Lance's scalar indexes, then a permutation that is a function of
seed and epoch), then fetched batch by batch. A batch is therefore a function of (table version, filter, seed, epoch,
rank, batch number) alone: neither the number of workers nor an interruption changes it.

Workers are threads. Lance decodes outside the GIL and is not fork-safe, so threads read as fast as processes without a
second copy of each batch, and need no start-up (benchmarks/data/loader.py compares the rates).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from eoforge.data.bands import require_modality
from eoforge.data.loading.batch import SEASONS, PatchBatch, PatchFilter, read_rows, require, select_rows
from eoforge.data.loading.reopened import ReopenedTable
from eoforge.errors import NotFound, UsageError
from eoforge.storage.addresses import TableRef

__all__ = ["SEASONS", "PatchBatch", "PatchFilter", "PatchLoader"]

_BATCHES_AHEAD = 2
_EVERYTHING = PatchFilter()


class PatchLoader:
    """Iterator over the batches of one rank, epoch by epoch.

    Without ``drop_last`` every row is in exactly one batch of one rank, so ranks may differ by one row. With it, all
    ranks have the same number of full batches, which collective training needs.
    """

    def __init__(
        self,
        table: TableRef | str,
        *,
        batch_size: int,
        modalities: tuple[str, ...] = ("s1", "s2"),
        filter: PatchFilter = _EVERYTHING,
        shuffle: bool = False,
        run_length: int = 1,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
        reference_map: bool = False,
        drop_last: bool = False,
        pin_memory: bool = False,
        labelled: bool = False,
    ) -> None:
        """Loader of the rows of one table version.

        Args:
            table: A patches table, optionally at a version.
            batch_size: Patches per batch and rank.
            modalities: ``s1``, ``s2`` or both.
            filter: Conditions on the patches.
            shuffle: Permute rows by (seed, epoch); otherwise the order of the table.
            run_length: Consecutive rows that stay together when shuffled. Runs are cheaper to read than single rows
                (per CPU second 1.2 to 1.3 times the rows with runs of 8, twice with 64), but neighbours in a table are
                neighbours on the ground: a batch of 64 then covers 64 / run_length locations instead of 64.
            seed: Seed of the permutation.
            rank: Rank of this process, below ``world_size``.
            world_size: Number of processes that share an epoch.
            workers: Threads that read ahead; 0 reads on demand.
            reference_map: Whether to read the reference maps.
            drop_last: Leave out the rows that do not fill a batch on every rank.
            pin_memory: Deliver batches in page-locked memory.
            labelled: Refuse patches without labels.

        Raises:
            DataRefused: A chosen patch lacks one of the modalities, or labels where they are needed.
            UsageError: A number is out of range or a name unknown.
            NotFound: The table does not exist, or no patch passes the filter.
        """
        if batch_size < 1 or run_length < 1 or workers < 0 or not 0 <= rank < world_size or not modalities:
            raise UsageError(
                "expected batch_size >= 1, run_length >= 1, workers >= 0, 0 <= rank < world_size and at least one "
                f"modality; got {batch_size=}, {run_length=}, {workers=}, {rank=}, {world_size=}, {modalities=}"
            )
        self._table = ReopenedTable(table)
        self.modalities = tuple(require_modality(m) for m in modalities)
        self.batch_size, self.shuffle, self.seed, self.workers = batch_size, shuffle, seed, workers
        self._rank, self._world_size, self._run_length = rank, world_size, run_length
        self._reference_map, self._drop_last, self._pin_memory = reference_map, drop_last, pin_memory
        self._filter = filter
        self._rows = select_rows(self._table.here, filter)
        if not len(self._rows):
            raise NotFound(f"no patch of {table} passes the filter {filter.sql()}")
        require(self._table.here, filter.sql(), self.modalities, labels=labelled)
        self._epoch = self._done = self._resume_at = 0

    @property
    def version(self) -> int:
        """Version of the table."""
        return int(self._table.ref.version or 0)

    @property
    def rows(self) -> int:
        """Number of patches that pass the filter, over all ranks."""
        return len(self._rows)

    def __len__(self) -> int:
        """Number of batches of this rank per epoch."""
        if self._drop_last:
            return self.rows // (self._world_size * self.batch_size)
        return len(range(0, len(range(self._rank, self.rows, self._world_size)), self.batch_size))

    def set_epoch(self, epoch: int) -> None:
        """Choice of the permutation of the next iteration; a resume position in the same epoch is kept."""
        if epoch != self._epoch:
            self._epoch, self._done, self._resume_at = epoch, 0, 0

    def state_dict(self) -> dict[str, Any]:
        """Position of the iteration: the number of batches so far, and the settings that determine them."""
        return {"epoch": self._epoch, "batches": self._done, "made_of": self._made_of()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restored position: the next iteration continues after the batches that ``state`` counts.

        Raises:
            UsageError: The state comes from another table version, filter, seed, batch size or number of ranks.
        """
        if state["made_of"] != self._made_of():
            raise UsageError(
                f"cannot resume: the state was made with {state['made_of']}; this loader has {self._made_of()}"
            )
        self._epoch, self._done, self._resume_at = state["epoch"], state["batches"], state["batches"]

    def _made_of(self) -> dict[str, Any]:
        return {
            "version": self.version,
            "rows": self.rows,
            "filter": {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self._filter).items()},
            "batch_size": self.batch_size,
            "world_size": self._world_size,
            "shuffle": self.shuffle,
            "run_length": self._run_length,
            "seed": self.seed,
            "drop_last": self._drop_last,
        }

    def _order(self) -> npt.NDArray[np.int64]:
        """Rows of this rank in the order of the epoch."""
        rows = self._rows
        if self.shuffle:
            rng = np.random.Generator(np.random.Philox(key=[self.seed, self._epoch]))
            if self._run_length > 1:
                # The cuts move from epoch to epoch, so that batches do not always hold the same rows.
                cuts = np.arange(int(rng.integers(self._run_length)), len(rows), self._run_length)
                runs = np.split(rows, cuts)
                rows = np.concatenate([runs[i] for i in rng.permutation(len(runs))])
                return np.array_split(rows, self._world_size)[self._rank]
            rows = rng.permutation(rows)
        return rows[self._rank :: self._world_size]

    def __iter__(self) -> Iterator[PatchBatch]:
        order = self._order()
        self._done, self._resume_at = self._resume_at, 0
        numbers = range(self._done, len(self))
        batches = (np.sort(order[i * self.batch_size : (i + 1) * self.batch_size]) for i in numbers)
        for batch in self._fetch(batches):
            self._done += 1
            yield batch

    def _fetch(self, batches: Iterator[npt.NDArray[np.int64]]) -> Iterator[PatchBatch]:
        if not self.workers:
            yield from map(self._read, batches)
            return
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="patch-loader")
        try:
            waiting: deque[Future[PatchBatch]] = deque()
            for rows in batches:
                waiting.append(pool.submit(self._read, rows))
                if len(waiting) > self.workers * _BATCHES_AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _read(self, rows: npt.NDArray[np.int64]) -> PatchBatch:
        batch = read_rows(self._table.here, rows, self.modalities, reference_map=self._reference_map)
        return batch.pin_memory() if self._pin_memory else batch
