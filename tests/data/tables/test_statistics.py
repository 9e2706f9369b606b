"""Band statistics against NumPy over all pixels; computed once per version."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from eoforge.data.bands import GROUPS, S1_10M
from eoforge.data.ingest.run import ingest
from eoforge.data.records import PatchPair
from eoforge.data.split import official_split
from eoforge.data.tables import statistics
from eoforge.data.tables.commit import create_table
from eoforge.data.tables.schema import PATCHES
from eoforge.data.tables.statistics import S1_EDGES, S2_EDGES, band_statistics
from eoforge.errors import DataRefused, NotFound, UsageError
from eoforge.storage.addresses import TableRef, join
from tests.data.ingest.ingest_support import archive_of, pairs_of


def pixels_of(pairs: list[PatchPair], band: str) -> np.ndarray:
    group = next(g for g in GROUPS if band in g.bands)
    values = [getattr(p, group.column)[group.bands.index(band)] for p in pairs]
    return np.stack(values).astype(np.float64)


def training(count: int) -> list[PatchPair]:
    return [p for p in pairs_of(count) if p.meta.split == "train"]


def test_moments_and_histograms_are_those_of_the_training_pixels(tmp_path: Path, store_uri: str) -> None:
    table = join(store_uri, "patches.lance")
    ingest(archive_of(tmp_path / "a", 12), table)
    made = band_statistics(table)
    pairs = training(12)
    assert 0 < len(pairs) == made.patches
    assert made.split == "train"
    for group in GROUPS:
        for band in group.bands:
            values, found = pixels_of(pairs, band), made.bands[band]
            assert found.count == values.size
            assert found.mean == pytest.approx(values.mean(), rel=1e-12)
            assert found.std == pytest.approx(values.std(), rel=1e-9)
            assert (found.min, found.max) == (values.min(), values.max())
            edges = S1_EDGES if group is S1_10M else S2_EDGES
            clipped = np.clip(values, edges[0], np.nextafter(edges[-1], 0))
            assert found.histogram == tuple(np.histogram(clipped, edges)[0])
            assert sum(found.histogram) == values.size
    np.testing.assert_allclose(made.mean(("VH", "VV")), [made.bands["VH"].mean, made.bands["VV"].mean])
    assert made.std(("B01",)).dtype == np.float32
    with pytest.raises(UsageError, match="B10"):
        made.mean(("B10",))


def test_computed_once_per_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = str(tmp_path / "patches.lance")
    first = ingest(archive_of(tmp_path / "a", 8), table)
    calls: list[int] = []
    real = statistics._compute

    def counted(dataset: object, uri: str) -> object:
        calls.append(1)
        return real(dataset, uri)  # type: ignore[arg-type]  # passed through

    monkeypatch.setattr(statistics, "_compute", counted)
    old = band_statistics(TableRef(table, first.version))
    assert old.version == first.version
    assert calls == [], "ingestion left them"
    second = ingest(archive_of(tmp_path / "a", 12), table)
    assert len(calls) == 1
    assert band_statistics(TableRef(table, second.version)).patches == len(training(12))
    assert band_statistics(TableRef(table, first.version)) == old
    assert len(calls) == 1


def test_a_table_made_again_does_not_inherit_the_statistics(tmp_path: Path) -> None:
    table = str(tmp_path / "patches.lance")
    ingest(archive_of(tmp_path / "a", 8), table)
    shutil.rmtree(table)
    ingest(archive_of(tmp_path / "b", 8, seed=3), table)
    pairs = [p for p in pairs_of(8, seed=3) if p.meta.split == "train"]
    assert band_statistics(table).bands["VV"].mean == pytest.approx(pixels_of(pairs, "VV").mean(), rel=1e-12)


def test_without_training_patches_all_count(tmp_path: Path) -> None:
    table = str(tmp_path / "patches.lance")
    start = next(n for n in range(6400) if official_split(n % 80, n // 80) != "train")
    ingest(archive_of(tmp_path / "a", 1, start=start), table)
    made = band_statistics(table)
    assert (made.split, made.patches) == ("all", 1)


def test_no_table_and_no_rows(tmp_path: Path) -> None:
    table = str(tmp_path / "patches.lance")
    with pytest.raises(NotFound):
        band_statistics(table)
    create_table(table, PATCHES)
    with pytest.raises(DataRefused, match="no rows"):
        band_statistics(table)
