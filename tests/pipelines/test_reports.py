"""Reports: right numbers, one file, nothing from outside, no markup from data."""

from __future__ import annotations

import re
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from eoforge.bundle import Bundle, read_steps, scalar_metrics, write_bundle
from eoforge.data.ingest.run import ingest
from eoforge.data.labels import CLASSES
from eoforge.data.records import record_batch
from eoforge.data.synthetic.archive import synthetic_pairs
from eoforge.data.tables.commit import create_table
from eoforge.data.tables.contents import class_rows
from eoforge.data.tables.schema import PATCHES
from eoforge.storage.addresses import TableRef, open_table
from pipelines.reports.curves import curves_html
from pipelines.reports.quality import SAMPLES, Quality, collect, quality_markdown
from pipelines.reports.quality_page import _map, coastlines, quality_html
from pipelines.reports.retrieval import metrics_markdown
from tests.pipelines.conftest import DamagedArchive

OUTSIDE = re.compile(r"""(?:src|href|action|url)\s*[=(]\s*["']?(?!data:|#)[^"'>\s]+|@import|<script""", re.IGNORECASE)


def assert_self_contained(html: str) -> None:
    """The page asks nobody for anything: Kubeflow shows it in a sandbox without network rights of its own."""
    assert html.startswith("<!doctype html>")
    assert html.rstrip().endswith("</html>")
    assert OUTSIDE.findall(html) == []
    assert "data:image/png;base64," in html


@pytest.fixture(scope="module")
def quality(archive: DamagedArchive, tmp_path_factory: pytest.TempPathFactory) -> Quality:
    table = str(tmp_path_factory.mktemp("quality") / "patches.lance")
    summary = ingest(str(archive.uri), table)
    return collect(TableRef(table, open_table(table).version), asdict(summary))


@pytest.fixture(scope="module")
def html(quality: Quality) -> str:
    return quality_html(quality)


def test_every_patch_is_counted_once(quality: Quality, archive: DamagedArchive) -> None:
    assert quality.rows == archive.patches - 1
    assert sum(quality.splits.values()) == quality.rows == quality.months.sum() == quality.labels_per_patch.sum()
    assert sum(sum(by.values()) for by in quality.countries.values()) == quality.rows


def test_patches_without_radar_or_labels_are_counted_and_shown(tmp_path: Path) -> None:
    complete, *others = synthetic_pairs(3)
    for number, one in enumerate(others):
        meta = replace(one.meta, s1_name=None, country=None, labels=None if number else one.meta.labels)
        others[number] = replace(one, meta=meta, s1=None, reference_map=None)
    table = str(tmp_path / "patches.lance")
    create_table(table, PATCHES).insert(record_batch([complete, *others]))
    quality = collect(TableRef(table, open_table(table).version), {})
    assert quality.flags["without_sentinel_1"] == 2
    assert quality.flags["without_labels"] == 1
    assert "without_sentinel_2" not in quality.flags
    assert quality.labels_per_patch.sum() == 2
    assert sum(quality.countries["unknown"].values()) == 2
    assert sorted(len(sample.pictures) for sample in quality.samples) == [1, 1, 3]
    page = quality_html(quality)
    assert "without sentinel 1: 2 patches" in page
    assert "unlabelled" in page


def test_class_counts_agree_with_the_label_names(quality: Quality) -> None:
    labels = open_table(quality.table).to_table(columns=["labels"])["labels"].to_pylist()
    for row, name in zip(class_rows(quality), CLASSES, strict=True):
        assert row[0] == name
        assert sum(row[1:-1]) == sum(name in names for names in labels)


def test_quarantined_patch_is_named_with_its_reason(quality: Quality, archive: DamagedArchive, html: str) -> None:
    assert quality.quarantine_total == len(quality.quarantine) == 1
    patch_id, reason, detail, file = quality.quarantine[0]
    assert patch_id == archive.bad
    assert "B03" in detail + file
    assert archive.bad in html
    assert reason in html
    assert reason in quality_markdown(quality)


def test_findings_of_earlier_ingestions_are_not_passed_over(quality: Quality, html: str) -> None:
    """Ingested again, the same bad patch is counted but named by the first ingestion: the page says where it stands."""
    again = quality_html(replace(quality, quarantine=[], quarantine_total=0))
    assert "1 findings were known before; the quarantine table has them" in again
    assert "met before" not in html


def test_page_is_one_file_with_every_picture_inside(quality: Quality, html: str) -> None:
    assert_self_contained(html)
    assert len(quality.samples) == SAMPLES
    assert html.count("<img") >= 3 * SAMPLES + 3
    assert html.count('<details class="sample"><summary>') == SAMPLES  # a click opens large pictures
    assert ".sample[open]{grid-column:1/-1}" in html


