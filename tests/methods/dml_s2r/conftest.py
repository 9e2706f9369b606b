"""A table with a column of numbers, and settings of a small run."""

from __future__ import annotations

import lance
import numpy as np
import pyarrow as pa
import pytest

from eoforge.bundle import Bundle
from eoforge.data.records import record_batch
from eoforge.methods import get_method
from eoforge.storage.addresses import TableRef

SMALL = {
    "size": "30",
    "width": "8",
    "hidden": "16",
    "embedding": "16",
    "batch_size": "8",
    "epochs": "4",
    "labels": "0.6",
    "folds": "2",
}


@pytest.fixture(scope="session")
def brightness(pairs) -> np.ndarray:
    """A number per patch that its image shows: the mean of B08 over that of B04."""
    return np.array([pair.s2_10m[3].mean() / pair.s2_10m[2].mean() for pair in pairs])


def with_column(uri: str, pairs, values: np.ndarray) -> TableRef:
    """Table of the patches with the column ``brightness``."""
    rows = pa.Table.from_batches([record_batch(pairs)])
    lance.write_dataset(rows.append_column("brightness", pa.array(values, pa.float64())), uri)
    return TableRef(uri, 1)


@pytest.fixture(scope="session")
def measured(pairs, brightness, tmp_path_factory) -> TableRef:
    return with_column(str(tmp_path_factory.mktemp("measured") / "patches.lance"), pairs, brightness)


@pytest.fixture(scope="session")
def value_bundle(measured, tmp_path_factory) -> Bundle:
    """A regressor of ``brightness``, trained for a few steps."""
    method = get_method("dml_s2r")
    config = method.config("tiny", {**SMALL, "target": "brightness", "unit": "1", "low": "0", "high": "30"})
    return method.train(measured, str(tmp_path_factory.mktemp("values")), config)
