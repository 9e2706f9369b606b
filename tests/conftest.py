"""Fixtures that every test folder shares."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("EOFORGE_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


def pytest_report_header() -> str:
    """Says at the top of every run whether real data took part in it."""
    return f"real reBEN samples: {SHARED if SHARED.is_dir() else 'ABSENT - tests on real data do not run'}"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real reBEN samples and the official metadata."""
    if not SHARED.is_dir():
        warnings.warn(f"real data absent ({SHARED}): a test that needs it did not run", stacklevel=1)
        pytest.skip(f"real data absent: {SHARED}")
    return SHARED
