"""Telemetry of a round and the audit log: phases, bytes, stragglers, epsilon, entries."""

from __future__ import annotations

import hashlib
import json
import threading
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import REGISTRY

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.client.base import RemoteError
from eoforge.client.federation import FederationClient
from eoforge.client.silo import SiloClient
from eoforge.errors import StoreError
from eoforge.storage.objects import ObjectStore
from services.federation import telemetry
from services.federation.audit import Audit
from services.federation.identity import OPERATOR_SCOPE
from tests.federated.quadratic import spec, write_model
from tests.services.federation.helpers import ManualSilo, deltas, server_for, start_run
from tests.services.support import Signer, running


def metric(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"eoforge_federation_{name}", labels) or 0.0


def all_metrics() -> dict[str, float]:
    return {
        **{name: metric("phase_seconds_count", phase=name) for name in telemetry.PHASES},
        "up": metric("bytes_total", direction="up"),
        "down": metric("bytes_total", direction="down"),
        "accepted": metric("updates_total", verdict="accepted"),
        "rounds": metric("rounds_total"),
        "stragglers": metric("stragglers_total"),
    }


def test_a_round_leaves_its_phases_bytes_stragglers_and_epsilon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spans, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    monkeypatch.setattr(telemetry, "TRACER", provider.get_tracer("test"))
    before = all_metrics()
    with running(server_for(tmp_path / "store")) as served, FederationClient(served.target) as client:
        silos = [ManualSilo(served.target, tmp_path) for _ in range(2)]
        run = start_run(
            client, silos, tmp_path,
            policy={"rounds": 1, "min_silos": 1, "selection": pb.SELECTION_FRACTION, "fraction": 0.5,
                    "over_selection": 1.0, "evaluate_every": 1},
            privacy={"dp": pb.DP_MODE_SERVER, "clip_norm": 1.0, "noise_multiplier": 1.0},
            options={"weighting": "uniform"},
        )  # fmt: skip
        silos[0].send(run, 1, deltas())
        for silo in silos:
            while next(silo.tasks).kind != pb.TASK_KIND_EVALUATE:
                pass
            silo.client.answer(run, 1, evaluation=pb.EvaluationAnswer(samples=1))
        list(client.watch(run))
        done = client.run(run)
        client.get_model(run, str(tmp_path / "got"))
    found = {name: value - before[name] for name, value in all_metrics().items()}
    assert {name: found[name] for name in telemetry.PHASES} == dict.fromkeys(telemetry.PHASES, 1.0)
    assert (found["accepted"], found["rounds"], found["stragglers"]) == (1.0, 1.0, 1.0)
    size = done.history[0].bytes_up
    assert found["up"] == size + (tmp_path / "model.safetensors").stat().st_size
    assert found["down"] == (tmp_path / "got").stat().st_size
    assert metric("epsilon", run=run) == done.epsilon > 0

    finished = {span.name: span for span in spans.get_finished_spans()}
    assert set(finished) == {f"federation.{name}" for name in telemetry.PHASES}
    assert len({span.context.trace_id for span in finished.values()}) == 1  # one trace a round
    for span in finished.values():
        attributes: Any = span.attributes
        assert dict(attributes) == {"federation.run": run, "federation.round": 1}
        assert span.start_time is not None
        assert span.end_time is not None
        assert span.start_time <= span.end_time
    assert finished["federation.seal"].start_time >= finished["federation.collect"].start_time  # type: ignore[operator]
    assert finished["federation.reduce"].end_time == finished["federation.publish"].start_time


def test_audit_entries_are_chained_and_wait_for_a_store_that_is_down(tmp_path: Path) -> None:
    store = ObjectStore(str(tmp_path))
    audit, down = Audit(store), [True]
    original = store.put_if_absent

    def put(key: str, data: bytes) -> bool:
        if down:
            raise StoreError("no answer")
        return original(key, data)

    store.put_if_absent = put  # type: ignore[method-assign]
    audit.note("alice", "create", "run")
    audit._pool.submit(lambda: None).result()
    assert not list(tmp_path.rglob("*.json"))
    down.clear()
    audit.note("bob", "cancel", "run", "denied")
    audit.close()
    written = [path.read_bytes() for path in sorted(tmp_path.rglob("*.json"))]
    entries = [json.loads(data) for data in written]
    assert [(e["number"], e["actor"], e["action"], e["outcome"]) for e in entries] == [
        (1, "alice", "create", "done"),
        (2, "bob", "cancel", "denied"),
    ]
    assert [e["previous"] for e in entries] == ["", hashlib.sha256(written[0]).hexdigest()]
    assert entries[0]["follows"] == ""


def test_the_end_of_a_life_is_vouched_for_by_the_next_one(tmp_path: Path) -> None:
    """A chain shows what is missing inside it; that its end, or all of it, was cut off, only what comes after does."""
    store = ObjectStore(str(tmp_path))
    for operator in ("alice", "bob"):
        audit = Audit(store)
        audit._folder = f"audit/of-{operator}"  # named by the second it began, and both began in this one
        for action in ("create", "cancel"):
            audit.note(operator, action, "run")
        audit.close()
    end = tmp_path / "audit/of-alice/000000002.json"
    first = json.loads((tmp_path / "audit/of-bob/000000001.json").read_bytes())
    assert (first["follows"], first["previous"]) == (
        "audit/of-alice/000000002.json",
        hashlib.sha256(end.read_bytes()).hexdigest(),
    )
    assert "follows" not in json.loads((tmp_path / "audit/of-bob/000000002.json").read_bytes())


def test_what_waits_for_a_store_keeps_its_order_when_it_is_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest stay out, and are in the log: to drop the oldest would take out one that is just being written."""
    monkeypatch.setattr("services.federation.audit.MAX_WAITING", 2)
    store, go = ObjectStore(str(tmp_path)), threading.Event()
    original = store.put_if_absent

    def put(key: str, data: bytes) -> bool:
        assert go.wait(60)
        return original(key, data)

    store.put_if_absent = put  # type: ignore[method-assign]
    audit = Audit(store)
    for subject in ("1", "2", "3"):
        audit.note("alice", "create", subject)
    go.set()
    audit.close()
    assert [json.loads(path.read_bytes())["subject"] for path in sorted(tmp_path.rglob("*.json"))] == ["1", "2"]


def test_repeated_registrations_and_refusals_do_not_fill_the_store(tmp_path: Path) -> None:
    signer = Signer(tmp_path)
    with running(server_for(tmp_path / "store", **signer.settings)) as served:
        token = signer.token("berlin", scope="federation:silo")
        with SiloClient(served.target, attempts=1, token=token) as silo:
            for samples in (3, 3, 3, 4, 3, 4):
                silo.register(samples=samples)
            for _ in range(3):
                silo.leave()
        with FederationClient(served.target, attempts=1, token=signer.token("a", scope=OPERATOR_SCOPE)) as alice:
            model = alice.put_model(write_model(tmp_path / "model"))
            alice.create_run(spec(model, silos=["berlin"]), "hers")
        with FederationClient(served.target, attempts=1, token=signer.token("b", scope=OPERATOR_SCOPE)) as bob:
            for _ in range(5):
                with pytest.raises(RemoteError):
                    bob.run("hers")
    entries = [json.loads(path.read_text()) for path in sorted((tmp_path / "store" / "audit").rglob("*.json"))]
    assert [(e["actor"], e["action"], e["outcome"]) for e in entries] == [
        ("berlin", "register", "done"),
        ("berlin", "leave", "done"),
        ("a", "create", "done"),
        ("b", "read", "denied"),
    ]
