"""What an owner lets others have: fields, filters, number of hits, rate, precision; an audit line per query."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

from eoforge.api.retrieval.v1 import retrieval_pb2 as pb
from eoforge.api.retrieval.v1 import retrieval_pb2_grpc
from eoforge.errors import UsageError
from eoforge.logs import configure_logs
from services.retrieval.owners import Partner
from services.retrieval.partners import reduced
from services.retrieval.settings import RetrievalSettings
from tests.services.conftest import server_for, settings_for
from tests.services.retrieval.fixtures import BITS, FIRST, RetrievalFixture
from tests.services.support import Running, Signer, details, running

CODE = bytes(range(BITS // 8))
HUB, STRICT, FREQUENT = "hub", "strict", "frequent"
PARTNERS = (
    Partner(caller=HUB, fields="all", filters="all", max_hits=1000, quota_per_second=None),
    Partner(caller=STRICT, fields=("country",), filters=("countries",), max_hits=5, distance_step=8),
    Partner(caller=FREQUENT, quota_per_second=0.001, quota_burst=2),
)


@pytest.fixture(scope="module")
def server(archive: RetrievalFixture, signer: Signer) -> Iterator[Running]:
    values: dict[str, Any] = {"owner": "north", "partners": PARTNERS, **signer.settings}
    with running(server_for(archive, **values)) as run:
        yield run


@contextmanager
def caller(server: Running, signer: Signer, name: str) -> Iterator[Callable[..., Any]]:
    """Function that makes a call of the service under a name."""
    metadata = (("authorization", f"Bearer {signer.token(name)}"),)
    with grpc.insecure_channel(server.target) as channel:
        stub = retrieval_pb2_grpc.RetrievalServiceStub(channel)
        yield lambda call, request: getattr(stub, call)(request, metadata=metadata)


def question(**values: Any) -> pb.SearchRequest:
    defaults = {"code": CODE, "target_modality": pb.MODALITY_S2, "visited": ["south"], "page_size": 5}
    return pb.SearchRequest(**(defaults | values))


def test_only_what_may_leave_leaves(server: Running, signer: Signer) -> None:
    with caller(server, signer, HUB) as hub, caller(server, signer, STRICT) as strict:
        whole = hub("Search", question(page_size=FIRST))
        few = strict("Search", question())
    assert (whole.owner, whole.candidates, len(whole.hits)) == ("north", FIRST, FIRST)
    assert all(hit.owner == "north" and hit.patch.labels and hit.patch.mgrs_tile for hit in whole.hits)
    assert (few.candidates, few.next_page_token, few.distance_step) == (0, "", 8)
    assert {field.name for hit in few.hits for field, _ in hit.patch.ListFields()} == {"patch_id", "country"}
    exact = {hit.patch.patch_id: hit.distance for hit in whole.hits}
    nearest = [hit.patch.patch_id for hit in whole.hits[:5]]
    assert {hit.patch.patch_id for hit in few.hits} == set(nearest)
    assert [h.distance for h in few.hits] == sorted((exact[h.patch.patch_id] + 4) // 8 * 8 for h in few.hits)
    order = [(hit.distance, hit.patch.patch_id) for hit in few.hits]
    assert order == sorted(order), "the order does not tell what the distances do not"


def test_no_field_of_a_hit_leaves_that_is_not_named() -> None:
    """Codes of hits left with the answer; a field that is added to the API is as hidden as they are."""
    hit = pb.Hit(modality=pb.MODALITY_S2, distance=30, thumbnail_png=b"x", code=CODE, owner_address="here:1")
    hit.patch.patch_id, hit.patch.country, hit.patch.mgrs_tile = "p", "Finland", "35VNK"
    (left,) = reduced(pb.SearchResponse(hits=[hit], query_code=CODE), PARTNERS[1], "north").hits
    assert {field.name for field, _ in left.ListFields()} == {"patch", "modality", "distance", "owner"}
    assert {field.name for field, _ in left.patch.ListFields()} == {"patch_id", "country"}


@pytest.mark.parametrize(
    ("request_", "field", "words"),
    [
        (question(page_size=6), "page_size", "at most 5 hits; asked for 6"),
        (question(page_size=0), "page_size", "at most 5 hits; asked for 10"),
        (question(filter=pb.Filter(splits=["train"])), "filter.splits", "it does by countries"),
        (question(filter=pb.Filter(exclude_snow=True)), "filter.exclude_snow", "does not filter by exclude_snow"),
        (question(across=True), "across", "not passed on"),
        (question(include_thumbnails=True), "include_thumbnails", "not for other owners"),
        (question(include_codes=True), "include_codes", "not for other owners"),
        (question(page_token="x"), "page_token", "not for other owners"),
        (question(code=None, patch_id="x"), "code", "is a code; got none"),
        (question(visited=["south", "north"]), "visited", "the way south > north > north"),
        (question(visited=["South!"]), "visited", "names of owners"),
        (question(visited=["south"] * 9), "visited", "may have passed 8 owners; this one names 9"),
    ],
)
def test_more_is_refused_by_name(
    server: Running, signer: Signer, request_: pb.SearchRequest, field: str, words: str
) -> None:
    with caller(server, signer, STRICT) as strict, pytest.raises(grpc.RpcError) as refused:
        strict("Search", request_)
    assert words in refused.value.details()
    assert details(refused.value)["fields"][0][0] == field


def test_an_allowed_filter_filters(server: Running, signer: Signer) -> None:
    with caller(server, signer, STRICT) as strict, caller(server, signer, HUB) as hub:
        country = hub("Search", question()).hits[0].patch.country
        found = strict("Search", question(filter=pb.Filter(countries=[country])))
    assert {hit.patch.country for hit in found.hits} == {country}


def test_the_rate_is_counted_by_caller(server: Running, signer: Signer) -> None:
    with caller(server, signer, FREQUENT) as frequent, caller(server, signer, HUB) as hub:
        for _ in range(2):
            frequent("Search", question())
        with pytest.raises(grpc.RpcError) as refused:
            frequent("Search", question())
        assert details(refused.value)["reason"] == "QUOTA_EXCEEDED"
        assert details(refused.value)["retry_after"] > 0
        assert hub("Search", question()).hits


def test_a_partner_cannot_leave_the_mark_out_or_make_other_calls(server: Running, signer: Signer) -> None:
    with caller(server, signer, STRICT) as strict:
        assert strict("Search", question(visited=[])).distance_step == 8
        for call, request in (
            ("GetPatch", pb.GetPatchRequest(patch_id="x")),
            ("Encode", pb.EncodeRequest()),
            ("ListIndexes", pb.ListIndexesRequest()),
        ):
            with pytest.raises(grpc.RpcError) as refused:
                strict(call, request)
            assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
        with pytest.raises(grpc.RpcError) as refused:
            list(strict("SearchStream", iter([pb.SearchStreamRequest(search=question())])))
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
    body = {"inputs": [{"name": "code", "shape": [1, len(CODE)], "datatype": "UINT8", "data": list(CODE)}]}
    headers = {"authorization": f"Bearer {signer.token(STRICT)}"}
    url = f"{server.rest}/v2/models/eoforge-retrieval-search-s2/infer"
    with pytest.raises(urllib.error.HTTPError) as denied:
        urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), headers), timeout=30)
    assert denied.value.code == 403


def test_a_stranger_may_not_ask_for_another_owner_and_people_keep_their_rights(server: Running, signer: Signer) -> None:
    with caller(server, signer, "alice") as alice:
        with pytest.raises(grpc.RpcError) as refused:
            alice("Search", question())
        assert details(refused.value)["reason"] == "PERMISSION_DENIED"
        assert len(alice("Search", question(visited=[], page_size=FIRST)).hits) == FIRST
        assert alice("ListIndexes", pb.ListIndexesRequest()).indexes
        (answer,) = alice("SearchStream", iter([pb.SearchStreamRequest(search=question())]))
        assert "visited belongs to Search" in answer.error.message


def test_every_query_of_another_owner_leaves_a_line(
    server: Running, signer: Signer, capfd: pytest.CaptureFixture[str]
) -> None:
    import logging

    configure_logs(as_json=True, level=logging.INFO)
    try:
        with caller(server, signer, STRICT) as strict:
            strict("Search", question())
            with pytest.raises(grpc.RpcError):
                strict("Search", question(filter=pb.Filter(splits=["train"]), page_size=3))
        with caller(server, signer, "alice") as alice, pytest.raises(grpc.RpcError):
            alice("Search", question())
    finally:
        configure_logs(as_json=True, level=logging.WARNING)
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines() if line.startswith("{")]
    kept = ("caller", "visited", "target", "code", "filters", "asked", "hits", "outcome")
    assert [[line[key] for key in kept] for line in lines if line["event"] == "query of another owner"] == [
        [STRICT, ["south"], "s2", CODE.hex(), [], 5, 5, "OK"],
        [STRICT, ["south"], "s2", CODE.hex(), ["splits"], 3, 0, "INVALID_ARGUMENT"],
        ["alice", ["south"], "s2", CODE.hex(), [], 5, 0, "PERMISSION_DENIED"],
    ]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"partners": PARTNERS}, "need EOFORGE_OWNER"),
        ({"partners": PARTNERS, "owner": "north"}, "names callers, whom only credentials tell apart"),
        ({"partners": (Partner(caller="*"),) * 2, "owner": "north"}, "names the caller [*] twice"),
        ({"partners": (Partner(caller="*"),), "owner": "north", "log_level": "warning"}, "EOFORGE_LOG_LEVEL=warning"),
    ],
)
def test_contradictory_settings_are_refused(archive: RetrievalFixture, values: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        settings_for(archive, **values).require_consistent()


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("PARTNERS", '[{"caller": "a", "fields": ["contry"]}]', "unknown name 'contry'; did you mean country"),
        ("PARTNERS", '[{"caller": "a", "filters": ["country"]}]', "unknown name 'country'; did you mean countries"),
        ("PARTNERS", '[{"caller": "a", "max_hits": 1001}]', "EOFORGE_PARTNERS_0_MAX_HITS"),
        ("PARTNERS", '[{"caller": "a", "rate": 5}]', "EOFORGE_PARTNERS_0_RATE"),
        ("PARTNERS", "{}", "expected a list in JSON"),
        ("UPSTREAMS", "[{", "expected a list in JSON"),
        ("UPSTREAMS", '[{"owner": "No Name", "address": "a:1"}]', "EOFORGE_UPSTREAMS_0_OWNER"),
        ("UPSTREAMS", '[{"owner": "a", "address": "https://a"}]', "expected HOST:PORT; got 'https://a'"),
        ("UPSTREAMS", '[{"owner": "a", "address": "me:SECRET@a:1"}]', "expected HOST:PORT; got a text with a user"),
        ("UPSTREAMS", "[" * 100_000, "expected a list in JSON"),
        ("UPSTREAMS", '[{"owner": "a", "address": "a:1", "cert_file": "x"}]', "needs both cert_file and key_file"),
        ("UPSTREAMS", '[{"owner": "a", "address": "a:1", "deadline_seconds": 1e9}]', "DEADLINE_SECONDS"),
    ],
)
def test_malformed_settings_are_refused(monkeypatch: pytest.MonkeyPatch, variable: str, value: str, words: str) -> None:
    monkeypatch.setenv(f"EOFORGE_{variable}", value)
    with pytest.raises(UsageError, match=words):
        RetrievalSettings(codes_uri="x")
