"""A tiny archive, shared by the tests that run pipelines for real."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from eoforge.data.synthetic.archive import generate_archive

PATCHES = 48


@dataclass(frozen=True)
class DamagedArchive:
    """An archive in the official layout with one optical band missing.

    Attributes:
        uri: Its folder.
        patches: Number of patches in its metadata.
        bad: The patch that lacks a band.
    """

    uri: Path
    patches: int
    bad: str


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> DamagedArchive:
    folder = tmp_path_factory.mktemp("archive") / "reben"
    generate_archive(str(folder), PATCHES, seed=3)
    band = sorted(folder.glob("BigEarthNet-S2/*/*/*_B03.tif"))[5]
    band.unlink()
    return DamagedArchive(folder, PATCHES, band.parent.name)


@pytest.fixture
def empty_store(tmp_path: Path) -> Path:
    """A folder for tables, removed afterwards: tables of every test together would fill a small disk."""
    folder = tmp_path / "store"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)
