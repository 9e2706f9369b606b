"""Fixtures that every test folder shares."""

from __future__ import annotations

import os
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from eoforge.storage.seaweed import SeaweedEnv

# A busy machine is no failure: an example may take as long as it takes, the suite has its own limit.
settings.register_profile("eoforge", deadline=None)
settings.load_profile("eoforge")

SHARED = Path(os.environ.get("EOFORGE_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


def pytest_report_header() -> str:
    """Says at the top of every run whether real data took part in it."""
    return f"real reBEN samples: {SHARED if SHARED.is_dir() else 'ABSENT - tests on real data do not run'}"


@pytest.fixture(scope="session", autouse=True)
def index_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The local cache of indexes, apart from that of the user; processes that a test starts have it too."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache") / "index"
        patch.setenv("EOFORGE_CACHE_FOLDER", str(folder))
        yield folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real reBEN samples and the official metadata."""
    if not SHARED.is_dir():
        warnings.warn(f"real data absent ({SHARED}): a test that needs it did not run", stacklevel=1)
        pytest.skip(f"real data absent: {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedEnv]:
    """A real S3 server for the whole run (SeaweedFS, on free loopback ports, with a random secret)."""
    from eoforge.storage.seaweed import seaweedfs  # here: tests/kernels run on machines that have torch and pytest only

    with seaweedfs(tmp_path_factory.mktemp("seaweedfs")) as server:
        yield server


@pytest.fixture
def s3(s3_server: SeaweedEnv, monkeypatch: pytest.MonkeyPatch) -> str:
    """``s3://`` URI of a fresh prefix; the ``AWS_*`` variables of this process (and its children) lead there."""
    for name, value in s3_server.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    return s3_server.uri(f"test-{uuid.uuid4().hex[:12]}")


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.s3)])
def store_uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh place for tables: once a local folder, once a prefix on a real S3 server."""
    return str(tmp_path / "store") if request.param == "local" else str(request.getfixturevalue("s3"))
