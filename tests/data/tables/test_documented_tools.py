"""The examples of ``docs/data.md``: tools that read a table without eoforge, executed as they are printed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import geopandas
import pytest

from eoforge.data.bands import GROUPS
from eoforge.data.records import PatchPair, record_batch
from eoforge.data.synthetic.archive import synthetic_pairs
from eoforge.data.tables.commit import create_table
from eoforge.data.tables.schema import BANDS, PATCHES, tensor_column
from eoforge.errors import DataRefused
from eoforge.storage.addresses import open_table

DOCS = Path(__file__).resolve().parents[3] / "docs" / "data.md"
SECTION = "## DuckDB, pandas, GeoPandas, Polars\n"


@pytest.fixture(scope="module")
def pairs() -> list[PatchPair]:
    return list(synthetic_pairs(40, seed=2))


@pytest.fixture(scope="module")
def ran(pairs: list[PatchPair], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Folder in which the examples ran one after the other, and the names that they left."""
    folder = tmp_path_factory.mktemp("tools")
    create_table(str(folder / "patches.lance"), PATCHES).insert(record_batch(pairs))
    section = DOCS.read_text().partition(SECTION)[2].partition("\n## ")[0]
    blocks = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    assert len(blocks) == 6
    names: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        for block in blocks:
            exec(compile(block, str(DOCS), "exec"), names)
    return folder, names


def test_counts_agree_with_the_rows(ran: tuple[Path, dict[str, Any]], pairs: list[PatchPair]) -> None:
    names = ran[1]
    assert names["per_country"].patches.sum() == len(pairs)
    labels = [label for pair in pairs for label in pair.meta.labels]
    assert dict(names["per_label"].fetchall()) == {label: labels.count(label) for label in set(labels)}
    training = [
        p.meta for p in pairs if p.meta.split == "train" and p.meta.names.patch.tile.acquired.month in (6, 7, 8)
    ]
    assert sorted(names["summer"].patch_id) == sorted(meta.patch_id for meta in training)
    assert training
    snow = {row["country"]: row["contains_seasonal_snow"] for row in names["snow"].to_dicts()}
    assert snow.keys() == {p.meta.country for p in pairs}


def test_footprints_lie_where_the_patches_are(ran: tuple[Path, dict[str, Any]], pairs: list[PatchPair]) -> None:
    written = geopandas.read_file(ran[0] / "footprints.gpkg").set_index("patch_id")
    assert written.crs.to_epsg() == 4326
    metres = written.to_crs(pairs[0].meta.names.footprint.epsg)
    side = metres.loc[pairs[0].meta.patch_id].geometry.area ** 0.5
    assert 1200 <= side < 1300  # of the box in degrees around a square of 1,200 m


def test_channels_are_named_in_their_order(ran: tuple[Path, dict[str, Any]], pairs: list[PatchPair]) -> None:
    names = ran[1]
    by_id = {p.meta.patch_id: p for p in pairs}
    for row, patch_id in enumerate(names["rows"]["patch_id"].to_pylist()):
        assert (names["red"][row] == by_id[patch_id].s2_10m[2]).all()
    schema = open_table(str(ran[0] / "patches.lance")).schema
    assert {g.column: schema.field(g.column).metadata[BANDS].decode() for g in GROUPS} == {
        "s2_10m": "B02,B03,B04,B08",
        "s2_20m": "B05,B06,B07,B8A,B11,B12",
        "s2_60m": "B01,B09",
        "s1": "VV,VH",
    }


def unnamed(schema: Any, bands: bytes | None = None) -> Any:
    """The schema without names of bands, as tables had it before, or with others."""
    for number, field in enumerate(schema):
        metadata = {key: value for key, value in (field.metadata or {}).items() if key != BANDS}
        if bands is not None and BANDS in (field.metadata or {}):
            metadata[BANDS] = bands
        schema = schema.set(number, field.with_metadata(metadata or None))
    return schema


def test_tables_from_before_are_read_and_grow(tmp_path: Path, pairs: list[PatchPair]) -> None:
    uri = str(tmp_path / "old.lance")
    create_table(uri, unnamed(PATCHES))
    table = create_table(uri, PATCHES)
    table.insert(record_batch(pairs[:3]))
    table.insert(record_batch(pairs[3:5]))
    found = open_table(uri)
    assert BANDS not in (found.schema.field("s1").metadata or {})
    assert tensor_column(found.to_table(columns=["s1"])["s1"])[0].shape == (5, 2, 120, 120)


def test_a_table_of_other_bands_is_refused(tmp_path: Path) -> None:
    uri = str(tmp_path / "other.lance")
    create_table(uri, unnamed(PATCHES, b"B04,B03,B02,B08"))
    with pytest.raises(DataRefused, match="another schema"):
        create_table(uri, PATCHES)
