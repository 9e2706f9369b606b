"""Page Federation: live tables and runs by server-sent events, steering of runs, and a service that is down."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.client import FederationClient
from services.console.live import MAX_PER_CALLER, STREAMS
from services.federation.identity import OPERATOR_SCOPE
from tests.console.console_support import console_with, csrf_of, refused, words_of
from tests.federated.quadratic import spec, write_model
from tests.services.federation.helpers import ManualSilo, deltas, server_for, start_run
from tests.services.support import Running, Signer, running, until

EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(server_for(tmp_path_factory.mktemp("store"), max_runs=50)) as run:
        yield run


@pytest.fixture
def client(served: Running) -> Iterator[FederationClient]:
    with FederationClient(served.target, attempts=2) as made:
        yield made


@pytest.fixture
def visitor(served: Running) -> Iterator[httpx.Client]:
    with console_with(federation_target=served.target) as client:
        yield client


def messages(stream: httpx.Response) -> Iterator[tuple[str, dict[str, Any]]]:
    """Kind and content of each message of a stream."""
    kind = ""
    for line in stream.iter_lines():
        if line.startswith("event: "):
            kind = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield kind, json.loads(line.removeprefix("data: "))


def first(found: Iterator[tuple[str, dict[str, Any]]], kind: str, words: str) -> dict[str, Any]:
    """First message of a kind whose content has these words."""
    return next(content for name, content in found if name == kind and words in json.dumps(content))


def test_runs_and_silos_are_listed(
    visitor: httpx.Client, served: Running, client: FederationClient, tmp_path: Path
) -> None:
    silo = ManualSilo(served.target, tmp_path)
    run = start_run(client, [silo], tmp_path)
    text = words_of(visitor.get("/federation"))
    assert f"{run} running 1 of 2 open 0 of 1" in text
    assert f"{silo.name} yes s2 10" in text
    client.cancel(run)


def test_the_table_changes_while_the_page_is_open(
    visitor: httpx.Client, served: Running, client: FederationClient, tmp_path: Path
) -> None:
    silo = ManualSilo(served.target, tmp_path)
    run = start_run(client, [silo], tmp_path)
    with visitor.stream("GET", "/federation/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        found = messages(stream)
        assert run in first(found, "table", "runs")["html"]
        silo.send(run, 1, deltas())
        changed = first(
            found, "table", f'/federation/runs/{run}\\">{run}</a></th>\\n<td><span class=\\"state state-running'
        )
        while ">2 of 2</td>" not in changed["html"]:
            changed = first(found, "table", run)
        client.cancel(run, "enough")
        assert first(found, "table", "enough")["name"] == "runs"
    until(lambda: STREAMS.open == 0)


def test_a_run_streams_its_journal_its_state_and_its_curves(
    visitor: httpx.Client, served: Running, client: FederationClient, tmp_path: Path
) -> None:
    silo = ManualSilo(served.target, tmp_path)
    run = start_run(client, [silo], tmp_path)
    assert "Pause" in words_of(visitor.get(f"/federation/runs/{run}"))
    with visitor.stream("GET", f"/federation/runs/{run}/events") as stream:
        found = messages(stream)
        assert first(found, "line", "created")["sequence"] == 1
        silo.send(run, 1, deltas(), metrics={"loss": 0.25})
        assert silo.name in first(found, "line", "accepted")["text"]
        charts = first(found, "charts", "loss")["charts"]
        assert charts[0]["curves"] == [{"name": "training", "x": [1], "y": [0.25]}]
        assert next(silo.tasks).round == 2
        silo.send(run, 2, deltas())
        first(found, "state", "state-finished")
        first(found, "end", "")
        assert list(found) == []
    done = visitor.get(f"/federation/runs/{run}")
    assert "The run has ended" in words_of(done)
    assert "/pause" not in done.text
    assert visitor.get(f"/federation/runs/{run}/curves").json()["charts"] == charts


def test_a_caller_has_a_bounded_number_of_streams(visitor: httpx.Client) -> None:
    with ExitStack() as stack:
        for _ in range(MAX_PER_CALLER):
            assert stack.enter_context(visitor.stream("GET", "/federation/events")).status_code == 200
        answer = visitor.get("/federation/events")
        refused(answer, 429, "live pages may be open at the same time")
        assert int(answer.headers["retry-after"]) >= 1
    until(lambda: STREAMS.open == 0)
    with visitor.stream("GET", "/federation/events") as again:
        assert again.status_code == 200


def test_a_console_that_ends_ends_its_streams(served: Running) -> None:
    """It would otherwise wait for pages that stay open: ``running`` fails if it does not end in a minute."""
    with ExitStack() as pages:
        with console_with(federation_target=served.target, drain_seconds=600.0) as visitor:
            other = pages.enter_context(httpx.Client(base_url=visitor.base_url, timeout=60.0))
            stream = pages.enter_context(other.stream("GET", "/federation/events"))
            found = messages(stream)
            assert next(found)[0] == "table"
        assert {kind for kind, _ in found} <= {"table"}, "the stream ended as it should"


def test_a_run_is_paused_resumed_and_cancelled_by_its_forms(
    visitor: httpx.Client, served: Running, client: FederationClient, tmp_path: Path
) -> None:
    silo = ManualSilo(served.target, tmp_path)
    run = start_run(client, [silo], tmp_path)
    for action, words, status in (
        ("pause", "The run is paused", pb.RUN_STATUS_PAUSED),
        ("resume", "The run goes on", pb.RUN_STATUS_RUNNING),
        ("cancel", "The run was cancelled", pb.RUN_STATUS_CANCELLED),
    ):
        form = csrf_of(visitor.get(f"/federation/runs/{run}")) | {"action": action, "reason": EVIL}
        answer = visitor.post(f"/federation/runs/{run}", data=form, follow_redirects=True)
        assert words in words_of(answer)
        assert EVIL not in answer.text
        assert client.run(run).status == status
    again = visitor.post(f"/federation/runs/{run}", data=form | {"action": "pause"})
    refused(again, 409, "has ended")


def test_a_form_without_its_token_changes_nothing(
    visitor: httpx.Client, served: Running, client: FederationClient, tmp_path: Path
) -> None:
    silo = ManualSilo(served.target, tmp_path)
    run = start_run(client, [silo], tmp_path)
    visitor.get("/federation")
    for form in ({"action": "cancel"}, {"action": "cancel", "csrf": "x" * 43}):
        refused(visitor.post(f"/federation/runs/{run}", data=form), 403, "nothing was changed")
    form = csrf_of(visitor.get(f"/federation/runs/{run}"))
    foreign = {"origin": "https://elsewhere.example"}
    refused(visitor.post(f"/federation/runs/{run}", data=form | {"action": "cancel"}, headers=foreign), 403)
    refused(visitor.post(f"/federation/runs/{run}", data=form | {"action": EVIL}), 400, "action")
    assert client.run(run).status == pb.RUN_STATUS_RUNNING
    client.cancel(run)


def test_the_service_decides_who_may(tmp_path: Path) -> None:
    signer = Signer(tmp_path)
    with running(server_for(tmp_path / "store", **signer.settings)) as served:
        tokens = {name: signer.token(name, scope=OPERATOR_SCOPE) for name in ("alice", "bob")}
        with FederationClient(served.target, attempts=2, token=tokens["alice"]) as alice:
            model = alice.put_model(write_model(tmp_path / "model.safetensors"))
            run = alice.create_run(spec(model, silos=["nobody"])).run_id
            with console_with(federation_target=served.target, token=tokens["alice"]) as visitor:
                assert run in visitor.get("/federation").text
            with console_with(federation_target=served.target, token=tokens["bob"]) as visitor:
                page = visitor.get("/federation")
                assert run not in page.text
                refused(visitor.get(f"/federation/runs/{run}"), 403, "belongs to others")
                refused(visitor.get(f"/federation/runs/{run}/events"), 403, "belongs to others")
                form = csrf_of(page) | {"action": "pause"}
                refused(visitor.post(f"/federation/runs/{run}", data=form), 403, "belongs to others")
            assert alice.run(run).status == pb.RUN_STATUS_RUNNING
        with console_with(federation_target=served.target) as visitor:
            refused(visitor.get("/federation"), 401)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/federation/runs/absent", 404),
        ("/federation/runs/absent/events", 404),
        ("/federation/runs/absent/curves", 404),
        ("/federation/runs/%3Cscript%3Ealert(1)%3C%2Fscript%3E", 404),
        ("/federation/runs/%3Cscript%3E", 400),
        (f"/federation/runs/absent/events?after={10**30}", 400),
    ],
)
def test_unknown_runs_are_clear_pages(visitor: httpx.Client, path: str, status: int) -> None:
    answer = visitor.get(path)
    refused(answer, status)
    assert "<script>" not in answer.text.partition("<main")[2]


def test_a_federation_that_is_down_is_a_clear_page(tmp_path: Path) -> None:
    with running(server_for(tmp_path / "store")) as served:
        target = served.target
        with console_with(federation_target=target) as visitor:
            assert visitor.get("/federation").status_code == 200
    with console_with(federation_target=target) as visitor:
        for path in ("/federation", "/federation/runs/one", "/federation/runs/one/events"):
            refused(visitor.get(path), 503, "cannot be reached at the moment")
        with visitor.stream("GET", "/federation/events") as stream:
            assert "cannot be reached" in first(messages(stream), "problem", "")["text"]
        assert target not in visitor.get("/federation").text
    with console_with() as visitor:
        refused(visitor.get("/federation"), 404, "was given no federation service")
