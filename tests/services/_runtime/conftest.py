"""A server of the runtime whose calls fail on demand, and its stub."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from eoforge.api.retrieval.v1 import retrieval_pb2_grpc
from tests.services._runtime.failing_service import make
from tests.services.support import Running, running


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(make) as run:
        yield run


@pytest.fixture(scope="module")
def stub(server: Running) -> Iterator[Any]:
    with grpc.insecure_channel(server.target) as channel:
        yield retrieval_pb2_grpc.RetrievalServiceStub(channel)
