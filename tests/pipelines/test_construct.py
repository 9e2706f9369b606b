"""The plan of a construction: the same shards and options as on the command line, from texts."""

from __future__ import annotations

from pathlib import Path

import pytest

from eoforge.data.ingest.plan import load_plan
from eoforge.data.ingest.run import commit_ingest, ingest_shards
from eoforge.data.synthetic.tile import write_tile
from eoforge.data.tiles.options import TileOptions, options_of
from eoforge.errors import UsageError
from pipelines.components.construct import plan_construct
from pipelines.ranges import ShardRange


def test_steps_construct_what_the_options_say(tmp_path: Path) -> None:
    tile = write_tile(tmp_path / "tile", columns=1, rows=2, first=(3, 5), layout="cog", fast=True)
    table = str(tmp_path / "patches.lance")
    texts = ("0", str(tile.radar), "db", 7, str(tile.land_cover), "Austria")
    planned = plan_construct.python_func(str(tile.product), table, *texts, 1024, False)
    ingest_id, ranges = planned
    _, plan = load_plan(table, ingest_id)
    assert plan.tiles == TileOptions(0, str(tile.radar), "db", 7, str(tile.land_cover), "Austria")
    for text in ranges:
        part = ShardRange.parse(text)
        assert ingest_shards(table, part.job_id, part.first, part.count)["rows"] == 2
    summary = commit_ingest(table, ingest_id)
    assert (summary.added, summary.edges) == (2, 4)
    assert plan_construct.python_func(str(tile.product), table, *texts, 1024, False) != planned  # a new run


def test_empty_texts_are_not_given() -> None:
    assert options_of("", "", "", 7, "", "") == TileOptions()
    assert options_of("-1000", "", "", 7, "", "").boa_offset == -1000
    with pytest.raises(UsageError, match="whole number"):
        options_of("none", "", "", 7, "", "")
