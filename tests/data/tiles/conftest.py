"""Small synthetic tiles, written once: 2 x 3 patches at the corner where all three splits meet."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from eoforge.data.synthetic.tile import SyntheticTile, write_tile
from eoforge.geo.gdal import confine_process

FIRST = (12, 22)
COLUMNS, ROWS = 2, 3

confine_process()  # as every process of ours; GDAL then has no other formats


@pytest.fixture(scope="package")
def safe(tmp_path_factory: pytest.TempPathFactory) -> SyntheticTile:
    """A tile as SAFE folder."""
    return write_tile(tmp_path_factory.mktemp("safe"), columns=COLUMNS, rows=ROWS, first=FIRST, fast=True)


@pytest.fixture(scope="package")
def cogs(tmp_path_factory: pytest.TempPathFactory) -> SyntheticTile:
    """The same tile as one COG per band."""
    return write_tile(tmp_path_factory.mktemp("cogs"), columns=COLUMNS, rows=ROWS, first=FIRST, layout="cog", fast=True)


@pytest.fixture
def copy(tmp_path: Path) -> Callable[[Path], Path]:
    """Function that copies a product, to be damaged."""

    def made(product: Path, name: str = "") -> Path:
        target = tmp_path / "tiles" / (name or product.name)
        shutil.copytree(product, target)
        return target

    return made
