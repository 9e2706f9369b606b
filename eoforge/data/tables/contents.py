"""Contents of a patches table, counted from its metadata alone: splits, countries, months, classes, gaps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from eoforge.data.labels import CLASSES, multi_hot
from eoforge.data.split import SPLITS
from eoforge.storage.addresses import TableRef, open_table

if TYPE_CHECKING:
    import pyarrow as pa

UNKNOWN_COUNTRY = "unknown"
_FLAGS = ["contains_seasonal_snow", "contains_cloud_or_shadow"]
_MAY_LACK = {"acquired_s1": "without_sentinel_1", "acquired_s2": "without_sentinel_2", "label_mask": "without_labels"}
_COLUMNS = ["split", "country", "label_mask", "lon_min", "lat_min", "lon_max", "lat_max", "acquired_s1", "acquired_s2"]


@dataclass(frozen=True)
class TableContents:
    """Counts of one version of a patches table.

    Attributes:
        table: Table and version.
        rows: Patches in it.
        splits: Patches per split.
        countries: Patches per country and split.
        months: Patches per month of the year of their optical image, January first.
        class_counts: Patches per class and split, ``[19, splits]``.
        labels_per_patch: Patches with 0, 1, 2, ... classes.
        flags: Patches with seasonal snow, with cloud or shadow, without a sensor, and without labels.
        centres: Longitude and latitude of every patch, ``[N, 2]`` in degrees.
        split_of: Index into ``splits`` of every patch, ``[N]``.
    """

    table: TableRef
    rows: int
    splits: dict[str, int]
    countries: dict[str, dict[str, int]]
    months: npt.NDArray[np.int64]
    class_counts: npt.NDArray[np.int64]
    labels_per_patch: npt.NDArray[np.int64]
    flags: dict[str, int]
    centres: npt.NDArray[np.float64]
    split_of: npt.NDArray[np.int64]


def table_contents(ref: TableRef) -> TableContents:
    """Contents of a table; no pixel is read.

    Args:
        ref: Patches table at a version.

    Raises:
        NotFound: The table or version does not exist.
    """
    meta = open_table(ref).to_table(columns=_COLUMNS + _FLAGS)
    splits = _ordered(_counts(meta["split"]))
    split_of = np.zeros(meta.num_rows, dtype=np.int64)
    for number, name in enumerate(splits):
        split_of[pc.equal(meta["split"], name).to_numpy()] = number
    # An unlabelled patch counts in no class; the flags say how many there are.
    labelled = meta["label_mask"].is_valid().to_numpy()
    hot = multi_hot(pc.fill_null(meta["label_mask"], 0).to_numpy()).astype(np.int64)
    months = meta["acquired_s2"].drop_null().to_numpy().astype("datetime64[M]").astype(np.int64) % 12
    lon = (meta["lon_min"].to_numpy() + meta["lon_max"].to_numpy()) / 2
    lat = (meta["lat_min"].to_numpy() + meta["lat_max"].to_numpy()) / 2
    return TableContents(
        table=ref,
        rows=meta.num_rows,
        splits=splits,
        countries=_countries(meta),
        months=np.bincount(months, minlength=12),
        class_counts=np.array([hot[split_of == i].sum(0) for i in range(len(splits))]).reshape(-1, len(CLASSES)).T,
        labels_per_patch=np.bincount(hot[labelled].sum(1)),
        flags={name: int(meta[name].to_numpy().sum()) for name in _FLAGS}
        | {name: count for column, name in _MAY_LACK.items() if (count := meta[column].null_count)},
        centres=np.stack([lon, lat], axis=1),
        split_of=split_of,
    )


def class_rows(contents: TableContents) -> list[tuple[object, ...]]:
    """Rows of the class table: name, patches per split, share of all patches."""
    totals = contents.class_counts.sum(axis=1)
    return [
        (name, *(int(c) for c in contents.class_counts[i]), f"{100 * totals[i] / max(contents.rows, 1):.1f} %")
        for i, name in enumerate(CLASSES)
    ]


def _counts(column: pa.ChunkedArray) -> dict[str, int]:
    return {entry["values"]: entry["counts"] for entry in pc.value_counts(column).to_pylist()}


def _countries(meta: pa.Table) -> dict[str, dict[str, int]]:
    grouped = meta.group_by(["country", "split"]).aggregate([([], "count_all")]).to_pylist()
    named: Counter[tuple[str, str]] = Counter()
    for row in grouped:
        named[row["country"] or UNKNOWN_COUNTRY, row["split"]] += row["count_all"]
    countries: dict[str, dict[str, int]] = {}
    for (country, split), count in sorted(named.items()):
        countries.setdefault(country, {})[split] = count
    return countries


def _ordered(counts: Mapping[str, int]) -> dict[str, int]:
    known = {name: counts[name] for name in SPLITS if name in counts}
    return known | {name: counts[name] for name in sorted(set(counts) - set(known))}
