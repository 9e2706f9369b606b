"""A first installation on an empty store: services wait for their index or bundle, and serve once it is there."""

from __future__ import annotations

import shutil
from pathlib import Path

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from structlog.testing import capture_logs

from eoforge.client import CompressionClient, RemoteError, RetrievalClient
from eoforge.errors import DataRefused
from eoforge.storage.addresses import TableRef, open_table
from services._runtime.wire import OIP_SERVICE
from services.compression.server import SERVICE as COMPRESSION
from services.compression.server import build as build_compression
from services.compression.settings import CompressionSettings
from services.retrieval.server import SERVICE as RETRIEVAL
from tests.services.compression.fixtures import write_codec_bundle
from tests.services.conftest import server_for
from tests.services.retrieval.fixtures import FIRST, RetrievalFixture, make_retrieval_fixture
from tests.services.support import Running, running, until

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


def health(run: Running, name: str) -> int:
    with grpc.insecure_channel(run.target) as channel:
        return int(health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=name)).status)


def states(run: Running) -> set[str]:
    return {model["state"] for model in httpx.post(f"{run.rest}/v2/repository/index", timeout=60).json()}


def test_an_index_without_codes_is_waited_for(tmp_path: Path) -> None:
    """A job makes the table some time before it commits codes."""
    archive = make_retrieval_fixture(tmp_path / "made")
    full = open_table(archive.codes).version
    open_table(archive.codes).delete("true")
    with running(server_for(archive, poll_seconds=0.05)) as run:
        assert health(run, RETRIEVAL) == NOT_SERVING
        open_table(TableRef(archive.codes, full)).restore()
        until(lambda: health(run, RETRIEVAL) == SERVING)


def test_retrieval_serves_when_its_index_appears(tmp_path: Path) -> None:
    archive = make_retrieval_fixture(tmp_path / "made")
    known = archive.pairs[0].meta.patch_id
    store = tmp_path / "store"
    with (
        capture_logs() as log,
        running(server_for(archive, codes_uri=str(store / "codes.lance"), poll_seconds=0.05)) as run,
    ):
        assert health(run, "") == SERVING, "a living process is not restarted"
        assert health(run, RETRIEVAL) == health(run, OIP_SERVICE) == NOT_SERVING
        assert httpx.get(f"{run.rest}/v2/health/ready").status_code != 200
        assert states(run) == {"UNAVAILABLE"}
        assert httpx.get(f"{run.rest}/v2/models/eoforge-retrieval-search-s1/ready").status_code == 503
        with RetrievalClient(run.target, attempts=1) as client:
            with pytest.raises(RemoteError, match="no index yet") as caught:
                client.search(patch_id=known, source="s2", target="s2", k=1)
            assert (caught.value.code, caught.value.remote_reason) == ("UNAVAILABLE", "NOT_READY")
            assert str(tmp_path) not in str(caught.value)
            waits = [entry for entry in log if entry["event"] == "no index yet"]
            assert waits[0]["at"] == str(store / "codes.lance")

            shutil.copytree(tmp_path / "made", store)  # also a restored store: nothing of the first place is read
            shutil.rmtree(tmp_path / "made")
            until(lambda: health(run, RETRIEVAL) == SERVING)
            assert health(run, OIP_SERVICE) == SERVING
            assert httpx.get(f"{run.rest}/v2/health/ready").status_code == 200
            assert states(run) == {"READY"}
            assert httpx.get(f"{run.rest}/v2/models/eoforge-retrieval-search-s1/ready").status_code == 200
            assert client.search(patch_id=known, source="s2", target="s2", k=1)[0].patch_id == known
            assert client.indexes()[0].patches["s2"] == FIRST


def test_a_damaged_index_still_ends_the_start(tmp_path: Path) -> None:
    archive = make_retrieval_fixture(tmp_path)
    with pytest.raises(DataRefused, match="no table of codes"), running(server_for(archive, codes_uri=archive.patches)):
        pass


def test_compression_serves_when_its_bundle_appears(tmp_path: Path, archive: RetrievalFixture) -> None:
    bundle = write_codec_bundle(str(tmp_path / "made"), archive.pairs[:4])
    where = tmp_path / "runs" / "codec"
    settings = CompressionSettings(
        bundle_uris=str(where), port=0, rest_port=0, drain_notice_seconds=0.0, drain_seconds=10.0
    )
    with running(lambda: build_compression(settings)) as run, CompressionClient(run.target, attempts=1) as client:
        assert (health(run, ""), health(run, COMPRESSION)) == (SERVING, NOT_SERVING)
        with pytest.raises(RemoteError, match="not there yet") as caught:
            client.codecs()
        assert caught.value.remote_reason == "NOT_READY"
        shutil.copytree(bundle.uri, where)
        until(lambda: health(run, COMPRESSION) == SERVING)
        assert bundle.id in {codec.bundle_id for codec in client.codecs()}
