"""HTML page of the quality report, self-contained, with figures of matplotlib."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from eoforge.data.bands import S1_BANDS, S2_BANDS
from eoforge.data.labels import CLASSES
from eoforge.data.tables.contents import class_rows
from eoforge.data.tables.statistics import S1_EDGES, S2_EDGES
from eoforge.methods.evaluation.answers import radar_legend
from eoforge.report import Html, concat, element, escape, figure, image, page, section, table, tiles
from pipelines.reports.quality import MAX_QUARANTINE_ROWS, Quality, Sample

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SPLIT_COLOURS = ("#0b6e99", "#e2932f", "#7a4fa3", "#5b6875")
_INK, _SOFT, _LINE = "#1c2733", "#5b6875", "#dfe5ea"
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MAX_DOTS = 60_000
"""Limit of footprints on the map; of larger tables an even share is drawn, which the caption states."""


def quality_html(quality: Quality) -> str:
    """Self-contained HTML page of the report."""
    summary = quality.summary
    figures = {"patches in the table": f"{quality.rows:,}"}
    figures |= {name: f"{int(summary.get(name, 0)):,}" for name in ("added", "unchanged", "changed", "quarantined")}
    parts = [
        tiles(figures),
        _classes(quality),
        _places(quality),
        _samples(quality.samples),
        _quarantine(quality),
        _bands(quality),
    ]
    lead = f"{quality.table} after ingestion {summary.get('ingest_id', '')}"
    footer = (
        f"Counts of all {quality.rows:,} patches of {quality.table}; band statistics over the training split. "
        f"This ingestion read {int(summary.get('patches_in', 0)):,} patches with "
        f"{int(summary.get('warnings', 0)):,} warnings and {int(summary.get('duplicates', 0)):,} duplicate ids."
    )
    return page("Quality of the archive", lead, parts, footer)


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    drawing = Figure(figsize=(width, height), facecolor="white")
    axes = drawing.add_subplot()
    _quiet(axes)
    return drawing, axes


def _quiet(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_LINE)
    axes.tick_params(colors=_SOFT, labelsize=8, length=0)
    axes.set_axisbelow(True)


def _classes(quality: Quality) -> Html:
    drawing, axes = _axes(10, 5.2)
    order = np.argsort(quality.class_counts.sum(axis=1))
    left = np.zeros(len(order))
    for i, split in enumerate(quality.splits):
        widths = quality.class_counts[order, i]
        axes.barh(range(len(order)), widths, left=left, color=SPLIT_COLOURS[i % 4], label=split, height=0.72)
        left += widths
    for y, total in enumerate(left):
        axes.text(total, y, f"  {int(total):,}", va="center", fontsize=8, color=_SOFT)
    axes.set_yticks(range(len(order)), [_short(CLASSES[i]) for i in order], color=_INK)
    axes.grid(axis="x", color=_LINE, linewidth=0.6)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("patches", fontsize=8, color=_SOFT)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    many = ", ".join(f"{n}: {count:,}" for n, count in enumerate(quality.labels_per_patch) if count)
    caption = f"Patches per class; a patch counts once for each of its classes. Classes per patch: {many}."
    header = ("class", *quality.splits, "of all patches")
    details = element("details", concat([element("summary", "as a table"), table(header, class_rows(quality))]))
    return section("Class balance", figure(drawing, caption), details)


def _short(name: str) -> str:
    return name if len(name) <= 46 else name[:45].rstrip(" ,") + "…"


def _places(quality: Quality) -> Html:
    drawing = Figure(figsize=(10, 4.6), facecolor="white")
    grid = drawing.add_gridspec(1, 2, width_ratios=[1.6, 1], wspace=0.18)
    _map(drawing.add_subplot(grid[0]), quality)
    months = drawing.add_subplot(grid[1])
    _quiet(months)
    months.bar(range(12), quality.months, color=SPLIT_COLOURS[0], width=0.72)
    months.set_xticks(range(12), [m[0] for m in _MONTHS])
    months.set_title("Sentinel-2 acquisitions by month", fontsize=9, color=_SOFT, loc="left")
    months.yaxis.set_major_locator(MaxNLocator(integer=True))
    months.grid(axis="y", color=_LINE, linewidth=0.6)
    shown = min(quality.rows, _MAX_DOTS)
    part = "" if shown == quality.rows else f" ({shown:,} of {quality.rows:,} drawn)"
    flags = "; ".join(f"{name.replace('_', ' ')}: {count:,} patches" for name, count in quality.flags.items())
    splits = list(quality.splits)
    rows = [(country, *(by.get(s, 0) for s in splits), sum(by.values())) for country, by in quality.countries.items()]
    rows.append(("all", *quality.splits.values(), quality.rows))
    return section(
        "Where and when",
        figure(
            drawing, f"Centres of the patches in longitude and latitude{part}; coastlines of Natural Earth. {flags}."
        ),
        table(("country", *splits, "all"), rows),
    )


_EUROPE = (-25.0, 46.0, 33.0, 72.0)
"""West, east, south and north of the finer coastlines."""


@cache
def coastlines(europe: bool) -> list[NDArray[np.float64]]:
    """Coastlines, longitude and latitude in degrees ``[N, 2]`` each.

    Natural Earth, public domain (from the package world-atlas): of Europe 1:50m, simplified to 0.02 degrees; of the
    world 1:110m, to 0.1 degrees.
    """
    name = "coastlines.json" if europe else "coastlines_world.json"
    lines = json.loads(Path(__file__).with_name(name).read_text())
    return [np.array(line, dtype=np.float64).reshape(-1, 2) for line in lines]


def _in_europe(centres: NDArray[np.float64]) -> bool:
    west, east, south, north = _EUROPE
    lon, lat = centres.T
    return bool(((lon > west) & (lon < east) & (lat > south) & (lat < north)).all())


def _map(axes: Axes, quality: Quality) -> None:
    _quiet(axes)
    step = max(1, -(-quality.rows // _MAX_DOTS))
    centres, split_of = quality.centres[::step], quality.split_of[::step]
    size = float(np.clip(4000 / max(len(centres), 1), 0.3, 14))
    for i, split in enumerate(quality.splits):
        chosen = centres[split_of == i]
        axes.scatter(chosen[:, 0], chosen[:, 1], s=size, c=SPLIT_COLOURS[i % 4], linewidths=0, label=split, alpha=0.75)
    axes.grid(color=_LINE, linewidth=0.6)
    if len(centres):
        coast = LineCollection(coastlines(_in_europe(centres)), colors=_SOFT, linewidths=0.7, zorder=0.5)
        axes.add_collection(coast, autolim=False)  # the map keeps to the footprints
        # Ratio of one degree of longitude to one of latitude; the limits of the axes may grow.
        axes.set_aspect(1 / np.cos(np.radians(centres[:, 1].mean())), adjustable="datalim")
    axes.set_title("Footprints", fontsize=9, color=_SOFT, loc="left")
    axes.set_xlabel("degrees east", fontsize=8, color=_SOFT)
    axes.set_ylabel("degrees north", fontsize=8, color=_SOFT)
    axes.legend(frameon=False, fontsize=8, markerscale=max(1.0, (16 / size) ** 0.5), loc="best")


def _named(sample: Sample) -> str:
    return "unlabelled" if sample.labels is None else ", ".join(sample.labels)


def _samples(samples: list[Sample]) -> Html:
    if not samples:
        return section("Samples", element("p", "The table is empty."))
    cards = []
    for sample in samples:
        pictures = element("div", concat(image(png, sample.patch_id) for png in sample.pictures), class_="triple")
        text = [element("p", sample.patch_id, class_="id")]
        text.append(element("p", concat([element("b", sample.country), ": " + _named(sample)])))
        cards.append(element("details", element("summary", concat([pictures, *text])), class_="sample"))
    style = Html(
        "<style>.samples{display:grid;grid-template-columns:repeat(auto-fill,minmax(330px,1fr));gap:16px}"
        ".sample{font-size:12px;line-height:1.4;min-width:0}.sample p{margin:3px 0;color:var(--soft)}"
        ".sample .id{overflow-wrap:anywhere;font-family:monospace;font-size:11px;color:var(--ink)}"
        ".triple{display:flex;gap:4px}.triple img{width:33%;aspect-ratio:1;border-radius:4px;object-fit:cover}"
        ".sample summary{list-style:none;cursor:zoom-in}.sample summary::-webkit-details-marker{display:none}"
        ".sample[open]{grid-column:1/-1}.sample[open] summary{cursor:zoom-out}"
        ".sample[open] img{image-rendering:pixelated}"
        "</style>"
    )
    note = element(
        "p",
        "Sentinel-2 true colour, Sentinel-1 composite and reference map, as far as a patch has them. Click a sample "
        "for large pictures.",
        class_="soft",
    )
    return section("Samples", style, note, radar_legend(), element("div", concat(cards), class_="samples"))


def _quarantine(quality: Quality) -> Html:
    reasons: dict[str, int] = dict(quality.summary.get("reasons", {}))
    if not reasons and not quality.quarantine:
        return section("Quarantine", element("p", "No patch was quarantined, and there are no warnings."))
    by_count = sorted(reasons, key=reasons.__getitem__, reverse=True)
    parts: list[object] = [table(("reason", "findings"), [(name, reasons[name]) for name in by_count])]
    if quality.quarantine:
        rows = [tuple(escape(cell) for cell in row) for row in quality.quarantine]
        shown = f"the first {len(rows)} of " if quality.quarantine_total > MAX_QUARANTINE_ROWS else ""
        parts.append(
            element("p", f"Kept out of the table: {shown}{quality.quarantine_total:,} findings", class_="soft")
        )
        parts.append(table(("patch", "reason", "what is wrong", "file"), rows))
    if (known := sum(reasons.values()) - quality.quarantine_total) > 0:
        # The quarantine table has each finding once, under the first ingestion with it.
        earlier = (
            f"{known:,} findings were known before; the quarantine table has them under an earlier ingestion or row."
        )
        parts.append(element("p", earlier, class_="soft"))
    return section("Quarantine and warnings", *parts)


def _bands(quality: Quality) -> Html:
    statistics = quality.bands
    if statistics is None:
        return section("Bands", element("p", "The table is empty."))
    bands = [band for band in (*S2_BANDS, *S1_BANDS) if band in statistics.bands]
    drawing = Figure(figsize=(10, 4.8), facecolor="white")
    for i, band in enumerate(bands):
        axes = drawing.add_subplot(3, 5, i + 1)
        _quiet(axes)
        edges = S1_EDGES if band in S1_BANDS else S2_EDGES
        counts = np.asarray(statistics.bands[band].histogram)
        used = np.flatnonzero(counts > counts.sum() / 10_000)
        axes.stairs(counts, edges, fill=True, color=SPLIT_COLOURS[2 if band in S1_BANDS else 0])
        if len(used):  # a few bright roofs must not compress the histogram
            axes.set_xlim(edges[used[0]], edges[used[-1] + 1])
        axes.set_title(band, fontsize=9, color=_INK, loc="left", pad=2)
        axes.set_yticks([])
    drawing.subplots_adjust(hspace=0.55, wspace=0.15)
    rows = [
        (band, *(f"{v:,.1f}" for v in (one.mean, one.std, one.min, one.max)))
        for band, one in ((band, statistics.bands[band]) for band in bands)
    ]
    return section(
        "Bands",
        figure(
            drawing,
            "Distribution of the values: Sentinel-2 in digital numbers, Sentinel-1 (VV, VH) in dB. "
            f"Patches: {statistics.patches:,} of split {statistics.split}.",
        ),
        table(("band", "mean", "standard deviation", "minimum", "maximum"), rows),
    )
