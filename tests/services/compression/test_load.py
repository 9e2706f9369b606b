"""The compression service under load and attack: full queues, quotas, deadlines, cancelled calls, strangers, drain."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from eoforge.api.compression.v1 import compression_pb2 as pb
from eoforge.api.compression.v1 import compression_pb2_grpc
from eoforge.client import CompressionClient, RemoteError
from eoforge.codec.coder import Coder
from eoforge.errors import UsageError
from services.compression.settings import CompressionSettings
from services.compression.work import METRICS
from tests.services.compression.fixtures import CompressionFixture, compression_server
from tests.services.support import Signer, details, ended, make_pki, running, until, until_not_serving


class Held:
    """Compressing begins and then stands still until the gate is opened; the sizes of the calls."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.sizes: list[int] = []


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    made, compress = Held(), Coder.compress

    def held_up(self: Coder, rasters: Sequence[Any], *rest: Any) -> list[bytes]:
        made.sizes.append(len(rasters))
        made.gate.wait()
        return compress(self, rasters, *rest)

    monkeypatch.setattr(Coder, "compress", held_up)
    yield made
    made.gate.set()


def request(archive: CompressionFixture, **values: Any) -> pb.CompressRequest:
    samples = archive.raster(0).bands["B05"]
    band = pb.Band(name="B05", height=60, width=60, samples=samples.tobytes())
    return pb.CompressRequest(raster=pb.Raster(bands=pb.BandRaster(bands=[band])), **values)


BOUNDED = {"rate": pb.Rate(max_error=pb.MaxError(s2=1000))}


def dropped(why: str) -> float:
    return METRICS.dropped.labels(why)._value.get()


@pytest.mark.parametrize("rate", [{}, BOUNDED])
def test_full_queues_answer_with_retry_info(archive: CompressionFixture, held: Held, rate: dict[str, Any]) -> None:
    limits = {"codec_queue": 4, "codec_batch": 2, "stream_window": 4, "codec_workers": 1, "codec_worker_queue": 4}
    with running(compression_server(archive, **limits)) as run, grpc.insecure_channel(run.target) as channel:
        stub = compression_pb2_grpc.CompressionServiceStub(channel)
        calls = [stub.Compress.future(request(archive, **rate), timeout=60) for _ in range(14)]
        until(lambda: sum(call.done() for call in calls) >= 8)
        held.gate.set()
        errors = [e for call in calls if (e := call.exception()) is not None]
        assert 8 <= len(errors) <= 10, "the queue's 4 are served, and up to 2 that are being compressed"
        for error in errors:
            found = details(error)
            assert (error.code(), found["reason"]) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
            assert found["retry_after"] > 0
        assert max(held.sizes) <= 2
        # The client waits as it was told, so its call does not fail.
        with CompressionClient(run.target, attempts=20) as client:
            assert client.compress({"B05": archive.raster(0).bands["B05"]}).stream