def test_the_map_has_coastlines_and_keeps_to_the_footprints(quality: Quality) -> None:
    lines = coastlines(True)
    assert len(lines) > 100
    lon, lat = np.concatenate(lines).T
    assert (lon.min(), lon.max(), lat.min(), lat.max()) == pytest.approx((-25, 46, 33, 72), abs=0.7)
    # Dover and Calais: the coast of each side of the strait is where it is.
    for place in ((1.32, 51.12), (1.85, 50.96)):
        assert np.hypot(lon - place[0], lat - place[1]).min() < 0.15
    axes = Figure().add_subplot()
    _map(axes, quality)
    assert [type(c).__name__ for c in axes.collections].count("LineCollection") == 1
    assert max(np.abs(np.diff(line, axis=0)).max() for line in lines) < 5  # no line across the map
    west, east, south, north = axes.axis()
    assert east - west < 3 * max(np.ptp(quality.centres[:, 0]), 1)
    assert north - south < 3 * max(np.ptp(quality.centres[:, 1]), 1)


def test_the_map_of_another_continent_has_its_coastlines(quality: Quality) -> None:
    lines = coastlines(False)
    lon, lat = np.concatenate(lines).T
    assert max(np.abs(np.diff(line[:, 0])).max() for line in lines) < 90  # no line across the map
    for place in ((18.4, -34.3), (-43.2, -23.0), (151.3, -33.9), (139.8, 35.2)):  # Cape Town, Rio, Sydney, Tokyo
        assert np.hypot(lon - place[0], lat - place[1]).min() < 1
    axes = Figure().add_subplot()
    _map(axes, replace(quality, centres=quality.centres * [1, -1] + [120, 0]))
    (drawn,) = (c for c in axes.collections if type(c).__name__ == "LineCollection")
    assert len(drawn.get_segments()) == len(lines)


def test_names_from_the_data_cannot_inject_markup(quality: Quality) -> None:
    evil = "<img src=http://x onerror=alert(1)>"
    rows = [(evil, evil, evil, evil)]
    html = quality_html(replace(quality, quarantine=rows, countries={evil: {"train": 1}}, summary={"ingest_id": evil}))
    assert "<img src=http" not in html
    assert "&lt;img src=http" in html


def test_markdown_lists_the_counts(quality: Quality, archive: DamagedArchive) -> None:
    text = quality_markdown(quality)
    assert f"| patches in | {archive.patches} |" in text
    assert "| quarantined | 1 |" in text


def test_table_of_bad_patches_alone_still_gets_a_page(quality: Quality) -> None:
    empty = replace(quality, rows=0, samples=[], bands=None, centres=quality.centres[:0], split_of=quality.split_of[:0])
    assert "The table is empty." in quality_html(empty)


@pytest.fixture
def bundle(tmp_path: Path, quality: Quality) -> Bundle:
    history = [{"epoch": i, "step": 4 * (i + 1), "loss": 3.0 - i, "validation_score": 0.1 * i} for i in range(3)]
    patches = {"uri": quality.table.uri, "version": quality.table.version}
    steps = "epoch,batch,loss\n" + "".join(f"{i // 4},{i % 4},{3 - i / 5}\n" for i in range(12))
    return write_bundle(
        str(tmp_path),
        weights={"w": torch.ones(2)},
        config={"method": "ss_cm_rsir", "code_revision": "abc", "patches": patches},
        metrics={"loss": 1.0, "steps": 12, "device": "cpu", "stopped_early": False, "history": history},
        readme="# card",
        extra_files={"curve.csv": steps.encode()},
    )


def test_curves_show_every_step_and_epoch(bundle: Bundle) -> None:
    steps = read_steps(bundle)
    assert steps["loss"].tolist() == [3 - i / 5 for i in range(12)]
    html = curves_html(bundle)
    assert_self_contained(html)
    assert "Every step" in html
    assert "validation score" in html


def test_only_finite_numbers_become_metrics() -> None:
    found = scalar_metrics({"a": 1, "b": 0.5, "c": "cpu", "d": True, "e": [1], "f": float("nan")})
    assert found == {"a": 1.0, "b": 0.5}


def test_metrics_as_markdown() -> None:
    text = metrics_markdown("m 123", TableRef("s3://lake/p.lance", 3), {"recall@10_s1_to_s2": 0.25, "queries": 2000.0})
    assert "| recall@10 s1 to s2 | 0.2500 |" in text
    assert "| queries | 2,000 |" in text
    assert "s3://lake/p.lance@3" in text
