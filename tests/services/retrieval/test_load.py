"""The retrieval service under load: full queues, deadlines, cancelled calls; drain and hot swap fail no call."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from eoforge.api.retrieval.v1 import retrieval_pb2 as pb
from eoforge.api.retrieval.v1 import retrieval_pb2_grpc
from eoforge.client import RemoteError, RetrievalClient
from eoforge.client.messages import band_image
from eoforge.errors import EoforgeError
from eoforge.index.snapshot import Opening
from eoforge.storage.addresses import TableRef
from services._runtime.server import Server
from services.retrieval import state
from services.retrieval.batching import METRICS
from services.retrieval.server import build
from services.retrieval.state import IndexHolder
from tests.services.conftest import server_for, settings_for
from tests.services.retrieval.fixtures import ALL, FIRST, RetrievalFixture, bands_of, make_retrieval_fixture
from tests.services.support import details, ended, running, until, until_not_serving


def encode_request(archive: RetrievalFixture, images: int = 1) -> pb.EncodeRequest:
    return pb.EncodeRequest(images=[pb.Image(bands=band_image(bands_of(archive.pairs[0], "s1"), "s1"))] * images)


def dropped(why: str) -> float:
    return METRICS.dropped.labels(why)._value.get()


def test_a_full_queue_answers_with_retry_info(archive: RetrievalFixture) -> None:
    limits = {"encode_queue": 4, "encode_batch": 2, "max_images": 4}
    with running(server_for(archive, **limits)) as run, grpc.insecure_channel(run.target) as channel:
        stub = retrieval_pb2_grpc.RetrievalServiceStub(channel)
        with archive.encoder.held():
            calls = [stub.Encode.future(encode_request(archive), timeout=60) for _ in range(16)]
            until(lambda: sum(call.done() for call in calls) >= 10)
        errors = [e for call in calls if (e := call.exception()) is not None]
        assert 10 <= len(errors) <= 12, "of 16 images, the queue's 4 are served and up to 2 that are being encoded"
        for error in errors:
            found = details(error)
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert found["reason"] == "OVERLOADED"
            assert found["retry_after"] > 0
        assert max(archive.encoder.batches) <= 2
        # The client waits as it was told, so none of its calls fails.
        before = ended("/Encode", "RESOURCE_EXHAUSTED")
        with RetrievalClient(run.target, attempts=20) as client, ThreadPoolExecutor(8) as pool:
            with archive.encoder.held():
                work = [pool.submit(client.encode, [bands_of(archive.pairs[0], "s1")], "s1") for _ in range(8)]
                until(lambda: ended("/Encode", "RESOURCE_EXHAUSTED") > before)
            assert all(len(w.result()) == 1 for w in work)


def test_searches_have_a_bounded_queue_too(archive: RetrievalFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    from services.retrieval import answers

    nearest, gate = answers.nearest, threading.Event()

    def held_up(*args: Any) -> Any:
        gate.wait()
        return nearest(*args)

    monkeypatch.setattr(answers, "nearest", held_up)
    with running(server_for(archive, search_workers=1, search_queue=1)) as run, grpc.insecure_channel(run.target) as c:
        stub = retrieval_pb2_grpc.RetrievalServiceStub(c)
        request = pb.SearchRequest(code=bytes(8), target_modality=1)
        calls = [stub.Search.future(request, timeout=60) for _ in range(6)]
        until(lambda: sum(call.done() for call in calls) == 4)
        gate.set()
        reasons = [details(e)["reason"] if (e := call.exception()) else "OK" for call in calls]
    assert reasons.count("OK") == 2
    assert reasons.count("OVERLOADED") == 4


def test_expired_and_cancelled_images_are_never_encoded(archive: RetrievalFixture) -> None:
    with running(server_for(archive, encode_batch=1)) as run, grpc.insecure_channel(run.target) as channel:
        stub = retrieval_pb2_grpc.RetrievalServiceStub(channel)
        before = dropped("cancelled") + dropped("deadline")
        gone = ended("/Encode", "CANCELLED", "DEADLINE_EXCEEDED")
        with archive.encoder.held():
            first = stub.Encode.future(encode_request(archive), timeout=60)
            until(lambda: len(archive.encoder.batches) == 1)
            expired = stub.Encode.future(encode_request(archive), timeout=2)  # time enough to arrive
            cancelled = stub.Encode.future(encode_request(archive), timeout=60)
            until(lambda: METRICS.queued._value.get() == 2)
            cancelled.cancel()
            assert expired.exception().code() is grpc.StatusCode.DEADLINE_EXCEEDED
            until(lambda: ended("/Encode", "CANCELLED", "DEADLINE_EXCEEDED") == gone + 2)
        last = stub.Encode.future(encode_request(archive), timeout=60)
        assert len(first.result().encodings) == 1
        assert len(last.result().encodings) == 1
        assert len(archive.encoder.batches) == 2
        assert dropped("cancelled") + dropped("deadline") == before + 2


class Load:
    """Clients that ask without pause, until told to stop or until the server says that it is going away."""

    def __init__(self, target: str, ids: list[str], threads: int = 4) -> None:
        self.answers: list[tuple[int, tuple[str, ...]]] = []
        self.errors: list[Exception] = []
        self._stop = threading.Event()
        self._target, self._ids = target, ids
        self._threads = [threading.Thread(target=self._ask, args=(i,)) for i in range(threads)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()

    def _ask(self, number: int) -> None:
        with grpc.insecure_channel(self._target) as channel:
            stub = retrieval_pb2_grpc.RetrievalServiceStub(channel)
            while not self._stop.is_set():
                patch_id = self._ids[(number + len(self.answers)) % len(self._ids)]
                request = pb.SearchRequest(patch_id=patch_id, query_modality=1, target_modality=2, page_size=5)
                try:
                    response = stub.Search(request, timeout=60)
                except grpc.RpcError as error:
                    self.errors.append(error)
                    return
                self.answers.append((response.index_version, tuple(h.patch.patch_id for h in response.hits)))


def test_draining_under_load_fails_no_call(archive: RetrievalFixture) -> None:
    ids = [p.meta.patch_id for p in archive.pairs[:FIRST]]
    with running(server_for(archive, drain_notice_seconds=2.0)) as run, Load(run.target, ids) as load:
        until(lambda: len(load.answers) > 50)
        stopping = asyncio.run_coroutine_threadsafe(run.server.stop(), run.loop)
        until_not_serving(run.target)
        load.stop()  # what a load balancer does when health says NOT_SERVING
        answered = len(load.answers)
        stopping.result(60)
    assert load.errors == []
    assert answered > 50


def test_hot_swap_under_load_fails_no_call(tmp_path: Path) -> None:
    archive = make_retrieval_fixture(tmp_path)
    ids = [p.meta.patch_id for p in archive.pairs[:FIRST]]
    with running(server_for(archive, poll_seconds=0.05)) as run, RetrievalClient(run.target, attempts=1) as client:
        (old,) = client.indexes()
        assert old.patches["s2"] == FIRST
        with Load(run.target, ids) as load:
            until(lambda: len(load.answers) > 30)
            archive.grow()
            until(lambda: client.indexes()[0].patches["s2"] == ALL)
            seen = len(load.answers)
            until(lambda: len(load.answers) > seen + 30)
        (new,) = client.indexes()
        assert load.errors == []
        versions = {version for version, _ in load.answers}
        assert {old.version, new.version} <= versions
        # The new patches are found, and the answers after the swap are those of the new index.
        added = archive.pairs[-1].meta.patch_id
        hits = client.search(patch_id=added, source="s2", target="s2", k=1)
        assert (hits[0].patch_id, hits[0].distance) == (added, 0)


def test_a_page_token_of_an_older_version_is_refused(tmp_path: Path) -> None:
    archive = make_retrieval_fixture(tmp_path)
    holder: list[IndexHolder] = []

    def make() -> Server:
        settings = settings_for(archive)
        holder.append(IndexHolder(TableRef(archive.codes), None, 3600.0))
        return build(settings, holder[0])

    with running(make) as run, grpc.insecure_channel(run.target) as channel:
        stub = retrieval_pb2_grpc.RetrievalServiceStub(channel)
        request = pb.SearchRequest(code=bytes(8), target_modality=1, page_size=5)
        request.page_token = stub.Search(request, timeout=60).next_page_token
        assert run.call(holder[0].refresh()) is False
        archive.grow()
        assert run.call(holder[0].refresh()) is True
        with pytest.raises(grpc.RpcError) as caught:
            stub.Search(request, timeout=60)
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert details(caught.value)["reason"] == "INDEX_CHANGED"


def test_the_old_index_stays_if_the_new_one_cannot_be_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = make_retrieval_fixture(tmp_path)
    with running(server_for(archive, poll_seconds=0.05)) as run, RetrievalClient(run.target, attempts=1) as client:
        failed = state.SWAPS.labels("failed")._value.get
        before = failed()

        def broken(*_: object) -> Any:
            raise EoforgeError("half a copy")

        monkeypatch.setattr(state, "load", broken)
        archive.grow()
        until(lambda: failed() > before)
        assert client.indexes()[0].patches["s2"] == FIRST
        assert client.search(code=bytes(8), target="s1", k=1)


def test_a_damaged_bundle_or_a_wrong_one_is_not_served(tmp_path: Path) -> None:
    archive = make_retrieval_fixture(tmp_path)
    (Path(archive.bundle.uri) / "weights.safetensors").write_bytes(b"damaged")
    with pytest.raises(EoforgeError, match="weights"), running(server_for(archive)):
        pass


def test_errors_of_the_store_do_not_leak(archive: RetrievalFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    from eoforge.errors import StoreError
    from services.retrieval import answers

    def away(*_: object) -> Any:
        raise StoreError("GET http://minio.internal:9000/secret failed")

    monkeypatch.setattr(answers, "read_pixels", away)
    with running(server_for(archive)) as run, RetrievalClient(run.target, attempts=1) as client:
        with pytest.raises(RemoteError) as caught:
            client.get_patch(archive.pairs[0].meta.patch_id, pixels=True)
        assert (caught.value.code, caught.value.remote_reason) == ("UNAVAILABLE", "STORE_UNAVAILABLE")
        assert "minio" not in str(caught.value)


def test_an_unset_device_is_the_cpu(archive: RetrievalFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """A method given none takes a GPU where there is one; the setting promises otherwise."""
    asked: list[str | None] = []

    def load(codes: TableRef, how: Opening, before: state.Served | None = None) -> state.Served:
        asked.append(how.device)
        return original(codes, how, before)

    original = state.load
    monkeypatch.setattr(state, "load", load)
    with running(server_for(archive)):
        pass
    assert asked == ["cpu"]