def test_patches_of_concurrent_calls_share_a_call_of_the_codec(archive: CompressionFixture, held: Held) -> None:
    def open_when_all_are_there() -> None:
        until(lambda: sum(held.sizes) + METRICS.queued._value.get() == 8)
        held.gate.set()

    with (
        running(compression_server(archive)) as run,
        CompressionClient(run.target) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        patches = [(str(i), archive.raster(i).bands) for i in range(8)]
        pool.submit(open_when_all_are_there)
        answers = list(client.compress_many(patches, quality=3, timeout=60))
        made = [answer for _, answer in answers if not isinstance(answer, RemoteError)]
        assert len(made) == 8
        assert sum(held.sizes) == 8
        assert max(held.sizes) > 1
        assert all(client.hash_stream(m.stream) == m.codes for m in made), "codes are those of the patch alone"


def test_expired_and_cancelled_patches_are_never_compressed(archive: CompressionFixture, held: Held) -> None:
    with running(compression_server(archive, codec_batch=1)) as run, grpc.insecure_channel(run.target) as channel:
        stub = compression_pb2_grpc.CompressionServiceStub(channel)
        before = dropped("cancelled") + dropped("deadline")
        gone = ended("/Compress", "CANCELLED", "DEADLINE_EXCEEDED")
        first = stub.Compress.future(request(archive), timeout=60)
        until(lambda: len(held.sizes) == 1)
        expired = stub.Compress.future(request(archive), timeout=2)  # time enough to arrive
        cancelled = stub.Compress.future(request(archive), timeout=60)
        until(lambda: METRICS.queued._value.get() == 2)
        cancelled.cancel()
        assert expired.exception().code() is grpc.StatusCode.DEADLINE_EXCEEDED
        until(lambda: ended("/Compress", "CANCELLED", "DEADLINE_EXCEEDED") == gone + 2)
        held.gate.set()
        last = stub.Compress.future(request(archive), timeout=60)
        assert first.result().stream
        assert last.result().stream
        assert len(held.sizes) == 2
        assert dropped("cancelled") + dropped("deadline") == before + 2


def test_the_server_enforces_its_own_deadline(archive: CompressionFixture, held: Held) -> None:
    with (
        running(compression_server(archive, max_call_seconds=0.1)) as run,
        grpc.insecure_channel(run.target) as channel,
    ):
        stub = compression_pb2_grpc.CompressionServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.Compress(request(archive), timeout=30)
        held.gate.set()
        assert details(caught.value)["reason"] == "DEADLINE_EXCEEDED"


def test_quotas_and_tokens(archive: CompressionFixture, tmp_path: Path) -> None:
    signer = Signer(tmp_path)
    limits = {"quota_per_second": 0.01, "quota_burst": 2, **signer.settings}
    with running(compression_server(archive, **limits)) as run:
        with CompressionClient(run.target, attempts=1) as stranger, pytest.raises(RemoteError) as caught:
            stranger.codecs()
        assert (caught.value.code, caught.value.remote_reason) == ("UNAUTHENTICATED", "UNAUTHENTICATED")
        with CompressionClient(run.target, attempts=1, token=signer.token("alice")) as alice:
            alice.codecs()
            alice.codecs()
            with pytest.raises(RemoteError) as caught:
                alice.codecs()
        assert (caught.value.code, caught.value.remote_reason) == ("RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED")
        assert caught.value.retry_after


def test_mutual_tls(archive: CompressionFixture, tmp_path: Path) -> None:
    pki = make_pki(tmp_path)
    files = {"tls_cert_file": "server.pem", "tls_key_file": "server.key", "tls_client_ca_file": "ca.pem"}
    with running(compression_server(archive, **{k: pki.path(v) for k, v in files.items()})) as run:
        ours: dict[str, Any] = {"ca_file": str(pki.path("ca.pem")), "attempts": 1, "timeout": 10}
        own = {"cert_file": str(pki.path("client.pem")), "key_file": str(pki.path("client.key"))}
        with CompressionClient(run.target, **ours, **own) as client:
            assert client.codecs()
        with CompressionClient(run.target, **ours) as stranger, pytest.raises(RemoteError):
            stranger.codecs()


def test_internal_errors_do_not_leak(archive: CompressionFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> Any:
        raise RuntimeError("/secret/path")

    monkeypatch.setattr(Coder, "compress", broken)
    with running(compression_server(archive)) as run, CompressionClient(run.target, attempts=1) as client:
        with pytest.raises(RemoteError) as caught:
            client.compress({"B05": archive.raster(0).bands["B05"]})
        assert (caught.value.code, caught.value.remote_reason) == ("INTERNAL", "INTERNAL")
        assert "secret" not in str(caught.value)


def test_draining_under_load_fails_no_call(archive: CompressionFixture) -> None:
    answers: list[int] = []
    errors: list[Exception] = []
    stop = threading.Event()

    def ask(target: str) -> None:
        with grpc.insecure_channel(target) as channel:
            stub = compression_pb2_grpc.CompressionServiceStub(channel)
            while not stop.is_set():
                try:
                    answers.append(len(stub.Compress(request(archive), timeout=60).stream))
                except grpc.RpcError as error:
                    errors.append(error)
                    return

    with running(compression_server(archive, drain_notice_seconds=2.0)) as run:
        threads = [threading.Thread(target=ask, args=(run.target,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        until(lambda: len(answers) > 20)
        stopping = asyncio.run_coroutine_threadsafe(run.server.stop(), run.loop)
        until_not_serving(run.target)
        stop.set()  # what a load balancer does when health says NOT_SERVING
        for thread in threads:
            thread.join(60)
        stopping.result(60)
    assert errors == []


def test_contradictory_settings_are_refused() -> None:
    with pytest.raises(UsageError, match="EOFORGE_MAX_MESSAGE_BYTES"):
        CompressionSettings(max_message_bytes=1 << 20).require_consistent()
    with pytest.raises(UsageError, match="EOFORGE_CODEC_QUEUE"):
        CompressionSettings(stream_window=300).require_consistent()
    assert CompressionSettings(bundle_uris="a, s3://b/c ,").bundles == ("a", "s3://b/c")
