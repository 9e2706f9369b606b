"""Quality report of an ingestion: counts, classes, quarantine, samples, map of footprints, band statistics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from eoforge.data.ingest.quarantine import quarantine_uri
from eoforge.data.labels import CLASSES, multi_hot
from eoforge.data.split import SPLITS
from eoforge.data.tables.schema import sql_list
from eoforge.report import markdown, markdown_code
from eoforge.storage.addresses import TableRef, open_table, table_exists

if TYPE_CHECKING:
    import pyarrow as pa

    from eoforge.data.tables.statistics import BandStatistics

SAMPLES = 24
"""Number of sample patches, spread evenly over the ids, so that tiles and seasons vary."""
MAX_QUARANTINE_ROWS = 40
_COLUMNS = ["patch_id", "split", "country", "label_mask", "lon_min", "lat_min", "lon_max", "lat_max", "acquired_s1"]
_COLUMNS += ["acquired_s2"]
_FLAGS = ["contains_seasonal_snow", "contains_cloud_or_shadow"]
_MAY_LACK = {"acquired_s1": "without_sentinel_1", "acquired_s2": "without_sentinel_2", "label_mask": "without_labels"}
UNKNOWN_COUNTRY = "unknown"


@dataclass(frozen=True)
class Sample:
    """Sample patch: PNG bytes of S2 true colour, S1 composite and reference map, as far as it has them."""

    patch_id: str
    country: str
    labels: tuple[str, ...] | None
    pictures: tuple[bytes, ...]


@dataclass(frozen=True)
class Quality:
    """Content of the quality report.

    Attributes:
        table: Table and version.
        rows: Patches in it.
        summary: Counts of the ingestion (``IngestSummary`` as a mapping).
        splits: Patches per split.
        countries: Patches per country and split.
        months: Patches per month of the year, January first.
        class_counts: Patches per class and split, ``[19, splits]``.
        labels_per_patch: Patches with 0, 1, 2, ... classes.
        flags: Patches with seasonal snow, with cloud or shadow, without a sensor, and without labels.
        centres: Longitude and latitude of every patch, ``[N, 2]`` in degrees.
        split_of: Index into ``splits`` of every patch, ``[N]``.
        quarantine: Quarantined findings of this ingestion: id, reason, detail, file.
        quarantine_total: Number of quarantined findings.
        samples: Sample patches.
        bands: Statistics per band, over the training split; None for an empty table.
    """

    table: TableRef
    rows: int
    summary: Mapping[str, Any]
    splits: dict[str, int]
    countries: dict[str, dict[str, int]]
    months: npt.NDArray[np.int64]
    class_counts: npt.NDArray[np.int64]
    labels_per_patch: npt.NDArray[np.int64]
    flags: dict[str, int]
    centres: npt.NDArray[np.float64]
    split_of: npt.NDArray[np.int64]
    quarantine: list[tuple[str, str, str, str]]
    quarantine_total: int
    samples: list[Sample]
    bands: BandStatistics | None


def collect(ref: TableRef, summary: Mapping[str, Any]) -> Quality:
    """Content of the report of a table; pixels are read for the samples only.

    Args:
        ref: Patches table at a version.
        summary: Counts of the ingestion.

    Raises:
        NotFound: The table or version does not exist.
    """
    from eoforge.data.tables.statistics import band_statistics

    table = open_table(ref)
    meta = table.to_table(columns=_COLUMNS + _FLAGS)
    split_names = meta["split"].to_numpy()
    splits = _ordered(Counter(split_names.tolist()))
    split_of = np.array([list(splits).index(name) for name in split_names], dtype=np.int64)
    # An unlabelled patch counts in no class; the flags say how many there are.
    labelled = meta["label_mask"].is_valid().to_numpy()
    hot = multi_hot(pc.fill_null(meta["label_mask"], 0).to_numpy()).astype(np.int64)
    class_counts = np.stack([hot[split_of == i].sum(0) for i in range(len(splits))], axis=1)
    countries: dict[str, dict[str, int]] = {}
    names = pc.fill_null(meta["country"], UNKNOWN_COUNTRY).to_pylist()
    for (country, split), count in sorted(Counter(zip(names, split_names, strict=True)).items()):
        countries.setdefault(country, {})[split] = count
    months = meta["acquired_s2"].drop_null().to_numpy().astype("datetime64[M]").astype(np.int64) % 12
    lon = (meta["lon_min"].to_numpy() + meta["lon_max"].to_numpy()) / 2
    lat = (meta["lat_min"].to_numpy() + meta["lat_max"].to_numpy()) / 2
    quarantine, total = _quarantine(ref.uri, str(summary.get("ingest_id", "")))
    return Quality(
        table=ref,
        rows=meta.num_rows,
        summary=summary,
        splits=splits,
        countries=countries,
        months=np.bincount(months, minlength=12),
        class_counts=class_counts,
        labels_per_patch=np.bincount(hot[labelled].sum(1)),
        flags={name: int(meta[name].to_numpy().sum()) for name in _FLAGS}
        | {name: count for column, name in _MAY_LACK.items() if (count := meta[column].null_count)},
        centres=np.stack([lon, lat], axis=1),
        split_of=split_of,
        quarantine=quarantine,
        quarantine_total=total,
        samples=_samples(table, meta["patch_id"].to_pylist()),
        bands=band_statistics(ref) if meta.num_rows else None,
    )


def _ordered(counts: Mapping[str, int]) -> dict[str, int]:
    known = {name: counts[name] for name in SPLITS if name in counts}
    return known | {name: counts[name] for name in sorted(set(counts) - set(known))}


def _quarantine(table_uri: str, ingest_id: str) -> tuple[list[tuple[str, str, str, str]], int]:
    uri = quarantine_uri(table_uri)
    if not table_exists(uri):
        return [], 0
    table = open_table(uri)
    where = f"ingest_id = {sql_list([ingest_id])}"
    columns = ["patch_id", "reason", "detail", "file"]
    rows = table.to_table(columns=columns, filter=where, limit=MAX_QUARANTINE_ROWS).to_pylist()
    return [tuple(row[c] for c in columns) for row in rows], table.count_rows(filter=where)


def _samples(table: Any, patch_ids: list[str]) -> list[Sample]:
    order = sorted(range(len(patch_ids)), key=patch_ids.__getitem__)
    step = max(1, len(order) // SAMPLES)
    # Lance reads sorted positions several times faster.
    chosen = sorted(order[::step][:SAMPLES])
    columns = ["patch_id", "country", "labels", "s2_10m", "s1", "reference_map"]
    return _pictures(table.take(chosen, columns=columns)) if chosen else []


def _pictures(rows: pa.Table) -> list[Sample]:
    from eoforge.data.loading.plot import map_colours, rgb, s1_composite, thumbnail_png
    from eoforge.data.tables.schema import tensor_column

    drawn = [
        (draw, *tensor_column(rows[column]))
        for column, draw in (("s2_10m", rgb), ("s1", s1_composite), ("reference_map", map_colours))
    ]
    samples = []
    for i, row in enumerate(rows.select(["patch_id", "country", "labels"]).to_pylist()):
        thumbnails = tuple(thumbnail_png(draw(pixels[i])) for draw, pixels, present in drawn if present[i])
        labels = None if row["labels"] is None else tuple(row["labels"])
        samples.append(Sample(row["patch_id"], row["country"] or UNKNOWN_COUNTRY, labels, thumbnails))
    return samples


def class_rows(quality: Quality) -> list[tuple[object, ...]]:
    """Rows of the class table: name, patches per split, share of all patches."""
    totals = quality.class_counts.sum(axis=1)
    return [
        (name, *(int(c) for c in quality.class_counts[i]), f"{100 * totals[i] / max(quality.rows, 1):.1f} %")
        for i, name in enumerate(CLASSES)
    ]


def quality_markdown(quality: Quality) -> str:
    """Markdown of the counts and quarantine reasons."""
    summary = quality.summary
    names = ("patches_in", "added", "unchanged", "changed", "quarantined", "duplicates", "warnings")
    lines = [
        f"# Ingestion {markdown(summary.get('ingest_id', ''))}",
        "",
        f"{markdown_code(quality.table)}: {quality.rows:,} patches",
        "",
    ]
    lines += ["| count | patches |", "| --- | ---: |"]
    lines += [f"| {markdown(name.replace('_', ' '))} | {int(summary[name]):,} |" for name in names if name in summary]
    lines += ["", "| split | patches |", "| --- | ---: |"]
    lines += [f"| {markdown(name)} | {count:,} |" for name, count in quality.splits.items()]
    if reasons := summary.get("reasons"):
        lines += ["", "| quarantine or warning | findings |", "| --- | ---: |"]
        lines += [f"| {markdown(name)} | {int(count):,} |" for name, count in sorted(reasons.items())]
    return "\n".join(lines) + "\n"
