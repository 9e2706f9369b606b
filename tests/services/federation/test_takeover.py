"""Takeover between two coordinators on one store."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.client.base import RemoteError
from eoforge.client.federation import FederationClient
from eoforge.client.silo import SiloClient
from eoforge.errors import StoreError
from tests.federated.quadratic import Quadratic, spec, write_model
from tests.services.federation.helpers import JOIN_S, SiloThread, coordinator_of, server_for, wait_for
from tests.services.support import Running, running

LEASE = {"lease_seconds": 1.0}


def stop_renewals(served: Running) -> None:
    """Makes every renewal of the lead fail, as if the store were down."""

    def renew() -> bool:
        raise StoreError("no answer")

    coordinator_of(served)._leadership.renew = renew  # type: ignore[method-assign]


def health(served: Running) -> tuple[bool, ...]:
    """Whether the process, the operators' and the silos' service are said to be served."""
    names = ("", *(f"eoforge.api.federation.v1.{name}" for name in ("FederationService", "SiloService")))
    with grpc.insecure_channel(served.target) as channel:
        ask = health_pb2_grpc.HealthStub(channel).Check
        answers = [ask(health_pb2.HealthCheckRequest(service=name), timeout=JOIN_S) for name in names]
    return tuple(answer.status == health_pb2.HealthCheckResponse.SERVING for answer in answers)


def test_silos_and_operators_follow_the_lead_by_themselves(tmp_path: Path) -> None:
    store, gate = tmp_path / "store", threading.Event()
    held = Quadratic(before=lambda task: gate.wait(JOIN_S) and None)
    with (
        running(server_for(store, instance="one", **LEASE)) as one,
        running(server_for(store, instance="two", **LEASE)) as two,
    ):
        both = f"{one.target},{two.target}"
        runners = [
            SiloThread(both, "a", tmp_path, until="moved", attempts=40),
            SiloThread(both, "b", tmp_path, held, until="moved", attempts=40),
        ]
        with FederationClient(both, attempts=40) as client:
            client.create_run(spec(client.put_model(write_model(tmp_path / "model"))), "moved")
            wait_for(client, "moved", lambda event: event.WhichOneof("event") == "accepted")
            stop_renewals(one)
            wait_for(client, "moved", lambda event: event.lease_taken.holder == "two")
            gate.set()
            assert [runner.join() for runner in runners] == [pb.RUN_STATUS_FINISHED] * 2
            # What "one" had accepted was not asked for again.
            assert runners[0].trainer.trained == held.trained == [0, 1]
            assert client.run("moved").holder == "two"
        assert health(one) == (True, False, False)  # a balancer that asks for the service leads nobody there
        assert health(two) == (True, True, True)
        # "one" may not act, and says so with the moment to come back.
        with SiloClient(one.target, silo_id="c", attempts=1) as late, pytest.raises(RemoteError) as caught:
            late.register(samples=1)
        assert (caught.value.remote_reason, caught.value.code) == ("NOT_LEADER", "UNAVAILABLE")
        assert caught.value.retry_after


def test_a_coordinator_that_stands_by_takes_neither_runs_nor_silos(tmp_path: Path) -> None:
    store = tmp_path / "store"
    with running(server_for(store, instance="one")) as one, running(server_for(store, instance="two")) as two:
        with FederationClient(one.target) as client:
            model = client.put_model(write_model(tmp_path / "model"))
            client.create_run(spec(model), "here")

        def refused(call: Any) -> str:
            with pytest.raises(RemoteError) as caught:
                call()
            return caught.value.remote_reason

        with FederationClient(two.target, attempts=1) as other, SiloClient(two.target, silo_id="a", attempts=1) as a:
            assert refused(lambda: other.create_run(spec(model), "there")) == "NOT_LEADER"
            assert refused(lambda: other.cancel("here")) == "NOT_LEADER"
            assert refused(lambda: a.register(samples=1)) == "NOT_LEADER"
            assert refused(lambda: list(a.tasks())) == "NOT_LEADER"
            assert refused(a.leave) == "NOT_LEADER"
            # It knows no silos: to list none, or to count none, would be wrong.
            assert refused(lambda: list(other.silos())) == "NOT_LEADER"
            assert refused(lambda: other.estimate(pb.EstimateRunRequest(spec=spec(model)))) == "NOT_LEADER"
            assert other.run("here").holder == "one"  # reading is for all
        assert health(one) == (True, True, True)
        assert health(two) == (True, False, False)  # ready to take over, which is all that Kubernetes asks
