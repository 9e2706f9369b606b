"""Patches and an untrained codec, one for all tests of a file."""

from __future__ import annotations

import pytest

from tests.services.compression.world import CompressionWorld, make_compression_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> CompressionWorld:
    return make_compression_world(tmp_path_factory.mktemp("compression"))
