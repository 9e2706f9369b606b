"""Clients of the Open Inference Protocol that are not ours: Triton's (HTTP, gRPC, streaming) and KServe's."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest
from kserve.inference_client import RESTConfig
from kserve.protocol.infer_type import RequestedOutput

from eoforge.client import RetrievalClient
from eoforge.index.catalog import IndexSnapshot
from eoforge.storage.addresses import TableRef
from tests.services.conftest import server_for
from tests.services.retrieval.fixtures import DIM, RetrievalFixture
from tests.services.support import Running, running

ROOT = Path(__file__).parents[4]
ENCODE, SEARCH = "eoforge-retrieval-encode-s1", "eoforge-retrieval-search-s2"


@pytest.fixture(scope="module")
def server(archive: RetrievalFixture) -> Iterator[Running]:
    with running(server_for(archive)) as run:
        yield run


@pytest.fixture(scope="module")
def code(archive: RetrievalFixture) -> list[list[int]]:
    snapshot = IndexSnapshot.open(TableRef(archive.codes))
    return [snapshot.code_of(archive.pairs[0].meta.patch_id, "s1").tolist()]


@pytest.fixture(scope="module")
def hits(server: Running, archive: RetrievalFixture) -> list[str]:
    with RetrievalClient(server.target) as client:
        found = client.search(patch_id=archive.pairs[0].meta.patch_id, source="s1", target="s2", k=10)
    return [hit.patch_id for hit in found]


@pytest.fixture(scope="module")
def triton(server: Running, archive: RetrievalFixture, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("triton") / "image.npy"
    np.save(path, archive.pairs[0].s1[None])
    addresses = [server.target, server.rest.removeprefix("http://")]
    command = [sys.executable, "-m", "tests.services._runtime.oip.triton_process", *addresses]
    done = subprocess.run(
        [*command, archive.pairs[0].meta.patch_id, str(path)], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("way", ["http", "grpc"])
def test_tritons_clients(triton: dict[str, Any], way: str, code: list[list[int]], hits: list[str]) -> None:
    found = triton[way]
    assert [found[what] for what in ("live", "ready", "model", "version", "other version")] == [True] * 4 + [False]
    assert found["server"] == "eoforge"
    assert [tensor["name"] for tensor in found["inputs"]] == ["s1"]
    index = found["index"] if way == "http" else found["index"]["models"]
    assert {"name": ENCODE, "version": "1", "state": "READY"}.items() <= index[0].items()
    assert found["outputs"] == (["code", "embedding"] if way == "http" else ["code"])
    assert found["code"] == code
    assert found["hits"] == hits
    assert found["id"] == "mine"
    assert "FP32 [N, 2, 120, 120]" in found["refused"]
    assert "cannot be loaded or unloaded" in found["unload"]
    if way == "http":
        assert found["embedding"] == [1, DIM]
        assert found["json"] == code


def test_tritons_stream_goes_on_after_a_refused_request(
    triton: dict[str, Any], code: list[list[int]], hits: list[str]
) -> None:
    first, refused, last = triton["grpc"]["stream"]
    assert first == hits
    assert "FP32 [N, 2, 120, 120]" in refused
    assert last == code
    assert triton["grpc"]["stream ids"] == ["1", "3"]


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("way", ["rest", "grpc"])
def test_kserves_clients(
    server: Running, archive: RetrievalFixture, code: list[list[int]], way: str, binary: bool
) -> None:
    image = archive.pairs[0].s1[None]
    tensor = InferInput("s1", list(image.shape), "FP32")
    # Numbers in a gRPC message are bounded; KServe's other form for them is raw bytes.
    tensor.set_data_from_numpy(image, binary_data=binary or way == "grpc")
    asked = [RequestedOutput("code", {"binary_data": binary})]
    request = InferRequest(ENCODE, [tensor], "mine", request_outputs=asked)

    async def ask() -> Any:
        if way == "grpc":
            async with InferenceGRPCClient(server.target) as client:
                assert await client.is_server_live()
                assert await client.is_server_ready()
                assert await client.is_model_ready(ENCODE)
                return await client.infer(request)
        async with InferenceRESTClient(RESTConfig(protocol="v2")) as rest:
            assert await rest.is_server_live(server.rest)
            assert await rest.is_server_ready(server.rest)
            assert await rest.is_model_ready(server.rest, ENCODE)
            return await rest.infer(server.rest, request, ENCODE)

    answered = asyncio.run(ask())
    assert answered.id == "mine"
    assert [output.name for output in answered.outputs] == ["code"]
    assert answered.outputs[0].as_numpy().tolist() == code
