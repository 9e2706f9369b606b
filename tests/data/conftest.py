"""The complete official metadata, read once for all tests of names, splits, labels and footprints."""

from __future__ import annotations

from pathlib import Path

import pytest

from eoforge.data.archives.metadata import MetadataRows, read_metadata


@pytest.fixture(scope="session")
def official(shared_data: Path) -> MetadataRows:
    """All 549,488 rows of both official files."""
    folder = shared_data / "reben-metadata"
    return read_metadata(lambda name: (folder / name).read_bytes(), str(folder))
