"""Quality report of an ingestion: counts, classes, quarantine, samples, map of footprints, band statistics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eoforge.data.ingest.quarantine import findings
from eoforge.data.tables.contents import UNKNOWN_COUNTRY, TableContents, table_contents
from eoforge.report import markdown, markdown_code
from eoforge.storage.addresses import TableRef, open_table

if TYPE_CHECKING:
    import pyarrow as pa

    from eoforge.data.tables.statistics import BandStatistics

SAMPLES = 24
"""Number of sample patches, spread evenly over the ids, so that tiles and seasons vary."""
MAX_QUARANTINE_ROWS = 40


@dataclass(frozen=True)
class Sample:
    """Sample patch: PNG bytes of S2 true colour, S1 composite and reference map, as far as it has them."""

    patch_id: str
    country: str
    labels: tuple[str, ...] | None
    pictures: tuple[bytes, ...]


@dataclass(frozen=True)
class Quality(TableContents):
    """Content of the quality report: the contents of the table, and what belongs to one ingestion.

    Attributes:
        summary: Counts of the ingestion (``IngestSummary`` as a mapping).
        quarantine: Quarantined findings of this ingestion: id, reason, detail, file.
        quarantine_total: Number of quarantined findings.
        samples: Sample patches.
        bands: Statistics per band, over the training split; None for an empty table.
    """

    summary: Mapping[str, Any]
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

    contents = table_contents(ref)
    found = findings(ref.uri, ingest_id=str(summary.get("ingest_id", "")), count=MAX_QUARANTINE_ROWS)
    return Quality(
        **vars(contents),
        summary=summary,
        quarantine=[(one.patch_id, one.reason, one.detail, one.file) for one in found.rows],
        quarantine_total=found.total,
        samples=_samples(open_table(ref)),
        bands=band_statistics(ref) if contents.rows else None,
    )


def _samples(table: Any) -> list[Sample]:
    patch_ids = table.to_table(columns=["patch_id"])["patch_id"].to_pylist()
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
