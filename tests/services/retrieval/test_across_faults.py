"""Owners that fail, hang, break off or lie: each is named in the answer, and the rest comes in time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from eoforge.api.retrieval.v1 import retrieval_pb2 as pb
from eoforge.client import RemoteError, RetrievalClient
from eoforge.client.base import stream_error
from tests.services._runtime.test_process import ports
from tests.services.retrieval.owners import (
    EACH,
    LONG_S,
    Owners,
    across,
    good_answer,
    hub,
    make_owners,
    pretender,
    query,
    upstream,
)
from tests.services.support import until


@pytest.fixture(scope="module")
def owners(tmp_path_factory: pytest.TempPathFactory) -> Owners:
    return make_owners(tmp_path_factory.mktemp("owners"))


def million(request: pb.SearchRequest, _: Any) -> bytes:
    hit = good_answer(request, "million").SerializeToString()
    return hit * (1_000_000 // 2)


def unsorted(request: pb.SearchRequest, _: Any) -> pb.SearchResponse:
    answer = good_answer(request, "unsorted")
    answer.hits[1].distance = 0
    return answer


def of_another(request: pb.SearchRequest, _: Any) -> pb.SearchResponse:
    answer = good_answer(request, "of-another")
    answer.hits[1].owner = "south"
    return answer


def silent(_: pb.SearchRequest, context: grpc.ServicerContext) -> pb.SearchResponse:
    ended = threading.Event()
    context.add_callback(ended.set)
    ended.wait(LONG_S)
    return pb.SearchResponse()


def endless(request: pb.SearchRequest, context: grpc.ServicerContext) -> Iterator[pb.SearchResponse]:
    while context.is_active():
        yield good_answer(request, "endless")


def broken_details(_: pb.SearchRequest, context: grpc.ServicerContext) -> None:
    context.set_trailing_metadata((("grpc-status-details-bin", b"\xff\xff"),))
    context.abort(grpc.StatusCode.INTERNAL, "see /etc/passwd on host-7")


HOSTILE: dict[str, tuple[Any, str, str]] = {
    "million": (million, "INVALID", "expected at most 2052096 bytes"),
    "hollow": (lambda *_: b"\x0a\x00" * 1_000_000, "INVALID", "expected at most 24576 bytes for 10 hits"),
    "unsorted": (unsorted, "INVALID", "ordered by"),
    "of-another": (of_another, "INVALID", "expected a patch of of-another; got one of 'south'"),
    "noise": (lambda *_: b"\xff\xff", "INVALID", "expected a SearchResponse"),
    "broken": (broken_details, "INVALID", "the call ended with INTERNAL"),
    "silent": (silent, "LATE", "no answer within 1 s"),
    "endless": (endless, "LATE", "no answer within 1 s"),
}
"""Owner -> how it answers, and the status and words that it gets."""


def test_hostile_owners_are_refused_by_name_and_the_rest_is_returned(owners: Owners) -> None:
    with ExitStack() as stack:
        asked = []
        for name, (answer, status, _) in HOSTILE.items():
            address = stack.enter_context(pretender(answer, many=answer is endless))
            seconds = 1.0 if status == "LATE" else LONG_S
            asked.append(upstream(name, address, deadline_seconds=seconds))
        found, said = across(stack.enter_context(hub(owners, *asked)), owners)
    assert {name: status for name, (status, _) in said.items()} == {
        **{name: status for name, (_, status, _) in HOSTILE.items()},
        "south": "ANSWERED",
    }
    for name, (_, _, words) in HOSTILE.items():
        assert words in said[name][1], name
    assert "passwd" not in str(found)
    assert found.partial
    assert not found.exact, "what an owner did not send may be nearer"
    assert [hit.owner for hit in found.hits] == ["south"] * EACH


def test_an_owner_that_hangs_is_not_asked_again_and_again(owners: Owners) -> None:
    calls: list[str] = []
    answers = threading.Event()

    def hangs(request: pb.SearchRequest, context: grpc.ServicerContext) -> pb.SearchResponse:
        calls.append(context.peer())
        return good_answer(request, "hangs") if answers.is_set() else silent(request, context)

    patience = {"deadline_seconds": 0.2, "skip_after": 2, "skip_seconds": 1.0}
    with pretender(hangs) as address, hub(owners, upstream("hangs", address, **patience)) as stub:
        for _ in range(2):
            assert "no answer within 0.2 s" in across(stub, owners)[1]["hangs"][1]
        for _ in range(3):
            found, said = across(stub, owners)
            assert said["hangs"][0] == "LATE"
            assert said["hangs"][1].startswith("not asked: no answer came in time 2 times in a row")
            assert (found.partial, len(found.hits)) == (True, EACH)
        assert len(calls) == 2
        answers.set()
        until(lambda: across(stub, owners)[1]["hangs"][0] == "ANSWERED")
        assert len(calls) == 3, "one probe"
        assert across(stub, owners)[1]["hangs"] == ("ANSWERED", "")


def test_a_hasty_caller_does_not_close_the_way_to_an_owner(owners: Owners) -> None:
    with pretender(silent) as address, hub(owners, upstream("slow", address, skip_after=1)) as stub:
        for _ in range(2):
            response = stub.Search(query(owners, "s1", "s2", across=True), timeout=0.5)
            assert [o.message for o in response.owners if o.owner == "slow"] == [
                "no answer within 30 s or the caller's time"
            ]


def test_a_client_survives_malformed_details_of_errors() -> None:
    refused = pytest.raises(RemoteError, match="answered INTERNAL")
    with pretender(broken_details) as address, RetrievalClient(address, attempts=1) as client, refused:
        client.search(code=bytes(8), target="s2")
    error = pb.Error(code=4711, message="made up")
    error.retry_delay.seconds = 2**62
    made = stream_error(error)
    assert (made.code, made.retry_after, str(made)) == ("UNKNOWN", None, "made up")


def test_retries_and_hedges_happen_within_the_deadline(owners: Owners) -> None:
    calls: list[str] = []

    def fails_once(request: pb.SearchRequest, context: grpc.ServicerContext) -> pb.SearchResponse:
        calls.append(context.peer())
        if len(calls) == 1:
            context.abort(grpc.StatusCode.UNAVAILABLE, "for a moment")
        return good_answer(request, "shaky")

    with pretender(fails_once) as address, hub(owners, upstream("shaky", address)) as stub:
        assert across(stub, owners)[1]["shaky"] == ("ANSWERED", "")
    assert len(calls) == 2

    is_up = threading.Event()

    def is_down(request: pb.SearchRequest, context: grpc.ServicerContext) -> pb.SearchResponse:
        calls.append(context.peer())
        if not is_up.is_set():
            context.abort(grpc.StatusCode.UNAVAILABLE, "for long")
        return good_answer(request, "down")

    with pretender(is_down) as address, hub(owners, upstream("down", address)) as stub:
        counts = []
        for change in (is_up.clear, is_up.clear, is_up.set, is_up.clear):
            change()
            calls.clear()
            across(stub, owners)
            counts.append(len(calls))
    assert counts == [3, 1, 1, 3], "searches do not wait for an owner that was gone just before"

    hedged: list[str] = []

    def hangs_once(request: pb.SearchRequest, context: grpc.ServicerContext) -> pb.SearchResponse:
        hedged.append(context.peer())
        return silent(request, context) if len(hedged) == 1 else good_answer(request, "slow")

    with pretender(hangs_once) as address, hub(owners, upstream("slow", address, hedge_seconds=0.1)) as stub:
        assert across(stub, owners)[1]["slow"] == ("ANSWERED", "")
    assert len(set(hedged)) == 2, "the second call has a connection of its own"


def test_an_answer_is_exact_where_every_owner_s_is(owners: Owners) -> None:
    def inexact(request: pb.SearchRequest, _: Any) -> pb.SearchResponse:
        answer = good_answer(request, "large")
        answer.exact, answer.recall = False, 0.95
        return answer

    def exact(request: pb.SearchRequest, _: Any) -> pb.SearchResponse:
        assert request.min_recall == 0.9
        return good_answer(
            pb.SearchRequest(
                code=request.code, bundle_id=request.bundle_id, min_recall=1, target_modality=request.target_modality
            ),
            "small",
        )

    with pretender(inexact) as large, pretender(exact) as small:
        asked = upstream("large", large), upstream("small", small)
        with hub(owners, *asked) as stub:
            found, said = across(stub, owners, min_recall=0.9)
    assert {status for status, _ in said.values()} == {"ANSWERED"}
    assert (found.exact, found.recall, found.partial) == (False, 0.95, False)


def test_an_answer_with_rounded_distances_is_not_exact(owners: Owners) -> None:
    def rounds(request: pb.SearchRequest, _: Any) -> pb.SearchResponse:
        answer = good_answer(request, "coarse")
        answer.distance_step = 4
        answer.hits[0].distance, answer.hits[1].distance = 4, 8
        return answer

    with pretender(rounds) as address, hub(owners, upstream("coarse", address)) as stub:
        found, said = across(stub, owners)
    assert said["coarse"] == ("ANSWERED", "")
    assert (found.exact, found.recall, found.partial) == (False, 1.0, False)


def test_a_token_is_sent_and_read_again_when_it_changes(owners: Owners, tmp_path: Path) -> None:
    seen: list[str] = []

    def notes(request: pb.SearchRequest, context: grpc.ServicerContext) -> pb.SearchResponse:
        seen.append(dict(context.invocation_metadata()).get("authorization", ""))
        assert (request.visited, request.WhichOneof("query")) == (["south"], "code")
        return good_answer(request, "north")

    token = tmp_path / "token"
    token.write_text("first\n")
    with pretender(notes) as address, hub(owners, upstream("north", address, token_file=token)) as stub:
        across(stub, owners)
        token.write_text("second, longer")
        across(stub, owners)
    assert seen == ["Bearer first", "Bearer second, longer"]
    with pytest.raises(ValueError, match="in the clear"):
        upstream("north", "north.example:80", token_file=token, tls=False)


def test_the_caller_s_time_bounds_the_owners(owners: Owners) -> None:
    with pretender(silent) as address, hub(owners, upstream("slow", address)) as stub:
        response = stub.Search(query(owners, "s1", "s2", across=True), timeout=1.0)
    late, answered = pb.OWNER_STATUS_LATE, pb.OWNER_STATUS_ANSWERED
    assert [(o.owner, o.status) for o in response.owners] == [("slow", late), ("south", answered)]
    assert response.partial


@pytest.mark.slow
def test_an_owner_that_is_killed_in_mid_query_is_named_and_the_rest_comes_in_time(owners: Owners) -> None:
    """A process of its own takes seconds to start; only a real one breaks its connections as a crash does."""
    environment = {
        "EOFORGE_CODES_URI": owners.by_name["north"].codes,
        "EOFORGE_OWNER": "north",
        "EOFORGE_PARTNERS": json.dumps([{"caller": "*", "fields": "all"}]),
        "EOFORGE_PORT": "0",
        "EOFORGE_REST_PORT": "0",
        "EOFORGE_DRAIN_NOTICE_SECONDS": "0",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.services.retrieval.owner_process"],
        env={**os.environ, **environment},
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    )
    try:
        address = f"127.0.0.1:{ports(process)['port']}"
        with hub(owners, upstream("north", address)) as stub, ThreadPoolExecutor(1) as pool:
            assert across(stub, owners)[1] == {"north": ("ANSWERED", ""), "south": ("ANSWERED", "")}
            process.send_signal(signal.SIGSTOP)  # it has the query then, and has not answered
            asked = pool.submit(across, stub, owners)
            time.sleep(0.3)
            assert not asked.done()
            process.kill()
            found, said = asked.result(LONG_S)
        assert said == {"north": ("UNREACHABLE", "it cannot be reached"), "south": ("ANSWERED", "")}
        assert (found.partial, len(found.hits)) == (True, EACH)
    finally:
        process.kill()
        process.wait()
