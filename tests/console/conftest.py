"""What the tests of the console share: a retrieval service with a small archive, and a console in front of it."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser

from eoforge.logs import configure_logs
from eoforge.methods import METHODS, MethodEntry, Task
from services.console.server import ConsoleServer
from services.console.settings import ConsoleSettings
from tests.console.browser import running_browser
from tests.services.conftest import server_for
from tests.services.retrieval.fixtures import METHOD, RetrievalFixture, make_retrieval_fixture
from tests.services.support import Running, running

CSRF = re.compile(r'name="csrf" value="([^"]+)"')


@pytest.fixture(scope="session", autouse=True)
def console_logs() -> None:
    """Logs as in production."""
    configure_logs(as_json=True, level=logging.WARNING)  # as in services: later files see it too


@contextmanager
def known_method() -> Iterator[None]:
    """Lets bundles name the method of the services' tests; other folders' tests in this process must not see it."""
    METHODS[METHOD] = MethodEntry((Task.ENCODE,), "tests.services.retrieval.fixtures:PROJECTION")
    try:
        yield
    finally:
        del METHODS[METHOD]


@contextmanager
def running_retrieval(archive: RetrievalFixture, **settings: Any) -> Iterator[Running]:
    """A retrieval service, which loads its encoder at the start."""
    with ExitStack() as stack:
        with known_method():
            run = stack.enter_context(running(server_for(archive, **settings)))
        yield run


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> RetrievalFixture:
    """Archive with an index."""
    with known_method():
        return make_retrieval_fixture(tmp_path_factory.mktemp("console-archive"))


@pytest.fixture(scope="session")
def retrieval(archive: RetrievalFixture) -> Iterator[Running]:
    with running_retrieval(archive) as run:
        yield run


def console_of(**settings: Any) -> Callable[[], ConsoleServer]:
    """A maker of consoles on a free port, for ``running``."""
    given = {"rest_port": 0, "drain_notice_seconds": 0.0, "drain_seconds": 5.0, "service_seconds": 5.0} | settings
    return lambda: ConsoleServer(ConsoleSettings(**given))


@pytest.fixture(scope="session")
def console(retrieval: Running, archive: RetrievalFixture) -> Iterator[Running]:
    """The console of most tests: nobody signs in, as on a laptop."""
    with running(console_of(retrieval_target=retrieval.target, patches_uri=archive.patches)) as run:  # type: ignore[arg-type]
        yield run


@pytest.fixture
def browser_of_one(console: Running) -> Iterator[httpx.Client]:
    """A client with cookies, as one person's browser has them."""
    with httpx.Client(base_url=console.rest, timeout=30.0) as client:
        yield client


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, one for each file: while it runs, this thread has an event loop, which later tests could not start."""
    with running_browser() as made:
        yield made


def csrf_of(page: httpx.Response) -> str:
    """Token in the first form of a page."""
    found = CSRF.search(page.text)
    assert found is not None, page.text
    return found.group(1)
