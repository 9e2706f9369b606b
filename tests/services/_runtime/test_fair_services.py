"""One caller's dear work, unread answers or a hung store do not stop the others."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from eoforge.api.compression.v1 import compression_pb2 as cpb
from eoforge.api.compression.v1 import compression_pb2_grpc
from eoforge.api.retrieval.v1 import retrieval_pb2 as pb
from eoforge.api.retrieval.v1 import retrieval_pb2_grpc
from eoforge.codec.coder import Coder, MaxError, Rate
from eoforge.codec.raster import Raster
from services._runtime.admission import RESERVATION, Budget, Reservation
from services._runtime.ordered import in_order
from services.retrieval import answers
from tests.services.compression.fixtures import compression_server, make_compression_fixture
from tests.services.conftest import server_for
from tests.services.retrieval.fixtures import RetrievalFixture, make_retrieval_fixture
from tests.services.support import Signer, details, running

SEARCH = pb.SearchRequest(code=bytes(8), target_modality=1, page_size=3)


def test_a_hung_store_stops_no_search(archive: RetrievalFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    monkeypatch.setattr(answers, "patch_response", lambda *_: gate.wait() and pb.GetPatchResponse())
    with running(server_for(archive, read_seconds=0.5)) as run, grpc.insecure_channel(run.target) as channel:
        stub = retrieval_pb2_grpc.RetrievalServiceStub(channel)
        try:
            hung = [stub.GetPatch.future(pb.GetPatchRequest(patch_id="x"), timeout=60) for _ in range(8)]
            assert len(stub.Search(SEARCH, timeout=30).hits) == 3
            for call in hung:
                error = call.exception()
                assert error.code() is grpc.StatusCode.UNAVAILABLE
                assert details(error)["reason"] == "STORE_UNAVAILABLE"
        finally:
            gate.set()


def test_a_table_that_cannot_be_read_is_an_unavailable_store(tmp_path: Path) -> None:
    archive = make_retrieval_fixture(tmp_path)
    with running(server_for(archive)) as run, grpc.insecure_channel(run.target) as channel:
        stub = retrieval_pb2_grpc.RetrievalServiceStub(channel)
        shutil.rmtree(Path(archive.patches) / "data")
        request = pb.GetPatchRequest(patch_id=archive.pairs[0].meta.patch_id, include_pixels=True)
        with pytest.raises(grpc.RpcError) as caught:
            stub.GetPatch(request, timeout=60)
        assert details(caught.value)["reason"] == "STORE_UNAVAILABLE"
        assert str(tmp_path) not in caught.value.details()


@dataclass
class Large:
    """Stands for a message of a megabyte and a half."""

    number: int

    def ByteSize(self) -> int:
        return 3 << 19


def test_a_stream_runs_ahead_of_its_reader_by_a_bounded_number_of_bytes() -> None:
    started: list[int] = []

    async def requests() -> AsyncIterator[int]:
        for number in range(32):
            yield number

    async def answer(number: int) -> Large:
        started.append(number)
        return Large(number)

    async def main() -> None:
        RESERVATION.set(Reservation(Budget(16 << 20, 1.0), "reader"))
        async with aclosing(in_order(requests(), answer, 16)) as found:
            assert (await anext(found)).number == 0
            for _ in range(100):
                await asyncio.sleep(0)
            assert len(started) <= 4, "8 MiB are the caller's share, and an answer counts twice"
            assert [large.number async for large in found] == list(range(1, 32))
        assert len(started) == 32

    asyncio.run(main())


def test_twelve_dear_streams_do_not_hold_a_small_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive, gate, original = make_compression_fixture(tmp_path), threading.Event(), Coder.decompress
    coder = archive.codecs.coder
    bands = {band: np.full((720, 720), 1500, np.uint16) for band in ("B02", "B03", "B04", "B08")}
    [dear] = coder.compress([Raster(bands)], Rate(max_error=MaxError(s2=0)))
    [small] = coder.compress([archive.raster(0)], Rate(quality=0.0))

    def slow(self: Coder, streams: Any) -> Any:
        if any(stream == dear for stream in streams):
            gate.wait()
            return [Raster(bands)] * len(streams)  # decoding it takes seconds, and is not what this is about
        return original(self, streams)

    monkeypatch.setattr(Coder, "decompress", slow)
    signer = Signer(tmp_path)
    alice, mallory = ((("authorization", f"Bearer {signer.token(name)}"),) for name in ("alice", "mallory"))
    settings = {**signer.settings, "receive_seconds": 60.0}
    with running(compression_server(archive, **settings)) as run, grpc.insecure_channel(run.target) as channel:
        stub = compression_pb2_grpc.CompressionServiceStub(channel)
        request = cpb.DecompressRequest(stream=dear)
        calls = [stub.Decompress.future(request, timeout=60, metadata=mallory) for _ in range(12)]
        try:
            answer = stub.Decompress(cpb.DecompressRequest(stream=small), timeout=30, metadata=alice)
            assert answer.HasField("raster")
        finally:
            gate.set()
        assert all(call.result().HasField("raster") for call in calls)
