"""An archive of valid patches, and the address of a table."""

from __future__ import annotations

import pytest

from eoforge.storage.addresses import join
from tests.data.ingest.ingest_support import PATCHES, archive_of


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> str:
    return archive_of(tmp_path_factory.mktemp("archive"), PATCHES)


@pytest.fixture
def table(store_uri: str) -> str:
    return join(store_uri, "patches.lance")
