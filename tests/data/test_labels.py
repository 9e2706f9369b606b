"""Labels: all published ones are known, the two orders convert, CLC codes map as the construction code does."""

from __future__ import annotations

import numpy as np
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eoforge.data import labels
from eoforge.data.archives.metadata import MetadataRows
from eoforge.errors import DataRefused


def test_every_published_label_list_survives_the_mask(official: MetadataRows) -> None:
    lists = {tuple(row) for row in official.table["labels"].to_pylist()}
    assert {name for row in lists for name in row} == set(labels.CLASSES)
    for row in lists:
        assert labels.names_of(labels.mask_of(row)) == list(row)


def test_published_counts_per_class(official: MetadataRows) -> None:
    flags = official.table.filter(
        pc.invert(pc.or_(official.table["contains_seasonal_snow"], official.table["contains_cloud_or_shadow"]))
    )
    assert len(flags) == 480_038
    counted = {v["values"]: v["counts"] for v in pc.value_counts(pc.list_flatten(flags["labels"])).to_pylist()}
    assert counted["Arable land"] == 188_025
    assert counted["Beaches, dunes, sands"] == 1_316
    assert counted["Coastal wetlands"] == 1_397


def test_the_two_orders_differ_everywhere_that_matters_and_convert() -> None:
    assert labels.CLASSES[0] == "Urban fabric"
    assert labels.ALPHABETICAL[0] == "Agro-forestry areas"
    assert labels.TO_ALPHABETICAL == (18, 7, 1, 16, 15, 5, 10, 0, 3, 6, 12, 14, 13, 17, 2, 9, 4, 8, 11)
    rows = np.eye(19, dtype=np.float32)
    for i, row in enumerate(labels.to_configilm(rows)):
        assert labels.ALPHABETICAL[int(row.argmax())] == labels.CLASSES[i]
    assert (labels.from_configilm(labels.to_configilm(rows)) == rows).all()


@given(st.sets(st.sampled_from(labels.CLASSES)))
def test_masks_and_multi_hot(chosen: set[str]) -> None:
    mask = labels.mask_of(chosen)
    assert labels.names_of(mask) == sorted(chosen)
    hot = labels.multi_hot(np.array([mask], dtype=np.uint32))[0]
    assert {labels.CLASSES[i] for i in np.flatnonzero(hot)} == chosen


def test_clc_codes() -> None:
    assert len(labels.KNOWN_CLC) == 45
    codes = np.array([[111, 112, 121], [523, 999, 0], [122, 333, 244]], dtype=np.uint16)
    expected = [[0, 0, 1], [18, 255, 255], [255, 11, 7]]
    assert labels.clc_to_classes(codes).tolist() == expected
    with pytest.raises(DataRefused, match="1000"):
        labels.clc_to_classes(np.array([1000], dtype=np.uint16))


def test_names_with_commas_are_whole() -> None:
    assert sum("," in name for name in labels.CLASSES) == 4
    with pytest.raises(DataRefused, match="Beaches"):
        labels.mask_of(["Beaches"])
    with pytest.raises(DataRefused):
        labels.names_of(1 << 19)
