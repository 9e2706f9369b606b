"""Patches of a synthetic tile, and what a table holds of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from eoforge.data.bands import GROUPS
from eoforge.data.loading.read_pair import read_pair
from eoforge.data.records import PatchPair
from eoforge.data.synthetic.archive import synthetic_cell
from eoforge.storage.addresses import TableRef, open_table
from tests.data.tiles.conftest import COLUMNS, FIRST, ROWS

CELLS = tuple((FIRST[0] + x, FIRST[1] + y) for x in range(COLUMNS) for y in range(ROWS))


def cells(cells: Iterable[tuple[int, int]] = CELLS) -> list[PatchPair]:
    """Patches that a construction must give back; it knows neither the country nor a name in v1."""
    pairs = [synthetic_cell(0, 0, x, y) for x, y in cells]
    return [replace(pair, meta=replace(pair.meta, country=None, s2v1_name=None)) for pair in pairs]


def held(table: Path | str) -> list[PatchPair]:
    """All patches of a table."""
    names = open_table(TableRef(str(table))).to_table(columns=["patch_id"])["patch_id"].to_pylist()
    return [read_pair(str(table), name) for name in sorted(names)]


def assert_equal(found: list[PatchPair], wanted: list[PatchPair]) -> None:
    """Asserts equal metadata and pixels, patch by patch."""
    assert [pair.meta for pair in found] == [pair.meta for pair in wanted]
    for one, other in zip(found, wanted, strict=True):
        for name in (*(group.column for group in GROUPS), "reference_map"):
            a, b = getattr(one, name), getattr(other, name)
            assert (a is None) == (b is None)
            if a is not None:
                assert a.dtype == b.dtype
                np.testing.assert_array_equal(a, b)
