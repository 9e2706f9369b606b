"""Trained bundles of a few steps."""

from __future__ import annotations

import pytest

from eoforge.bundle import Bundle
from eoforge.methods import get_method

METHOD = get_method("reben")
TINY = {"width": "8", "size": "40", "batch_size": "8", "epochs": "3"}
PIXELS = {"task": "pixels", "backbone": "test_resnet", "size": "40", "batch_size": "8", "epochs": "2", "sensors": "s2"}


@pytest.fixture(scope="session")
def scene_bundle(table, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    config = METHOD.config("tiny", {**TINY, "epochs": "6"})
    return METHOD.train(table, str(tmp_path_factory.mktemp("scenes")), config)


@pytest.fixture(scope="session")
def pixel_bundle(table, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return METHOD.train(table, str(tmp_path_factory.mktemp("pixels")), METHOD.config("tiny", PIXELS))
