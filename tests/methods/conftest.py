"""Small tables of synthetic patches, and settings of a small run."""

from __future__ import annotations

from pathlib import Path

import lance
import pyarrow as pa
import pytest
import torch

from eoforge.bundle import Bundle
from eoforge.data.records import record_batch
from eoforge.data.synthetic.archive import synthetic_pairs
from eoforge.methods import get_method
from eoforge.storage.addresses import TableRef

SMALL = {
    "width": "8",
    "bits": "16",
    "hash_hidden": "16",
    "projection": "16",
    "size": "40",
    "batch_size": "8",
    "epochs": "3",
}
"""Overrides of the tiny preset with which three epochs take about a second."""


SCENES = {"width": "8", "size": "40", "batch_size": "8", "epochs": "3"}
PIXELS = {"task": "pixels", "backbone": "test_resnet", "size": "40", "batch_size": "8", "epochs": "2", "sensors": "s2"}
"""The same for the reBEN baselines, for labels and for maps."""


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    # Steps this small are slower on many threads, and tests run beside others.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def pairs():
    return list(synthetic_pairs(64, seed=5))


@pytest.fixture(scope="session")
def table(tmp_path_factory: pytest.TempPathFactory, pairs) -> TableRef:
    uri = tmp_path_factory.mktemp("tables") / "patches.lance"
    lance.write_dataset(pa.Table.from_batches([record_batch(pairs)]), str(uri))
    return TableRef(str(uri), 1)


@pytest.fixture
def runs(tmp_path: Path) -> str:
    return str(tmp_path / "runs")


@pytest.fixture(scope="session")
def scene_bundle(table, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Scene labels by the reBEN baselines, trained for a few steps."""
    config = get_method("reben").config("tiny", {**SCENES, "epochs": "6"})
    return get_method("reben").train(table, str(tmp_path_factory.mktemp("scenes")), config)


@pytest.fixture(scope="session")
def pixel_bundle(table, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Pixel maps by the reBEN baselines, trained for a few steps."""
    config = get_method("reben").config("tiny", PIXELS)
    return get_method("reben").train(table, str(tmp_path_factory.mktemp("pixels")), config)
