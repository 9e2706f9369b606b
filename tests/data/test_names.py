"""Names: every one of the official metadata is parsed and rebuilt; malformed ones are refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eoforge.data import names
from eoforge.data.archives.metadata import MetadataRows
from eoforge.errors import DataRefused

TILE = "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP"
SCENE = "S1B_IW_GRDH_1SDV_20170612T165809"


def test_every_official_name_is_parsed_and_rebuilt(official: MetadataRows) -> None:
    columns = [official.table[c].to_pylist() for c in ("patch_id", "s1_name", "s2v1_name")]
    first, last = datetime(2017, 6, 13, tzinfo=UTC), datetime(2018, 5, 30, tzinfo=UTC)
    tiles, scenes, odd_times = set(), set(), 0
    for patch_id, s1_name, s2v1_name in zip(*columns, strict=True):
        patch, s1, v1 = names.parse_patch_id(patch_id), names.parse_s1_name(s1_name), names.parse_s2v1_name(s2v1_name)
        assert (str(patch), str(s1), str(v1)) == (patch_id, s1_name, s2v1_name)
        assert (patch.tile.mgrs, patch.x, patch.y) == (s1.mgrs, s1.x, s1.y)
        assert abs(patch.tile.acquired - s1.scene.acquired) < timedelta(days=7)
        tiles.add(patch.tile)
        scenes.add(s1.scene)
        odd_times += v1.time != f"{patch.tile.acquired:%H%M%S}"
    assert len(columns[0]) == 549_488
    assert (len(tiles), len(scenes), odd_times) == (115, 312, 99_253)
    assert all(first <= t.acquired < last for t in tiles)
    assert {names.tile_of(p) for p in columns[0]} == {str(t) for t in tiles}
    assert {names.scene_of(s) for s in columns[1]} == {str(s) for s in scenes}


def test_parts_of_a_name() -> None:
    patch = names.parse_patch_id(f"{TILE}_26_57")
    assert (patch.tile.mission, patch.tile.baseline, patch.tile.orbit, patch.tile.mgrs) == ("S2A", 9999, 22, "33UUP")
    assert patch.tile.acquired == datetime(2017, 6, 13, 10, 10, 31, tzinfo=UTC)
    assert (patch.x, patch.y) == (26, 57)
    s1 = names.parse_s1_name("S1B_IW_GRDH_1SDV_20171101T154016_35VNJ_0_0")
    assert (s1.scene.mission, s1.mgrs, s1.x, s1.y) == ("S1B", "35VNJ", 0, 0)
    v1 = names.parse_s2v1_name("S2B_MSIL2A_20170924T94161_4_55")
    assert (v1.date, v1.time, v1.x, v1.y) == ("20170924", "94161", "4", "55")


@given(st.integers(0, 90), st.integers(0, 90))
def test_cells_survive_both_paddings(x: int, y: int) -> None:
    assert names.parse_patch_id(f"{TILE}_{x:02d}_{y:02d}").x == x
    assert names.parse_s1_name(f"{SCENE}_33UUP_{x}_{y}").y == y


@pytest.mark.parametrize(
    "name",
    [
        "",
        TILE,
        f"{TILE}_26",
        f"{TILE}_2_57",  # not padded
        f"{TILE}_91_00",
        f"{TILE}_26_5７",  # a full-width digit
        f"{TILE}_26_57\n",
        f"../{TILE}_26_57",
        TILE.replace("S2A", "S2X") + "_26_57",
        TILE.replace("0613", "1313") + "_26_57",  # month 13
        TILE.replace("T33UUP", "T33UIP") + "_26_57",  # MGRS has no I
        TILE.replace("T33UUP", "T61UUP") + "_26_57",
    ],
)
def test_malformed_patch_ids_are_refused(name: str) -> None:
    with pytest.raises(DataRefused):
        names.parse_patch_id(name)


@pytest.mark.parametrize(
    "name", ["", SCENE, f"{SCENE}_33UUP_06_57", f"{SCENE}_T33UUP_6_57", f"{SCENE}_33UUP_6_91", f"{SCENE}_33UUP_6_-1"]
)
def test_malformed_s1_names_are_refused(name: str) -> None:
    with pytest.raises(DataRefused):
        names.parse_s1_name(name)


@pytest.mark.parametrize("name", ["", "S2A_MSIL2A_20170613_26_57", "S2A_MSIL2A_20170613T1_26_57", f"{TILE}_26_57"])
def test_malformed_v1_names_are_refused(name: str) -> None:
    with pytest.raises(DataRefused):
        names.parse_s2v1_name(name)


def test_tile_and_scene_folders() -> None:
    assert names.tile_of(f"{TILE}_26_57") == TILE
    assert names.scene_of(f"{SCENE}_33UUP_0_0") == SCENE
