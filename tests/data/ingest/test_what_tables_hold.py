"""What tables hold, as pages and reports show it: versions and their changes, findings, pictures, footprints."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from eoforge.data.ingest.pictures import quarantine_pictures
from eoforge.data.ingest.quarantine import findings
from eoforge.data.labels import CLASSES
from eoforge.data.records import Reason
from eoforge.data.tables import footprints
from eoforge.data.tables.contents import table_contents
from eoforge.data.tables.footprints import FootprintMap
from eoforge.data.tables.versions import table_versions, version_change
from eoforge.errors import NotFound
from eoforge.storage.addresses import TableRef, open_table
from tests.data.ingest.ingest_support import BAD_PIXELS, Grown, grown_table


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Grown:
    return grown_table(tmp_path_factory.mktemp("versions"))


def test_versions_name_the_load_that_made_them(grown: Grown) -> None:
    versions, older = table_versions(grown.table)
    assert not older
    assert [v.version for v in versions] == sorted((v.version for v in versions), reverse=True)
    loads = [(v.job, v.added, v.changed, v.rows) for v in versions if v.kind == "bulk load"]
    assert loads == [(grown.second.ingest_id, 3, 1, 11), (grown.first.ingest_id, 8, 0, 8)]
    assert versions[-1].kind == "created"
    assert any(v.kind == "indexed" for v in versions)
    assert all(v.at.tzinfo is not None for v in versions)
    page, older = table_versions(grown.table, count=2, before=versions[0].version)
    assert (page, older) == (versions[1:3], True)


def test_a_change_names_patches_and_classes(grown: Grown) -> None:
    before = TableRef(grown.table, grown.first.version)
    after = TableRef(grown.table, grown.second.version)
    change = version_change(before, after)
    assert (change.added, change.removed, change.changed) == (3, 0, 1)
    assert change.examples["added"] == tuple(sorted(grown.names[8:11]))
    assert change.examples["changed"] == (grown.names[0],)
    counts = table_contents(after).class_counts.sum(1) - table_contents(before).class_counts.sum(1)
    np.testing.assert_array_equal(change.classes, counts)
    back = version_change(after, before)
    assert (back.added, back.removed, back.changed) == (0, 3, 1)
    assert back.examples["removed"] == change.examples["added"]
    with pytest.raises(NotFound, match="has no version 99"):
        version_change(before, TableRef(grown.table, 99))


def test_an_empty_version_has_contents_and_no_footprints(grown: Grown) -> None:
    contents = table_contents(TableRef(grown.table, 1))
    assert (contents.rows, contents.splits, contents.class_counts.shape) == (0, {}, (len(CLASSES), 0))
    empty = FootprintMap(open_table(TableRef(grown.table, 1)))
    assert empty.extent is None
    assert empty.view((-180, -90, 180, 90))["features"] == []


def test_findings_come_by_reason_and_in_parts(grown: Grown) -> None:
    found = findings(grown.table)
    assert found.reasons == {Reason.MISSING_BAND: 1, Reason.NODATA_S2: 1}
    assert found.total == 2
    assert {one.patch_id for one in found.rows} == {grown.names[11]}
    nodata = findings(grown.table, reason="nodata_s2")
    assert (nodata.total, [one.reason for one in nodata.rows]) == (1, ["nodata_s2"])
    assert "6 pixels are 0" in nodata.rows[0].detail
    parts = [findings(grown.table, start=i, count=1).rows for i in range(3)]
    assert [*parts[0], *parts[1]] == found.rows
    assert parts[2] == []
    assert findings(grown.table, reason="it's <b>").total == 0
    assert findings(grown.table, ingest_id=grown.first.ingest_id).reasons == {}
    assert findings(f"{grown.table}.absent").total == 0


def test_a_picture_of_a_bad_patch_shows_the_pixels_without_data(grown: Grown) -> None:
    pictures = quarantine_pictures(grown.table, grown.second.ingest_id, grown.names[11])
    assert pictures["s2"].shape == pictures["s1"].shape == (120, 120, 3)
    magenta = (pictures["s2"] == (255, 0, 200)).all(axis=-1)
    expected = np.zeros((120, 120), dtype=bool)
    expected[BAD_PIXELS] = True
    np.testing.assert_array_equal(magenta, expected)
    assert set(quarantine_pictures(grown.table, grown.second.ingest_id, grown.names[0])) == {"s1", "s2"}
    for name in ("A", "z", grown.names[0] + "x"):
        with pytest.raises(NotFound, match="has no patch"):
            quarantine_pictures(grown.table, grown.second.ingest_id, name)
    with pytest.raises(NotFound, match="is not planned"):
        quarantine_pictures(grown.table, "ingest-0", grown.names[11])


def test_a_map_has_polygons_of_few_and_counts_of_many(grown: Grown, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = FootprintMap(open_table(TableRef(grown.table, grown.second.version)))
    assert shown.extent is not None
    few = shown.view(shown.extent)
    assert (few["kind"], few["total"], len(few["features"])) == ("patches", 11, 11)
    first = next(f for f in few["features"] if f["properties"]["patch_id"] == grown.names[0])
    ring = np.array(first["geometry"]["coordinates"][0])
    assert ring.shape == (5, 2)
    assert (ring[0] == ring[4]).all()
    west, south, east, north = shown.extent
    assert ((ring >= (west - 1e-6, south - 1e-6)) & (ring <= (east + 1e-6, north + 1e-6))).all()
    monkeypatch.setattr(footprints, "MAX_POLYGONS", 10)
    many = shown.view(shown.extent)
    assert (many["kind"], many["total"]) == ("cells", 11)
    assert sum(f["properties"]["count"] for f in many["features"]) == 11
    assert len(shown.view((-180.0, -90.0, 180.0, 90.0))["features"]) == 1
    assert shown.view((0.0, 80.0, 1.0, 81.0))["total"] == 0


def test_a_damaged_archive_of_another_kind_names_what_it_lacks(tmp_path: Path, grown: Grown) -> None:
    with pytest.raises(NotFound):
        quarantine_pictures(str(tmp_path / "absent.lance"), grown.second.ingest_id, grown.names[0])
