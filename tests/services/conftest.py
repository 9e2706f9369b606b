"""What the tests of the services share: the archive that retrieval serves, a coordinator of federations, logs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from eoforge.client import FederationClient
from eoforge.logs import configure_logs
from eoforge.methods import METHODS, MethodEntry, Task
from services._runtime.server import Server
from services.retrieval.server import build
from services.retrieval.settings import RetrievalSettings
from tests.services.federation import helpers as federation
from tests.services.retrieval.fixtures import METHOD, RetrievalFixture, make_retrieval_fixture
from tests.services.support import Pki, Running, Signer, make_pki, running


@pytest.fixture(scope="module", autouse=True)  # not the session's: other folders' tests may follow in this process
def projection_method() -> Iterator[None]:
    """Lets bundles of the tests name the tests' method."""
    METHODS[METHOD] = MethodEntry((Task.ENCODE,), "tests.services.retrieval.fixtures:PROJECTION")
    yield
    del METHODS[METHOD]


@pytest.fixture(scope="session", autouse=True)
def service_logs() -> None:
    """Logs as in production: by default structlog prints every local variable of a traceback."""
    configure_logs(as_json=True, level=logging.WARNING)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> RetrievalFixture:
    return make_retrieval_fixture(tmp_path_factory.mktemp("archive"))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A coordinator of federations, one for all tests of a file."""
    with running(federation.server_for(tmp_path_factory.mktemp("store"), max_runs=50)) as run:
        yield run


@pytest.fixture
def client(served: Running) -> Iterator[FederationClient]:
    """An operator of that coordinator."""
    with FederationClient(served.target, attempts=2) as made:
        yield made


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return make_pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Signer:
    return Signer(tmp_path_factory.mktemp("token"))


def settings_for(archive: RetrievalFixture, **values: Any) -> RetrievalSettings:
    defaults: dict[str, Any] = {
        "codes_uri": archive.codes,
        "port": 0,
        "rest_port": 0,
        "drain_notice_seconds": 0.0,
        "drain_seconds": 10.0,
        "poll_seconds": 3600.0,
    }
    return RetrievalSettings(**(defaults | values))


def server_for(archive: RetrievalFixture, **values: Any) -> Callable[[], Server]:
    """A maker of servers for ``running``."""
    return lambda: build(settings_for(archive, **values))
