"""A service over an IVF index: exact unless asked otherwise, and it says which."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from eoforge.api.retrieval.v1 import retrieval_pb2 as pb
from eoforge.api.retrieval.v1 import retrieval_pb2_grpc
from eoforge.cli import main
from eoforge.client import RemoteNotFound, RetrievalClient, SearchFilter
from eoforge.errors import DataRefused, UsageError
from eoforge.index.build import build_index
from eoforge.index.ivf import build
from eoforge.index.ivf.build import build_ivf
from eoforge.index.ivf.search import IvfSnapshot
from eoforge.index.ivf.table import VECTOR_INDEX
from eoforge.index.snapshot import Opening
from eoforge.storage.addresses import TableRef, open_table
from services._runtime.fair import FairPool
from services.retrieval.state import load, require_match
from tests.services.conftest import server_for
from tests.services.retrieval.fixtures import BITS, FIRST, RetrievalFixture, make_retrieval_fixture
from tests.services.support import Running, running, until


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[RetrievalFixture, RetrievalFixture]:
    """An archive with an exact index, and the same archive with an IVF index."""
    folder = tmp_path_factory.mktemp("ivf")
    exact = make_retrieval_fixture(folder)
    ivf = replace(exact, codes=str(folder / "ivf.lance"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "ROWS_PER_PARTITION", 16)
        build_index(exact.bundle.uri, TableRef(exact.patches), ivf.codes, exact.encoder, engine="ivf")
        build_ivf(ivf.codes)
    return exact, ivf


@pytest.fixture(scope="module")
def server(both: tuple[RetrievalFixture, RetrievalFixture]) -> Iterator[Running]:
    with running(server_for(both[1])) as run:
        yield run


def test_answers_are_those_of_the_exact_index(both: tuple[RetrievalFixture, RetrievalFixture], server: Running) -> None:
    exact, _ = both
    known = exact.pairs[3].meta
    with (
        running(server_for(exact)) as other,
        RetrievalClient(server.target, attempts=1) as ours,
        RetrievalClient(other.target, attempts=1) as theirs,
    ):
        for wanted in (None, SearchFilter(countries=(str(known.country),)), SearchFilter(labels_any=known.labels)):
            query: dict[str, Any] = {"patch_id": known.patch_id, "source": "s1", "target": "s2", "k": FIRST}
            assert ours.search(**query, filter=wanted) == theirs.search(**query, filter=wanted)
        assert ours.get_patch(known.patch_id, thumbnails=True, pixels=True).s2_thumbnail_png
        assert ours.search(patch_id=known.patch_id, source="s1", target="s2", k=2, thumbnails=True)[0].thumbnail_png
        with pytest.raises(RemoteNotFound, match="no patch 'none' with s1"):
            ours.search(patch_id="none", source="s1", target="s2")


def test_pixels_of_a_hit_are_found_without_reading_all_ids(both: tuple[RetrievalFixture, RetrievalFixture]) -> None:
    patches = load(TableRef(both[1].codes), Opening()).patches
    plan = patches.scanner(columns=["patch_id"], filter="patch_id IN ('a', 'b')").explain_plan()
    assert "ScalarIndexQuery" in plan
    codes = open_table(both[1].codes)
    plan = codes.scanner(columns=["patch_id"], filter="_rowid IN (1, 3)", with_row_id=True).explain_plan()
    assert "full_filter=--, refine_filter=--" in plan, "the condition would be checked row by row"


@pytest.mark.parametrize("name", ["'", "x' OR '1'='1", "\\", "\0", "%", "\U0001f4a5" * 128, "--", ";", "\n"])
def test_no_text_is_more_than_a_name(server: Running, name: str) -> None:
    with RetrievalClient(server.target, attempts=1) as client, pytest.raises(RemoteNotFound, match="no patch"):
        client.search(patch_id=name, source="s1", target="s2")


def test_many_queries_of_one_request_leave_turns_to_others(
    both: tuple[RetrievalFixture, RetrievalFixture], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    asked: list[str] = []
    first, goes_on = threading.Event(), threading.Event()
    search, run_in = IvfSnapshot.search, FairPool.run

    def noted(self: IvfSnapshot, modality: str, queries: Any, *rest: Any) -> Any:
        sizes.append(len(queries))
        first.set()
        assert goes_on.wait(30)
        return search(self, modality, queries, *rest)

    async def noted_run(self: FairPool, function: Any, *rest: Any, **named: Any) -> Any:
        asked.append(function.__name__)
        return await run_in(self, function, *rest, **named)

    tensor = {"name": "code", "shape": [40, BITS // 8], "datatype": "UINT8", "data": [7] * (40 * BITS // 8)}
    with running(server_for(both[1], search_workers=1)) as run, ThreadPoolExecutor(2) as pool:
        monkeypatch.setattr(IvfSnapshot, "search", noted)
        monkeypatch.setattr(FairPool, "run", noted_run)
        url = f"{run.rest}/v2/models/eoforge-retrieval-search-s2/infer"
        many = pool.submit(httpx.post, url, json={"inputs": [tensor]}, timeout=60)
        assert first.wait(30)
        with RetrievalClient(run.target) as client:
            one = pool.submit(client.search, code=bytes(8), target="s2", k=1)
            until(lambda: "nearest" in asked)
            goes_on.set()
            assert one.result()
        answer = {o["name"]: o for o in many.result().json()["outputs"]}
    assert sizes == [8, 1, 8, 8, 8, 8]
    assert answer["distance"]["shape"][0] == 40


def test_an_answer_says_whether_it_is_exact(both: tuple[RetrievalFixture, RetrievalFixture], server: Running) -> None:
    known = both[0].pairs[3].meta.patch_id
    request = pb.SearchRequest(patch_id=known, query_modality=1, target_modality=2, page_size=5)
    with grpc.insecure_channel(server.target) as channel:
        stub: Any = retrieval_pb2_grpc.RetrievalServiceStub(channel)  # type: ignore[no-untyped-call]  # generated
        (index,) = stub.ListIndexes(pb.ListIndexesRequest(), timeout=60).indexes
        assert index.engine == "ivf"
        recalls = {entry.partitions: entry.recall for entry in index.recalls}
        assert recalls[max(recalls)] == 1.0
        answer = stub.Search(request, timeout=60)
        assert (answer.exact, answer.recall) == (True, 1.0)
        request.min_recall = 0.01
        answer = stub.Search(request, timeout=60)
        assert (answer.exact, answer.recall, len(answer.hits)) == (False, recalls[1], 5)
        for wrong in (-0.5, 1.5, float("nan")):
            request.min_recall = wrong
            with pytest.raises(grpc.RpcError, match="min_recall must be above 0 and at most 1"):
                stub.Search(request, timeout=60)


def test_a_version_without_its_index_is_not_taken_up(
    both: tuple[RetrievalFixture, RetrievalFixture], tmp_path: Path
) -> None:
    uri = str(tmp_path / "codes.lance")
    shutil.copytree(both[1].codes, uri)
    served = IvfSnapshot.open(TableRef(uri))
    require_match(served, served)
    table = open_table(uri)
    table.drop_index(VECTOR_INDEX)
    with pytest.raises(DataRefused, match="was built from 0% of its codes; expected at least half"):
        require_match(IvfSnapshot.open(TableRef(uri)), served)
    table = open_table(uri)
    table.update({"patch_id": "concat('x', patch_id)"})
    before = IvfSnapshot.open(TableRef(uri, served.version + 1))
    with pytest.raises(DataRefused, match=f"holds 0 of the {len(served)} patches"):
        require_match(IvfSnapshot.open(TableRef(uri)), before)


def test_the_command_line_takes_it_too(
    both: tuple[RetrievalFixture, RetrievalFixture], server: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    known = both[0].pairs[3].meta.patch_id
    command = ["search", "--server", server.target, "--patch-id", known, "--from", "s2", "--json", "--min-recall"]
    assert main([*command, "0.01"]) == 0
    assert known in capsys.readouterr().out
    assert main([*command, "1.5"]) == 2
    assert "min_recall must be above 0 and at most 1" in capsys.readouterr().err


def test_the_open_protocol_and_the_client_take_it_too(
    both: tuple[RetrievalFixture, RetrievalFixture], server: Running
) -> None:
    known = both[0].pairs[3].meta.patch_id
    query = {"name": "patch_id", "shape": [1], "datatype": "BYTES", "data": [known]}
    body: dict[str, Any] = {"inputs": [query], "parameters": {"query_modality": "s1", "min_recall": 0.01}}
    where = f"{server.rest}/v2/models/eoforge-retrieval-search-s2/infer"
    outputs = {o["name"]: o["data"] for o in httpx.post(where, json=body, timeout=60).json()["outputs"]}
    assert outputs["exact"] == [False]
    assert 0 < outputs["recall"][0] <= 1
    del body["parameters"]["min_recall"]
    assert [o["name"] for o in httpx.post(where, json=body, timeout=60).json()["outputs"]] == ["patch_id", "distance"]
    body["parameters"]["min_recall"] = "high"
    refused = httpx.post(where, json=body, timeout=60)
    assert refused.status_code == 400
    assert "min_recall must be a number" in refused.text
    with RetrievalClient(server.target, attempts=1) as client:
        assert client.search(patch_id=known, source="s2", target="s2", min_recall=0.01)[0].patch_id == known
        with pytest.raises(UsageError, match="at most 1"):
            client.search(patch_id=known, source="s2", target="s2", min_recall=2)
