"""The split rule reproduces every published split."""

from __future__ import annotations

import numpy as np
import pytest

from eoforge.data.archives.metadata import MetadataRows
from eoforge.data.split import SPLITS, official_split, official_splits
from eoforge.errors import UsageError


def test_every_published_split(official: MetadataRows) -> None:
    ids = np.array(official.table["patch_id"].to_pylist(), dtype="S50")
    digits = ids.view("S1").reshape(len(ids), 50)[:, [45, 46, 48, 49]].astype(np.int64)
    x, y = digits[:, 0] * 10 + digits[:, 1], digits[:, 2] * 10 + digits[:, 3]
    published = np.array(official.table["split"].to_pylist())
    assert (np.array(SPLITS)[official_splits(x, y)] == published).all()
    assert dict(zip(*np.unique(published, return_counts=True), strict=True)) == {
        "train": 272_544,
        "validation": 139_577,
        "test": 137_367,
    }


def test_the_frames_by_index() -> None:
    """The index form of the rule, counted by hand: the tile is 91.5 patches wide, so it is not symmetric."""
    along = ["train"] * 13 + ["validation"] * 10 + ["test"] * 46 + ["validation"] * 9 + ["train"] * 13
    assert [official_split(x, 45) for x in range(91)] == along
    assert [official_split(45, y) for y in range(91)] == along


def test_the_outer_frame_wins_and_forms_agree() -> None:
    assert official_split(0, 45) == official_split(45, 0) == official_split(12, 22) == "train"
    assert official_split(13, 45) == official_split(68, 69) == "validation"
    x, y = (a.ravel() for a in np.mgrid[:91, :91])
    assert [SPLITS[i] for i in official_splits(x, y)] == [official_split(*c) for c in zip(x, y, strict=True)]


@pytest.mark.parametrize("cell", [(-1, 0), (0, 91)])
def test_cells_outside_a_tile_are_refused(cell: tuple[int, int]) -> None:
    with pytest.raises(UsageError):
        official_split(*cell)
    with pytest.raises(UsageError):
        official_splits(np.array([cell[0]]), np.array([cell[1]]))
