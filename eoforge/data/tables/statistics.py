"""Statistics per band: computed in one pass, once per version of a table, and stored beside the table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from eoforge.data.bands import GROUPS, S1_10M, BandGroup
from eoforge.data.tables.commit import table_identity
from eoforge.data.tables.schema import tensor_column
from eoforge.errors import DataRefused, UsageError
from eoforge.storage.addresses import TableRef, address_of, open_table
from eoforge.storage.objects import ObjectStore

if TYPE_CHECKING:
    import lance

SPLIT = "train"
S2_EDGES = np.arange(0, 16_385, 128, dtype=np.float64)
"""Edges of the histogram of reflectance x 10,000; the last bin includes all larger values."""
S1_EDGES = np.arange(-60.0, 30.5, 0.5)
"""Edges of the histogram of backscatter in dB; the outer bins include all values beyond."""
_LEVELS = 1 << 16
_BATCH_ROWS = 16
_KIND = 1


@dataclass(frozen=True)
class BandStatistic:
    """Statistics of one band over all pixels, in the unit of the band (reflectance x 10,000, or dB)."""

    count: int
    mean: float
    std: float
    min: float
    max: float
    histogram: tuple[int, ...]


@dataclass(frozen=True)
class BandStatistics:
    """Statistics of all bands of one version of a table, each over the patches that have the band.

    Attributes:
        uri: The table.
        version: Version of the table.
        split: Split of the patches; ``all`` if the table has no training patches.
        patches: Number of patches.
        bands: Statistics by band name.
    """

    uri: str
    version: int
    split: str
    patches: int
    bands: dict[str, BandStatistic]

    def mean(self, bands: Sequence[str]) -> npt.NDArray[np.float32]:
        """Means ``[C]`` of the named bands, in their order.

        Raises:
            UsageError: A band is unknown.
        """
        return np.array([self._band(b).mean for b in bands], dtype=np.float32)

    def std(self, bands: Sequence[str]) -> npt.NDArray[np.float32]:
        """Standard deviations ``[C]`` (population) of the named bands, in their order.

        Raises:
            UsageError: A band is unknown.
        """
        return np.array([self._band(b).std for b in bands], dtype=np.float32)

    def normalisation(self, bands: Sequence[str]) -> dict[str, tuple[float, float]]:
        """Mean and standard deviation of each of ``bands``."""
        figures = zip(self.mean(bands).tolist(), self.std(bands).tolist(), strict=True)
        return dict(zip(bands, figures, strict=True))

    def _band(self, name: str) -> BandStatistic:
        if name not in self.bands:
            raise UsageError(f"no statistics of band {name!r}: the patches of {self.uri} have {', '.join(self.bands)}")
        return self.bands[name]


class _Accumulator:
    """Sums over one band group: counts of every level for S2, so that moments are exact; float64 sums for S1."""

    def __init__(self, group: BandGroup) -> None:
        self.group = group
        bands = len(group.bands)
        self.levels = np.zeros((bands, _LEVELS if group is not S1_10M else len(S1_EDGES) - 1), dtype=np.int64)
        self.sums = np.zeros((bands, 2))
        self.range = np.tile([np.inf, -np.inf], (bands, 1))
        self.count = 0

    def add(self, pixels: npt.NDArray[np.generic]) -> None:
        """Adds pixels ``[B, C, H, W]``."""
        if not len(pixels):
            return
        self.count += pixels[:, 0].size
        for channel in range(pixels.shape[1]):
            values = pixels[:, channel].ravel()
            if self.group is not S1_10M:
                self.levels[channel] += np.bincount(values, minlength=_LEVELS)
                continue
            exact = values.astype(np.float64)
            self.sums[channel] += exact.sum(), exact @ exact
            low, high = self.range[channel]
            self.range[channel] = min(low, exact.min()), max(high, exact.max())
            bins = np.clip((exact - S1_EDGES[0]) / (S1_EDGES[1] - S1_EDGES[0]), 0, len(S1_EDGES) - 2).astype(np.int64)
            self.levels[channel] += np.bincount(bins, minlength=len(S1_EDGES) - 1)

    def results(self) -> dict[str, BandStatistic]:
        """Statistics by band name; none if no patch has this sensor."""
        if not self.count:
            return {}
        return {band: self._result(channel) for channel, band in enumerate(self.group.bands)}

    def _result(self, channel: int) -> BandStatistic:
        levels = self.levels[channel]
        if self.group is S1_10M:
            total, squares = self.sums[channel]
            mean = total / self.count
            variance = max(squares / self.count - mean * mean, 0.0)
            low, high = self.range[channel]
            histogram = levels
        else:
            value = np.arange(_LEVELS, dtype=np.float64)
            mean = float(levels @ value) / self.count
            variance = float(levels @ (value - mean) ** 2) / self.count
            seen = np.flatnonzero(levels)
            low, high = seen[0], seen[-1]
            bins = np.minimum(value // S2_EDGES[1], len(S2_EDGES) - 2).astype(np.int64)
            histogram = np.bincount(bins, weights=levels).astype(np.int64)
        return BandStatistic(
            self.count, float(mean), float(np.sqrt(variance)), float(low), float(high), tuple(map(int, histogram))
        )


def band_statistics(table: TableRef | str) -> BandStatistics:
    """Statistics of one version over its training patches, from ``<table>.stats/<version>.json`` or computed.

    Raises:
        NotFound: The table or version does not exist.
        DataRefused: The table has no rows.
    """
    dataset = open_table(table)
    uri = address_of(dataset)
    version = dataset.version
    store = ObjectStore(f"{uri}.stats")
    key = f"{version}.json"
    # A new table at the same address starts again at version 1: the file stores the identity of its table.
    owner = {"kind": _KIND, "identity": table_identity(dataset)}
    if store.exists(key):
        kept = json.loads(store.get(key))
        if kept["owner"] == owner:
            bands = {b: BandStatistic(**{**s, "histogram": tuple(s["histogram"])}) for b, s in kept["bands"].items()}
            return BandStatistics(uri, version, kept["split"], kept["patches"], bands)
    computed = _compute(dataset, uri)
    content = {**asdict(computed), "owner": owner, "s2_edges": S2_EDGES.tolist(), "s1_edges": S1_EDGES.tolist()}
    store.put(key, json.dumps(content).encode())
    return computed


def _compute(dataset: lance.LanceDataset, uri: str) -> BandStatistics:
    splits = dataset.to_table(columns=["split"])["split"].to_numpy()
    split: str = SPLIT
    rows = np.flatnonzero(splits == SPLIT)
    if not len(rows):
        split, rows = "all", np.arange(len(splits))
    if not len(rows):
        raise DataRefused(f"{uri} has no rows at version {dataset.version}; ingest an archive first")
    accumulators = {group.column: _Accumulator(group) for group in GROUPS}
    # Rows by position need 75 MiB at the same speed; a scan with a filter needs 195 MiB.
    for start in range(0, len(rows), _BATCH_ROWS):
        batch = dataset.take(rows[start : start + _BATCH_ROWS], columns=list(accumulators))
        for column, accumulator in accumulators.items():
            pixels, valid = tensor_column(batch.column(column))
            accumulator.add(pixels[valid])
    bands = {band: s for a in accumulators.values() for band, s in a.results().items()}
    return BandStatistics(uri, dataset.version, split, len(rows), bands)
