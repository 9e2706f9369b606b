"""Patches and an untrained codec, one for all tests of a file."""

from __future__ import annotations

import pytest

from tests.services.compression.fixtures import CompressionFixture, make_compression_fixture


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> CompressionFixture:
    return make_compression_fixture(tmp_path_factory.mktemp("compression"))
